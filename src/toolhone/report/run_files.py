"""The files of a run folder that a report is drawn from, read and checked to belong together.

In: a run folder with metrics.json and scores/<model>.jsonl and, if they exist, train_log.jsonl, manifest.json,
config.yaml and the split that was scored. Out: one `RunFiles`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolhone.errors import UserError
from toolhone.evaluate.score import read_scores, scored_examples
from toolhone.jsonl import read_json, read_jsonl
from toolhone.records import Message, Score
from toolhone.report import wording
from toolhone.run_folder import RunFolder


@dataclass(frozen=True, slots=True)
class RunFiles:
    """A run folder, read. What a file that is absent would hold is empty or None.

    `scored_split` names the split that was scored; `prompts` has by row id the messages before the answer.
    """

    name: str
    metrics: dict[str, Any]
    scores: dict[str, list[Score]]
    train_log: list[dict[str, Any]] = field(default_factory=list)
    manifest: dict[str, Any] = field(default_factory=dict)
    config: str | None = None
    scored_split: str | None = None
    prompts: dict[str, tuple[Message, ...]] = field(default_factory=dict)

    @property
    def base_model(self) -> str | None:
        """The model that was tuned, as the config named it, if the manifest says so."""
        model = self.manifest.get("model")
        return str(model["name"]) if isinstance(model, dict) and "name" in model else None


def read_run(folder: Path) -> RunFiles:
    """Read a run folder.

    Raises:
        UserError: if metrics.json or a model's scores are missing, unreadable, or not of the same run.
    """
    run = RunFolder(folder)
    remedy = f"run `toolhone score --run {folder}`"
    metrics = _read_object(run.metrics, remedy)
    _check_metrics(metrics, run.metrics, remedy)
    scores = {name: read_scores(run.scores(name), remedy) for name in metrics["models"]}
    for name, rows in scores.items():
        counted = metrics["models"][name]["rows"]
        if len(rows) != counted:
            raise UserError(
                f"{run.metrics}: models.{name}.rows is {counted}, but {run.scores(name)} has {len(rows)} lines; "
                f"the two are of different runs, so {remedy}"
            )
    manifest = _read_object(run.manifest, remedy) if run.manifest.exists() else {}
    split = None if manifest.get("judged") is None else str(manifest["judged"])
    scored = scored_examples(run, with_tools=False) if split is not None and run.split(split).exists() else []
    return RunFiles(
        name=folder.resolve().name,
        metrics=metrics,
        scores=scores,
        train_log=[row for _, row in read_jsonl(run.train_log)] if run.train_log.exists() else [],
        manifest=manifest,
        config=run.config.read_text(encoding="utf-8") if run.config.exists() else None,
        scored_split=split,
        prompts={example.id: example.prompt for example in scored},
    )


def _read_object(path: Path, remedy: str) -> dict[str, Any]:
    value = read_json(path, remedy)
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def _check_metrics(metrics: dict[str, Any], path: Path, remedy: str) -> None:
    models = metrics.get("models")
    if not isinstance(models, dict) or not models:
        raise UserError(f"{path}: models: expected at least one model's figures; {remedy}")
    needed = ("rows", *(measure.key for measure in wording.MEASURES), "per_tool", "confusion", "by")
    for name, model in models.items():
        absent = [key for key in (*needed, "prompt_tokens", "completion_tokens", "latency_ms") if key not in model]
        if absent:
            raise UserError(
                f"{path}: models.{name}: {', '.join(absent)} missing, expected every measure of this version of "
                f"toolhone; {remedy}"
            )
