"""The words of `toolhone route`: its sentences, and the table of the ways to answer, for the terminal and the page."""

from __future__ import annotations

import textwrap

from rich.table import Table
from rich.text import Text

from toolhone.rates import Figure
from toolhone.report import numbers
from toolhone.report.numbers import ABSENT, interval, percent
from toolhone.route.route import Case, Routing

HEADINGS = ("", "Escalated", "Right", "Cost of a call", "Of the large", "Latency", "Basis")

POINTS = 0.02
"""How far behind the large model a cascade may be to count as being as good."""

ERRORS = {
    "measured": "as measured",
    "independent": "errors independent of the small model's",
    "overlapping": "errors all among the small model's",
}


def share(figure: Figure) -> str:
    """Write a share with its interval, "93.4% [90.1, 96.2]"."""
    return f"{percent(figure['value'])} {interval(figure)}".rstrip()


def number(figure: Figure) -> str:
    """Write a figure that is not a share, with its interval, "0.937 [0.880, 0.981]"."""
    value, low, high = (numbers.number(figure[key], 3) for key in ("value", "low", "high"))
    return value if figure["low"] is None else f"{value} [{low}, {high}]"


def dollars(figure: Figure) -> str:
    """Write a cost, "$0.0034"."""
    return ABSENT if figure["value"] is None else numbers.dollars(figure["value"])


def summary_lines(routing: Routing) -> list[str]:
    """Return what is printed below the table."""
    found, rows = routing.reliability, routing.policy.rows
    lines = [
        f"{rows['calibration']:,} rows calibrate, {rows['held_out']:,} are held out, {routing.how_split}",
        f"confidence: AUROC {number(found.auroc)}, Brier {number(found.brier)} (best constant "
        f"{found.brier_constant['value']:.3f}), ECE {number(found.ece)} (by chance {found.ece_by_chance:.3f})",
        f"goal: {goal_words(routing)}",
        None if routing.certificate is None else routing.certificate.sentence(),
        *(closeness(routing, case) for case in routing.cases),
        gold_sentence(routing),
    ]
    return [line for line in lines if line is not None]


def gold_sentence(routing: Routing) -> str | None:
    """Say what follows from gold that a model answered; None if none did."""
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


def goal_words(routing: Routing) -> str:
    """Say what the threshold was chosen for."""
    goal = routing.policy.goal
    if routing.certificate is not None:
        return f"certify {routing.certificate.promise()}"
    if goal.budget_usd is not None:
        return f"spend at most {numbers.dollars(goal.budget_usd)} on 1,000 calls"
    if goal.escalation is not None:
        return f"escalate {percent(goal.escalation)} of the calls"
    return f"be right on {percent(goal.accuracy)} of the calibration rows"


def verdict(routing: Routing) -> str:
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


def closeness(routing: Routing, case: Case) -> str:
    """Say whether the cascade is within POINTS of the large model, if the rows show it."""
    behind, near = case.point.behind_large, f"within {100 * POINTS:g} points of the large model"
    figure = numbers.points(behind)
    if routing.gold.is_large:
        return f"Whether the cascade is {near} is not said: gold is the large model's own answers."
    if routing.assumed:
        return f"Behind the large model, {ERRORS[case.errors]} (assumed): {figure}."
    if behind["low"] is None:
        return f"Behind the large model: {figure}."
    if behind["high"] <= POINTS:
        return f"The cascade is {near}: behind it by {figure}."
    if behind["low"] > POINTS:
        return f"The cascade is more than {100 * POINTS:g} points behind the large model: {figure}."
    return f"These rows cannot show whether the cascade is {near}: behind it by {figure}."


def table_rows(routing: Routing, case: Case) -> list[tuple[str, ...]]:
    """Return the ways to answer in words, in the order of HEADINGS. The last cell says whether accuracies are measured
    or rest on what is assumed of the large model."""
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
        (name, escalated, share(right), dollars(usd), of_large, _seconds(latency["value"]), on)
        for name, escalated, right, usd, of_large, latency, on in ways
    ]


def _seconds(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.2f} s" if value < 10 else f"{value:.0f} s"


def models_table(routing: Routing, case: Case) -> Table:
    """Return the table for the terminal: only accuracies have intervals, and the title has the basis."""
    basis = f", the large model assumed: {ERRORS[case.errors]}" if routing.assumed else ""
    title = Text(f"On {routing.reliability.rows:,} held-out rows{basis}")
    table = Table(title=title, title_justify="left", title_style="bold")
    for heading in HEADINGS[:-1]:
        # Broken in two, so that the table fits eighty columns.
        broken = "\n".join(textwrap.wrap(heading, 9))
        table.add_column(broken, justify="left" if heading == "" else "right", no_wrap=True)
    for cells in table_rows(routing, case):
        pairs = zip(HEADINGS[:-1], cells[:-1], strict=True)
        table.add_row(*(Text(cell if heading == "Right" else cell.partition(" [")[0]) for heading, cell in pairs))
    return table
