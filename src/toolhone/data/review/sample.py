"""Which turns a person should look at: those that give reason to doubt, and a random share that doubts nothing.

In: the examples of a data set, and where there are any, what a model answered. Out: the chosen ones, each with why it
was chosen and with what probability. A figure for the whole data set can be had from the random share alone: the others
are there because they look wrong.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from toolhone.data.check.arguments import invented_values
from toolhone.data.check.schema import Vocabulary
from toolhone.records import Conversation, Example, Tool, ToolCall

Reason = Literal["random", "disagreement", "invented value", "rare tool"]

DOUBTS: tuple[Reason, ...] = ("disagreement", "invented value", "rare tool")
"""In the order in which a turn with several counts for one."""

RARE_TURNS, RARE_SHARE = 5, 0.01
"""A tool is rare where fewer turns call it than the first, or a smaller share of those with calls than the second."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """A turn on the sheet. `doubts` says, by kind, what is doubtful about it, whatever it was chosen for.

    `probability` is, for a random turn, that of any turn to be in the random share; for a doubtful one, that of the
    turns of its kind that the random share left over to be chosen."""

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
    """Choose some `rows` turns, `random_share` of them at random and the rest evenly among the kinds of doubt.

    `disagreements` says by example id how a model's answer differs. Where fewer turns are doubtful than there is room
    for, the random share takes the room. The order is random, so that nobody knows from a turn's place why it is there.
    """
    doubts = find_doubts(examples, disagreements)
    if len(examples) <= rows:
        chosen = [Sampled(example, "random", 1.0, doubts[example.id]) for example in examples]
        return sorted(chosen, key=lambda one: _hash(seed, "order", one.example.id))
    doubtful = min(rows - max(1, round(rows * random_share)), sum(bool(found) for found in doubts.values()))
    # The first of an order by hash is a simple random sample, and stays much the same when rows are added.
    shuffled = sorted(examples, key=lambda example: _hash(seed, "random", example.id))
    drawn, rest = shuffled[: rows - doubtful], shuffled[rows - doubtful :]
    chosen = [Sampled(example, "random", len(drawn) / len(examples), doubts[example.id]) for example in drawn]
    strata: dict[Reason, list[Example]] = {kind: [] for kind in DOUBTS}
    for example in rest:
        first = next((kind for kind in DOUBTS if kind in doubts[example.id]), None)
        if first is not None:
            strata[first].append(example)
    for kind, count in _evenly(doubtful, {kind: len(members) for kind, members in strata.items()}).items():
        members = strata[kind]  # in random order already
        chosen += [Sampled(e, kind, count / len(members), doubts[e.id]) for e in members[:count]]
    return sorted(chosen, key=lambda one: _hash(seed, "order", one.example.id))


def find_doubts(examples: Sequence[Example], disagreements: Mapping[str, str]) -> dict[str, dict[Reason, str]]:
    """What is doubtful about each example, by its id."""
    with_calls = [example for example in examples if _called(example)]
    turns = Counter(name for example in with_calls for name in _called(example))
    rare = {name for name, count in turns.items() if count < max(RARE_TURNS, RARE_SHARE * len(with_calls))}
    vocabularies: dict[tuple[Tool, ...] | int, Vocabulary] = {}
    found: dict[str, dict[Reason, str]] = {}
    for example in examples:
        told: dict[Reason, str] = {}
        if example.id in disagreements:
            told["disagreement"] = disagreements[example.id]
        if id(example.tools) not in vocabularies:
            vocabularies[id(example.tools)] = Vocabulary(example.tools)
        invented = list(invented_values(_alone(example), vocabularies[id(example.tools)]))
        if invented:
            told["invented value"] = "; ".join(finding.message.partition(": ")[2] for finding in invented)
        rarely = sorted(_called(example) & rare)
        if rarely:
            told["rare tool"] = "; ".join(f"{name} is called in {turns[name]} turns" for name in rarely)
        found[example.id] = told
    return found


def gold_calls(example: Example) -> tuple[ToolCall, ...]:
    """The calls that the example expects, each argument with the first of its accepted values."""
    calls = example.gold.calls
    return tuple(ToolCall(call.name, {name: values[0] for name, values in call.arguments.items()}) for call in calls)


def _called(example: Example) -> set[str]:
    return {call.name for call in example.gold.calls}


def _alone(example: Example) -> Conversation:
    """The example as a conversation in which no call but the gold's is made."""
    before = tuple(replace(message, tool_calls=()) for message in example.prompt)
    turn = replace(example.turn, tool_calls=gold_calls(example))
    return Conversation(example.id, (*before, turn), example.tools, example.where)


def _evenly(rows: int, sizes: Mapping[Reason, int]) -> dict[Reason, int]:
    """Share rows out among strata, evenly as far as each reaches."""
    shares = dict.fromkeys(sizes, 0)
    while rows > sum(shares.values()):
        open_kinds = [kind for kind in sizes if shares[kind] < sizes[kind]]
        if not open_kinds:
            break
        shares[min(open_kinds, key=shares.__getitem__)] += 1
    return shares


def _hash(seed: int, purpose: str, id: str) -> bytes:
    return hashlib.sha256(f"{seed}/{purpose}/{id}".encode()).digest()
