"""FlexAttention over prefix trees: one call for each layer, for GPUs.

The kernel divides queries and keys into blocks of `BLOCK` tokens. It skips the pairs of blocks without a visible pair
of tokens, and masks no pair of tokens where all are visible. `BlockLists` finds both from the tree's integers alone: a
block of keys is compared by the smallest and largest of its `ends`, so no mask of all pairs exists. FlexAttention has
no backward pass on a CPU. None of this has run on a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from toolhone.errors import UserError

BLOCK = 128
"""Tokens in a block of queries or keys."""
MAX_COMPILATIONS = 16
"""Number of kernels that may be compiled. A training needs one, and another for each of: layers with a window, batches
of several trees, validation."""
_LISTS = [f"{pairs}_{kind}" for pairs in ("kv", "full_kv", "q", "full_q") for kind in ("num_blocks", "indices")]
_ALIGNED = 4  # int32 numbers: compiled code copies a tensor whose address is not a multiple of 16 bytes


def padded(tokens: int) -> int:
    """Return the length to which trees are padded: whole blocks, and at least two, because torch compiles dimensions
    of size one apart."""
    return BLOCK * max(2, math.ceil(tokens / BLOCK))


@dataclass(frozen=True)
class BlockLists:
    """Which pairs of blocks a layer computes, for each tree of a batch.

    Each of the four lists has [trees, 1, blocks] numbers of blocks and [trees, 1, blocks, blocks] indices, of which as
    many count. They name the blocks of keys that a block of queries sees in part, and in full, and the blocks of
    queries that see a block of keys in part, and in full. All integers lie in one tensor, so that a batch needs one
    copy to the device.
    """

    integers: torch.Tensor  # int32
    trees: int
    blocks: int
    has_window: bool

    @classmethod
    def of(cls, ends: torch.Tensor, positions: torch.Tensor, window: int | None) -> BlockLists:
        """Find the blocks. The lists are exact, except that with a window a pair of blocks may be computed as partial
        of which nothing is visible. The result is the same.

        Args:
            ends, positions: [trees, seq], those of `PrefixTree`, with padding. seq is one that `padded` returns.
            window: number of tokens that a query sees, including itself; None: all.
        """
        trees, seq = ends.shape
        count = seq // BLOCK
        of_block = ends.view(trees, count, BLOCK)
        first = torch.arange(count) * BLOCK  # the first token of each block
        next_first = first + BLOCK
        earlier = torch.ones(count, count, dtype=torch.bool).tril(-1)  # [queries, keys]
        seen = earlier & (of_block.amax(2)[:, None] > first[:, None])  # [trees, queries, keys]
        full = earlier & (of_block.amin(2)[:, None] >= next_first[:, None])
        tensors = [ends]
        if window is not None:
            starts = _window_starts(positions, window)
            of_block = starts.view(trees, count, BLOCK)
            seen &= of_block.amin(2)[:, :, None] < next_first
            full &= of_block.amax(2)[:, :, None] <= first
            tensors.append(starts)
        partial = (seen | torch.eye(count, dtype=torch.bool)) & ~full
        for pairs in (partial, full, partial.transpose(1, 2), full.transpose(1, 2)):
            tensors += [pairs.sum(2), pairs.to(torch.int8).argsort(dim=2, descending=True, stable=True)]
        return cls(
            torch.cat([_aligned(tensor.flatten().int()) for tensor in tensors]), trees, count, window is not None
        )

    def moved(self, move: Callable[[torch.Tensor], torch.Tensor]) -> BlockLists:
        """Return a copy with moved integers."""
        return BlockLists(move(self.integers), self.trees, self.blocks, self.has_window)

    @cached_property
    def mask(self) -> BlockMask:
        """The mask that all layers of the batch share, on the device of `integers`."""
        seq = self.blocks * BLOCK
        columns, numbers, indices = (
            (self.trees, seq),
            (self.trees, 1, self.blocks),
            (self.trees, 1, *2 * (self.blocks,)),
        )
        shapes: list[tuple[int, ...]] = [columns] * (2 if self.has_window else 1) + [numbers, indices] * 4
        views: list[torch.Tensor] = []
        start = 0
        for shape in shapes:
            views.append(self.integers[start : start + math.prod(shape)].view(shape))
            start += math.ceil(math.prod(shape) / _ALIGNED) * _ALIGNED
        ends, lists = views[0], dict[str, Any](zip(_LISTS, views[-8:], strict=True))
        lists["BLOCK_SIZE"] = BLOCK, BLOCK

        def sees(tree: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
            return (key <= query) & (query < ends[tree, key])

        if not self.has_window:
            return BlockMask((seq, seq), **lists, mask_mod=sees)
        starts = views[1]

        def sees_in_window(
            tree: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor
        ) -> torch.Tensor:
            return (starts[tree, query] <= key) & (key <= query) & (query < ends[tree, key])

        return BlockMask((seq, seq), **lists, mask_mod=sees_in_window)

    def attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float) -> torch.Tensor:
        """Return attention [trees, heads, seq, dim] for query [trees, heads, seq, dim] and key and value [trees,
        key-value heads, seq, dim].

        Raises:
            UserError: if too many kernels were compiled. Uncompiled, FlexAttention would store all pairs of tokens.
        """
        try:
            output: torch.Tensor = compiled(scaling)(query, key, value, self.mask)
        except torch._dynamo.exc.FailOnRecompileLimitHit:  # importing it costs a second
            raise UserError(
                f"train.attention: FlexAttention was compiled {MAX_COMPILATIONS} times, for ever new shapes; set it to "
                "blocks, and report this with the output of TORCH_LOGS=recompiles"
            ) from None
        return output


@cache
def compiled(scaling: float) -> Callable[..., torch.Tensor]:
    """Return FlexAttention with this factor for its logits, compiled once for all lengths."""

    def give() -> float:
        return scaling

    # torch would make a variable of a captured number, and the kernel for GPUs needs a constant.
    factor: Callable[[], float] = torch.compiler.assume_constant_result(give)  # type: ignore[no-untyped-call]

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: BlockMask) -> torch.Tensor:
        return flex_attention(query, key, value, block_mask=mask, scale=factor(), enable_gqa=True)

    compile_function: Any = torch.compile  # its annotations lack the two limits
    kernel: Callable[..., torch.Tensor] = compile_function(
        attend, dynamic=True, fullgraph=True, recompile_limit=MAX_COMPILATIONS, isolate_recompiles=True
    )
    return kernel


def _window_starts(positions: torch.Tensor, window: int) -> torch.Tensor:
    """Return the index of the first token that each token sees in its window [trees, seq]. Its other ancestors after
    that one have larger indices."""
    starts = torch.empty_like(positions)
    for tree, row in enumerate(positions.tolist()):
        path = [0] * len(row)  # the ancestors of the current token, by their position
        found = []
        for index, position in enumerate(row):
            path[position] = index
            found.append(path[max(0, position - window + 1)])
        starts[tree] = torch.tensor(found)
    return starts


def _aligned(integers: torch.Tensor) -> torch.Tensor:
    """Pad integers so that what follows them starts at an aligned address."""
    return torch.nn.functional.pad(integers, (0, -len(integers) % _ALIGNED))
