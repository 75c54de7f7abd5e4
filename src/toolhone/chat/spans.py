"""Where the name and the argument values of a call stand in the text that it was read from, to the character.

In: the text of a turn, and the place of a call in it as `parse_turn` gives it. Out: spans, each from a value's first
character to behind its last, quotes and escapes as they were written: `json.loads` of the span is the value. Nothing is
searched for by what it says, so a value that stands elsewhere in the text too, or is written with escapes, is found
where the parser read it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from toolhone.formats.call_json import value_end
from toolhone.formats.pieces import skip_space

Span = tuple[int, int]
"""Start and end of a stretch of text, in characters."""


@dataclass(frozen=True, slots=True)
class CallSpans:
    """The spans of a call's name, and of each argument's value by its key, in the order of the text."""

    name: Span
    values: dict[str, Span]


def call_spans(text: str, place: Span) -> CallSpans:
    """The spans in a call that was read strictly; `place` is one of its turn's `ParsedTurn.places`."""
    members = dict(_members(text, place[0]))
    arguments = members.get("arguments", members.get("parameters"))
    return CallSpans(members["name"], dict(_members(text, arguments[0])) if arguments else {})


def _members(text: str, start: int) -> Iterator[tuple[str, Span]]:
    """Each key of the JSON object that starts here, with its value's span."""
    at = skip_space(text, start + 1)
    while text[at] != "}":
        key_end = value_end(text, at)
        first = skip_space(text, skip_space(text, key_end) + 1)  # behind the colon
        last = value_end(text, first)
        yield json.loads(text[at:key_end]), (first, last)
        at = skip_space(text, last)
        if text[at] == ",":
            at = skip_space(text, at + 1)
