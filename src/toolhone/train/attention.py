"""Attention over prefix trees that computes little more than the unmasked part.

With a dense mask, PyTorch's attention multiplies every query with every key and discards most results: two thirds for
16 branches of 75 tokens after 850 shared ones. Here the queries are split into blocks along the tree.
`scaled_dot_product_attention` multiplies each block with the keys that any of its queries sees. The result equals that
of a dense mask (`visible`). In bfloat16 on a CPU, plain matrix products replace that kernel (`cpu.GroupedAttention`).
On a GPU, FlexAttention computes a layer in one call (`flex.py`).

Everything about the trees is computed once for each batch, on the CPU and in the collator (`AttentionBlocks`). So no
layer waits for the GPU.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from toolhone.train.cpu import GroupedAttention
from toolhone.train.flex import BlockLists

TREE_ATTENTION = "prefix_tree"
"""The name under which transformers finds `tree_attention`: model.set_attn_implementation(TREE_ATTENTION)."""

# Short branches are merged until a block has this many queries. In smaller blocks, the overhead of a call exceeds the
# time saved. On CUDA a longer segment is one block, because the kernel is efficient for long ones. On a CPU it is
# split, because its first queries see few of its keys.
_BLOCK_QUERIES = 256
_CPU_BLOCK_QUERIES = 128


class AttentionBlocks:
    """The trees of a batch as attention needs them, for layers with full attention and with a sliding window.

    It is part of a batch, like a tensor: the collator creates it on the CPU, and it can be pickled, pinned and moved.

    Args:
        ends, positions: [batch, seq], those of `PrefixTree`, with padding, on the CPU.
        flex: whether FlexAttention computes attention. Then seq is one that `flex.padded` returns.
        device: the type of the device that will compute attention.
        windows: the windows that the layers have. Another one is prepared at its first use.
        matrix_attention: whether a CPU may compute attention in bfloat16 as plain matrix products.
    """

    def __init__(
        self,
        ends: torch.Tensor,
        positions: torch.Tensor,
        *,
        flex: bool = False,
        device: str = "cpu",
        windows: Iterable[int | None] = (),
        matrix_attention: bool = True,
    ) -> None:
        self.matrix_attention = matrix_attention
        self.ends, self.positions, self._flex = ends, positions, flex
        self._longest = int(positions.max()) + 1
        self._kind, self._device = device, torch.device("cpu")
        self._of_window: dict[int | None, Blocks | BlockLists] = {}
        for window in windows:
            self.within(window)

    def within(self, window: int | None) -> Blocks | BlockLists:
        """Return what a layer needs in which a query sees itself and the `window` - 1 tokens before it in its row;
        None: all tokens before it."""
        if window is not None and window >= self._longest and not self._flex:
            window = None
        if window not in self._of_window:
            if self._flex:
                found: Blocks | BlockLists = BlockLists.of(self.ends, self.positions, window)
            else:
                found = Blocks.of(self.ends, self.positions, window, on_cpu=self._kind == "cpu")
            move = partial(torch.Tensor.to, device=self._device, non_blocking=True)
            self._of_window[window] = found if self._device.type == "cpu" else found.moved(move)
        return self._of_window[window]

    def to(self, device: torch.device | str | int, non_blocking: bool = False) -> AttentionBlocks:
        """Return a copy for layers on this device."""
        moved = copy.copy(self)
        moved._device = torch.device(device)
        moved._kind = moved._device.type
        # Blocks for another type of device would be correct but slower.
        known = self._of_window if self._flex or moved._kind == self._kind else {}
        move = partial(torch.Tensor.to, device=moved._device, non_blocking=non_blocking)
        moved._of_window = {window: found.moved(move) for window, found in known.items()}
        return moved

    def pin_memory(self) -> AttentionBlocks:
        """Return a copy in pinned memory, from which a GPU copies while the CPU continues."""
        pinned = copy.copy(self)
        pinned._of_window = {window: found.moved(torch.Tensor.pin_memory) for window, found in self._of_window.items()}
        return pinned


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


@dataclass(frozen=True)
class Blocks:
    """Blocks that cover every query once and in order. Their keys and masks lie in two tensors, so that a batch needs
    few copies to the device.

    `sizes` has a tree, first, last, number of keys, and whether there is a mask, for each block.
    """

    sizes: tuple[tuple[int, int, int, int, bool], ...]
    keys: torch.Tensor  # [keys of all blocks]
    masks: torch.Tensor  # [queries x keys of all blocks with a mask], boolean

    @classmethod
    def of(cls, ends: torch.Tensor, positions: torch.Tensor, window: int | None, *, on_cpu: bool) -> Blocks:
        """Split the trees of a batch into blocks."""
        blocks = [
            _block(tree_ends, tree_positions, window, tree, *span)
            for tree, (tree_ends, tree_positions) in enumerate(zip(ends, positions, strict=True))
            for span in _spans(tree_ends.tolist(), on_cpu=on_cpu)
        ]
        masks = [block.mask.flatten() for block in blocks if block.mask is not None]
        return cls(
            tuple((b.tree, b.first, b.last, len(b.keys), b.mask is not None) for b in blocks),
            torch.cat([block.keys for block in blocks]),
            torch.cat(masks) if masks else torch.empty(0, dtype=torch.bool),
        )

    @cached_property
    def each(self) -> list[Block]:
        """The blocks, with views of `keys` and `masks`."""
        found: list[Block] = []
        first_key = first_pair = 0
        for tree, first, last, count, is_masked in self.sizes:
            keys, mask = self.keys[first_key : first_key + count], None
            first_key += count
            if is_masked:
                pairs = (last - first) * count
                mask = self.masks[first_pair : first_pair + pairs].view(last - first, count)
                first_pair += pairs
            found.append(Block(tree, first, last, keys, mask))
        return found

    def moved(self, move: Callable[[torch.Tensor], torch.Tensor]) -> Blocks:
        """Return a copy with moved tensors."""
        return Blocks(self.sizes, move(self.keys), move(self.masks))


def _spans(ends: list[int], *, on_cpu: bool) -> Iterator[tuple[int, int]]:
    """Yield the ranges of queries of the blocks of one tree."""
    if on_cpu:
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
        key-value heads query heads. tree_blocks: the trees of the batch. sliding_window: number of tokens that a query
        of this layer sees, including itself; None: all. softcap, s_aux: capped logits and attention sinks, which no
        PyTorch kernel supports. Models with them train in rows (`packing.settle_packing`).

    Returns:
        [batch, seq, heads, dim].
    """
    if softcap is not None or s_aux is not None:
        raise NotImplementedError("attention with capped logits or sinks along prefix trees")
    blocks = tree_blocks.within(sliding_window)
    if isinstance(blocks, BlockLists):
        if dropout:
            raise NotImplementedError("attention dropout with FlexAttention")
        output = blocks.attend(query, key, value, scaling)
    else:
        output = _attend_in_blocks(query, key, value, blocks, scaling, dropout, tree_blocks.matrix_attention)
    return output.transpose(1, 2).contiguous(), None


def _attend_in_blocks(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    blocks: Blocks,
    scaling: float,
    dropout: float,
    matrix_attention: bool,
) -> torch.Tensor:
    """Return [batch, heads, seq, dim]."""
    # On a CPU the kernel uses one key-value head for a group of query heads without a copy. CUDA's kernel for masks
    # needs a copy for each query head.
    on_cpu = query.device.type == "cpu"
    copies = 1 if on_cpu else query.shape[1] // key.shape[1]
    as_products = on_cpu and query.dtype == torch.bfloat16 and not dropout and matrix_attention
    rows: list[list[torch.Tensor]] = [[] for _ in range(query.shape[0])]
    for block in blocks.each:
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
    return torch.cat([torch.cat(row, dim=2) for row in rows])


ALL_ATTENTION_FUNCTIONS.register(TREE_ATTENTION, tree_attention)
