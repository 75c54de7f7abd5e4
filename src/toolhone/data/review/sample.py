"""Choose the turns that a person should review: doubtful ones, and a random share.

In: the examples of a data set, and how a model's answers to them differ, if there are any. Out: the chosen ones, each
with the reason and the probability of being chosen. Only the random share gives an estimate for the whole data set,
since the other turns were chosen because they look wrong.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from toolhone.data.check.arguments import invented_values
from toolhone.data.check.schema import Vocabulary
from toolhone.records import Conversation, Example, Tool, ToolCall

Reason = Literal["random", "disagreement", "invented value", "rare tool"]

DOUBTS: tuple[Reason, ...] = ("disagreement", "invented value", "rare tool")
"""A turn with several doubts counts for the first of these."""

_RARE_TURNS, _RARE_SHARE = 5, 0.01
"""A tool is rare if fewer turns call it, or a smaller share of the turns with calls."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """A turn on the sheet. `doubts` says by kind what is doubtful about it, whatever it was chosen for.

    `probability` is, for a random turn, that of any turn to be in the random share; for a doubtful turn, that of one of
    its kind outside the random share to be chosen."""

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
) -> list[Sampled]:
    """Choose at most `rows` turns, `random_share` of them at random and the rest evenly among the kinds of doubt.

    `disagreements` says by example id how a model's answer differs. If too few turns are doubtful, more are random. The
    order is random, so that a turn's place does not give away why it is there.
    """
    doubts = find_doubts(examples, disagreements)
    if len(examples) <= rows:
        chosen = [Sampled(example, "random", 1.0, doubts[example.id]) for example in examples]
        return sorted(chosen, key=lambda one: _hash(seed, "order", one.example.id))
    doubtful = min(rows - max(1, round(rows * random_share)), sum(bool(found) for found in doubts.values()))
    # The first turns by hash are a simple random sample, and stay much the same when rows are added.
    shuffled = sorted(examples, key=lambda example: _hash(seed, "random", example.id))
    drawn, rest = shuffled[: rows - doubtful], shuffled[rows - doubtful :]
    chosen = [Sampled(example, "random", len(drawn) / len(examples), doubts[example.id]) for example in drawn]
    by_kind: dict[Reason, list[Example]] = {kind: [] for kind in DOUBTS}
    for example in rest:
        first = next((kind for kind in DOUBTS if kind in doubts[example.id]), None)
        if first is not None:
            by_kind[first].append(example)
    for kind, count in _evenly(doubtful, {kind: len(members) for kind, members in by_kind.items()}).items():
        members = by_kind[kind]  # in random order already
        chosen += [Sampled(e, kind, count / len(members), doubts[e.id]) for e in members[:count]]
    return sorted(chosen, key=lambda one: _hash(seed, "order", one.example.id))


def find_doubts(examples: Sequence[Example], disagreements: Mapping[str, str]) -> dict[str, dict[Reason, str]]:
    """Return what is doubtful about each example, by its id."""
    with_calls = [example for example in examples if _called(example)]
    turns = Counter(name for example in with_calls for name in _called(example))
    rare = {name for name, count in turns.items() if count < max(_RARE_TURNS, _RARE_SHARE * len(with_calls))}
    vocabularies: dict[tuple[Tool, ...] | int, Vocabulary] = {}
    found: dict[str, dict[Reason, str]] = {}
    for example in examples:
        doubts: dict[Reason, str] = {}
        if example.id in disagreements:
            doubts["disagreement"] = disagreements[example.id]
        if id(example.tools) not in vocabularies:
            vocabularies[id(example.tools)] = Vocabulary(example.tools)
        invented = list(invented_values(_alone(example), vocabularies[id(example.tools)]))
        if invented:
            doubts["invented value"] = "; ".join(finding.message.partition(": ")[2] for finding in invented)
        rarely = sorted(_called(example) & rare)
        if rarely:
            doubts["rare tool"] = "; ".join(f"{name} is called in {turns[name]} turns" for name in rarely)
        found[example.id] = doubts
    return found


def gold_calls(example: Example) -> tuple[ToolCall, ...]:
    """Return the calls that the example expects, each argument with the first of its accepted values."""
    calls = example.gold.calls
    return tuple(ToolCall(call.name, {name: values[0] for name, values in call.arguments.items()}) for call in calls)


def turn_hash(example: Example) -> str:
    """Return a hash of the turn and all before it: a mark holds for what the person saw."""
    seen = [message.to_json() for message in (*example.prompt, example.turn)]
    text = json.dumps([seen, example.gold.to_json()], ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _called(example: Example) -> set[str]:
    return {call.name for call in example.gold.calls}


def _alone(example: Example) -> Conversation:
    """Return the example as a conversation with no calls except the gold's."""
    before = tuple(replace(message, tool_calls=()) for message in example.prompt)
    turn = replace(example.turn, tool_calls=gold_calls(example))
    return Conversation(example.id, (*before, turn), example.tools, example.where)


def _evenly(rows: int, sizes: Mapping[Reason, int]) -> dict[Reason, int]:
    """Share rows out among kinds, as evenly as their sizes allow."""
    shares = dict.fromkeys(sizes, 0)
    while rows > sum(shares.values()):
        open_kinds = [kind for kind in sizes if shares[kind] < sizes[kind]]
        if not open_kinds:
            break
        shares[min(open_kinds, key=shares.__getitem__)] += 1
    return shares


def _hash(seed: int, purpose: str, id: str) -> bytes:
    return hashlib.sha256(f"{seed}/{purpose}/{id}".encode()).digest()
