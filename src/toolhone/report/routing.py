"""The results of `toolhone route`: the table and the lines for the terminal, route.html and route.json.

In: a `Routing`. Figures are put into words and placed here; the template lays them out. Places in plots are percent of
their width and height, so that they take any width.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from toolhone.jsonl import write_json, write_text
from toolhone.rates import Figure
from toolhone.report.numbers import ABSENT, decimal, dollars, percent, points, share
from toolhone.report.pages import html_page
from toolhone.report.plots import Tick, ticks
from toolhone.report.plots import share as place
from toolhone.route.calibrate import Reliability
from toolhone.route.curve import Curve, Point
from toolhone.route.policy import Policy, write_policy
from toolhone.route.route import Case, Routing
from toolhone.route.threshold import Certificate

_MAX_TESTS = 12
_HEADINGS = ("", "Escalated", "Right", "Cost of a call", "Of the large", "Latency", "Basis")

_NEAR = 0.02
"""How far behind the large model a cascade may be to count as being as good."""

_ERRORS = {
    "measured": "as measured",
    "independent": "errors independent of the small model's",
    "overlapping": "errors all among the small model's",
}


def _dollars(figure: Figure) -> str:
    return ABSENT if figure["value"] is None else dollars(figure["value"])


def summary_lines(routing: Routing) -> list[str]:
    """The lines to print below the table."""
    found, rows = routing.reliability, routing.policy.rows
    lines = [
        f"{rows['calibration']:,} rows calibrate, {rows['held_out']:,} are held out, {routing.how_split}",
        f"confidence: AUROC {decimal(found.auroc)}, Brier {decimal(found.brier)} (best constant "
        f"{found.brier_constant['value']:.3f}), ECE {decimal(found.ece)} (by chance {found.ece_by_chance:.3f})",
        f"goal: {_goal(routing)}",
        None if routing.certificate is None else routing.certificate.sentence(),
        *(_closeness(routing, case) for case in routing.cases),
        _gold(routing),
    ]
    return [line for line in lines if line is not None]


def _gold(routing: Routing) -> str | None:
    """What follows from gold that a model answered; None if none did."""
    gold = routing.gold
    if not gold.models:
        return None
    answered = f"The gold of {gold.rows:,} rows is what {', '.join(gold.models)} answered"
    if gold.is_large:
        return (
            f"{answered}, which is the large model itself: its accuracy on them is 100% by construction, and every "
            "figure is agreement with it. How many points the cascade is behind it in truth, these rows cannot show."
        )
    more = f"; if that is {routing.large}, it is right on them by construction" if routing.assumed else ""
    return f"{answered}: the figures are agreement with it{more}."


def _goal(routing: Routing) -> str:
    """What the threshold was chosen for."""
    goal = routing.policy.goal
    if routing.certificate is not None:
        return f"certify {routing.certificate.promise()}"
    if goal.budget_usd is not None:
        return f"spend at most {dollars(goal.budget_usd)} on 1,000 calls"
    if goal.escalation is not None:
        return f"escalate {percent(goal.escalation)} of the calls"
    return f"be right on {percent(goal.accuracy)} of the calibration rows"


def _verdict(routing: Routing) -> str:
    """Return the page's first sentence: what is kept, how often the cascade is right, and at what cost."""
    if routing.certificate is not None and routing.certificate.certified is None:
        return routing.certificate.sentence() + " The policy escalates every call."
    first, last = routing.cases[0].point, routing.cases[-1].point
    right = percent(first.accuracy["value"])
    if routing.assumed:
        low, high = sorted((first.accuracy["value"], last.accuracy["value"]))
        right = f"{percent(low)} to {percent(high)} (assumed)"
    agree = "agrees with gold" if routing.gold.models else "is right"
    kept = percent(1 - first.escalation["value"])
    cost = first.of_large["value"]
    at = "" if cost is None else f", at {percent(cost)} of the large model's cost"
    return f"The small model keeps {kept} of the calls, and the cascade {agree} on {right}{at}."


def _closeness(routing: Routing, case: Case) -> str:
    """Whether the cascade is within _NEAR of the large model, if the rows show it."""
    behind, near = case.point.behind_large, f"within {100 * _NEAR:g} points of the large model"
    figure = points(behind)
    if routing.gold.is_large:
        return f"Whether the cascade is {near} is not said: gold is the large model's own answers."
    if routing.assumed:
        return f"Behind the large model, {_ERRORS[case.errors]} (assumed): {figure}."
    if behind["low"] is None:
        return f"Behind the large model: {figure}."
    if behind["high"] <= _NEAR:
        return f"The cascade is {near}: behind it by {figure}."
    if behind["low"] > _NEAR:
        return f"The cascade is more than {100 * _NEAR:g} points behind the large model: {figure}."
    return f"These rows cannot show whether the cascade is {near}: behind it by {figure}."


