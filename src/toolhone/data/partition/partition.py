"""Which side a row falls on: keys of rows go in, one of train, validation, calibration and test each comes out.

Rows are tied into groups that stay whole: the same messages or user's words, near duplicates of the user's words, one
template, one conversation. A group's side depends on its anchor and the salt alone: the anchor's hash, a number in
[0, 1), falls into the range of test, calibration, validation or train, in this order from 0. The anchor is the template
of the group's first row, or else its conversation's id, or else its content.

What moves when rows are added:
- Rows added at the end (of the last file, or in files named after the others) move no old row, but where a new row ties
  two groups together: the group whose first row is the later one then follows the other.
- Rows put in front of others, and files in another order, move a group where it gets another first row with another
  anchor: a group of one template, or of one conversation, never.
- With `unseen_tools`, a row that calls a kept tool takes its group to the test side. A tool that was not there before
  can become one of those kept, or take the place of one.
- Another salt or `group_by` moves what it likes. A larger `test` share keeps all rows of a smaller one.
Row counts and other rows' sides do not count: there is no quota.

That is also what bounds the shares. Of the rows that call a tool, the share on a side is an independent draw for each
group; by Hoeffding's inequality (1963, theorem 2) it is further off than `share_bound` in fewer than one case in a
thousand, a case being one tool on one side. Groups that a kept tool takes to the test side are no draws: they count in
full.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from toolhone.data.identity import NOTHING, called_tools, key_of, row_keys, user_words
from toolhone.data.near import near_duplicates
from toolhone.errors import UserError
from toolhone.records import Conversation

Side = Literal["train", "validation", "calibration", "test"]
SIDES: tuple[Side, ...] = ("train", "validation", "calibration", "test")

NO_CALL = "(no call)"
NEAR_ROWS = 200_000
"""Up to how many rows near duplicates are looked for: the texts are held in memory, and time can grow with the square
of the rows that are alike."""

_AUTO_SALTS = 64
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Shares:
    """The share of the groups that each side is to get; train gets the rest."""

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
                f"--validation {self.validation} --calibration {self.calibration} --test {self.test}: together they "
                "leave nothing to train on; make them smaller"
            )

    @property
    def train(self) -> float:
        return 1 - self.validation - self.calibration - self.test

    def bounds(self) -> list[tuple[Side, float]]:
        """Each side with where its range in [0, 1) ends."""
        ends = np.cumsum([self.test, self.calibration, self.validation]).tolist()
        return [("test", ends[0]), ("calibration", ends[1]), ("validation", ends[2]), ("train", 1.0)]


@dataclass(slots=True)
class Ledger:
    """What is remembered of each row: some 60 bytes of hashes, and the user's words while there are `near_rows` or
    fewer."""

    group_by: str | None = "template"
    near_rows: int = NEAR_ROWS
    rows: int = 0
    columns: dict[str, array[int]] = field(
        default_factory=lambda: {name: array("Q") for name in ("messages", "words", "template", "stem", "anchor")}
    )
    prefixes: tuple[array[int], array[int]] = field(default_factory=lambda: (array("Q"), array("q")))  # keys, rows
    calls: tuple[array[int], array[int]] = field(default_factory=lambda: (array("q"), array("q")))  # tools, rows
    tools: dict[str, int] = field(default_factory=lambda: {NO_CALL: 0})  # names called or offered, in order of coming
    words: dict[str, int] = field(default_factory=dict)  # the user's words -> the first row that has them

    def add(self, row: Conversation) -> None:
        """Remember a row."""
        keys = row_keys(row, self.group_by)
        for name in ("messages", "words", "template", "stem"):
            self.columns[name].append(getattr(keys, name))
        self.columns["anchor"].append(keys.template or keys.stem or keys.content)
        for prefix in keys.prefixes:
            self.prefixes[0].append(prefix)
            self.prefixes[1].append(self.rows)
        for tool in row.tools:
            self.tools.setdefault(tool.name, len(self.tools))
        for name in called_tools(row) or (NO_CALL,):
            self.calls[0].append(self.tools.setdefault(name, len(self.tools)))
            self.calls[1].append(self.rows)
        if self.rows < self.near_rows:
            if keys.words != NOTHING:
                self.words.setdefault(user_words(row), self.rows)
        else:
            self.words.clear()
        self.rows += 1

    @property
    def looks_for_near(self) -> bool:
        return self.rows <= self.near_rows


@dataclass(frozen=True, slots=True)
class Partition:
    """`roots` is each row's group, named by the group's first row; `sides` its side, as an index into `SIDES`; both
    [rows]. `kept_tools` are those that only test rows see."""

    roots: Indices
    sides: npt.NDArray[np.int8]
    kept_tools: tuple[str, ...]
    salt: str


def partition(ledger: Ledger, shares: Shares, *, unseen_tools: float = 0.0, salt: str = "") -> Partition:
    """Put every row on a side. The salt "auto" stands for that of 64 which keeps the tools' shares best.

    Raises:
        UserError: where a side with a share gets no row.
    """
    roots = tie(ledger)
    if salt == "auto":
        candidates = [f"auto-{n}" for n in range(_AUTO_SALTS)]
        made = [_partition(ledger, roots, shares, unseen_tools, salt) for salt in candidates]
        best = min(made, key=lambda one: _miss(ledger, one, shares))
    else:
        best = _partition(ledger, roots, shares, unseen_tools, salt)
    counts = np.bincount(best.sides, minlength=len(SIDES))
    for side, count in zip(SIDES, counts.tolist(), strict=True):
        if getattr(shares, side) > 0 and not count:
            raise UserError(
                f"--{side}: a share of {getattr(shares, side):.3g} gets no row of {ledger.rows} in "
                f"{len(np.unique(roots))} groups; give more rows, a larger share or 0, or --salt auto"
            )
    return best


def tie(ledger: Ledger) -> Indices:
    """The group of each row, named by the group's first row, [rows]."""
    columns = {name: np.asarray(values) for name, values in ledger.columns.items()}
    edges = [_equal(columns[name]) for name in ("messages", "words", "template", "stem")]
    edges.append(_growing(columns["messages"], *ledger.prefixes))
    roots = _components(edges, ledger.rows)
    if ledger.looks_for_near and len(ledger.words) > 1:
        firsts = np.fromiter(ledger.words.values(), dtype=np.int64, count=len(ledger.words))
        pairs = near_duplicates(list(ledger.words), linked=roots[firsts].tolist())
        near = np.array([(one, other) for one, other, _ in pairs], dtype=np.int64).reshape(-1, 2)
        roots = _components([*edges, (firsts[near[:, 0]], firsts[near[:, 1]])], ledger.rows)
    return roots


