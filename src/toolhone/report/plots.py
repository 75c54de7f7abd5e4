"""Computes the geometry of plots, which a page draws as SVG.

In: the training log for the training curves; the results of `toolhone route` for the deferral curve and the reliability
diagram. Out: positions in percent, so that a plot can have any width and its text keeps its size. In a training curve,
x runs from the first step to the last. y runs from the top (100%, or the highest loss rounded up to a tick) down to 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from toolhone.rates import Figure
from toolhone.report.numbers import dollars, percent
from toolhone.report.numbers import share as rate_text

if TYPE_CHECKING:
    from toolhone.route.calibrate import Reliability
    from toolhone.route.curve import Curve as DeferralCurve
    from toolhone.route.curve import Point as OperatingPoint

_MAX_POINTS = 240
_MIN_TOP = 1e-6


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark on an axis: its position in percent, and its text."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Point:
    """A measurement: its position in percent from the left and from the top, and its tooltip."""

    x: float
    y: float
    title: str


@dataclass(frozen=True, slots=True)
class Curve:
    """The contents of a training plot. Each training point is the mean of `steps_per_point` logged steps."""

    training: tuple[Point, ...]
    validation: tuple[Point, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    steps_per_point: int


def loss_curve(log: Sequence[dict[str, Any]]) -> Curve | None:
    """Return the loss curves of a training log. None if it has no losses.

    Args:
        log: lines with `step` and either `loss` or `eval_loss`, in nats per token.
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
        steps_per_point=width,
    )


def accuracy_curve(log: Sequence[dict[str, Any]]) -> Curve | None:
    """Return the curve of exact match on validation rows during training. None if the log has no such values.

    Args:
        log: lines with `step` and `eval_exact_match`, a share from 0 to 1.
    """
    measured = _values(log, "eval_exact_match")
    if not measured:
        return None
    x_ticks, across = _steps(step for step, _ in measured)
    points = (Point(across(step), 100 - 100 * value, f"step {step:g}: {percent(value)}") for step, value in measured)
    y_ticks = tuple(Tick(100 - value, f"{value}%") for value in range(0, 101, 25))
    return Curve((), tuple(points), x_ticks, y_ticks, steps_per_point=1)


def deferral_plot(curve: DeferralCurve, point: OperatingPoint) -> dict[str, Any]:
    """Return the deferral curve with the policy's point.

    Each line is the points of an SVG polyline. `band` is the cascade's interval, empty if it has none. `costs` are the
    costs per call below the x axis, empty without prices.
    """
    values = [figure["value"] for figure in curve.accuracy]
    lows, highs = ([_end(figure, end) for figure in curve.accuracy] for end in ("low", "high"))
    lowest = min(*lows, *curve.random, *values, point.accuracy["value"])
    marks = ticks(lowest, min(1.0, max(*highs, *curve.oracle)), 5)

    def up(value: float) -> float:
        return round(100 - share(value, marks[0], marks[-1]), 2)

    def line(heights: Iterable[float]) -> str:
        return " ".join(f"{100 * x:g},{up(y)}" for x, y in zip(curve.escalation.tolist(), heights, strict=True))

    escalated, right = point.escalation["value"], point.accuracy
    shares = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    usd = [float(curve.usd[round(one * (len(curve.usd) - 1))]) for one in shares]
    return {
        "cascade": line(values),
        "band": f"{line(highs)} {' '.join(reversed(line(lows).split()))}" if lows != highs else "",
        "random": line(curve.random.tolist()),
        "oracle": line(curve.oracle.tolist()),
        "point": _mark(
            escalated, right, up, 5, f"the policy: {percent(escalated)} escalated, {rate_text(right)} right"
        ),
        "x_ticks": [Tick(100 * one, f"{100 * one:.0f}%") for one in shares],
        "y_ticks": [Tick(up(one), f"{100 * one:g}%") for one in marks if one <= 1 + 1e-9],
        "costs": [Tick(100 * one, dollars(cost)) for one, cost in zip(shares, usd, strict=True) if cost == cost],
    }


def _end(figure: dict[str, Any], end: str) -> float:
    """Return one end of a figure's interval, or its value if it has no interval."""
    value: float = figure["value"] if figure[end] is None else figure[end]
    return value


def _mark(x: float, right: Figure, up: Callable[[float], float], size: float, title: str) -> dict[str, Any]:
    """Return a dot with its interval. `up` converts the share of right answers to percent from the top."""
    ends = {"y": right["value"], "top": _end(right, "high"), "bottom": _end(right, "low")}
    return {"x": round(100 * x, 2), **{key: up(value) for key, value in ends.items()}, "size": size, "title": title}


def reliability_plot(found: Reliability) -> dict[str, Any]:
    """Return a mark for each bin that has rows. Its area grows with the number of rows."""
    most = max(one["denominator"] for one in found.bins)
    marks = []
    for one in found.bins:
        counts = f"{one['numerator']:,} of {one['denominator']:,}"
        title = f"confidence {percent(one['probability'])}: {rate_text(one)} right, {counts}"
        size = round(3 + 6 * (one["denominator"] / most) ** 0.5, 1)
        marks.append(_mark(one["probability"], one, lambda value: round(100 - 100 * value, 2), size, title))
    return {"marks": marks, "ticks": [Tick(100 * value, f"{100 * value:.0f}%") for value in (0, 0.25, 0.5, 0.75, 1)]}


def _steps(steps: Iterable[float]) -> tuple[tuple[Tick, ...], Callable[[float], float]]:
    """Return the ticks below a plot, and the function that gives the position of a step."""
    known = set(steps)
    first, last = min(known), max(known)
    marks = [step for step in ticks(first, last, 6) if step == int(step) and first <= step <= last] or [first]
    return tuple(Tick(share(step, first, last), f"{step:,.0f}") for step in marks), lambda at: share(at, first, last)


def _values(log: Sequence[dict[str, Any]], key: str) -> list[tuple[float, float]]:
    """Return (step, value) pairs sorted by step. A resumed run logs some steps twice: the later line counts."""
    return sorted({line["step"]: line[key] for line in log if line.get(key) is not None}.items())


def _mean(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return points[-1][0], sum(loss for _, loss in points) / len(points)


def share(value: float, low: float, high: float) -> float:
    """Return the position of a value between two others in percent. 50 if the two are equal."""
    return 50.0 if high == low else round(100 * (value - low) / (high - low), 3)


def ticks(low: float, high: float, count: int) -> list[float]:
    """Return about `count` round values, spaced by 1, 2 or 5 times a power of ten. The last is at least `high`."""
    span = (high - low) or 1.0
    rough = span / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    start, end = math.floor(low / step), math.ceil(round(high / step, 9))
    return [round(index * step, 10) for index in range(start, max(end, start + 1) + 1)]
