"""What a call costs: tokens times an API's prices, or hours of own machines divided by the calls they serve. One-time
costs, spread over a horizon, and the cost of wrong answers are added.

In: tokens, prices, machines. Out: dollars; for `toolhone cost`, one row for each API and one for own machines.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from toolhone.errors import UserError

DAYS_A_YEAR = 365
DAYS_A_MONTH = DAYS_A_YEAR / 12
SECONDS_A_DAY = 86_400

OWN = "own machines"


@dataclass(frozen=True, slots=True)
class Price:
    """An API's prices, in dollars for a million tokens. Cached input costs `cached_input_usd`, which equals `input_usd`
    if there is no discount."""

    input_usd: float
    cached_input_usd: float
    output_usd: float


def call_cost_usd(price: Price, prompt_tokens: float, completion_tokens: float, cached_tokens: float = 0) -> float:
    """Return the dollars of a call: ((prompt - cached) * input + cached * cached input + completion * output) /
    1,000,000. The counts may be means.

    Args:
        prompt_tokens: all tokens of the prompt, including the cached ones, as OpenAI counts them.
        cached_tokens: how many of the prompt's tokens were cached.

    Raises:
        ValueError: if a count is negative, or more tokens were cached than the prompt has.
    """
    if not 0 <= cached_tokens <= prompt_tokens or completion_tokens < 0:
        counts = f"{prompt_tokens} prompt, {cached_tokens} cached, {completion_tokens} completion"
        raise ValueError(f"impossible token counts: {counts}")
    fresh = (prompt_tokens - cached_tokens) * price.input_usd
    return (fresh + cached_tokens * price.cached_input_usd + completion_tokens * price.output_usd) / 1_000_000


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine that serves the small model, rented day and night.

    It answers `calls_per_second` when fully loaded. At the peak only the share `utilisation` of that is used, so that
    waiting times stay short. `peak` is the calls a second at the busiest time divided by the day's mean. At least
    `least` machines always run, for example 2 so that one may fail.
    """

    usd_per_hour: float
    calls_per_second: float
    utilisation: float = 0.6
    peak: float = 3.0
    least: int = 1


def machines_needed(machine: Machine, calls_per_day: float) -> int:
    """Return how many machines the peak needs: max(least, 1, ceil(calls / 86,400 * peak / (calls a second *
    utilisation)))."""
    peak_calls_per_second = calls_per_day / SECONDS_A_DAY * machine.peak
    carried = machine.calls_per_second * machine.utilisation
    # Rounded, so that a floating-point error does not turn a load of exactly three machines into four.
    return max(machine.least, 1, math.ceil(round(peak_calls_per_second / carried, 9)))


def machines_usd_per_day(machine: Machine, calls_per_day: float) -> float:
    """Return the rent of the machines needed, in dollars a day: machines * 24 * $/h."""
    return machines_needed(machine, calls_per_day) * 24 * machine.usd_per_hour


def loaded_call_usd(machine: Machine) -> float:
    """Return the dollars of a call on fully loaded machines: $/h * peak / (3,600 * calls a second * utilisation). The
    cost of a call tends to it as calls grow."""
    return machine.usd_per_hour * machine.peak / (3600 * machine.calls_per_second * machine.utilisation)


@dataclass(frozen=True, slots=True)
class Call:
    """Mean tokens of a call. The API has cached the share `cached_share` of the prompt."""

    prompt_tokens: float
    completion_tokens: float
    cached_share: float = 0.0


@dataclass(frozen=True, slots=True)
class CostRow:
    """The cost of one way of answering, in dollars a call: `running_usd` for tokens or machines, `spread_usd` for
    one-time costs, `errors_usd` for wrong answers; None if not asked for. `machines` is the number of own machines."""

    name: str
    running_usd: float
    spread_usd: float | None
    errors_usd: float | None
    machines: int | None
    note: str

    @property
    def total_usd(self) -> float:
        return self.running_usd + (self.spread_usd or 0.0) + (self.errors_usd or 0.0)


def cost_rows(
    call: Call | None,
    prices: Mapping[str, tuple[Price, str]],
    machine: Machine | None,
    *,
    calls_per_day: float | None,
    once_usd: float,
    horizon_days: float,
    error_usd: float,
    accuracies: Mapping[str, float],
) -> list[CostRow]:
    """Return a row for each price, then one for own machines.

    One-time costs belong to the machines or, without machines, to every price. A call's share is once / (calls a day *
    days). Wrong answers cost (1 - accuracy) * dollars of a wrong call.

    Args:
        call: needed if there are prices.
        prices: by name, each with its source.
        accuracies: shares of right answers by the rows' names; needed if `error_usd` is above 0.

    Raises:
        UserError: if calls a day or an accuracy is needed and not given.
    """
    if once_usd and calls_per_day is None:
        flags = "--training-usd, --labelling-usd, --engineering-usd"
        raise UserError(f"--calls-per-day: needed to spread the one-time costs ({flags}) over calls")
    spread = once_usd / (calls_per_day * horizon_days) if once_usd and calls_per_day else None

    def row(name: str, running: float, machines: int | None, note: str) -> CostRow:
        errors = None
        if error_usd:
            if name not in accuracies:
                flag = "--accuracy" if name == OWN else "--api-accuracy"
                raise UserError(f"{flag}: needed with --error-usd, for the wrong answers of {name}")
            errors = (1 - accuracies[name]) * error_usd
        own_spread = spread if name == OWN or machine is None else None
        return CostRow(name, running, own_spread, errors, machines, note)

    rows = []
    for name, (price, source) in prices.items():
        if call is None:
            raise ValueError("a price needs the tokens of a call")
        cached = call.prompt_tokens * call.cached_share
        rows.append(row(name, call_cost_usd(price, call.prompt_tokens, call.completion_tokens, cached), None, source))
    if machine:
        if calls_per_day is None:
            rows.append(row(OWN, loaded_call_usd(machine), None, "fully loaded; with fewer calls, each costs more"))
        else:
            count = machines_needed(machine, calls_per_day)
            note = f"{count:,} machine{'' if count == 1 else 's'}"
            rows.append(row(OWN, machines_usd_per_day(machine, calls_per_day) / calls_per_day, count, note))
    return rows


def cost_json(
    rows: Sequence[CostRow], call: Call | None, calls_per_day: float | None, sources: Sequence[str]
) -> dict[str, Any]:
    """Return the rows as JSON values, unrounded. Amounts a day and a year are null if `calls_per_day` is None."""

    def entry(row: CostRow) -> dict[str, Any]:
        total = row.total_usd
        a_day = None if calls_per_day is None else total * calls_per_day
        a_year = None if a_day is None else a_day * DAYS_A_YEAR
        times = {"usd_per_1000_calls": total * 1000, "usd_per_day": a_day, "usd_per_365_days": a_year}
        return {**asdict(row), "total_usd": total, **times}

    return {
        "call": call and asdict(call),
        "calls_per_day": calls_per_day,
        "rows": [entry(row) for row in rows],
        "sources": list(sources),
    }
