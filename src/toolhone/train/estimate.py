"""Estimate what training takes before any weight is loaded: steps, tokens, parameters, memory and operations.

Parameters are counted by building the architecture on PyTorch's meta device, which has shapes but no storage. Computed
tokens are counted by arranging one pass over the data in batches, as training does.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import get_peft_model
from peft.tuners.lora.layer import LoraLayer

from toolhone.chat.render import IGNORED, LabelledTokens
from toolhone.config import Config
from toolhone.launcher import world_size
from toolhone.train.adapter import lora_config
from toolhone.train.attention import AttentionBlocks
from toolhone.train.batches import TreeCollator
from toolhone.train.hardware import Hardware
from toolhone.train.language_layers import model_without_weights

# Memory of Python, torch, transformers and the tokenizer without weights (on Linux), and of CUDA's context.
_RUNTIME_GB = {"cpu": 1.2, "cuda": 0.5}
# Number of float32 copies of the logits that exist at once in toolhone's loss, and in TRL's.
_LOGIT_COPIES, _TRL_LOGIT_COPIES = 1, 12


@dataclass(frozen=True, slots=True)
class BatchCount:
    """The work of a forward pass: tokens, positions at the LM head, pairs of query and key, and keys. A key that
    several blocks of queries see counts once for each block."""

    tokens: int
    head_positions: int
    pairs: int
    keys: int


@dataclass(frozen=True, slots=True)
class Sizes:
    """A model's sizes.

    `body` counts the frozen weights that every token is multiplied with, `adapter` the trained ones. `frozen` and
    `trainable` count all weights; embeddings and LM head may be among the trained ones (lora.modules_to_save), and
    `trains_head` says whether the LM head is. `adapted` is the sum of the output widths of all layers with an adapter.
    `hidden`, `inner` and `key_value` are the widths of hidden states, of the MLP's inner states, and of a token's key
    (or value) in all heads.
    """

    body: int
    adapter: int
    frozen: int
    trainable: int
    adapted: int
    hidden: int
    inner: int
    key_value: int
    layers: int
    vocabulary: int
    trains_head: bool


@dataclass(frozen=True, slots=True)
class Estimate:
    """The estimate of one run.

    `logical_tokens` counts every row of a pass in full, `computed_tokens` counts shared prefixes once (or includes
    padding). `memory_gb` is the peak in GB of 10^9 bytes: resident memory on a CPU, GPU memory on CUDA. `epoch` has the
    batches of one pass. A step takes `batches_per_step` of them.
    """

    examples: int
    longest: int
    logical_tokens: int
    computed_tokens: int
    labelled_tokens: int
    steps: int
    effective_batch: int
    trainable_parameters: int
    total_parameters: int
    memory_gb: float
    sizes: Sizes
    epoch: list[BatchCount]
    batches_per_step: int


def estimate(
    config: Config,
    hardware: Hardware,
    model_config: Any,
    rows: Sequence[LabelledTokens],
    order: Sequence[int] | None = None,
) -> Estimate:
    """Estimate a training run on these rows, in the given order or shuffled."""
    sizes = model_sizes(config, model_config)
    # TRL's loss runs the LM head at every position, except on devices with Triton.
    every_position = config.train.packing == "none" and hardware.device == "cpu"
    batches = count_batches(config, rows, order, every_position=every_position)
    per_step = config.train.gradient_accumulation * world_size()
    steps_per_epoch = math.ceil(len(batches) / per_step)
    steps = config.train.max_steps or math.ceil(steps_per_epoch * config.train.epochs)
    return Estimate(
        examples=len(rows),
        longest=max(len(row.ids) for row in rows),
        logical_tokens=sum(len(row.ids) for row in rows),
        computed_tokens=sum(batch.tokens for batch in batches),
        labelled_tokens=sum(len(row.ids) - row.prompt_length for row in rows),
        steps=steps,
        effective_batch=config.train.batch_size * per_step,
        trainable_parameters=sizes.trainable,
        total_parameters=sizes.frozen + sizes.trainable,
        memory_gb=round(_memory_gb(config, hardware, sizes, batches), 2),
        sizes=sizes,
        epoch=batches,
        batches_per_step=per_step,
    )


def count_batches(
    config: Config, rows: Sequence[LabelledTokens], order: Sequence[int] | None = None, *, every_position: bool = False
) -> list[BatchCount]:
    """Return the batches of one pass over the rows, in the given order or shuffled. With `every_position`, all
    positions of a padded batch reach the LM head, not only the labelled ones."""
    ordered = [rows[index] for index in order] if order is not None else list(rows)
    if order is None:
        random.Random(config.seed).shuffle(ordered)
    size = config.train.batch_size
    chunks = [ordered[first : first + size] for first in range(0, len(ordered), size)]
    if config.train.packing == "prefix_tree":
        return [_tree_batch(config, chunk) for chunk in chunks]
    return [_padded_batch(chunk, every_position) for chunk in chunks]


def _tree_batch(config: Config, rows: list[LabelledTokens]) -> BatchCount:
    collator = TreeCollator(0, config.train.tree_tokens)
    batch = collator(
        [{"input_ids": r.ids, "labels": r.labels, "weights": r.weights, "prompt_length": r.prompt_length} for r in rows]
    )
    blocks = AttentionBlocks(batch["ends"], batch["position_ids"]).within(None)
    pairs = sum((b.last - b.first) * len(b.keys) // (1 if b.mask is not None else 2) for b in blocks)
    labelled = int((batch["labels"] != IGNORED).any(dim=0).sum()) * len(batch["labels"])
    return BatchCount(int(batch["computed_tokens"]), labelled, pairs, sum(len(b.keys) for b in blocks))


def _padded_batch(rows: list[LabelledTokens], every_position: bool) -> BatchCount:
    longest = max(len(row.ids) for row in rows)
    tokens = len(rows) * longest
    labelled = len({column for row in rows for column in range(row.prompt_length, len(row.ids))}) * len(rows)
    return BatchCount(tokens, tokens if every_position else labelled, tokens * longest // 2, tokens)


def model_sizes(config: Config, model_config: Any) -> Sizes:
    """Count the weights of the model and its adapter without allocating them."""
    text = model_config.get_text_config()
    model = model_without_weights(config.model, model_config)
    # Only MiCA changes what is trained; the others would compute on weights that have no values here.
    init = "mica" if config.lora.init == "mica" else "default"
    with torch.device("meta"):
        get_peft_model(model, lora_config(config.lora, model, init=init))
    heads = _size_of(text, "num_attention_heads") or 1  # recurrent models may have none
    dim = _size_of(text, "head_dim") or text.hidden_size // heads
    weights = list(model.named_parameters())
    # PEFT keeps the original of a fully trained module, but no token is multiplied with it.
    unused = ("embed", "lm_head", ".original_module.")
    used = [(name, p) for name, p in weights if p.dim() == 2 and not any(word in name for word in unused)]
    return Sizes(
        body=sum(p.numel() for name, p in used if not p.requires_grad and "lora_" not in name),
        adapter=sum(p.numel() for name, p in used if p.requires_grad or "lora_" in name),
        frozen=sum(p.numel() for _, p in weights if not p.requires_grad),
        trainable=sum(p.numel() for _, p in weights if p.requires_grad),
        adapted=sum(layer.out_features for layer in model.modules() if isinstance(layer, LoraLayer)),
        hidden=int(text.hidden_size),
        inner=_size_of(text, "intermediate_size") or 4 * int(text.hidden_size),
        key_value=(_size_of(text, "num_key_value_heads") or heads) * dim,
        layers=int(text.num_hidden_layers),
        vocabulary=int(text.vocab_size),
        trains_head=model.get_output_embeddings().weight.requires_grad,
    )


def _size_of(text: Any, name: str) -> int:
    """Return a size from a text config, the largest if layers differ; 0 if it has none. Some configs let no attribute
    be read whose value differs between layers, so it is read from the dictionary."""
    value = text.to_dict().get(getattr(type(text), "attribute_map", {}).get(name, name)) or 0
    return int(max(value) if isinstance(value, list) else value)


def training_flops(sizes: Sizes, batch: BatchCount) -> float:
    """Return the floating-point operations of one forward and backward pass through all layers with LoRA, without the
    LM head.

    Per token, a weight costs 2 operations forward, 2 for the gradient of its input and 2 for its own gradient (Kaplan
    et al. 2020, section 2.1: 6 N). Frozen weights have no gradient, so LoRA costs 4 N and saves a third of the
    arithmetic of full tuning. Attention costs 4 h for each visible pair forward, and two and a half times that
    backward.
    """
    weights = batch.tokens * (4 * sizes.body + 6 * sizes.adapter)
    return float(weights + 14 * batch.pairs * sizes.hidden * sizes.layers)


def forward_flops(sizes: Sizes, tokens: int, seen: int = 0) -> float:
    """Return the floating-point operations of a forward pass over these tokens after `seen` ones, without the LM
    head."""
    pairs = tokens * seen + tokens * tokens // 2
    return float(2 * tokens * sizes.body + 4 * pairs * sizes.hidden * sizes.layers)


def _memory_gb(config: Config, hardware: Hardware, sizes: Sizes, batches: Sequence[BatchCount]) -> float:
    width = hardware.dtype.itemsize
    frozen = float(sizes.frozen * width)
    if config.model.quantize == "nf4":
        # NF4 with double quantisation takes 4.127 bits per weight (QLoRA, section 3); embeddings and norms stay wide.
        frozen = sizes.body * 4.127 / 8 + (sizes.frozen - sizes.body) * width
    moments = 2 if "8bit" in config.train.optimizer else 0 if config.train.optimizer == "sgd" else 8
    # Weights, gradients and AdamW's two moments in float32, and the copies that a 16-bit product takes of the weights.
    trained = sizes.trainable * (4 + 4 + moments + (width if width < 4 else 0))
    is_ours = config.train.packing != "none"
    logits = (_LOGIT_COPIES if is_ours else _TRL_LOGIT_COPIES) * sizes.vocabulary * 4
    # On CUDA keys and values are copied for every query head (see tree_attention).
    key_width = sizes.key_value if hardware.device == "cpu" else sizes.hidden
    batch = max(
        _kept_bytes(config, sizes, batch, width, key_width) + batch.head_positions * logits for batch in batches
    )
    return (frozen + trained + batch) / 1e9 + _RUNTIME_GB[hardware.device]


def _kept_bytes(config: Config, sizes: Sizes, batch: BatchCount, width: int, key_width: int) -> float:
    """Return the bytes that the forward pass keeps for the backward pass.

    Numbers per token in a layer: the inputs of two norms and of the layers after them (6 h), the query and two copies
    of the attention output (3 h), and in the MLP the gate, its activation, the up projection and their product (4
    inner). For each key: the key and value as attention reads them (2 `key_width`). DoRA keeps the outputs of the
    frozen layer and of its adapter, to learn the lengths. For each layer it also computes the whole weight, its update
    and their sum in float32, one layer at a time.
    """
    if config.lora.dora:
        whole = 3 * 4 * sizes.hidden * max(sizes.inner, sizes.hidden)
        plain = config.model_copy(update={"lora": config.lora.model_copy(update={"dora": False})})
        outputs: float = 2 * batch.tokens * sizes.adapted * width
        if config.train.activation_checkpointing:
            outputs /= sizes.layers
        return _kept_bytes(plain, sizes, batch, width, key_width) + outputs + whole
    layer = (batch.tokens * (9 * sizes.hidden + 4 * sizes.inner) + batch.keys * 2 * key_width) * width
    if config.train.activation_checkpointing:  # one layer at a time, and the input of each
        return float(layer + batch.tokens * sizes.hidden * width * sizes.layers)
    return float(layer * sizes.layers)
