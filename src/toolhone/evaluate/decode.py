"""Greedy decoding in batches over a prompt prefix that is computed once.

The prompts of a function-calling test set share nearly all their tokens: the system prompt and the tools. The
model runs their longest common prefix once. Each batch starts from a copy of its key-value cache, and finished rows
leave the batch. Every token has its raw log-probability and that of the runner-up.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

from toolhone.errors import UserError

_ROOM = 64  # a full cache grows by this many tokens


@dataclass(frozen=True, slots=True)
class Completion:
    """What a model generated for a row. `ids` ends with the stop token if `stopped`; `logprobs` are the natural
    logarithms of the tokens' raw probabilities, and `runner_ups` those of the second likeliest tokens."""

    ids: list[int]
    logprobs: Sequence[float]
    runner_ups: Sequence[float | None]
    stopped: bool


@dataclass(frozen=True, slots=True)
class Prefix:
    """Token ids that prompts begin with, and the cache after them (batch 1). Without ids the cache is None."""

    ids: list[int]
    cache: Cache | None


def shared_prefix(prompts: Sequence[list[int]]) -> list[int]:
    """Return the longest common prefix of the prompts that leaves each prompt at least one more token."""
    if not prompts:
        return []
    shortest, longest = min(prompts), max(prompts)  # the first and last in lexical order share the least
    limit = min(len(prompt) for prompt in prompts) - 1
    length = next((n for n in range(limit) if shortest[n] != longest[n]), limit)
    return list(shortest[:length])


