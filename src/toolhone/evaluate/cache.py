"""Caches for decoding: what the layers of a model keep of the tokens that they have seen.

Attention layers keep a key and a value of each token, and a mask can hide padding among them. Recurrent and convolution
layers keep a state of fixed size, from which padding cannot be removed. So such caches are filled without padding, one
for each length of prompt, and then stacked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import pad
from transformers.cache_utils import (
    Cache,
    DummyLayer,
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionLayer,
)

from toolhone.train.memory import CACHE_ROOM


def new_cache(model_config: Any) -> Cache:
    """Return an empty cache for a model. Its attention layers keep every token, also behind a sliding window."""
    if not has_states(model_config):
        return Cache(layer_class_to_replicate=_PreallocatedLayer)
    attention = (DynamicLayer, DynamicSlidingWindowLayer)
    layers = DynamicCache(config=model_config).layers
    return Cache(layers=[_PreallocatedLayer() if type(layer) in attention else layer for layer in layers])


def has_states(model_config: Any) -> bool:
    """Return whether a model has layers that keep a state, or anything else than keys and values."""
    known = (DynamicLayer, DynamicSlidingWindowLayer)
    return not all(type(layer) in known for layer in _layers(model_config))


def can_stack(model_config: Any) -> bool:
    """Return whether the caches of a model's rows can be stacked to that of a batch."""
    known = (
        DynamicLayer,
        DynamicSlidingWindowLayer,
        DummyLayer,
        LinearAttentionLayer,
        LinearAttentionAndFullAttentionLayer,
    )
    return all(type(layer) in known for layer in _layers(model_config))


def _layers(model_config: Any) -> list[Any]:
    layers: list[Any] = DynamicCache(config=model_config).layers
    if not any(isinstance(layer, LinearAttentionLayer) for layer in layers):
        # The last layers of some models use the keys of earlier ones and keep none.
        while layers and type(layers[-1]) is DummyLayer:
            layers.pop()
    return layers


def keeps_keys(cache: Cache) -> bool:
    """Return whether a layer of the cache keeps the keys of tokens, among which padding must be masked."""
    return any(isinstance(layer, DynamicLayer) for layer in cache.layers)


def select_rows(cache: Cache, rows: torch.Tensor) -> None:
    """Replace the rows of a cache by these of its rows, in this order. A row may be named more than once."""
    for layer in cache.layers:
        layer.reorder_cache(rows)


def stack(caches: Sequence[Cache], length: int) -> Cache:
    """Return one cache with the rows of all of these. Keys and values are padded on the left to `length` tokens."""
    stacked = caches[0]
    for layer, *others in zip(*(cache.layers for cache in caches), strict=True):
        parts = [layer, *others]
        if isinstance(layer, DynamicLayer):
            layer.keys = torch.cat([_padded(part.keys, length) for part in parts])
            layer.values = torch.cat([_padded(part.values, length) for part in parts])
        if isinstance(layer, LinearAttentionLayer):
            for states in ("conv_states", "recurrent_states"):
                named = [getattr(part, states) for part in parts]
                joined = {
                    n: None if first is None else torch.cat([s[n] for s in named]) for n, first in named[0].items()
                }
                setattr(layer, states, joined)
    return stacked


def _padded(states: torch.Tensor, length: int) -> torch.Tensor:
    return pad(states, (0, 0, length - states.shape[2], 0))


class _PreallocatedLayer(DynamicLayer):  # type: ignore[misc]
    """A layer's cache with preallocated space for more tokens.

    transformers copies its own cache in full for every new token. For 32 rows after a prefix of 1,000 tokens, the copy
    takes longer than the token itself. `keys` and `values` have the shape that other methods expect: [batch, heads,
    seq, dim].
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._rooms: tuple[torch.Tensor, torch.Tensor] | None = None
        self._view: torch.Tensor | None = None  # `keys` as these methods left it

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
        held, length = self.keys.shape[2], self.keys.shape[2] + key_states.shape[2]
        keys, values = self._held_rooms()
        if length > keys.shape[2]:
            keys, values = _enlarged(self.keys, length), _enlarged(self.values, length)
        keys[:, :, held:length], values[:, :, held:length] = key_states, value_states
        self._hold(keys, values, length)
        return self.keys, self.values

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Select rows together with their preallocated space. Otherwise all layers would hold the old space until the
        next token, and copy the selected rows again."""
        if self.get_seq_length() > 0:
            held, rooms = self.keys.shape[2], self._held_rooms()
            keys, values = (room.index_select(0, beam_idx.to(room.device)) for room in rooms)
            self._hold(keys, values, held)

    def _hold(self, keys: torch.Tensor, values: torch.Tensor, length: int) -> None:
        self._rooms = keys, values
        self.keys, self.values = keys[:, :, :length], values[:, :, :length]
        self._view = self.keys

    def _held_rooms(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the space that holds keys and values. Other methods than these may have replaced the two."""
        return self._rooms if self._rooms is not None and self.keys is self._view else (self.keys, self.values)


def _enlarged(states: torch.Tensor, length: int) -> torch.Tensor:
    batch, heads, held, dim = states.shape
    room = states.new_empty(batch, heads, length + CACHE_ROOM, dim)
    room[:, :, :held] = states
    return room
