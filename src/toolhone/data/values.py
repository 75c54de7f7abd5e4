"""Argument values and the words that they come from: which values a call holds, and whether a text says them.

A value stands in a text where it is written there as a whole: `ORD-20` does not stand in `ORD-204`, nor 3 in 13.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from toolhone.records import Conversation

# A number with a point or commas, or letters and digits of ASCII, joined by hyphens.
_CODE = re.compile(r"\d+(?:[.,]\d+)+(?![A-Za-z0-9])|[A-Za-z0-9]+(?:[-_][A-Za-z0-9]+)*")
_ADDRESS = re.compile(r"https?://[^\s，。）)]+|[\w.+-]+@[\w-]+\.[\w.]+")


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, str | int | float]]:
    """Every text and number inside a value, with its path; truth values and nulls are said in no fixed words."""
    if isinstance(value, dict):
        for key, entry in value.items():
            yield from leaves(entry, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            yield from leaves(entry, f"{path}[{index}]")
    elif isinstance(value, str | int | float) and not isinstance(value, bool):
        yield path, value


def argument_values(row: Conversation) -> set[str | int | float]:
    """Every text and number among the arguments of a row's gold calls."""
    arguments = [call.arguments for message in row.messages for call in message.tool_calls]
    if row.expected is not None:
        arguments += [{name: accepted[0] for name, accepted in call.arguments.items()} for call in row.expected.calls]
    return {value for values in arguments for _, value in leaves(values)}


def stands_in(value: str | int | float, text: str, *, ignore_case: bool = False) -> bool:
    """Whether a text holds the value as a whole. A number may be written with separators of thousands, 3.0 as 3."""
    if ignore_case:
        text = text.casefold()
    return any(_whole(form.casefold() if ignore_case else form, text) for form in _forms(value))


def _forms(value: str | int | float) -> set[str]:
    if isinstance(value, str):
        return {value.strip()}
    forms = {str(value), f"{value:,}"}
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        forms |= {str(int(value)), f"{int(value):,}"}
    return forms


def _whole(form: str, text: str) -> bool:
    if not form:
        return True
    # Chinese is written without spaces: only a letter or digit of ASCII at an end can be part of a longer word.
    before = r"(?<![A-Za-z0-9])" if re.match(r"[A-Za-z0-9]", form) else ""
    after = r"(?![A-Za-z0-9])" if re.search(r"[A-Za-z0-9]$", form) else ""
    if re.fullmatch(r"[\d.,]+", form):
        before, after = r"(?<![A-Za-z0-9])(?<!\d[.,])", r"(?![A-Za-z0-9])(?![.,]\d)"
    return re.search(before + re.escape(form) + after, text) is not None


def codes(text: str) -> set[str]:
    """What in a text looks like a code, a number or an address: none of it may be made up."""
    found = {match[0] for match in _CODE.finditer(text) if any(c.isdigit() for c in match[0])}
    return found | {match[0].rstrip(".,") for match in _ADDRESS.finditer(text)}
