"""The whole advice: the decision, the figures behind it, and the sentences that say it.

In: a `Case`. Out: one frozen `Advice`, which the terminal, the JSON and the page only lay out.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from toolhone.economics.bands import Criterion, criteria
from toolhone.economics.cost import DAYS_A_MONTH, DAYS_A_YEAR
from toolhone.economics.flips import Flip, flips
from toolhone.economics.inputs import FIELDS, Inputs
from toolhone.economics.options import (
    TABLE_YEARS,
    Option,
    accuracy_of,
    api_call_usd,
    calls_by_month,
    ledger,
    option_name,
    options,
    route_accuracy,
)
from toolhone.economics.read import ASSUMED, Case
from toolhone.economics.verdict import (
    Answer,
    Decision,
    EscalationLimit,
    break_even_calls,
    decide,
    escalation_limit,
    payback_months,
    saving,
    shortfalls,
)
from toolhone.report.advice_wording import number, shown_share, shown_value
from toolhone.report.numbers import money, months

ANSWERS: dict[Answer, str] = {"fine-tune": "fine-tune", "route": "route", "stay": "stay with the API"}
"""The verdicts in words."""


@dataclass(frozen=True, slots=True)
class OptionFigures:
    """One way of answering. Dollars over the horizon: `once_usd`, `running_usd`, `errors_usd`; `call_usd` is all three
    over its calls. `accuracy_range` is routing's, from errors that overlap fully to independent ones; `short_of` names
    what the way does not keep to."""

    option: Option
    name: str
    accuracy: float
    accuracy_range: tuple[float, float] | None
    once_usd: float
    running_usd: float
    errors_usd: float
    call_usd: float
    short_of: tuple[str, ...]

    @property
    def total_usd(self) -> float:
        return self.once_usd + self.running_usd + self.errors_usd


@dataclass(frozen=True, slots=True)
class Against:
    """A tuned way beside an API: what it saves over the horizon in dollars, from how many calls a day it is no dearer,
    and after how many months it has earned back what was paid once."""

    option: Option
    rival: Option
    saving_usd: float
    break_even_calls_per_day: float | None
    payback_months: float | None


@dataclass(frozen=True, slots=True)
class Year:
    """A year of the table: its calls, and by way of answering the dollars paid, of errors, and of all years so far."""

    number: int
    calls: float
    paid_usd: dict[Option, float]
    errors_usd: dict[Option, float]
    so_far_usd: dict[Option, float]


@dataclass(frozen=True, slots=True)
class Advice:
    case: Case
    decision: Decision
    headline: str
    reasons: tuple[str, ...]
    criteria: tuple[Criterion, ...]
    options: tuple[OptionFigures, ...]
    against: tuple[Against, ...]
    years: tuple[Year, ...]
    flips: tuple[Flip, ...]
    limit: EscalationLimit | None

    def to_json(self) -> dict[str, Any]:
        """Everything with all its digits."""
        inputs = self.case.inputs
        listed = {
            name: {"value": getattr(inputs, name), "unit": FIELDS[name].metadata["unit"], "source": source}
            for name, source in self.case.sources.items()
        }
        return {
            "verdict": self.decision.answer,
            "option": self.decision.option,
            "cheapest": self.decision.cheapest,
            "vetoed_by": list(self.decision.vetoed_by),
            "headline": self.headline,
            "reasons": list(self.reasons),
            "criteria": [dataclasses.asdict(entry) for entry in self.criteria],
            "options": [{**dataclasses.asdict(entry), "total_usd": entry.total_usd} for entry in self.options],
            "against": [dataclasses.asdict(entry) for entry in self.against],
            "years": [dataclasses.asdict(entry) for entry in self.years],
            "flips": [{**dataclasses.asdict(entry), "change": entry.change} for entry in self.flips],
            "escalation_limit": None if self.limit is None else dataclasses.asdict(self.limit),
            "inputs": listed,
            "remarks": list(self.case.remarks),
        }


def advise(case: Case) -> Advice:
    """Work everything out."""
    inputs = case.inputs
    decision = decide(inputs)
    own: tuple[Option, ...] = ("tuned", "route")
    rivals = [option for option in options(inputs) if option not in own]
    against = tuple(
        Against(
            option,
            rival,
            saving(inputs, option, rival),
            break_even_calls(inputs, option, rival),
            payback_months(inputs, option, rival),
        )
        for option in own
        for rival in rivals
    )
    limit = escalation_limit(inputs)
    found = criteria(inputs)
    turns = tuple(flips(inputs))
    return Advice(
        case=case,
        decision=decision,
        headline=_headline(inputs, decision),
        reasons=tuple(_reasons(case, decision, found, turns, limit)),
        criteria=found,
        options=tuple(_figures(inputs, option) for option in options(inputs)),
        against=against,
        years=tuple(_year(inputs, year) for year in range(TABLE_YEARS)),
        flips=turns,
        limit=limit,
    )


def _figures(inputs: Inputs, option: Option) -> OptionFigures:
    costs = ledger(inputs, option)
    over = inputs.horizon_months
    calls = sum(calls_by_month(inputs)[:over]) * DAYS_A_MONTH
    reach = None
    if option == "route":
        known = (inputs.small_accuracy, inputs.api_accuracy, inputs.escalation, inputs.auroc)
        reach = route_accuracy(*known, 1.0), route_accuracy(*known, 0.0)
    return OptionFigures(
        option=option,
        name=option_name(inputs, option),
        accuracy=accuracy_of(inputs, option),
        accuracy_range=reach,
        once_usd=costs.once,
        running_usd=sum(costs.paid[:over]),
        errors_usd=sum(costs.errors[:over]),
        call_usd=costs.total(over) / calls,
        short_of=tuple(shortfalls(inputs, option)),
    )


def _year(inputs: Inputs, year: int) -> Year:
    costs = {option: ledger(inputs, option, TABLE_YEARS) for option in options(inputs)}
    first, last = 12 * year, 12 * year + 12
    return Year(
        number=year + 1,
        calls=sum(calls_by_month(inputs, TABLE_YEARS)[first:last]) * DAYS_A_MONTH,
        paid_usd={option: entry.paid_in_year(year) for option, entry in costs.items()},
        errors_usd={option: sum(entry.errors[first:last]) for option, entry in costs.items()},
        so_far_usd={option: entry.total(last) for option, entry in costs.items()},
    )


def _headline(inputs: Inputs, decision: Decision) -> str:
    name = option_name(inputs, decision.option)
    total = money(ledger(inputs, decision.option).total(inputs.horizon_months))
    over = f"over {inputs.horizon_months} month{'' if inputs.horizon_months == 1 else 's'}"
    if decision.answer == "fine-tune":
        return f"Fine-tune: {total} {over}, {_savings(inputs, decision.option)}"
    if decision.answer == "route":
        share = shown_share(inputs.escalation)
        return (
            f"Route: the tuned model first, {share} to {inputs.api_model}: {total} {over}, {_savings(inputs, 'route')}"
        )
    return f"Stay with the API: {name}, {total} {over}{_dearer(inputs, decision.option)}"


def _dearer(inputs: Inputs, option: Option) -> str:
    """How the tuned ways compare with staying, where the money speaks for staying too."""
    own: tuple[Option, ...] = ("tuned", "route")
    more = {other: -saving(inputs, other, option) for other in own}
    if min(more.values()) < 0:
        return ""
    return f"; the tuned model would cost {money(more['tuned'])} more, routing {money(more['route'])}"


def _savings(inputs: Inputs, option: Option) -> str:
    parts = []
    for rival in options(inputs):
        if rival in ("api", "cheap"):
            saved = saving(inputs, option, rival)
            parts.append(f"{money(abs(saved))} {'less' if saved >= 0 else 'more'} than {option_name(inputs, rival)}")
    return " and ".join(parts)


def _reasons(
    case: Case,
    decision: Decision,
    found: tuple[Criterion, ...],
    turns: tuple[Flip, ...],
    limit: EscalationLimit | None,
) -> list[str]:
    inputs = case.inputs
    said = [_api_bill(inputs)]
    for entry in found:
        if entry.side == "against" and entry.veto:
            said.append(f"Against tuning: {entry.name} {entry.value} ({entry.band}): {entry.says}.")
    if decision.vetoed_by and decision.cheapest in ("tuned", "route"):
        cheapest = option_name(inputs, decision.cheapest)
        said.append(f"The money alone would choose {cheapest}: {_savings(inputs, decision.cheapest)}.")
    if decision.cheapest is None:
        said.append("No way keeps to what is asked (yearly budget, least accuracy); something must give.")
    if not decision.vetoed_by and any(entry.side == "between" and entry.veto for entry in found):
        between = ", ".join(f"{entry.name} {entry.value}" for entry in found if entry.side == "between" and entry.veto)
        said.append(f"Between the bands ({between}), the money decides: the least total over the horizon.")
    if decision.option == "cheap" and not decision.vetoed_by:
        own: tuple[Option, ...] = ("tuned", "route")
        best = max(own, key=lambda option: saving(inputs, option, "api"))
        if saving(inputs, best, "api") > 0:
            said.append(
                f"Beside {inputs.api_model} alone, {option_name(inputs, best)} would pay, with "
                f"{money(saving(inputs, best, 'api'))} less; {option_name(inputs, 'cheap')} is cheaper still."
            )
    if inputs.yearly_budget is not None:
        said.append(_budget(inputs, inputs.yearly_budget, limit))
    nearest = next((flip for flip in turns if flip.change is not None), None)
    if nearest is not None:
        assumed = " (assumed)" if is_assumed(case, nearest.name) else ""
        said.append(
            f"Nearest turn: {nearest.name} at {shown_value(nearest.name, nearest.at)} instead of "
            f"{shown_value(nearest.name, nearest.now)}{assumed} makes it {ANSWERS[nearest.answer]}."
        )
    if case.accuracy_interval is not None:
        said.append(_interval(case.accuracy_interval, turns))
    if case.assumed:
        said.append(f"{len(case.assumed)} of {len(case.sources)} inputs are assumed, not given or measured.")
    return said


def _interval(interval: tuple[float, float], turns: tuple[Flip, ...]) -> str:
    """Whether the verdict holds over the interval of the measured accuracy."""
    low, high = interval
    words = f"The measured accuracy is between {100 * low:.1f}% and {100 * high:.1f}% (95%)"
    inside = [flip for flip in turns if flip.name == "small_accuracy" and low <= float(flip.at) <= high]
    if not inside:
        return f"{words}; the verdict is the same all over."
    at = " and ".join(f"at {shown_value(flip.name, flip.at)} it is {ANSWERS[flip.answer]}" for flip in inside)
    return f"{words}, and {at}: more test rows would tell."


def _api_bill(inputs: Inputs) -> str:
    call = api_call_usd(inputs, "api")
    day = call * inputs.calls_per_day
    return (
        f"{number(inputs.calls_per_day)} calls a day at {money(call)} ({inputs.api_model}) are {money(day)} a day, "
        f"{money(day * DAYS_A_YEAR)} in {DAYS_A_YEAR} days{' without growth' if inputs.growth_per_year else ''}."
    )


def _budget(inputs: Inputs, budget: float, limit: EscalationLimit | None) -> str:
    if limit is None:
        return f"The API costs nothing, so {money(budget)} a year bounds no escalation."
    said = f"Staying under {money(budget)} a year "
    if limit.free_small >= 1:
        said += "leaves room to hand over every call if the small model were free"
    else:
        said += (
            f"with the rest at {money(api_call_usd(inputs, 'api'))} a call needs escalation under "
            f"{shown_share(limit.free_small)}, even if the small model were free"
        )
    if limit.with_small <= 0:
        return f"{said}; with what it costs, no escalation fits."
    if limit.with_small >= 1 or limit.with_small == limit.free_small:
        return f"{said}."
    return f"{said}; with what it costs, under {shown_share(limit.with_small)}."


def break_even_words(entry: Against) -> str:
    calls = entry.break_even_calls_per_day
    return "never" if calls is None else "any volume" if calls == 0 else f"{number(calls)} a day"


def payback_words(inputs: Inputs, entry: Against) -> str:
    found = entry.payback_months
    if found is None:
        return f"not in {len(calls_by_month(inputs, TABLE_YEARS)) // 12} years"
    return "at once" if found == 0 else months(found)


def is_assumed(case: Case, name: str) -> bool:
    """Whether a figure rests on a default. An API's cost of a call does where its tokens do."""
    if name in ("api_call_usd", "cheap_call_usd") and name not in case.sources:
        return any(case.sources.get(entry) == ASSUMED for entry in ("prompt_tokens", "completion_tokens"))
    return case.sources.get(name) == ASSUMED
