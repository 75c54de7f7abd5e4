"""Attention over prefix trees that computes little more than the unmasked part.

With a dense mask, PyTorch's attention multiplies every query with every key and discards most results: two thirds for
16 branches of 75 tokens after 850 shared ones. Here the queries are split into blocks along the tree.
`scaled_dot_product_attention` multiplies each block with the keys that any of its queries sees. The result equals that
of a dense mask (`visible`). In bfloat16 on a CPU, plain matrix products replace that kernel (`cpu.GroupedAttention`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from toolhone.train.cpu import GroupedAttention

TREE_ATTENTION = "prefix_tree"
"""The name under which transformers finds `tree_attention`: model.set_attn_implementation(TREE_ATTENTION)."""

# Short branches are merged until a block has this many queries. In smaller blocks, the overhead of a call exceeds the
# time saved. On CUDA a longer segment is one block, because the kernel is efficient for long ones. On a CPU it is
# split, because its first queries see few of its keys.
_BLOCK_QUERIES = 256
_CPU_BLOCK_QUERIES = 128


@dataclass(frozen=True, slots=True)
class Block:
    """Queries `first` to `last` (exclusive) of one tree of the batch.

    `keys` [keys] are the indices of the keys that any of them sees. `mask` [last - first, keys] says which query sees
    which key. It is None if each query sees all keys up to itself.
    """

    tree: int
    first: int
    last: int
    keys: torch.Tensor
    mask: torch.Tensor | None


class AttentionBlocks:
    """Splits a batch of trees into blocks, for layers with full attention and for layers with a sliding window.

    `ends` and `positions` [batch, seq] are those of `PrefixTree`, with padding. `matrix_attention` allows plain matrix
    products for attention if they are faster.
    """

    def __init__(self, ends: torch.Tensor, positions: torch.Tensor, *, matrix_attention: bool = True) -> None:
        self.matrix_attention = matrix_attention
        self._ends, self._positions = ends, positions
        self._longest = int(positions.max()) + 1
        self._of_window: dict[int | None, list[Block]] = {}

    def within(self, window: int | None) -> list[Block]:
        """Return blocks that cover every query once and in order. A query sees itself and the `window` - 1 tokens
        before it in its row; None: all tokens before it."""
        if window is not None and window >= self._longest:
            window = None
        if window not in self._of_window:
            trees = enumerate(zip(self._ends, self._positions, strict=True))
            self._of_window[window] = [
                _block(ends, positions, window, tree, *span)
                for tree, (ends, positions) in trees
                for span in self._spans(ends.tolist())
            ]
        return self._of_window[window]

    def _spans(self, ends: list[int]) -> Iterator[tuple[int, int]]:
        """Yield the ranges of queries of the blocks of one tree."""
        if self._ends.device.type == "cpu":
            for first in range(0, len(ends), _CPU_BLOCK_QUERIES):
                yield first, min(first + _CPU_BLOCK_QUERIES, len(ends))
            return
        first = 0
        for index in range(1, len(ends) + 1):
            # Consecutive tokens with the same end form a segment of the tree.
            last_of_segment = index == len(ends) or ends[index] != ends[index - 1]
            if last_of_segment and (index - first >= _BLOCK_QUERIES or index == len(ends)):
                yield first, index
                first = index


def visible(ends: torch.Tensor, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Return which queries see which keys of a tree.

    Args:
        ends: [seq], `PrefixTree.ends`.
        queries: [queries], indices of tokens.
        keys: [keys], indices of tokens.

    Returns:
        [queries, keys], boolean: true if the query sees the key, as scaled_dot_product_attention expects.
    """
    return (keys <= queries[:, None]) & (queries[:, None] < ends[keys])


def _block(ends: torch.Tensor, positions: torch.Tensor, window: int | None, tree: int, first: int, last: int) -> Block:
    index = torch.arange(last, device=ends.device)
    keys = index[ends[:last] > first]  # the keys that some query of the block sees, and the block itself
    mask = visible(ends, index[first:], keys)
    if window is not None:
        mask &= positions[first:last, None] - positions[keys] < window
        seen = mask.any(dim=0)
        keys, mask = keys[seen], mask[:, seen]
    causal = len(keys) == last - first and bool((mask == mask.new_ones(mask.shape).tril()).all())
    return Block(tree, first, last, keys, None if causal else mask)


def tree_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    tree_blocks: AttentionBlocks,
    scaling: float,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Compute attention along prefix trees. transformers calls this like its own attention functions.

    Args:
        query: [batch, heads, seq, dim]. key, value: [batch, key-value heads, seq, dim]; each is shared by heads /
        key-value heads query heads. tree_blocks: the blocks of the batch. sliding_window: number of tokens that a query
        of this layer sees, including itself; None: all. softcap, s_aux: capped logits and attention sinks, which no
        PyTorch kernel supports. Models with them train in rows (`packing.settle_packing`).

    Returns:
        [batch, seq, heads, dim].
    """
    if softcap is not None or s_aux is not None:
        raise NotImplementedError("attention with capped logits or sinks along prefix trees")
    # On a CPU the kernel uses one key-value head for a group of query heads without a copy. CUDA's kernel for masks
    # needs a copy for each query head.
    on_cpu = query.device.type == "cpu"
    copies = 1 if on_cpu else query.shape[1] // key.shape[1]
    as_products = on_cpu and query.dtype == torch.bfloat16 and not dropout and tree_blocks.matrix_attention
    rows: list[list[torch.Tensor]] = [[] for _ in range(query.shape[0])]
    for block in tree_blocks.within(sliding_window):
        one = slice(block.tree, block.tree + 1)
        queries = query[one, :, block.first : block.last]
        keys, values = (states[one].index_select(2, block.keys) for states in (key, value))
        if as_products:
            attended = GroupedAttention.apply(queries, keys, values, block.mask, scaling)  # type: ignore[no-untyped-call]
        else:
            attended = scaled_dot_product_attention(
                queries,
                keys.repeat_interleave(copies, dim=1),
                values.repeat_interleave(copies, dim=1),
                attn_mask=block.mask,
                is_causal=block.mask is None,
                dropout_p=dropout,
                scale=scaling,
                enable_gqa=on_cpu,
            )
        rows[block.tree].append(attended)
    output = torch.cat([torch.cat(row, dim=2) for row in rows])  # [batch, heads, seq, dim]
    return output.transpose(1, 2).contiguous(), None


ALL_ATTENTION_FUNCTIONS.register(TREE_ATTENTION, tree_attention)
