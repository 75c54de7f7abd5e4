"""ms-swift's rows for agents: calls and results are messages of the roles `tool_call` and `tool_response`.

A `tool_call` message has one call as JSON; consecutive ones are parallel calls of one turn. Results have no ids and
answer the calls in their order. `loss` says whether a message is learned. Other columns become `meta`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from toolhone.data.importers.importer import Row, RowFault, decoded, short, unexpected
from toolhone.data.importers.rewrite import LiteralError, parse_literal, to_call, tool_rows, with_call_ids
from toolhone.data.importers.turns import result_text
from toolhone.errors import RowError

_CALL_ROLES = frozenset({"tool_call", "tool-call", "function_call", "function-call"})
_RESULT_ROLES = frozenset(
    {"tool_response", "tool-response", "tool", "function_response", "observation", "observations"}
)
_OWN_ROLES = (_CALL_ROLES | _RESULT_ROLES) - {"tool"}
_ROLES = {"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}
_ROLES |= {"bot": "assistant"}
_MEDIA = ("images", "audios", "videos", "image", "audio", "video", "objects")
_REJECTED = ("rejected_response", "rejected_messages")
_OWN_KEYS = frozenset({"id", "messages", "tools", "system", "meta", *_MEDIA})
_MESSAGE_KEYS = frozenset({"role", "content", "loss", "loss_scale", "name"})


def looks_like(row: Row) -> bool:
    """Whether the row has messages of ms-swift's own roles."""
    messages = row.get("messages")
    if isinstance(messages, str):
        return '"tool_call"' in messages or '"tool_response"' in messages
    return isinstance(messages, list) and any(
        isinstance(message, dict) and isinstance(message.get("role"), str) and message["role"] in _OWN_ROLES
        for message in messages
    )


def rewrite(row: Row, where: str) -> Iterator[Row | RowFault]:
    """Yield the row in OpenAI's format, and advice about an answer that is not learned."""
    for key in _MEDIA:
        if row.get(key):
            raise RowError(f'{where}: has "{key}"; only text and calls are read', rule="content-not-text")
    found = decoded(row.get("messages"), f"{where}: messages")
    if not isinstance(found, list) or not found:
        raise unexpected(where, '"messages", a list of messages', found, "no-messages")
    messages: list[Row] = [{"role": "system", "content": row["system"]}] if row.get("system") is not None else []
    for number, message in enumerate(found):
        _add(messages, decoded(message, f"{where}: message {number}"), f"{where}: message {number}")
    meta = {key: value for key, value in row.items() if key not in _OWN_KEYS and value is not None}
    if isinstance(row.get("meta"), dict):
        meta |= row["meta"]
    if rejected := next((key for key in _REJECTED if row.get(key) is not None), None):
        yield RowFault(where, "rejected-answer", f'"{rejected}" is not learned; it stays in "meta"')
    tools = tool_rows(row, where)
    yield {"id": row.get("id"), "messages": with_call_ids(messages), "tools": tools, "meta": meta}


def _add(messages: list[Row], message: Any, where: str) -> None:
    """Append a message. A call belongs to the assistant's turn before it."""
    if not isinstance(message, dict):
        raise unexpected(where, "an object", message, "bad-message")
    unknown = sorted(key for key in message.keys() - _MESSAGE_KEYS if message[key] is not None)
    if unknown:
        text = f'{where}: unknown key "{unknown[0]}"; a message has {", ".join(sorted(_MESSAGE_KEYS))}; remove it'
        raise RowError(text, rule="unknown-key")
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str):
        raise unexpected(where, '"role" to be a string', role, "bad-role")
    weight = _weight(message, where)
    if role in _CALL_ROLES:
        last = messages[-1] if messages else {}
        if last.get("role") != "assistant":
            last = {"role": "assistant", "content": None, "weight": weight}
            messages.append(last)
        elif last["weight"] != weight:
            text = f'{where}: "loss" differs inside one assistant turn; give its text and calls the same'
            raise RowError(text, rule="bad-weight")
        last.setdefault("tool_calls", []).append(_call(content, where))
    elif role in _RESULT_ROLES:
        messages.append({"role": "tool", "content": None if content is None else result_text(content)})
    elif role in _ROLES:
        made: Row = {"role": _ROLES[role], "content": content}
        messages.append({**made, "weight": weight} if made["role"] == "assistant" else made)
    else:
        raise unexpected(where, f'a "role" of {", ".join(sorted({*_ROLES, *_OWN_ROLES}))}', role, "bad-role")


def _call(content: Any, where: str) -> Row:
    """The call in a message's content: an object, or its text as JSON or as a Python literal."""
    if isinstance(content, str):
        try:
            content = parse_literal(content)
        except LiteralError as error:
            text = f"{where}: expected a call as JSON, found {short(content)}: {error}"
            raise RowError(text, rule="bad-call") from None
    return to_call(content, where)


def _weight(message: Row, where: str) -> int:
    """1 if the message is learned, otherwise 0."""
    for key in ("loss", "loss_scale"):
        found = message.get(key)
        if found is not None and found not in (0, 1):
            raise unexpected(where, f'"{key}" to be true, false, 0 or 1', found, "bad-weight")
        if found is not None and not found:
            return 0
    return 1
