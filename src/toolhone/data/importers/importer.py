"""What an importer is, and what all of them share: faults, typed fields, JSON texts inside a row.

An importer reads one row format. It is one file of this folder and one line of the table in `__init__.py`. What it
cannot read is a RowError that names the place, what was found and what was expected; such rows are counted by its rule.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from toolhone.errors import RowError
from toolhone.records import Conversation, Tool
from toolhone.strict_json import StrictJsonError, parse_strict

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class RowFault:
    """A row that gave no conversation, or a fault beside one. `rule` is its kind; `message` does not repeat `where`."""

    where: str
    rule: str
    message: str

    @classmethod
    def of_error(cls, where: str, error: RowError) -> RowFault:
        return cls(where, error.rule, str(error).removeprefix(f"{where}: "))


class Fold(Protocol):
    """Joins rows that are steps of one conversation."""

    def add(self, row: Row, where: str) -> Iterator[RowFault]: ...
    def conversations(self) -> Iterator[Conversation]: ...


@dataclass(frozen=True, slots=True)
class Importer:
    """How rows of one format become conversations. `read` takes a row, its place and the tools of rows without any, and
    raises RowError."""

    name: str
    looks_like: Callable[[Row], bool]
    read: Callable[[Row, str, tuple[Tool, ...]], Conversation]
    fold: Callable[[tuple[Tool, ...]], Fold] | None = None
    """Used instead of `read` if one conversation spans many rows."""
    read_folder: Callable[[Path], Iterator[Conversation | RowFault]] | None = None
    """Used instead of `read` for a folder whose files belong together."""


def short(value: Any) -> str:
    """A value as JSON, cut to 80 characters."""
    if value is None:
        return "nothing"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:77] + "..."


def unexpected(where: str, expected: str, found: Any, rule: str) -> RowError:
    """The error to raise if a row holds another value than expected."""
    return RowError(f"{where}: expected {expected}, found {short(found)}", rule=rule)


def typed(row: Row, key: str, kind: type, default: Any, where: str) -> Any:
    """An optional value of one type; null counts as absent. Raises RowError for a value of another type."""
    value = row.get(key)
    if value is None:
        return default
    if not isinstance(value, kind):
        raise unexpected(where, f'"{key}" to be of type {kind.__name__}', value, "bad-type")
    return value


def json_text(text: str, where: str) -> Any:
    """The value of a JSON text. Raises RowError with the rule of strict JSON that the text breaks."""
    try:
        return parse_strict(text)
    except StrictJsonError as error:
        raise RowError(f"{where}: {error}: {short(text)}", rule=error.rule) from None


def listed(found: Any, where: str, of: str, rule: str) -> list[Any] | None:
    """A list, or a JSON text of one; None if absent. `of` says what the list holds. Raises RowError for anything
    else."""
    if isinstance(found, str):
        found = json_text(found, where)
    if found is not None and not isinstance(found, list):
        raise unexpected(where, f"a list{of}", found, rule)
    return found
