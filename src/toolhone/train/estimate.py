"""Estimate what training takes before any weight is loaded: steps, tokens, parameters, memory and operations.

Computed tokens are counted by arranging one pass over the data in batches, as training does.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from toolhone.chat.render import IGNORED, LabelledTokens
from toolhone.config import Config
from toolhone.launcher import world_size
from toolhone.train.batches import TreeAttention, TreeCollator
from toolhone.train.hardware import Hardware
from toolhone.train.memory import RUNTIME_BYTES, training_bytes
from toolhone.train.sizes import BatchCount, Sizes, model_sizes


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
    batches = count_batches(config, rows, order, every_position=every_position, device=hardware.device)
    memory = RUNTIME_BYTES[hardware.device] + max(training_bytes(config, hardware, sizes, batch) for batch in batches)
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
        memory_gb=round(memory / 1e9, 2),
        sizes=sizes,
        epoch=batches,
        batches_per_step=per_step,
    )


def count_batches(
    config: Config,
    rows: Sequence[LabelledTokens],
    order: Sequence[int] | None = None,
    *,
    every_position: bool = False,
    device: str = "cpu",
) -> list[BatchCount]:
    """Return the batches of one pass over the rows, in the given order or shuffled. With `every_position`, all
    positions of a padded batch reach the LM head, not only the labelled ones. `device` computes the attention."""
    ordered = [rows[index] for index in order] if order is not None else list(rows)
    if order is None:
        random.Random(config.seed).shuffle(ordered)
    size = config.train.batch_size
    chunks = [ordered[first : first + size] for first in range(0, len(ordered), size)]
    if config.train.packing == "prefix_tree":
        return [_tree_batch(config, chunk, device) for chunk in chunks]
    return [_padded_batch(chunk, every_position) for chunk in chunks]


def _tree_batch(config: Config, rows: list[LabelledTokens], device: str) -> BatchCount:
    collator = TreeCollator(0, config.train.tree_tokens, TreeAttention(device=device))
    batch = collator(
        [{"input_ids": r.ids, "labels": r.labels, "weights": r.weights, "prompt_length": r.prompt_length} for r in rows]
    )
    blocks = batch["tree_blocks"].within(None).each
    masked = sum((b.last - b.first) * len(b.keys) for b in blocks if b.mask is not None)
    pairs = masked + sum((b.last - b.first) * len(b.keys) // 2 for b in blocks if b.mask is None)
    labelled = int((batch["labels"] != IGNORED).any(dim=0).sum()) * len(batch["labels"])
    keys = sum(len(b.keys) for b in blocks)
    return BatchCount(batch["computed_tokens"], labelled, pairs, keys, masked, tuple(batch["input_ids"].shape))


def _padded_batch(rows: list[LabelledTokens], every_position: bool) -> BatchCount:
    longest = max(len(row.ids) for row in rows)
    tokens = len(rows) * longest
    labelled = len({column for row in rows for column in range(row.prompt_length, len(row.ids))}) * len(rows)
    masked = tokens * longest if tokens > sum(len(row.ids) for row in rows) else 0  # without padding no mask is needed
    return BatchCount(
        tokens, tokens if every_position else labelled, tokens * longest // 2, tokens, masked, (len(rows), longest)
    )


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
