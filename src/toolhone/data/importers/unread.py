"""Detects known row formats that toolhone does not read, so that the error can name the format.

Otherwise the error would only name the first unknown key.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from toolhone.data.importers.importer import Row

RULE = "unread-format"
_TEXTS = ("prompt", "completion")


def unread_format(row: Any) -> str:
    """The name of the unread format of a row; "" if it has none."""
    return next((name for name, matches in _FORMATS if isinstance(row, dict) and matches(row)), "")


def refusal(name: str) -> str:
    """The error message for a row in the unread format `name`."""
    return f"looks like {name}, which toolhone does not read; convert the row to OpenAI's chat format"


_FORMATS: tuple[tuple[str, Callable[[Row], bool]], ...] = (
    ("OpenAI's preference pairs (`preferred_output`)", lambda row: "preferred_output" in row),
    ("preference pairs (`chosen` and `rejected`)", lambda row: "chosen" in row and "rejected" in row),
    ("Alpaca's format (`instruction` and `output`)", lambda row: "instruction" in row and "output" in row),
    ("a prompt and a completion as plain texts", lambda row: all(isinstance(row.get(key), str) for key in _TEXTS)),
)
