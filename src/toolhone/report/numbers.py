"""Formats numbers for readers: shares, counts, sizes, times, money and differences.

All pages, tables and sentences of toolhone use these functions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

ABSENT = "–"


def percent(value: float | None) -> str:
    """A share as "96.0%". 0.9999 is ">99.9%", because "100.0%" would hide the one wrong row."""
    if value is None:
        return ABSENT
    text = f"{100 * value:.1f}"
    if text == "100.0" and value < 1:
        return ">99.9%"
    if text == "0.0" and value > 0:
        return "<0.1%"
    return text + "%"


def interval(rate: Mapping[str, Any]) -> str:
    """A rate's interval in percent, "[92.3, 98.0]"; "" if it has none."""
    low, high = rate.get("low"), rate.get("high")
    return "" if low is None or high is None else f"[{100 * low:.1f}, {100 * high:.1f}]"


def share(rate: Mapping[str, Any]) -> str:
    """A rate without its counts, "93.4% [90.1, 96.2]"."""
    return f"{percent(rate['value'])} {interval(rate)}".rstrip()


def fraction(rate: Mapping[str, Any]) -> str:
    """A rate's counts, "192/200"; "" if it has none, like F1."""
    if rate.get("denominator") is None:
        return ""
    return f"{rate['numerator']:,}/{rate['denominator']:,}"


def figure(rate: Mapping[str, Any]) -> str:
    """A rate in full: "96.0% [92.3, 98.0] 192/200"."""
    return " ".join(part for part in (percent(rate["value"]), interval(rate), fraction(rate)) if part)


def number(value: float | None, digits: int = 0) -> str:
    """A number with thousands separators."""
    return ABSENT if value is None else f"{value:,.{digits}f}"


def decimal(figure: Mapping[str, Any]) -> str:
    """A figure that is not a share, with its interval, "0.937 [0.880, 0.981]"."""
    value, low, high = (number(figure[key], 3) for key in ("value", "low", "high"))
    return value if figure["low"] is None else f"{value} [{low}, {high}]"


def counted(count: int, noun: str) -> str:
    """A count with its noun in singular or plural: "1 row", "2,378 rows"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def gigabytes(size: float | None) -> str:
    """A size in gigabytes, "3.7 GB"."""
    return ABSENT if size is None else f"{size:.1f} GB"


def duration(seconds: float | None) -> str:
    """A time in its two largest units: "2 h 05 min", "13 min 32 s", "4.1 s"."""
    if seconds is None:
        return ABSENT
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def milliseconds(value: float | None) -> str:
    """A latency, "812 ms"; one decimal below ten."""
    return ABSENT if value is None else f"{value:,.{1 if value < 10 else 0}f} ms"


def points(difference: Mapping[str, Any]) -> str:
    """A difference of two shares with its interval, "+86.5 points [81.0, 91.0]"; "" if there is no value."""
    if difference.get("value") is None:
        return ""
    spread = interval(difference)
    return f"{100 * difference['value']:+.1f} points{' ' + spread if spread else ''}"


def p_value(value: float) -> str:
    """A p-value with two significant digits, "0.031"; "<0.0001" if it is smaller."""
    return "<0.0001" if value < 0.0001 else f"{value:.2g}" if value < 0.1 else f"{value:.2f}"


def dollars(amount: float) -> str:
    """An amount in dollars, with as many digits as it needs: $1,095,000, $3,000, $27.40, $0.0027, $0.000042."""
    if amount == 0:
        return "$0"
    size = abs(amount)
    if size >= 1000:
        text = f"{size:,.0f}"
    elif size >= 1:
        text = f"{size:,.2f}"
    else:
        places = max(2, 2 - math.floor(math.log10(size)))
        text = f"{size:.{places}f}"
        text = text.rstrip("0") if size < 0.01 else text[:4] + text[4:].rstrip("0")
    return f"{'-' if amount < 0 else ''}${text}"


def money(amount: float) -> str:
    """An amount in dollars; from a million up, in millions: $1.095 million."""
    if abs(amount) >= 1e6:
        return f"{'-' if amount < 0 else ''}${f'{abs(amount) / 1e6:,.3f}'.rstrip('0').rstrip('.')} million"
    return dollars(amount)


def short_money(amount: float) -> str:
    """An amount in dollars, short enough for a table cell: $1.095M."""
    return money(amount).replace(" million", "M")


def months(count: float) -> str:
    """A number of months as text: in days below two months, else in months."""
    if count < 2:
        days = count * 365 / 12
        return f"{days:.0f} day{'' if round(days) == 1 else 's'}" if days >= 0.5 else "within a day"
    return f"{count:.1f} months"
