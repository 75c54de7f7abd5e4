"""The four ways to answer the calls: what each costs, how often it is right, and when one is cheaper than another.

In: `Inputs` with prices. Out: dollars, shares, break-even volumes, months until payback. Calls a day are constant over
the horizon; a month is 365 / 12 days.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from statistics import NormalDist
from typing import Literal

from toolhone.economics.cost import DAYS_A_MONTH, DAYS_A_YEAR, Machine, Price, call_cost_usd, machines_usd_per_day
from toolhone.economics.inputs import NONE, Inputs

Option = Literal["api", "cheap", "tuned", "route"]
OWN_OPTIONS: tuple[Option, ...] = ("tuned", "route")

_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class Costs:
    """The cost of one option, in dollars over the horizon: one-time, running (upkeep included), wrong answers, and
    their sum. `call_usd` is the sum divided by the calls. `first_year_usd` is paid in the first year, the most
    expensive one, without wrong answers. `short_of` names the limits that the option misses."""

    option: Option
    name: str
    accuracy: float
    once_usd: float
    running_usd: float
    errors_usd: float
    total_usd: float
    call_usd: float
    first_year_usd: float
    short_of: tuple[str, ...]


def costs(inputs: Inputs, option: Option) -> Costs:
    """Return what an option costs."""
    own, months, accuracy = option in OWN_OPTIONS, inputs.horizon_months, accuracy_of(inputs, option)
    once = inputs.once_usd if own else 0.0
    month = running_usd_per_day(inputs, option) * DAYS_A_MONTH + (inputs.upkeep_usd_per_month if own else 0.0)
    calls = inputs.calls_per_day * DAYS_A_MONTH * months
    errors = calls * (1 - accuracy) * inputs.error_usd
    total = once + months * month + errors
    first_year = once + 12 * month
    over = inputs.yearly_budget is not None and first_year > inputs.yearly_budget
    below = inputs.least_accuracy is not None and accuracy < inputs.least_accuracy
    short_of = ("yearly budget",) * over + ("least accuracy",) * below
    who = option, option_name(inputs, option), accuracy
    return Costs(*who, once, months * month, errors, total, total / calls, first_year, short_of)


def options(inputs: Inputs) -> tuple[Option, ...]:
    """Return the available options; the cheap API only if one is given."""
    return ("api", "cheap", "tuned", "route") if inputs.has_cheap else ("api", "tuned", "route")


def option_name(inputs: Inputs, option: Option) -> str:
    """Return the option's name for a reader; for an API, its model's name."""
    cheap = "the cheap API" if inputs.cheap_model == NONE else inputs.cheap_model
    return {"api": inputs.api_model, "cheap": cheap, "tuned": "tuned model", "route": "routing"}[option]


def api_call_usd(inputs: Inputs, side: Option) -> float:
    """Return an API's dollars a call: as given, or from tokens and prices."""
    names = ("call_usd", "price_in", "price_cached", "price_out")
    values: list[float | None] = [getattr(inputs, f"{side}_{name}") for name in names]
    stated, into, cached, out = values
    if stated is not None:
        return stated
    if into is None or cached is None or out is None:
        raise ValueError(f"the prices of {side} are not filled in")
    tokens_cached = inputs.prompt_tokens * inputs.cached_share
    return call_cost_usd(Price(into, cached, out), inputs.prompt_tokens, inputs.completion_tokens, tokens_cached)


def running_usd_per_day(inputs: Inputs, option: Option) -> float:
    """Return the dollars a day for answering, without upkeep: calls * dollars a call, or the rent of whole machines.
    Routing pays for the small model on every call, and for the API on the escalated share."""
    calls = inputs.calls_per_day
    if option not in OWN_OPTIONS:
        return calls * api_call_usd(inputs, option)
    escalated = calls * inputs.escalation * api_call_usd(inputs, "api") if option == "route" else 0.0
    if inputs.small_call_usd is not None:
        return calls * inputs.small_call_usd + escalated
    rate = inputs.gpu_usd_per_hour, inputs.calls_per_second
    return machines_usd_per_day(Machine(*rate, inputs.utilisation, inputs.peak, inputs.machines), calls) + escalated


def accuracy_of(inputs: Inputs, option: Option) -> float:
    """Return the share of calls that the option answers correctly."""
    if option == "route":
        known = (inputs.small_accuracy, inputs.api_accuracy, inputs.escalation, inputs.auroc, inputs.overlap)
        return route_accuracy(*known)
    return {"api": inputs.api_accuracy, "cheap": inputs.cheap_accuracy, "tuned": inputs.small_accuracy}[option]


