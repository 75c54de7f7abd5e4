"""Defines an importer, and what all importers share: faults, typed fields, JSON strings inside a row.

An importer reads one row format. It is one file in this folder and one line in the table of `__init__.py`. It either
reads a row as a conversation, or rewrites it as rows that other importers read. For a row that it cannot read it raises
RowError with the place, what was found and what was expected. The error's rule is the name under which such rows are
counted.
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
    """A fault in a row, which may still give a conversation. `rule` is its kind; `message` does not repeat `where`."""

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


class Join(Protocol):
    """Pairs requests and responses that are in different rows or files."""

    def rewrite(self, row: Row, where: str) -> Iterator[Row | RowFault]:
        """Yield what `Importer.rewrite` yields, once the row's other half is known."""

    def unpaired(self) -> Iterator[RowFault]:
        """Yield a fault for each row whose other half was not found."""


@dataclass(frozen=True, slots=True)
class Importer:
    """How to read rows of one format, with exactly one of `read`, `rewrite` and `join`. They raise RowError."""

    name: str
    looks_like: Callable[[Row], bool]
    read: Callable[[Row, str, tuple[Tool, ...]], Conversation] | None = None
    """Takes a row, its place and the tools for rows that have none."""
    rewrite: Callable[[Row, str], Iterator[Row | RowFault]] | None = None
    """Takes a row and its place. Yields the rows in it, each in the format of another importer, and a fault for what
    is left out. A request with its response becomes a log line: `{"request": {...}, "response": {...}}`, both in
    OpenAI's format or in that of the provider. The log importer then joins the lines of a conversation."""
    join: Callable[[], Join] | None = None
    """Used instead of `rewrite` if a request and its response may be in different rows."""
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
    """The error for a value other than the expected one."""
    return RowError(f"{where}: expected {expected}, found {short(found)}", rule=rule)


_JSON_TYPES = {str: "a string", bool: "true or false", list: "a list", dict: "an object"}


def typed(row: Row, key: str, kind: type, default: Any, where: str) -> Any:
    """The value of an optional key; null counts as absent. Raises RowError for a value of another type."""
    value = row.get(key)
    if value is None:
        return default
    if not isinstance(value, kind):
        raise unexpected(where, f'"{key}" to be {_JSON_TYPES[kind]}', value, "bad-type")
    return value


def json_text(text: str, where: str) -> Any:
    """The value of a JSON string. Raises RowError with the rule of strict JSON that the string breaks."""
    try:
        return parse_strict(text)
    except StrictJsonError as error:
        raise RowError(f"{where}: {error}: {short(text)}", rule=error.rule) from None


def decoded(value: Any, where: str) -> Any:
    """The object or list in a JSON string; any other value unchanged. Raises RowError as `json_text` does."""
    return json_text(value, where) if isinstance(value, str) and value.lstrip()[:1] in ("{", "[") else value


def listed(found: Any, where: str, of: str, rule: str) -> list[Any] | None:
    """The list, decoded if it is a JSON string; None if absent. Raises RowError for anything else, with `of` after "a
    list"."""
    if isinstance(found, str):
        found = json_text(found, where)
    if found is not None and not isinstance(found, list):
        raise unexpected(where, f"a list{of}", found, rule)
    return found
