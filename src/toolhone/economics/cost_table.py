"""`toolhone cost`: what a call costs with each way of answering it, side by side.

In: the tokens of a call, prices and machines, what was paid once, what a wrong call costs. Out: a row for each way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from toolhone.economics.cost import (
    DAYS_A_YEAR,
    Machine,
    OneOff,
    Price,
    call_cost_usd,
    error_cost_usd,
    loaded_call_usd,
    machines_needed,
    machines_usd_per_day,
    spread_usd,
)
from toolhone.errors import UserError
from toolhone.report.numbers import dollars

OWN = "own machines"


@dataclass(frozen=True, slots=True)
class Call:
    """The tokens of a mean call; of the prompt's, the API had cached a share of `cached_share`."""

    prompt_tokens: float
    completion_tokens: float
    cached_share: float = 0.0


@dataclass(frozen=True, slots=True)
class CostRow:
    """One way of answering. Dollars a call: `running_usd` for tokens or machines, `spread_usd` of what was paid once,
    `errors_usd` for wrong answers; None where it was not asked for. `machines` is how many run, of one's own."""

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
    one_off: OneOff,
    horizon_days: float,
    error_usd: float,
    accuracies: Mapping[str, float],
) -> list[CostRow]:
    """A row for each price, then one for machines of one's own.

    What was paid once belongs to the machines, or where there are none, to every price.

    Args:
        call: needed where there are prices.
        prices: by name, each with where it is from.
        accuracies: by the rows' names, shares of right answers; needed where `error_usd` is above 0.

    Raises:
        UserError: where something is asked for that needs calls a day or an accuracy which is not given.
    """
    if one_off.usd and calls_per_day is None:
        raise UserError("--calls-per-day: needed to spread what is paid once (--training-usd and its like) over calls")
    once = spread_usd(one_off, calls_per_day, horizon_days) if one_off.usd and calls_per_day else None

    def row(name: str, running: float, spread: float | None, machines: int | None, note: str) -> CostRow:
        errors = None
        if error_usd:
            if name not in accuracies:
                flag = "--accuracy" if name == OWN else "--api-accuracy"
                raise UserError(
                    f"{flag}: needed beside --error-usd, as every row must count its errors or none ({name})"
                )
            errors = error_cost_usd(accuracies[name], error_usd)
        return CostRow(name, running, spread, errors, machines, note)

    rows = []
    for name, (price, source) in prices.items():
        if call is None:
            raise ValueError("a price needs the tokens of a call")
        cached = call.prompt_tokens * call.cached_share
        usd = call_cost_usd(price, call.prompt_tokens, call.completion_tokens, cached)
        rows.append(row(name, usd, None if machine else once, None, source))
    if machine:
        if calls_per_day is None:
            usd, count, note = loaded_call_usd(machine), None, "fully loaded; fewer calls cost more each"
        else:
            usd = machines_usd_per_day(machine, calls_per_day) / calls_per_day
            count = machines_needed(machine, calls_per_day)
            note = (
                f"{count:,} machine{'' if count == 1 else 's'}; fully loaded {dollars(loaded_call_usd(machine))} a call"
            )
        rows.append(row(OWN, usd, once, count, note))
    return rows


def cost_table(rows: Sequence[CostRow], calls_per_day: float | None) -> Table:
    """The rows as columns for a terminal; by the day and the year where calls a day are known."""
    table = Table(title="What calls cost", title_justify="left", title_style="bold")
    table.add_column("")
    for row in rows:
        table.add_column(Text(row.name), justify="right")

    def line(label: str, amounts: Iterable[float | None]) -> None:
        table.add_row(label, *("" if amount is None else dollars(amount) for amount in amounts))

    def thousand(amount: float | None) -> float | None:
        return None if amount is None else 1000 * amount

    line("1,000 calls: running", (thousand(row.running_usd) for row in rows))
    if any(row.spread_usd is not None for row in rows):
        line("paid once, spread", (thousand(row.spread_usd) for row in rows))
    if any(row.errors_usd is not None for row in rows):
        line("wrong answers", (thousand(row.errors_usd) for row in rows))
    line("together", (thousand(row.total_usd) for row in rows))
    table.add_section()
    line("A call", (row.total_usd for row in rows))
    if calls_per_day:
        line("A day", (row.total_usd * calls_per_day for row in rows))
        line("365 days", (row.total_usd * calls_per_day * DAYS_A_YEAR for row in rows))
    return table


def cost_json(rows: Sequence[CostRow], call: Call | None, days: float | None, sources: Sequence[str]) -> dict[str, Any]:
    """The rows with all their digits, at so many calls a day; without them, amounts by the day and year are null."""

    def entry(row: CostRow) -> dict[str, Any]:
        total = row.total_usd
        times = {"usd_per_1000_calls": total * 1000, "usd_per_day": None, "usd_per_365_days": None}
        if days is not None:
            times |= {"usd_per_day": total * days, "usd_per_365_days": total * days * DAYS_A_YEAR}
        return {**asdict(row), "total_usd": total, **times}

    return {
        "call": call and asdict(call),
        "calls_per_day": days,
        "rows": [entry(row) for row in rows],
        "sources": list(sources),
    }
