"""A doubt about the gold of a turn: the record, its file, and how doubts are ranked.

In a file of doubts, one line is one turn with which a model disagrees, the most doubtful first.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from toolhone.errors import UserError
from toolhone.jsonl import read_jsonl, write_jsonl
from toolhone.records import ToolCall

Place = Literal["call or text", "tool", "value", "call", "end of turn", "answer"]
"""Where a model disagrees. "call": any other token of a call, such as an argument's name or what opens a further call.
"answer": an answer as a whole, if a model's own answer was compared with the gold."""

Unit = Literal["nats", "probability"]

_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Doubt:
    """How much a model doubts the gold of a turn.

    Attributes:
        id, where: those of the example; `turn` is the index of the turn in its conversation.
        doubt: in `unit`. None if the answer has no log-probabilities.
        says: what the model says instead of `expected`, as far as one token shows, and with which `probability`.
    """

    id: str
    where: str
    turn: int
    doubt: float | None
    unit: Unit
    place: Place
    expected: str
    says: str
    probability: float | None

    def __str__(self) -> str:
        sure = "" if self.probability is None else f" with {self.probability:.2f}"
        return f"expected {self.expected}, the model says {self.says}{sure}"

    def to_json(self, rank: int) -> dict[str, Any]:
        row = {"rank": rank, **asdict(self)}
        return row | {name: None if row[name] is None else round(row[name], 6) for name in ("doubt", "probability")}


def write_doubts(path: Path, ranked: Sequence[Doubt]) -> None:
    """Write one line for each doubt, the greatest first."""
    write_jsonl(path, (doubt.to_json(rank) for rank, doubt in enumerate(ranked, 1)))


def read_doubts(path: Path) -> dict[str, Doubt]:
    """Return the doubts of a file by example id, in the order of their ranks.

    Raises:
        UserError: if a line is not a doubt.
    """
    found: list[tuple[int, Doubt]] = []
    for where, row in read_jsonl(path):
        try:
            rank = int(row.pop("rank"))
            found.append((rank, Doubt(**row)))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{where}: not a doubt ({error}); `toolhone data doubt` writes such files") from None
    return {doubt.id: doubt for _, doubt in sorted(found, key=lambda pair: pair[0])}


def ranked(doubts: Sequence[Doubt]) -> list[Doubt]:
    """Return the doubts with the greatest first. Those without a size come last."""
    return sorted(doubts, key=lambda one: (one.doubt is None, -(one.doubt or 0.0), one.id))


def calls_text(calls: Sequence[ToolCall]) -> str:
    """Return calls on one line, such as `query_order({"order_id": "7"})`."""
    return "; ".join(f"{call.name}({json.dumps(call.arguments, ensure_ascii=False)})" for call in calls)


def shortened(text: str) -> str:
    """Return the text on one line, cut to 60 characters."""
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN - 1]}…"
