"""Bedrock's Converse: requests with responses, streams, logs of model invocations, and rows for tuning.

A message has parts that each have one key: `text`, `toolUse`, `toolResult`, `reasoningContent`. They become OpenAI's
messages. Logs of `InvokeModel` with Anthropic's bodies are read by Anthropic's importer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from toolhone.data.importers.bodies import find_request, find_response, refuse_failed
from toolhone.data.importers.importer import Row, RowFault, short, unexpected
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
    result_text,
)
from toolhone.errors import RowError

_FINISH_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
}
"""OpenAI's finish_reason by Bedrock's stopReason. Any other is an error."""
_OWN_PARTS = ("toolUse", "toolResult", "reasoningContent", "cachePoint", "guardContent")
_EVENTS = ("messageStart", "contentBlockStart", "contentBlockDelta", "contentBlockStop", "messageStop")
_OWN_KEYS = ("schemaVersion", "system", "toolConfig", "inferenceConfig")


def looks_like(row: Row) -> bool:
    """Whether the row has a request of Converse, or a request with a response of Converse."""
    request = find_request(row, _is_request)
    return request is not None and (_is_own_request(request) or _response(row) is not None)


def rewrite(row: Row, where: str) -> Iterator[Row | RowFault]:
    """Yield the log line of a request with its response, or the row of a data set."""
    request, response = find_request(row, _is_request), _response(row)
    if request is None:
        raise RowError(f'{where}: no request with "messages"', rule="log-no-request")
    any_response = find_response(row, lambda found: found is not None) if response is None else response
    if isinstance(any_response, dict) and any_response.get("Error"):  # of boto3's exception
        any_response = {**any_response, "error": any_response["Error"]}
    refuse_failed(row, any_response, where)
    messages = _messages(request, where)
    functions, hosted = _tools(request, where)
    if request is row and any_response is None:
        yield data_row(row, messages, functions, hosted, _OWN_KEYS)
        return
    if response is None:
        raise RowError(f"{where}: a request without a response", rule="log-no-response")
    model = request.get("modelId") or row.get("modelId")
    made = {"messages": messages, "tools": [*functions, *({"type": name} for name in hosted)] or None, "model": model}
    config = request.get("toolConfig")
    if choice := _tool_choice(config.get("toolChoice") if isinstance(config, dict) else None):
        made["tool_choice"] = choice
    answer = _chat_completion(response, f"{where}: response")
    answer["id"] = answer["id"] or row.get("requestId")
    yield log_line(row, made, answer)


def _is_request(body: Any) -> bool:
    return isinstance(body, dict) and isinstance(body.get("messages"), list)


def _is_own_request(request: Row) -> bool:
    """Whether the request has what only Converse has: its config keys, or parts with one key and no type."""
    if "toolConfig" in request or "inferenceConfig" in request or "bedrock" in str(request.get("schemaVersion")):
        return True
    if isinstance(request.get("system"), list) and any(map(_is_plain_text, request["system"])):
        return True
    contents = (message.get("content") for message in request["messages"] if isinstance(message, dict))
    parts = [part for content in contents if isinstance(content, list) for part in content if isinstance(part, dict)]
    return any("type" not in part and any(key in part for key in _OWN_PARTS) for part in parts)


def _is_plain_text(part: Any) -> bool:
    return isinstance(part, dict) and "text" in part and "type" not in part


def _is_own_response(found: Any) -> bool:
    if isinstance(found, list):
        return any(isinstance(event, dict) and any(name in event for name in _EVENTS) for event in found)
    if not isinstance(found, dict):
        return False
    output = found.get("output")
    return (isinstance(output, dict) and isinstance(output.get("message"), dict)) or _is_own_response(
        found.get("stream")
    )


def _response(row: Row) -> Any:
    found = find_response(row, _is_own_response)
    return row if found is None and _is_own_response(row) else found


# Requests


def _messages(request: Row, where: str) -> list[Row]:
    made: list[Row] = []
    system = request.get("system")
    parts = [{"text": system}] if isinstance(system, str) else objects(system or [], f"{where}: system", "parts")
    if texts := [_text(part, f"{where}: system: part {n}") for n, part in enumerate(parts)]:
        made.append({"role": "system", "content": "".join(texts)})
    for number, message in enumerate(objects(request["messages"], f"{where}: messages", "messages")):
        place, content = f"{where}: message {number}", message.get("content")
        content = [{"text": content}] if isinstance(content, str) else objects(content or [], place, "parts")
        if message.get("role") == "assistant":
            _add_parts(assistant_turn(made), content, place)
        else:
            made += _results_and_text(message, content, place)
    return made


def _results_and_text(message: Row, parts: list[Row], where: str) -> Iterator[Row]:
    """The results in a user's message, each as a message of its own, and then its text."""
    texts: list[str] = []
    for number, part in enumerate(parts):
        place, result = f"{where}: part {number}", part.get("toolResult")
        if isinstance(result, dict):
            yield {"role": "tool", "tool_call_id": result.get("toolUseId"), "content": _result_text(result, place)}
        else:
            texts.append(_text(part, place))
    if texts or not parts:
        yield {"role": message.get("role"), "content": "".join(texts)}