def route_accuracy(small: float, large: float, escalation: float, auroc: float, overlap: float) -> float:
    """Return the accuracy of a cascade that escalates the least confident share of the calls.

    Overlap 0, independent errors: small + caught - escalation * (1 - large), where caught is (1 - small) times
    `errors_caught`. Overlap 1: the large model's errors are among the small one's; if it makes more errors than the
    small one, the rest are spread evenly over the other calls. In between, the two are interpolated linearly.
    """
    wrong = 1 - small
    caught = wrong * errors_caught(wrong, escalation, auroc)
    independent = small + caught - escalation * (1 - large)
    shared = min(1 - large, wrong)
    spoiled = (escalation - caught) * min(1.0, ((1 - large) - shared) / small) if small else 0.0
    overlapping = small + (caught * (wrong - shared) / wrong if wrong else 0.0) - spoiled
    return (1 - overlap) * independent + overlap * overlapping


@lru_cache(maxsize=4096)
def errors_caught(wrong: float, escalation: float, auroc: float) -> float:
    """Return the share of the small model's errors that is escalated.

    Assumes normal scores with the same spread for right and wrong answers (the equal-variance binormal ROC; Green and
    Swets 1966): TPR = Phi(sqrt(2) * Phi^-1(AUROC) + Phi^-1(FPR)), where an escalated wrong answer is a true positive.
    Bisection finds the FPR at which wrong * TPR + (1 - wrong) * FPR equals the escalation.
    """
    if wrong <= 0 or escalation <= 0:
        return 0.0
    if escalation >= 1:
        return 1.0
    apart = 2**0.5 * _NORMAL.inv_cdf(auroc)

    def escalates_enough(threshold: float) -> bool:
        return wrong * _NORMAL.cdf(apart + threshold) + (1 - wrong) * _NORMAL.cdf(threshold) >= escalation

    return _NORMAL.cdf(apart + bisect(-40.0, 40.0, escalates_enough))


def bisect(fails: float, holds: float, condition: Callable[[float], bool]) -> float:
    """Return the value nearest to `fails` at which the condition still holds, by bisection; it must hold at `holds`."""
    for _ in range(80):
        middle = (fails + holds) / 2
        if middle in (fails, holds):
            break
        fails, holds = (fails, middle) if condition(middle) else (middle, holds)
    return holds


def saving(inputs: Inputs, option: Option, rival: Option) -> float:
    """Return the dollars that an option saves over the horizon, compared with another; below 0 if it costs more."""
    return costs(inputs, rival).total_usd - costs(inputs, option).total_usd


def break_even_calls(inputs: Inputs, option: Option, rival: Option) -> float | None:
    """Return the smallest number of calls a day at which an option costs no more than another over the horizon.

    None if there is none, and 0 if the option costs no more even at one call a day. Found by steps of 12% and
    bisection. Above it, each added machine can make the option more expensive again for a while.
    """

    def saves(calls: float) -> bool:
        return saving(dataclasses.replace(inputs, calls_per_day=calls), option, rival) >= 0

    if saves(1.0):
        return 0.0
    volumes = (10 ** (step / 20) for step in range(201))
    return next((bisect(low, high, saves) for low, high in pairwise(volumes) if saves(high)), None)


def payback_months(inputs: Inputs, option: Option, rival: Option) -> float | None:
    """Return the months until the one-time costs are paid back: once / saving a month.

    None if a month saves nothing; 0 if there is no one-time cost and the option costs no more.
    """
    own, other = costs(inputs, option), costs(inputs, rival)
    behind = own.once_usd - other.once_usd
    gained = (other.running_usd + other.errors_usd) - (own.running_usd + own.errors_usd)
    if behind <= 0 and gained >= 0:
        return 0.0
    return inputs.horizon_months * behind / gained if gained > 0 else None


def escalation_limit(inputs: Inputs) -> dict[str, float] | None:
    """Return the largest share of calls that routing can escalate within the yearly budget; None without a budget.

    `free_small`: if the small model cost nothing, budget / (calls a year * API's dollars a call). `with_small`: the
    same with the small model's first-year cost taken off the budget; below 0 if that alone is over budget.
    """
    all_escalated = inputs.calls_per_day * DAYS_A_YEAR * api_call_usd(inputs, "api")
    if inputs.yearly_budget is None or all_escalated == 0:
        return None
    left = inputs.yearly_budget - costs(inputs, "tuned").first_year_usd
    return {"free_small": inputs.yearly_budget / all_escalated, "with_small": left / all_escalated}
