"""OpenAI's Responses API in the shape of chat completions: items become messages, flat tools become nested ones."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from toolhone.data.importers.fields import short
from toolhone.errors import RowError

_SILENT_ITEMS = ("reasoning",)


def is_response(body: Any) -> bool:
    """Whether the body is a response of the Responses API."""
    return isinstance(body, dict) and (body.get("object") == "response" or isinstance(body.get("output"), list))


def request_messages(request: dict[str, Any], where: str) -> list[dict[str, Any]]:
    """`input` (a text or items) as messages, without `instructions`.

    Raises:
        RowError: for an item that has no place in a conversation.
    """
    found = request.get("input")
    if isinstance(found, str):
        return [{"role": "user", "content": found}]
    if not isinstance(found, list):
        raise RowError(
            f'{where}: expected "input", a text or a list of items, found {short(found)}', rule="log-unknown"
        )
    return _messages(found, where)


def response_message(response: dict[str, Any], where: str) -> dict[str, Any]:
    """`output` as one assistant message.

    Raises:
        RowError: for a response that failed, was cut or refused, or used a tool of OpenAI's own.
    """
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
        raise RowError(f'{where}: expected "output", a list of items, found {short(output)}', rule="log-unknown")
    messages = _messages(output, where)
    if any(message["role"] != "assistant" for message in messages):
        raise RowError(f"{where}: the output has items that are not the assistant's", rule="log-unknown")
    if not messages:
        raise RowError(f"{where}: the response neither calls nor says anything", rule="log-empty")
    return messages[0]


def nested_tools(tools: Iterable[Any]) -> list[Any]:
    """Tools in the shape of chat completions, whichever of the two they come in."""
    return [
        {"type": "function", "function": {key: value for key, value in tool.items() if key != "type"}}
        if isinstance(tool, dict) and tool.get("type") == "function" and "function" not in tool
        else tool
        for tool in tools
    ]


def _messages(items: list[Any], where: str) -> list[dict[str, Any]]:
    """An assistant's text and calls are items of their own, one after the other: together they are one turn."""
    messages: list[dict[str, Any]] = []
    for number, item in enumerate(items):
        place = f"{where}: item {number}"
        if not isinstance(item, dict):
            raise RowError(f"{place}: expected an object, found {short(item)}", rule="log-unknown")
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
        elif kind not in _SILENT_ITEMS:
            text = f"{place}: an item of type {short(kind)} has no place in a conversation of functions"
            raise RowError(text, rule="log-hosted-tool")
    return messages


def _assistant_turn(messages: list[dict[str, Any]]) -> dict[str, Any]:
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": None})
    return messages[-1]


def _add_text(turn: dict[str, Any], content: Any, where: str) -> None:
    parts = [{"text": content}] if isinstance(content, str) else content
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise RowError(f"{where}: expected content as a text or as parts, found {short(content)}", rule="bad-content")
    for part in parts:
        refusal = part.get("refusal")
        if refusal:
            turn["refusal"] = refusal
        elif isinstance(part.get("text"), str):
            turn["content"] = (turn["content"] or "") + part["text"]
        else:
            raise RowError(f"{where}: expected a part of text, found {short(part)}", rule="content-not-text")
