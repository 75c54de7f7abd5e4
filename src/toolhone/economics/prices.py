"""Prices of APIs by model name, from the table inside the package genai-prices (extra `prices`).

In: a model's name. Out: its price today, and the version and date of the table. Nothing goes online: the package
fetches newer prices only if its updater is started, which never happens here. A newer table comes with a newer version.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from toolhone.economics.cost import Price
from toolhone.errors import UserError

if TYPE_CHECKING:
    from genai_prices.types import PriceCalculation

_INSTEAD = "give its prices in dollars for a million tokens"


@dataclass(frozen=True, slots=True)
class ListedPrice:
    """A price from the table. `source` names the model, its provider, and the table's version and date."""

    price: Price
    source: str
    remarks: tuple[str, ...] = ()


def listed_price(model: str, now: datetime | None = None) -> ListedPrice:
    """Return the price of a model, such as gpt-4o or azure:gpt-4o, at noon UTC of a day (default: today).

    Raises:
        UserError: if genai-prices is not installed, or its table lacks the model or its price. The message names the
            nearest models.
    """
    try:
        from genai_prices import __version__
    except ImportError:
        raise UserError(
            f"{model}: the price table genai-prices is not installed: pip install 'toolhone[prices]'; or {_INSTEAD}"
        ) from None
    day = (now or datetime.now(UTC)).replace(hour=12, minute=0, second=0, microsecond=0)
    found = _find(model, day)
    if found is None:
        near = _nearest(model, day)
        hint = f"nearest: {', '.join(near)}" if near else "no similar name"
        raise UserError(f"{model}: not in the table of genai-prices ({hint}); or {_INSTEAD}")
    prices = found.model_price
    into, cached, out = (_base(getattr(prices, f"{key}_mtok")) for key in ("input", "cache_read", "output"))
    if into is None or out is None:
        raise UserError(f"{model}: the table of genai-prices {__version__} has no token prices for it; {_INSTEAD}")
    tiers = getattr(prices.input_mtok, "tiers", ())
    remarks = [f"prompts of more than {tiers[0].start:,} tokens cost more than this"] if tiers else []
    if cached is None:
        cached = into
        remarks.append("no separate price for cached input")
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
    """Return up to three similar names that have a price, the nearest first, with their provider if they need one."""
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
    """Return dollars for a million tokens; if the price depends on the prompt's length, that of the shortest."""
    base = getattr(price, "base", price)
    return None if base is None else float(base)


def _table_date(day: datetime) -> str:
    """Return the newest date, up to the day, on which a price in the table began. The package states no date itself."""
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
