"""Amounts, shares and inputs as a reader sees them."""

from __future__ import annotations

from toolhone.economics.inputs import FIELDS
from toolhone.report.numbers import money

_PERCENT = {
    "growth_per_year", "cached_share", "api_accuracy", "cheap_accuracy", "small_accuracy", "utilisation", "escalation",
    "least_accuracy", "overlap",
}  # fmt: skip


def number(value: float) -> str:
    """With separators, and no more decimals than it needs: 1,000,000 or 0.85."""
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:,.4g}"


def shown_share(value: float) -> str:
    """A share in percent, to a tenth, rounded down so that a bound stays one: 9.1%."""
    tenths = int(value * 1000 + 1e-9) if value >= 0 else -int(-value * 1000 + 1e-9)
    return f"{tenths / 10:.1f}".removesuffix(".0") + "%"


def shown_value(name: str, value: float | str) -> str:
    """An input with its unit: 20,000 calls a day, 90%, $0.003 a call."""
    if isinstance(value, str):
        return value
    unit: str = FIELDS[name].metadata["unit"]
    if name in _PERCENT:
        percent = f"{100 * value:.4g}%"
        return f"{percent} a year" if name == "growth_per_year" else percent
    if unit.startswith("$ "):
        return f"{money(value)} {unit.removeprefix('$ ')}"
    unit = unit.removesuffix("s") if value == 1 else unit
    return number(value) if unit == "AUROC" else f"{number(value)} {unit}"


def shown_change(change: float | None) -> str:
    """A change as a share of what is: +9%, or times from a doubling on: x 21."""
    if change is None:
        return ""
    if change >= 1:
        return f"x {number(float(f'{1 + change:.3g}'))}"
    return f"{100 * change:+.3g}%"