def _result_text(result: Row, where: str) -> str:
    parts = objects(result.get("content") or [], where, "parts")
    return "".join(result_text(part["json"]) if "json" in part else _text(part, where) for part in parts)


def _add_parts(turn: Row, parts: list[Row], where: str) -> None:
    """Add the parts of an assistant's message to the turn."""
    for number, part in enumerate(parts):
        place, call, reasoning = f"{where}: part {number}", part.get("toolUse"), part.get("reasoningContent")
        if isinstance(call, dict):
            if call.get("type") == "server_tool_use":
                raise hosted_tool(call.get("name"), place)
            add_call(turn, call.get("toolUseId"), call.get("name"), call.get("input"), place)
        elif isinstance(reasoning, dict):
            text = reasoning.get("reasoningText")  # absent if the reasoning is encrypted
            add_reasoning(turn, text.get("text") if isinstance(text, dict) else None, place)
        elif "toolResult" in part:
            raise hosted_tool("toolResult", place)
        else:
            add_text(turn, _text(part, place), place)


def _text(part: Row, where: str) -> str:
    """The text of a part, which may be guarded or cited. Raises RowError for a part that is not text."""
    if "cachePoint" in part:
        return ""
    guarded, cited = part.get("guardContent"), part.get("citationsContent")
    if isinstance(guarded, dict) and isinstance(guarded.get("text"), dict):
        part = guarded["text"]
    if isinstance(cited, dict):
        return "".join(_text(each, where) for each in objects(cited.get("content") or [], where, "parts"))
    if not isinstance(part.get("text"), str):
        raise not_text(next(iter(part), None), where)
    return str(part["text"])


def _tools(request: Row, where: str) -> tuple[list[Row], list[str]]:
    config = request.get("toolConfig") or {}
    if not isinstance(config, dict):
        raise unexpected(where, '"toolConfig" to be an object', config, "bad-tool")
    tools = objects(config.get("tools") or [], f"{where}: toolConfig", "tools")
    hosted = [str(tool["systemTool"].get("name")) for tool in tools if isinstance(tool.get("systemTool"), dict)]
    return [tool for tool in tools if "systemTool" not in tool and "cachePoint" not in tool], hosted


def _tool_choice(choice: Any) -> Any:
    if not isinstance(choice, dict):
        return None
    if isinstance(choice.get("tool"), dict):
        return {"type": "function", "function": {"name": choice["tool"].get("name")}}
    return "required" if choice.get("any") is not None else "auto"


# Responses


def _chat_completion(response: Any, where: str) -> Row:
    if isinstance(response, dict) and "output" not in response:
        response = response["stream"]
    if isinstance(response, list):
        response = _streamed(objects(response, where, "events"), where)
    reason = response.get("stopReason")
    if reason in ("malformed_tool_use", "malformed_model_output"):
        raise RowError(f"{where}: the response ended with stopReason {reason}", rule="log-broken-call")
    turn: Row = {"role": "assistant", "content": None}
    _add_parts(turn, objects(response["output"]["message"].get("content") or [], where, "parts"), where)
    finish_reason = None if reason is None else _FINISH_REASONS.get(str(reason), "error")
    metadata = response.get("ResponseMetadata")
    id_ = metadata.get("RequestId") if isinstance(metadata, dict) else None
    return {"id": id_, "choices": [{"index": 0, "message": turn, "finish_reason": finish_reason}]}


def _streamed(events: list[Row], where: str) -> Row:
    """The response of a stream."""
    blocks: dict[Any, Row] = {}
    reason: Any = None
    for event in events:
        for name, value in event.items():
            if name.endswith("Exception"):
                raise RowError(f"{where}: the stream ends with an error: {short(value)}", rule="log-error")
            if name not in _EVENTS or not isinstance(value, dict):
                continue
            index = value.get("contentBlockIndex")
            if not isinstance(index, int | None):
                raise unexpected(where, "an event with the number of its block", event, "log-unknown")
            if name == "messageStop":
                reason = value.get("stopReason")
            elif name == "contentBlockStart" and isinstance(value.get("start"), dict):
                blocks[index] = {key: dict(each) for key, each in value["start"].items() if isinstance(each, dict)}
            elif name == "contentBlockDelta" and isinstance(value.get("delta"), dict):
                _add_delta(blocks.setdefault(index, {}), value["delta"], where)
    if reason is None:
        raise RowError(f"{where}: the stream ends before its stopReason", rule="log-truncated")
    return {"output": {"message": {"content": list(blocks.values())}}, "stopReason": reason}


def _add_delta(block: Row, delta: Row, where: str) -> None:
    """Append a piece of text, of a call's JSON or of reasoning."""
    reasoning, call = delta.get("reasoningContent"), delta.get("toolUse")
    if isinstance(reasoning, dict):
        text = block.setdefault("reasoningContent", {}).setdefault("reasoningText", {"text": ""})
        text["text"] += _piece(reasoning.get("text") or "", where)  # else a signature
    elif isinstance(call, dict):
        held = block.setdefault("toolUse", {})
        held["input"] = held.get("input", "") + _piece(call.get("input") or "", where)
    elif "text" in delta:
        block["text"] = block.get("text", "") + _piece(delta["text"], where)


def _piece(text: Any, where: str) -> str:
    if not isinstance(text, str):
        raise unexpected(where, "a delta with text", text, "log-unknown")
    return text
