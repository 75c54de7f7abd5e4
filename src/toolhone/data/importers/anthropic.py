"""Anthropic's Messages format: requests with responses, streams, message batches, and rows of a data set.

`system` is beside the messages. A message has text, `thinking`, `tool_use` and `tool_result` parts. They become
OpenAI's messages: a system message, `reasoning_content`, `tool_calls` and one message for each result.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from toolhone.data.importers.bodies import find_messages, find_request, find_response, refuse_failed
from toolhone.data.importers.importer import Row, RowFault, json_text, short, unexpected
from toolhone.data.importers.openai import text_of
from toolhone.data.importers.responses import stream_events
from toolhone.data.importers.rewrite import tool_rows
from toolhone.data.importers.turns import (
    add_call,
    add_reasoning,
    add_text,
    assistant_turn,
    data_row,
    hosted_tool,
    log_line,
    not_text,
    objects,
)
from toolhone.errors import RowError

_FINISH_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
}
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
_OWN_PARTS = frozenset({"tool_use", "tool_result", "redacted_thinking", "server_tool_use", "mcp_tool_use"})
_STREAM_EVENTS = frozenset(
    {"message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta"}
    | {"message_stop"}
)
# Keys of a response, which may be in the messages as it is.
_OF_RESPONSE = frozenset(
    {"role", "content", "id", "type", "model", "stop_reason", "stop_sequence", "stop_details", "usage", "container"}
)
_UNCHANGED = ("model", "temperature", "top_p", "max_tokens", "metadata", "stream")  # of a request


def looks_like(row: Row) -> bool:
    """Whether the row has a request of the Messages API, or a request with a response of that API."""
    request = _request(row)
    return request is not None and (_is_own_request(request) or _response(row) is not None)


def rewrite(row: Row, where: str) -> Iterator[Row | RowFault]:
    """Yield the log line of a request with its response, or the row of a data set."""
    request = _request(row)
    if request is None:
        raise RowError(f'{where}: no request with "messages"', rule="log-no-request")
    response = _response(row)
    if response is None:
        response = find_response(row, lambda found: found is not None)  # in another provider's format, or a string
    refuse_failed(row, response, where)
    made = _openai_request(request, where)
    if response is None and request is row:
        yield data_row(row, made["messages"], made["tools"], made["hosted"], ("system",))
        return
    if response is None:
        raise RowError(f"{where}: a request without a response", rule="log-no-response")
    if _is_own_response(response):
        response = _chat_completion(_message(response, f"{where}: response"), made["hosted"], f"{where}: response")
        yield from _join_prefill(made["messages"], response, where)
    made["tools"] = [*made["tools"], *({"type": name} for name in made.pop("hosted"))] or None
    yield log_line(row, made, response)


def _is_request(body: Any) -> bool:
    if not isinstance(body, dict):
        return False
    messages = body.get("messages")
    return isinstance(messages, list) or (isinstance(messages, str) and messages.lstrip().startswith("["))


def _request(row: Row) -> Row | None:
    """The row's request, or its messages alone under a request's name, with the tools and the system beside them."""
    found = find_request(row, _is_request)
    messages = find_messages(row) if found is None else None
    if messages is None:
        return found
    return {
        **{key: row[key] for key in ("system", "tools", "tool_choice", "model") if key in row},
        "messages": messages,
    }


def _is_own_request(request: Row) -> bool:
    """Whether the request has what only the Messages API has: `system` apart, or parts of its own types."""
    system, messages = request.get("system"), request["messages"]
    if isinstance(system, str) or (isinstance(system, list) and any(map(_part_type, system))):
        return True
    if isinstance(messages, str):
        return '"tool_use"' in messages or '"tool_result"' in messages
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, list) and any(_is_own_part(part) for part in content):
            return True
    return False


def _part_type(part: Any) -> str:
    return str(part.get("type") or "") if isinstance(part, dict) else ""


def _is_own_part(part: Any) -> bool:
    return _part_type(part) in _OWN_PARTS or (_part_type(part) == "thinking" and "signature" in part)


def _is_own_response(found: Any) -> bool:
    if isinstance(found, str):
        return found.lstrip().startswith(
            ("event: message_start", "event:message_start", 'data: {"type":"message_start')
        )
    if isinstance(found, list):
        return any(_part_type(each) in _STREAM_EVENTS or _is_own_part(each) for each in found)
    if not isinstance(found, dict):
        return False
    if _is_batch_result(found):
        return True
    if found.get("type") == "error" and isinstance(found.get("error"), dict):
        return True
    content = found.get("content")
    if not isinstance(content, str | list):
        return isinstance(found.get("message"), dict) and _is_own_response(found["message"])
    if "stop_reason" in found or found.get("type") == "message":
        return True
    return isinstance(content, list) and found.get("role") == "assistant" and any(map(_is_own_part, content))


def _is_batch_result(found: Any) -> bool:
    kind = found.get("type") if isinstance(found, dict) else None
    return kind in ("errored", "canceled", "expired") or (
        kind == "succeeded" and isinstance(found.get("message"), dict)
    )


def _response(row: Row) -> Any:
    """The response in the Messages API's format, which may be the row itself if the row is the request too."""
    found = find_response(row, _is_own_response)
    return row if found is None and "stop_reason" in row and _is_own_response(row) else found