def _ways(routing: Routing, case: Case) -> list[tuple[str, ...]]:
    """The ways to answer in words, under _HEADINGS. The last cell says if their accuracy is assumed."""
    point, basis = case.point, "assumed" if routing.assumed else "measured"
    # An assumed accuracy is one number; its resamples would show those of the small model.
    large = {**point.large, "low": None, "high": None} if routing.assumed else point.large
    small_of_large = None
    if point.small_usd["value"] is not None and point.large_usd["value"]:
        small_of_large = point.small_usd["value"] / point.large_usd["value"]
    large_of_large = 1.0 if point.large_usd["value"] else None
    alone = (
        ("All large", "100%", large, point.large_usd, percent(large_of_large), point.large_s, basis),
        ("Small alone", "0%", point.small, point.small_usd, percent(small_of_large), point.small_s, "measured"),
    )
    mixed = (("Cascade", point.accuracy), ("Random", point.random), ("Oracle", point.oracle))
    escalated, of_large = share(point.escalation), share(point.of_large)
    ways = [*alone, *((name, escalated, right, point.usd, of_large, point.latency_s, basis) for name, right in mixed)]
    return [
        (name, escalated, share(right), _dollars(usd), of_large, _seconds(latency["value"]), on)
        for name, escalated, right, usd, of_large, latency, on in ways
    ]


def _seconds(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.2f} s" if value < 10 else f"{value:.0f} s"


def models_table(routing: Routing, case: Case) -> Table:
    """Return the table for the terminal: only accuracies have intervals, and the title has the basis."""
    basis = f", the large model assumed: {_ERRORS[case.errors]}" if routing.assumed else ""
    title = Text(f"On {routing.reliability.rows:,} held-out rows{basis}")
    table = Table(title=title, title_justify="left", title_style="bold")
    for heading in _HEADINGS[:-1]:
        # Broken in two, so that the table fits eighty columns.
        broken = "\n".join(textwrap.wrap(heading, 9))
        table.add_column(broken, justify="left" if heading == "" else "right", no_wrap=True)
    for cells in _ways(routing, case):
        pairs = zip(_HEADINGS[:-1], cells[:-1], strict=True)
        table.add_row(*(Text(cell if heading == "Right" else cell.partition(" [")[0]) for heading, cell in pairs))
    return table


def write_routing(routing: Routing, folder: Path, name: str) -> None:
    """Write route.html, route.json and policy.json into a folder; `name` is what the page calls the run."""
    write_text(folder / "route.html", html_page("route", page=_page(routing, name), routing=routing))
    write_json(folder / "route.json", routing_json(routing))
    write_policy(folder / "policy.json", routing.policy)


def routing_json(routing: Routing) -> dict[str, Any]:
    """Return all figures, with intervals, as numbers; `assumed` marks those that rest on an assumed large model."""
    return {
        "small": routing.small,
        "large": routing.large,
        "assumed": routing.assumed,
        "rows": routing.policy.rows,
        "clustered_by": routing.clustered_by,
        "clusters": routing.clusters,
        "gold_source": {"models": list(routing.gold.models), "is_large": routing.gold.is_large},
        "goal": routing.policy.goal.model_dump(exclude_none=True),
        "threshold": routing.policy.threshold,
        "certificate": None if routing.certificate is None else asdict(routing.certificate),
        "reliability": asdict(routing.reliability),
        "gates": routing.gates,
        "ablation": [{"name": name, **asdict(found)} for name, found in routing.ablation.items()],
        "cases": [
            {"errors": one.errors, "assumed": routing.assumed, "point": asdict(one.point), "curve": _plain(one.curve)}
            for one in routing.cases
        ],
    }


def _plain(curve: Curve) -> dict[str, Any]:
    row = asdict(curve)
    for key in ("escalation", "random", "oracle", "usd"):
        row[key] = [None if value != value else value for value in row[key].tolist()]
    return row


def _page(routing: Routing, name: str) -> dict[str, Any]:
    """The values that the template shows besides `routing` itself."""
    rows, certificate = routing.policy.rows, routing.certificate
    tests = _tests(certificate)
    return {
        "name": name,
        "verdict": _verdict(routing),
        "gold": _gold(routing),
        "facts": (
            ("Small", routing.small),
            ("Large", routing.large),
            ("Goal", _goal(routing)),
            ("Rows", f"{rows['calibration']:,} calibrate, {rows['held_out']:,} held out, {routing.how_split}"),
            ("Held out", f"{routing.clusters:,} {routing.clustered_by}s"),
        ),
        "headings": _HEADINGS,
        "cases": [_case(routing, case) for case in routing.cases],
        "priced": routing.cases[0].point.usd["value"] is not None,
        "diagram": _reliability_plot(routing.reliability),
        "gates": [(reason.replace("_", " "), f"{count:,}") for reason, count in routing.gates.items()],
        "ablation": [
            (name, *map(decimal, (found.auroc, found.brier, found.ece))) for name, found in routing.ablation.items()
        ],
        "certified": None if certificate is None else certificate.sentence(),
        "tests": tests[-_MAX_TESTS:],
        "tests_left_out": len(tests[:-_MAX_TESTS]),
        "weights": _weights(routing.policy),
    }


