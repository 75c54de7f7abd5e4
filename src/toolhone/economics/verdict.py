"""The verdict: which way of answering is best, from which volume on it pays, and how soon.

In: `Inputs` with prices. Out: a decision, break-even volumes, payback and what a yearly budget allows.

The rule: where a rule of thumb with a veto speaks against tuning (`bands.vetoes`), stay with the API. Else take the way
that costs least over the horizon, wrong answers and what is paid once with it, among those that keep to the yearly
budget and the least accuracy. Where none does, stay with the API, and say so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from toolhone.economics.bands import vetoes
from toolhone.economics.cost import DAYS_A_MONTH
from toolhone.economics.inputs import Inputs
from toolhone.economics.options import (
    TABLE_YEARS,
    Option,
    accuracy_of,
    api_call_usd,
    calls_by_month,
    ledger,
    options,
)

Answer = Literal["fine-tune", "route", "stay"]

_ANSWERS: dict[Option, Answer] = {"tuned": "fine-tune", "route": "route", "api": "stay", "cheap": "stay"}
_STEPS_A_DECADE = 20
_MOST_CALLS_PER_DAY = 1e10


@dataclass(frozen=True, slots=True)
class Decision:
    """`answer`, and the way of answering it comes to. `cheapest` is what the money alone would take among the ways that
    keep to what is asked (None: none does); `vetoed_by` are the rules that forbid tuning."""

    answer: Answer
    option: Option
    cheapest: Option | None
    vetoed_by: tuple[str, ...]


def decide(inputs: Inputs) -> Decision:
    """Apply the rule of this module."""
    forbidden = tuple(vetoes(inputs))
    fit = [option for option in options(inputs) if not shortfalls(inputs, option)]
    apis = [option for option in options(inputs) if _ANSWERS[option] == "stay"]
    cheapest = _least(inputs, fit) if fit else None
    if cheapest is None or (forbidden and _ANSWERS[cheapest] != "stay"):
        option = _least(inputs, [option for option in apis if option in fit] or apis)
    else:
        option = cheapest
    return Decision(_ANSWERS[option], option, cheapest, forbidden)


def _least(inputs: Inputs, among: Iterable[Option]) -> Option:
    """The way with the least total over the horizon; of equal ones the first, so an API before a model to be tuned."""
    return min(among, key=lambda option: ledger(inputs, option).total(inputs.horizon_months))


def shortfalls(inputs: Inputs, option: Option) -> list[str]:
    """Which of "yearly budget" and "least accuracy" a way does not keep to, in any year that the horizon touches."""
    short = []
    years = range(-(-inputs.horizon_months // 12))
    costs = ledger(inputs, option)
    if inputs.yearly_budget is not None and any(costs.paid_in_year(year) > inputs.yearly_budget for year in years):
        short.append("yearly budget")
    if inputs.least_accuracy is not None and accuracy_of(inputs, option) < inputs.least_accuracy:
        short.append("least accuracy")
    return short


def saving(inputs: Inputs, option: Option, rival: Option) -> float:
    """Dollars that a way saves against another over the horizon; below 0 where it costs more."""
    months = inputs.horizon_months
    return ledger(inputs, rival).total(months) - ledger(inputs, option).total(months)


def break_even_calls(inputs: Inputs, option: Option, rival: Option) -> float | None:
    """The least calls a day at which a way costs no more than another over the horizon; None where there are none.

    There the two totals meet: with a given number of machines both are linear in the calls, and a further machine only
    adds to the cost of the way that needs it. So just past it, and past each further machine, the saving can be gone
    again for a while. Found by steps of an eighth (12%) and bisection within the first that turns the sign. 0 where the
    way is no dearer even at a call a day.
    """

    def saves(calls: float) -> bool:
        return saving(dataclasses.replace(inputs, calls_per_day=calls), option, rival) >= 0

    low = 1.0
    if saves(low):
        return 0.0
    while low < _MOST_CALLS_PER_DAY:
        high = low * 10 ** (1 / _STEPS_A_DECADE)
        if saves(high):
            return _turn(low, high, saves)
        low = high
    return None


def _turn(low: float, high: float, holds: Callable[[float], bool]) -> float:
    """The point between two at which a condition begins to hold, from the side where it holds."""
    for _ in range(80):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def payback_months(inputs: Inputs, option: Option, rival: Option) -> float | None:
    """Months until what was paid once is earned back: until both have cost the same, in all, for the first time.

    Within the month straight between its ends. None where it is not in three years or in the horizon; 0 where nothing
    is paid once and the way is no dearer.
    """
    own, other = ledger(inputs, option, TABLE_YEARS), ledger(inputs, rival, TABLE_YEARS)
    behind = own.once - other.once
    if behind <= 0 and own.paid[0] + own.errors[0] <= other.paid[0] + other.errors[0]:
        return 0.0
    for month in range(len(own.paid)):
        gained = other.paid[month] + other.errors[month] - own.paid[month] - own.errors[month]
        if gained > 0 and behind - gained <= 0:
            return month + max(behind, 0.0) / gained
        behind -= gained
    return None


@dataclass(frozen=True, slots=True)
class EscalationLimit:
    """The most of the calls that routing may hand to the API within the yearly budget, as a share: `free_small` if the
    small model cost nothing at all, `with_small` with all it costs. Below 0: over budget without any."""

    free_small: float
    with_small: float


def escalation_limit(inputs: Inputs) -> EscalationLimit | None:
    """What the yearly budget allows; None without a budget. Of the years that the horizon touches, the tightest counts.

    budget / (calls of the year * API's dollars a call), and the same of the budget less what the small model costs.
    """
    api = api_call_usd(inputs, "api")
    if inputs.yearly_budget is None or api == 0:
        return None
    alone = ledger(inputs, "tuned")
    months = calls_by_month(inputs)
    free, own = [], []
    for year in range(-(-inputs.horizon_months // 12)):
        all_escalated = sum(months[12 * year : 12 * year + 12]) * DAYS_A_MONTH * api
        free.append(inputs.yearly_budget / all_escalated)
        own.append((inputs.yearly_budget - alone.paid_in_year(year)) / all_escalated)
    return EscalationLimit(min(free), min(own))
