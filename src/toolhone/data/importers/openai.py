"""OpenAI's chat fine-tuning format, which is toolhone's own, and what is near it.

`conversation` takes the format itself, strictly, and the naive ways of writing it: calls without ids or type, arguments
as JSON text or as an object, `content` absent or null, and no `tools` (those of the config's `data.tools` then stand
in). `read` takes legacy rows as well (`functions`, `function_call`, the role `function`), the role `developer`, content
as a list of text parts, and tools as a JSON text.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from toolhone.data.importers.expected import read_expected
from toolhone.data.importers.fields import short, typed
from toolhone.data.importers.legacy import modernised
from toolhone.data.importers.tool_list import read_tool_list
from toolhone.errors import RowError
from toolhone.records import Conversation, Message, Role, Tool, ToolCall
from toolhone.strict_json import StrictJsonError, parse_strict, refuse_surrogates

_ROLES: tuple[Role, ...] = ("system", "user", "assistant", "tool")
_ROW_KEYS = frozenset({"id", "messages", "tools", "parallel_tool_calls", "expected", "gold_source", "meta"})
_MESSAGE_KEYS = frozenset({"role", "content", "tool_calls", "tool_call_id", "name", "weight", "refusal"})


def looks_like(row: dict[str, Any]) -> bool:
    """Whether the row has a list of messages with roles."""
    messages = row.get("messages")
    return isinstance(messages, list) and all(isinstance(message, dict) and "role" in message for message in messages)


def read(row: dict[str, Any], where: str, default_tools: tuple[Tool, ...] = ()) -> Conversation:
    """A row of the format, present or legacy, as a `Conversation`.

    Raises:
        RowError: naming `where`, what was found and what was expected.
    """
    try:
        return parsed(row, where, default_tools)
    except RowError:
        modern = modernised(row, where)  # not beforehand: nearly all rows are in the present format
        if modern is row:
            raise
    return parsed(modern, where, default_tools)


def conversation(row: dict[str, Any], where: str, default_tools: tuple[Tool, ...] = ()) -> Conversation:
    """A row of the present format, which may come from anywhere, as a `Conversation`.

    Raises:
        RowError: naming `where`, what was found and what was expected.
    """
    refuse_unwritable(row, where)
    return parsed(row, where, default_tools)


def parsed(row: dict[str, Any], where: str, default_tools: tuple[Tool, ...]) -> Conversation:
    """A row of the present format, known to be writable as JSON. One without `id` is named by a hash of its content.

    Raises:
        RowError: naming `where`, what was found and what was expected.
    """
    if not row.keys() <= _ROW_KEYS:
        unknown = sorted(key for key in row.keys() - _ROW_KEYS if row[key] is not None)
        if unknown:
            text = f'{where}: unknown key "{unknown[0]}"; a row has {", ".join(sorted(_ROW_KEYS))}'
            raise RowError(text, rule="unknown-key")
    rows = row.get("messages")
    if not isinstance(rows, list) or not rows:
        raise RowError(f'{where}: expected "messages", a list of messages, found {short(rows)}', rule="no-messages")
    tools = read_tool_list(row["tools"], where) if row.get("tools") is not None else default_tools
    found = Conversation(
        id=str(row["id"]) if row.get("id") is not None else "",
        messages=tuple(
            [_plain(message) or _message(message, f"{where}: message {n}") for n, message in enumerate(rows)]
        ),
        tools=tools,
        where=where,
        parallel_tool_calls=typed(row, "parallel_tool_calls", bool, True, where),
        expected=read_expected(row["expected"], where) if row.get("expected") is not None else None,
        gold_source=typed(row, "gold_source", str, None, where),
        meta=typed(row, "meta", dict, {}, where),
    )
    return found if found.id else replace(found, id=found.content_hash())


def _plain(row: Any) -> Message | None:
    """A message of role and content alone, as most are, in a third of the time; None for all others."""
    if not isinstance(row, dict) or len(row) != 2:
        return None
    role, content = row.get("role"), row.get("content")
    return Message(role, content) if role in _ROLES and isinstance(content, str) else None


def _message(row: Any, where: str) -> Message:
    if not isinstance(row, dict):
        raise RowError(f"{where}: expected an object, found {short(row)}", rule="bad-message")
    role = row.get("role")
    if role not in _ROLES:
        text = f'{where}: expected a "role" of {", ".join(_ROLES)}, found {short(role)}'
        raise RowError(text, rule="bad-role")
    if not row.keys() <= _MESSAGE_KEYS:
        unknown = sorted(key for key in row.keys() - _MESSAGE_KEYS if row[key] is not None)
        if unknown:
            raise RowError(f'{where}: unknown key "{unknown[0]}" in a message of role {role}', rule="unknown-key")
    content = row.get("content")
    if content is not None and not isinstance(content, str):
        raise RowError(f'{where}: expected "content" to be a text, found {short(content)}', rule="bad-content")
    calls = row.get("tool_calls") or ()
    if calls and role != "assistant":
        text = f"{where}: only an assistant calls tools, found tool_calls in a message of role {role}"
        raise RowError(text, rule="calls-of-another-role")
    if not isinstance(calls, list | tuple):
        raise RowError(f'{where}: expected "tool_calls" to be a list, found {short(calls)}', rule="bad-call")
    if content is None and not calls:
        text = f'{where}: a message of role {role} has neither "content" nor "tool_calls"'
        raise RowError(text, rule="empty-message")
    weight = row.get("weight")
    if weight is None:
        weight = 1
    if isinstance(weight, bool) or not isinstance(weight, int | float) or weight not in (0, 1):
        raise RowError(f'{where}: expected "weight" to be 0 or 1, found {short(weight)}', rule="bad-weight")
    called = tuple([_call(call, f"{where}: call {n}") for n, call in enumerate(calls)]) if calls else ()
    answers = typed(row, "tool_call_id", str, None, where) if "tool_call_id" in row else None
    return Message(role, content or "", called, answers, float(weight))


def _call(row: Any, where: str) -> ToolCall:
    function = row.get("function", row) if isinstance(row, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        text = f'{where}: expected {{"function": {{"name": ..., "arguments": ...}}}}, found {short(row)}'
        raise RowError(text, rule="bad-call")
    arguments = read_arguments(function.get("arguments"), where)
    return ToolCall(function["name"], arguments, typed(row, "id", str, None, where))


def read_arguments(found: Any, where: str) -> dict[str, Any]:
    """Decode arguments once; None is a call without arguments.

    Raises:
        RowError: where they are no JSON object, or were encoded twice.
    """
    arguments = {} if found is None else found
    if isinstance(found, str):
        try:
            arguments = parse_strict(found) if found.strip() else {}
        except StrictJsonError as error:
            if str(error).startswith("holds "):  # of JSON, though of a value that nothing can write
                raise RowError(f"{where}: {error}", rule=error.rule) from None
            reason = str(error).removeprefix("broken JSON: ")
            text = f"{where}: the arguments are not JSON ({reason}): {short(found)}"
            raise RowError(text, rule="bad-arguments") from None
    if isinstance(arguments, str):
        text = f"{where}: the arguments are encoded twice (JSON in a JSON text): {short(found)}"
        raise RowError(text, rule="arguments-encoded-twice")
    if not isinstance(arguments, dict):
        text = f"{where}: expected arguments as a JSON object, found {short(found)}"
        raise RowError(text, rule="bad-arguments")
    return arguments


def refuse_unwritable(value: Any, where: str) -> None:
    """Refuse what no tokenizer or file can hold: half of a surrogate pair, 1e999.

    Raises:
        RowError: naming `where`.
    """
    try:
        refuse_surrogates(value, allow_nan=False)
    except StrictJsonError as error:
        raise RowError(f"{where}: {error}", rule=error.rule) from None
    except ValueError:
        text = f"{where}: holds a number that is too large for a float; write it as a text"
        raise RowError(text, rule="nan") from None
