"""Estimate the peak memory of training and of answering, in bytes, before any weight is loaded.

tests/train/test_memory.py compares the estimates with the bytes of all tensors that exist at the peak. The figures do
not include gaps in the allocator's memory.
"""

from __future__ import annotations

import math

import torch

from toolhone.config import Config
from toolhone.launcher import world_size
from toolhone.train import flex
from toolhone.train.fused_lora import fuses_lora
from toolhone.train.hardware import Hardware
from toolhone.train.loss import GPU_LOSS_BYTES
from toolhone.train.packing import uses_flex
from toolhone.train.sizes import BatchCount, Sizes

RUNTIME_BYTES = {"cpu": 1.2e9, "cuda": 0.5e9}
"""Memory of Python, torch, transformers and the tokenizer without weights (on Linux), and of CUDA's context."""
_NF4_BITS = 4 + 8 / 64 + 32 / (64 * 256)
"""Bits of a weight in NF4 with double quantisation: a scale in 8 bits for 64 weights, and one in 32 bits for 256 scales
(QLoRA, arXiv 2305.14314, section 3)."""
_TRL_LOGIT_COPIES = 12
"""Number of float32 copies of the logits that exist at once in TRL's loss."""
CACHE_ROOM = 64
"""Tokens by which a full cache grows while a batch is answered."""
SCORE_BYTES = 256 << 20
"""Most bytes of attention scores that are computed together while a batch is answered."""


def frozen_bytes(config: Config, hardware: Hardware, sizes: Sizes) -> float:
    """Return the bytes of the frozen weights. NF4 leaves embeddings, LM head and norms in the model's type."""
    width = hardware.dtype.itemsize
    if config.model.quantize == "nf4":
        return sizes.body * _NF4_BITS / 8 + (sizes.frozen - sizes.body) * width
    return float(sizes.frozen * width)


def training_bytes(config: Config, hardware: Hardware, sizes: Sizes, batch: BatchCount) -> float:
    """Return the peak of a training step on this batch: the weights, what is kept for each trained weight, and the
    larger of the batch's and the optimizer's tensors."""
    width = hardware.dtype.itemsize
    moments = 2 if "8bit" in config.train.optimizer else 0 if config.train.optimizer == "sgd" else 8
    # Weights and gradients in float32, the moments, and the buffer in which processes sum their gradients.
    trained = sizes.trainable * (4 + 4 + moments + (4 if world_size() > 1 else 0))
    casts = sizes.trainable * width if width < 4 else 0  # for products in 16 bits
    # PyTorch's AdamW computes all weights together if it is not fused. By then the batch's tensors are gone.
    update = sizes.trainable * 4 if config.train.optimizer == "adamw_torch" and hardware.device == "cuda" else 0
    batch_bytes = _batch_bytes(config, hardware, sizes, batch)
    return frozen_bytes(config, hardware, sizes) + trained + max(casts + batch_bytes, update)


def _batch_bytes(config: Config, hardware: Hardware, sizes: Sizes, batch: BatchCount) -> float:
    """Return the bytes of activations and logits at the peak: at the loss, or at the start of the backward pass."""
    width = hardware.dtype.itemsize
    kept = _kept_bytes(config, hardware, sizes, batch)
    layer = kept / sizes.layers
    # The gradients of a layer's MLP, and a quantised layer's weights.
    tokens = _positions(config, hardware, batch)
    backward = float(tokens * (3 * sizes.inner + 2 * sizes.hidden) * width)
    if config.model.quantize == "nf4":
        backward += sizes.largest * width
    if config.train.activation_checkpointing:  # a layer's input is kept; its other activations are computed again
        kept = tokens * sizes.hidden * width * sizes.layers
        backward += layer
    return kept + max(_logit_bytes(config, hardware, sizes, batch), backward)


def _positions(config: Config, hardware: Hardware, batch: BatchCount) -> int:
    trees, width = batch.shape
    return trees * (flex.padded(width) if uses_flex(config, hardware) else width)


def _logit_bytes(config: Config, hardware: Hardware, sizes: Sizes, batch: BatchCount) -> float:
    numbers = batch.head_positions * sizes.vocabulary
    if config.train.packing == "none":
        return numbers * 4 * _TRL_LOGIT_COPIES
    together = min(numbers * 4, GPU_LOSS_BYTES) if hardware.device == "cuda" else 0
    is_cast = hardware.dtype != torch.float32 and not fuses_lora(config, hardware)
    # accelerate copies the logits of autocast to float32.
    return numbers * (hardware.dtype.itemsize + (4 if is_cast else 0)) + together


