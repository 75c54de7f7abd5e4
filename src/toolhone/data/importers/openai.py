"""OpenAI's chat fine-tuning format, which is also toolhone's own, and formats close to it.

`conversation` reads the format strictly, with a few variants: calls without ids or type, arguments as a JSON string or
an object, `content` absent or null, and no `tools` (the row then takes the tools of the config's `data.tools`). `read`
also reads legacy rows (`functions`, `function_call`, the role `function`), the role `developer`, content as a list of
text parts, messages and tools as JSON strings, and TRL's `prompt` and `completion`. Results of parallel calls are
sorted into the order of their calls, by id. Reasoning in any shape becomes the turn's thinking (`thinking.py`).
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
from toolhone.data.importers.thinking import KEY, with_thinking
from toolhone.errors import RowError
from toolhone.formats.pieces import THINK_END
from toolhone.records import Conversation, Gold, GoldCall, Message, Role, Tool
from toolhone.strict_json import StrictJsonError, refuse_surrogates

_ROLES: tuple[Role, ...] = ("system", "user", "assistant", "tool")
_ROW_KEYS = frozenset({"id", "messages", "tools", "parallel_tool_calls", "expected", "gold_source", "meta"})
_MESSAGE_KEYS = frozenset({"role", "content", "tool_calls", "tool_call_id", "name", "weight", "refusal", KEY})
# What a request has besides messages and tools; it becomes `meta`.
_REQUEST_KEYS = frozenset(
    {"split", "tool_choice", "model", "temperature", "top_p", "max_tokens", "max_completion_tokens", "seed", "n"}
    | {"stop", "stream", "response_format", "user", "store", "metadata", "source", "chat_template_kwargs"}
    | {"reasoning", "reasoning_effort", "thinking"}
)
_IGNORED_KEYS = ("annotations", "cache_control")  # of a message; they do not change its content


def looks_like(row: Row) -> bool:
    """Whether the row has messages with roles, as a list or a JSON string, or TRL's prompt and completion."""
    if "messages" in row:
        return _are_messages(row["messages"])
    return _are_messages(row.get("prompt")) and _are_messages(row.get("completion"))


def _are_messages(found: Any) -> bool:
    if isinstance(found, str):
        return found.lstrip().startswith("[") and '"role"' in found
    return isinstance(found, list) and all(
        "role" in message if isinstance(message, dict) else _is_json_object(message) and '"role"' in message
        for message in found
    )


def read(row: Row, where: str, default_tools: tuple[Tool, ...] = ()) -> Conversation:
    """The conversation of a row, in the current format or a legacy one. Raises RowError with `where`, what was found
    and what was expected."""
    try:
        return _parsed(row, where, default_tools)
    except RowError:
        modern = _modernised(row, where)  # only after a failure: nearly all rows are in the current format
        if modern is row:
            raise
    return _parsed(modern, where, default_tools)


def conversation(row: Row, where: str, default_tools: tuple[Tool, ...] = ()) -> Conversation:
    """The conversation of a row in the current format, from any source. Raises RowError with `where`, what was found
    and what was expected."""
    refuse_unwritable(row, where)
    return _parsed(row, where, default_tools)


def _parsed(row: Row, where: str, default_tools: tuple[Tool, ...]) -> Conversation:
    """The conversation of a row in the current format, known to be writable as JSON. Its default id is a hash of its
    content."""
    if not row.keys() <= _ROW_KEYS:
        unknown = sorted(key for key in row.keys() - _ROW_KEYS if row[key] is not None)
        if unknown:
            text = f'{where}: unknown key "{unknown[0]}"; a row has {", ".join(sorted(_ROW_KEYS))}'
            raise RowError(f'{text}; move it into "meta", or remove it', rule="unknown-key")
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
    """A message that has only role and content, as most have, read three times as fast; None for any other."""
    if not isinstance(row, dict) or len(row) != 2:
        return None
    role, content = row.get("role"), row.get("content")
    if role not in _ROLES or not isinstance(content, str) or (role == "assistant" and THINK_END in content):
        return None
    return Message(role, content)


def _message(row: Any, where: str) -> Message:
    if not isinstance(row, dict):
        raise unexpected(where, "an object", row, "bad-message")
    role = row.get("role")
    if role not in _ROLES:
        raise unexpected(where, f'a "role" of {", ".join(_ROLES)}', role, "bad-role")
    if role == "assistant":
        row = with_thinking(row, where)
    if not row.keys() <= _MESSAGE_KEYS:
        unknown = sorted(key for key in row.keys() - _MESSAGE_KEYS if row[key] is not None)
        if unknown:
            raise RowError(f'{where}: unknown key "{unknown[0]}" in a message of role {role}', rule="unknown-key")
    thinking = row.get(KEY) or ""
    if thinking and role != "assistant":
        text = f'{where}: "{KEY}" in a message of role {role}; only assistant messages may have it'
        raise RowError(text, rule="bad-thinking")
    content = row.get("content")
    if content is None and isinstance(row.get("refusal"), str):
        content = row["refusal"]
    if content is not None and not isinstance(content, str):
        raise unexpected(where, '"content" to be a string', content, "bad-content")
    calls = row.get("tool_calls") or ()
    if calls and role != "assistant":
        text = f"{where}: tool_calls in a message of role {role}; only assistant messages may have them"
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
    return Message(role, content or "", called, answers, float(weight), thinking)


