"""The order of training examples: shuffled, and such that a batch shares its prefix.

Examples with the same system prompt and tools are a group. The turns of one conversation stay side by side, since each
shares all that came before it with the next: in each epoch every group's conversations are drawn by chance, such that
their lengths add up to whole batches (5 + 4 + 3 turns are one of 12) and few are cut in two. What is left over of the
groups is chained and cut likewise, and the batches are shuffled.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from functools import cache
from typing import Any

from torch.utils.data import Sampler
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class PrefixSampler(Sampler[int]):
    """Yields the indices of the examples in an order that depends on seed and epoch alone.

    Args:
        groups: the group of each example.
        conversations: the conversation of each example.
        batch_size: examples that lie in one batch.
    """

    def __init__(
        self, groups: Sequence[Hashable], conversations: Sequence[Hashable], batch_size: int, seed: int
    ) -> None:
        self.groups = groups
        self.conversations = conversations
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.groups)

    def __iter__(self) -> Iterator[int]:
        generator = random.Random(f"{self.seed}/{self.epoch}")
        members: dict[Hashable, dict[Hashable, list[int]]] = defaultdict(lambda: defaultdict(list))
        for index, (group, conversation) in enumerate(zip(self.groups, self.conversations, strict=True)):
            members[group][conversation].append(index)
        batches: list[list[int]] = []
        left_over: list[int] = []
        groups = list(members.values())
        generator.shuffle(groups)  # or what is left over would come in the data's order, and always in the same batches
        for of_group in groups:
            pieces = [piece for conversation in of_group.values() for piece in self._cut(conversation)]
            generator.shuffle(pieces)
            waiting: dict[int, list[list[int]]] = defaultdict(list)  # by length
            for piece in pieces:
                waiting[len(piece)].append(piece)
            while batch := self._draw(waiting, generator):
                batches.append(batch)
            rest = [index for same in waiting.values() for piece in same for index in piece]
            whole = len(rest) - len(rest) % self.batch_size
            batches += self._cut(rest[:whole])
            left_over += rest[whole:]
        batches += self._cut(left_over)
        # A batch that is not full must come last, or all after it would be cut elsewhere.
        last = [batches.pop()] if batches and len(batches[-1]) < self.batch_size else []
        generator.shuffle(batches)
        for batch in (*batches, *last):
            yield from batch

    def _draw(self, waiting: dict[int, list[list[int]]], generator: random.Random) -> list[int]:
        """Take conversations that make one whole batch; [] and nothing taken, where none are found."""
        taken: list[list[int]] = []
        room = self.batch_size
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

    def _cut(self, indices: list[int]) -> list[list[int]]:
        return [indices[first : first + self.batch_size] for first in range(0, len(indices), self.batch_size)]


@cache
def _sums(lengths: tuple[int, ...], most: int) -> frozenset[int]:
    """What such lengths can add up to, each taken any number of times: 0 and all sums up to `most`."""
    found = {0}
    for total in range(1, most + 1):
        if any(total - length in found for length in lengths):
            found.add(total)
    return frozenset(found)


class TellEpoch(TrainerCallback):  # type: ignore[misc]
    """Tells the sampler which epoch begins.

    accelerate does so itself, but not through the wrappers of a resumed run on several processes.
    """

    def __init__(self, sampler: PrefixSampler) -> None:
        self.sampler = sampler

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.sampler.epoch = int(state.epoch or 0)
