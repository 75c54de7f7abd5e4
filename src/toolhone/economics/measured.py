"""What was measured of a model's answers: the tokens of a call, calls a second, how many were right.

In: a run folder's metrics.json and manifest.json. Out: means with what they rest on, and inputs of the advice.
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
    """Means over `rows` answers. `right` counts exact matches, `interval` is the 95% interval of their share;
    `calls_per_second` is that of the machine and the batch size that made the answers, None if no time was recorded;
    `source` says where the figures are from, `hardware` what made them, if known."""

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
    """Measure a model of a run folder, or of a folder that `toolhone score --out` wrote (default: the tuned model, or
    if none has that name, the last).

    Raises:
        UserError: if metrics.json is missing or not this version's, or the model is not in it.
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
        # In a batch, latency is its time divided by its size: so this is what the machine answered, not one stream.
        calls_per_second=rows / seconds if seconds else None,
        right=right,
        interval=interval,
        source=f"{folder}, {name}{f', a sample of {whole:,} rows' if whole else ''}",
        hardware=_manifest(folder).get("hardware"),
    )


def find_model(folder: Path, model: str) -> Measured | None:
    """Measure a model by its name, as `toolhone predict` writes it; None if the folder lacks it."""
    label = model.replace("/", "-").replace(":", "-")
    return measured_run(folder, label) if label in _models(folder) else None


def measured_prompt(folder: Path) -> Measured:
    """Measure the model that was shown the tools as an API must be: the base model, else the tuned one."""
    return find_model(folder, "base") or measured_run(folder)


def measured_inputs(
    folder: Path, api_model: str, cheap_model: str
) -> tuple[dict[str, tuple[Any, str]], tuple[float, float] | None]:
    """Return the inputs that a run measured, each with where it is from, and the interval of the tuned accuracy.

    Those of an API's model too, if the run has its scores under its name. The run's throughput is left out: it is that
    of the machine of the run, which is rarely the one that will serve.
    """
    tuned, api, cheap = measured_run(folder), find_model(folder, api_model), find_model(folder, cheap_model)
    inputs: dict[str, tuple[Any, str]] = {}
    for name, large in (("small_accuracy", tuned), ("api_accuracy", api), ("cheap_accuracy", cheap)):
        if large is not None:
            inputs[name] = large.accuracy, f"measured: {large.right:,} of {large.rows:,} rows ({large.source})"
    for name, of in (("prompt_tokens", api or measured_prompt(folder)), ("completion_tokens", api or tuned)):
        inputs[name] = getattr(of, name), f"measured: mean of {of.rows:,} rows ({of.source})"
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