def _case(routing: Routing, case: Case) -> dict[str, Any]:
    """One large model: its table, whether the cascade is close to it, the curve and its figures."""
    curve = case.curve
    return {
        "title": f"Assumed, {_ERRORS[case.errors]}" if routing.assumed else f"Measured: {routing.large}",
        "rows": _ways(routing, case),
        "closeness": _closeness(routing, case),
        "plot": _deferral_plot(curve, case.point),
        "apgr": decimal(curve.apgr),
        "reach": [(percent(one["gap"]), share(one["escalation"]), _dollars(one["usd"])) for one in curve.reach],
        "at": [
            (
                percent(one["escalation"]),
                *(share(one[key]) for key in ("accuracy", "of_oracle")),
                _dollars(one["usd"]),
                percent(one["of_large"]["value"]),
            )
            for one in curve.at
        ],
    }


def _tests(certificate: Certificate | None) -> list[tuple[str, ...]]:
    if certificate is None:
        return []
    return [
        (
            *(f"{one.threshold:.4f}", f"{one.rows:,}", f"{one.losses:,}", f"{one.p_value:.3g}", percent(one.upper)),
            "certified" if one.p_value <= certificate.delta else "not certified",
        )
        for one in certificate.tested
    ]


def _weights(policy: Policy) -> list[tuple[str, str, str]]:
    """Each feature with its mean and its weight per standard deviation, the heaviest first."""
    calibrator = policy.calibrator
    parts = sorted(zip(policy.features, calibrator.means, calibrator.weights, strict=True), key=lambda p: -abs(p[2]))
    return [(name.replace("_", " "), f"{mean:.3f}", f"{weight:+.2f}") for name, mean, weight in parts]


def _deferral_plot(curve: Curve, point: Point) -> dict[str, Any]:
    """Place the deferral curve and the policy on it. Lines are the points of an SVG polyline; `band` is the cascade's
    interval, empty if it has none. `costs` are costs of a call under the x axis, empty without prices."""
    values = [figure["value"] for figure in curve.accuracy]
    lows, highs = ([_end(figure, end) for figure in curve.accuracy] for end in ("low", "high"))
    lowest = min(*lows, *curve.random, *values, point.accuracy["value"])
    marks = ticks(lowest, min(1.0, max(*highs, *curve.oracle)), 5)

    def up(value: float) -> float:
        return round(100 - place(value, marks[0], marks[-1]), 2)

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
        "point": _mark(escalated, right, up, 5, f"the policy: {percent(escalated)} escalated, {share(right)} right"),
        "x_ticks": [Tick(100 * one, f"{100 * one:.0f}%") for one in shares],
        "y_ticks": [Tick(up(one), f"{100 * one:g}%") for one in marks if one <= 1 + 1e-9],
        "costs": [Tick(100 * one, dollars(cost)) for one, cost in zip(shares, usd, strict=True) if cost == cost],
    }


def _end(figure: dict[str, Any], end: str) -> float:
    """An end of a figure's interval; the figure itself if it has none."""
    value: float = figure["value"] if figure[end] is None else figure[end]
    return value


def _mark(x: float, right: Figure, up: Callable[[float], float], size: float, title: str) -> dict[str, Any]:
    """A dot with its interval; `up` places a share right in percent from the top."""
    ends = {"y": right["value"], "top": _end(right, "high"), "bottom": _end(right, "low")}
    return {"x": round(100 * x, 2), **{key: up(value) for key, value in ends.items()}, "size": size, "title": title}


def _reliability_plot(found: Reliability) -> dict[str, Any]:
    """Place the bins that hold rows; a mark's area grows with its rows."""
    most = max(one["denominator"] for one in found.bins)
    marks = []
    for one in found.bins:
        counts = f"{one['numerator']:,} of {one['denominator']:,}"
        title = f"confidence {percent(one['probability'])}: {share(one)} right, {counts}"
        size = round(3 + 6 * (one["denominator"] / most) ** 0.5, 1)
        marks.append(_mark(one["probability"], one, lambda value: round(100 - 100 * value, 2), size, title))
    return {"marks": marks, "ticks": [Tick(100 * value, f"{100 * value:.0f}%") for value in (0, 0.25, 0.5, 0.75, 1)]}
