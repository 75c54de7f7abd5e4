"""Reads responses that are not a complete chat completion. Items of OpenAI's Responses API become messages; the deltas
or events of a stream are joined."""

from __future__ import annotations

import json
from typing import Any

from toolhone.data.importers.importer import Row, short, unexpected
from toolhone.errors import RowError
from toolhone.strict_json import StrictJsonError, parse_strict


def is_response(body: Any) -> bool:
    """Whether the body is a response of the Responses API."""
    return isinstance(body, dict) and (body.get("object") == "response" or isinstance(body.get("output"), list))


def request_messages(request: Row, where: str) -> list[Row]:
    """The messages in `input`, a string or items, without `instructions`."""
    found = request.get("input")
    if isinstance(found, str):
        return [{"role": "user", "content": found}]
    if not isinstance(found, list):
        raise unexpected(where, '"input", a string or a list of items', found, "log-unknown")
    return _messages(found, where)


def response_message(response: Row, where: str) -> Row:
    """The assistant message in `output`. Raises RowError if the response failed, is incomplete or is empty."""
    status = response.get("status")
    details = response.get("incomplete_details")
    if response.get("error") or status in ("failed", "cancelled"):
        raise RowError(f"{where}: the request failed: {short(response.get('error') or status)}", rule="log-error")
    if status == "incomplete":
        reason = details.get("reason") if isinstance(details, dict) else None
        rule = "log-filtered" if reason == "content_filter" else "log-truncated"
        raise RowError(f"{where}: the response is incomplete ({short(reason)})", rule=rule)
    if status in ("queued", "in_progress"):
        raise RowError(f"{where}: the response was logged before it was complete ({status})", rule="log-truncated")
    output = response.get("output")
    if not isinstance(output, list):
        raise unexpected(where, '"output", a list of items', output, "log-unknown")
    messages = _messages(output, where)
    if any(message["role"] != "assistant" for message in messages):
        raise RowError(f"{where}: the output has items that are not the assistant's", rule="log-unknown")
    if not messages:
        raise RowError(f"{where}: the response has no text and no call", rule="log-empty")
    return messages[0]


def _messages(items: list[Any], where: str) -> list[Row]:
    """The items as messages. The assistant's text and calls are separate items; they become one turn."""
    messages: list[Row] = []
    for number, item in enumerate(items):
        place = f"{where}: item {number}"
        if not isinstance(item, dict):
            raise unexpected(place, "an object", item, "log-unknown")
        kind = item.get("type", "message")
        if kind == "function_call_output":
            output = item.get("output")
            text = output if isinstance(output, str | list) else json.dumps(output, ensure_ascii=False)
            messages.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": text})
        elif kind == "function_call":
            function = {"name": item.get("name"), "arguments": item.get("arguments")}
            call = {"id": item.get("call_id"), "type": "function", "function": function}
            _assistant_turn(messages).setdefault("tool_calls", []).append(call)
        elif kind == "message" and item.get("role") == "assistant":
            _add_text(_assistant_turn(messages), item.get("content"), place)
        elif kind == "message":
            messages.append({"role": item.get("role"), "content": item.get("content")})
        elif kind != "reasoning":
            text = f"{place}: an item of type {short(kind)}; only messages, function calls and their outputs are read"
            raise RowError(text, rule="log-hosted-tool")
    return messages


def _assistant_turn(messages: list[Row]) -> Row:
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": None})
    return messages[-1]


def _add_text(turn: Row, content: Any, where: str) -> None:
    parts = [{"text": content}] if isinstance(content, str) else content
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise unexpected(where, "content as a string or a list of parts", content, "bad-content")
    for part in parts:
        refusal = part.get("refusal")
        if refusal:
            turn["refusal"] = refusal
        elif isinstance(part.get("text"), str):
            turn["content"] = (turn["content"] or "") + part["text"]
        else:
            raise unexpected(where, "a text part", part, "content-not-text")


# Streams


def is_stream(value: Any) -> bool:
    """Whether the value is a list of chunks or events, or the text of server-sent events."""
    if isinstance(value, str):
        return value.lstrip().startswith(("data:", "event:"))
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(chunk, dict) and _is_chunk(chunk) for chunk in value)


