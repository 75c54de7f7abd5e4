"""What a run would take, by formula, before any weight is loaded: steps, tokens, parameters, memory and time.

The architecture is built on PyTorch's meta device, which has shapes but no storage, so parameters are counted and not
guessed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM

from toolhone.config import Config
from toolhone.hardware import Hardware, world_size
from toolhone.train.trainer import lora_config

# What Python, torch, transformers and the tokenizer hold before any weight, measured as resident memory on Linux.
_RUNTIME_GB = 0.9
# The share of the measured matrix-product rate that a whole training step reaches.
_STEP_EFFICIENCY = {"cpu": 0.75, "cuda": 0.4}


@dataclass(frozen=True, slots=True)
class Estimate:
    """One run by formula. `memory_gb` is the peak in GB of 10^9 bytes: resident memory on a CPU, GPU memory on CUDA."""

    examples: int
    tokens: int
    labelled_tokens: int
    longest: int
    steps: int
    effective_batch: int
    trainable_parameters: int
    total_parameters: int
    memory_gb: float
    seconds: float


def estimate(config: Config, hardware: Hardware, model_config: Any, lengths: Sequence[tuple[int, int]]) -> Estimate:
    """Estimate a training run.

    Args:
        lengths: for each example, its tokens and how many of them are labelled.
    """
    model, trainable, total = _on_meta_device(config, model_config)
    effective = config.train.batch_size * config.train.gradient_accumulation * world_size()
    steps_per_epoch = math.ceil(len(lengths) / effective)
    steps = config.train.max_steps or math.ceil(steps_per_epoch * config.train.epochs)
    share = min(1.0, steps / steps_per_epoch) if steps < steps_per_epoch else steps / steps_per_epoch
    tokens = sum(length for length, _ in lengths)
    labelled = sum(count for _, count in lengths)
    flops = share * _flops(model, model_config, trainable, tokens, _padded_tokens(config, lengths))
    rate = _matrix_product_rate(hardware) * _STEP_EFFICIENCY[hardware.device] * world_size()
    return Estimate(
        examples=len(lengths),
        tokens=tokens,
        labelled_tokens=labelled,
        longest=max(length for length, _ in lengths),
        steps=steps,
        effective_batch=effective,
        trainable_parameters=trainable,
        total_parameters=total,
        memory_gb=_memory_gb(config, hardware, model, model_config, trainable, lengths),
        seconds=flops / rate,
    )


def _on_meta_device(config: Config, model_config: Any) -> tuple[Any, int, int]:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(model_config, dtype=torch.float32)
        adapted = get_peft_model(model, lora_config(config.lora))
    trainable = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    return model, trainable, sum(p.numel() for p in adapted.parameters())


def _body_parameters(model: Any) -> int:
    """Weights that every token is multiplied with: all but the embeddings, norms and adapters."""
    return sum(
        p.numel()
        for name, p in model.named_parameters()
        if p.dim() == 2 and not {"lora_", "embed", "lm_head"} & _words(name)
    )


def _words(name: str) -> set[str]:
    return {word for word in ("lora_", "embed", "lm_head") if word in name}


def _flops(model: Any, model_config: Any, trainable: int, tokens: int, padded: int) -> float:
    """Floating-point operations of one pass over the data with LoRA.

    A weight costs 2 operations a token forward and 2 for the gradient of its input; the frozen ones need no gradient of
    their own, which full tuning adds as 2 more (6 N, Kaplan et al. 2020, section 2.1): LoRA saves a third. The adapters
    cost 6, and the LM head, which is frozen, 4 at every position.
    """
    text = model_config.get_text_config()
    head = text.vocab_size * text.hidden_size
    attention = 4 * text.num_hidden_layers * text.hidden_size * (padded / max(1, tokens))
    return float(padded * (4 * _body_parameters(model) + 6 * trainable + 4 * head) + attention * tokens)


def _padded_tokens(config: Config, lengths: Sequence[tuple[int, int]]) -> int:
    """Tokens that are computed, each row being padded to the longest of its batch."""
    size = config.train.batch_size
    ordered = sorted((length for length, _ in lengths), reverse=True)
    # The expected maximum of `size` draws without replacement, over the ordered lengths.
    count = len(ordered)
    if size >= count:
        return ordered[0] * count
    expected, left = 0.0, 1.0
    for place, length in enumerate(ordered):
        chance = left * size / (count - place)
        expected += min(1.0, chance) * length
        left = max(0.0, left - chance)
    return round(expected * count)


def _memory_gb(
    config: Config,
    hardware: Hardware,
    model: Any,
    model_config: Any,
    trainable: int,
    lengths: Sequence[tuple[int, int]],
) -> float:
    text = model_config.get_text_config()
    width = hardware.dtype.itemsize
    batch_tokens = config.train.batch_size * max(length for length, _ in lengths)
    frozen = sum(p.numel() for name, p in model.named_parameters() if "lora_" not in name)
    body = _body_parameters(model)
    # NF4 with double quantisation takes 4.127 bits a weight (QLoRA, section 3); embeddings and norms stay as they are.
    weights = body * 4.127 / 8 + (frozen - body) * width if config.model.quantize == "nf4" else frozen * width
    adapter = trainable * (
        4 + 4 + (2 if "8bit" in config.train.optimizer else 8)
    )  # weights, gradients, AdamW's moments
    total = weights + adapter + batch_tokens * _activation_bytes(config, text, width)
    return round(total / 1e9 + (_RUNTIME_GB if hardware.device == "cpu" else 0.3), 2)


def _activation_bytes(config: Config, text: Any, width: int) -> float:
    """Bytes a token that the forward pass keeps for the backward pass, and the LM head's while it lasts."""
    hidden, inner = text.hidden_size, text.intermediate_size
    key_value = hidden * text.num_key_value_heads / text.num_attention_heads
    # Kept in a Llama layer: the two norms' inputs and outputs and the residuals (6 h), q and attention output (2 h, and
    # once more rotated), k and v with their rotated copy, gate, up, their activation and product (4 inner), and the
    # adapters' inner values, which are small.
    layer = (8 * hidden + 3 * key_value + 4 * inner) * width
    kept = (
        hidden * width * text.num_hidden_layers + layer
        if config.train.activation_checkpointing
        else (layer * text.num_hidden_layers)
    )
    return float(kept + _HEAD_COPIES * text.vocab_size * 4)


# Float32 copies of the logits that are alive at once in the LM head and its gradient.
_HEAD_COPIES = 3


def _matrix_product_rate(hardware: Hardware) -> float:
    """Floating-point operations a second of a matrix product of this dtype, measured for a fraction of a second."""
    size = 1024 if hardware.device == "cpu" else 8192
    left = torch.randn(size, size, dtype=hardware.dtype, device=hardware.device)
    left @ left
    repeats = 8
    _wait(hardware)
    started = time.perf_counter()
    for _ in range(repeats):
        left @ left
    _wait(hardware)
    return float(repeats * 2 * size**3) / (time.perf_counter() - started)


def _wait(hardware: Hardware) -> None:
    if hardware.device == "cuda":
        torch.cuda.synchronize()
