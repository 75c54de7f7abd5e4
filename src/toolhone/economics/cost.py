"""What a call costs: tokens times an API's prices, or hours of one's own machines over the calls they serve, with what
was paid once spread over a horizon and what wrong answers cost.

In: tokens, prices, machines. Out: dollars; for `toolhone cost`, a row for each way of answering.
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
    """What an API charges, in dollars for a million tokens. Input that the API had cached costs `cached_input_usd`;
    without a discount, that equals `input_usd`."""

    input_usd: float
    cached_input_usd: float
    output_usd: float


def call_cost_usd(price: Price, prompt_tokens: float, completion_tokens: float, cached_tokens: float = 0) -> float:
    """Dollars for a call, or for a mean one: ((prompt - cached) * input + cached * cached input + completion * output)
    / 1,000,000.

    Args:
        prompt_tokens: all tokens of the prompt, the cached ones included, as OpenAI counts them.
        cached_tokens: how many of the prompt's tokens were cached, at most all of them.
    """
    if not 0 <= cached_tokens <= prompt_tokens or completion_tokens < 0:
        raise ValueError(f"no call has {prompt_tokens} prompt, {cached_tokens} cached and {completion_tokens} tokens")
    fresh = (prompt_tokens - cached_tokens) * price.input_usd
    return (fresh + cached_tokens * price.cached_input_usd + completion_tokens * price.output_usd) / 1_000_000


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine that serves the small model, rented day and night. It answers `calls_per_second` fully loaded and is
    planned to carry the share `utilisation` of that at the peak; the rest keeps waiting times short. `peak` is calls a
    second at the busiest time over the day's mean. `least` machines run whatever the load, for example 2 if one may
    fail."""

    usd_per_hour: float
    calls_per_second: float
    utilisation: float = 0.6
    peak: float = 3.0
    least: int = 1


def machines_needed(machine: Machine, calls_per_day: float) -> int:
    """max(least, 1, ceil(calls / 86,400 * peak / (calls a second * utilisation))): whole machines for the peak."""
    peak_calls_per_second = calls_per_day / SECONDS_A_DAY * machine.peak
    carried = machine.calls_per_second * machine.utilisation
    # Rounded, so that the last bit of a division does not make a load of exactly three machines four.
    return max(machine.least, 1, math.ceil(round(peak_calls_per_second / carried, 9)))


def machines_usd_per_day(machine: Machine, calls_per_day: float) -> float:
    """Rent of the machines needed, in dollars a day: machines * 24 * $/h. It never falls as calls grow."""
    return machines_needed(machine, calls_per_day) * 24 * machine.usd_per_hour


def loaded_call_usd(machine: Machine) -> float:
    """Dollars a call on machines that carry all they are planned to, which a call's share tends to as calls grow:
    $/h * peak / (3,600 * calls a second * utilisation)."""
    return machine.usd_per_hour * machine.peak / (3600 * machine.calls_per_second * machine.utilisation)


@dataclass(frozen=True, slots=True)
class Call:
    """The tokens of a mean call; the API had cached the share `cached_share` of the prompt's."""

    prompt_tokens: float
    completion_tokens: float
    cached_share: float = 0.0


@dataclass(frozen=True, slots=True)
class CostRow:
    """One way of answering. Dollars a call: `running_usd` for tokens or machines, `spread_usd` of what was paid once,
    `errors_usd` for wrong answers; None if not asked for. `machines` is how many of one's own run."""

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
    """Return a row for each price, then one for machines of one's own.

    What was paid once belongs to the machines; without machines, to every price. It is spread as once / (calls a day *
    days). Wrong answers cost (1 - accuracy) * dollars of a wrong call.

    Args:
        call: needed if there are prices.
        prices: by name, each with where it is from.
        accuracies: by the rows' names, shares of right answers; needed if `error_usd` is above 0.

    Raises:
        UserError: if something needs calls a day or an accuracy which is not given.
    """
    if once_usd and calls_per_day is None:
        raise UserError("--calls-per-day: needed to spread what is paid once (--training-usd and its like) over calls")
    spread = once_usd / (calls_per_day * horizon_days) if once_usd and calls_per_day else None

    def row(name: str, running: float, machines: int | None, note: str) -> CostRow:
        errors = None
        if error_usd:
            if name not in accuracies:
                flag = "--accuracy" if name == OWN else "--api-accuracy"
                raise UserError(f"{flag}: needed with --error-usd, as every row must count its errors or none ({name})")
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
            rows.append(row(OWN, loaded_call_usd(machine), None, "fully loaded; fewer calls cost more each"))
        else:
            count = machines_needed(machine, calls_per_day)
            note = f"{count:,} machine{'' if count == 1 else 's'}"
            rows.append(row(OWN, machines_usd_per_day(machine, calls_per_day) / calls_per_day, count, note))
    return rows


def cost_json(rows: Sequence[CostRow], call: Call | None, days: float | None, sources: Sequence[str]) -> dict[str, Any]:
    """The rows with all their digits, at `days` calls a day; without them, amounts by the day and year are null."""

    def entry(row: CostRow) -> dict[str, Any]:
        total = row.total_usd
        a_day = None if days is None else total * days
        a_year = None if a_day is None else a_day * DAYS_A_YEAR
        times = {"usd_per_1000_calls": total * 1000, "usd_per_day": a_day, "usd_per_365_days": a_year}
        return {**asdict(row), "total_usd": total, **times}

    return {
        "call": call and asdict(call),
        "calls_per_day": days,
        "rows": [entry(row) for row in rows],
        "sources": list(sources),
    }
