"""The rows that routing is measured on: both models' answers to the same turns, judged, with the small one's signals.

In: predictions of the small model, with tokens, of the large one where there are any, and the rows with their gold.
Out: a `Row` for each turn, and the two parts of them: one calibrates, the other is held out.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

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
from toolhone.route.confidence import FEATURES, Signals, signals
from toolhone.route.resample import Floats

_SALT = "route"


@dataclass(frozen=True, slots=True)
class Row:
    """A turn that the small model answered, and the large one where it did."""

    signals: Signals
    small: Score
    large: Score | None

    @property
    def keepable(self) -> bool:
        """Whether the small answer can be kept at all: no gate, and no call of `escalate`."""
        return self.signals.gate is None and not self.signals.escalated

    @property
    def asks_to_hand_over(self) -> bool:
        """Whether gold is the reserved call: then no answer of the small model's own is right."""
        return any(call.name == ESCALATE for call in self.small.gold.calls)

    @property
    def small_right(self) -> bool:
        return self.small.exact and not self.asks_to_hand_over

    @property
    def large_right(self) -> bool:
        """Handing over is all that gold asks for where it is the reserved call."""
        return self.asks_to_hand_over or (self.large is not None and self.large.exact)


@dataclass(frozen=True, slots=True)
class Parts:
    """Rows that calibrate and rows held out, and how they came apart, in words."""

    calibration: tuple[Row, ...]
    held_out: tuple[Row, ...]
    how: str


def read_rows(
    conversations: Sequence[Conversation], named: str, small: Path, large: Path | None, format: FormatName
) -> tuple[list[Row], dict[str, str]]:
    """Judge both models' answers to the rows, and name the rows that cannot be judged, each with the reason.

    Raises:
        UserError: where predictions are not of these rows, or the small model's have no log-probabilities.
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
        raise UserError(f"{named}: no assistant turn that can be judged in {len(conversations)} rows")
    bare = [row.small.id for row in rows if row.keepable and row.signals.features is None]
    if bare:
        raise UserError(
            f"{small}: {len(bare)} of {len(rows)} answers have no log-probabilities (first: {bare[0]}), and a "
            "confidence is made of them; predict with an endpoint that gives them, without --no-logprobs"
        )
    return rows, left_out


def split_rows(conversations: Sequence[Conversation], rows: Sequence[Row], share: float, named: str) -> Parts:
    """Part the rows by whole groups: one template, one conversation, near duplicates of the user's words. A group's
    side depends on its name alone (see `data/split.py`), so that rows added later move none.

    Args:
        share: of the groups, the part that calibrates.

    Raises:
        UserError: where a side stays empty.
    """
    table = KeyTable()
    for conversation in conversations:
        table.add(conversation)
    try:
        sides = assign_sides(table, Shares(validation=0, calibration=share, test=0), salt=_SALT).sides
    except UserError:
        raise UserError(
            f"{named}: {len(conversations)} rows are too few groups to part in two; give more, or the rows that "
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
        raise UserError(f"{named}: too few rows to part in two ({len(rows)}); give more, or --calibration")
    return Parts(calibration, held_out, "parted by whole templates and conversations")


def features_of(rows: Sequence[Row]) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """The features, [rows, features], 0 where a row has none, and which rows can be kept at all, [rows]."""
    none = (0.0,) * len(FEATURES)
    values = np.array([row.signals.features or none for row in rows], dtype=np.float64).reshape(len(rows), -1)
    return values, np.array([row.keepable for row in rows], dtype=bool)


def clusters_of(rows: Sequence[Row]) -> tuple[str, list[Hashable]]:
    """What each row belongs to, of the coarsest kind that there is, and the kind's name."""
    return clusterings([row.small for row in rows])[-1]
