"""Reading conversations: foreign rows become `Conversation`s here, once, and what is wrong is said with file and line.

A row is OpenAI's chat fine-tuning format. The naive variants of it are taken too: calls without ids or type, arguments
as JSON text or as an object, `content` absent or null, and no `tools` (those of the config's `data.tools` then stand
in).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from toolhone.errors import UserError
from toolhone.jsonl import StrictJsonError, parse_strict, read_jsonl
from toolhone.records import Conversation, Example, Gold, GoldCall, Message, Role, Tool, ToolCall

_ROLES: tuple[Role, ...] = ("system", "user", "assistant", "tool")
_ROW_KEYS = {"id", "messages", "tools", "parallel_tool_calls", "expected", "gold_source", "meta"}


class RowError(UserError):
    """A row that is not a conversation."""


def read_tools(path: Path) -> tuple[Tool, ...]:
    """Read a JSON file with a list of tools, each in OpenAI's shape or as the bare function.

    Raises:
        UserError: naming the file and the tool.
    """
    try:
        rows = parse_strict(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; data.tools names the list of tools") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: broken JSON: {error.msg} at column {error.colno}") from None
    except (StrictJsonError, UnicodeDecodeError, IsADirectoryError) as error:
        raise UserError(f"{path}: {error}") from None
    _refuse_unwritable(rows, str(path))
    return _tools(rows, str(path))


def read_conversations(path: Path, default_tools: Sequence[Tool] = ()) -> Iterator[Conversation]:
    """Yield the conversations of a JSONL file. Rows without `tools` take `default_tools`.

    Raises:
        RowError: at the first row that is not a conversation, naming file and line.
    """
    for where, row in read_jsonl(path):
        yield conversation(row, where, tuple(default_tools))


def conversation(row: dict[str, Any], where: str, default_tools: tuple[Tool, ...] = ()) -> Conversation:
    """A row as a `Conversation`. A row without `id` is named by a hash of its content.

    Raises:
        RowError: naming `where`, what was found and what was expected.
    """
    unknown = sorted(set(row) - _ROW_KEYS)
    if unknown:
        raise RowError(f'{where}: unknown key "{unknown[0]}"; a row has {", ".join(sorted(_ROW_KEYS))}')
    rows = row.get("messages")
    if not isinstance(rows, list) or not rows:
        raise RowError(f'{where}: expected "messages", a list of messages, found {_short(rows)}')
    _refuse_unwritable(row, where)
    tools = _tools(row["tools"], where) if row.get("tools") is not None else default_tools
    found = Conversation(
        id=str(row["id"]) if row.get("id") is not None else "",
        messages=tuple(_message(message, f"{where}: message {n}") for n, message in enumerate(rows)),
        tools=tools,
        where=where,
        parallel_tool_calls=_typed(row, "parallel_tool_calls", bool, True, where),
        expected=_gold(row["expected"], where) if row.get("expected") is not None else None,
        gold_source=_typed(row, "gold_source", str, None, where),
        meta=_typed(row, "meta", dict, {}, where),
    )
    if found.id:
        return found
    return replace(found, id=found.content_hash())


def examples(conversation: Conversation) -> list[Example]:
    """One `Example` for each assistant turn that is to be learned (weight above 0)."""
    last = max((n for n, m in enumerate(conversation.messages) if m.role == "assistant"), default=-1)
    return [
        Example(
            id=f"{conversation.id}/{n}",
            conversation_id=conversation.id,
            prompt=conversation.messages[:n],
            turn=turn,
            gold=conversation.expected if conversation.expected and n == last else Gold.of_message(turn),
            tools=conversation.tools,
            where=conversation.where,
            gold_source=conversation.gold_source,
            meta=conversation.meta,
        )
        for n, turn in enumerate(conversation.messages)
        if turn.role == "assistant" and turn.weight > 0
    ]


def _message(row: Any, where: str) -> Message:
    if not isinstance(row, dict):
        raise RowError(f"{where}: expected an object, found {_short(row)}")
    role = row.get("role")
    if role not in _ROLES:
        raise RowError(f'{where}: expected a "role" of {", ".join(_ROLES)}, found {_short(role)}')
    unknown = sorted(set(row) - {"role", "content", "tool_calls", "tool_call_id", "name", "weight", "refusal"})
    if unknown:
        raise RowError(f'{where}: unknown key "{unknown[0]}" in a message of role {role}')
    content = row.get("content")
    if content is not None and not isinstance(content, str):
        raise RowError(f'{where}: expected "content" to be a text, found {_short(content)}')
    calls = row.get("tool_calls") or ()
    if calls and role != "assistant":
        raise RowError(f"{where}: only an assistant calls tools, found tool_calls in a message of role {role}")
    if not isinstance(calls, list | tuple):
        raise RowError(f'{where}: expected "tool_calls" to be a list, found {_short(calls)}')
    if content is None and not calls:
        raise RowError(f'{where}: a message of role {role} has neither "content" nor "tool_calls"')
    weight = row.get("weight", 1)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or weight not in (0, 1):
        raise RowError(f'{where}: expected "weight" to be 0 or 1, found {_short(weight)}')
    return Message(
        role=role,
        content=content or "",
        tool_calls=tuple(_call(call, f"{where}: call {n}") for n, call in enumerate(calls)),
        tool_call_id=_typed(row, "tool_call_id", str, None, where),
        weight=float(weight),
    )


def _call(row: Any, where: str) -> ToolCall:
    function = row.get("function", row) if isinstance(row, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise RowError(f'{where}: expected {{"function": {{"name": ..., "arguments": ...}}}}, found {_short(row)}')
    return ToolCall(function["name"], _arguments(function.get("arguments"), where), _typed(row, "id", str, None, where))


def _arguments(found: Any, where: str) -> dict[str, Any]:
    """Decode arguments once; None is a call without arguments."""
    arguments = {} if found is None else found
    if isinstance(found, str):
        try:
            arguments = parse_strict(found) if found.strip() else {}
        except (json.JSONDecodeError, StrictJsonError) as error:
            raise RowError(f"{where}: the arguments are not JSON ({error}): {_short(found)}") from None
    if isinstance(arguments, str):
        raise RowError(f"{where}: the arguments are encoded twice (JSON in a JSON text): {_short(found)}")
    if not isinstance(arguments, dict):
        raise RowError(f"{where}: expected arguments as a JSON object, found {_short(found)}")
    if isinstance(found, str):  # escapes in a JSON text inside the row's JSON
        _refuse_unwritable(arguments, where)
    return arguments


def _refuse_unwritable(value: Any, where: str) -> None:
    """Refuse what JSON's grammar lets in and no tokenizer or file can hold: half of a surrogate pair, 1e999."""
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise RowError(f"{where}: holds {half!r}, half of a surrogate pair; write the whole character") from None
    except ValueError:
        raise RowError(f"{where}: holds a number that is too large for a float; write it as a text") from None


