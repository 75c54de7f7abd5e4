"""Detects known row formats that toolhone does not read, so that the error can name the format.

Otherwise the error would only name the first unknown key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from toolhone.data.importers.importer import Row
from toolhone.errors import RowError

RULE = "unread-format"
_TEXTS = ("prompt", "completion")


def unread_format(row: Any) -> str:
    """The name of the unread format of a row, or of a request or response in it; "" if it has none."""
    if not isinstance(row, dict):
        return ""
    bodies = [row, *(value for value in row.values() if isinstance(value, dict))]
    return next((name for name, matches in _FORMATS if any(map(matches, bodies))), "")


def refuse_unread(row: Any, where: str) -> None:
    """Raise RowError if the row is in an unread format."""
    if name := unread_format(row):
        raise RowError(f"{where}: {refusal(name)}", rule=RULE)


def refusal(name: str) -> str:
    """The error message for a row in the unread format `name`."""
    return f"looks like {name}, which toolhone does not read; convert the row to OpenAI's chat format"


def _is_bedrock(row: Row) -> bool:
    return any("toolUse" in part or "toolResult" in part for part in _parts(row))


def _is_swift(row: Row) -> bool:
    return any(message.get("role") in ("tool_call", "tool_response") for message in _messages(row))


def _is_openai_batch(row: Row) -> bool:
    return "custom_id" in row and ("body" in row or "response" in row)


_FORMATS: tuple[tuple[str, Callable[[Row], bool]], ...] = (
    ("Bedrock's Converse format", _is_bedrock),
    ("ms-swift's agent format (the roles tool_call and tool_response)", _is_swift),
    ("OpenAI's Batch format", _is_openai_batch),
    ("preference pairs (`chosen` and `rejected`)", lambda row: "chosen" in row and "rejected" in row),
    ("Alpaca's format (`instruction` and `output`)", lambda row: "instruction" in row and "output" in row),
    ("a prompt and a completion as plain texts", lambda row: all(isinstance(row.get(key), str) for key in _TEXTS)),
)


def _messages(row: Row) -> Iterator[Row]:
    found = row.get("messages")
    messages = found if isinstance(found, list) else [row]
    return (message for message in messages if isinstance(message, dict))


def _parts(row: Row) -> Iterator[Row]:
    """The parts of all messages, or of the one message that the row is."""
    for message in _messages(row):
        content = message.get("content")
        yield from (part for part in (content if isinstance(content, list) else ()) if isinstance(part, dict))


def _part_types(row: Row) -> set[str]:
    return {str(part.get("type")) for part in _parts(row)}
