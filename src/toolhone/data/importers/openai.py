"""OpenAI's chat fine-tuning format, which is toolhone's own, and what is near it.

`conversation` takes the format itself, strictly, and simple variants of it: calls without ids or type, arguments
as JSON text or as an object, `content` absent or null, and no `tools` (the row then takes those of the config's
`data.tools`). `read` takes legacy rows as well (`functions`, `function_call`, the role `function`), the role
`developer`, content as a list of text parts, messages and tools as JSON texts, and TRL's `prompt` and `completion`.
The results of parallel calls are put in the order of the calls that their ids name.
"""

from __future__ import annotations

import marshal
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import groupby
from typing import Any

from toolhone.data.importers.functions import read_call, read_tool
from toolhone.data.importers.importer import Row, json_text, short, typed, unexpected
from toolhone.errors import RowError
from toolhone.records import Conversation, Gold, GoldCall, Message, Role, Tool
from toolhone.strict_json import StrictJsonError, refuse_surrogates

_ROLES: tuple[Role, ...] = ("system", "user", "assistant", "tool")
_ROW_KEYS = frozenset({"id", "messages", "tools", "parallel_tool_calls", "expected", "gold_source", "meta"})
_MESSAGE_KEYS = frozenset({"role", "content", "tool_calls", "tool_call_id", "name", "weight", "refusal"})
# What a request says besides its messages and tools; it becomes `meta`.
_REQUEST_KEYS = frozenset(
    {"split", "tool_choice", "model", "temperature", "top_p", "max_tokens", "max_completion_tokens", "seed", "n"}
    | {"stop", "stream", "response_format", "user", "store", "metadata", "source", "chat_template_kwargs"}
)
_NOT_SAID = ("annotations", "cache_control")  # keys of a message that change nothing of what it says
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")


def looks_like(row: Row) -> bool:
    """Whether the row has a list of messages with roles, or its JSON text, or is TRL's prompt and completion."""
    if "messages" in row:
        return _are_messages(row["messages"])
    return _are_messages(row.get("prompt")) and _are_messages(row.get("completion"))


def _are_messages(found: Any) -> bool:
    if isinstance(found, str):
        return found.lstrip().startswith("[") and '"role"' in found
    return isinstance(found, list) and all(
        "role" in message if isinstance(message, dict) else _is_text_of_object(message) and '"role"' in message
        for message in found
    )


def read(row: Row, where: str, default_tools: tuple[Tool, ...] = ()) -> Conversation:
    """A row of the format, present or legacy, as a `Conversation`. Raises RowError, naming `where`, what was found and
    what was expected."""
    try:
        return _parsed(row, where, default_tools)
    except RowError:
        modern = _modernised(row, where)  # only now, since nearly all rows are in the present format
        if modern is row:
            raise
    return _parsed(modern, where, default_tools)


def conversation(row: Row, where: str, default_tools: tuple[Tool, ...] = ()) -> Conversation:
    """A row of the present format, which may come from anywhere, as a `Conversation`. Raises RowError, naming `where`,
    what was found and what was expected."""
    refuse_unwritable(row, where)
    return _parsed(row, where, default_tools)


