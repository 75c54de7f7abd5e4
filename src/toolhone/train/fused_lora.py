"""Compute the adapter's part of a linear layer with matrix products only, on CPUs and GPUs.

The config keys `cpu.fused_lora` and `cuda.fused_lora` switch it off. It has not run on a GPU.
"""

from __future__ import annotations

from typing import Any

import torch

from toolhone.config import Config
from toolhone.train.hardware import Hardware

_FUSED = frozenset({"peft.tuners.lora.layer.Linear", "peft.tuners.lora.bnb.Linear4bit"})
"""Classes of PEFT's layers that can be fused. They are named, because importing the second imports bitsandbytes."""


class LoraProduct(torch.autograd.Function):
    """`result + scaling * (x A^T) B^T`, computed in the type of `x`. The arguments of `apply`:

    result: [..., out], the output of the frozen layer; x: [..., in]; a: [rank, in] and b: [out, rank], of any floating
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
        output = result.new_empty(result.shape)  # no view: Falcon adds to it in place, which autograd forbids for views
        width = result.shape[-1]
        torch.addmm(result.reshape(-1, width), inner, b.t(), alpha=scaling, out=output.view(-1, width))
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        flat, inner, a, b = ctx.saved_tensors
        of_result = gradient.reshape(-1, gradient.shape[-1])
        of_inner = (of_result @ b).mul_(ctx.scaling)  # [tokens, rank]
        of_b = (inner.t() @ of_result).mul_(ctx.scaling).t()
        of_x = (of_inner @ a).view(*gradient.shape[:-1], a.shape[1])
        return gradient, of_x, of_inner.t() @ flat, of_b, None


class _FusedVariant:
    """Computes the adapted output. PEFT's layers call it if `lora_variant` contains it."""

    @staticmethod
    def forward(module: Any, active_adapter: str, x: torch.Tensor, result: torch.Tensor, **_: Any) -> torch.Tensor:
        a, b = module.lora_A[active_adapter].weight, module.lora_B[active_adapter].weight
        x = module.lora_dropout[active_adapter](x)
        adapted: torch.Tensor = LoraProduct.apply(result, x, a, b, module.scaling[active_adapter])  # type: ignore[no-untyped-call]
        return adapted

    # A variant also merges, here as PEFT does it for a plain layer.

    @staticmethod
    def merge_safe(module: Any, active_adapter: str, orig_weight: torch.Tensor) -> torch.Tensor:
        return orig_weight + _delta(module, active_adapter, orig_weight)

    @staticmethod
    def merge_unsafe(module: Any, active_adapter: str, orig_weight: torch.Tensor) -> None:
        orig_weight.data += _delta(module, active_adapter, orig_weight)

    @staticmethod
    def unmerge(module: Any, active_adapter: str, orig_weight: torch.Tensor) -> torch.Tensor:
        return orig_weight - _delta(module, active_adapter, orig_weight)


def _delta(module: Any, adapter: str, weight: torch.Tensor) -> torch.Tensor:
    delta: torch.Tensor = module.get_delta_weight(adapter).to(weight.dtype)
    return delta


def fuses_lora(config: Config, hardware: Hardware) -> bool:
    """Return whether training computes its adapters with `fuse_lora`, and then without autocast.

    Packing none never does: it is plain SFTTrainer. DoRA and MiCA have computations of their own in PEFT. float16 needs
    Trainer's gradient scaler, which comes with autocast. Quantised weights on a CPU keep PEFT's computation.
    """
    on_cpu = hardware.device == "cpu"
    is_variant = config.lora.dora or config.lora.init == "mica"
    is_quantised_on_cpu = on_cpu and config.model.quantize != "none"
    if config.train.packing == "none" or is_variant or is_quantised_on_cpu or hardware.dtype == torch.float16:
        return False
    return config.cpu.fused_lora if on_cpu else config.cuda.fused_lora


def fuse_lora(model: torch.nn.Module) -> None:
    """Make every plain LoRA layer of a model, with 4-bit weights or not, compute its adapter with `LoraProduct`.

    PEFT casts `x` to the adapter's float32. It scales and adds in separate passes over the whole output, forward and
    backward. At rank 16 these take a CPU as long as the products. Here the product includes scaling and sum in the
    model's own type, so bfloat16 needs no autocast, which copies every activation. Layers with another variant, such as
    DoRA, keep PEFT's computation and casts.
    """
    layers: list[Any] = list(model.modules())
    for layer in layers:
        kind = type(layer)
        if f"{kind.__module__}.{kind.__qualname__}" not in _FUSED or layer.lora_variant:
            continue
        layer.cast_input_dtype_enabled = False  # x keeps the model's type
        for name in layer.lora_A:
            layer.lora_variant[name] = _FusedVariant
