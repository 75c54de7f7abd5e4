"""Leakage: find the rows of a file that are known from the training rows, with the places of the nearest pairs.

A row can be known in five ways, which are counted separately: the same row; the same prompt (all before the last
assistant turn), even with another gold; nearly the same user's words; the same template; the same conversation.

Template ids are only unique within a file: "order-en-01" of one file is not "order-en-01" of another. So the same id
means the same template only with evidence: a training row and another row with that id have similar words once
arguments, codes and numbers are masked, or paraphrase the same row. Then all rows with that id count. Rows that share
only the id are counted separately. Values of another meta key (`group_by`) need no evidence.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, NamedTuple

from toolhone.data.groups import NOTHING, RowKeys, nearest, row_keys, user_words, wording
from toolhone.errors import UserError
from toolhone.records import Conversation

Kind = Literal["row", "prompt", "words", "template", "conversation"]
KINDS: Mapping[Kind, str] = {
    "row": "the same messages and tools",
    "prompt": "the same prompt",
    "words": "nearly the same words of the user",
    "template": "the same template",
    "conversation": "the same conversation",
}

_BATCH = 20_000
_SHOWN = 5
_SAME_TEMPLATE = 0.5
"""From this Jaccard index of two masked wordings, an id means the same template. `data generate` keeps the phrasings of
two outputs below it."""


class Pair(NamedTuple):
    """A row that is known from training: its place, the place of the training row, and their similarity, which is 1.0
    except for near words."""

    where: str
    train_where: str
    similarity: float


@dataclass(frozen=True, slots=True)
class Leakage:
    """The leakage between two files. `pairs` has for each kind one pair per known row, the nearest first. `known`
    counts the rows known in any way. `same_id_alone` counts rows that share only a template's id: they are not
    known."""

    rows: int
    known: int
    pairs: Mapping[Kind, tuple[Pair, ...]]
    same_id_alone: int = 0

    @property
    def share(self) -> float:
        return self.known / self.rows if self.rows else 0.0

    def to_json(self) -> dict[str, object]:
        kinds = {
            kind: {
                "rows": len(pairs),
                "nearest": [
                    {"row": p.where, "train_row": p.train_where, "similarity": round(p.similarity, 4)}
                    for p in pairs[:_SHOWN]
                ],
            }
            for kind, pairs in self.pairs.items()
        }
        return {"rows": self.rows, "known": self.known, "kinds": kinds, "same_id_alone": self.same_id_alone}

    def __str__(self) -> str:
        lines = [f"{self.known} of {self.rows} rows ({self.share:.1%}) are known from training"]
        for kind, pairs in self.pairs.items():
            if pairs:
                lines.append(f"  {len(pairs)} with {KINDS[kind]}:")
            for pair in pairs[:_SHOWN]:
                score = f" ({pair.similarity:.2f})" if kind == "words" else ""
                lines.append(f"    {pair.where} and {pair.train_where}{score}")
            if len(pairs) > _SHOWN:
                lines.append(f"    ... and {len(pairs) - _SHOWN} more")
        if self.same_id_alone:
            lines.append(f"  not counted: {self.same_id_alone} that share only a template's id and have other words")
        return "\n".join(lines)


def measure_leakage(
    train_rows: Iterable[Conversation],
    other_rows: Iterable[Conversation],
    *,
    allow: bool = True,
    group_by: str | None = "template",
) -> Leakage:
    """Return which of the other rows are known from the training rows.

    The keys and the user's words of the other rows stay in memory; training rows do not.

    Raises:
        UserError: with the counts and the nearest pairs, if any row is known and `allow` is false.
    """
    others = _Others(other_rows, group_by)
    training = iter(train_rows)
    while batch := list(islice(training, _BATCH)):
        others.compare(batch)
    pairs: dict[Kind, tuple[Pair, ...]] = {
        kind: tuple(
            Pair(others.places[n], train_where, similarity)
            for n, (similarity, train_where) in sorted(found.items(), key=lambda item: (-item[1][0], item[0]))
        )
        for kind, found in others.known.items()
    }
    known = set[int]().union(*others.known.values())
    found = Leakage(len(others.places), len(known), pairs, others.same_id_alone())
    if found.known and not allow:
        first = next(pairs[0] for pairs in found.pairs.values() if pairs)
        raise UserError(
            f"{first.where}: leakage: {found}\n"
            "scores on these rows say little about new requests; remove them from one of the files, or give "
            "--allow-leakage and say so wherever you report the scores"
        )
    return found


def refuse_shared_rows(train_rows: Sequence[Conversation], test_rows: Sequence[Conversation]) -> None:
    """Refuse test rows that are also training rows. Only this kind of leakage is cheap enough to check in every run.

    Raises:
        UserError: with both places of the first such row.
    """
    places = {row.content_hash(): row.where for row in train_rows}
    shared = [(row.where, places[row.content_hash()]) for row in test_rows if row.content_hash() in places]
    if shared:
        test_place, train_place = shared[0]
        raise UserError(
            f"{test_place}: the test row is also a training row at {train_place} ({len(shared)} such rows); "
            "remove it from one of the files"
        )


class _Others:
    """The rows that may be known, by their keys. `known` maps, for each kind, the number of a known row to the
    similarity and the place of the nearest training row."""

    def __init__(self, rows: Iterable[Conversation], group_by: str | None) -> None:
        self.group_by = group_by
        self.places: list[str] = []
        self.words: list[str] = []
        self.by_key: dict[Kind, dict[int, list[int]]] = {kind: {} for kind in KINDS}
        self.by_prefix: dict[int, list[int]] = {}
        self.wordings: list[tuple[str, frozenset[str]]] = []  # with the ids of the row and of what it paraphrases
        self.template_ids: dict[int, bool] = {}  # id that training rows also have -> whether it is the same template
        self.known: dict[Kind, dict[int, tuple[float, str]]] = {kind: {} for kind in KINDS}
        for number, row in enumerate(rows):
            keys = row_keys(row, group_by)
            self.places.append(row.where)
            self.words.append(user_words(row))
            if group_by == "template":
                self.wordings.append((wording(row) if keys.template != NOTHING else "", _origin(row)))
            for kind, key in _keys_by_kind(keys):
                self.by_key[kind].setdefault(key, []).append(number)
            for prefix in keys.prefixes:
                self.by_prefix.setdefault(prefix, []).append(number)

    def compare(self, train: list[Conversation]) -> None:
        """Record which of these rows are known from a batch of training rows."""
        shared: dict[int, list[Conversation]] = {}
        for row in train:
            keys = row_keys(row, self.group_by)
            for kind, key in _keys_by_kind(keys):
                if kind == "template" and self.group_by == "template":
                    if key in self.by_key[kind] and not self.template_ids.get(key):
                        shared.setdefault(key, []).append(row)
                else:
                    self._note(kind, self.by_key[kind].get(key, ()), row.where)
            # One row may be the beginning of the other, in either direction.
            self._note("conversation", self.by_prefix.get(keys.messages, ()), row.where)
            for prefix in keys.prefixes:
                self._note("conversation", self.by_key["conversation"].get(prefix, ()), row.where)
        for key, rows in shared.items():
            place = self._same_template(rows, self.by_key["template"][key])
            self.template_ids[key] = place is not None
            if place is not None:
                self._note("template", self.by_key["template"][key], place)
        words = [(text, row.where) for row in train if (text := user_words(row))]
        with_words = [n for n, text in enumerate(self.words) if text]
        near = nearest([text for text, _ in words], [self.words[n] for n in with_words])
        for n, found in zip(with_words, near, strict=True):
            if found is not None:
                self._note("words", (n,), words[found[0]][1], found[1])

    def same_id_alone(self) -> int:
        """Return how many rows have a template id that means another template in the training rows."""
        return sum(len(self.by_key["template"][key]) for key, same in self.template_ids.items() if not same)

    def _same_template(self, train: list[Conversation], numbers: list[int]) -> str | None:
        """Return the place of a training row that shows that the id of all these rows means one template, or None."""
        origins = frozenset[str]().union(*(self.wordings[n][1] for n in numbers))
        for row in train:
            if origins & _origin(row):
                return row.where
        found = nearest([wording(row) for row in train], [self.wordings[n][0] for n in numbers], _SAME_TEMPLATE)
        return next((train[near[0]].where for near in found if near is not None), None)

    def _note(self, kind: Kind, numbers: Iterable[int], train_where: str, similarity: float = 1.0) -> None:
        for number in numbers:
            if similarity > self.known[kind].get(number, (0.0, ""))[0]:
                self.known[kind][number] = (similarity, train_where)


def _origin(row: Conversation) -> frozenset[str]:
    """Return the ids of a row and of the row that it paraphrases."""
    return frozenset({row.id, str(row.meta.get("paraphrase_of", row.id))})


def _keys_by_kind(keys: RowKeys) -> Iterator[tuple[Kind, int]]:
    """Yield the kinds of leakage and the key that two rows must share for each. Near words have no key."""
    found: tuple[tuple[Kind, int], ...] = (
        ("row", keys.content),
        ("prompt", keys.prompt),
        ("template", keys.template),
        ("conversation", keys.stem),
        ("conversation", keys.messages),
    )
    return ((kind, key) for kind, key in found if key != NOTHING)
