"""Split conversations into sides by whole groups. A group's side depends on its own hash, not on other rows.

`make_splits` reads the files of a run. `assign_sides` does the work of `toolhone data split`, which divides one set of
rows into four sides. Both hash the name of a group to [0, 1), and the range that contains the hash decides the side.
Test and calibration rows give published figures, so `assign_sides` groups rows by everything in `groups.py`. Validation
rows only give a loss curve, so `make_splits` groups rows by template and needs no second pass.

Which rows of `assign_sides` move when the data changes:
- Rows added at the end move no old row, unless one links two groups. Then the later group follows the earlier one.
- Rows added at the start, or files in another order, move a group only if its new first row has another anchor. A group
  of one template or one conversation never moves.
- With `unseen_tools`, a new row that calls a kept tool moves its group to the test side. A new tool can be kept too.
- Another salt or `group_by` can move any row. A larger `test` share keeps all rows of a smaller one.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from toolhone.config import DataConfig
from toolhone.data.check import refuse_faults
from toolhone.data.check.finding import LeftOut, sound_rows
from toolhone.data.groups import NO_CALL, Indices, KeyTable, key_of, template_name
from toolhone.data.leakage import refuse_shared_rows
from toolhone.data.read import read_sources, read_tools
from toolhone.errors import UserError
from toolhone.records import Conversation, Tool

Side = Literal["train", "validation", "calibration", "test"]
SIDES: tuple[Side, ...] = ("train", "validation", "calibration", "test")

_AUTO_SALTS = 64


# A run's rows


@dataclass(frozen=True, slots=True)
class Splits:
    """The conversations of a run. `available` counts the rows of each side before a subset is taken, `formats` are the
    files' formats, and `left_out` has the rows that were left out in reading, by rule."""

    train: list[Conversation]
    validation: list[Conversation]
    test: list[Conversation]
    available: dict[str, int]
    formats: tuple[str, ...]
    left_out: LeftOut

    def items(self) -> list[tuple[str, list[Conversation]]]:
        return [("train", self.train), ("validation", self.validation), ("test", self.test)]


def make_splits(config: DataConfig) -> Splits:
    """Read and check the config's files, hold out validation rows, and take the subsets that the config asks for.

    Raises:
        UserError: with every fault found, each with its file and line.
    """
    tools = read_tools(Path(config.tools)) if config.tools else ()
    file_formats: dict[str, str] = {}
    left_out: LeftOut = {}
    learned = read_files(config.train, left_out, tools, config.format, file_formats)
    test = read_files(config.test, left_out, tools, config.format, file_formats)
    refuse_shared_rows(learned, test)
    train, validation = split_validation(learned, config.validation, config.group_by)
    return Splits(
        balanced_subset(train, config.train_rows),
        balanced_subset(validation, config.validation_rows),
        balanced_subset(test, config.test_rows),
        {"train": len(train), "validation": len(validation), "test": len(test)},
        tuple(sorted(set(file_formats.values()))),
        left_out,
    )


def read_files(
    sources: Iterable[str],
    left_out: LeftOut,
    tools: Sequence[Tool] = (),
    format: str = "auto",
    file_formats: dict[str, str] | None = None,
) -> list[Conversation]:
    """Return the rows of sources in any format, read and checked together. Their ids must differ. `left_out` is filled
    with the rows that are left out, `file_formats` with the format of each file.

    Raises:
        UserError: with every row that cannot be read, or every error of the check.
    """
    names = list(sources)
    rows = list(sound_rows(read_sources(names, tuple(tools), format, file_formats), left_out))
    if not rows:
        raise UserError(f"{', '.join(names)}: no rows")
    refuse_faults(rows)
    return rows


def split_validation(
    rows: Sequence[Conversation], share: float, group_by: str | None
) -> tuple[list[Conversation], list[Conversation]]:
    """Split rows into training and validation rows.

    Rows with the same value of `group_by` in their meta are one group. A row without a value is its own group.

    Raises:
        UserError: if the share is above 0 and one side is empty.
    """
    train: list[Conversation] = []
    validation: list[Conversation] = []
    for row in rows:
        position = _position(template_name(row, group_by) or row.content_hash())
        (validation if position < share else train).append(row)
    if rows and share > 0 and not (train and validation):
        empty = "training" if not train else "validation"
        raise UserError(
            f"data.validation: a share of {share} by data.group_by {group_by!r} leaves no {empty} rows of {len(rows)}; "
            "add rows, change the share, or set group_by: null"
        )
    return train, validation