def _tools(rows: Any, where: str) -> tuple[Tool, ...]:
    if not isinstance(rows, list):
        raise RowError(f"{where}: expected a list of tools, found {_short(rows)}")
    tools = tuple(_tool(row, f"{where}: tool {n}") for n, row in enumerate(rows))
    names = [tool.name for tool in tools]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise RowError(f'{where}: the tool "{twice[0]}" is defined twice')
    return tools


def _tool(row: Any, where: str) -> Tool:
    function = row.get("function", row) if isinstance(row, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        raise RowError(f'{where}: expected {{"type": "function", "function": {{"name": ...}}}}, found {_short(row)}')
    parameters = function.get("parameters")
    if parameters is None:
        parameters = {"type": "object", "properties": {}}
    if not isinstance(parameters, dict):
        raise RowError(f'{where}: expected "parameters" to be a JSON Schema, found {_short(parameters)}')
    return Tool(function["name"], _typed(function, "description", str, "", where), parameters)


def _gold(row: Any, where: str) -> Gold:
    if not isinstance(row, dict) or row.get("status") not in ("calls", "none", "any"):
        raise RowError(f'{where}: expected "expected" to have a "status" of calls, none or any, found {_short(row)}')
    calls = row.get("calls", [])
    if not isinstance(calls, list) or bool(calls) != (row["status"] == "calls"):
        raise RowError(f'{where}: "expected" lists "calls" where, and only where, its status is calls')
    return Gold(row["status"], tuple(_gold_call(call, f"{where}: expected call {n}") for n, call in enumerate(calls)))


def _gold_call(row: Any, where: str) -> GoldCall:
    arguments = row.get("arguments") if isinstance(row, dict) else None
    if not isinstance(arguments, dict) or not isinstance(row.get("name"), str):
        raise RowError(f'{where}: expected "name" and "arguments", found {_short(row)}')
    for name, accepted in arguments.items():
        if not isinstance(accepted, list) or not accepted:
            raise RowError(f"{where}: expected the accepted values of {name} as a list, found {_short(accepted)}")
    optional = _typed(row, "optional", list, [], where)
    for name in optional:
        if not isinstance(name, str) or name not in arguments:
            raise RowError(f'{where}: "optional" names {_short(name)}, which is not among the arguments')
    return GoldCall(row["name"], arguments, frozenset(optional))


def _typed(row: dict[str, Any], key: str, kind: type, default: Any, where: str) -> Any:
    """An optional value of one type; null counts as absent."""
    value = row.get(key)
    if value is None:
        return default
    if not isinstance(value, kind):
        raise RowError(f'{where}: expected "{key}" to be of type {kind.__name__}, found {_short(value)}')
    return value


def _short(value: Any) -> str:
    if value is None:
        return "nothing"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:77] + "..."
