"""Splitting and subsetting, stable by content: a row's side depends on the row alone, not on its neighbours.

Validation rows are taken by whole groups (one template, one side), so that no phrasing is on both sides. Subsets are
balanced over what rows ask for: each kind of row, by the tools that it calls, keeps its proportion.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from toolhone.config import DataConfig
from toolhone.data.check import refuse_faults
from toolhone.data.check.row_faults import sound_rows
from toolhone.data.read import read_sources, read_tools
from toolhone.errors import UserError
from toolhone.records import Conversation, Tool


@dataclass(frozen=True, slots=True)
class Splits:
    """The conversations of a run. `available` counts the training and test conversations before any subset; `formats`
    are those that their files were read as, each once."""

    train: list[Conversation]
    validation: list[Conversation]
    test: list[Conversation]
    available: dict[str, int]
    formats: tuple[str, ...]

    def items(self) -> list[tuple[str, list[Conversation]]]:
        return [("train", self.train), ("validation", self.validation), ("test", self.test)]


def make_splits(config: DataConfig) -> Splits:
    """Read and check the config's files, hold out validation rows, and take the subsets that it asks for.

    Raises:
        UserError: with every fault found, each with its file and line.
    """
    tools = read_tools(Path(config.tools)) if config.tools else ()
    taken_for: dict[str, str] = {}
    learned = read_files(config.train, tools, config.format, taken_for)
    test = read_files(config.test, tools, config.format, taken_for)
    _refuse_shared_rows(learned, test)
    train, validation = split_validation(learned, config.validation, config.group_by)
    return Splits(
        balanced_subset(train, config.train_rows),
        balanced_subset(validation, config.validation_rows),
        balanced_subset(test, config.test_rows),
        {"train": len(train), "validation": len(validation), "test": len(test)},
        tuple(sorted(set(taken_for.values()))),
    )


def read_files(
    sources: Iterable[str],
    tools: Sequence[Tool] = (),
    format: str = "auto",
    taken_for: dict[str, str] | None = None,
) -> list[Conversation]:
    """Read and check sources together, in any format: ids must differ across them. `taken_for` takes the format of each
    file.

    Raises:
        UserError: with every row that cannot be read, or every error of the check.
    """
    named = list(sources)
    rows = list(sound_rows(read_sources(named, tuple(tools), format, taken_for)))
    if not rows:
        raise UserError(f"{', '.join(named)}: no rows")
    refuse_faults(rows)
    return rows


def split_validation(
    rows: Sequence[Conversation], share: float, group_by: str | None
) -> tuple[list[Conversation], list[Conversation]]:
    """Split into training and validation rows.

    A group is on the validation side where a hash of its name falls into the first `share` of the range. With
    `group_by`, rows whose meta has the same value under that key are one group; a row without it is its own.

    Raises:
        UserError: where a share is asked for and one side stays empty.
    """
    train = [row for row in rows if _unit_hash(_group(row, group_by)) >= share]
    validation = [row for row in rows if _unit_hash(_group(row, group_by)) < share]
    if rows and share > 0 and not (train and validation):
        empty = "training" if not train else "validation"
        raise UserError(
            f"data.validation: a share of {share} by data.group_by {group_by!r} leaves no {empty} rows of {len(rows)}; "
            "give more rows, another share, or group_by: null"
        )
    return train, validation


def balanced_subset(rows: Sequence[Conversation], limit: int | None) -> list[Conversation]:
    """At most `limit` rows, in their own order, with every kind of row (by the tools that it calls) in its proportion:
    every so-many-th of the rows sorted by kind and, within a kind, by content hash."""
    if limit is None or len(rows) <= limit:
        return list(rows)
    by_kind = sorted(rows, key=lambda row: (_kind(row), row.content_hash(), row.id))
    chosen = {by_kind[n * len(rows) // limit].id for n in range(limit)}
    return [row for row in rows if row.id in chosen]


def _refuse_shared_rows(train: Sequence[Conversation], test: Sequence[Conversation]) -> None:
    places = {row.content_hash(): row.where for row in train}
    shared = [(row.where, places[row.content_hash()]) for row in test if row.content_hash() in places]
    if shared:
        test_place, train_place = shared[0]
        raise UserError(
            f"{test_place}: the row stands at {train_place} too ({len(shared)} such rows); "
            "a test row may not be trained on"
        )


def _kind(row: Conversation) -> tuple[str, ...]:
    return tuple(sorted(call.name for message in row.messages for call in message.tool_calls))


def _group(row: Conversation, group_by: str | None) -> str:
    if group_by is not None and group_by in row.meta:
        return f"{group_by}={row.meta[group_by]}"
    return row.content_hash()


def _unit_hash(text: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
