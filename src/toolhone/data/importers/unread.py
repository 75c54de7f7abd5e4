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


_FORMATS: tuple[tuple[str, Callable[[Row], bool]], ...] = (
    ("OpenAI's preference pairs (`preferred_output`)", lambda row: "preferred_output" in row),
    ("preference pairs (`chosen` and `rejected`)", lambda row: "chosen" in row and "rejected" in row),
    ("Alpaca's format (`instruction` and `output`)", lambda row: "instruction" in row and "output" in row),
    ("a prompt and a completion as plain texts", lambda row: all(isinstance(row.get(key), str) for key in _TEXTS)),
)
