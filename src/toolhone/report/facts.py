"""Reads a run folder, and writes the sentences of its report: the verdict, the rows left out, the facts of training.

In: metrics.json and scores/<model>.jsonl and, if they exist, train_log.jsonl, manifest.json, config.yaml and the scored
split. Out: one `RunFiles`, sentences, and pairs of name and text. What the files do not record is left out, never
guessed: a manifest grows as stages finish, and older versions recorded less.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolhone.chat.serving import Serving, Target, serving
from toolhone.errors import UserError
from toolhone.evaluate.values import STRICT
from toolhone.formats import FORMATS
from toolhone.jsonl import read_json, read_jsonl
from toolhone.records import Message, Score
from toolhone.report import numbers, wording


@dataclass(frozen=True, slots=True)
class RunFiles:
    """The contents of a run folder. A file that does not exist leaves its field empty or None.

    `scored_split` names the split that was scored. `prompts` maps a row id to the messages before the answer.
    `ways` is the three-row table (`routing.ways_page`).
    """

    name: str
    metrics: dict[str, Any]
    scores: dict[str, list[Score]]
    train_log: list[dict[str, Any]] = field(default_factory=list)
    manifest: dict[str, Any] = field(default_factory=dict)
    config: str | None = None
    scored_split: str | None = None
    prompts: dict[str, tuple[Message, ...]] = field(default_factory=dict)
    ways: dict[str, Any] | None = None

    @property
    def base_model(self) -> str | None:
        """The name of the base model, as in the config. None if the manifest does not record it."""
        model = self.manifest.get("model")
        return str(model["name"]) if isinstance(model, dict) and "name" in model else None


def read_run(folder: Path) -> RunFiles:
    """Read a run folder.

    Raises:
        UserError: if metrics.json or a model's scores are missing, unreadable, or from different runs.
    """
    # Imported here because they read data and schemas, which the terminal tables do not need.
    from toolhone.evaluate.score import read_scores, scored_examples
    from toolhone.report.routing import run_ways
    from toolhone.run_folder import RunFolder

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
                f"the two come from different runs; {remedy}"
            )
    manifest = _read_object(run.manifest, remedy) if run.manifest.exists() else {}
    split = None if manifest.get("judged") is None else str(manifest["judged"])
    scored_rows = (metrics.get("provenance") or {}).get("split_sha256")
    known_rows = ((manifest.get("data") or {}).get(split) or {}).get("sha256")
    if scored_rows is not None and scored_rows != known_rows:
        raise UserError(f"{run.metrics}: {run.split(str(split))} has other rows now than when it was scored; {remedy}")
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
        ways=run_ways(folder, metrics),
    )


def _read_object(path: Path, remedy: str) -> dict[str, Any]:
    value = read_json(path, remedy)
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def _check_metrics(metrics: dict[str, Any], path: Path, remedy: str) -> None:
    models = metrics.get("models")
    if not isinstance(models, dict) or not models:
        raise UserError(f"{path}: models: expected the figures of at least one model; {remedy}")
    needed = ("rows", *(measure.key for measure in wording.MEASURES), "per_tool", "confusion", "by")
    for name, model in models.items():
        absent = [key for key in (*needed, "prompt_tokens", "completion_tokens", "latency_ms") if key not in model]
        if absent:
            raise UserError(
                f"{path}: models.{name}: {', '.join(absent)} missing; this version of toolhone needs every measure, so "
                f"{remedy}"
            )


def verdict(metrics: Mapping[str, Any]) -> str:
    """Return the result in one sentence: "base 9.5% to tuned 96.0% exact match, +86.5 points [81.0, 91.0], 200 rows".

    If base answered a sample: "base 10.0% (60 of 242 rows) to tuned 96.3% (242 rows) exact match, +86.7 points
    [78.1, 93.2] on the 60 shared rows".

    The interval is that of the difference. Without a comparison, it is the last model's own: "tuned 96.0% exact match
    [92.3, 98.0], 200 rows". If the gold is another model's answers, the sentence says agreement with that model. It
    names the policy unless that is strict.
    """
    models: dict[str, dict[str, Any]] = metrics["models"]
    *_, last = models.values()
    sampled = sample(metrics) != ""
    figures = []
    for name, label in wording.labels(models).items():
        whole = f" ({numbers.counted(models[name]['rows'], 'row')})" if sampled else ""
        figures.append(f"{name} {numbers.percent(models[name]['exact_match']['value'])}{label[len(name) :] or whole}")
    source = wording.agreement_with(models)
    measure = "exact match" if source is None else f"exact agreement with {source}"
    if policy(metrics) != STRICT:
        measure += f" under the policy {policy(metrics)}"
    if len({model["rows"] for model in models.values()}) == 1:
        rows = numbers.counted(last["rows"], "row")
    else:
        rows = " and ".join(f"{numbers.number(model['rows'])} rows ({name})" for name, model in models.items())
    points = difference(metrics, "exact_match")
    result = f"{measure}, {points}" if points else f"{measure} {numbers.interval(last['exact_match'])}".rstrip()
    return f"{' to '.join(figures)} {result}{'' if sampled else f', {rows}'}"


def policy(metrics: Mapping[str, Any]) -> str:
    """The policy that the figures were scored under."""
    return str((metrics.get("provenance") or {}).get("policy") or STRICT)


def repaired_figures(models: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the figures with repairs of each model that records them. Empty if repairs changed no text."""
    found = {name: model["repaired"] for name, model in models.items() if model.get("repaired")}
    return found if any(figures["rows"] for figures in found.values()) else {}


