"""The words of routing: what a threshold was chosen for, what it comes to, and how costs are written."""

from __future__ import annotations

import math

from toolhone.report.numbers import ABSENT, interval, percent
from toolhone.route.guarantee import promise
from toolhone.route.policy import Goal
from toolhone.route.resample import Figure
from toolhone.route.route import Case, Routing

POINTS = 0.02
"""How far behind the large model a cascade may be that is told to be as good for less."""

ERRORS = {
    "measured": "as measured",
    "independent": "errors independent of the small model's",
    "overlapping": "errors all among the small model's",
}


def goal_words(goal: Goal) -> str:
    """What the threshold was chosen for."""
    if goal.kind == "guarantee":
        assert goal.risk is not None
        assert goal.alpha is not None
        assert goal.delta is not None
        return f"certify {promise(goal.risk, goal.alpha, goal.delta)}"
    if goal.kind == "budget":
        return f"spend at most ${goal.budget_usd:g} on 1,000 calls"
    if goal.kind == "escalation":
        return f"hand over {short_percent(goal.escalation)} of the calls"
    return f"be right on {short_percent(goal.accuracy)} of the calibration rows"


def short_percent(share: float | None) -> str:
    """A share that was asked for, as "5%" or "2.5%"."""
    return ABSENT if share is None else f"{100 * share:.4g}%"


def share(figure: Figure) -> str:
    """A share with its interval, "93.4% [90.1, 96.2]"."""
    return " ".join(part for part in (percent(figure["value"]), interval(figure)) if part)


def number(figure: Figure, digits: int = 3) -> str:
    """A figure that is no share, with its interval."""
    if figure["value"] is None:
        return ABSENT
    text = f"{figure['value']:.{digits}f}"
    return text if figure["low"] is None else f"{text} [{figure['low']:.{digits}f}, {figure['high']:.{digits}f}]"


def dollars(value: float | None) -> str:
    """A cost to three figures, never as a power of ten: "$0.0012", "$0.0000214"."""
    if value is None:
        return ABSENT
    if value == 0:
        return "$0"
    digits = max(0, 2 - math.floor(math.log10(value)))
    text = f"{value:,.{digits}f}"
    return f"${text.rstrip('0').rstrip('.') if digits else text}"


def seconds(value: float | None) -> str:
    """A latency: "0.30 s"."""
    return ABSENT if value is None else f"{value:.2f} s" if value < 10 else f"{value:.0f} s"


def verdict(routing: Routing) -> str:
    """The page's first sentence: what is kept, how often the cascade is right, and at what cost."""
    if routing.certificate is not None and routing.certificate.certified is None:
        return routing.certificate.sentence() + " The policy hands over every call."
    first, last = routing.cases[0].point, routing.cases[-1].point
    kept = percent(1 - first.escalation["value"])
    right = percent(first.accuracy["value"])
    if routing.assumed:
        low, high = sorted((first.accuracy["value"], last.accuracy["value"]))
        right = f"{percent(low)} to {percent(high)} (assumed)"
    agree = "agrees with gold" if routing.gold.models else "is right"
    text = f"The small model keeps {kept} of the calls, and the cascade {agree} on {right}"
    if first.of_large["value"] is not None:
        text += f", at {percent(first.of_large['value'])} of the large model's cost"
    return text + "."


def closeness(routing: Routing, case: Case) -> str:
    """Whether the cascade is within POINTS of the large model, where that can be said."""
    if routing.gold.is_large:
        return (
            f"Whether the cascade is within {100 * POINTS:g} points of the large model is not said: gold is the large "
            "model's own answers."
        )
    behind = case.point.behind_large
    figure = f"{100 * behind['value']:+.1f} points{f' {interval(behind)}' if behind['low'] is not None else ''}"
    if routing.assumed:
        return f"Behind the large model, {ERRORS[case.errors]} (assumed): {figure}."
    if behind["low"] is None:
        return f"Behind the large model: {figure}."
    if behind["high"] <= POINTS:
        return f"The cascade is within {100 * POINTS:g} points of the large model: behind it by {figure}."
    if behind["low"] > POINTS:
        return f"The cascade is more than {100 * POINTS:g} points behind the large model: {figure}."
    return (
        f"These rows cannot tell whether the cascade is within {100 * POINTS:g} points of the large model: behind it "
        f"by {figure}."
    )
