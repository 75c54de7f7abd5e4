"""The results of `toolhone route`: the table and the lines for the terminal, route.html and route.json.

In: a `Routing`. Figures are put into words here, and the template lays them out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from toolhone.jsonl import write_json, write_text
from toolhone.rates import Figure
from toolhone.report.numbers import (
    ABSENT,
    counted,
    decimal,
    dollars,
    fraction,
    interval,
    milliseconds,
    percent,
    points,
    share,
)
from toolhone.report.pages import html_page
from toolhone.report.plots import deferral_plot, reliability_plot
from toolhone.route.curve import Curve, Point
from toolhone.route.policy import Policy, write_policy
from toolhone.route.route import Case, Routing
from toolhone.route.threshold import Certificate
from toolhone.route.ways import Accuracy, Amount, Way, Ways, files_made_from, read_ways

_MAX_TESTS = 12
_WAYS = {"large": "large model only", "tuned": "tuned only", "routed": "routed"}
_BASES = {"measured": "measured", "priced": "measured tokens, given price", "assumed": "assumed", None: ""}
_NOT_MEASURED = "not measured"

_NEAR = 0.02
"""Maximum gap to the large model at which a cascade counts as equally good."""

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
        *(line for case in routing.cases for line in (_choice(routing, case), _closeness(routing, case))),
        _gold(routing),
    ]
    return [line for line in lines if line is not None]


def _gold(routing: Routing) -> str | None:
    """Say what the figures mean if gold is a model's answers; None if it is not."""
    gold = routing.gold
    if not gold.models:
        return None
    answered = f"The gold of {gold.rows:,} rows is what {', '.join(gold.models)} answered"
    if gold.is_large:
        return (
            f"{answered}. That is the large model itself: its accuracy on them is 100% by construction, and every "
            "figure is agreement with it. These rows cannot show how far the cascade is behind it."
        )
    more = f"; if that is {routing.large}, it is right on them by construction" if routing.assumed else ""
    return f"{answered}: the figures are agreement with it{more}."


def _goal(routing: Routing) -> str:
    """Return what the threshold was chosen for."""
    goal = routing.policy.goal
    if routing.certificate is not None:
        return f"certify {routing.certificate.promise()}"
    if goal.budget_usd is not None:
        return f"spend at most {dollars(goal.budget_usd)} on 1,000 calls"
    if goal.escalation is not None:
        return f"escalate {percent(goal.escalation)} of the calls"
    return f"reach {percent(goal.accuracy)} accuracy on the calibration rows"


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
    """Say whether the cascade is within _NEAR of the large model, if the rows show it."""
    behind, near = case.point.behind_large, f"within {100 * _NEAR:g} points of the large model"
    figure = points(behind)
    if routing.gold.is_large:
        return f"Whether the cascade is {near} cannot be measured: the gold is the large model's own answers."
    if routing.assumed:
        return f"Large model minus cascade, {_ERRORS[case.errors]} (assumed): {figure}."
    if behind["low"] is None:
        return f"Large model minus cascade: {figure}."
    if behind["high"] <= _NEAR:
        return f"The cascade is {near}. Large model minus cascade: {figure}."
    if behind["low"] > _NEAR:
        return f"The cascade is more than {100 * _NEAR:g} points behind the large model: {figure}."
    return f"These rows cannot show whether the cascade is {near}. Large model minus cascade: {figure}."


