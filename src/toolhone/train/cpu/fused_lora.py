"""The adapter's part of a layer, `result + scaling * (x A^T) B^T`, as matrix products and nothing else.

PEFT takes `x` to the adapter's float32, and multiplies by the scaling and adds the sum in passes of their own over the
whole output, forward and backward: at a rank of 16 they cost a CPU as much as the products. Here scaling and sum ride
along in the product, which is computed in the model's own type, so that bfloat16 needs no autocast around the model.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear


class LoraProduct(torch.autograd.Function):
    """`result + scaling * (x A^T) B^T`, computed in the type of `x`. The arguments of `apply`:

    result: [..., out], what the frozen layer gave; x: [..., in]; a: [rank, in] and b: [out, rank], of any floating
    type; scaling: alpha / rank (arXiv 2106.09685), or alpha / sqrt(rank) (arXiv 2312.03732).
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
        of_result = gradient.reshape(-1, gradient.shape[-1])
        of_inner = (of_result @ b).mul_(ctx.scaling)  # [tokens, rank]
        of_b = (inner.t() @ of_result).mul_(ctx.scaling).t()
        of_x = (of_inner @ a).view(*gradient.shape[:-1], a.shape[1])
        return gradient, of_x, of_inner.t() @ flat, of_b, None


class OneProduct:
    """What PEFT's layers ask for the adapted output, where their `lora_variant` names it."""

    @staticmethod
    def forward(module: Any, active_adapter: str, x: torch.Tensor, result: torch.Tensor, **_: Any) -> torch.Tensor:
        a, b = module.lora_A[active_adapter].weight, module.lora_B[active_adapter].weight
        x = module.lora_dropout[active_adapter](x)
        adapted: torch.Tensor = LoraProduct.apply(result, x, a, b, module.scaling[active_adapter])  # type: ignore[no-untyped-call]
        return adapted


def multiply_at_once(model: torch.nn.Module) -> None:
    """Let every plain LoRA layer of a model compute its adapter's part by `LoraProduct`; quantised ones stay PEFT's."""
    layers: list[Any] = [module for module in model.modules() if type(module) is LoraLinear]
    for layer in layers:
        layer.cast_input_dtype_enabled = False  # x stays as the model computes it
        for name in layer.lora_A:
            layer.lora_variant.setdefault(name, OneProduct)  # DoRA and its like keep their own