def balanced_subset(rows: Sequence[Conversation], limit: int | None) -> list[Conversation]:
    """Return at most `limit` rows, in their own order, with the same share of each kind of row (by the tools it calls).
    They are evenly spaced among the rows sorted by kind and, within a kind, by content hash."""
    if limit is None or len(rows) <= limit:
        return list(rows)
    by_kind = sorted(rows, key=lambda row: (_kind(row), row.content_hash(), row.id))
    chosen = {by_kind[n * len(rows) // limit].id for n in range(limit)}
    return [row for row in rows if row.id in chosen]


def _kind(row: Conversation) -> tuple[str, ...]:
    return tuple(sorted(call.name for message in row.messages for call in message.tool_calls))


# The four sides of `toolhone data split`


@dataclass(frozen=True, slots=True)
class Shares:
    """The share of the groups for each side. Train gets the rest."""

    validation: float = 0.1
    calibration: float = 0.1
    test: float = 0.2

    def __post_init__(self) -> None:
        for name in SIDES[1:]:
            share = getattr(self, name)
            if not 0 <= share < 1:
                raise UserError(f"--{name}: expected a share from 0 to below 1, found {share}")
        if self.train <= 0:
            raise UserError(
                f"--validation {self.validation} --calibration {self.calibration} --test {self.test}: no rows are left "
                "to train on; make the shares smaller"
            )

    @property
    def train(self) -> float:
        return 1 - self.validation - self.calibration - self.test


@dataclass(frozen=True, slots=True)
class Sides:
    """The side of every row. `groups` is each row's group, as the index of the group's first row; `sides` is its side,
    as an index into `SIDES`; both are [rows]. Only test rows see the `kept_tools`."""

    groups: Indices
    sides: npt.NDArray[np.int8]
    kept_tools: tuple[str, ...]
    salt: str


def assign_sides(table: KeyTable, shares: Shares, *, unseen_tools: float = 0.0, salt: str = "") -> Sides:
    """Return the side of every row.

    A group's position in [0, 1) is the hash of the salt and its anchor. The anchor is the template of its first row, or
    else that row's conversation, or else its content. From 0 up, the ranges are test, calibration, validation, train.
    The salt "auto" tries 64 salts and takes the one that keeps the tools' shares best.

    Raises:
        UserError: if a side with a share above 0 gets no row.
    """
    groups = table.groups()
    if salt == "auto":
        candidates = (_assign(table, groups, shares, unseen_tools, f"auto-{n}") for n in range(_AUTO_SALTS))
        best = min(candidates, key=lambda one: _imbalance(table, one, shares))
    else:
        best = _assign(table, groups, shares, unseen_tools, salt)
    counts = np.bincount(best.sides, minlength=len(SIDES))
    for side, count in zip(SIDES, counts.tolist(), strict=True):
        if getattr(shares, side) > 0 and not count:
            raise UserError(
                f"--{side}: a share of {getattr(shares, side):.3g} gets no row of {table.rows} in "
                f"{len(np.unique(groups))} groups; add rows, give a larger share or 0, or try --salt auto"
            )
    return best


def kept_tools(names: Iterable[str], share: float, salt: str = "") -> tuple[str, ...]:
    """Return the tools that only the test side may see: a share of all tools, those with the lowest hashes.

    Their number is rounded, and is at least one if the share is above 0.

    Raises:
        UserError: if no other tool would be left.
    """
    ordered = sorted(set(names) - {NO_CALL}, key=lambda name: (key_of(f"{salt}\ntool\n{name}"), name))
    if not 0 <= share < 1:
        raise UserError(f"--unseen-tools: expected a share from 0 to below 1, found {share}")
    count = max(1, math.floor(share * len(ordered) + 0.5)) if share else 0
    if share and count >= len(ordered):
        raise UserError(f"--unseen-tools {share}: none of {len(ordered)} tools is left to train on; give 0")
    return tuple(sorted(ordered[:count]))


def share_bound(group_sizes: Sequence[int], doubt: float = 0.001, *, placed: int = 0) -> float:
    """Return a bound on how far the share of rows on a side may be off. It fails with probability `doubt` at most.

    Sides have no quota. Each group is an independent draw, so Hoeffding's inequality (1963, theorem 2) gives the bound.
    With groups of n_g rows that are drawn, and `placed` rows that go to a side whatever the draw, the bound is
    (sqrt(ln(2 / doubt) / 2 * sum(n_g ** 2)) + placed) / (sum(n_g) + placed), and at most 1.
    """
    sizes = np.asarray(group_sizes, dtype=np.float64)
    drawn = np.sqrt(math.log(2 / doubt) / 2 * np.square(sizes).sum())
    return min(1.0, float((drawn + placed) / (sizes.sum() + placed)))


def rows_by_tool(table: KeyTable, split: Sides) -> dict[str, tuple[list[int], float]]:
    """Return for each called tool (and `NO_CALL`) its rows on each side, in the order of `SIDES`, and the bound on how
    far their shares may be off (`share_bound`)."""
    counts = _calls_by_side(table, split.sides)
    tools, rows = map(np.asarray, table.calls)
    order = np.argsort(tools, kind="stable")
    calling = np.split(rows[order], np.cumsum(np.bincount(tools, minlength=len(table.tools)))[:-1])
    placed = _groups_calling(table, split.groups, split.kept_tools)
    found = {}
    for name, number in table.tools.items():
        if len(calling[number]):
            groups, sizes = np.unique(split.groups[calling[number]], return_counts=True)
            drawn = ~np.isin(groups, placed)
            bound = share_bound(sizes[drawn].tolist(), placed=int(sizes[~drawn].sum()))
            found[name] = (counts[number].tolist(), bound)
    return found


def _assign(table: KeyTable, groups: Indices, shares: Shares, unseen_tools: float, salt: str) -> Sides:
    anchors = np.asarray(table.columns["anchor"])[groups]
    order = np.array([SIDES.index(side) for side in ("test", "calibration", "validation", "train")], dtype=np.int8)
    ends = np.cumsum([shares.test, shares.calibration, shares.validation])
    sides = order[np.searchsorted(ends, _positions(anchors, salt), side="right")]
    kept = kept_tools(table.tools, unseen_tools, salt)
    sides[np.isin(groups, _groups_calling(table, groups, kept))] = SIDES.index("test")
    return Sides(groups, sides, kept, salt)


def _groups_calling(table: KeyTable, groups: Indices, names: Sequence[str]) -> Indices:
    """Return the groups in which a row calls one of the tools."""
    tools, rows = map(np.asarray, table.calls)
    calling: Indices = np.unique(groups[rows[np.isin(tools, [table.tools[name] for name in names])]])
    return calling


def _imbalance(table: KeyTable, split: Sides, shares: Shares) -> tuple[int, float]:
    """Return how often a tool is missing from a side that should have it, and the sum of the deviations from the shares
    in rows."""
    wanted = np.array([getattr(shares, side) for side in SIDES])
    learned = [number for name, number in table.tools.items() if name not in split.kept_tools]
    counts = _calls_by_side(table, split.sides)[learned]  # [tools, sides]
    expected = counts.sum(axis=1, keepdims=True) * wanted
    empty = (np.bincount(split.sides, minlength=len(SIDES)) == 0) & (wanted > 0)
    missing = ((counts == 0) & (expected >= 1)).sum() + empty.sum()
    return int(missing), float(np.abs(counts - expected).sum())


def _calls_by_side(table: KeyTable, sides: npt.NDArray[np.int8]) -> Indices:
    """Return how many rows of each side call each tool, [tools, sides]."""
    tools, rows = map(np.asarray, table.calls)
    flat = np.bincount(tools * len(SIDES) + sides[rows], minlength=len(table.tools) * len(SIDES))
    return flat.reshape(-1, len(SIDES)).astype(np.int64)


# Hashes from a group's name to [0, 1). There are two, and neither may change, because a change would move the rows of
# all existing splits. The second has a salt and hashes the keys of a million rows at once.


def _position(name: str) -> float:
    """Return the position of a group in `split_validation`, by SHA-256."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64


def _positions(keys: npt.NDArray[np.uint64], salt: str) -> npt.NDArray[np.float64]:
    """Return the positions of groups in `assign_sides`: the finalizer of SplitMix64 (Steele and others 2014) of their
    anchors' keys and the salt's key."""
    mixed = keys + np.uint64(key_of(f"{salt}\nside"))
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return (mixed >> np.uint64(11)).astype(np.float64) / 2**53
