"""Attention and loss over prefix trees: only what the tree's mask lets through is computed.

PyTorch's attention with a dense mask multiplies every query with every key and throws most of it away: of 16 branches
of 75 tokens behind 850 shared ones, two thirds. Here the queries are cut into blocks along the tree; each block is
multiplied with the keys that any of its queries sees, by the same `scaled_dot_product_attention`. The values are those
of a dense mask (`pack.visible`). In bfloat16 on a CPU plain matrix products take half of that kernel's time or less,
and stand in its place (scripts/bench_attention.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from toolhone.train.label_loss import label_loss
from toolhone.train.prefix_tree import visible

TREE_ATTENTION = "prefix_tree"
"""The name under which transformers finds `tree_attention`: model.set_attn_implementation(TREE_ATTENTION)."""

# Short branches are taken together until a block has so many queries: below, the overhead of a call outweighs the
# products saved. A longer segment is one block on CUDA, whose kernel is made for long ones; on a CPU it is cut, since
# its first queries see few of its keys.
_BLOCK_QUERIES = 256
_CPU_BLOCK_QUERIES = 128


@dataclass(frozen=True, slots=True)
class Block:
    """Queries `first` to `last` (exclusive) of one tree of the batch.

    `keys` are the indices of the keys that any of them sees [keys]; `mask` says which query sees which
    [last - first, keys], and is None where each sees all up to itself.
    """

    tree: int
    first: int
    last: int
    keys: torch.Tensor
    mask: torch.Tensor | None


class AttentionBlocks:
    """A batch of trees, cut into blocks for layers that see all of a row and for those that see a window of it.

    `ends` and `positions` [batch, seq] are those of `PrefixTree`, padding included.
    """

    def __init__(self, ends: torch.Tensor, positions: torch.Tensor) -> None:
        self._ends, self._positions = ends, positions
        self._longest = int(positions.max()) + 1
        self._of_window: dict[int | None, list[Block]] = {}

    def within(self, window: int | None) -> list[Block]:
        """Blocks that cover every query once and in order. A query sees itself and the `window` - 1 tokens of its row
        before it; None: all of them."""
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
        """Query ranges."""
        if self._ends.device.type == "cpu":
            for first in range(0, len(ends), _CPU_BLOCK_QUERIES):
                yield first, min(first + _CPU_BLOCK_QUERIES, len(ends))
            return
        first = 0
        for index in range(1, len(ends) + 1):
            # A run of tokens with one end is a segment of the tree.
            last_of_segment = index == len(ends) or ends[index] != ends[index - 1]
            if last_of_segment and (index - first >= _BLOCK_QUERIES or index == len(ends)):
                yield first, index
                first = index


def _block(ends: torch.Tensor, positions: torch.Tensor, window: int | None, tree: int, first: int, last: int) -> Block:
    index = torch.arange(last, device=ends.device)
    keys = index[ends[:last] > first]  # seen by a query of the block, or part of it
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
    """An attention function as transformers calls it.

    Args:
        query: [batch, heads, seq, dim].
        key, value: [batch, key-value heads, seq, dim]; each serves heads / key-value heads query heads.
        tree_blocks: those of the batch.
        sliding_window: how many tokens a query of this layer sees, itself included; None: all.
        softcap, s_aux: capped logits and attention sinks, which no kernel of PyTorch's computes; models that have them
            are refused before (`pack.refuse_other_attention`).

    Returns:
        [batch, seq, heads, dim].
    """
    if softcap is not None or s_aux is not None:
        raise NotImplementedError("attention with capped logits or sinks along prefix trees")
    # On a CPU the kernel serves a group of query heads from one key-value head, with nothing copied; CUDA's kernel for
    # masks wants a copy for each.
    on_cpu = query.device.type == "cpu"
    copies = 1 if on_cpu else query.shape[1] // key.shape[1]
    rows: list[list[torch.Tensor]] = [[] for _ in range(query.shape[0])]
    for block in tree_blocks.within(sliding_window):
        one = slice(block.tree, block.tree + 1)
        queries = query[one, :, block.first : block.last]
        keys, values = (states[one].index_select(2, block.keys) for states in (key, value))
        if on_cpu and query.dtype == torch.bfloat16 and not dropout:
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


class GroupedAttention(torch.autograd.Function):
    """Attention of one block as plain matrix products: the query heads of a group lie one below the other, so that
    each key-value head is multiplied once and nothing is copied. The probabilities are computed anew for the backward
    pass, which costs a seventh of the time and keeps nothing that grows with queries times keys."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,  # [1, heads, queries, dim]
        key: torch.Tensor,  # [1, key-value heads, keys, dim]
        value: torch.Tensor,  # as key
        mask: torch.Tensor | None,  # [queries, keys]; None: causal
        scaling: float,
    ) -> torch.Tensor:
        ctx.save_for_backward(query, key, value, mask)
        ctx.scaling = scaling
        stacked = query.reshape(key.shape[1], -1, query.shape[-1])  # [key-value heads, group x queries, dim]
        return (_probabilities(stacked, key[0], mask, scaling) @ value[0]).view(query.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        query, key, value, mask = ctx.saved_tensors
        stacked = query.reshape(key.shape[1], -1, query.shape[-1])
        gradient = gradients[0].reshape(stacked.shape)
        probabilities = _probabilities(stacked, key[0], mask, ctx.scaling)
        of_value = probabilities.transpose(1, 2) @ gradient
        of_scores = torch._softmax_backward_data(
            gradient @ value[0].transpose(1, 2), probabilities, -1, probabilities.dtype
        ).mul_(ctx.scaling)
        of_query = (of_scores @ key[0]).view(query.shape)
        return of_query, (of_scores.transpose(1, 2) @ stacked)[None], of_value[None], None, None


def _probabilities(stacked: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None, scaling: float) -> torch.Tensor:
    """[key-value heads, group x queries, keys] from [key-value heads, group x queries, dim] and the keys."""
    if mask is None:
        mask = key.new_ones(key.shape[1], key.shape[1], dtype=torch.bool).tril()
    unseen = key.new_zeros(mask.shape).masked_fill_(~mask, float("-inf"))
    unseen = unseen.repeat(stacked.shape[1] // len(mask), 1)
    return torch.softmax(torch.baddbmm(unseen, stacked, key.transpose(1, 2), alpha=scaling), dim=-1)


ALL_ATTENTION_FUNCTIONS.register(TREE_ATTENTION, tree_attention)


def tree_loss(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The summed cross-entropy of the labelled tokens of a `TreeCollator`'s batch, weighted while the model trains; the
    model must attend by `TREE_ATTENTION`."""
    return label_loss(
        model,
        batch["labels"],
        batch["weights"] if model.training else None,  # validation losses of different weights compare
        input_ids=batch["input_ids"],
        position_ids=batch["position_ids"],
        tree_blocks=AttentionBlocks(batch["ends"], batch["position_ids"]),
    )
