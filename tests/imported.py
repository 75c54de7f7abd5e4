"""Reads files with the importers, for their tests. A row of a file is named by its line."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from toolhone.data.importers import IMPORTERS
from toolhone.data.importers.importer import RowFault
from toolhone.data.read import read_source
from toolhone.errors import RowError
from toolhone.records import Conversation

FIXTURES = Path(__file__).parent / "fixtures"
Row = dict[str, Any]


def rows_of(path: Path) -> list[Row]:
    """The rows of a JSONL file, unread."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write(path: Path, *found: Row) -> Path:
    """Write a JSONL file, and return its path."""
    path.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    return path


def read(path: Path, format: str = "auto") -> tuple[dict[int, Conversation], list[tuple[int, str]]]:
    """The conversations of a file by line, and the line and rule of each fault."""
    found = list(read_source(path, format=format))
    line = {id(row): int(row.where.rpartition(":")[2]) for row in found}
    faults = [(line[id(row)], row.rule) for row in found if isinstance(row, RowFault)]
    return {line[id(row)]: row for row in found if isinstance(row, Conversation)}, faults


def read_counted(path: Path) -> tuple[list[Conversation], Counter[str]]:
    """The conversations of a file, and how many faults each rule has."""
    found = list(read_source(path))
    rules = Counter(each.rule for each in found if isinstance(each, RowFault))
    return [each for each in found if isinstance(each, Conversation)], rules


def read_rows(folder: Path, *rows: Row, name: str = "rows.jsonl") -> tuple[list[Conversation], Counter[str]]:
    """Write the rows to a file in the folder, and read it as `read_counted` does."""
    return read_counted(write(folder / name, *rows))


def rewritten(importer: str, row: Row) -> Row:
    """The only row that an importer makes of a row."""
    rewrite = IMPORTERS[importer].rewrite
    assert rewrite is not None
    (made,) = rewrite(row, "a.jsonl:1")
    assert isinstance(made, dict)
    return made


def rule_of(importer: str, row: Row) -> str:
    """The rule of the error with which an importer refuses a row."""
    rewrite = IMPORTERS[importer].rewrite
    assert rewrite is not None
    with pytest.raises(RowError, match=r"^a\.jsonl:1: ") as caught:
        list(rewrite(row, "a.jsonl:1"))
    return caught.value.rule
