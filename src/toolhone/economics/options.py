"""The four ways to answer the calls, and what each costs month by month.

In: `Inputs` with prices. Out: for each way its accuracy, and a `Ledger` of dollars. A month is 365 / 12 days. Calls a
day stay the same within a month and grow from one to the next by (1 + growth a year) ** (1 / 12).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Literal

from toolhone.economics.cost import DAYS_A_MONTH, Machine, Price, call_cost_usd, error_cost_usd, machines_usd_per_day
from toolhone.economics.inputs import Inputs

Option = Literal["api", "cheap", "tuned", "route"]
TABLE_YEARS = 3
"""Years of the table, of its plot, and within which a payback counts."""

_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class Ledger:
    """Dollars of one way of answering: paid once before the first month, then `paid` for running it and `errors` for
    its wrong answers in each month."""

    once: float
    paid: tuple[float, ...]
    errors: tuple[float, ...]

    def total(self, months: int) -> float:
        """All dollars of the first months."""
        return self.once + sum(self.paid[:months]) + sum(self.errors[:months])

    def paid_in_year(self, year: int) -> float:
        """Dollars paid in a year (0 is the first, with what is paid once), errors apart."""
        return sum(self.paid[12 * year : 12 * year + 12]) + (self.once if year == 0 else 0.0)


def options(inputs: Inputs) -> tuple[Option, ...]:
    """The ways that there are: the cheap API only where one is named."""
    return ("api", "cheap", "tuned", "route") if inputs.has_cheap else ("api", "tuned", "route")


def option_name(inputs: Inputs, option: Option) -> str:
    """Its name for a reader; of an API, the model's."""
    names = {
        "api": inputs.api_model,
        "cheap": "the cheap API" if inputs.cheap_model == "none" else inputs.cheap_model,
        "tuned": "tuned model",
        "route": "routing",
    }
    return names[option]


def api_call_usd(inputs: Inputs, side: Literal["api", "cheap"]) -> float:
    """Dollars a call of an API: as given, else by tokens and prices."""
    stated = inputs.api_call_usd if side == "api" else inputs.cheap_call_usd
    if stated is not None:
        return stated
    if side == "api":
        into, cached, out = inputs.api_price_in, inputs.api_price_cached, inputs.api_price_out
    else:
        into, cached, out = inputs.cheap_price_in, inputs.cheap_price_cached, inputs.cheap_price_out
    if into is None or cached is None or out is None:
        raise ValueError(f"the prices of {side} are not filled in")
    tokens_cached = inputs.prompt_tokens * inputs.cached_share
    return call_cost_usd(Price(into, cached, out), inputs.prompt_tokens, inputs.completion_tokens, tokens_cached)


def running_usd_per_day(inputs: Inputs, option: Option, calls_per_day: float) -> float:
    """Dollars a day for answering, upkeep apart.

    An API: calls * dollars a call. Tuned: whole machines, day and night (`cost.machines_usd_per_day`), or calls *
    `small_call_usd`. Routing: the same, as the small model answers every call first, and escalation * calls * dollars
    a call of the API.
    """
    return _running(inputs, option)(calls_per_day)


def _running(inputs: Inputs, option: Option) -> Callable[[float], float]:
    """Dollars a day as a function of calls a day."""
    if option in ("api", "cheap"):
        api_call = api_call_usd(inputs, "api" if option == "api" else "cheap")
        return lambda calls: calls * api_call
    escalated_call = inputs.escalation * api_call_usd(inputs, "api") if option == "route" else 0.0
    if inputs.small_call_usd is not None:
        small_call = inputs.small_call_usd + escalated_call
        return lambda calls: calls * small_call
    machine = Machine(
        inputs.gpu_usd_per_hour, inputs.calls_per_second, inputs.utilisation, inputs.peak, inputs.machines
    )
    return lambda calls: machines_usd_per_day(machine, calls) + calls * escalated_call