# Requests


def _openai_request(request: Row, where: str) -> Row:
    """The request in OpenAI's format. The key "hosted" names the tools whose calls the provider defines."""
    functions, hosted = _tools(tool_rows(request, where) or [], where)
    made: Row = {key: request[key] for key in _UNCHANGED if request.get(key) is not None}
    messages = request["messages"]
    if isinstance(messages, str):
        messages = json_text(messages, f"{where}: messages")
    made |= {"messages": _messages(request.get("system"), messages, hosted, where), "tools": functions}
    made["hosted"] = hosted
    choice = request.get("tool_choice")
    if isinstance(choice, dict) and isinstance(choice.get("type"), str):
        named = choice["type"] == "tool"
        function = {"type": "function", "function": {"name": choice.get("name")}}
        made["tool_choice"] = function if named else _CHOICES.get(choice["type"], choice)
        if choice.get("disable_parallel_tool_use") is True:
            made["parallel_tool_calls"] = False
    elif choice is not None:
        made["tool_choice"] = choice
    return made


def _tools(tools: list[Any], where: str) -> tuple[list[Row], list[str]]:
    """The request's own tools as bare functions, and the names of the provider's tools."""
    functions: list[Any] = []
    hosted: list[str] = []
    for tool in tools:
        if not isinstance(tool, dict) or tool.get("type") in (None, "function"):
            functions.append(tool)
        elif tool["type"] == "custom" or "input_schema" in tool:
            functions.append({key: value for key, value in tool.items() if key != "type"})
        else:
            hosted.append(str(tool.get("name") or tool.get("mcp_server_name") or tool["type"]))
    return functions, hosted


def _messages(system: Any, messages: list[Any], hosted: list[str], where: str) -> list[Row]:
    made: list[Row] = []
    if system:
        made.append({"role": "system", "content": text_of(system, f"{where}: system")})
    for number, message in enumerate(objects(messages, f"{where}: messages", "messages")):
        place = f"{where}: message {number}"
        role, content = message.get("role"), message.get("content")
        if role == "assistant" and not message.get("tool_calls"):
            turn = assistant_turn(made)
            turn |= {key: message[key] for key in message.keys() - _OF_RESPONSE if message[key] is not None}
            _add_parts(turn, content, hosted, place)
        elif role == "user" and isinstance(content, list):
            made += _results_and_text(message, place)
        else:  # also a message that is in OpenAI's format already
            made.append(message)
    return made


def _results_and_text(message: Row, where: str) -> Iterator[Row]:
    """The results in a user's message, each as a message of its own, and then its text."""
    texts: list[Row] = []
    for number, part in enumerate(objects(message["content"], where, "parts")):
        kind, place = part.get("type"), f"{where}: part {number}"
        if kind == "tool_result":
            content = part.get("content")
            text = text_of(content, place) if isinstance(content, str | list | None) else str(content)
            yield {"role": "tool", "tool_call_id": part.get("tool_use_id"), "content": text or ""}
        elif kind == "text":
            texts.append(part)
        elif isinstance(kind, str) and kind.endswith("_tool_result"):
            raise hosted_tool(kind, place)
        else:
            raise not_text(kind, place)
    if texts:
        yield {**message, "content": text_of(texts, where)}


def _add_parts(turn: Row, content: Any, hosted: list[str], where: str) -> None:
    """Add the parts of an assistant's message to the turn."""
    if content is None or isinstance(content, str):
        add_text(turn, content or "", where)
        return
    for number, part in enumerate(objects(content, where, "parts")):
        kind, place = part.get("type"), f"{where}: part {number}"
        if kind == "text":
            add_text(turn, part.get("text"), place)
        elif kind == "tool_use":
            if part.get("name") in hosted or part.get("toolset_name") or _is_from_code(part.get("caller")):
                raise hosted_tool(part.get("name"), place)
            add_call(turn, part.get("id"), part.get("name"), part.get("input"), place)
        elif kind == "thinking":
            thinking = part.get("thinking")
            add_reasoning(turn, text_of(thinking, place) if isinstance(thinking, list) else thinking, place)
        elif kind == "redacted_thinking":
            continue  # encrypted, so there is no text to keep
        elif kind in ("image", "document"):
            raise not_text(kind, place)
        else:  # such as server_tool_use, web_search_tool_result, mcp_tool_use, compaction
            raise hosted_tool(part.get("name") or kind, place)


