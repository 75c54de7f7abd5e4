"""Choose the turns that a person should review: those that look doubtful, and others at random.

Only the random share estimates the accuracy of the whole data set, because the other turns were chosen for looking
wrong. `report/review_sheet.py` writes the chosen turns as a sheet, and `data/review.py` applies a person's marks.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, zip_longest
from typing import Literal

from toolhone.data.check.invented import invented_values
from toolhone.data.check.schema import Vocabulary
from toolhone.records import Conversation, Example, Tool, ToolCall

Reason = Literal["random", "doubt", "disagreement", "invented value", "rare tool"]

# A turn with several doubts counts under the first of these.
DOUBTS: tuple[Reason, ...] = ("doubt", "disagreement", "invented value", "rare tool")
_RARE_TURNS, _RARE_SHARE = 5, 0.01  # a tool is rare if fewer turns call it, or a smaller share of the turns with calls


@dataclass(frozen=True, slots=True)
class Sampled:
    """A turn on the sheet. `doubts` says what is doubtful about it, by kind, even if it was chosen at random.

    `probability` of a random turn is the chance of any turn to be in the random share. For a doubtful turn it is the
    chance to be chosen from the turns of its kind outside the random share; of the kind "doubt", those that rank first
    are chosen."""

    example: Example
    reason: Reason
    probability: float
    doubts: dict[Reason, str]


def sample(
    examples: Sequence[Example],
    disagreements: Mapping[str, str],
    *,
    rows: int,
    random_share: float,
    seed: int,
    ranking: Mapping[str, str] | None = None,
) -> list[Sampled]:
    """Choose at most `rows` turns, `random_share` of them at random and the rest evenly among the kinds of doubt.

    If too few turns are doubtful, more are drawn at random. The order is random, so that a turn's place does not reveal
    why it was chosen. With a ranking, the doubtful turns come first instead: the ranked ones in their order, then the
    others.

    Args:
        disagreements: how a model's answer differs, by example id.
        ranking: what raises the doubt, by example id, the most doubtful turn first.
    """
    ranks = {id: rank for rank, id in enumerate(ranking or ())}
    doubts = find_doubts(examples, disagreements, ranking or {})

    def place(one: Sampled) -> tuple[float, bool, bytes]:
        shuffled = _hash(seed, "order", one.example.id)
        if ranking is None:
            return 0, False, shuffled
        return ranks.get(one.example.id, len(ranks)), not one.doubts, shuffled

    if len(examples) <= rows:
        chosen = [Sampled(example, "random", 1.0, doubts[example.id]) for example in examples]
        return sorted(chosen, key=place)
    doubtful = min(rows - max(1, round(rows * random_share)), sum(bool(found) for found in doubts.values()))
    # The first turns by hash are a simple random sample, and most of them stay the same when rows are added.
    shuffled = sorted(examples, key=lambda example: _hash(seed, "random", example.id))
    drawn, rest = shuffled[: rows - doubtful], shuffled[rows - doubtful :]
    chosen = [Sampled(example, "random", len(drawn) / len(examples), doubts[example.id]) for example in drawn]
    by_kind: dict[Reason, list[Example]] = {kind: [] for kind in DOUBTS}
    for example in rest:
        first = next((kind for kind in DOUBTS if kind in doubts[example.id]), None)
        if first is not None:
            by_kind[first].append(example)
    by_kind["doubt"].sort(key=lambda example: ranks[example.id])
    # Take one turn of each kind in rotation. Within the other kinds, the order is random already.
    rotation = (pair for turns in zip_longest(*by_kind.values()) for pair in zip(DOUBTS, turns, strict=True))
    taken = list(islice(((kind, example) for kind, example in rotation if example is not None), doubtful))
    counts = Counter(kind for kind, _ in taken)
    chosen += [Sampled(e, kind, counts[kind] / len(by_kind[kind]), doubts[e.id]) for kind, e in taken]
    return sorted(chosen, key=place)


def find_doubts(
    examples: Sequence[Example], disagreements: Mapping[str, str], ranking: Mapping[str, str] | None = None
) -> dict[str, dict[Reason, str]]:
    """Return what is doubtful about each example, by example id and kind of doubt."""
    with_calls = [example for example in examples if _called_tools(example)]
    turns = Counter(name for example in with_calls for name in _called_tools(example))
    rare = {name for name, count in turns.items() if count < max(_RARE_TURNS, _RARE_SHARE * len(with_calls))}
    vocabularies: dict[tuple[Tool, ...] | int, Vocabulary] = {}
    found: dict[str, dict[Reason, str]] = {}
    for example in examples:
        doubts: dict[Reason, str] = {}
        if example.id in (ranking or {}):
            doubts["doubt"] = (ranking or {})[example.id]
        if example.id in disagreements:
            doubts["disagreement"] = disagreements[example.id]
        if id(example.tools) not in vocabularies:
            vocabularies[id(example.tools)] = Vocabulary(example.tools)
        invented = list(invented_values(_with_gold_calls_only(example), vocabularies[id(example.tools)]))
        if invented:
            doubts["invented value"] = "; ".join(finding.message.partition(": ")[2] for finding in invented)
        rare_here = sorted(_called_tools(example) & rare)
        if rare_here:
            doubts["rare tool"] = "; ".join(f"{name} is called in {turns[name]} turns" for name in rare_here)
        found[example.id] = doubts
    return found


def gold_calls(example: Example) -> tuple[ToolCall, ...]:
    """Return the calls that the example expects, with the first accepted value of each argument."""
    calls = example.gold.calls
    return tuple(ToolCall(call.name, {name: values[0] for name, values in call.arguments.items()}) for call in calls)


def turn_hash(example: Example) -> str:
    """Return a hash of the turn and of all messages before it, because a mark applies only to what the person saw."""
    seen = [message.to_json() for message in (*example.prompt, example.turn)]
    text = json.dumps([seen, example.gold.to_json()], ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _called_tools(example: Example) -> set[str]:
    return {call.name for call in example.gold.calls}


def _with_gold_calls_only(example: Example) -> Conversation:
    """Return the example as a conversation with no calls except the gold's."""
    before = tuple(replace(message, tool_calls=()) for message in example.prompt)
    turn = replace(example.turn, tool_calls=gold_calls(example))
    return Conversation(example.id, (*before, turn), example.tools, example.where)


def _hash(seed: int, purpose: str, id: str) -> bytes:
    return hashlib.sha256(f"{seed}/{purpose}/{id}".encode()).digest()