def _parsed(row: Row, where: str, default_tools: tuple[Tool, ...]) -> Conversation:
    """A row of the present format, known to be writable as JSON. One without `id` is named by a hash of its content."""
    if not row.keys() <= _ROW_KEYS:
        unknown = sorted(key for key in row.keys() - _ROW_KEYS if row[key] is not None)
        if unknown:
            text = f'{where}: unknown key "{unknown[0]}"; a row has {", ".join(sorted(_ROW_KEYS))}: put it into "meta"'
            raise RowError(text, rule="unknown-key")
    rows = row.get("messages")
    if not isinstance(rows, list) or not rows:
        raise unexpected(where, '"messages", a list of messages', rows, "no-messages")
    tools = read_tool_list(row["tools"], where) if row.get("tools") is not None else default_tools
    messages = [_plain(message) or _message(message, f"{where}: message {n}") for n, message in enumerate(rows)]
    found = Conversation(
        id=str(row["id"]) if row.get("id") is not None else "",
        messages=in_call_order(messages),
        tools=tools,
        where=where,
        parallel_tool_calls=typed(row, "parallel_tool_calls", bool, True, where),
        expected=_expected(row["expected"], where) if row.get("expected") is not None else None,
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
        raise unexpected(where, "an object", row, "bad-message")
    role = row.get("role")
    if role not in _ROLES:
        raise unexpected(where, f'a "role" of {", ".join(_ROLES)}', role, "bad-role")
    if not row.keys() <= _MESSAGE_KEYS:
        unknown = sorted(key for key in row.keys() - _MESSAGE_KEYS if row[key] is not None)
        if unknown:
            thoughts = "; thoughts are not learned: take it out" if unknown[0] in _THOUGHTS else ""
            text = f'{where}: unknown key "{unknown[0]}" in a message of role {role}{thoughts}'
            raise RowError(text, rule="unknown-key")
    content = row.get("content")
    if content is None and isinstance(row.get("refusal"), str):
        content = row["refusal"]
    if content is not None and not isinstance(content, str):
        raise unexpected(where, '"content" to be a text', content, "bad-content")
    calls = row.get("tool_calls") or ()
    if calls and role != "assistant":
        text = f"{where}: only an assistant calls tools, found tool_calls in a message of role {role}"
        raise RowError(text, rule="calls-of-another-role")
    if not isinstance(calls, list | tuple):
        raise unexpected(where, '"tool_calls" to be a list', calls, "bad-call")
    if content is None and not calls:
        text = f'{where}: a message of role {role} has neither "content" nor "tool_calls"'
        raise RowError(text, rule="empty-message")
    weight = 1 if row.get("weight") is None else row["weight"]
    if isinstance(weight, bool) or not isinstance(weight, int | float) or weight not in (0, 1):
        raise unexpected(where, '"weight" to be 0 or 1', weight, "bad-weight")
    called = tuple([read_call(call, f"{where}: call {n}") for n, call in enumerate(calls)]) if calls else ()
    answers = typed(row, "tool_call_id", str, None, where) or None
    return Message(role, content or "", called, answers, float(weight))


def in_call_order(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The messages with each run of results in the order of the calls that they answer. A run in which an id is
    missing, unknown or repeated stays as it is, for the check to report."""
    if not any(len(message.tool_calls) > 1 for message in messages):
        return tuple(messages)
    made: list[Message] = []
    order: dict[str | None, int] = {}
    for is_result, run in groupby(messages, key=lambda message: message.role == "tool"):
        found = list(run)
        if is_result:
            answered = {message.tool_call_id for message in found}
            if len(answered) == len(found) and answered <= order.keys():
                found.sort(key=lambda message: order[message.tool_call_id])
        else:
            order = {call.id: n for n, call in enumerate(found[-1].tool_calls) if call.id is not None}
        made += found
    return tuple(made)


def refuse_unwritable(value: Any, where: str) -> None:
    """Refuse what no tokenizer or file can hold: half of a surrogate pair, 1e999. Raises RowError, naming `where`."""
    try:
        refuse_surrogates(value, allow_nan=False)
    except StrictJsonError as error:
        raise RowError(f"{where}: {error}", rule=error.rule) from None
    except ValueError:
        text = f"{where}: holds a number that is too large for a float; write it as a text"
        raise RowError(text, rule="nan") from None


# Tools


def read_tool_list(rows: Any, where: str) -> tuple[Tool, ...]:
    """Tools, each in OpenAI's shape or as the bare function. Equal lists give the same tuple, so a list that every row
    of a file repeats is checked and stored once. Raises RowError, naming `where` and the tool."""
    if not isinstance(rows, list):
        raise unexpected(where, "a list of tools", rows, "bad-tool")
    try:
        # The cache's key; JSON takes three times as long. Version 2 gives equal bytes for equal values.
        return _read_tools(marshal.dumps(rows, 2))
    except RowError as error:
        raise RowError(f"{where}: {error}", rule=error.rule) from None


@lru_cache(maxsize=256)
def _read_tools(rows: bytes) -> tuple[Tool, ...]:
    tools = tuple(read_tool(row, f"tool {n}") for n, row in enumerate(marshal.loads(rows)))
    names = [tool.name for tool in tools]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise RowError(f'the tool "{twice[0]}" is defined twice', rule="tool-defined-twice")
    return tools


# `expected`: the gold with accepted alternatives


def _expected(row: Any, where: str) -> Gold:
    """The gold of the last assistant turn, with accepted alternatives, as `Gold.to_json` writes it."""
    if not isinstance(row, dict) or row.get("status") not in ("calls", "none", "any"):
        raise unexpected(where, '"expected" to have a "status" of calls, none or any', row, "bad-expected")
    calls = row.get("calls", [])
    if not isinstance(calls, list) or bool(calls) != (row["status"] == "calls"):
        text = f'{where}: "expected" lists "calls" where, and only where, its status is calls'
        raise RowError(text, rule="bad-expected")
    return Gold(row["status"], tuple(_gold_call(call, f"{where}: expected call {n}") for n, call in enumerate(calls)))


def _gold_call(row: Any, where: str) -> GoldCall:
    arguments = row.get("arguments") if isinstance(row, dict) else None
    if not isinstance(arguments, dict) or not isinstance(row.get("name"), str):
        raise unexpected(where, '"name" and "arguments"', row, "bad-expected")
    for name, accepted in arguments.items():
        if not isinstance(accepted, list) or not accepted:
            raise unexpected(where, f"the accepted values of {name} as a list", accepted, "bad-expected")
    optional = typed(row, "optional", list, [], where)
    for name in optional:
        if not isinstance(name, str) or name not in arguments:
            text = f'{where}: "optional" names {short(name)}, which is not among the arguments'
            raise RowError(text, rule="bad-expected")
    blank = typed(row, "blank", list, [], where)
    for name in blank:
        if not isinstance(name, str) or name in arguments:
            text = f'{where}: "blank" names {short(name)}, expected a name that has no accepted values'
            raise RowError(text, rule="bad-expected")
    return GoldCall(row["name"], arguments, frozenset(optional), frozenset(blank))


# Legacy and loose rows


def _modernised(row: Row, where: str) -> Row:
    """The row with messages and tools decoded, `functions` as `tools`, `function_call` as `tool_calls`, results tied to
    the call before them, and what a request says besides as `meta`."""
    if row.get("messages") is None and row.get("prompt") is not None and row.get("completion") is not None:
        said = [*_decoded(row["prompt"], f"{where}: prompt"), *_decoded(row["completion"], f"{where}: completion")]
        row = {**row, "messages": said, "prompt": None, "completion": None}
    elif (said := _decoded(row.get("messages"), f"{where}: messages")) is not row.get("messages"):
        row = {**row, "messages": said}
    messages = row.get("messages")
    if not isinstance(messages, list):
        return row
    beside = {key: row[key] for key in row.keys() & _REQUEST_KEYS if row[key] is not None}
    if beside:
        kept = {key: value for key, value in row.items() if key not in beside}
        row = {**kept, "meta": {**beside, **typed(row, "meta", dict, {}, where)}}
    tools = row.get("tools")
    if isinstance(tools, str):
        row = {**row, "tools": json_text(tools, f"{where}: tools")}
    if row.get("functions") is not None:
        if row.get("tools") is not None:
            text = f'{where}: has both "tools" and "functions"; keep "tools"'
            raise RowError(text, rule="tools-and-functions")
        row = {**row, "tools": row["functions"], "functions": None}
    if not any(map(_is_loose, messages)):
        return row
    made: list[Any] = []
    for number, message in enumerate(messages):
        made.append(_modern_message(message, made, f"{where}: message {number}") if _is_loose(message) else message)
    return {**row, "messages": made}


def _decoded(messages: Any, where: str) -> Any:
    """Messages that are a JSON text, or a list of JSON texts, as objects; anything else as it is."""
    if isinstance(messages, str):
        return json_text(messages, where)
    if isinstance(messages, list) and any(map(_is_text_of_object, messages)):
        texts = enumerate(messages)
        return [json_text(text, f"{where}: {n}") if _is_text_of_object(text) else text for n, text in texts]
    return messages


def _is_text_of_object(found: Any) -> bool:
    return isinstance(found, str) and found.lstrip().startswith("{")


def text_of(content: Any, where: str) -> str | None:
    """Content as a text: itself, or its text parts joined. Raises RowError for a part that is not text, such as an
    image, which a text model cannot learn from."""
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise unexpected(where, '"content" to be a text', content, "bad-content")
    texts = []
    for part in content:
        found = part if isinstance(part, dict) else {}
        text = found.get("text") or found.get("refusal") or found.get("text")
        if not isinstance(text, str):
            raise unexpected(where, "a part of text", part, "content-not-text")
        texts.append(text)
    return "".join(texts)


def _is_loose(message: Any) -> bool:
    if not isinstance(message, dict):
        return False
    content = message.get("content")
    of_parts = isinstance(content, list) and any(isinstance(part, dict) for part in content)
    said = any(message.get(key) is not None for key in ("function_call", *_NOT_SAID))
    return of_parts or said or message.get("role") in ("function", "developer")


def _modern_message(message: Row, before: list[Any], where: str) -> Row:
    made = {key: value for key, value in message.items() if key not in ("function_call", *_NOT_SAID)}
    if isinstance(message.get("content"), list):
        made["content"] = text_of(message["content"], where)
    if message.get("role") == "developer":
        made["role"] = "system"
    elif message.get("role") == "function":
        made |= {"role": "tool", "tool_call_id": _call_before(message, before, where)}
    if message.get("function_call") is not None:
        if message.get("tool_calls"):
            text = f'{where}: has both "tool_calls" and "function_call"; keep "tool_calls"'
            raise RowError(text, rule="tools-and-functions")
        # Legacy rows have no ids; the message's number is one, which ties the result to the call.
        made["tool_calls"] = [{"id": f"call_{len(before)}", "function": message["function_call"]}]
    return made


def _call_before(message: Row, before: list[Any], where: str) -> str | None:
    calls = before[-1].get("tool_calls") if before and isinstance(before[-1], dict) else None
    call = calls[0] if isinstance(calls, list) and len(calls) == 1 else None
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(call, dict):
        raise RowError(f"{where}: a function's result without its function_call before it", rule="orphan-result")
    name = message.get("name")
    if name is not None and name != function.get("name"):
        text = f"{where}: the result of {short(name)} follows a call of {short(function.get('name'))}"
        raise RowError(text, rule="orphan-result")
    return call.get("id")
