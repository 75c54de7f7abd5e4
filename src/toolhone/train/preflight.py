"""Check before training for faults that would stop a run late or lose its adapter. No weight is loaded and no file is
written before these checks."""

from __future__ import annotations

import os
import re
from importlib.util import find_spec
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import nn

from toolhone.config import Config
from toolhone.errors import UserError
from toolhone.pretrained import load_model_config
from toolhone.train.adapter import lora_config, unsupported_with_fsdp
from toolhone.train.language_layers import excluded_modules, model_without_weights

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_FULL = "FULL_STATE_DICT"  # torch.distributed.fsdp.StateDictType; its number is 1


def refuse_untrainable(config: Config) -> None:
    """Check the launcher's settings, the adapter's targets, the weights' file and the experiment
    trackers.

    Raises:
        UserError: if a check fails. The message names the config key of the first fault.
    """
    _refuse_launcher_settings(config)
    model_config = load_model_config(config.model)
    folder = Path(config.model.name)
    if folder.is_dir() and not any((folder / name).is_file() for name in _WEIGHTS):
        raise UserError(f"model.name: {folder} has no weights; expected a file such as {_WEIGHTS[0]}")
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt"):  # reads the header, which does not match a truncated file
                pass
        except SafetensorError as error:
            raise UserError(f"model.name: {path} is broken ({error}); download it again") from None
    if config.lora.targets != "all-linear" or config.lora.modules_to_save or config.lora.init != "default":
        model = model_without_weights(config.model, model_config)
        lora_config(config.lora, model)  # refuses modules to save and ranks that do not fit
    if config.lora.targets != "all-linear":
        excluded = excluded_modules(model)
        modules = {n: part for n, part in model.named_modules() if not (excluded and re.fullmatch(excluded, n))}
        layers = {name.rpartition(".")[2] for name, part in modules.items() if isinstance(part, nn.Linear)}
        for target in config.lora.targets:
            # A target is a layer's name, or the end of its dotted path.
            if not any(target == name or name.endswith(f".{target}") for name in modules):
                known = ", ".join(sorted(layers - {"lm_head"}))
                raise UserError(f"lora.targets: {config.model.name} has no layer {target}; known: {known}")
    for tracker in config.train.report_to:
        if find_spec(tracker) is None:
            raise UserError(f"train.report_to: {tracker} is not installed; run `pip install 'toolhone[{tracker}]'`")


def _refuse_launcher_settings(config: Config) -> None:
    """Check the config of `accelerate launch`, which is passed in environment variables. It must be data parallel, or
    FSDP with a full state dict: with another state dict type, Trainer.save_model writes no adapter."""
    if _is_set("ACCELERATE_USE_DEEPSPEED"):
        raise UserError(
            "accelerate's config: distributed_type: DEEPSPEED is not supported; use configs/accelerate/ddp.yaml or "
            "configs/accelerate/fsdp2.yaml"
        )
    if not _is_set("ACCELERATE_USE_FSDP"):
        return
    if config.train.select_by == "exact_match":
        raise UserError("train.select_by: exact_match is not supported with FSDP; use last")
    if key := unsupported_with_fsdp(config.lora):
        raise UserError(f"{key}: not supported with FSDP; remove it, or train with data parallel (GPUS=N)")
    default = "SHARDED_STATE_DICT" if os.environ.get("FSDP_VERSION") == "2" else _FULL
    found = os.environ.get("FSDP_STATE_DICT_TYPE", default).upper()
    if found not in (_FULL, "1"):
        raise UserError(
            f"accelerate's config: fsdp_state_dict_type: {found} saves no adapter; set it to {_FULL}, as "
            "configs/accelerate/fsdp2.yaml does"
        )


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "false").lower() in ("true", "1")