def _kept_bytes(config: Config, hardware: Hardware, sizes: Sizes, batch: BatchCount) -> float:
    """Return the bytes that the forward pass keeps for the backward pass, without activation checkpointing.

    Numbers per token in a layer: the input of the attention's layers and of the MLP's (2 h); the queries, the attention
    output and its copy in the order of the tokens (3 `query`); the gate, its activation, the up projection and their
    product (4 inner). For each key: the key and value as attention reads them (2 `keys`). Norms keep their input in
    float32. A mask becomes a number for each pair. Autocast copies the input of every adapter: that of the query for
    key and value, and that of the gate for up. DoRA keeps the outputs of the frozen layer and of its adapter, to learn
    the lengths. For each layer it also computes the whole weight, its update and their sum in float32, one layer at a
    time.
    """
    width, on_cpu = hardware.dtype.itemsize, hardware.device == "cpu"
    numbers = 2 * sizes.hidden + 3 * sizes.query + 4 * sizes.inner
    if hardware.dtype != torch.float32 and not fuses_lora(config, hardware):
        numbers += 3 * sizes.hidden
    tokens = _positions(config, hardware, batch)
    is_tree = config.train.packing == "prefix_tree"
    if uses_flex(config, hardware):
        layer = tokens * (numbers + 2 * sizes.key_value)
    else:
        # On CUDA, and in rows with padding, keys and values are copied for every query head.
        keys = sizes.key_value if on_cpu and is_tree else sizes.query
        takes_boolean = on_cpu and width < 4 and is_tree and config.cpu.matrix_attention
        layer = tokens * numbers + batch.keys * 2 * keys + (0 if takes_boolean else batch.masked)
    kept = float(layer * width * sizes.layers + tokens * 4 * sizes.normed)
    if config.lora.dora:
        kept += 2 * tokens * sizes.adapted * width + 3 * 4 * sizes.hidden * max(sizes.inner, sizes.hidden)
    return kept


def answering_bytes(
    config: Config,
    hardware: Hardware,
    sizes: Sizes,
    *,
    rows: int,
    prefix_tokens: int,
    own_tokens: int,
    new_tokens: int,
    shares_prefix: bool,
    tuned: bool = True,
) -> float:
    """Return the peak while a batch is answered.

    Args:
        rows: rows of the batch. prefix_tokens: tokens that they share. own_tokens: the longest row's other tokens.
        new_tokens: tokens of the longest answer. shares_prefix: whether all rows use one copy of the prefix's cache.
        tuned: whether the model has an adapter.
    """
    width = hardware.dtype.itemsize
    weights = frozen_bytes(config, hardware, sizes) + tuned * sizes.trainable * 4
    key = 2 * sizes.key_value * width  # a token's key and value in a layer
    prompt = own_tokens + (0 if shares_prefix else prefix_tokens)
    tokens = prompt + new_tokens
    # A row's cache begins with room for some more tokens, and grows by as many.
    room = prompt + CACHE_ROOM + math.ceil(max(0, new_tokens - CACHE_ROOM - 1) / (CACHE_ROOM + 1)) * (CACHE_ROOM + 1)
    caches = (prefix_tokens * key + rows * room * key) * sizes.layers
    fill = rows * own_tokens * (3 * sizes.inner + 4 * sizes.hidden + 2 * sizes.query) * width
    if shares_prefix:
        caches += prefix_tokens * sizes.key_value * (4 if width < 4 else 0) * sizes.layers  # keys in float32
        seen = prefix_tokens + tokens
        scores = min(rows * sizes.heads * own_tokens * seen * 4, SCORE_BYTES)
        attention = scores * (3 + width / 4) + rows * own_tokens * 3 * sizes.query * 4
        step = rows * sizes.heads * seen * 4 * (3 + width / 4)
    else:  # transformers copies keys and values for every query head
        copies = 2 * sizes.query * width if sizes.query > sizes.key_value else 0
        attention = rows * prompt * copies + rows * own_tokens * (prompt + 3 * sizes.query) * width
        step = rows * tokens * copies
    if config.model.quantize == "nf4":
        fill += sizes.largest * width
    grown = rows * room * key if new_tokens > CACHE_ROOM else 0
    logits = rows * sizes.vocabulary * (width + (8 if width < 4 else 4))
    return weights + caches + max(fill, attention, step, grown, logits)