def escalation_figures(models: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the escalation figures of each model that has them."""
    return {name: model["escalation"] for name, model in models.items() if model.get("escalation")}


def difference(metrics: Mapping[str, Any], measure: str) -> str:
    """Return the change from the first model to the last: "+86.5 points [81.0, 91.0]".

    If one of them answered a sample, "on the 60 shared rows" follows. "" if they were not compared in this measure.
    """
    models = metrics["models"]
    first, last = next(iter(models)), list(models)[-1]
    for entry in metrics.get("compare", ()):
        if (entry["measure"], entry["first"], entry["second"]) == (measure, first, last):
            sampled = any(models[name].get("sampled_from") for name in (first, last))
            points = numbers.points(entry)
            return f"{points} on the {numbers.counted(entry['rows'], 'shared row')}" if sampled and points else points
    return ""


def sample(metrics: Mapping[str, Any]) -> str:
    """Return a note on the models that answered only a sample of the rows. "" if every model answered all rows."""
    models = metrics["models"]
    sampled = {name: model for name, model in models.items() if model.get("sampled_from")}
    asked = " and ".join(
        f"{name} answered {numbers.number(model['rows'])} of the {numbers.counted(model['sampled_from'], 'row')}"
        for name, model in sampled.items()
    )
    if not asked:
        return ""
    return (
        f"{asked}: a sample with about the same mix of turns. Its figures cover only the sample. Each difference "
        "covers the rows that both models answered."
    )


def answer_limit(run: RunFiles) -> str:
    """Return the token limit of the base model's answers in a sentence. "" if the manifest does not record it."""
    limit = run.manifest.get("stages", {}).get("predict:base", {}).get("max_new_tokens")
    return "" if limit is None else f"Answers of base are cut off after {numbers.counted(limit, 'token')}."


def formats(metrics: Mapping[str, Any]) -> str:
    """Return in which chat format each model's answers were read. "" if the metrics do not record it."""
    read = (metrics.get("provenance") or {}).get("formats") or {}
    named = {model: ", ".join(names) for model, names in read.items() if model in metrics["models"]}
    if not named:
        return ""
    if len(set(named.values())) == 1:
        return f"Calls are read in the chat format {next(iter(named.values()))}."
    return (
        "Calls are read in the chat format that each model was asked in: "
        + "; ".join(f"{model}: {names}" for model, names in named.items())
        + "."
    )


def chat(run: RunFiles) -> Iterator[tuple[str, str]]:
    """Yield the facts of the chat format that the adapter was trained in."""
    recorded = run.manifest.get("chat") or {}
    if not recorded.get("format"):
        return
    yield "Chat format", str(recorded["format"])
    template = recorded.get("template")
    parts = " and ".join(recorded.get("parts") or ())
    sources = {
        "model": "the model's own",
        "toolhone": "toolhone's",
        "both": f"the model's own turns; toolhone writes the {parts}",
    }
    if template in sources:
        yield "Chat template", sources[template]
    traits = recorded.get("traits")
    if traits:
        yield "A turn ends with", " or ".join(dict.fromkeys((traits["end_of_answer"], traits["end_of_calls"])))


def serving_commands(run: RunFiles, adapter: Mapping[str, Any]) -> tuple[Serving, ...]:
    """Return how engines serve the adapter with these settings. Empty if the run does not record its model and its chat
    format."""
    chat_format = FORMATS.get((run.manifest.get("chat") or {}).get("format", ""))
    if chat_format is None or run.base_model is None:
        return ()
    revision = run.manifest["model"].get("revision")
    return tuple(serving(chat_format, Target(run.base_model, "path/to/this/folder", adapter, revision)))


def change(before: Mapping[str, Score], after: Mapping[str, Score]) -> dict[str, int]:
    """Count the rows that both models answered, by which of the two has them right."""
    outcomes = [(before[id_].exact, score.exact) for id_, score in after.items() if id_ in before]
    return {
        "fixed": outcomes.count((False, True)),
        "broken": outcomes.count((True, False)),
        "both_right": outcomes.count((True, True)),
        "both_wrong": outcomes.count((False, False)),
    }


def left_out(run: RunFiles) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield why rows were not scored or not trained on: a sentence, and a line for each row."""
    provenance = run.metrics.get("provenance") or {}
    reasons = [("the gold answer itself does not score as right", provenance.get("quarantined") or {})]
    for model, refused in (provenance.get("refused") or {}).items():
        reasons.append((f"the endpoint of {model} refused to answer", refused))
    for why, rows in reasons:
        if rows:
            count = f"{numbers.counted(len(rows), 'test row')} {'is' if len(rows) == 1 else 'are'}"
            lines = tuple(f"{wording.visible(id_)}: {reason}" for id_, reason in rows.items())
            yield f"{count} excluded from the figures of every model: {why}.", lines
    for rule, places in (run.manifest.get("left_out") or {}).items():
        count = f"{numbers.counted(len(places), 'row')} {'was' if len(places) == 1 else 'were'}"
        yield f"{count} left out while reading ({rule}); run `toolhone data check` to see why.", tuple(map(str, places))
    dropped = run.manifest.get("dropped") or []
    if dropped:
        count = f"{numbers.counted(len(dropped), 'turn')} {'was' if len(dropped) == 1 else 'were'}"
        yield f"{count} left out of training: longer than chat.max_tokens.", tuple(map(str, dropped))


def machine(run: RunFiles) -> Iterator[tuple[str, str]]:
    """Yield the facts under the title: model, device, machine and date."""
    if run.base_model is not None:
        yield "Model", run.base_model
    device = [str(run.manifest[key]) for key in ("device", "dtype") if run.manifest.get(key)]
    if run.manifest.get("hardware") or device:
        yield "Device", str(run.manifest.get("hardware") or ", ".join(device))
    if run.manifest.get("machine"):
        yield "Machine", str(run.manifest["machine"])
    if run.manifest.get("created"):
        yield "Created", wording.date_time(run.manifest["created"])


def training(run: RunFiles) -> Iterator[tuple[str, str]]:
    """Yield the resources of training and its first and last losses, from the manifest and the training log."""
    stage = run.manifest.get("stages", {}).get("train", {})
    if stage.get("seconds") is not None:
        yield "Time", numbers.duration(stage["seconds"])
    if stage.get("peak_memory_gb") is not None:
        yield "Peak memory", numbers.gigabytes(stage["peak_memory_gb"])
    trainable, total = stage.get("trainable_parameters"), stage.get("total_parameters")
    if trainable is not None:
        share = f" of {numbers.number(total)} ({100 * trainable / total:.2f}%)" if total else ""
        yield "Parameters trained", f"{numbers.number(trainable)}{share}"
    steps = [line for line in run.train_log if line.get("loss") is not None]
    if steps:
        yield "Steps", numbers.number(steps[-1]["step"])
        yield "Training loss", f"{steps[0]['loss']:.3f} to {steps[-1]['loss']:.3f}"
    losses = [line["eval_loss"] for line in run.train_log if line.get("eval_loss") is not None]
    if losses:
        yield "Validation loss", f"{losses[0]:.3f} to {losses[-1]:.3f}" if len(losses) > 1 else f"{losses[0]:.3f}"
    speeds = sorted(line["tokens_per_second"] for line in steps if line.get("tokens_per_second") is not None)
    if speeds:
        yield "Median speed", f"{numbers.number(speeds[len(speeds) // 2])} tokens/s"


def commands(run: RunFiles) -> tuple[str, ...]:
    """Return the commands that reproduce this run.

    They use the config file that the manifest names, or else the run folder's config.yaml, which has every key.
    """
    if run.config is None:
        return ()
    commit, config = run.manifest.get("git_commit"), run.manifest.get("config")
    train = f"make train CONFIG={config if isinstance(config, str) else f'runs/{run.name}/config.yaml'}"
    if not commit:
        return (train,)
    clean = str(commit).removesuffix("-dirty")
    return (f"git checkout {clean}{'' if clean == commit else '   # plus changes that were not committed'}", train)
