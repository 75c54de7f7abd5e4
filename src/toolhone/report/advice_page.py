"""The advice as a page: one file with a plot of the costs by volume, which opens offline.

In: an `Advice`. Out: the file. Places in the plot are percent, not pixels, so that it takes any width without its text
shrinking.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

from toolhone.economics.advice import Advice
from toolhone.economics.inputs import FIELDS, Inputs
from toolhone.economics.options import Option, costs, option_name, options
from toolhone.jsonl import write_text
from toolhone.report.advice_text import advice_tables, headline, horizon, plain_number, reasons, shown_value
from toolhone.report.numbers import money
from toolhone.report.pages import html_page
from toolhone.report.plots import Point, Tick, share

_SPAN = 100
"""Volumes are drawn from a hundredth of the case's to a hundred times it."""
_POINTS = 121
_HOVER_EVERY = 10
"""Every tenth point shows words on hovering."""


@dataclass(frozen=True, slots=True)
class Line:
    """A way of answering. `points` make the line; `hovers` are those among them that show words."""

    option: Option
    name: str
    points: tuple[tuple[float, float], ...]
    hovers: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class VolumePlot:
    """Dollars for 1,000 calls by calls a day; the case's own volume is in the middle."""

    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]


def write_page(advice: Advice, path: Path) -> None:
    """Write the page, whole or not at all."""
    write_text(path, advice_page(advice))


def advice_page(advice: Advice) -> str:
    """Render the page."""
    case, inputs = advice.case, advice.case.inputs
    facts = {
        "calls a day": plain_number(inputs.calls_per_day),
        "horizon": horizon(inputs),
        "a wrong call": money(inputs.error_usd),
        "assumed": f"{len(case.assumed)} of {len(case.sources)} inputs",
    }
    sources = [
        (FIELDS[name].metadata["meaning"], name, shown_value(name, getattr(inputs, name)), source)
        for name, source in case.sources.items()
    ]
    return html_page(
        "advise",
        headline=headline(advice).replace("-", "\N{NON-BREAKING HYPHEN}"),
        facts=facts,
        reasons=reasons(advice),
        tables=advice_tables(advice),
        bands=[f"{rule.name}: {rule.band}" for rule in advice.criteria],
        plot=volume_plot(inputs),
        inputs=sources,
        remarks=case.remarks,
    )


def volume_plot(inputs: Inputs) -> VolumePlot:
    """Dollars for 1,000 calls by calls a day, all costs of the horizon included, both axes logarithmic."""
    first, last = math.log10(inputs.calls_per_day / _SPAN), math.log10(inputs.calls_per_day * _SPAN)
    places = [first + (last - first) * step / (_POINTS - 1) for step in range(_POINTS)]
    volumes = [dataclasses.replace(inputs, calls_per_day=10**place) for place in places]
    curves = {option: [1000 * costs(at, option).call_usd for at in volumes] for option in options(inputs)}
    positive = [cost for values in curves.values() for cost in values if cost > 0] or [1.0]
    low, high = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
    high = max(high, low + 1)

    def line(option: Option) -> Line:
        name, points, hovers = option_name(inputs, option), [], []
        for place, (x, cost) in enumerate(zip(places, curves[option], strict=True)):
            # What costs nothing lies on the floor of the plot: a logarithm has no place for it.
            height = share(max(low, math.log10(cost)) if cost > 0 else low, low, high)
            points.append((share(x, first, last), 100 - height))
            if place % _HOVER_EVERY == 0:
                words = f"{name}: {money(cost)} for 1,000 calls at {plain_number(round(10**x))} a day"
                hovers.append(Point(*points[-1], words))
        return Line(option, name, tuple(points), tuple(hovers))

    powers = range(math.ceil(first), math.floor(last) + 1)
    return VolumePlot(
        lines=tuple(line(option) for option in curves),
        x_ticks=tuple(Tick(share(power, first, last), _short(10.0**power)) for power in powers),
        y_ticks=tuple(Tick(100 - share(power, low, high), f"${_short(10.0**power)}") for power in range(low, high + 1)),
    )


def _short(value: float) -> str:
    """A mark on an axis: 0.01, 10, 500k, 1.5M."""
    for size, letter in ((1e9, "bn"), (1e6, "M"), (1e4, "k")):
        if value >= size:
            return f"{value / (1e3 if letter == 'k' else size):,.6g}{letter}"
    return f"{value:,.10f}".rstrip("0").rstrip(".")