def kept_tools(names: Iterable[str], share: float, salt: str = "") -> tuple[str, ...]:
    """The tools that only the test side may see: those with the lowest hashes, to the nearest whole number and at
    least one where a share is asked for.

    Raises:
        UserError: where no other tool would be left.
    """
    ordered = sorted(set(names) - {NO_CALL}, key=lambda name: (key_of(f"{salt}\ntool\n{name}"), name))
    if not 0 <= share < 1:
        raise UserError(f"--unseen-tools: expected a share from 0 to below 1, found {share}")
    count = max(1, math.floor(share * len(ordered) + 0.5)) if share else 0
    if share and count >= len(ordered):
        raise UserError(f"--unseen-tools {share}: would leave none of {len(ordered)} tools to train on; give 0")
    return tuple(sorted(ordered[:count]))


def share_bound(group_sizes: Sequence[int], doubt: float = 0.001, *, placed: int = 0) -> float:
    """How far the share of rows on a side may be off but for `doubt` of all cases, by Hoeffding's inequality.

    With groups of n_g rows that are dealt, and `placed` rows that are put on a side whatever the draw:
    (sqrt(ln(2 / doubt) / 2 * sum(n_g ** 2)) + placed) / (sum(n_g) + placed), and 1 at most.
    """
    sizes = np.asarray(group_sizes, dtype=np.float64)
    dealt = np.sqrt(math.log(2 / doubt) / 2 * np.square(sizes).sum())
    return min(1.0, float((dealt + placed) / (sizes.sum() + placed)))


def rows_by_tool(ledger: Ledger, parted: Partition) -> dict[str, tuple[list[int], float]]:
    """For each tool that is called (and `NO_CALL`) how many rows call it on each side, in the order of `SIDES`, and how
    far their shares may be off."""
    counts = _counts(ledger, parted.sides)
    tools, rows = map(np.asarray, ledger.calls)
    order = np.argsort(tools, kind="stable")
    calling = np.split(rows[order], np.cumsum(np.bincount(tools, minlength=len(ledger.tools)))[:-1])
    placed = _roots_calling(ledger, parted.roots, parted.kept_tools)
    found = {}
    for name, number in ledger.tools.items():
        if len(calling[number]):
            groups, sizes = np.unique(parted.roots[calling[number]], return_counts=True)
            dealt = ~np.isin(groups, placed)
            bound = share_bound(sizes[dealt].tolist(), placed=int(sizes[~dealt].sum()))
            found[name] = (counts[number].tolist(), bound)
    return found


