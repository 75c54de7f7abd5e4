"""The words of routing: what a threshold was chosen for, what it comes to, and how costs are written."""

from __future__ import annotations

from toolhone.evaluate.wording import ABSENT, interval, percent
from toolhone.route.gold import ASSUMED
from toolhone.route.guarantee import RISKS
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
        return (
            f"certify: {RISKS[goal.risk]} at most {short_percent(goal.alpha)}, but for a chance of "
            f"{short_percent(goal.delta)}"
        )
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
    """A cost, to three figures: "$0.0012", "$0.00102"."""
    if value is None:
        return ABSENT
    return f"${value:.3g}" if value >= 1e-4 or value == 0 else f"${value:.2e}"


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
        return f"Within {100 * POINTS:g} points of the large model: behind it by {figure}."
    if behind["low"] > POINTS:
        return f"More than {100 * POINTS:g} points behind the large model: {figure}."
    return (
        f"These rows cannot tell whether it is within {100 * POINTS:g} points of the large model: behind by {figure}."
    )


def large_name(routing: Routing) -> str:
    """The large model as a heading names it."""
    return "Large model (assumed)" if routing.large == ASSUMED else f"Large: {routing.large}"