@torch.inference_mode()
def compute_prefix(model: Any, ids: list[int]) -> Prefix:
    """Run the prefix through the model once."""
    if not ids:
        return Prefix([], None)
    cache = _new_cache()
    input_ids = torch.tensor([ids], device=model.device)  # [1, prefix]
    model(input_ids=input_ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return Prefix(ids, cache)


@torch.inference_mode()
def decode_greedily(
    model: Any, prompts: Sequence[Sequence[int]], prefix: Prefix, stop_ids: frozenset[int], max_new_tokens: int
) -> list[Completion]:
    """Answer a batch of prompts, each beginning with `prefix.ids` and at least one token longer.

    The batch is laid out as [prefix, padding, rest of the prompt]. The padding is masked, and position ids skip it. So
    in float32 every row gets the same tokens as alone.

    Raises:
        UserError: if prompts and answers are longer than the model's sliding window, and its attention cannot mask
        that.
    """
    own = [list(prompt[len(prefix.ids) :]) for prompt in prompts]
    width = max(len(ids) for ids in own)
    device = model.device
    start = len(prefix.ids)
    input_ids = torch.tensor([[0] * (width - len(ids)) + ids for ids in own], device=device)  # [batch, width]
    visible = torch.ones(len(own), start + width, dtype=torch.long, device=device)  # [batch, prefix + width]
    for row, ids in enumerate(own):
        visible[row, start : start + width - len(ids)] = 0
    positions = (visible.cumsum(dim=1) - 1).clamp(min=0)[:, start:]  # [batch, width]
    cache = _new_cache() if prefix.cache is None else copy.deepcopy(prefix.cache)
    if prefix.cache is not None:
        cache.batch_repeat_interleave(len(own))
    window = _outgrown_window(model, start + width + max_new_tokens)

    answers: list[tuple[list[int], list[float], list[float]]] = [([], [], []) for _ in own]
    rows = list(range(len(own)))  # which answer each row of the batch belongs to
    for _ in range(max_new_tokens):
        logits = model(
            input_ids=input_ids,
            attention_mask=visible if window is None else _windowed(model, visible, input_ids.shape[1], window),
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            # An index, not a slice: the rows of a slice are not contiguous, and in bfloat16 on a CPU the LM head then
            # copies its weight once for each row (5 seconds for 32 rows of SmolLM2).
            logits_to_keep=torch.tensor([input_ids.shape[1] - 1], device=device),
        ).logits[:, -1]  # [batch, vocabulary]
        logprobs = logits.float().log_softmax(dim=-1)
        best = logprobs.max(dim=-1)  # the first of equal values, unlike `topk`
        second = logprobs.topk(2, dim=-1).values[:, 1]  # [batch]
        chosen = zip(rows, best.indices.tolist(), best.values.tolist(), second.tolist(), strict=True)
        for row, token, logprob, runner_up in chosen:
            answers[row][0].append(token)
            answers[row][1].append(logprob)
            answers[row][2].append(runner_up)
        unfinished = [n for n, row in enumerate(rows) if answers[row][0][-1] not in stop_ids]
        if not unfinished:
            break
        next_ids, next_positions = best.indices[:, None], positions[:, -1:] + 1  # [batch, 1]
        if len(unfinished) < len(rows):
            keep = torch.tensor(unfinished, device=device)
            cache.batch_select_indices(keep)
            visible, next_ids, next_positions = visible[keep], next_ids[keep], next_positions[keep]
            rows = [rows[n] for n in unfinished]
        visible = torch.cat([visible, visible.new_ones(len(rows), 1)], dim=1)
        input_ids, positions = next_ids, next_positions
    return [Completion(*answer, stopped=bool(answer[0]) and answer[0][-1] in stop_ids) for answer in answers]


def _outgrown_window(model: Any, length: int) -> int | None:
    """Return the sliding window of the model's layers if it is smaller than this number of tokens, else None."""
    text = model.config.get_text_config()
    kinds = getattr(text, "layer_types", None)
    window = getattr(text, "sliding_window", None) if not kinds or "sliding_attention" in kinds else None
    if window is None or length <= window:
        return None
    if "flash" in model.config._attn_implementation:
        raise UserError(
            f"model.attention: prompts and answers of {length} tokens are longer than the model's sliding window of "
            f"{window}, which flash attention does not support with a shared prefix; set it to sdpa"
        )
    return int(window)


def _windowed(model: Any, visible: torch.Tensor, queries: int, window: int) -> torch.Tensor | dict[str, torch.Tensor]:
    """Return the attention mask of the last `queries` tokens for each kind of layer, as transformers expects it.

    transformers would count the padding between prefix and prompt as part of the window. Positions skip the padding.

    Args:
        visible: [batch, keys], 0 for padding.

    Returns:
        [batch, 1, queries, keys] to be added to the logits; one for each kind of layer if the model has two.
    """
    keys = torch.arange(visible.shape[1], device=visible.device)
    asking = keys[-queries:, None]  # [queries, 1]
    positions = visible.cumsum(dim=1)  # [batch, keys]
    near = positions[:, -queries:, None] - positions[:, None, :] < window  # [batch, queries, keys]
    # Padding sees only itself: a query without any key gives NaN.
    full = (keys <= asking) & visible.bool()[:, None, :] | (keys == asking)
    masks = {"full_attention": full, "sliding_attention": full & near}
    closed = torch.finfo(model.dtype).min
    added = {kind: (~mask).to(model.dtype)[:, None] * closed for kind, mask in masks.items()}
    return added if getattr(model.config.get_text_config(), "layer_types", None) else added["sliding_attention"]


def batches_by_length(prompts: Sequence[Sequence[int]], batch_size: int) -> Iterator[list[int]]:
    """Yield the indices of the prompts in batches of similar length, the longest first, so that memory peaks at the
    start."""
    order = sorted(range(len(prompts)), key=lambda n: (-len(prompts[n]), n))
    for first in range(0, len(order), batch_size):
        yield order[first : first + batch_size]


class _PreallocatedLayer(DynamicLayer):  # type: ignore[misc]
    """A layer's cache with preallocated space for more tokens.

    transformers copies its own cache in full for every new token. For 32 rows after a prefix of 1,000 tokens, the copy
    takes longer than the token itself. `keys` and `values` have the shape that other methods expect: [batch, heads,
    seq, dim].
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._rooms: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
        held, length = self.keys.shape[2], self.keys.shape[2] + key_states.shape[2]
        # Selecting or repeating rows creates new tensors of keys and values without preallocated space.
        if self._rooms is None or self.keys.data_ptr() != self._rooms[0].data_ptr() or length > self._rooms[0].shape[2]:
            self._rooms = _enlarged(self.keys, length), _enlarged(self.values, length)
        keys, values = self._rooms
        keys[:, :, held:length], values[:, :, held:length] = key_states, value_states
        self.keys, self.values = keys[:, :, :length], values[:, :, :length]
        return self.keys, self.values


def _enlarged(states: torch.Tensor, length: int) -> torch.Tensor:
    batch, heads, held, dim = states.shape
    room = states.new_empty(batch, heads, length + _ROOM, dim)
    room[:, :, :held] = states
    return room


def _new_cache() -> Cache:
    return Cache(layer_class_to_replicate=_PreallocatedLayer)
