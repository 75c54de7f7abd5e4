"""LangChain's messages, as LangChain serialises them, in rows and in logs of any tracer.

A message is `{"lc": 1, "id": [..., "HumanMessage"], "kwargs": {...}}` (`dumps`), `{"type": "human", "data": {...}}`
(`messages_to_dict`) or `{"type": "human", "content": ...}` (`model_dump`). `message` turns all of them, OpenAI's
messages and pairs of role and text into OpenAI's messages.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from toolhone.data.importers.importer import Row, RowFault, json_text, short, unexpected
from toolhone.errors import RowError

_ROLES = {
    "human": "user",
    "user": "user",
    "ai": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "system": "system",
    "developer": "system",
    "tool": "tool",
    "function": "function",
}
_PLAIN = ("system", "user", "assistant", "tool")
_TEXT_PARTS = ("text", "output_text", "input_text", "text-plain")
_CALL_PARTS = ("tool_use", "tool_call", "tool-call", "function_call", "input_json_delta", "tool_call_chunk")
_REASONING_PARTS = ("reasoning", "thinking", "reasoning_content")
_HOSTED_PARTS = ("server_tool", "web_search", "code_interpreter", "file_search", "mcp_", "computer", "image_generation")
_LENGTH = {"length", "max_tokens", "max_output_tokens", "MAX_TOKENS", "token_limit", "model_context_window_exceeded"}
_FILTERED = {"content_filter", "content-filter", "refusal", "guardrail_intervened", "content_filtered", "SAFETY"}
_FILTERED |= {"RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY", "LANGUAGE"}
_FAILED = {"error", "failed", "cancelled", "MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "OTHER"}
_REASON_KEYS = ("finish_reason", "stop_reason", "finishReason", "stopReason", "done_reason")


def looks_like(row: Row) -> bool:
    """Whether the row has a list of LangChain's messages."""
    return isinstance(row.get("messages"), list) and any(map(is_langchain, _single(row["messages"])))


def rewrite(row: Row, where: str) -> Iterator[Row | RowFault]:
    """Yield the row with its messages in OpenAI's shape."""
    found = row.get("messages")
    if not isinstance(found, list) or not found:
        raise unexpected(where, '"messages", a list of messages', found, "no-messages")
    messages = [message(each, f"{where}: message {n}") for n, each in enumerate(_single(found))]
    yield {**row, "messages": messages}


def is_langchain(found: Any) -> bool:
    """Whether the value is a message as LangChain serialises it."""
    if not isinstance(found, dict):
        return False
    if isinstance(found.get("kwargs"), dict):
        return isinstance(found.get("id"), list) and "content" in found["kwargs"]
    if "role" in found and not ("additional_kwargs" in found or "response_metadata" in found):
        return False
    return _kind(found.get("type")) is not None and (isinstance(found.get("data"), dict) or "content" in found)


def is_message(found: Any) -> bool:
    """Whether the value is a message of LangChain, of OpenAI, or a pair of role and text."""
    return is_langchain(found) or is_pair(found) or (isinstance(found, dict) and isinstance(found.get("role"), str))


def is_pair(found: Any) -> bool:
    """Whether the value is a pair of role and text, such as ["human", "hi"]."""
    return isinstance(found, list) and len(found) == 2 and isinstance(found[1], str) and _kind(found[0]) is not None


def message(found: Any, where: str) -> Row:
    """The message in OpenAI's shape. The reasoning of the model becomes `reasoning_content`.

    Raises:
        RowError: for content other than text (`content-not-text`), a hosted tool (`log-hosted-tool`), or a value that
            is not a message.
    """
    if _is_plain(found):  # most messages, and already in OpenAI's shape
        return found  # type: ignore[no-any-return]
    if is_pair(found):
        return {"role": _kind(found[0]), "content": found[1]}
    if not is_message(found):
        raise unexpected(where, "a message", found, "bad-message")
    fields = _fields(found)
    extra = fields.get("additional_kwargs")
    extra = extra if isinstance(extra, dict) else {}
    role = _role(found, fields)
    made: Row = {"role": role, "content": fields.get("content")}
    for key in ("name", "tool_call_id", "refusal", "reasoning_content", "weight"):
        if fields.get(key) is not None:
            made[key] = fields[key]
    if role == "assistant":
        _add_assistant(made, fields, extra, where)
    else:
        made["content"] = _text(made["content"], where)
    return made


def _is_plain(found: Any) -> bool:
    has_two = isinstance(found, dict) and len(found) == 2 and isinstance(found.get("content"), str)
    return has_two and found.get("role") in _PLAIN


def finish_reason(found: Any) -> Any:
    """OpenAI's finish_reason for a provider's reason. A reason without a counterpart stays as it is."""
    reason = str(found).rpartition(".")[2] if isinstance(found, str) else None  # "FinishReason.STOP"
    if reason in _LENGTH:
        return "length"
    if reason in _FILTERED:
        return "content_filter"
    return "error" if reason in _FAILED else found


def stop_reason(found: Row) -> Any:
    """The reason why the model stopped, in the metadata of a message or of a generation; None if unknown."""
    fields = _fields(found)
    metadata = fields.get("response_metadata")
    holders = [metadata, fields, fields.get("additional_kwargs")]
    known = [holder for holder in holders if isinstance(holder, dict)]
    reason = next((holder[key] for holder in known for key in _REASON_KEYS if holder.get(key)), None)
    if reason is None and isinstance(metadata, dict) and metadata.get("status") == "incomplete":
        details = metadata.get("incomplete_details")
        return (details.get("reason") if isinstance(details, dict) else None) or "length"
    return reason


