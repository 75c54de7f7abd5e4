"""The pieces of a turn: prose, calls and faults; and what the readers of all chat formats share.

A reader (`hermes.py`, `bare_json.py`) yields pieces in the order of the text; `chat/parse.py` makes a turn of them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from toolhone.formats.call_json import call_in_prose
from toolhone.records import ToolCall

TOOL_CALL, TOOL_CALL_END = "<tool_call>", "</tool_call>"
PYTHON_TAG = "<|python_tag|>"
FENCE = "```"

OTHER_FORMATS = r"<function=|\[TOOL_CALLS\]"
_ANY_CALL = re.compile(rf"<tool_call>|<\|python_tag\|>|{OTHER_FORMATS}")


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that cannot be read: "broken" cannot become a call; "unfinished" only lacks its end; "begun" may be the
    start of a call, and is the prose `text` unless the turn was cut there."""

    reason: str
    kind: Literal["broken", "unfinished", "begun"] = "broken"
    text: str = ""


@dataclass(frozen=True, slots=True)
class PlacedCall:
    """A call, and the start and end of its JSON in the text."""

    call: ToolCall
    start: int
    end: int


Piece = str | PlacedCall | Fault | None
"""A piece of a turn: prose, a call or a fault. None: everything before it was a thought."""


def read_thought(text: str, start: int) -> tuple[list[Piece], int]:
    """Skip the `<think>` block that starts here. Returns the fault if it is not closed, and where it ends."""
    close = text.find("</think>", start)
    if close >= 0:
        return [], close + len("</think>")
    calls = _ANY_CALL.search(text, start) or call_in_prose(text[start:])
    fault = Fault("the <think> block is not closed", "unfinished" if calls else "begun", text[start:])
    return [fault], len(text)


def other_format(marker: str) -> Fault:
    """The fault of a marker that belongs to another chat format."""
    return Fault(f"a call in another format ({marker})")