def _is_from_code(caller: Any) -> bool:
    """Whether code that the provider runs made the call, not the model."""
    return isinstance(caller, dict) and caller.get("type") != "direct"


def _join_prefill(messages: list[Row], response: Row, where: str) -> Iterator[RowFault]:
    """Join the response to the start of its turn, if the request gave it."""
    if not messages or messages[-1].get("role") != "assistant" or messages[-1].get("tool_calls"):
        return
    answer = response["choices"][0]["message"]
    before = messages.pop()
    answer["content"] = (before.get("content") or "") + (answer.get("content") or "")
    yield RowFault(where, "log-prefill", f"the request gave the start of the answer, {short(before['content'])}")


# Responses


def _chat_completion(message: Row, hosted: list[str], where: str) -> Row:
    """The response as a chat completion. Raises RowError if the turn is incomplete."""
    reason = message.get("stop_reason")
    if reason in ("pause_turn", "compaction"):
        raise RowError(
            f"{where}: paused for the provider ({reason}), so the turn is incomplete", rule="log-hosted-tool"
        )
    turn: Row = {"role": "assistant", "content": None}
    _add_parts(turn, message.get("content"), hosted, where)
    choice = {"index": 0, "message": turn, "finish_reason": _FINISH_REASONS.get(str(reason), reason)}
    return {"id": message.get("id"), "model": message.get("model"), "choices": [choice]}


def _message(response: Any, where: str) -> Row:
    """The message of a response: of a stream, of a batch result, or of its parts alone."""
    if isinstance(response, str):
        response = stream_events(response, where)
    if isinstance(response, list):
        if not any(_part_type(each) in _STREAM_EVENTS for each in response):
            return {"content": response}
        return _streamed(objects(response, where, "events"), where)
    if isinstance(response.get("message"), dict) and "content" not in response:
        response = response["message"]
    if response.get("type") in ("error", "errored", "canceled", "expired"):
        text = short(response.get("error") or response["type"])
        raise RowError(f"{where}: the request failed: {text}", rule="log-error")
    return dict(response)


def _streamed(events: list[Row], where: str) -> Row:
    """The message of a stream. Other events than the API's, which the SDK adds, repeat what is in those."""
    message: Row = {}
    blocks: dict[Any, Row] = {}
    for event in events:
        kind, index = str(event.get("type")), event.get("index")
        if kind == "error":
            raise RowError(f"{where}: the stream ends with an error: {short(event.get('error'))}", rule="log-error")
        if kind not in _STREAM_EVENTS:
            continue
        if not isinstance(index, int | None):
            raise unexpected(where, 'an event with the number of its block as "index"', event, "log-unknown")
        if kind == "message_start":
            message |= _inner(event, "message", where)
        elif kind == "content_block_start":
            blocks[index] = dict(_inner(event, "content_block", where))
        elif kind == "content_block_delta":
            if index not in blocks:
                raise unexpected(where, "a block that has started", event, "log-unknown")
            _add_delta(blocks[index], _inner(event, "delta", where), where)
        elif kind == "message_delta":
            message |= _inner(event, "delta", where)
    if not message.get("stop_reason"):
        raise RowError(f"{where}: the stream ends before its stop_reason", rule="log-truncated")
    return {**message, "content": [_without_pieces(block) for block in blocks.values()]}


def _inner(event: Row, key: str, where: str) -> Row:
    if not isinstance(event.get(key), dict):
        raise unexpected(where, f'an event with "{key}"', event, "log-unknown")
    found: Row = event[key]
    return found


_DELTAS = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "partial_json"}


def _add_delta(block: Row, delta: Row, where: str) -> None:
    """Append a piece of text, of thinking or of a call's JSON. Signatures and citations are not read."""
    key = _DELTAS.get(str(delta.get("type")))
    if key is None:
        return
    piece, before = delta.get(key), block.get(key) or ""
    if not isinstance(piece, str) or not isinstance(before, str):
        raise unexpected(where, f'a delta with "{key}", a string', delta, "log-unknown")
    block[key] = before + piece


def _without_pieces(block: Row) -> Row:
    """The block with its JSON as `input`. The JSON of a call without arguments is empty."""
    pieces = block.pop("partial_json", "")
    return {**block, "input": pieces} if pieces else block
