"""Streamed responses put together again: the deltas of chat completions, the events of the Responses API."""

from __future__ import annotations

import json
from typing import Any

from toolhone.data.importers.fields import short
from toolhone.errors import RowError
from toolhone.strict_json import StrictJsonError, parse_strict


def is_stream(value: Any) -> bool:
    """Whether the value is a list of chunks or events, or the text of server-sent events."""
    if isinstance(value, str):
        return value.lstrip().startswith(("data:", "event:"))
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(chunk, dict) and _is_chunk(chunk) for chunk in value)


def whole_response(stream: Any, where: str) -> dict[str, Any]:
    """The response that a stream amounts to, in the shape in which it would have come without streaming.

    Raises:
        RowError: where a chunk cannot be read, or the stream was cut off before its end.
    """
    chunks = _events(stream, where) if isinstance(stream, str) else stream
    for chunk in chunks:
        if not isinstance(chunk, dict):
            raise RowError(f"{where}: expected a chunk of a stream, found {short(chunk)}", rule="log-unknown")
        if chunk.get("error"):
            raise RowError(f"{where}: the stream ends in an error: {short(chunk['error'])}", rule="log-error")
    if any(str(chunk.get("type", "")).startswith("response.") for chunk in chunks):
        return _last_response(chunks, where)
    return _chat_completion(chunks, where)


def _is_chunk(chunk: dict[str, Any]) -> bool:
    if chunk.get("object") == "chat.completion.chunk" or str(chunk.get("type", "")).startswith("response."):
        return True
    choices = chunk.get("choices")
    return isinstance(choices, list) and all(isinstance(choice, dict) and "delta" in choice for choice in choices)


def _events(text: str, where: str) -> list[Any]:
    data = [line.removeprefix("data:").strip() for line in text.splitlines() if line.startswith("data:")]
    try:
        return [parse_strict(event) for event in data if event and event != "[DONE]"]
    except StrictJsonError as error:
        raise RowError(f"{where}: an event of the stream: {error}", rule=error.rule) from None


def _last_response(events: list[dict[str, Any]], where: str) -> dict[str, Any]:
    """The Responses API repeats the whole response in its last event."""
    for event in reversed(events):
        if event.get("type") in ("response.completed", "response.incomplete", "response.failed"):
            response = event.get("response")
            if isinstance(response, dict):
                return response
    raise RowError(f"{where}: the stream ends before the response was complete", rule="log-truncated")


def _chat_completion(chunks: list[dict[str, Any]], where: str) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": None}
    calls: dict[int, dict[str, Any]] = {}
    finish_reason: Any = None
    for chunk in chunks:
        for choice in _items(chunk, "choices", where):
            if not isinstance(choice, dict):
                raise RowError(f"{where}: expected a choice in a chunk, found {short(choice)}", rule="log-unknown")
            if choice.get("index", 0) != 0:
                raise RowError(f"{where}: a stream of several choices; log one", rule="log-choices")
            _add_delta(choice.get("delta") or {}, message, calls, where)
            finish_reason = choice.get("finish_reason") or finish_reason
    if finish_reason is None:
        raise RowError(f"{where}: the stream ends before its finish_reason", rule="log-truncated")
    if calls:
        message["tool_calls"] = [calls[index] for index in sorted(calls)]
    first = chunks[0]
    model = next((chunk["model"] for chunk in chunks if chunk.get("model")), None)
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    return {"id": first.get("id"), "model": model, "choices": [choice]}


def _items(holder: dict[str, Any], key: str, where: str) -> list[Any]:
    found = holder.get(key) or []
    if not isinstance(found, list):
        raise RowError(f'{where}: expected "{key}" of a chunk to be a list, found {short(found)}', rule="log-unknown")
    return found


def _add_delta(delta: Any, message: dict[str, Any], calls: dict[int, dict[str, Any]], where: str) -> None:
    if not isinstance(delta, dict):
        raise RowError(f"{where}: expected a delta, found {short(delta)}", rule="log-unknown")
    for key in ("content", "refusal"):
        if delta.get(key) is not None:
            message[key] = _joined(message.get(key), delta[key], where)
    if delta.get("function_call") is not None:
        _add_function(message.setdefault("function_call", {}), delta["function_call"], where)
    for piece in _items(delta, "tool_calls", where):
        if not isinstance(piece, dict):
            raise RowError(f"{where}: expected a piece of a call, found {short(piece)}", rule="log-unknown")
        index = piece.get("index")
        if not isinstance(index, int):
            # Some servers leave the index out: an id then starts the next call.
            index = len(calls) if piece.get("id") or not calls else max(calls)
        call = calls.setdefault(index, {"type": "function", "function": {}})
        if piece.get("id"):
            call["id"] = piece["id"]
        _add_function(call["function"], piece.get("function") or {}, where)


def _add_function(function: dict[str, Any], piece: Any, where: str) -> None:
    if not isinstance(piece, dict):
        raise RowError(f"{where}: expected a piece of a call, found {short(piece)}", rule="log-unknown")
    if piece.get("name") and piece["name"] != function.get("name"):
        function["name"] = _joined(function.get("name"), piece["name"], where)
    if piece.get("arguments") is not None:
        arguments = piece["arguments"]
        text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        function["arguments"] = _joined(function.get("arguments"), text, where)


def _joined(before: Any, piece: Any, where: str) -> str:
    if not isinstance(piece, str):
        raise RowError(f"{where}: expected a piece of text in a delta, found {short(piece)}", rule="log-unknown")
    return (before or "") + piece
