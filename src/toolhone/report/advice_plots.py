"""The geometry of the plots of the advice: dollars by volume and by month, as places in percent, which the page draws.

As in `evaluate.plots`, percent rather than pixels, so that a plot takes any width without its text shrinking.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from toolhone.economics.cost import DAYS_A_MONTH
from toolhone.economics.inputs import Inputs
from toolhone.economics.options import TABLE_YEARS, Option, calls_by_month, ledger, option_name, options
from toolhone.report.advice_wording import number
from toolhone.report.numbers import money
from toolhone.report.plots import Point, Tick, share, ticks

_MONTHS = 12 * TABLE_YEARS
_SPAN = 100
"""Volumes are drawn from a hundredth of the case's to a hundred times it."""
_POINTS = 121
_HOVERED = 10
"""Every so many points one can be pointed at."""


@dataclass(frozen=True, slots=True)
class Line:
    """A way of answering. `points` make the line; `hovers` are those among them that show words."""

    option: Option
    name: str
    points: tuple[tuple[float, float], ...]
    hovers: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Plot:
    """Lines with their axes; `mark` is a place on the x axis to point out, with its words."""

    label: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    mark: Tick | None


def volume_plot(inputs: Inputs) -> Plot:
    """Dollars for 1,000 calls by calls a day, all costs of the horizon in it, both axes logarithmic."""
    first, last = math.log10(inputs.calls_per_day / _SPAN), math.log10(inputs.calls_per_day * _SPAN)
    places = [first + (last - first) * step / (_POINTS - 1) for step in range(_POINTS)]
    costs = {option: [_thousand_calls(inputs, option, 10**place) for place in places] for option in options(inputs)}
    positive = [cost for values in costs.values() for cost in values if cost > 0] or [1.0]
    # What costs nothing lies on the floor of the plot: a logarithm has no place for it.
    low, high = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
    high = max(high, low + 1)

    def height(cost: float) -> float:
        return 100 - share(max(low, math.log10(cost)) if cost > 0 else low, low, high)

    def line(option: Option) -> Line:
        points = [(share(x, first, last), height(cost)) for x, cost in zip(places, costs[option], strict=True)]
        name = option_name(inputs, option)
        words = [
            f"{name}: {money(cost)} for 1,000 calls at {number(round(10**x))} a day"
            for x, cost in zip(places, costs[option], strict=True)
        ]
        return Line(option, name, tuple(points), _hovers(points, words))

    return Plot(
        label="Dollars for 1,000 calls, by calls a day",
        x_label="calls a day (logarithmic)",
        y_label="dollars for 1,000 calls (logarithmic)",
        lines=tuple(line(option) for option in costs),
        x_ticks=tuple(
            Tick(share(power, first, last), _short(10.0**power))
            for power in range(math.ceil(first), math.floor(last) + 1)
        ),
        y_ticks=tuple(Tick(100 - share(power, low, high), f"${_short(10.0**power)}") for power in range(low, high + 1)),
        mark=Tick(50.0, f"{number(inputs.calls_per_day)} calls a day"),
    )


def _thousand_calls(inputs: Inputs, option: Option, calls_per_day: float) -> float:
    at = dataclasses.replace(inputs, calls_per_day=calls_per_day)
    calls = sum(calls_by_month(at)[: at.horizon_months]) * DAYS_A_MONTH
    return 1000 * ledger(at, option).total(at.horizon_months) / calls


def _short(value: float) -> str:
    """A mark on an axis: 0.01, 10, 500k, 1.5M."""
    for size, letter in ((1e9, "bn"), (1e6, "M"), (1e4, "k")):
        if value >= size:
            return f"{value / (1e3 if letter == 'k' else size):,.6g}{letter}"
    return f"{value:,.10f}".rstrip("0").rstrip(".")


def month_plot(inputs: Inputs) -> Plot:
    """All dollars so far, by month, over three years."""
    months = range(_MONTHS + 1)
    totals = {
        option: [ledger(inputs, option, TABLE_YEARS).total(month) for month in months] for option in options(inputs)
    }
    heights = ticks(0.0, max(1e-9, *(values[-1] for values in totals.values())), 4)
    top = heights[-1]

    def line(option: Option) -> Line:
        points = [(share(month, 0, _MONTHS), 100 - share(totals[option][month], 0, top)) for month in months]
        name = option_name(inputs, option)
        words = [f"{name}: {money(totals[option][month])} after {month} months" for month in months]
        return Line(option, name, tuple(points), _hovers(points, words, every=3))

    return Plot(
        label="All dollars so far, by month",
        x_label="months",
        y_label="dollars so far, wrong answers and what is paid once with them",
        lines=tuple(line(option) for option in totals),
        x_ticks=tuple(Tick(share(month, 0, _MONTHS), str(month)) for month in range(0, _MONTHS + 1, 6)),
        y_ticks=tuple(Tick(100 - share(value, 0, top), f"${_short(value)}") for value in heights),
        mark=Tick(share(inputs.horizon_months, 0, _MONTHS), "the horizon")
        if inputs.horizon_months <= _MONTHS
        else None,
    )


def _hovers(points: Sequence[tuple[float, float]], words: Sequence[str], every: int = _HOVERED) -> tuple[Point, ...]:
    return tuple(Point(*points[place], words[place]) for place in range(0, len(points), every))
