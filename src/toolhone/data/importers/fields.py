"""One field of a foreign row: an optional value of one type, a JSON text, and how a value is shown in a message."""

from __future__ import annotations

import json
from typing import Any

from toolhone.errors import RowError
from toolhone.strict_json import StrictJsonError, parse_strict


def typed(row: dict[str, Any], key: str, kind: type, default: Any, where: str) -> Any:
    """An optional value of one type; null counts as absent.

    Raises:
        RowError: where the value is of another type.
    """
    value = row.get(key)
    if value is None:
        return default
    if not isinstance(value, kind):
        text = f'{where}: expected "{key}" to be of type {kind.__name__}, found {short(value)}'
        raise RowError(text, rule="bad-type")
    return value


def short(value: Any) -> str:
    """A value as its JSON, cut to 80 characters."""
    if value is None:
        return "nothing"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:77] + "..."


def json_text(text: str, where: str) -> Any:
    """What a JSON text holds.

    Raises:
        RowError: where it is none.
    """
    try:
        return parse_strict(text)
    except StrictJsonError as error:
        raise RowError(f"{where}: {error}: {short(text)}", rule=error.rule) from None