def whole_response(stream: Any, where: str) -> Row:
    """The complete response of a stream, in the shape of a response without streaming."""
    chunks = stream_events(stream, where) if isinstance(stream, str) else stream
    for chunk in chunks:
        if not isinstance(chunk, dict):
            raise unexpected(where, "a chunk of a stream", chunk, "log-unknown")
        if chunk.get("error"):
            raise RowError(f"{where}: the stream ends with an error: {short(chunk['error'])}", rule="log-error")
    if any(str(chunk.get("type", "")).startswith("response.") for chunk in chunks):
        return _last_response(chunks, where)
    return _chat_completion(chunks, where)


def _is_chunk(chunk: Row) -> bool:
    if chunk.get("object") == "chat.completion.chunk" or str(chunk.get("type", "")).startswith("response."):
        return True
    choices = chunk.get("choices")
    # Azure sends content-filter results in chunks without choices, and in choices without a delta.
    return isinstance(choices, list) and all(
        isinstance(choice, dict) and ("delta" in choice or "message" not in choice) for choice in choices
    )


def stream_events(text: str, where: str) -> list[Any]:
    """The events of a stream of server-sent events, without the closing [DONE]."""
    data = [line.removeprefix("data:").strip() for line in text.splitlines() if line.startswith("data:")]
    try:
        return [parse_strict(event) for event in data if event and event != "[DONE]"]
    except StrictJsonError as error:
        raise RowError(f"{where}: an event of the stream: {error}", rule=error.rule) from None


def _last_response(events: list[Row], where: str) -> Row:
    """The complete response, which the Responses API repeats in its last event."""
    for event in reversed(events):
        response = event.get("response")
        ended = event.get("type") in ("response.completed", "response.incomplete", "response.failed")
        if ended and isinstance(response, dict):
            return response
    raise RowError(f"{where}: the stream ends before the response was complete", rule="log-truncated")


def _chat_completion(chunks: list[Row], where: str) -> Row:
    message: Row = {"role": "assistant", "content": None}
    calls: dict[int, Row] = {}
    finish_reason: Any = None
    for chunk in chunks:
        for choice in _objects(chunk, "choices", where):
            if choice.get("index", 0) != 0:
                raise RowError(f"{where}: the stream has several choices; log only one", rule="log-choices")
            _add_delta(choice.get("delta") or {}, message, calls, where)
            finish_reason = choice.get("finish_reason") or finish_reason
    if finish_reason is None:
        raise RowError(f"{where}: the stream ends before its finish_reason", rule="log-truncated")
    if calls:
        message["tool_calls"] = [calls[index] for index in sorted(calls)]
    model = next((chunk["model"] for chunk in chunks if chunk.get("model")), None)
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    id_ = next((chunk["id"] for chunk in chunks if chunk.get("id")), None)  # empty in Azure's first chunk
    created = next((chunk["created"] for chunk in chunks if chunk.get("created")), None)
    return {"id": id_, "model": model, "created": created, "choices": [choice]}


def _objects(holder: Any, key: str, where: str) -> list[Row]:
    found = holder.get(key) or [] if isinstance(holder, dict) else None
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise unexpected(where, f'an object with "{key}", a list of objects', holder, "log-unknown")
    return found


def _add_delta(delta: Any, message: Row, calls: dict[int, Row], where: str) -> None:
    pieces = _objects(delta, "tool_calls", where)
    for key in ("content", "refusal"):
        if delta.get(key) is not None:
            message[key] = _joined(message.get(key), delta[key], where)
    if delta.get("function_call") is not None:
        _add_function(message.setdefault("function_call", {}), delta["function_call"], where)
    for piece in pieces:
        index = piece.get("index")
        if not isinstance(index, int):
            # Some servers leave out the index: an id then starts the next call.
            index = len(calls) if piece.get("id") or not calls else max(calls)
        call = calls.setdefault(index, {"type": "function", "function": {}})
        if piece.get("id"):
            call["id"] = piece["id"]
        _add_function(call["function"], piece.get("function") or {}, where)


def _add_function(function: Row, piece: Any, where: str) -> None:
    if not isinstance(piece, dict):
        raise unexpected(where, "a piece of a call", piece, "log-unknown")
    if piece.get("name") and piece["name"] != function.get("name"):
        function["name"] = _joined(function.get("name"), piece["name"], where)
    if piece.get("arguments") is not None:
        arguments = piece["arguments"]
        text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        function["arguments"] = _joined(function.get("arguments"), text, where)


def _joined(before: Any, piece: Any, where: str) -> str:
    if not isinstance(piece, str):
        raise unexpected(where, "a piece of text in a delta", piece, "log-unknown")
    return (before or "") + piece
