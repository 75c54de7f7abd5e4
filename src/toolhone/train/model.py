"""Load the weights of the frozen model, quantised or not, and a saved adapter on top of them."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import BitsAndBytesConfig
from transformers.utils import logging as transformers_logging

from toolhone.config import ModelConfig
from toolhone.errors import UserError
from toolhone.launcher import local_rank, rank
from toolhone.pretrained import auto_class, from_pretrained, load_model_config
from toolhone.run_folder import missing_adapter_files
from toolhone.train.cpu import map_large_tensors
from toolhone.train.hardware import Hardware


def load_model(config: ModelConfig, hardware: Hardware) -> Any:
    """Load the frozen model. NF4 weights (QLoRA, arXiv 2305.14314) are quantised on their device while loading.

    Raises:
        UserError: if the model cannot be loaded. The message names model.name and a fix.
    """
    if hardware.device == "cpu":
        map_large_tensors()
    model_config = load_model_config(config)
    attention = supported_attention(config, model_config)
    options: dict[str, Any] = {"dtype": hardware.dtype, "attn_implementation": attention}
    if config.quantize == "nf4":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=hardware.dtype,
            # FSDP needs a floating storage type to shard 4-bit weights.
            bnb_4bit_quant_storage=hardware.dtype if hardware.device == "cuda" else torch.uint8,
        )
        options["device_map"] = {"": local_rank() if hardware.device == "cuda" else "cpu"}
    with no_progress_bar():
        model = from_pretrained(auto_class(model_config), config, **options)
    model.config.use_cache = False
    return model


def supported_attention(config: ModelConfig, model_config: Any) -> str:
    """Return model.attention, or eager if it is sdpa and the model's class has no such kernel."""
    model_class = auto_class(model_config)._model_mapping.get(type(model_config), None)
    if config.attention == "sdpa" and not getattr(model_class, "_supports_sdpa", True):
        _note_eager(config.name, model_class.__name__)
        return "eager"
    return config.attention


@functools.cache  # once per process
def _note_eager(name: str, model_class: str) -> None:
    if rank() == 0:
        note = f"model.attention: eager instead of sdpa for {name}, because {model_class} has no sdpa"
        print(f"note: {note}", file=sys.stderr, flush=True)


def load_for_inference(config: ModelConfig, hardware: Hardware, adapter: Path | None) -> Any:
    """Load the model onto its device, ready to answer, with a saved adapter if one is given.

    Raises:
        UserError: if the folder has no adapter, or the model cannot be loaded.
    """
    if adapter is not None and missing_adapter_files(adapter):
        raise UserError(f"{adapter}: has no adapter; run `toolhone train` first")
    model = load_model(config, hardware)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, str(adapter))
    if config.quantize == "none" and hardware.device == "cuda":
        model = model.to(f"cuda:{local_rank()}")
    return model.eval()


@contextmanager
def no_progress_bar() -> Iterator[None]:
    """Hide transformers' progress bars for loading and saving weights."""
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.enable_progress_bar()
