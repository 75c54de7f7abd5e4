"""ToolACE: ShareGPT turns, tools as a JSON list in the system prompt, calls as `[Market Trends API(country="us")]`.

Such a call looks like Python and is none: function names hold spaces, argument names may be keywords or hold hyphens.
A scanner that knows quotes and brackets splits the text, and each value is read as a literal.
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
    """Whether the row's turns are ToolACE's: user and assistant, beside a system prompt."""
    names = speakers(row)
    return bool(names & {"user", "assistant"}) and names <= _ROLES.keys() and "system" in row


def read(row: Row, where: str, default_tools: tuple[Tool, ...] = ()) -> Conversation:
    system, tools = _prompt(row.get("system"), where)
    names = [tool["name"] for tool in tools or [] if isinstance(tool, dict) and isinstance(tool.get("name"), str)]
    names = names or [tool.name for tool in default_tools]
    messages: list[Row] = [{"role": "system", "content": system}] if system else []
    for role, text, place in sharegpt_turns(row, _ROLES, where):
        if role == "assistant" and _is_bracket_call(text, names):
            try:
                calls = [to_call(call, place) for call in _bracket_calls(text, names)]
            except LiteralError as error:
                raise RowError(f"{place}: a call that cannot be read: {error}", rule="bad-call") from None
            messages.append({"role": role, "content": None, "tool_calls": calls})
        elif role == "tool":
            open_calls = messages[-1].get("tool_calls", ()) if messages else ()
            messages += [{"role": role, "content": answer} for answer in _answers(text, len(open_calls))]
        else:
            messages.append({"role": role, "content": text})
    return read_rewritten(row, "toolace", messages, tools, where, default_tools)


def _prompt(system: Any, where: str) -> tuple[str, list[Any] | None]:
    """What the system prompt says besides calling, and the tools; None if it lists none."""
    if not isinstance(system, str):
        raise unexpected(where, '"system" to be a text', system, "bad-content")
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
    """ToolACE answers all calls of a turn in one text, a JSON list with an entry for each."""
    try:
        entries = parse_literal(text) if calls > 1 else None
    except LiteralError:
        entries = None
    if not isinstance(entries, list) or len(entries) != calls:
        return [text]
    return [json.dumps(entry, ensure_ascii=False) for entry in entries]


# Calls in brackets


def _is_bracket_call(text: str, names: Iterable[str]) -> bool:
    """Whether a text is meant as a list of calls: it begins with a bracket and something's name and parenthesis."""
    inside = text.strip()
    if not inside.startswith("["):
        return False
    first = inside[1:].lstrip()
    return bool(_OPENING.match(inside)) or any(first.startswith(f"{name}(") for name in names)


def _bracket_calls(text: str, names: Iterable[str]) -> list[dict[str, Any]]:
    """The calls of a text, each as `{"name": ..., "arguments": {...}}`. `names` are those of the tools offered, for
    names that hold a parenthesis themselves. Raises LiteralError."""
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
    """Where the bracket at `opening` closes. Raises LiteralError if it does not."""
    waiting: list[str] = []
    for place, character in unquoted(text, opening):
        if character in _PAIRS:
            waiting.append(_PAIRS[character])
        elif character in ")]}":
            if not waiting or waiting.pop() != character:
                raise LiteralError(f"a {character!r} that closes nothing")
            if not waiting:
                return place
    raise LiteralError("a bracket that is never closed; the text was cut")
