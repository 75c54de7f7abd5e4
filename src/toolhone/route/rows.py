"""The rows that routing is measured on: both models' answers to the same turns, scored, with the small one's signals.

In: the small model's predictions, with tokens, the large one's if there are any, and the rows with their gold. Out: a
`Row` for each turn, their split into calibration and held-out rows, and whose answers the gold is.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

from toolhone.data.escalation import ESCALATE
from toolhone.data.groups import KeyTable
from toolhone.data.read import turns
from toolhone.data.split import SIDES, Shares, assign_sides
from toolhone.errors import UserError
from toolhone.evaluate.compare import clusterings
from toolhone.evaluate.match import score
from toolhone.evaluate.policy import STRICT
from toolhone.evaluate.score import RowsToScore
from toolhone.records import Conversation, FormatName, Score
from toolhone.route.confidence import Signals, signals

_SALT = "route"


@dataclass(frozen=True, slots=True)
class Row:
    """A turn that the small model answered, and the large one if its predictions are given."""

    signals: Signals
    small: Score
    large: Score | None

    @property
    def gold_escalates(self) -> bool:
        """Whether gold is the reserved call: then escalating is right, and no answer of the small model's own is."""
        return any(call.name == ESCALATE for call in self.small.gold.calls)

    @property
    def small_right(self) -> bool:
        return self.small.exact and not self.gold_escalates

    @property
    def large_right(self) -> bool:
        return self.gold_escalates or (self.large is not None and self.large.exact)


@dataclass(frozen=True, slots=True)
class RowSplit:
    """The calibration rows and the held-out rows, and how they were split, in words."""

    calibration: tuple[Row, ...]
    held_out: tuple[Row, ...]
    how: str


def read_rows(
    conversations: Sequence[Conversation], named: str, small: Path, large: Path | None, format: FormatName
) -> tuple[list[Row], dict[str, str]]:
    """Score both models' answers. Returns the rows, and the ids of those that cannot be scored, each with the reason.

    Raises:
        UserError: if predictions are not of these rows, or the small model's have no log-probabilities.
    """
    asked = RowsToScore(turns(conversations), STRICT, named)
    answers, refused = asked.read_answers(small, tokens=True)
    large_answers, large_refused = ({}, {}) if large is None else asked.read_answers(large)
    left_out = {**asked.quarantined, **{id_: f"refused: {why}" for id_, why in {**refused, **large_refused}.items()}}
    rows = [
        Row(
            signals(answers[id_], example, format),
            score(example, answers[id_], format),
            score(example, large_answers[id_], format) if large is not None else None,
        )
        for id_, example in asked.examples.items()
        if id_ not in left_out
    ]
    if not rows:
        raise UserError(f"{named}: no assistant turn that can be scored in {len(conversations)} rows")
    bare = [row.small.id for row in rows if row.signals.keepable and row.signals.features is None]
    if bare:
        raise UserError(
            f"{small}: {len(bare)} of {len(rows)} answers have no log-probabilities (first: {bare[0]}), and a "
            "confidence is made of them; predict with an endpoint that gives them, without --no-logprobs"
        )
    return rows, left_out


def split_rows(conversations: Sequence[Conversation], rows: Sequence[Row], share: float, named: str) -> RowSplit:
    """Split the rows by whole groups: one template, one conversation, near duplicates of the user's words. A group's
    side depends on its name alone, so that rows added later move none.

    Args:
        share: fraction of the groups that calibrates.

    Raises:
        UserError: if a side stays empty.
    """
    table = KeyTable()
    for conversation in conversations:
        table.add(conversation)
    try:
        sides = assign_sides(table, Shares(validation=0, calibration=share, test=0), salt=_SALT).sides
    except UserError:
        raise UserError(
            f"{named}: {len(conversations)} rows are too few groups to split in two; give more, or the rows that "
            "calibrate with --calibration"
        ) from None
    chosen = {
        conversation.id
        for conversation, side in zip(conversations, sides.tolist(), strict=True)
        if SIDES[side] == "calibration"
    }
    calibration = tuple(row for row in rows if row.small.conversation_id in chosen)
    held_out = tuple(row for row in rows if row.small.conversation_id not in chosen)
    if not held_out or not calibration:
        raise UserError(f"{named}: too few rows to split in two ({len(rows)}); give more, or --calibration")
    return RowSplit(calibration, held_out, "split by whole templates and conversations")


def clusters_of(rows: Sequence[Row]) -> tuple[str, list[Hashable]]:
    """Return the coarsest kind of cluster that the rows have, and the cluster of each row."""
    return clusterings([row.small for row in rows])[-1]


@dataclass(frozen=True, slots=True)
class GoldOrigin:
    """The models whose answers are gold (none: people's or made data). `is_large`: the large model is one of them, and
    so right by construction."""

    models: tuple[str, ...]
    rows: int
    is_large: bool


def gold_origin(rows: Sequence[Row]) -> GoldOrigin:
    """Compare the rows' `gold_source` with the names of the large model's predictions."""
    sources = [row.small.gold_source for row in rows if row.small.gold_source is not None]
    large = {row.large.model for row in rows if row.large is not None}
    same = any(_same_model(source, name) for source in set(sources) for name in large)
    return GoldOrigin(tuple(sorted(set(sources))), len(sources), same)


def _same_model(one: str, other: str) -> bool:
    """Whether two names may be one model's: equal, or one with a maker in front or a date at the end. Case and
    separators do not count: "openai/GPT-4o" and "openai-gpt-4o" are one."""
    plain = [re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-") for name in (one, other)]
    short, long = sorted(plain, key=len)
    dated = re.fullmatch(re.escape(short) + r"-(\d{4}-\d{2}-\d{2}|\d{4,8}|latest)", long) is not None
    return short == long or dated or long.endswith(f"-{short}")
