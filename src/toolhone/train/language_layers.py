"""Find the layers of a model that an adapter belongs to: the linear layers of its language model.

Some models also have a vision or an audio tower. Text gives their layers no gradient, and serving engines refuse
adapters on them. In a mixture of experts, most weights may be no layers at all but fused parameters.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

from toolhone.config import Config, ModelConfig
from toolhone.errors import UserError
from toolhone.pretrained import build_model, missing_package

_EXPERT_COUNTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")


def excluded_modules(model: Any) -> str | None:
    """Return a regular expression for the full names of all modules that get no adapter; None if there are none.
    PEFT's `exclude_modules` takes it."""
    found = [rf"{re.escape(name)}(?:\..*)?" for name in _outside_language_model(model)]
    found += sorted({re.sub(r"\d+", r"\\d+", re.escape(name)) for name in _fused_outputs(model)})
    return f"(?:{'|'.join(found)})" if found else None


def _outside_language_model(model: Any) -> list[str]:
    """Return the names of the outermost modules that neither contain the language model nor belong to it."""
    if model.config.get_text_config() is model.config:
        return []
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    path = next(name for name, module in model.named_modules() if module is decoder)
    found: list[str] = []
    for name, module in model.named_modules():
        is_inside = f"{name}.".startswith(f"{path}.") or module is head
        is_around = not name or f"{path}.".startswith(f"{name}.")
        is_below = any(name.startswith(f"{root}.") for root in found)
        if not (is_inside or is_around or is_below):
            found.append(name)
    return found


def _fused_outputs(model: nn.Module) -> list[str]:
    """Return the names of the output layers of Mamba mixers. Their CUDA kernel reads the layer's weight itself, so in
    training it would ignore an adapter."""
    mixers = [(name, module) for name, module in model.named_modules() if hasattr(module, "A_log")]
    return [f"{name}.out_proj" for name, module in mixers if hasattr(module, "D") and hasattr(module, "out_proj")]


def model_without_weights(config: ModelConfig, model_config: Any) -> Any:
    """Build a model on PyTorch's meta device, which has shapes but no storage.

    Raises:
        UserError: if its class needs a package that is not installed.
    """
    try:
        with torch.device("meta"):
            return build_model(model_config, dtype=torch.float32, trust_remote_code=config.trust_remote_code)
    except ImportError as error:
        raise UserError(missing_package(config.name, error)) from None


def target_notes(config: Config, model_config: Any) -> tuple[str, ...]:
    """Return a notice about what an adapter leaves out of a model with experts or towers; none for other models."""
    text = model_config.get_text_config()
    is_mixture = any((getattr(text, name, None) or 0) > 1 for name in _EXPERT_COUNTS)
    is_recurrent = any(word in name for name in (text.model_type, *text.to_dict()) for word in ("mamba", "ssm"))
    if not is_mixture and not is_recurrent and text is model_config:
        return ()
    model = model_without_weights(config.model, model_config)
    notes = []
    if towers := _outside_language_model(model):
        names = ", ".join(sorted({name.rpartition(".")[2] for name in towers}))
        notes.append(f"the adapter leaves out {names}: the data is text, so only the language model learns")
    if _fused_outputs(model):
        notes.append("the adapter leaves out out_proj of Mamba layers: their CUDA kernel ignores an adapter there")
    if is_mixture and config.lora.targets == "all-linear":
        notes.append(_note_on_experts(model))
    return tuple(notes)


def _note_on_experts(model: nn.Module) -> str:
    total = sum(parameter.numel() for parameter in model.parameters())
    layers = {
        name: module for name, module in model.named_modules() if isinstance(module, nn.Linear) and ".experts." in name
    }
    fused = sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if parameter.dim() > 2
        and "expert" in f"{name} {type(model.get_submodule(name.rpartition('.')[0])).__name__}".lower()
    )
    if layers:
        return f"lora.targets: all-linear covers {len(layers):,} linear layers of experts, each with its own adapter"
    return (
        f"lora.targets: all-linear covers linear layers only; the experts are fused parameters "
        f"({fused / total:.0%} of all weights), so they and their routers stay frozen"
    )
