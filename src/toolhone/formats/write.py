"""Write a turn that came apart, as text and calls, as the text that a chat format's parser reads.

An endpoint gives calls as structures, with arguments as a JSON text that may be broken. Written here, they are read and
judged by `parse.py` like any model's text: sound calls come back as they were, and what cannot be read stays malformed,
or truncated where it was cut. No tokenizer is needed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from toolhone.formats.call_json import Undecodable, decode
from toolhone.records import FinishReason, FormatName

_ARGUMENTS_KEY: dict[FormatName, str] = {
    "hermes": "arguments",
    "llama3": "parameters",
    "gemma": "parameters",
    "json": "arguments",
}


@dataclass(frozen=True, slots=True)
class RawCall:
    """A call as an endpoint gives it. `arguments` is meant as the JSON text of an object."""

    name: str
    arguments: str


def write_turn(content: str, calls: Sequence[RawCall], format: FormatName, finish_reason: FinishReason) -> str:
    """The turn as one text. With `finish_reason` "length" the last call may lack its end, and is then written so.

    Arguments that are no JSON object stand as a JSON text in the object's place: so they can never be read as a call,
    nor end it and begin another.
    """
    written = []
    for number, call in enumerate(calls, 1):
        body, whole = _call(call, format, may_be_cut=finish_reason == "length" and number == len(calls))
        closing = "\n</tool_call>" if whole else ""
        written.append(f"<tool_call>\n{body}{closing}" if format == "hermes" else body)
    joined = ("; " if format == "llama3" else "\n").join(written)
    return f"{content}\n{joined}" if content and written else content + joined


def _call(call: RawCall, format: FormatName, *, may_be_cut: bool) -> tuple[str, bool]:
    """The call's JSON, and whether it has its end."""
    raw = call.arguments.strip() or "{}"  # no text at all is how some endpoints say that there are no arguments
    opening = f'{{"name": {json.dumps(call.name, ensure_ascii=False)}, "{_ARGUMENTS_KEY[format]}": '
    found = decode(raw, 0)
    if isinstance(found, Undecodable):
        if may_be_cut and found.cut and raw.startswith("{"):
            return opening + raw, False
    elif found.fault is None and isinstance(found.value, dict) and found.end == len(raw):
        return f"{opening}{raw}}}", True
    return f"{opening}{json.dumps(call.arguments, ensure_ascii=False)}}}", True
