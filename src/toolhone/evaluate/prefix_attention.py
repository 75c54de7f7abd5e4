"""Attention of rows that all continue one prefix, without a copy of the prefix's cache for each row.

64 rows after a prefix of 900 tokens would each hold a copy of the same keys and values: 6 GB for Qwen3-0.6B, which a
GPU would read again for every token. Here the queries of all rows are multiplied with the one copy. Each row's cache
has its own tokens only. A softmax over both parts gives the weights, computed in float32.

    with shared_prefix_attention(model):
        rows = ContinuedRows(own_prompts, prefix_cache, prefix_length, device)
        logits = model(**rows.inputs(ids), ...).logits
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers.cache_utils import Cache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from toolhone.evaluate.cache import select_rows
from toolhone.train.memory import SCORE_BYTES
from toolhone.train.packing import is_tested, other_layers

PREFIX_ATTENTION = "shared_prefix"
"""The name under which transformers finds `prefix_attention`."""
_OWN_CACHE = frozenset({"DeepseekV3ForCausalLM", "DiffLlamaForCausalLM", "MiniCPM3ForCausalLM"})
"""Classes whose attention changes keys or values after it has read them from the cache."""


class ContinuedRows:
    """A batch of rows after a prefix. Each row is laid out as [padding, its own prompt, its answer so far].

    Attributes:
        keys, values: of the prefix, one [1, key-value heads, prefix, dim] for each layer; keys in float32.
        cache: of the rows' own tokens.
        positions: [rows, seq], those of the tokens that are computed next. They skip the padding.
    """

    def __init__(self, lengths: Sequence[int], prefix: Cache, start: int, cache: Cache, device: torch.device) -> None:
        self.keys = [layer.keys.float() for layer in prefix.layers]
        self.values = [layer.values for layer in prefix.layers]
        self.cache = cache
        width = max(lengths)
        column = torch.arange(width)
        padding = torch.tensor([[width - length] for length in lengths])  # [rows, 1]
        # Padding counts as a token at the prefix's end that no other token sees.
        self.positions = (start + column - padding).clamp(min=start).to(device)
        self._visible = (column >= padding).to(device)  # [rows, own tokens so far]
        self._known = self.positions  # [rows, own tokens so far]
        self._masks: dict[int | None, tuple[torch.Tensor | None, torch.Tensor]] = {}

    def inputs(self, input_ids: torch.Tensor) -> dict[str, Any]:
        """Return the model's inputs for the tokens [rows, seq] at `positions`."""
        return {
            "input_ids": input_ids,
            "position_ids": self.positions,
            "past_key_values": self.cache,
            "use_cache": True,
            "rows_after_prefix": self,
        }

    def select(self, rows: torch.Tensor) -> None:
        """Keep these rows only."""
        select_rows(self.cache, rows)
        self.positions, self._visible, self._known = self.positions[rows], self._visible[rows], self._known[rows]

    def advance(self) -> None:
        """Make room for the next token of each row."""
        self.positions = self.positions[:, -1:] + 1
        self._known = torch.cat([self._known, self.positions], dim=1)
        self._visible = torch.cat([self._visible, self._visible.new_ones(len(self._visible), 1)], dim=1)
        self._masks = {}

    def hidden(self, window: int | None) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Return which keys the queries at `positions` do not see in a layer with this window: of the prefix [rows,
        seq, prefix] (None: they see all), and of their own row [rows, seq, own tokens so far]."""
        if window not in self._masks:
            order = torch.arange(self._known.shape[1], device=self._known.device)
            queries = self.positions.shape[1]
            own = ~self._visible[:, None, :] | (order > order[-queries:, None])
            prefix = None
            if window is not None:
                own = own | (self.positions[:, :, None] - self._known[:, None, :] >= window)
                places = torch.arange(self.keys[0].shape[2], device=order.device)
                prefix = self.positions[:, :, None] - places >= window
            self._masks[window] = prefix, own
        return self._masks[window]


def can_share_prefix(model: Any) -> bool:
    """Return whether `prefix_attention` can replace the attention of this model."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    is_plain = is_tested(base) and not other_layers(base.config) and type(base).__name__ not in _OWN_CACHE
    return is_plain and base.config._attn_implementation == "sdpa"


@contextmanager
def shared_prefix_attention(model: Any) -> Iterator[None]:
    """Let the model use `prefix_attention` in the body."""
    before = model.config._attn_implementation
    model.set_attn_implementation(PREFIX_ATTENTION)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def prefix_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    rows_after_prefix: ContinuedRows,
    scaling: float,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Compute the attention of rows after a prefix. transformers calls this like its own attention functions.

    Args:
        query: [rows, heads, seq, dim]. key, value: [rows, key-value heads, own tokens, dim].

    Returns:
        [rows, seq, heads, dim].
    """
    layer: Any = module.layer_idx
    prefix = rows_after_prefix.keys[layer], rows_after_prefix.values[layer]
    hidden_prefix, hidden_own = rows_after_prefix.hidden(sliding_window)
    tokens = prefix[0].shape[2] + key.shape[2]
    # More rows than this are computed one part after another.
    rows = max(1, SCORE_BYTES // (4 * query.shape[1] * query.shape[2] * tokens))
    parts = []
    for first in range(0, len(query), rows):
        some = slice(first, first + rows)
        of_prefix = None if hidden_prefix is None else hidden_prefix[some]
        parts.append(_attend(query[some], key[some], value[some], prefix, of_prefix, hidden_own[some], scaling))
    output = torch.cat(parts) if len(parts) > 1 else parts[0]
    return output.transpose(1, 2).contiguous(), None


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    prefix: tuple[torch.Tensor, torch.Tensor],
    hidden_prefix: torch.Tensor | None,
    hidden_own: torch.Tensor,
    scaling: float,
) -> torch.Tensor:
    """Return [rows, heads, seq, dim of values]."""
    rows, heads, seq, dim = query.shape
    shared, group = key.shape[1], heads // key.shape[1]  # each key-value head belongs to a group of query heads
    grouped = (query.float() * scaling).reshape(rows, shared, group * seq, dim)
    # All rows stand one below the other, so that each key of the prefix is read once.
    stacked = grouped.transpose(0, 1).reshape(shared, rows * group * seq, dim)
    of_prefix = (stacked @ prefix[0][0].transpose(1, 2)).view(shared, rows, group, seq, -1)
    of_own = (grouped @ key.float().transpose(2, 3)).view(rows, shared, group, seq, -1).transpose(0, 1)
    if hidden_prefix is not None:
        of_prefix = of_prefix.masked_fill(hidden_prefix[None, :, None], float("-inf"))
    of_own = of_own.masked_fill(hidden_own[None, :, None], float("-inf"))
    weights = torch.cat([of_prefix, of_own], dim=-1).softmax(dim=-1).to(value.dtype)
    tokens = of_prefix.shape[-1]
    on_prefix, on_own = weights[..., :tokens], weights[..., tokens:]
    output: torch.Tensor = on_prefix.reshape(shared, rows * group * seq, -1) @ prefix[1][0]
    output = output.view(shared, rows, group * seq, -1).transpose(0, 1)
    output = output + on_own.transpose(0, 1).reshape(rows, shared, group * seq, -1) @ value
    return output.reshape(rows, heads, seq, -1)


ALL_ATTENTION_FUNCTIONS.register(PREFIX_ATTENTION, prefix_attention)
