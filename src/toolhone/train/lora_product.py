"""The adapter's part of a layer, `result + scaling * (x A^T) B^T`, as three matrix products and nothing else.

PEFT casts `x` to the adapter's float32, autocast casts it back to bfloat16, and the scaling and the sum are passes over
the whole output of their own, forward and backward: on a CPU, and at a rank of 16, more time than the products
themselves. Here the scaling and the sum ride along in the product (`addmm`), and nothing is cast but A and B.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear


class LoraProduct(torch.autograd.Function):
    """`result + scaling * (x A^T) B^T`, computed in the type of `x`.

    Args of `apply`:
        result: [..., out], what the frozen layer gave.
        x: [..., in].
        a: [rank, in]; b: [out, rank]; of any floating type, in which their gradients come.
        scaling: alpha / rank (arXiv 2106.09685), or alpha / sqrt(rank).
    """

    @staticmethod
    def forward(
        ctx: Any, result: torch.Tensor, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        flat, a, b = x.reshape(-1, x.shape[-1]), a.to(x.dtype), b.to(x.dtype)
        inner = flat @ a.t()  # [tokens, rank]
        ctx.save_for_backward(flat, inner, a, b)
        ctx.scaling = scaling
        return torch.addmm(result.reshape(-1, result.shape[-1]), inner, b.t(), alpha=scaling).view(result.shape)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        flat, inner, a, b = ctx.saved_tensors
        of_output = gradient.reshape(-1, gradient.shape[-1])
        of_inner = (of_output @ b).mul_(ctx.scaling)  # [tokens, rank]
        of_b = (of_output.t() @ inner).mul_(ctx.scaling)
        of_x = (of_inner @ a).view(*gradient.shape[:-1], -1)
        return gradient, of_x, of_inner.t() @ flat, of_b, None


class OneProduct:
    """How PEFT's layers come to call `LoraProduct`: they ask their `lora_variant` for the adapted output."""

    @staticmethod
    def forward(module: Any, active_adapter: str, x: torch.Tensor, result: torch.Tensor, **_: Any) -> torch.Tensor:
        a, b = module.lora_A[active_adapter].weight, module.lora_B[active_adapter].weight
        x = module.lora_dropout[active_adapter](x)
        adapted: torch.Tensor = LoraProduct.apply(  # type: ignore[no-untyped-call]
            result, x, a, b, module.scaling[active_adapter]
        )
        return adapted


def multiply_at_once(model: torch.nn.Module) -> None:
    """Let every plain LoRA layer of a model compute its adapter's part by `LoraProduct`."""
    for module in model.modules():
        if isinstance(module, LoraLinear):
            module.cast_input_dtype_enabled = False  # x stays as the model computes it
            for name in module.lora_A:
                module.lora_variant.setdefault(name, OneProduct)
