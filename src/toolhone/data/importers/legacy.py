"""Older and looser ways of writing OpenAI's format, brought into the present one before it is read."""

from __future__ import annotations

from typing import Any

from toolhone.data.importers.fields import json_text, short
from toolhone.errors import RowError


def modernised(row: dict[str, Any], where: str) -> dict[str, Any]:
    """The row with `functions` as `tools`, `function_call` as `tool_calls`, and results tied to the call before them.

    Raises:
        RowError: where it has both, or a function's result without the call.
    """
    messages = row.get("messages")
    if not isinstance(messages, list):
        return row
    tools = row.get("tools")
    if isinstance(tools, str):
        row = {**row, "tools": json_text(tools, f"{where}: tools")}
    if row.get("functions") is not None:
        if row.get("tools") is not None:
            text = f'{where}: has both "tools" and "functions"; keep "tools"'
            raise RowError(text, rule="tools-and-functions")
        row = {**row, "tools": row["functions"], "functions": None}
    if not any(isinstance(message, dict) and _is_loose(message) for message in messages):
        return row
    made: list[Any] = []
    for number, message in enumerate(messages):
        loose = isinstance(message, dict) and _is_loose(message)
        made.append(_modern_message(message, made, f"{where}: message {number}") if loose else message)
    return {**row, "messages": made}


def text_of(content: Any, where: str) -> str | None:
    """Content as a text: itself, or its text parts put together.

    Raises:
        RowError: for a part that is no text (an image, a sound), which a text model cannot learn from.
    """
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise RowError(f'{where}: expected "content" to be a text, found {short(content)}', rule="bad-content")
    texts = []
    for part in content:
        text = (part.get("text") or part.get("refusal")) if isinstance(part, dict) else None
        if not isinstance(text, str):
            if isinstance(part, dict) and part.get("text") == "":
                continue
            raise RowError(f"{where}: expected a part of text, found {short(part)}", rule="content-not-text")
        texts.append(text)
    return "".join(texts)


def _is_loose(message: dict[str, Any]) -> bool:
    if message.get("function_call") is not None or message.get("role") in ("function", "developer"):
        return True
    content = message.get("content")
    return isinstance(content, list) and any(isinstance(part, dict) for part in content)


def _modern_message(message: dict[str, Any], before: list[Any], where: str) -> dict[str, Any]:
    made = {key: value for key, value in message.items() if key != "function_call"}
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
        # The id is the message's place: what ties the result to the call, since legacy rows have none.
        made["tool_calls"] = [{"id": f"call_{len(before)}", "function": message["function_call"]}]
    return made


def _call_before(message: dict[str, Any], before: list[Any], where: str) -> str | None:
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
