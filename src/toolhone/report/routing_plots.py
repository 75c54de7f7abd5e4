"""The geometry of routing's plots, in percent of their width and height, so that a plot takes any width.

In: figures. Out: frozen places and words, which the page draws as SVG; nothing here is HTML.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from toolhone.report import routing_wording as wording
from toolhone.report.numbers import percent
from toolhone.report.plots import Tick, share, ticks
from toolhone.route.curve import Curve
from toolhone.route.point import Point
from toolhone.route.reliability import Reliability


@dataclass(frozen=True, slots=True)
class Mark:
    """A point: its place, how far up and down its interval goes (the same as its place where it has none), its size in
    pixels and the words shown on hovering."""

    x: float
    y: float
    top: float
    bottom: float
    size: float
    title: str


@dataclass(frozen=True, slots=True)
class Deferral:
    """The deferral curve. Lines are the points of an SVG polyline; `band` is the cascade's interval, empty where it has
    none. `costs` are the costs of a call under the marks of the x axis; empty without prices."""

    cascade: str
    band: str
    random: str
    oracle: str
    point: Mark
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    costs: tuple[Tick, ...]


@dataclass(frozen=True, slots=True)
class Diagram:
    """The reliability diagram: a mark for each bin that holds rows. On the diagonal, confidence is what it says."""

    marks: tuple[Mark, ...]
    ticks: tuple[Tick, ...]


def deferral_plot(curve: Curve, point: Point) -> Deferral:
    """Place a curve, and where on it the policy stands."""
    values = [figure["value"] for figure in curve.accuracy]
    lows = [figure["low"] if figure["low"] is not None else figure["value"] for figure in curve.accuracy]
    highs = [figure["high"] if figure["high"] is not None else figure["value"] for figure in curve.accuracy]
    lowest = min(*lows, *curve.random, *values, point.accuracy["value"])
    marks = ticks(lowest, min(1.0, max(*highs, *curve.oracle)), 5)
    bottom, top = marks[0], marks[-1]

    def up(value: float) -> float:
        return round(100 - share(value, bottom, top), 2)

    def line(heights: Iterable[float]) -> str:
        return " ".join(f"{100 * x:g},{up(y)}" for x, y in zip(curve.escalation.tolist(), heights, strict=True))

    handed, right = point.escalation["value"], point.accuracy
    low, high = (right[end] if right[end] is not None else right["value"] for end in ("low", "high"))
    shares = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    priced = curve.usd[0] == curve.usd[0]
    return Deferral(
        cascade=line(values),
        band=f"{line(highs)} {' '.join(reversed(line(lows).split()))}"
        if any(a != b for a, b in zip(lows, highs, strict=True))
        else "",
        random=line(curve.random.tolist()),
        oracle=line(curve.oracle.tolist()),
        point=Mark(
            round(100 * handed, 2),
            up(right["value"]),
            up(high),
            up(low),
            5,
            f"the policy: {percent(handed)} handed over, {wording.share(right)} right",
        ),
        x_ticks=tuple(Tick(100 * one, f"{100 * one:.0f}%") for one in shares),
        y_ticks=tuple(Tick(up(one), f"{100 * one:g}%") for one in marks if one <= 1 + 1e-9),
        costs=tuple(Tick(100 * one, wording.dollars(_at(curve, one))) for one in shares) if priced else (),
    )


def _at(curve: Curve, escalation: float) -> float:
    return float(curve.usd[round(escalation * (len(curve.usd) - 1))])


def reliability_plot(found: Reliability) -> Diagram:
    """Place the bins; a mark's area grows with its rows."""
    most = max(one["denominator"] for one in found.bins)
    marks = tuple(
        Mark(
            round(100 * one["probability"], 2),
            _down(one["value"]),
            _down(one["high"]),
            _down(one["low"]),
            round(3 + 6 * (one["denominator"] / most) ** 0.5, 1),
            f"confidence {percent(one['probability'])}: {wording.share(one)} right, {one['numerator']:,} of "
            f"{one['denominator']:,}",
        )
        for one in found.bins
    )
    return Diagram(marks, _shares((0, 0.25, 0.5, 0.75, 1)))


def _down(value: float) -> float:
    return round(100 - 100 * value, 2)


def _shares(values: Sequence[float]) -> tuple[Tick, ...]:
    return tuple(Tick(100 * value, f"{100 * value:.0f}%") for value in values)
