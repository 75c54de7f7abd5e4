"""Choose the examples of each batch, and convert a batch of prefix trees or of padded rows to tensors.

The turns of one conversation stay together, because each turn shares everything before it with the next.
Conversations are drawn at random so that their lengths fill whole batches (5 + 4 + 3 turns fill a batch of 12), and few
are split.

Examples with the same system prompt and tools are a group. A batch computes the prefix of a group once. Batches with
few groups are cheaper but train worse: each group's batches undo some of what the model learned from the others. With
`groups_per_batch`, a batch takes equal parts of N groups, filled as above, and each group's parts are spread evenly
over the epoch. The remaining examples of all groups are concatenated and split the same way.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import torch
from torch.utils.data import Sampler
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from toolhone.chat.prefix_tree import split_into_trees
from toolhone.chat.render import IGNORED, LabelledTokens
from toolhone.train import flex
from toolhone.train.attention import AttentionBlocks


@dataclass(frozen=True, slots=True)
class TreeAttention:
    """How layers compute attention over trees: the options of `AttentionBlocks`."""

    flex: bool = False
    device: str = "cpu"
    windows: tuple[int | None, ...] = ()
    matrix_attention: bool = True


@dataclass(frozen=True, slots=True)
class TreeCollator:
    """Converts a batch of rows to prefix trees of at most `max_tokens` computed tokens, one in each row of the
    tensors. `attention` says how layers compute attention."""

    pad_id: int
    max_tokens: int
    attention: TreeAttention = TreeAttention()

    def __call__(self, features: Sequence[dict[str, Any]]) -> dict[str, Any]:
        rows = [
            LabelledTokens(one["input_ids"], one["labels"], one["weights"], one["prompt_length"]) for one in features
        ]
        trees = split_into_trees(rows, self.max_tokens)
        width = max(len(tree) for tree in trees)
        if self.attention.flex:
            width = flex.padded(width)
        labels = _pad([tree.labels for tree in trees], IGNORED, width)  # [trees, width]
        positions = _pad([tree.positions for tree in trees], 0, width)
        # A padding token sees only itself: a query without any key would give NaN.
        ends = _pad([tree.ends for tree in trees], None, width)
        return {
            "input_ids": _pad([tree.ids for tree in trees], self.pad_id, width),
            "position_ids": positions,
            "labels": labels,
            "weights": _pad([tree.weights for tree in trees], 0.0, width),
            "tree_blocks": AttentionBlocks(ends, positions, **asdict(self.attention)),
            "asked": asked_positions(labels),  # [asked]
            **counts(len(rows), sum(len(row) for row in rows), sum(len(tree) for tree in trees)),
        }


@dataclass(frozen=True, slots=True)
class RowCollator:
    """Pads the rows of a batch on the right, to the longest one."""

    pad_id: int

    def __call__(self, features: Sequence[dict[str, Any]]) -> dict[str, Any]:
        width = max(len(one["input_ids"]) for one in features)
        labels = _pad([one["labels"] for one in features], IGNORED, width)
        tokens = sum(len(one["input_ids"]) for one in features)
        return {
            "input_ids": _pad([one["input_ids"] for one in features], self.pad_id, width),  # [rows, width]
            "attention_mask": _pad([[1] * len(one["input_ids"]) for one in features], 0, width),
            "labels": labels,
            "weights": _pad([one["weights"] for one in features], 0.0, width),
            "asked": asked_positions(labels),  # [asked]
            **counts(len(features), tokens, tokens),
        }


@dataclass(frozen=True, slots=True)
class CountingCollator:
    """Adds `counts` to the batches of another collator that pads rows."""

    collator: Callable[[Sequence[dict[str, Any]]], dict[str, Any]]

    def __call__(self, features: Sequence[dict[str, Any]]) -> dict[str, Any]:
        batch = self.collator(features)
        tokens = int(batch["attention_mask"].sum())
        return {**batch, **counts(len(features), tokens, tokens)}


COUNTS = ("examples", "logical_tokens", "computed_tokens")
"""Names of the counts of a batch: its examples, its tokens with each row in full, and those that are computed. They are
plain numbers, because reading a tensor on a GPU makes the CPU wait for all work in progress."""


def counts(*values: int) -> dict[str, int]:
    """Return the counts of a batch by name."""
    return dict(zip(COUNTS, values, strict=True))


def asked_positions(labels: torch.Tensor) -> torch.Tensor:
    """Return the positions [asked] whose next token has a label in any row of `labels` [batch, seq]."""
    return (labels[:, 1:] != IGNORED).any(dim=0).nonzero().squeeze(1)


def tree_features(row: LabelledTokens) -> dict[str, Any]:
    """Return a row as the input of `TreeCollator` and `RowCollator`: the columns of the training dataset."""
    return {"input_ids": row.ids, "labels": row.labels, "weights": row.weights, "prompt_length": row.prompt_length}


def _pad(lists: Sequence[Sequence[float]], fill: float | None, width: int) -> torch.Tensor:
    """Stack lists of unequal length, padded with `fill`. None pads each place with the index after it."""
    tails = ([fill] * (width - len(x)) if fill is not None else list(range(len(x) + 1, width + 1)) for x in lists)
    return torch.tensor([[*x, *tail] for x, tail in zip(lists, tails, strict=True)])


class PrefixSampler(Sampler[int]):
    """Yields the indices of the examples in an order that depends only on the examples, the seed and the epoch.

    Args:
        groups: the group of each example. conversations: the conversation of each example. batch_size: examples in one
        batch. groups_per_batch: number of groups in one batch, in equal parts. It is lowered to the number of groups,
        and until
            it divides the batch evenly (2 stays 2 in a batch of 12, and becomes 1 in a batch of 5). None: ignore
            groups.
    """

    def __init__(
        self,
        groups: Sequence[Hashable],
        conversations: Sequence[Hashable],
        batch_size: int,
        groups_per_batch: int | None,
        seed: int,
    ) -> None:
        self.groups = [None] * len(groups) if groups_per_batch is None else groups
        self.conversations = conversations
        self.batch_size = batch_size
        most = min(groups_per_batch or 1, len(set(groups)), batch_size)
        self.parts = max((count for count in range(1, most + 1) if batch_size % count == 0), default=1)
        self.seed = seed
        self.epoch = 0

    @property
    def is_plain(self) -> bool:
        """Whether all examples share the same prefix. Then any order is equally good."""
        return len(set(self.groups)) == 1 and len(set(self.conversations)) == len(self)

    def __len__(self) -> int:
        return len(self.groups)

    def __iter__(self) -> Iterator[int]:
        generator = random.Random(f"{self.seed}/{self.epoch}")
        size = self.batch_size // self.parts
        by_group, left_over = self._cut_groups(size, generator)
        # An incomplete part comes last: earlier it would shift all later parts.
        last = [left_over.pop()] if left_over and len(left_over[-1]) < size else []
        placed: list[tuple[float, list[int]]] = []
        for parts in (*by_group, left_over):
            generator.shuffle(parts)
            # Spread parts evenly over the epoch, so that the parts of a batch are of different groups.
            placed += [((number + generator.random()) / len(parts), part) for number, part in enumerate(parts)]
        placed.sort()
        for part in (*(part for _, part in placed), *last):
            yield from part

    def _cut_groups(self, size: int, generator: random.Random) -> tuple[list[list[list[int]]], list[list[int]]]:
        """Return the parts of each group, and the parts of the remaining examples of all groups. The last part may be
        short."""
        members: dict[Hashable, dict[Hashable, list[int]]] = defaultdict(lambda: defaultdict(list))
        for index, (group, conversation) in enumerate(zip(self.groups, self.conversations, strict=True)):
            members[group][conversation].append(index)
        groups = list(members.values())
        generator.shuffle(groups)  # otherwise the remaining examples are always in the same batches
        by_group: list[list[list[int]]] = []
        left_over: list[int] = []
        for of_group in groups:
            pieces = [piece for conversation in of_group.values() for piece in _cut(conversation, size)]
            generator.shuffle(pieces)
            waiting: dict[int, list[list[int]]] = defaultdict(list)  # by length
            for piece in pieces:
                waiting[len(piece)].append(piece)
            parts: list[list[int]] = []
            while part := _draw(waiting, size, generator):
                parts.append(part)
            rest = [index for same in waiting.values() for piece in same for index in piece]
            whole = len(rest) - len(rest) % size
            by_group.append(parts + _cut(rest[:whole], size))
            left_over += rest[whole:]
        return by_group, _cut(left_over, size)


def _draw(waiting: dict[int, list[list[int]]], size: int, generator: random.Random) -> list[int]:
    """Take conversations that fill one whole part. If there are none, take nothing and return []."""
    taken: list[list[int]] = []
    room = size
    while room:
        lengths = tuple(sorted(length for length, some in waiting.items() if some))
        fitting = [length for length in lengths if room - length in _sums(lengths, room)]
        if not fitting:
            for piece in taken:
                waiting[len(piece)].append(piece)
            return []
        (length,) = generator.choices(fitting, [len(waiting[length]) for length in fitting])
        taken.append(waiting[length].pop())
        room -= length
    return [index for piece in taken for index in piece]


def _cut(indices: list[int], size: int) -> list[list[int]]:
    return [indices[first : first + size] for first in range(0, len(indices), size)]


@cache
def _sums(lengths: tuple[int, ...], most: int) -> frozenset[int]:
    """Return all sums of these lengths from 0 to `most`. Each length may be used any number of times."""
    found = {0}
    for total in range(1, most + 1):
        if any(total - length in found for length in lengths):
            found.add(total)
    return frozenset(found)


class SetEpochCallback(TrainerCallback):  # type: ignore[misc]
    """Sets the sampler's epoch. accelerate does this too, except for a resumed run on several processes."""

    def __init__(self, sampler: PrefixSampler) -> None:
        self.sampler = sampler

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.sampler.epoch = int(state.epoch or 0)
