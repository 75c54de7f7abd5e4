"""Detects known row formats that toolhone does not read, so that the error can name the format.

Otherwise the error would only name the first unknown key.
"""

from __future__ import annotations

from collections.abc import Callable
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


def _is_opentelemetry(row: Row) -> bool:
    if "resourceSpans" in row or "resource_spans" in row:
        return True
    attributes = row.get("attributes")
    if isinstance(attributes, list):  # OTLP's JSON: [{"key": ..., "value": ...}]
        attributes = {entry.get("key"): None for entry in attributes if isinstance(entry, dict)}
    named = attributes if isinstance(attributes, dict) else row
    return any(str(key).startswith(("gen_ai.", "llm.input_messages")) for key in named)


def _is_langchain(row: Row) -> bool:
    return "lc" in row and "kwargs" in row


def _is_langsmith(row: Row) -> bool:
    """Whether the row is a run with messages as LangChain serialises them, at most four lists or objects deep."""
    level: list[Any] = [row.get("inputs"), row.get("outputs"), row.get("input"), row.get("output"), row.get("messages")]
    for _ in range(5):
        if any(isinstance(each, dict) and _is_langchain(each) for each in level):
            return True
        level = [each for holder in level for each in _inside(holder)]
    return False


_FORMATS: tuple[tuple[str, Callable[[Row], bool]], ...] = (
    ("OpenTelemetry spans", _is_opentelemetry),
    ("LangSmith's runs, with LangChain's serialised messages", _is_langsmith),
    ("OpenAI's preference pairs (`preferred_output`)", lambda row: "preferred_output" in row),
    ("preference pairs (`chosen` and `rejected`)", lambda row: "chosen" in row and "rejected" in row),
    ("Alpaca's format (`instruction` and `output`)", lambda row: "instruction" in row and "output" in row),
    ("a prompt and a completion as plain texts", lambda row: all(isinstance(row.get(key), str) for key in _TEXTS)),
)


def _inside(holder: Any) -> list[Any]:
    if isinstance(holder, dict):
        return list(holder.values())
    return holder if isinstance(holder, list) else []
