"""Builds OpenAI's messages, log lines and rows from those of other providers, for `rewrite` of an importer.

Providers keep text, reasoning, calls and results as parts of a message. OpenAI keeps them under keys of a message, and
each result in a message of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from toolhone.data.importers.bodies import TIME_KEYS
from toolhone.data.importers.importer import Row, short, unexpected
from toolhone.errors import RowError


def assistant_turn(messages: list[Row]) -> Row:
    """The assistant's turn at the end of the messages; a new one if the last message is not the assistant's. Providers
    join consecutive messages of the assistant."""
    if not messages or messages[-1].get("role") != "assistant":
        messages.append({"role": "assistant", "content": None})
    return messages[-1]


def add_text(turn: Row, text: Any, where: str) -> None:
    """Append text to the turn's content."""
    _append(turn, "content", text, where)


def add_reasoning(turn: Row, text: Any, where: str) -> None:
    """Append text to the turn's reasoning."""
    if text not in (None, ""):
        _append(turn, "reasoning_content", text, where)


def _append(turn: Row, key: str, text: Any, where: str) -> None:
    if not isinstance(text, str):
        raise unexpected(where, "a text part", text, "content-not-text")
    before = turn.get(key)
    if before is not None and not isinstance(before, str):
        raise unexpected(where, f'"{key}" to be a string', before, "bad-content")
    turn[key] = (before or "") + text


def add_call(turn: Row, id: Any, name: Any, arguments: Any, where: str) -> None:
    """Append a call to the turn. The arguments are checked when the call is read."""
    if not isinstance(name, str) or not name:
        raise unexpected(where, "a call with the name of a tool", name, "bad-call")
    calls = turn.setdefault("tool_calls", [])
    if not isinstance(calls, list):
        raise unexpected(where, '"tool_calls" to be a list', calls, "bad-call")
    calls.append({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}})


def result_text(value: Any) -> str:
    """A result as text: a string unchanged, anything else as JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def objects(found: Any, where: str, of: str) -> list[Row]:
    """The list of objects. Raises RowError for anything else, with `of` after "a list of"."""
    if not isinstance(found, list):
        raise unexpected(where, f"a list of {of}", found, "bad-content")
    for number, each in enumerate(found):
        if not isinstance(each, dict):
            raise unexpected(f"{where}: {number}", "an object", each, "bad-content")
    return found


def not_text(kind: Any, where: str) -> RowError:
    """The error for a part that a text model cannot read or write, such as an image."""
    return RowError(f"{where}: a part of type {short(kind)}; only text and calls are read", rule="content-not-text")


def hosted_tool(kind: Any, where: str) -> RowError:
    """The error for a call that the provider's own tool answers, whose schema no row has."""
    text = f"{where}: {short(kind)} is a tool of the provider; only calls of the request's own tools are read"
    return RowError(text, rule="log-hosted-tool")


def log_line(row: Row, request: Row, response: Any) -> Row:
    """The log line of a request and its response, with the row's own id, time and model."""
    return {
        **{key: row[key] for key in (*TIME_KEYS, "id", "model") if row.get(key) is not None},
        "request": request,
        "response": response,
    }


def data_row(row: Row, messages: list[Row], tools: list[Row] | None, hosted: list[str], own: Iterable[str]) -> Row:
    """The row of a data set, without a response. Its keys except `own` become `meta`, as do the names of hosted
    tools. Without tools the row takes those of the config."""
    own = {"messages", "tools", "id", "meta", *own}
    meta = {key: value for key, value in row.items() if key not in own and value is not None}
    if isinstance(row.get("meta"), dict):
        meta |= row["meta"]
    if hosted:
        meta["hosted_tools"] = hosted
    return {"id": row.get("id"), "messages": messages, "tools": tools or None, "meta": meta}
