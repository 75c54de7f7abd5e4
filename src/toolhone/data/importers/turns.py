"""What the converted formats share: a call in OpenAI's shape, and ids that tie each result to its call."""

from __future__ import annotations

from typing import Any

from toolhone.data.importers import openai
from toolhone.data.importers.fields import short
from toolhone.errors import RowError


def to_call(found: Any, where: str) -> dict[str, Any]:
    """`{"name": ..., "arguments": {...}}` in OpenAI's shape.

    Raises:
        RowError: where the name is missing, or stands among the arguments, as it does in some Hermes rows.
    """
    if not isinstance(found, dict) or not isinstance(found.get("name"), str):
        arguments = found.get("arguments") if isinstance(found, dict) else None
        inside = isinstance(arguments, dict) and "name" in arguments
        reason = 'the "name" stands inside "arguments"' if inside else 'expected "name" and "arguments"'
        raise RowError(f"{where}: {reason}: {short(found)}", rule="bad-call")
    unknown = sorted(set(found) - {"name", "arguments", "id", "type"})
    if unknown:
        text = f'{where}: unknown key "{unknown[0]}" in a call of "{found["name"]}"; expected "name" and "arguments"'
        raise RowError(text, rule="bad-call")
    return {"function": {"name": found["name"], "arguments": openai.read_arguments(found.get("arguments"), where)}}


def tied(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages with an id for every call, unique in the row, and each result named after the first call that is
    still unanswered. A result too many stays without, for the check to find."""
    made: list[dict[str, Any]] = []
    waiting: list[str] = []
    count = 0
    for message in messages:
        if message["role"] == "tool":
            made.append({**message, "tool_call_id": waiting.pop(0)} if waiting else message)
            continue
        calls = message.get("tool_calls", [])
        waiting = [f"call_{count + n}" for n in range(len(calls))]
        count += len(calls)
        if calls:
            message = {**message, "tool_calls": [{"id": id, **call} for id, call in zip(waiting, calls, strict=True)]}
        made.append(message)
    return made
