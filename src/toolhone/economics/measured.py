"""What was measured of a model's answers: the tokens of a call, how many calls a second, how many were right.

In: a run folder's metrics.json, or a file of predictions or of scores. Out: means, and in words what they rest on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolhone.errors import UserError
from toolhone.jsonl import read_json, read_jsonl

_NUMBERS = ("prompt_tokens", "completion_tokens", "latency_ms")


@dataclass(frozen=True, slots=True)
class Measured:
    """Means over `rows` answers. `right` counts exact matches, None where nothing was scored; `calls_per_second` is
    that of the machine and the batch size that made the answers, None where no time was recorded; `source` says where
    the figures are from, `hardware` what made them, and `interval` is the accuracy's of 95%, where these are known."""

    rows: int
    prompt_tokens: float
    completion_tokens: float
    calls_per_second: float | None
    right: int | None
    source: str
    hardware: str | None = None
    interval: tuple[float, float] | None = None

    @property
    def accuracy(self) -> float | None:
        """The share of rows that are an exact match."""
        return None if self.right is None else self.right / self.rows


def measured_file(path: Path) -> Measured:
    """Of a file of predictions, or of scores, which say what was right too.

    Raises:
        UserError: naming the line, where one has no tokens or time; where there is none.
    """
    rows = [_checked(where, row) for where, row in read_jsonl(path)]
    if not rows:
        raise UserError(f"{path}: holds no rows; expected predictions or scores")
    totals = {key: sum(row[key] for row in rows) for key in _NUMBERS}
    scored = [row["exact"] for row in rows if "exact" in row]
    right = sum(scored) if len(scored) == len(rows) else None
    return _means(totals, len(rows), right, str(path), None)


def _checked(where: str, row: dict[str, Any]) -> dict[str, Any]:
    for key in _NUMBERS:
        value = row.get(key)
        if not isinstance(value, int | float) or isinstance(value, bool) or value < 0:
            raise UserError(f"{where}: {key}: expected a number of a prediction or a score, found {value!r}")
    return row


def measured_run(folder: Path, model: str | None = None) -> Measured:
    """Of a model in a run folder, or in a folder that `toolhone score --out` wrote (default: the tuned
    one, or where none has that name, the last).

    Raises:
        UserError: where metrics.json is missing or not this version's, or the model is not in it.
    """
    path = folder / "metrics.json"
    models = _models(path, folder)
    name = model or ("tuned" if "tuned" in models else list(models)[-1])
    if name not in models:
        raise UserError(f"{path}: has no model {name}; it has {', '.join(models)}")
    found = models[name]
    try:
        totals = {key: found[key].get("total", 0) for key in _NUMBERS}
        rows, exact = found["rows"], found["exact_match"]
        right, interval = exact["numerator"], (exact["low"], exact["high"])
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: models.{name}: {error} missing; run `toolhone score --run {folder}`") from None
    if not rows:
        raise UserError(f"{path}: models.{name}: stands on no rows")
    manifest = folder / "manifest.json"
    hardware = read_json(manifest, "").get("hardware") if manifest.is_file() else None
    return dataclasses.replace(_means(totals, rows, right, f"{folder}, {name}", hardware), interval=interval)


def has_model(folder: Path, model: str) -> bool:
    """Whether the metrics of a folder have this model's figures."""
    return model in _models(folder / "metrics.json", folder)


def training_examples(folder: Path) -> int | None:
    """How many examples a run was trained on; None where its manifest does not say."""
    manifest = folder / "manifest.json"
    if not manifest.is_file():
        return None
    found: Sequence[str] = ("data", "train", "examples")
    value: Any = read_json(manifest, "")
    for key in found:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, int) else None


def _models(path: Path, folder: Path) -> dict[str, Any]:
    metrics = read_json(path, f"`toolhone train` or `toolhone score --run {folder}` writes it")
    models = metrics.get("models") if isinstance(metrics, dict) else None
    if not isinstance(models, dict) or not models:
        raise UserError(f"{path}: models: expected at least one model's figures; run `toolhone score --run {folder}`")
    return models


def _means(totals: dict[str, float], rows: int, right: int | None, source: str, hardware: str | None) -> Measured:
    milliseconds = totals["latency_ms"]
    return Measured(
        rows=rows,
        prompt_tokens=totals["prompt_tokens"] / rows,
        completion_tokens=totals["completion_tokens"] / rows,
        # Of a batch, latency is its time divided by its size: so this is what the machine answered, not one stream.
        calls_per_second=rows / (milliseconds / 1000) if milliseconds else None,
        right=right,
        source=source,
        hardware=hardware,
    )
