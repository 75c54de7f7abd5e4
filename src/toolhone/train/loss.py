"""Compute the loss of the labelled tokens. Only they reach the LM head; cross-entropy is computed a few rows at a time.

PyTorch's cross-entropy keeps the logits, their float32 copy and their log-softmax, and allocates two gradients of the
same size. With a vocabulary of 262,144 (Gemma) that takes a quarter of a training step on a CPU, mostly for allocating
memory. This module computes the gradient together with the loss, in the memory of the logits.
"""

from __future__ import annotations

from typing import Any

import torch

from toolhone.chat.render import IGNORED
from toolhone.train.batches import asked_positions

_CPU_ROWS = 8
"""Number of logit rows that a CPU computes together: few enough to fit into its cache."""
GPU_LOSS_BYTES = 256 << 20
"""Size of the float32 logits that a GPU computes together: few launches, and little memory next to the logits."""


def label_loss(
    model: Any,
    labels: torch.Tensor,
    weights: torch.Tensor | None = None,
    asked: torch.Tensor | None = None,
    **inputs: Any,
) -> torch.Tensor:
    """Return the summed cross-entropy of the labelled tokens of a batch.

    Only the positions before a label reach the LM head. With all positions, the LM head would take a fifth of a small
    model's arithmetic, more than half with a large vocabulary, and most of the memory.

    Args:
        labels: [batch, seq], IGNORED for tokens without a label.
        weights: [batch, seq], the weight of each label; None: 1.
        asked: [asked], `asked_positions(labels)`; None: computed here, which makes the CPU wait for a GPU.
        inputs: the model's other inputs, with `input_ids` [batch, seq].

    Returns:
        A scalar, as from `summed_cross_entropy`.
    """
    targets = labels[:, 1:]
    if asked is None:
        asked = asked_positions(labels)
    logits = model(**inputs, use_cache=False, logits_to_keep=asked).logits  # [batch, asked, vocabulary]
    if logits.shape[1] != len(asked):  # this class ignores logits_to_keep
        logits = logits[:, asked]
    counted = None if weights is None else weights[:, 1:][:, asked].flatten()
    return summed_cross_entropy(logits.flatten(0, 1), targets[:, asked].flatten(), counted)


def summed_cross_entropy(
    logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Return `cross_entropy(logits.float(), targets, ignore_index=IGNORED, reduction="sum")`, up to rounding.

    Args:
        logits: [positions, vocabulary], of any floating type; computed at least in float32. If they need a gradient, it
            overwrites them in place, so nothing else may read them.
        targets: [positions], the index of the right token, or IGNORED.
        weights: [positions], the weight of each target; None: 1.

    Returns:
        A scalar, at least in float32. Its gradient can be computed only once.
    """
    loss: torch.Tensor = _SummedCrossEntropy.apply(logits, targets, weights)  # type: ignore[no-untyped-call]
    return loss


class _SummedCrossEntropy(torch.autograd.Function):
    """The gradient of -log softmax(x)[t] is softmax(x) - onehot(t)."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
        wide = torch.promote_types(logits.dtype, torch.float32)
        counted = (targets != IGNORED).to(wide)
        if weights is not None:
            counted *= weights
        right = targets.masked_fill(targets == IGNORED, 0)  # a valid index for the ignored ones too
        loss = torch.zeros((), dtype=wide, device=logits.device)
        size = _rows_together(logits, wide)
        copy = logits.new_empty((min(size, len(logits)), logits.shape[1]), dtype=wide)
        for rows, token, weight in zip(*(torch.split(x, size) for x in (logits, right, counted)), strict=True):
            scores = copy[: len(rows)].copy_(rows)
            scores -= scores.amax(dim=1, keepdim=True)
            chosen = scores.gather(1, token[:, None]).squeeze(1)
            total = scores.exp_().sum(dim=1)
            loss += ((total.log() - chosen) * weight).sum()
            if ctx.needs_input_grad[0]:
                scores *= (weight / total)[:, None]
                rows.copy_(scores.scatter_add_(1, token[:, None], -weight[:, None]))
        ctx.save_for_backward(logits)
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (of_one,) = ctx.saved_tensors
        return of_one.mul_(gradient), None, None  # autograd refuses a second backward pass


def _rows_together(logits: torch.Tensor, wide: torch.dtype) -> int:
    if logits.device.type == "cpu":
        return _CPU_ROWS
    return max(1, GPU_LOSS_BYTES // (logits.shape[1] * wide.itemsize))


def row_loss(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    """Return the summed cross-entropy of the labelled tokens of a `RowCollator` batch, weighted in training mode."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    weights = batch["weights"] if model.training else None
    return label_loss(model, batch["labels"], weights, batch["asked"], **inputs)


def tree_loss(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    """Return the summed cross-entropy of the labelled tokens of a `TreeCollator` batch, weighted in training mode.

    The model must use `TREE_ATTENTION`.
    """
    return label_loss(
        model,
        batch["labels"],
        batch["weights"]
        if model.training
        else None,  # unweighted in validation, so that losses with different weights are comparable
        batch["asked"],
        input_ids=batch["input_ids"],
        position_ids=batch["position_ids"],
        tree_blocks=batch["tree_blocks"],
    )
