"""A data set in tokens, as training will see it: by role, by example, how much is labelled, how much is shared.

Every learned turn is rendered as training renders it. The gain of prefix-tree batches is not estimated but laid out:
shuffled as training shuffles, in batches, by the collator that training uses.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from toolhone.data.read import examples
from toolhone.records import Conversation

if TYPE_CHECKING:
    from toolhone.chat.render import LabelledTokens

BATCH_SIZES = (8, 16, 32)
_LAID_OUT = 4096
"""Examples that are laid out as trees: of more, a random sample."""
_PLACES = 3
_PARTS = ("tools", "system", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class TokenSpread:
    """Tokens of so many things: the median and the 95th percentile (interpolated), the largest, and all together."""

    count: int
    p50: float
    p95: float
    max: int
    total: int

    @classmethod
    def of(cls, numbers: Sequence[int]) -> TokenSpread:
        """Of at least one number."""
        p50, p95 = np.percentile(np.array(numbers), [50, 95]).tolist()
        return cls(len(numbers), p50, p95, max(numbers), sum(numbers))


@dataclass(frozen=True, slots=True)
class Gain:
    """Batches of one size as prefix trees: the tokens of all rows, and those that are left to compute."""

    batch_size: int
    logical_tokens: int
    computed_tokens: int

    @property
    def gain(self) -> float:
        """How many times fewer tokens are computed."""
        return self.logical_tokens / self.computed_tokens


@dataclass(frozen=True, slots=True)
class TokenStats:
    """`by_role` counts each message once, and the tools of a row once. `lengths` has one entry an example.
    `shared_share` is the share of all tokens that need not be computed when everything is one tree: no batch saves
    more. `common_prefix` is how many tokens all laid-out examples begin with. `refused` rows cannot be rendered."""

    tokenizer: str
    format: str
    template: str
    examples: int
    by_role: dict[str, TokenSpread]
    example: TokenSpread | None
    lengths: tuple[int, ...]
    labelled_tokens: int
    laid_out: int
    common_prefix: int
    shared_share: float | None
    gains: tuple[Gain, ...]
    refused: int
    refused_places: tuple[str, ...]

    @property
    def labelled_share(self) -> float | None:
        return self.labelled_tokens / self.example.total if self.example else None

    def to_json(self) -> dict[str, Any]:
        row = {key: value for key, value in asdict(self).items() if key not in ("lengths", "gains")}
        row["labelled_share"] = self.labelled_share
        row["gains"] = [{**asdict(gain), "gain": round(gain.gain, 4)} for gain in self.gains]
        return row


class TokenCounter:
    """Takes conversations one by one and keeps their counts, and the ids of a sample of the examples."""

    def __init__(self, tokenizer: str, *, laid_out: int = _LAID_OUT) -> None:
        """Load a tokenizer, a folder's or the hub's; no model is loaded.

        Raises:
            UserError: where it cannot be had, or no chat format fits it.
        """
        from toolhone.chat.probe import make_renderer
        from toolhone.chat.token_bytes import TokenBytes
        from toolhone.config import ChatConfig, ModelConfig
        from toolhone.pretrained import load_tokenizer

        self._name = tokenizer
        self._renderer = make_renderer(load_tokenizer(ModelConfig(name=tokenizer)), ChatConfig(), tokenizer)
        self._bytes = TokenBytes(self._renderer.tokenizer)
        self._parts: dict[str, list[int]] = {part: [] for part in _PARTS}
        self._lengths: list[int] = []
        self._labelled = 0
        self._sample: list[LabelledTokens] = []
        self._most = laid_out
        self._random = random.Random(0)
        self._refused: list[str] = []

    def add(self, row: Conversation) -> None:
        """Count a conversation's learned turns; messages behind the last of them are in no example."""
        from toolhone.chat.render import RenderError
        from toolhone.chat.segments import segments

        rendered = None
        for example in examples(row):
            try:
                rendered = self._renderer.render(example)
            except RenderError as error:
                self._refused.append(str(error))
                continue
            self._lengths.append(len(rendered))
            self._labelled += len(rendered.completion_ids)
            self._keep(rendered.tokens)
        if rendered is None:
            return
        tokens: dict[tuple[str, int], int] = {}
        for segment in segments(self._renderer, rendered, self._bytes):
            key = (segment.part, segment.message)
            tokens[key] = tokens.get(key, 0) + len(segment)
        for (part, _), count in tokens.items():
            self._parts[part].append(count)

    def _keep(self, row: LabelledTokens) -> None:
        """Reservoir sampling (Vitter 1985, algorithm R): every example has the same chance to be laid out."""
        if len(self._sample) < self._most:
            self._sample.append(row)
            return
        place = self._random.randrange(len(self._lengths))
        if place < self._most:
            self._sample[place] = row

    def result(self) -> TokenStats:
        """The figures so far."""
        from toolhone.chat.prefix_tree import build_tree

        logical = sum(len(row.ids) for row in self._sample)
        return TokenStats(
            tokenizer=self._name,
            format=self._renderer.format.name,
            template=self._renderer.source,
            examples=len(self._lengths),
            by_role={part: TokenSpread.of(counts) for part, counts in self._parts.items() if counts},
            example=TokenSpread.of(self._lengths) if self._lengths else None,
            lengths=tuple(self._lengths),
            labelled_tokens=self._labelled,
            laid_out=len(self._sample),
            common_prefix=_common_prefix(self._sample),
            shared_share=1 - len(build_tree(self._sample)) / logical if logical else None,
            gains=tuple(tree_gain(self._sample, size) for size in BATCH_SIZES) if self._sample else (),
            refused=len(self._refused),
            refused_places=tuple(self._refused[:_PLACES]),
        )


def tree_gain(
    rows: Sequence[LabelledTokens], batch_size: int, *, tree_tokens: int | None = None, seed: int = 42
) -> Gain:
    """Lay the rows out in shuffled batches, as training does, and count.

    Args:
        tree_tokens: a batch of more computed tokens is several trees; None is the default of train.tree_tokens.
        seed: of the shuffle, as the config's `seed`, whose default it is.
    """
    from toolhone.chat.prefix_tree import split_into_trees
    from toolhone.config import TrainConfig

    most = TrainConfig().tree_tokens if tree_tokens is None else tree_tokens
    order = list(rows)
    random.Random(seed).shuffle(order)
    logical = computed = 0
    for first in range(0, len(order), batch_size):
        chunk = order[first : first + batch_size]
        logical += sum(len(row) for row in chunk)
        computed += sum(len(tree) for tree in split_into_trees(chunk, most))
    return Gain(batch_size, logical, computed)


def _common_prefix(rows: Sequence[LabelledTokens]) -> int:
    """Ids that all rows begin with, of those that may be shared. The lexically first and last differ soonest."""
    if not rows:
        return 0
    from toolhone.chat.prefix_tree import shareable_ids

    first, last = (choose(shareable_ids(row) for row in rows) for choose in (min, max))
    pairs = zip(first, last, strict=False)
    return next((n for n, (one, other) in enumerate(pairs) if one != other), min(len(first), len(last)))
