"""The pieces of a turn (prose, thoughts, calls and faults), and functions that the readers of all chat formats share.

A reader (`hermes.py`, `bare_json.py`) yields pieces in the order of the text. `chat/parse.py` builds a turn from them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from toolhone.formats.call_json import CallSpans, short
from toolhone.formats.foreign_syntax import call_syntax, syntax_at
from toolhone.records import ToolCall

TOOL_CALL, TOOL_CALL_END = "<tool_call>", "</tool_call>"
THINK, THINK_END = "<think>", "</think>"
PYTHON_TAG = "<|python_tag|>"
FENCE = "```"

OTHER_FORMAT = "a call in another format"
"""The start of a fault's reason if a call is in another syntax than the expected one."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that cannot be read. "broken" cannot become a call. "unfinished" lacks only its end. "begun" may be the
    start of a call; unless the turn was cut there, it is the prose `text`."""

    reason: str
    kind: Literal["broken", "unfinished", "begun"] = "broken"
    text: str = ""


@dataclass(frozen=True, slots=True)
class PlacedCall:
    """A call, and its start and end in the text. `spans` are given for a syntax that is not JSON."""

    call: ToolCall
    start: int
    end: int
    spans: CallSpans | None = None


@dataclass(frozen=True, slots=True)
class Thought:
    """A thought, as the start and end of its text. If it was not `opened`, everything before its end is a thought: its
    opening tag is in the prompt."""

    start: int
    end: int
    opened: bool = True


Piece = str | PlacedCall | Thought | Fault
"""A piece of a turn: prose, a call, a thought or a fault."""


def read_thought(
    text: str, start: int, tools: Collection[str] | None, tags: tuple[str, str] = (THINK, THINK_END)
) -> tuple[list[Piece], int]:
    """Return the thought whose opening tag is here, or a fault if it is not closed, and where it ends."""
    opening, closing = tags
    close = text.find(closing, start)
    if close >= 0:
        return [Thought(start + len(opening), close)], close + len(closing)
    syntax = call_syntax(text[start:], tools)
    fault = Fault(f"the {opening} block is not closed", "unfinished" if syntax else "begun", text[start:])
    return [fault], len(text)


def other_format(syntax: str) -> Fault:
    """Return the fault of a call in another syntax than the expected one. It is "broken" even if it was cut."""
    return Fault(f"{OTHER_FORMAT} ({short(syntax)})")


def foreign_block(text: str, start: int) -> tuple[list[Piece], int]:
    """Return the fault of the call in another syntax whose marker is here, and where it ends. These syntaxes close in
    many ways, or not at all, so the call is taken to end with the turn or with its thought."""
    thought_end = text.find(THINK_END, start)
    return [other_format(syntax_at(text, start) or "unknown")], len(text) if thought_end < 0 else thought_end
