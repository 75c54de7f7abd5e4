"""A judged prediction: the noun that judging makes, and that figures, reports and routing take.

Frozen, like the nouns in `records.py`; `to_json` gives the dictionary that stands on a line of `scores/<model>.jsonl`,
as in `tests/fixtures/contracts/score.jsonl`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from toolhone.records import FinishReason, Gold, Repair, Status, ToolCall

ArgumentFault = Literal["missing", "invented", "wrong"]


@dataclass(frozen=True, slots=True)
class ArgumentError:
    """One argument that is not right. `found` is absent ("missing") or `expected` is ("invented")."""

    call: str
    argument: str
    fault: ArgumentFault
    expected: list[Any]
    found: Any


@dataclass(frozen=True, slots=True)
class CallMatch:
    """A gold call and the predicted call that it was matched with, as indices into either's calls."""

    gold: int
    predicted: int
    arguments_right: int
    errors: tuple[ArgumentError, ...]

    @property
    def right(self) -> bool:
        return not self.errors

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> CallMatch:
        return cls(**{**row, "errors": tuple(ArgumentError(**error) for error in row["errors"])})


@dataclass(frozen=True, slots=True)
class Repaired:
    """How a text that strict reading found a fault in was read with repairs, and judged. `repairs` counts those that
    fired; where none did, the rest is as in the strict reading."""

    repairs: dict[Repair, int]
    status: Status
    names_right: bool
    exact: bool


@dataclass(frozen=True, slots=True)
class Score:
    """A judged prediction, with all that a report shows of it, so that neither model nor data need be at hand.

    `matches` pairs gold calls with predicted calls of the same name; `missing_calls` and `extra_calls` are the indices
    left over. `tools` are the names that were offered. `schema_valid` is None where nothing was called. `rules` names
    every leniency that fired. `question` is the last message before the turn. All but `repaired` is of the strict
    reading; `repaired` is None where that found no fault, and in files that were written before repairs were recorded.
    """

    id: str
    conversation_id: str
    model: str
    status: Status
    failure: str | None
    calls: tuple[ToolCall, ...]
    gold: Gold
    tools: tuple[str, ...]
    matches: tuple[CallMatch, ...]
    missing_calls: tuple[int, ...]
    extra_calls: tuple[int, ...]
    names_right: bool
    exact: bool
    schema_valid: bool | None
    rules: tuple[str, ...]
    question: str
    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    latency_ms: float
    gold_source: str | None
    meta: dict[str, Any]
    repaired: Repaired | None = None

    def to_json(self) -> dict[str, Any]:
        """All fields. A call has its arguments as a JSON object, and no id: a model's text gives none."""
        row = {column.name: getattr(self, column.name) for column in fields(self)}
        row |= {key: list(row[key]) for key in _SCORE_LISTS}
        row["calls"] = [{"name": call.name, "arguments": call.arguments} for call in self.calls]
        row["gold"] = self.gold.to_json()
        row["matches"] = [{**asdict(match), "errors": [asdict(e) for e in match.errors]} for match in self.matches]
        row["repaired"] = None if self.repaired is None else asdict(self.repaired)
        return row

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Score:
        read: dict[str, Any] = {key: tuple(row[key]) for key in _SCORE_LISTS}
        read["calls"] = tuple(ToolCall(call["name"], call["arguments"]) for call in row["calls"])
        read["matches"] = tuple(map(CallMatch.from_json, row["matches"]))
        read["repaired"] = Repaired(**row["repaired"]) if row.get("repaired") else None
        return cls(**{**row, **read, "gold": Gold.from_json(row["gold"])})


_SCORE_LISTS = ("tools", "missing_calls", "extra_calls", "rules")