def accuracy_of(inputs: Inputs, option: Option) -> float:
    """The share of calls answered rightly."""
    if option == "route":
        return route_accuracy(
            inputs.small_accuracy, inputs.api_accuracy, inputs.escalation, inputs.auroc, inputs.overlap
        )
    return {"api": inputs.api_accuracy, "cheap": inputs.cheap_accuracy, "tuned": inputs.small_accuracy}[option]


@lru_cache(maxsize=4096)
def route_accuracy(small: float, large: float, escalation: float, auroc: float, overlap: float) -> float:
    """The accuracy of a cascade that hands over the least confident share of the calls.

    With w = 1 - small wrong answers, of which the share c is among those handed over (`errors_caught`), kept and right
    are (1 - escalation) - w (1 - c). Overlap 0, independent errors: the large model is right on a share `large` of what
    it gets, so together small + w c - escalation (1 - large). Overlap 1: the large model is wrong only where the small
    one is, so it mends caught errors at the rate 1 - (1 - large) / w and spoils nothing. Between, in proportion.
    """
    wrong = 1 - small
    caught = errors_caught(wrong, escalation, auroc)
    independent = small + wrong * caught - escalation * (1 - large)
    shared = min(1 - large, wrong)
    # What the large model gets wrong beyond the small one's errors lies evenly among the rest.
    spoiled = (escalation - wrong * caught) * ((1 - large) - shared) / small if small else 0.0
    overlapping = small + caught * (wrong - shared) - spoiled
    return (1 - overlap) * independent + overlap * overlapping


@lru_cache(maxsize=4096)
def errors_caught(wrong: float, escalation: float, auroc: float) -> float:
    """The share of the small model's errors among the escalated calls.

    Scores are taken as normal, with the same spread for right and wrong answers (the equal-variance binormal ROC; Green
    and Swets 1966): TPR = Phi(sqrt(2) * Phi^-1(AUROC) + Phi^-1(FPR)), where a wrong answer handed over is a true
    positive. FPR is the one at which wrong * TPR + (1 - wrong) * FPR is the escalation, found by bisection.
    """
    if wrong <= 0 or escalation <= 0:
        return 0.0
    if escalation >= 1:
        return 1.0
    apart = 2**0.5 * _NORMAL.inv_cdf(auroc)
    low, high = -40.0, 40.0  # of the threshold, in standard deviations
    for _ in range(70):
        middle = (low + high) / 2
        if wrong * _NORMAL.cdf(apart + middle) + (1 - wrong) * _NORMAL.cdf(middle) < escalation:
            low = middle
        else:
            high = middle
    return _NORMAL.cdf(apart + high)


@lru_cache(maxsize=8192)
def ledger(inputs: Inputs, option: Option, years: int = 1) -> Ledger:
    """What a way of answering costs in each month of so many years, or of those that the horizon touches if more."""
    own = option in ("tuned", "route")
    wrong_call = error_cost_usd(accuracy_of(inputs, option), inputs.error_usd)
    upkeep = inputs.upkeep_usd_per_month if own else 0.0
    running = _running(inputs, option)
    months = calls_by_month(inputs, years)
    if inputs.growth_per_year == 0:
        paid = [running(months[0]) * DAYS_A_MONTH + upkeep] * len(months)
    else:
        paid = [running(calls) * DAYS_A_MONTH + upkeep for calls in months]
    errors = (calls * DAYS_A_MONTH * wrong_call for calls in months)
    return Ledger(inputs.once_usd if own else 0.0, tuple(paid), tuple(errors))


def calls_by_month(inputs: Inputs, years: int = 1) -> list[float]:
    """Calls a day in each month of so many years, or of those that the horizon touches if more."""
    months = 12 * max(years, -(-inputs.horizon_months // 12))
    growth = 1 + inputs.growth_per_year
    return [inputs.calls_per_day * growth ** (month / 12) for month in range(months)]
