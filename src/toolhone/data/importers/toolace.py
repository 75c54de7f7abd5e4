"""ToolACE: ShareGPT turns, tools as a JSON list in the system prompt, calls as `[Market Trends API(country="us")]`.

Such a call looks like Python but is not: function names contain spaces, and argument names may be keywords or contain
hyphens. A scanner splits the text outside quotes and brackets, and each value is parsed as a literal.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from toolhone.data.importers.importer import Row, unexpected
from toolhone.data.importers.rewrite import (
    LiteralError,
    decode_prefix,
    parse_literal,
    read_rewritten,
    sharegpt_turns,
    speakers,
    split_outside,
    to_call,
    unquoted,
)
from toolhone.data.importers.thinking import KEY as THINKING
from toolhone.data.importers.thinking import split_thought
from toolhone.errors import RowError
from toolhone.records import Conversation, Tool

_ROLES = {"system": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
_LEAD = re.compile(
    r"You are an expert in composing functions\..*?"
    r"Here is a list of functions in JSON format that you can invoke:\s*\Z",
    re.DOTALL,
)
_END = re.compile(
    r"\A\s*\.?\s*Should you decide to return the function call\(s\)\.\s*Put it in the format of \[.*?\]"
    r"\s*NO other text MUST be included\.?\s*",
    re.DOTALL,
)
_OPENING = re.compile(r"\[\s*[^\[\](){}\"'=,]+\(")
_PAIRS = {"(": ")", "[": "]", "{": "}"}


def looks_like(row: Row) -> bool:
    """Whether the row is ToolACE's: user and assistant turns, and a system prompt under its own key."""
    names = speakers(row)
    return bool(names & {"user", "assistant"}) and names <= _ROLES.keys() and "system" in row


def read(row: Row, where: str, default_tools: tuple[Tool, ...] = ()) -> Conversation:
    system, tools = _prompt(row.get("system"), where)
    names = [tool["name"] for tool in tools or [] if isinstance(tool, dict) and isinstance(tool.get("name"), str)]
    names = names or [tool.name for tool in default_tools]
    messages: list[Row] = [{"role": "system", "content": system}] if system else []
    for role, text, place in sharegpt_turns(row, _ROLES, where):
        thought = ""
        if role == "assistant":
            thought, text = split_thought(text)
        thinking: Row = {THINKING: thought} if thought else {}
        if role == "assistant" and _is_bracket_call(text, names):
            try:
                calls = [to_call(call, place) for call in _bracket_calls(text, names)]
            except LiteralError as error:
                raise RowError(f"{place}: the call cannot be read: {error}", rule="bad-call") from None
            messages.append({"role": role, "content": None, "tool_calls": calls, **thinking})
        elif role == "tool":
            open_calls = messages[-1].get("tool_calls", ()) if messages else ()
            messages += [{"role": role, "content": answer} for answer in _answers(text, len(open_calls))]
        else:
            messages.append({"role": role, "content": text, **thinking})
    return read_rewritten(row, "toolace", messages, tools, where, default_tools)


def _prompt(system: Any, where: str) -> tuple[str, list[Any] | None]:
    """The system prompt without its sentences about calling, and the tools (None if it lists none)."""
    if not isinstance(system, str):
        raise unexpected(where, '"system" to be a string', system, "bad-content")
    opening = re.search(r"\[\s*\{", system)
    if opening is None:
        return system.strip(), None
    try:
        tools, end = decode_prefix(system, opening.start())
    except LiteralError as error:
        raise RowError(f"{where}: system: the list of functions cannot be read: {error}", rule="bad-tool") from None
    before = _LEAD.sub("", system[: opening.start()]).strip()
    after = _END.sub("", system[end:]).strip()
    return f"{before}\n{after}".strip(), tools


def _answers(text: str, calls: int) -> list[str]:
    """The result of each call. ToolACE writes the results of a turn as one JSON list with an entry for each call."""
    try:
        entries = parse_literal(text) if calls > 1 else None
    except LiteralError:
        entries = None
    if not isinstance(entries, list) or len(entries) != calls:
        return [text]
    return [json.dumps(entry, ensure_ascii=False) for entry in entries]


# Calls in brackets


def _is_bracket_call(text: str, names: Iterable[str]) -> bool:
    """Whether a text is meant as a list of calls: it begins with a bracket, a name and a parenthesis."""
    inside = text.strip()
    if not inside.startswith("["):
        return False
    first = inside[1:].lstrip()
    return bool(_OPENING.match(inside)) or any(first.startswith(f"{name}(") for name in names)


def _bracket_calls(text: str, names: Iterable[str]) -> list[dict[str, Any]]:
    """The calls of a text, each as `{"name": ..., "arguments": {...}}`. `names` are those of the offered tools; a name
    may itself contain a parenthesis. Raises LiteralError."""
    inside = text.strip()
    end = _closing(inside, 0)
    if end != len(inside) - 1:
        raise LiteralError(f"text after the list of calls: {inside[end + 1 :].strip()[:40]!r}")
    longest_first = sorted(names, key=len, reverse=True)
    return [_call(part, longest_first) for part in split_outside(inside[1:end], ",")]


def _call(text: str, names: list[str]) -> dict[str, Any]:
    call = text.strip()
    name = next((name for name in names if call.startswith(f"{name}(")), call.partition("(")[0].strip())
    opening = call.find("(", len(name))
    if not name or opening < 0 or _closing(call, opening) != len(call) - 1:
        raise LiteralError(f"expected name(argument=value, ...), found {call[:40]!r}")
    arguments: dict[str, Any] = {}
    for part in split_outside(call[opening + 1 : -1], ","):
        argument, *value = split_outside(part, "=", at_most=1)
        key = argument.strip().strip("\"'")
        if not value or not key:
            raise LiteralError(f"an argument of {name!r} has no name: {part.strip()[:40]!r}")
        if key in arguments:
            raise LiteralError(f"the argument {key!r} of {name!r} appears twice")
        arguments[key] = parse_literal(value[0])
    return {"name": name, "arguments": arguments}


def _closing(text: str, opening: int) -> int:
    """The index at which the bracket at `opening` closes. Raises LiteralError if it does not."""
    unclosed: list[str] = []
    for place, character in unquoted(text, opening):
        if character in _PAIRS:
            unclosed.append(_PAIRS[character])
        elif character in ")]}":
            if not unclosed or unclosed.pop() != character:
                raise LiteralError(f"a {character!r} without a matching bracket")
            if not unclosed:
                return place
    raise LiteralError("a bracket that is never closed; the text was cut off")
