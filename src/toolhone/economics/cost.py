"""What a call costs: tokens times an API's prices, or hours of one's own machines over the calls they serve, with what
was paid once spread over a horizon and what wrong answers cost.

All costs are in dollars, all accuracies shares from 0 to 1. Nothing here reads a file or a price list (`measured.py`
and `prices.py` do) or advises (`advise/` does).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

TOKENS_PRICED = 1_000_000
"""Prices are for so many tokens."""
DAYS_A_YEAR = 365
DAYS_A_MONTH = DAYS_A_YEAR / 12
HOURS_A_DAY = 24
SECONDS_A_DAY = 86_400


@dataclass(frozen=True, slots=True)
class Price:
    """What an API charges, in dollars for a million tokens. Input that the API had cached costs `cached_input_usd`;
    where it gives no discount, that equals `input_usd`."""

    input_usd: float
    cached_input_usd: float
    output_usd: float


def call_cost_usd(price: Price, prompt_tokens: float, completion_tokens: float, cached_tokens: float = 0) -> float:
    """Dollars for a call, or for a mean one: ((prompt - cached) * input + cached * cached input + completion * output)
    / 1,000,000.

    Args:
        prompt_tokens: all tokens of the prompt, those that the API had cached among them, as OpenAI counts them.
        cached_tokens: how many of the prompt's tokens were cached, at most all of them.
    """
    if not 0 <= cached_tokens <= prompt_tokens or completion_tokens < 0:
        raise ValueError(f"no call has {prompt_tokens} prompt, {cached_tokens} cached and {completion_tokens} tokens")
    fresh = (prompt_tokens - cached_tokens) * price.input_usd
    return (fresh + cached_tokens * price.cached_input_usd + completion_tokens * price.output_usd) / TOKENS_PRICED


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine that serves the small model, rented by the hour, day and night.

    Args:
        usd_per_hour: the rent of one.
        calls_per_second: what one was measured to answer, fully loaded.
        utilisation: the share of that which one is planned to carry at the peak, above 0 and at most 1. The rest is
            headroom, which keeps waiting times short.
        peak: calls a second at the busiest time, over their mean of the day; at least 1.
        least: machines that run whatever the load, for example 2 where one may fail.
    """

    usd_per_hour: float
    calls_per_second: float
    utilisation: float = 0.6
    peak: float = 3.0
    least: int = 1


def machines_needed(machine: Machine, calls_per_day: float) -> int:
    """Whole machines, enough for the peak and at least one: max(least, 1, ceil(calls / 86,400 * peak / (calls a second
    * utilisation)))."""
    peak_calls_per_second = calls_per_day / SECONDS_A_DAY * machine.peak
    carried = machine.calls_per_second * machine.utilisation
    # Rounded, so that a load of just three machines is not four by the last bit of a division.
    return max(machine.least, 1, math.ceil(round(peak_calls_per_second / carried, 9)))


def machines_usd_per_day(machine: Machine, calls_per_day: float) -> float:
    """Rent of the machines needed, in dollars a day: machines * 24 * $/h.

    It never falls as calls grow. A call's share of it falls between one machine and the next and jumps where one is
    added, but k times the calls never cost more a call, for whole k.
    """
    return machines_needed(machine, calls_per_day) * HOURS_A_DAY * machine.usd_per_hour


def loaded_call_usd(machine: Machine) -> float:
    """Dollars a call on machines that carry all they are planned to: what a call's share tends to as calls grow.

    $/h * peak / (3,600 * calls a second * utilisation).
    """
    return machine.usd_per_hour * machine.peak / (3600 * machine.calls_per_second * machine.utilisation)


@dataclass(frozen=True, slots=True)
class OneOff:
    """What is paid once, in dollars: the training itself, labels for its examples, and the engineering around it."""

    training_usd: float = 0.0
    labelling_usd: float = 0.0
    engineering_usd: float = 0.0

    @property
    def usd(self) -> float:
        return self.training_usd + self.labelling_usd + self.engineering_usd


def spread_usd(one_off: OneOff, calls_per_day: float, horizon_days: float) -> float:
    """What was paid once, as dollars a call over a horizon: once / (calls a day * days)."""
    return one_off.usd / (calls_per_day * horizon_days)


def error_cost_usd(accuracy: float, error_usd: float) -> float:
    """What wrong answers cost, in dollars a call: (1 - accuracy) * dollars of a wrong call."""
    return (1 - accuracy) * error_usd
