"""Detects known row formats that toolhone does not read, so that the error can name the format.

Otherwise the error would only name the first unknown key.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from toolhone.data.importers.importer import Row

RULE = "unread-format"
_TEXTS = ("prompt", "completion")
_CONVERSATION_KEYS = frozenset({"messages", "conversations", "tools", "prompt", "completion", "request", "response"})


def unread_format(row: Any) -> str:
    """The name of the unread format of a row; "" if it has none."""
    name = next((name for name, matches in _FORMATS if isinstance(row, dict) and matches(row)), "")
    return f"{name} (it has the keys {', '.join(list(row)[:8])})" if name else ""


def refusal(name: str) -> str:
    """The error message for a row in the unread format `name`."""
    return f"looks like {name}, which toolhone does not read; convert the row to OpenAI's chat format"


def _holds(row: Row, holder: str, key: str) -> bool:
    """Whether the row has an object `holder` with this key."""
    return isinstance(row.get(holder), dict) and key in row[holder]


_FORMATS: tuple[tuple[str, Callable[[Row], bool]], ...] = (
    ("OpenAI's preference pairs (`preferred_output`)", lambda row: "preferred_output" in row),
    ("preference pairs (`chosen` and `rejected`)", lambda row: "chosen" in row and "rejected" in row),
    ("Alpaca's format (`instruction` and `output`)", lambda row: "instruction" in row and "output" in row),
    ("a prompt and a completion as plain texts", lambda row: all(isinstance(row.get(key), str) for key in _TEXTS)),
    ("a trace of OpenAI's Agents SDK", lambda row: str(row.get("object")).startswith("trace")),
    ("a session file of Claude Code", lambda row: "sessionId" in row and "uuid" in row),
    ("a span of Braintrust", lambda row: "span_attributes" in row),
    ("a span of Datadog", lambda row: _holds(row, "meta", "kind") or "ml_obs" in row),
    ("a trace of MLflow", lambda row: _holds(row, "data", "spans") or _holds(row, "info", "trace_id")),
    # Last, because the others are more exact.
    ("an object without a conversation", lambda row: bool(row) and row.keys().isdisjoint(_CONVERSATION_KEYS)),
)
