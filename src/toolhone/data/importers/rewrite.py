"""Foreign rows rewritten in OpenAI's format: ShareGPT turns, calls, ids, tools. `openai.conversation` then reads them.

Calls and results carry no ids in the sources: they get them, a result that of the first call still unanswered.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from toolhone.data.importers import openai
from toolhone.data.importers.importer import Row, listed, short, unexpected
from toolhone.data.importers.schemas import object_schema
from toolhone.errors import RowError
from toolhone.records import Conversation, Tool


def read_rewritten(
    row: Row,
    source: str,
    own_keys: Collection[str],
    messages: list[Row],
    tools: list[Any] | None,
    where: str,
    default_tools: tuple[Tool, ...],
    **more: Any,
) -> Conversation:
    """The conversation of a row whose messages and tools are OpenAI's by now. Its other columns become `meta`."""
    meta = {key: value for key, value in row.items() if key not in own_keys and value is not None}
    made: Row = {"id": row.get("id"), "messages": with_call_ids(messages), "meta": {"source": source, **meta}, **more}
    if tools is not None:
        made["tools"] = tools
    return openai.conversation(made, where, default_tools)


def sharegpt_turns(row: Row, roles: Mapping[str, str], where: str) -> list[tuple[str, str, str]]:
    """Role, text and place of each turn `{"from": ..., "value": ...}`; the place ends with the speaker's own name."""
    turns = row.get("conversations")
    if not isinstance(turns, list) or not turns:
        raise unexpected(where, '"conversations", a list of turns', turns, "no-messages")
    found = []
    for number, turn in enumerate(turns):
        name, value = (turn.get("from"), turn.get("value")) if isinstance(turn, dict) else (None, None)
        if not isinstance(name, str) or name not in roles:
            raise unexpected(f"{where}: turn {number}", f'a "from" of {", ".join(roles)}', name, "bad-role")
        if not isinstance(value, str):
            raise unexpected(f"{where}: turn {number}", '"value" to be a text', value, "bad-content")
        found.append((roles[name], value, f"{where}: turn {number}: {name}"))
    return found


def speakers(row: Row) -> set[str]:
    """Whom the turns of a ShareGPT row name; nobody if they are no turns."""
    turns = row.get("conversations")
    if not isinstance(turns, list) or not all(isinstance(turn, dict) and "value" in turn for turn in turns):
        return set()
    names = [turn.get("from") for turn in turns]
    return {name if isinstance(name, str) else "" for name in names}


def tool_rows(row: Row, where: str) -> list[Any] | None:
    """A row's own list of tools, or its JSON text; None if the row has none (an empty list is one)."""
    found = row.get("tools")
    return listed(None if isinstance(found, str) and not found.strip() else found, where, " of tools", "bad-tool")


def with_schemas(
    tools: list[Any] | None, where: str, to_schema: Callable[[Any, str], Any] = object_schema
) -> list[Any] | None:
    """The tools as bare functions whose parameters are JSON Schema; what is no tool stays for the reader to refuse."""
    if tools is None:
        return None
    made = []
    for number, tool in enumerate(tools):
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        if isinstance(function, dict) and isinstance(function.get("parameters"), dict | None):
            tool = {**function, "parameters": to_schema(function.get("parameters"), f"{where}: tool {number}")}
        made.append(tool)
    return made


def to_call(found: Any, where: str) -> Row:
    """`{"name": ..., "arguments": {...}}` in OpenAI's shape."""
    if not isinstance(found, dict) or not isinstance(found.get("name"), str):
        arguments = found.get("arguments") if isinstance(found, dict) else None
        inside = isinstance(arguments, dict) and "name" in arguments
        reason = 'the "name" is inside "arguments"' if inside else 'expected "name" and "arguments"'
        raise RowError(f"{where}: {reason}: {short(found)}", rule="bad-call")
    unknown = sorted(set(found) - {"name", "arguments", "id", "type"})
    if unknown:
        text = f'{where}: unknown key "{unknown[0]}" in a call of "{found["name"]}"; expected "name" and "arguments"'
        raise RowError(text, rule="bad-call")
    return {"function": {"name": found["name"], "arguments": openai.read_arguments(found.get("arguments"), where)}}


def with_call_ids(messages: list[Row]) -> list[Row]:
    """The messages with an id for every call, unique in the row, and each result named after the first call that is
    still unanswered. A result too many stays without, for the check to find."""
    made: list[Row] = []
    waiting: list[str] = []
    count = 0
    for message in messages:
        if message["role"] == "tool":
            made.append({**message, "tool_call_id": waiting.pop(0)} if waiting else message)
            continue
        calls = message.get("tool_calls", [])
        waiting = [f"call_{count + n}" for n in range(len(calls))]
        count += len(calls)
        if calls:
            message = {**message, "tool_calls": [{"id": id, **call} for id, call in zip(waiting, calls, strict=True)]}
        made.append(message)
    return made