def in_call_order(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The messages, with each run of results in the order of the calls that they answer. A run with a missing, unknown
    or repeated id stays as it is; the check reports it."""
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
    """Raise RowError, naming `where`, for what no tokenizer or file can hold: half of a surrogate pair, or 1e999."""
    try:
        refuse_surrogates(value, allow_nan=False)
    except StrictJsonError as error:
        raise RowError(f"{where}: {error}", rule=error.rule) from None
    except ValueError:
        text = f"{where}: holds a number that is too large for a float; write it as a string"
        raise RowError(text, rule="nan") from None


# Tools


def read_tool_list(rows: Any, where: str) -> tuple[Tool, ...]:
    """The tools of a list, each in OpenAI's shape or as a bare function. Equal lists give the same tuple, so a list
    that every row of a file repeats is checked and stored once. Raises RowError, naming `where` and the tool."""
    if not isinstance(rows, list):
        raise unexpected(where, "a list of tools", rows, "bad-tool")
    try:
        # The cache key. JSON takes three times as long. Version 2 of marshal gives equal bytes for equal values.
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
        text = f'{where}: "expected" must list "calls" if its status is calls, and must not otherwise'
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
            text = f'{where}: "blank" names {short(name)}, expected an argument without accepted values'
            raise RowError(text, rule="bad-expected")
    return GoldCall(row["name"], arguments, frozenset(optional), frozenset(blank))


# Legacy rows and variants


def _modernised(row: Row, where: str) -> Row:
    """The row in the current format, or the same object if nothing changes. Messages and tools are decoded, `functions`
    become `tools`, `function_call` becomes `tool_calls`, results are linked to the call before them, and what a request
    has besides becomes `meta`."""
    if row.get("messages") is None and row.get("prompt") is not None and row.get("completion") is not None:
        decoded = [*_decoded(row["prompt"], f"{where}: prompt"), *_decoded(row["completion"], f"{where}: completion")]
        row = {**row, "messages": decoded, "prompt": None, "completion": None}
    elif (decoded := _decoded(row.get("messages"), f"{where}: messages")) is not row.get("messages"):
        row = {**row, "messages": decoded}
    messages = row.get("messages")
    if not isinstance(messages, list):
        return row
    settings = {key: row[key] for key in row.keys() & _REQUEST_KEYS if row[key] is not None}
    if settings:
        kept = {key: value for key, value in row.items() if key not in settings}
        row = {**kept, "meta": {**settings, **typed(row, "meta", dict, {}, where)}}
    tools = row.get("tools")
    if isinstance(tools, str):
        row = {**row, "tools": json_text(tools, f"{where}: tools")}
    if row.get("functions") is not None:
        if row.get("tools") is not None:
            text = f'{where}: has both "tools" and "functions"; keep "tools"'
            raise RowError(text, rule="tools-and-functions")
        row = {**row, "tools": row["functions"], "functions": None}
    if not any(map(_is_variant, messages)):
        return row
    made: list[Any] = []
    for number, message in enumerate(messages):
        made.append(_modern_message(message, made, f"{where}: message {number}") if _is_variant(message) else message)
    return {**row, "messages": made}


def _decoded(messages: Any, where: str) -> Any:
    """The messages as objects, if they are a JSON string or a list of JSON strings; anything else unchanged."""
    if isinstance(messages, str):
        return json_text(messages, where)
    if isinstance(messages, list) and any(map(_is_json_object, messages)):
        texts = enumerate(messages)
        return [json_text(text, f"{where}: {n}") if _is_json_object(text) else text for n, text in texts]
    return messages


def _is_json_object(found: Any) -> bool:
    return isinstance(found, str) and found.lstrip().startswith("{")


def text_of(content: Any, where: str) -> str | None:
    """The content as one string, with text parts joined. Raises RowError for a part that is not text, such as an
    image."""
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise unexpected(where, '"content" to be a string', content, "bad-content")
    texts = []
    for part in content:
        found = part if isinstance(part, dict) else {}
        text = found.get("text") or found.get("refusal") or found.get("text")
        if not isinstance(text, str):
            raise unexpected(where, "a text part", part, "content-not-text")
        texts.append(text)
    return "".join(texts)


def _is_variant(message: Any) -> bool:
    if not isinstance(message, dict):
        return False
    content = message.get("content")
    has_parts = isinstance(content, list) and any(isinstance(part, dict) for part in content)
    has_old_keys = any(message.get(key) is not None for key in ("function_call", *_IGNORED_KEYS))
    return has_parts or has_old_keys or message.get("role") in ("function", "developer")


def _modern_message(message: Row, before: list[Any], where: str) -> Row:
    if message.get("role") == "assistant":
        message = with_thinking(message, where)
    made = {key: value for key, value in message.items() if key not in ("function_call", *_IGNORED_KEYS)}
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
        # Legacy rows have no ids. An id from the message's number links the result to the call.
        made["tool_calls"] = [{"id": f"call_{len(before)}", "function": message["function_call"]}]
    return made


def _call_before(message: Row, before: list[Any], where: str) -> str | None:
    calls = before[-1].get("tool_calls") if before and isinstance(before[-1], dict) else None
    call = calls[0] if isinstance(calls, list) and len(calls) == 1 else None
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(call, dict):
        raise RowError(f"{where}: a function result without a function_call before it", rule="orphan-result")
    name = message.get("name")
    if name is not None and name != function.get("name"):
        text = f"{where}: the result of {short(name)} follows a call of {short(function.get('name'))}"
        raise RowError(text, rule="orphan-result")
    return call.get("id")
