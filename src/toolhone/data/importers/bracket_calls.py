"""Calls as ToolACE writes them: `[Market Trends API(country="us"), get_time()]`.

It looks like Python and is none: names of functions hold spaces, and names of arguments may be keywords or hold
hyphens. So a scanner that knows of quotes and brackets splits the text, and each value is read as a literal.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from toolhone.data.importers.literals import LiteralError, parse_literal

_OPENING = re.compile(r"\[\s*[^\[\](){}\"'=,]+\(")
_PAIRS = {"(": ")", "[": "]", "{": "}"}


def is_bracket_call(text: str, names: Iterable[str]) -> bool:
    """Whether a text is meant as a list of calls: it begins with a bracket and something's name and parenthesis."""
    inside = text.strip()
    if not inside.startswith("["):
        return False
    first = inside[1:].lstrip()
    return bool(_OPENING.match(inside)) or any(first.startswith(f"{name}(") for name in names)


def parse_bracket_calls(text: str, names: Iterable[str]) -> list[dict[str, Any]]:
    """The calls of a text, each as `{"name": ..., "arguments": {...}}`. `names` are those of the tools offered, for
    names that hold a parenthesis themselves.

    Raises:
        LiteralError: saying what cannot be read.
    """
    inside = text.strip()
    end = _closing(inside, 0)
    if end != len(inside) - 1:
        raise LiteralError(f"text after the list of calls: {inside[end + 1 :].strip()[:40]!r}")
    longest_first = sorted(names, key=len, reverse=True)
    return [_call(part, longest_first) for part in _split(inside[1:end], ",")]


def _call(text: str, names: list[str]) -> dict[str, Any]:
    call = text.strip()
    name = next((name for name in names if call.startswith(f"{name}(")), call.partition("(")[0].strip())
    opening = call.find("(", len(name))
    if not name or opening < 0 or _closing(call, opening) != len(call) - 1:
        raise LiteralError(f"expected name(argument=value, ...), found {call[:40]!r}")
    arguments: dict[str, Any] = {}
    for part in _split(call[opening + 1 : -1], ","):
        argument, *value = _split(part, "=", at_most=1)
        key = argument.strip().strip("\"'")
        if not value or not key:
            raise LiteralError(f"an argument of {name!r} has no name: {part.strip()[:40]!r}")
        if key in arguments:
            raise LiteralError(f"the argument {key!r} of {name!r} stands twice")
        arguments[key] = parse_literal(value[0])
    return {"name": name, "arguments": arguments}


def _closing(text: str, opening: int) -> int:
    """Where the bracket at `opening` closes.

    Raises:
        LiteralError: where it does not.
    """
    waiting: list[str] = []
    for place, character in _unquoted(text, opening):
        if character in _PAIRS:
            waiting.append(_PAIRS[character])
        elif character in ")]}":
            if not waiting or waiting.pop() != character:
                raise LiteralError(f"a {character!r} that closes nothing")
            if not waiting:
                return place
    raise LiteralError("a bracket that is never closed; the text was cut")


def _split(text: str, separator: str, at_most: int = -1) -> list[str]:
    """Split at the separators outside quotes and brackets; nothing at all has no parts."""
    parts: list[str] = []
    start = depth = 0
    for place, character in _unquoted(text, 0):
        depth += (character in "([{") - (character in ")]}")
        if character == separator and depth == 0 and at_most != len(parts):
            parts.append(text[start:place])
            start = place + 1
    rest = text[start:]
    return [*parts, rest] if parts or rest.strip() else []


def _unquoted(text: str, start: int) -> Iterable[tuple[int, str]]:
    """The characters outside quotes, with their places. A quote opens a text only where a value may begin, so that the
    apostrophe of a name is none."""
    quote, escaped, before = "", False, ""
    for place in range(start, len(text)):
        character = text[place]
        if quote:
            if escaped:
                escaped = False
            elif character == "\\":
                escaped = True
            elif character == quote:
                quote = ""
        elif character in "\"'" and before in "([{=,:":
            quote = character
        else:
            yield place, character
        if not character.isspace():
            before = character
