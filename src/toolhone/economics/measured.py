"""Figures measured on a model's answers: tokens of a call, calls a second, right answers.

In: a run folder's metrics.json and manifest.json. Out: means with their source, and inputs of the advice.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolhone.errors import UserError
from toolhone.jsonl import read_json

_NUMBERS = ("prompt_tokens", "completion_tokens", "latency_ms")


@dataclass(frozen=True, slots=True)
class Measured:
    """Means over `rows` answers. `right` counts exact matches, and `interval` is the 95% interval of their share.
    `calls_per_second` is that of the machine and batch size that generated the answers, None if no time was recorded.
    `source` names the folder and model, `hardware` the machine if it is known."""

    rows: int
    prompt_tokens: float
    completion_tokens: float
    calls_per_second: float | None
    right: int
    interval: tuple[float, float]
    source: str
    hardware: str | None

    @property
    def accuracy(self) -> float:
        """The share of rows that are an exact match."""
        return self.right / self.rows


def measured_run(folder: Path, model: str | None = None) -> Measured:
    """Return the figures of a model of a run folder, or of a folder that `toolhone score --out` wrote.

    Args:
        model: the model's name in metrics.json; default: tuned, or the last model if there is no tuned one.

    Raises:
        UserError: if metrics.json is missing or of another version, or lacks the model.
    """
    path, models = folder / "metrics.json", _models(folder)
    name = model or ("tuned" if "tuned" in models else list(models)[-1])
    if name not in models:
        raise UserError(f"{path}: has no model {name}; it has {', '.join(models)}")
    found = models[name]
    try:
        totals = {key: found[key].get("total", 0) for key in _NUMBERS}
        rows, exact = found["rows"], found["exact_match"]
        right, interval = exact["numerator"], (exact["low"], exact["high"])
        whole = found.get("sampled_from")
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: models.{name}: {error} missing; run `toolhone score --run {folder}`") from None
    if not rows:
        raise UserError(f"{path}: models.{name}: has no rows")
    seconds = totals["latency_ms"] / 1000
    return Measured(
        rows=rows,
        prompt_tokens=totals["prompt_tokens"] / rows,
        completion_tokens=totals["completion_tokens"] / rows,
        # The latency of an answer in a batch is the batch's time divided by its size, so this is the whole machine's
        # throughput, not that of one stream.
        calls_per_second=rows / seconds if seconds else None,
        right=right,
        interval=interval,
        source=f"{folder}, {name}{f', a sample of {whole:,} rows' if whole else ''}",
        hardware=_manifest(folder).get("hardware"),
    )


def find_model(folder: Path, model: str) -> Measured | None:
    """Return the figures of a model by its name, as `toolhone predict` writes it; None if the folder lacks it."""
    label = model.replace("/", "-").replace(":", "-")
    return measured_run(folder, label) if label in _models(folder) else None


def measured_prompt(folder: Path) -> Measured:
    """Return the figures of the model whose prompts show the tools as an API's must: base, or else tuned."""
    return find_model(folder, "base") or measured_run(folder)


def measured_inputs(
    folder: Path, api_model: str, cheap_model: str
) -> tuple[dict[str, tuple[Any, str]], tuple[float, float] | None]:
    """Return the inputs that a run measured, each with its source, and the interval of the tuned model's accuracy.

    An API's model is included if the run has scores under its name. The run's throughput is left out, because the
    machine of the run is rarely the one that will serve.
    """
    tuned, api, cheap = measured_run(folder), find_model(folder, api_model), find_model(folder, cheap_model)
    inputs: dict[str, tuple[Any, str]] = {}
    for name, found in (("small_accuracy", tuned), ("api_accuracy", api), ("cheap_accuracy", cheap)):
        if found is not None:
            inputs[name] = found.accuracy, f"measured: {found.right:,} of {found.rows:,} rows ({found.source})"
    for name, model in (("prompt_tokens", api or measured_prompt(folder)), ("completion_tokens", api or tuned)):
        inputs[name] = getattr(model, name), f"measured: mean of {model.rows:,} rows ({model.source})"
    examples: Any = _manifest(folder)
    for key in ("data", "train", "examples"):
        examples = examples.get(key) if isinstance(examples, dict) else None
    if isinstance(examples, int):
        inputs["examples"] = examples, f"counted: training examples of {folder}"
    return inputs, tuned.interval


def _models(folder: Path) -> dict[str, Any]:
    path = folder / "metrics.json"
    metrics = read_json(path, f"`toolhone train` or `toolhone score --run {folder}` writes it")
    models = metrics.get("models") if isinstance(metrics, dict) else None
    if not isinstance(models, dict) or not models:
        raise UserError(f"{path}: models: expected at least one model's figures; run `toolhone score --run {folder}`")
    return models


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    found: dict[str, Any] = read_json(path, "") if path.is_file() else {}
    return found