def origin(found: Any) -> Row:
    """The response's `id` and `model`, from the metadata of a message, as far as known."""
    fields = _fields(found) if isinstance(found, dict) else {}
    metadata = fields.get("response_metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    named = {
        "id": metadata.get("id") or fields.get("id"),
        "model": metadata.get("model_name") or metadata.get("model") or metadata.get("ls_model_name"),
    }
    return {key: value for key, value in named.items() if isinstance(value, str) and value}


def _single(messages: list[Any]) -> list[Any]:
    nested = len(messages) == 1 and isinstance(messages[0], list) and not is_pair(messages[0])
    return messages[0] if nested else messages


def _kind(name: Any) -> str | None:
    """The role for LangChain's name of a kind of message, such as "human", "AIMessageChunk"."""
    if not isinstance(name, str):
        return None
    short_name = name.removesuffix("Chunk").removesuffix("Message")
    return _ROLES.get(short_name if short_name in _ROLES else short_name.lower()) or (
        "chat" if short_name.lower() == "chat" else None
    )


def _fields(found: Row) -> Row:
    return next((found[key] for key in ("kwargs", "data") if isinstance(found.get(key), dict)), found)


def _role(found: Row, fields: Row) -> str:
    id = found.get("id")
    named = id[-1] if isinstance(id, list) and id else None
    kind = next((kind for name in (named, fields.get("type"), found.get("type")) if (kind := _kind(name))), None)
    if kind in (None, "chat"):
        role = fields.get("role")
        return _ROLES.get(role, role) if isinstance(role, str) else "user"
    return str(kind)


def _add_assistant(made: Row, fields: Row, extra: Row, where: str) -> None:
    texts, reasons, calls = _parts(made, where)
    own = _calls(fields.get("tool_calls"), where)
    own += _calls(fields.get("invalid_tool_calls"), where)  # with arguments that are not JSON: the log counts them
    calls = own or calls or _calls(extra.get("tool_calls"), where)
    made["content"] = None if calls and not texts else texts
    if calls:
        made["tool_calls"] = calls
    elif function := fields.get("function_call") or extra.get("function_call"):
        made["function_call"] = function
    for found in (extra.get("reasoning_content"), extra.get("reasoning"), fields.get("reasoning")):
        if text := _reasoning(found):
            reasons.append(text)
            break
    if reasons and not made.get("reasoning_content"):
        made["reasoning_content"] = "\n".join(reasons)
    if extra.get("refusal"):
        made.setdefault("refusal", extra["refusal"])


def _parts(made: Row, where: str) -> tuple[str | None, list[str], list[Row]]:
    """The text, the reasoning and the calls in an assistant's content. A refusal becomes a key of `made`."""
    content = made["content"]
    if content is None or isinstance(content, str):
        return content, [], []
    texts, reasons, calls = [], [], []
    for part in content if isinstance(content, list) else [content]:
        kind = str(part.get("type")) if isinstance(part, dict) else ""
        if kind in _REASONING_PARTS or kind == "redacted_thinking":
            reasons += [text] if (text := _reasoning(part)) else []
        elif kind in _CALL_PARTS:
            calls += _calls([part], where) if part.get("name") or part.get("toolName") else []
        elif kind == "refusal":
            made["refusal"] = part.get("refusal")
        else:
            texts.append(_part_text(part, where))
    return "".join(texts), reasons, calls


def _text(content: Any, where: str) -> Any:
    """The content with its text parts joined; a text or null unchanged."""
    if content is None or isinstance(content, str):
        return content
    return "".join(_part_text(part, where) for part in (content if isinstance(content, list) else [content]))


def _part_text(part: Any, where: str) -> str:
    if isinstance(part, str):
        return part
    kind = str(part.get("type")) if isinstance(part, dict) else ""
    if kind.startswith(_HOSTED_PARTS):
        raise RowError(f"{where}: a part of type {kind}, which a hosted tool made", rule="log-hosted-tool")
    text = part.get("text", part.get("content")) if isinstance(part, dict) else None
    if not isinstance(text, str) or not (kind in _TEXT_PARTS or "type" not in part):
        raise unexpected(where, "a text part", part, "content-not-text")
    return text


def _reasoning(found: Any) -> str:
    """The text of a reasoning part, of OpenAI's summary of the reasoning, or the text itself."""
    if isinstance(found, str):
        return found
    if isinstance(found, list):
        return "\n".join(filter(None, map(_reasoning, found)))
    if not isinstance(found, dict):
        return ""
    return next(
        (t for key in ("reasoning", "thinking", "text", "content", "summary") if (t := _reasoning(found.get(key)))), ""
    )


def _calls(found: Any, where: str) -> list[Row]:
    if isinstance(found, str) and found.strip():
        found = json_text(found, where)
    if not found:
        return []
    if not isinstance(found, list):
        raise unexpected(where, '"tool_calls" to be a list', found, "bad-call")
    return [_call(each, f"{where}: call {n}") for n, each in enumerate(found)]


def _call(found: Any, where: str) -> Row:
    """The call in OpenAI's shape. A call with a `function` stays as it is, for the reader of calls."""
    if not isinstance(found, dict) or isinstance(found.get("function"), dict):
        return found  # type: ignore[no-any-return]
    name = found.get("name") or found.get("toolName")
    if not isinstance(name, str):
        raise RowError(f"{where}: a call without a name: {short(found)}", rule="log-broken-call")
    keys = ("args", "arguments", "input", "parameters")
    arguments = next((found[key] for key in keys if found.get(key) is not None), None)
    if arguments is not None and not isinstance(arguments, dict | str):
        arguments = json.dumps(arguments)  # refused when the call is read
    id = next((found[key] for key in ("call_id", "id", "toolCallId", "tool_call_id") if found.get(key)), None)
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
