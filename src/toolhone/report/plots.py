"""The geometry of the training curves: from train_log.jsonl to places in percent, which the page draws as SVG.

Percent, not pixels: the plot then takes any width without its text shrinking. x runs from the first step to the last,
y from the top (the highest loss, rounded up to a tick; or 100%) to the bottom (0).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from toolhone.report.numbers import percent

_MAX_POINTS = 240
_MIN_TOP = 1e-6


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark on an axis: its place along it, in percent, and its text."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Point:
    """A measurement: its place in percent from the left and from the top, and the words shown on hovering."""

    x: float
    y: float
    title: str


@dataclass(frozen=True, slots=True)
class Curve:
    """What a plot shows. Each training point is the mean of `steps_a_point` logged steps."""

    training: tuple[Point, ...]
    validation: tuple[Point, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    steps_a_point: int


def loss_curve(log: Sequence[dict[str, Any]]) -> Curve | None:
    """Place the losses of a training log; None if it has none.

    Args:
        log: lines with `step` and either `loss` or `eval_loss`, in nats a token.
    """
    training, validation = _values(log, "loss"), _values(log, "eval_loss")
    if not training and not validation:
        return None
    width = math.ceil(len(training) / _MAX_POINTS) or 1
    training = [_mean(training[i : i + width]) for i in range(0, len(training), width)]
    y_values = ticks(0.0, max(_MIN_TOP, *(loss for _, loss in (*training, *validation))), 4)
    top = y_values[-1]
    x_ticks, across = _steps(step for step, _ in (*training, *validation))

    def place(kind: str, step: float, loss: float) -> Point:
        return Point(across(step), 100 - share(loss, 0, top), f"step {step:g}: {kind} {loss:.4f}")

    return Curve(
        training=tuple(place("training loss", *point) for point in training),
        validation=tuple(place("validation loss", *point) for point in validation),
        x_ticks=x_ticks,
        y_ticks=tuple(Tick(100 - share(loss, 0, top), f"{loss:g}") for loss in y_values),
        steps_a_point=width,
    )


def accuracy_curve(log: Sequence[dict[str, Any]]) -> Curve | None:
    """Place the exact match on validation rows during training; None if the log has none.

    Args:
        log: lines with `step` and `eval_exact_match`, a share from 0 to 1.
    """
    measured = _values(log, "eval_exact_match")
    if not measured:
        return None
    x_ticks, across = _steps(step for step, _ in measured)
    points = (Point(across(step), 100 - 100 * value, f"step {step:g}: {percent(value)}") for step, value in measured)
    y_ticks = tuple(Tick(100 - value, f"{value}%") for value in range(0, 101, 25))
    return Curve((), tuple(points), x_ticks, y_ticks, steps_a_point=1)


def _steps(steps: Iterable[float]) -> tuple[tuple[Tick, ...], Callable[[float], float]]:
    """The marks under a plot, and the function that places a step."""
    known = set(steps)
    first, last = min(known), max(known)
    marks = [step for step in ticks(first, last, 6) if step == int(step) and first <= step <= last] or [first]
    return tuple(Tick(share(step, first, last), f"{step:,.0f}") for step in marks), lambda at: share(at, first, last)


def _values(log: Sequence[dict[str, Any]], key: str) -> list[tuple[float, float]]:
    """Step and value, by step. A resumed run has taken some steps twice: the later line counts."""
    return sorted({line["step"]: line[key] for line in log if line.get(key) is not None}.items())


def _mean(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return points[-1][0], sum(loss for _, loss in points) / len(points)


def share(value: float, low: float, high: float) -> float:
    """A value's place between two others, in percent; the middle if the two are the same."""
    return 50.0 if high == low else round(100 * (value - low) / (high - low), 3)


def ticks(low: float, high: float, count: int) -> list[float]:
    """Round values a step of 1, 2 or 5 times a power of ten apart, about `count` of them, the last not below `high`."""
    span = (high - low) or 1.0
    rough = span / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    start, end = math.floor(low / step), math.ceil(round(high / step, 9))
    return [round(index * step, 10) for index in range(start, max(end, start + 1) + 1)]
