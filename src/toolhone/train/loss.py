"""Compute the loss of the labelled tokens. Only they reach the LM head; cross-entropy is computed a few rows at a time.

PyTorch's cross-entropy keeps the logits, their float32 copy and their log-softmax, and allocates two gradients of the
same size. With a vocabulary of 262,144 (Gemma) that takes a quarter of a training step on a CPU, mostly for allocating
memory. This module computes the gradient together with the loss, in the memory of the logits.
"""

from __future__ import annotations

from typing import Any

import torch

from toolhone.chat.render import IGNORED
from toolhone.train.attention import AttentionBlocks

_ROWS = 8
"""Number of logit rows that are computed together: few enough to fit into a processor's cache."""


def label_loss(model: Any, labels: torch.Tensor, weights: torch.Tensor | None = None, **inputs: Any) -> torch.Tensor:
    """Return the summed cross-entropy of the labelled tokens of a batch.

    Only the positions before a label reach the LM head. With all positions, the LM head would take a fifth of a small
    model's arithmetic, more than half with a large vocabulary, and most of the memory.

    Args:
        labels: [batch, seq], IGNORED for tokens without a label.
        weights: [batch, seq], the weight of each label; None: 1.
        inputs: the model's other inputs, with `input_ids` [batch, seq].

    Returns:
        A scalar, as from `summed_cross_entropy`.
    """
    targets = labels[:, 1:]
    asked = (targets != IGNORED).any(dim=0).nonzero().squeeze(1)  # [asked]
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
        right = targets.where(targets != IGNORED, 0)  # a valid index for the ignored ones too
        loss = torch.zeros((), dtype=wide, device=logits.device)
        copy = logits.new_empty((min(_ROWS, len(logits)), logits.shape[1]), dtype=wide)
        for rows, token, weight in zip(*(torch.split(x, _ROWS) for x in (logits, right, counted)), strict=True):
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


def row_loss(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the summed cross-entropy of the labelled tokens of a `RowCollator` batch, weighted in training mode."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    return label_loss(model, batch["labels"], batch["weights"] if model.training else None, **inputs)


def tree_loss(model: Any, batch: dict[str, torch.Tensor], *, matrix_attention: bool = True) -> torch.Tensor:
    """Return the summed cross-entropy of the labelled tokens of a `TreeCollator` batch, weighted in training mode.

    The model must use `TREE_ATTENTION`. On a CPU in bfloat16, `matrix_attention` computes attention as plain
    matrix products.
    """
    return label_loss(
        model,
        batch["labels"],
        batch["weights"]
        if model.training
        else None,  # unweighted in validation, so that losses with different weights are comparable
        input_ids=batch["input_ids"],
        position_ids=batch["position_ids"],
        tree_blocks=AttentionBlocks(batch["ends"], batch["position_ids"], matrix_attention=matrix_attention),
    )
