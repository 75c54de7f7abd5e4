"""What the large model may cost in a day: a call starts only where even its dearest outcome still fits."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from toolhone.economics.cost import Price, call_cost_usd


def utc_day() -> str:
    """Today's date in UTC, as 2026-11-25."""
    return datetime.now(UTC).date().isoformat()


class DayBudget:
    """Counts a day's dollars, from midnight to midnight UTC. A call counts for the day on which it ends, as its line in
    the decision log does. It belongs to one thread."""

    def __init__(
        self,
        max_usd: float | None,
        price: Price | None,
        spent_usd: float = 0.0,
        today: Callable[[], str] = utc_day,
    ) -> None:
        """`spent_usd` is what was spent today already; without `price` nothing is counted."""
        self.spent_usd = spent_usd
        self._max_usd, self._price, self._today = max_usd, price, today
        self._day = today()
        self._reserved: list[float] = []

    def cost(self, prompt_tokens: int, completion_tokens: int, cached_tokens: int = 0) -> float:
        """Dollars; 0 where no price is known."""
        if self._price is None:
            return 0.0
        return call_cost_usd(self._price, prompt_tokens, completion_tokens, cached_tokens)

    @property
    def priced(self) -> bool:
        return self._price is not None

    def reserve(self, bound_usd: float) -> bool:
        """Take room for a call that costs at most this; False where it does not fit."""
        self._roll()
        if self._max_usd is not None and self.spent_usd + sum(self._reserved) + bound_usd > self._max_usd:
            return False
        self._reserved.append(bound_usd)
        return True

    def settle(self, bound_usd: float, usd: float) -> None:
        """Put what a call cost in the place of what was reserved for it."""
        self._roll()
        self._reserved.remove(bound_usd)
        self.spent_usd += usd

    def _roll(self) -> None:
        if (day := self._today()) != self._day:
            self._day, self.spent_usd = day, 0.0
