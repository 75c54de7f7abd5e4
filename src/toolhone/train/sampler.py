"""The order of training examples: shuffled, and such that a batch shares its prefix.

Examples with the same system prompt and tools are a group. In each epoch every group is shuffled and cut into batches,
what is left over of the groups is chained and cut likewise, and the batches are shuffled. The turns of one conversation
stay side by side, since each shares all that came before it with the next, and so do conversations of like length:
where most have as many turns as a batch, few are cut in two.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
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
            conversations = list(of_group.values())
            generator.shuffle(conversations)
            conversations.sort(key=len)
            indices = [index for conversation in conversations for index in conversation]
            whole = len(indices) - len(indices) % self.batch_size
            batches += self._cut(indices[:whole])
            left_over += indices[whole:]
        batches += self._cut(left_over)
        # A batch that is not full must come last, or all after it would be cut elsewhere.
        last = [batches.pop()] if batches and len(batches[-1]) < self.batch_size else []
        generator.shuffle(batches)
        for batch in (*batches, *last):
            yield from batch

    def _cut(self, indices: list[int]) -> list[list[int]]:
        return [indices[first : first + self.batch_size] for first in range(0, len(indices), self.batch_size)]


class TellEpoch(TrainerCallback):  # type: ignore[misc]
    """Tells the sampler which epoch begins.

    accelerate does so itself, but not through the wrappers of a resumed run on several processes.
    """

    def __init__(self, sampler: PrefixSampler) -> None:
        self.sampler = sampler

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.sampler.epoch = int(state.epoch or 0)
