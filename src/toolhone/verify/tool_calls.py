"""Whether an engine's own parser reads the calls of a turn as toolhone's parser does.

In: the observed turns of `checks.py`. Out: the gate's line for tool calls. Both parsers must read the same text.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, get_args

from toolhone.chat.parse import ParsedTurn, parse_turn
from toolhone.engines.client import ChatAnswer
from toolhone.engines.facts import Generation
from toolhone.formats.chat_format import RawCall
from toolhone.records import FinishReason, FormatName, ToolCall
from toolhone.verify.checks import Kind, Line, Turn

_SHOWN_TEXT = 160


def check_tool_calls(turns: Sequence[Turn], format: FormatName, *, in_text: bool = False) -> Line:
    """Check that the engine's parser reads the calls that toolhone's parser reads, from the same text.

    Turns that toolhone's parser cannot read are left out, because engines may do what they want with them.

    Args:
        in_text: whether the server leaves calls in the text, for toolhone's parser. Then the text must be whole.
    """
    name = "tool calls"
    totals: Counter[Kind] = Counter()
    equal: Counter[Kind] = Counter()
    faults: list[tuple[str, Turn]] = []
    unreadable = 0
    for turn in turns:
        read = own_reading(turn, format)
        if turn.chat is None or read is None:
            continue
        if read.failure is not None:
            unreadable += 1
            continue
        kind: Kind = "parallel" if len(read.calls) > 1 else "single" if read.calls else "text"
        fault = call_fault(turn, read, format, in_text=in_text)
        totals[kind] += 1
        equal[kind] += fault is None
        if fault is not None:
            faults.append((fault, turn))
    if not totals:
        return Line(name, None, "no chat answer can be compared")
    shown = ", ".join(f"{kind} {equal[kind]} of {totals[kind]}" for kind in get_args(Kind) if totals[kind])
    figures: dict[str, Any] = {kind: {"turns": total, "equal": equal[kind]} for kind, total in totals.items()}
    figures["unreadable"] = unreadable
    detail = f"left in the text, for toolhone's parser: {shown}" if in_text else f"read as toolhone reads them: {shown}"
    if unreadable:
        detail += f"; {unreadable} turns without readable calls are left out"
    if not faults:
        return Line(name, True, detail, figures)
    common = Counter(fault for fault, _ in faults).most_common(1)[0][0]
    first = next(turn for fault, turn in faults if fault == common)
    detail += f"; {len(faults)} differ, the commonest (first: {first.example.id}): {common}"
    detail += "; use another parser, or leave calls in the text for toolhone's"
    return Line(name, False, detail, figures)


def own_reading(turn: Turn, format: FormatName) -> ParsedTurn | None:
    """Return how toolhone reads the model's text behind a chat answer. None if the text is not known.

    The text is that of the answer to ids, if the chat answer does not have it and its prompt is the same.
    """
    tools = turn.example.tools_by_name
    if isinstance(turn.chat, ChatAnswer) and turn.chat.raw_text is not None:
        finish: FinishReason = "length" if turn.chat.finish_reason == "length" else "stop"
        return parse_turn(turn.chat.raw_text, format, finish, tools=tools)
    if isinstance(turn.generation, Generation) and turn.prompt in (None, turn.trained_ids):
        return parse_turn(turn.generation.text, format, turn.generation.finish_reason, tools=tools)
    return None


def call_fault(turn: Turn, read: ParsedTurn, format: FormatName, *, in_text: bool) -> str | None:
    """Return how the engine's reading of a turn differs from toolhone's; None if it is the same."""
    if not isinstance(turn.chat, ChatAnswer):
        return f"refused: {turn.chat}"
    if not in_text:
        return _call_fault(read, turn.chat)
    again = parse_turn(turn.chat.content, format, tools=turn.example.tools_by_name)
    calls = tuple(RawCall(call.name, json.dumps(call.arguments)) for call in again.calls)
    return _call_fault(read, replace(turn.chat, content=again.content, calls=calls))


def _call_fault(read: ParsedTurn, answer: ChatAnswer) -> str | None:
    """Return how an engine's reading differs; None if it is the same."""
    ours, theirs = [_as_text(call) for call in read.calls], [_raw_as_text(call) for call in answer.calls]
    if ours == theirs:
        if ours or read.content == answer.content.strip():
            return None
        return f"text changed from {_cut(read.content)!r} to {_cut(answer.content)!r}"
    missing, extra = list((Counter(ours) - Counter(theirs)).elements()), Counter(theirs) - Counter(ours)
    if not extra:
        return f"dropped {len(missing)} of {len(ours)} calls, such as {_cut(missing[0])}" if missing else "reordered"
    invented = next(iter(extra))
    if not missing:
        return f"invented {_cut(invented)}"
    return f"changed {_cut(missing[0])} to {_cut(invented)}"


def _as_text(call: ToolCall) -> str:
    # As JSON text, because in Python True == 1 and 1 == 1.0.
    return f"{call.name}({json.dumps(call.arguments, ensure_ascii=False, sort_keys=True)})"


def _raw_as_text(call: RawCall) -> str:
    try:
        arguments = json.loads(call.arguments or "{}")
    except ValueError:
        return f"{call.name}({call.arguments})"
    return f"{call.name}({json.dumps(arguments, ensure_ascii=False, sort_keys=True)})"


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_TEXT else f"{text[:_SHOWN_TEXT]}..."