def _partition(ledger: Ledger, roots: Indices, shares: Shares, unseen_tools: float, salt: str) -> Partition:
    anchors = np.asarray(ledger.columns["anchor"])[roots]
    ends = np.array([end for _, end in shares.bounds()[:-1]])
    order = np.array([SIDES.index(side) for side, _ in shares.bounds()], dtype=np.int8)
    sides = order[np.searchsorted(ends, _unit(anchors, salt), side="right")]
    kept = kept_tools(ledger.tools, unseen_tools, salt)
    sides[np.isin(roots, _roots_calling(ledger, roots, kept))] = SIDES.index("test")
    return Partition(roots, sides, kept, salt)


def _roots_calling(ledger: Ledger, roots: Indices, names: Sequence[str]) -> Indices:
    """The groups in which a row calls one of the tools."""
    tools, rows = map(np.asarray, ledger.calls)
    calling: Indices = np.unique(roots[rows[np.isin(tools, [ledger.tools[name] for name in names])]])
    return calling


def _miss(ledger: Ledger, parted: Partition, shares: Shares) -> tuple[int, float]:
    """How often a tool that could be on a side is not there, and how many rows are not where the shares want them."""
    wanted = np.array([getattr(shares, side) for side in SIDES])
    learned = [number for name, number in ledger.tools.items() if name not in parted.kept_tools]
    counts = _counts(ledger, parted.sides)[learned]  # [tools, sides]
    expected = counts.sum(axis=1, keepdims=True) * wanted
    lacking = ((counts == 0) & (expected >= 1)).sum() + (
        (np.bincount(parted.sides, minlength=4) == 0) & (wanted > 0)
    ).sum()
    return int(lacking), float(np.abs(counts - expected).sum())


def _counts(ledger: Ledger, sides: npt.NDArray[np.int8]) -> Indices:
    """How many rows of each side call each tool, [tools, sides]."""
    tools, rows = map(np.asarray, ledger.calls)
    flat = np.bincount(tools * len(SIDES) + sides[rows], minlength=len(ledger.tools) * len(SIDES))
    return flat.reshape(-1, len(SIDES)).astype(np.int64)


def _unit(keys: npt.NDArray[np.uint64], salt: str) -> npt.NDArray[np.float64]:
    """Numbers in [0, 1) that depend on the keys and the salt alone: the finalizer of SplitMix64 (Steele and others
    2014) over both."""
    mixed = keys + np.uint64(key_of(f"{salt}\nside"))
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return (mixed >> np.uint64(11)).astype(np.float64) / 2**53


def _equal(keys: npt.NDArray[np.uint64]) -> tuple[Indices, Indices]:
    """Pairs of rows that chain up those with the same key, `NOTHING` left out."""
    order = np.argsort(keys, kind="stable")
    sorted_keys = keys[order]
    same = (sorted_keys[1:] == sorted_keys[:-1]) & (sorted_keys[1:] != NOTHING)
    return order[:-1][same], order[1:][same]


def _growing(messages: npt.NDArray[np.uint64], prefixes: array[int], owners: array[int]) -> tuple[Indices, Indices]:
    """Pairs of rows of which one's messages are the beginning of the other's."""
    beginnings, rows = np.asarray(prefixes), np.asarray(owners)
    whole, first = np.unique(messages, return_index=True)
    place = np.minimum(np.searchsorted(whole, beginnings), len(whole) - 1)
    found = whole[place] == beginnings if len(whole) else np.zeros(0, dtype=bool)
    return first[place[found]], rows[found]


def _components(edges: Sequence[tuple[Indices, Indices]], rows: int) -> Indices:
    """The first row of each row's connected component, [rows]."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    one, other = (np.concatenate(part) for part in zip(*edges, strict=True))
    graph = coo_array((np.ones(len(one), dtype=bool), (one, other)), shape=(rows, rows))
    _, labels = connected_components(graph, directed=False)
    _, firsts = np.unique(labels, return_index=True)
    roots: Indices = firsts[labels].astype(np.int64)
    return roots
