"""The cross-entropy of labelled positions, computed a few rows at a time.

PyTorch's keeps logits, their float32 copy and their log-softmax, and makes two gradients of the same size. With a
vocabulary of 262,144 (Gemma) that is a quarter of a training step's time on a CPU. Here only each row's normaliser is
kept, and the one gradient is written in the logits' own type.
"""

from __future__ import annotations

from typing import Any

import torch

from toolhone.train.pack import IGNORED

_ROWS = 8
"""Rows of logits that are widened together: few enough for a processor's cache to hold them."""


def summed_cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """What `cross_entropy(logits.float(), targets, ignore_index=IGNORED, reduction="sum")` gives, to rounding.

    Args:
        logits: [positions, vocabulary], of any floating type; computed in float32 at least.
        targets: [positions], each the index of the right token, or IGNORED.

    Returns:
        A scalar, in float32 at least. Its gradient can be taken once.
    """
    loss: torch.Tensor = _SummedCrossEntropy.apply(logits, targets)  # type: ignore[no-untyped-call]
    return loss


class _SummedCrossEntropy(torch.autograd.Function):
    """The gradient of -log softmax(x)[t] is softmax(x) - onehot(t)."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        wide = torch.promote_types(logits.dtype, torch.float32)
        norms = torch.cat([rows.to(wide).logsumexp(dim=1) for rows in torch.split(logits, _ROWS)])  # [positions]
        labelled = targets != IGNORED
        right = targets.where(labelled, 0)  # an index that is there, for the ignored ones too
        ctx.save_for_backward(logits, right, labelled, norms)
        return ((norms - logits.gather(1, right[:, None]).squeeze(1).to(wide)) * labelled).sum()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        logits, right, labelled, norms = ctx.saved_tensors
        found = torch.empty_like(logits)
        blocks = zip(*(x.split(_ROWS) for x in (logits, right, gradient * labelled, norms, found)), strict=True)
        for rows, token, weight, norm, into in blocks:
            probabilities = (rows.to(norm.dtype) - norm[:, None]).exp_()
            probabilities.scatter_add_(1, token[:, None], -torch.ones_like(norm)[:, None])
            into.copy_(probabilities.mul_(weight[:, None]))
        return found, None
