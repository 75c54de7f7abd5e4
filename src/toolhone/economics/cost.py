"""What a call costs: tokens times an API's prices, or hours of one's own machines over the calls they serve, with what
was paid once spread over a horizon and what wrong answers cost.

In: tokens, prices, machines. Out: dollars; for `toolhone cost`, a row for each way of answering. A price by name is
from the table inside the package genai-prices (extra `prices`). Nothing goes online: the package fetches newer prices
only once its updater is started, which never happens here, so a newer table comes with a newer version of it.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from toolhone.errors import UserError

if TYPE_CHECKING:
    from genai_prices.types import PriceCalculation

DAYS_A_YEAR = 365
DAYS_A_MONTH = DAYS_A_YEAR / 12
SECONDS_A_DAY = 86_400

OWN = "own machines"
_INSTEAD = "give its prices, in dollars for a million tokens"


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


@dataclass(frozen=True, slots=True)
class ListedPrice:
    """A price of the table. `source` names the model, who offers it, and the table's version and date."""

    price: Price
    source: str
    remarks: tuple[str, ...] = ()


def listed_price(model: str, now: datetime | None = None) -> ListedPrice:
    """Return the price of a model, such as gpt-4o or azure:gpt-4o, on a day (default: today), at noon UTC.

    Raises:
        UserError: if genai-prices is not installed, or its table lacks the model (naming the nearest) or its price.
    """
    try:
        from genai_prices import __version__
    except ImportError:
        raise UserError(
            f"{model}: a price by name needs the table of genai-prices: pip install 'toolhone[prices]'; or {_INSTEAD}"
        ) from None
    day = (now or datetime.now(UTC)).replace(hour=12, minute=0, second=0, microsecond=0)
    found = _find(model, day)
    if found is None:
        near = _nearest(model, day)
        hint = f"nearest: {', '.join(near)}" if near else "no name in it is near"
        raise UserError(f"{model}: not in the table of genai-prices ({hint}); or {_INSTEAD}")
    prices = found.model_price
    into, cached, out = (_base(getattr(prices, f"{key}_mtok")) for key in ("input", "cache_read", "output"))
    if into is None or out is None:
        raise UserError(f"{model}: the table of genai-prices {__version__} has no price for its tokens; {_INSTEAD}")
    tiers = getattr(prices.input_mtok, "tiers", ())
    remarks = [f"prompts of more than {tiers[0].start:,} tokens cost more than this"] if tiers else []
    if cached is None:
        cached = into
        remarks.append("no price of its own for cached input")
    name = f"{found.model.id} of {found.provider.name}"
    source = f"{name}: genai-prices {__version__}, newest entry {_table_date(day)}"
    return ListedPrice(Price(into, cached, out), source, tuple(remarks))


def _find(model: str, day: datetime) -> PriceCalculation | None:
    from genai_prices import Usage, calc_price
    from genai_prices.data_snapshot import get_snapshot

    provider, _, name = model.partition(":")
    try:
        if name and provider in {entry.id for entry in get_snapshot().providers}:
            return calc_price(Usage(), name, provider_id=provider, genai_request_timestamp=day)
        return calc_price(Usage(), model, genai_request_timestamp=day)
    except LookupError:
        return None


def _nearest(model: str, day: datetime) -> list[str]:
    """Return up to three names that the table prices, the nearest first; with their provider, if they need one."""
    from genai_prices.data_snapshot import get_snapshot

    providers: dict[str, str] = {}
    for provider in get_snapshot().providers:
        for entry in provider.models:
            providers.setdefault(entry.id, provider.id)

    def is_priced(name: str) -> bool:
        found = _find(name, day)
        return found is not None and found.model_price.input_mtok is not None

    near = difflib.get_close_matches(model.rpartition(":")[2].lower(), providers, n=12, cutoff=0.6)
    known = (next(filter(is_priced, (name, f"{providers[name]}:{name}")), None) for name in near)
    return [name for name in known if name][:3]


def _base(price: Any) -> float | None:
    """Dollars for a million tokens; if they depend on the prompt's length, those of the shortest."""
    base = getattr(price, "base", price)
    return None if base is None else float(base)


def _table_date(day: datetime) -> str:
    """The newest date, up to the day, on which a price in the table began: the package states none itself."""
    from genai_prices.data_snapshot import get_snapshot
    from genai_prices.types import StartDateConstraint

    starts = (
        conditional.constraint.start_date
        for provider in get_snapshot().providers
        for entry in provider.models
        if isinstance(entry.prices, list)
        for conditional in entry.prices
        if isinstance(conditional.constraint, StartDateConstraint)
    )
    newest = max((start for start in starts if start <= day.date()), default=None)
    return "undated" if newest is None else newest.isoformat()