def run_ways(folder: Path, metrics: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the three-row table of a run folder in words (`ways_page`); None if it has nothing to compare."""
    found = read_ways(folder, metrics)
    return None if found is None else ways_page(*found)


def ways_page(ways: Ways, remarks: Sequence[str] = ()) -> dict[str, Any]:
    """Put the three-row table into words, for the run's report, the route page and the terminal.

    Each row has a name, a detail, and three cells of a figure, its detail and its basis: the cost of 1,000 calls, the
    mean latency and exact match. `remarks` say what is out of date or still to measure.
    """
    escalated = "" if ways.escalation is None else f"{percent(ways.escalation)} escalated"
    large_usd = next((way.usd.value for way in ways.ways if way.name == "large"), None)
    return {
        "head": ("", "Cost of 1,000 calls", "Mean latency", "Exact match"),
        "title": f"On {counted(ways.rows, 'held-out row' if ways.held_out else 'scored row')}",
        "rows": [
            {
                "name": _WAYS[way.name],
                "detail": escalated if way.name == "routed" else way.model,
                "cells": (_cost_cell(way, large_usd), _latency_cell(way.latency_ms), _accuracy_cell(way.accuracy)),
            }
            for way in ways.ways
        ],
        "notes": tuple(_way_notes(ways)),
        "remarks": tuple(remarks),
    }


_Cell = tuple[str, str, str]


def _cost_cell(way: Way, large_usd: float | None) -> _Cell:
    if way.usd.value is None:
        return _NOT_MEASURED, "", ""
    compared = f"{percent(way.usd.value / large_usd)} of large" if large_usd and way.name != "large" else ""
    return dollars(1000 * way.usd.value), compared, _BASES[way.usd.basis]


def _latency_cell(latency: Amount) -> _Cell:
    if latency.value is None:
        return _NOT_MEASURED, "", ""
    spread = "" if latency.p50 is None else f"p50 {milliseconds(latency.p50)}, p95 {milliseconds(latency.p95)}"
    return milliseconds(latency.value), spread, _BASES[latency.basis]


def _accuracy_cell(accuracy: Accuracy) -> _Cell:
    if accuracy.value is None:
        return _NOT_MEASURED, "", ""
    ends = (accuracy.value, accuracy.value if accuracy.up_to is None else accuracy.up_to)
    figure = " to ".join(dict.fromkeys(map(percent, ends)))
    rate = accuracy.model_dump()
    return figure, f"{interval(rate)} {fraction(rate)}".strip(), _BASES[accuracy.basis]


def _way_notes(ways: Ways) -> Iterator[str]:
    """Yield what a reader must know of the rows, the intervals, the bases and the latencies."""
    by_name = {way.name: way for way in ways.ways}
    counts = counted(ways.rows, "row")
    if ways.held_out:
        yield (
            f"All figures are of the {counts} that the policy held out; none of them calibrated it. Every routed call "
            "asks the tuned model first, so an escalated call pays and waits for both models."
        )
    else:
        yield f"Figures are of all {counts} that are scored. A policy is measured on the rows that it holds out."
    yield "Intervals of measured shares are 95% Wilson intervals, which treat rows as independent."
    if by_name["routed"].accuracy.basis == "assumed":
        assumed = by_name["large"].accuracy.value
        yield (
            f"The large model did not answer these rows: its accuracy of {percent(assumed)} is assumed. Routed "
            "accuracy is a range: if all its errors lie among the tuned model’s, and if they are independent of them."
        )
        yield (
            f"The routed interval covers both. It resamples whole {ways.clustered_by}s with the large model’s accuracy "
            "fixed, so it shows the uncertainty of the tuned model’s part only."
        )
    if ways.certified:
        yield "The guarantee chose its threshold on these rows; the intervals do not account for that."
    if ways.expect_escalate:
        rows = f"{counted(ways.expect_escalate, 'row')} expect{'s' if ways.expect_escalate == 1 else ''} `escalate`"
        if ways.held_out:
            yield f"{rows}: these count as wrong for the tuned model alone and as right for the large model."
        else:
            yield f"{rows}: these count as right only for a model that calls it."
    if ways.gold_is_large:
        names = ", ".join(ways.gold_models)
        yield f"The gold is what {names} answered, the large model itself: it is right by construction."
    bases = {amount.basis for way in ways.ways for amount in (way.usd, way.latency_ms)}
    if "assumed" in bases:
        yield "An assumed cost or latency was given to `toolhone route`, or is made from one that was."
    if "measured" in {way.latency_ms.basis for way in ways.ways}:
        yield (
            "The latency of an answer from a batch is the batch’s time divided by its size. One waiting user waits "
            "longer."
        )


def ways_table(page: Mapping[str, Any]) -> Table:
    """Return the three-row table for the terminal; `page` is that of `ways_page`."""
    table = Table(title=Text(page["title"]), title_justify="left", title_style="bold")
    for heading in page["head"]:
        table.add_column(Text(heading), justify="left" if heading == "" else "right")
    for row in page["rows"]:
        cells = ("\n".join(filter(None, cell)) for cell in row["cells"])
        table.add_row(Text("\n".join(filter(None, (row["name"], row["detail"])))), *map(Text, cells))
        table.add_section()
    return table


def _choice(routing: Routing, case: Case) -> str:
    """How often the policy is right, and two others that escalate as many calls."""
    basis = f" ({_ERRORS[case.errors]}, assumed)" if routing.assumed else ""
    return f"right{basis}: " + ", ".join(f"{name} {right}" for name, right in _alternatives(case.point))


def _alternatives(point: Point) -> list[tuple[str, str]]:
    rights = {"policy": point.accuracy, "random": point.random, "oracle": point.oracle}
    return [(name, share(right)) for name, right in rights.items()]


def write_routing(routing: Routing, folder: Path, name: str, made_from: Mapping[str, Path | None]) -> None:
    """Write route.html, policy.json and route.json into a folder.

    Args:
        name: what the page calls the run.
        made_from: the files read, which route.json records: "small", "large", "rows" and the like.
    """
    write_text(folder / "route.html", html_page("route", page=_page(routing, name), routing=routing))
    write_policy(folder / "policy.json", routing.policy)
    files = files_made_from(folder, {"policy": folder / "policy.json", **made_from})
    write_json(folder / "route.json", {**routing_json(routing), "made_from": files})


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
        "ways": routing.ways.model_dump(),
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
    """Return the values that the template shows besides `routing` itself."""
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
        "ways": ways_page(routing.ways),
        "cases": [_case(routing, case) for case in routing.cases],
        "diagram": reliability_plot(routing.reliability),
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
    """Return one case in words: the alternatives, how close the cascade is to the large model, and the curve."""
    curve = case.curve
    return {
        "title": f"Assumed, {_ERRORS[case.errors]}" if routing.assumed else f"Measured: {routing.large}",
        "alternatives": _alternatives(case.point),
        "closeness": _closeness(routing, case),
        "plot": deferral_plot(curve, case.point),
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
    """Return each feature with its mean and its weight per standard deviation, the largest weight first."""
    calibrator = policy.calibrator
    parts = sorted(zip(policy.features, calibrator.means, calibrator.weights, strict=True), key=lambda p: -abs(p[2]))
    return [(name.replace("_", " "), f"{mean:.3f}", f"{weight:+.2f}") for name, mean, weight in parts]
