"""Create the adapter of a config in PEFT, and save it in a form that every engine loads onto the unchanged base model.

PiSSA and OLoRA move a part `s B0 A0` of each weight W into the adapter, so that training computes
`(W - s B0 A0) + s B A`. Checkpoints hold the raw A and B. `start_adapter` keeps A0 and B0 beside them, for two uses: a
resumed training takes the same part out of the weights again, and `make_portable` subtracts it from the final adapter.
"""

from __future__ import annotations

import math
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import get_peft_model_state_dict
from peft.optimizers import create_loraplus_optimizer
from peft.tuners.lora.layer import LoraLayer
from peft.utils import ModulesToSaveWrapper
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import Trainer

from toolhone.config import LoraConfig
from toolhone.errors import UserError
from toolhone.jsonl import read_json, write_json
from toolhone.run_folder import ADAPTER_FILES
from toolhone.train.language_layers import excluded_modules

# PEFT names the experts of every mixture in rank_pattern and alpha_pattern, then warns that the adapter has none.
warnings.filterwarnings("ignore", r"The following \w+_pattern keys did not match", RuntimeWarning)

INITIAL_ADAPTER = "initial_adapter.safetensors"
"""File in the folder of checkpoints: A0 and B0 of an adapter whose initialisation changed the base weights."""


def lora_config(config: LoraConfig, model: Any, *, init: str | None = None) -> PeftLoraConfig:
    """Return PEFT's config of the adapter on a model. `init` replaces lora.init, for a model without real weights.

    Raises:
        UserError: if lora.modules_to_save names no module of the model, or one that cannot be trained.
    """
    init = init or config.init
    modules = modules_to_train(config, model)
    if init not in ("default", "gaussian"):
        _refuse_unfit_layers(config, model)
    return PeftLoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=config.targets if isinstance(config.targets, str) else list(config.targets),
        exclude_modules=excluded_modules(model),
        use_rslora=config.rslora,
        use_dora=config.dora,
        init_lora_weights=True if init == "default" else init,
        modules_to_save=modules or None,
        # With tied weights, PEFT would train a copy of one and leave the other as it is.
        ensure_weight_tying=trains_tied_embeddings(modules, model),
        bias="none",
        task_type="CAUSAL_LM",
    )


def _refuse_unfit_layers(config: LoraConfig, model: Any) -> None:
    """Refuse layers that an initialisation from weights does not fit: embeddings, and weights with fewer singular
    vectors than the rank."""
    head, excluded = model.get_output_embeddings(), excluded_modules(model)
    for name, layer in model.named_modules():
        if excluded and re.fullmatch(excluded, name):
            continue
        is_target = any(f".{name}".endswith(f".{target}") for target in config.targets)
        if isinstance(layer, nn.Embedding) and is_target:
            raise UserError(
                f"lora.init: {config.init} fits linear layers only, and lora.targets has {name}; set lora.init: default"
            )
        if isinstance(layer, nn.Linear) and layer is not head and (config.targets == "all-linear" or is_target):
            side = min(layer.weight.shape)
            if config.rank > side and config.init != "orthogonal":
                raise UserError(
                    f"lora.rank: {config.rank} is more than lora.init: {config.init} can take from {name}, whose "
                    f"smaller side is {side}; lower the rank, or set lora.init: default"
                )


def modules_to_train(config: LoraConfig, model: Any) -> list[str]:
    """Return the full names of the modules that lora.modules_to_save names by the end of their dotted path.

    PEFT compares the ends of names as text: `norm` would also train every `input_layernorm`.
    """
    names = [name for name, _ in model.named_modules()]
    found: list[str] = []
    for wanted in config.modules_to_save:
        matching = [name for name in names if name == wanted or name.endswith(f".{wanted}")]
        if not matching:
            last = sorted({name.rpartition(".")[2] for name in names if name and not name[-1].isdigit()})
            raise UserError(f"lora.modules_to_save: the model has no module {wanted}; known: {', '.join(last)}")
        found += [name for name in matching if name not in found]
    for name in found:
        weights = list(model.get_submodule(name).parameters())
        if not weights:
            raise UserError(f"lora.modules_to_save: {name} has no weights; remove it")
        if not all(weight.is_floating_point() and not hasattr(weight, "quant_state") for weight in weights):
            raise UserError(
                f"lora.modules_to_save: {name} has 4-bit weights, which cannot be trained; remove it, or set "
                "model.quantize: none"
            )
    return found


def trains_tied_embeddings(modules: list[str], model: Any) -> bool:
    """Return whether the modules contain the input embeddings or the LM head of a model that shares their weight."""
    ends = [one for one in (model.get_input_embeddings(), model.get_output_embeddings()) if one is not None]
    if len(ends) < 2 or ends[0].weight is not ends[1].weight:
        return False
    return any(model.get_submodule(name) in ends for name in modules)


def changes_base(config: LoraConfig) -> bool:
    """Return whether the initialisation moves a part of the base weights into the adapter."""
    return config.init.startswith(("pissa", "olora"))


def unsupported_with_fsdp(config: LoraConfig) -> str | None:
    """Return the first key that is not supported with FSDP, or None. Only adapters that PEFT creates without the base
    weights, and that train no other weights, were tested with it."""
    found = {
        "lora.dora": config.dora,
        "lora.plus": config.plus != 1,
        "lora.init": config.init not in ("default", "gaussian"),
        "lora.modules_to_save": bool(config.modules_to_save),
    }
    return next((key for key, is_used in found.items() if is_used), None)


def start_adapter(config: LoraConfig, model: Any, folder: Path, *, resume: bool, is_main: bool) -> None:
    """Prepare a model with a new adapter for training.

    The weights to train become float32. Modules that are trained as a whole take and return the model's own type.
    With an initialisation that changes the base weights, A0 and B0 are saved in the folder of checkpoints. A resumed
    training reads them instead, and takes `s B0 A0` out of weights that PEFT left unchanged.

    Raises:
        UserError: if a resumed training lacks the saved A0 and B0.
    """
    for parameter in model.parameters():
        if parameter.requires_grad:  # TRL casts a quantised model's adapter to bfloat16, which loses small updates
            parameter.data = parameter.data.float()
    for module in model.modules():
        if isinstance(module, ModulesToSaveWrapper):
            _keep_type(module)
    if not changes_base(config):
        return
    path = folder / INITIAL_ADAPTER
    if resume:
        if not path.is_file():
            raise UserError(
                f"{path}: is missing, and a training with lora.init: {config.init} cannot be resumed without it; "
                "restore it, or start again with --fresh (FRESH=1)"
            )
        _take_out(model, load_file(path))
    elif is_main:
        folder.mkdir(parents=True, exist_ok=True)
        tensors = get_peft_model_state_dict(model)
        save_file({name: t.contiguous() for name, t in tensors.items() if _matrix_of(name)}, path)


def _keep_type(module: ModulesToSaveWrapper) -> None:
    """Make a fully trained module compute in float32 within a model of another type, as the rest of the model expects.
    Without this its output would turn the model's activations into float32, and its input might have the wrong type."""
    dtype = next(module.original_module.parameters()).dtype
    trained = module.modules_to_save["default"]
    wide = next(trained.parameters()).dtype
    if dtype == wide:
        return

    def cast(inputs: Any, to: torch.dtype) -> Any:
        return inputs.to(to) if torch.is_tensor(inputs) and inputs.is_floating_point() else inputs

    trained.register_forward_pre_hook(lambda _, inputs: tuple(cast(one, wide) for one in inputs))
    trained.register_forward_hook(lambda _, __, output: cast(output, dtype))


@torch.no_grad()
def _take_out(model: Any, tensors: dict[str, torch.Tensor]) -> None:
    """Subtract `s B0 A0` from the base weight of every adapted layer, as PEFT's initialisation did."""
    for name, layer in model.named_modules():
        if isinstance(layer, LoraLayer):
            weight = layer.get_base_layer().weight
            a, b = (tensors[f"{name}.lora_{letter}.weight"].to(weight.device) for letter in "AB")
            weight.data = (weight.data.float() - layer.scaling["default"] * b @ a).to(weight.dtype)


def _matrix_of(name: str) -> str:
    """Return "A" or "B" for the name of an adapter's matrix in a saved adapter, otherwise ""."""
    return next((letter for letter in "AB" if name.endswith(f".lora_{letter}.weight")), "")


def make_portable(folder: Path, config: LoraConfig, checkpoints: Path) -> None:
    """Rewrite a saved adapter as plain LoRA on the unchanged base model.

    - With PiSSA and OLoRA: `s B A - s B0 A0 = s [B, -B0] [A; A0]`, an adapter of twice the rank (PiSSA, arXiv
      2404.02948, appendix C). PEFT's own conversion computes the same, but drops fully trained modules.
    - The scale s becomes alpha / rank, because SGLang and llama.cpp's converter ignore `use_rslora`.
    - The initialisation becomes PEFT's default, so that loading neither computes it again nor is refused.
    """
    names = [folder / name for name in ADAPTER_FILES]
    settings: dict[str, Any] = read_json(names[0], "training writes it")
    scale = config.alpha / (math.sqrt(config.rank) if config.rslora else config.rank)
    rank = config.rank
    if changes_base(config):
        rank *= 2
        initial, trained = load_file(checkpoints / INITIAL_ADAPTER), load_file(names[1])
        for name in trained:
            if letter := _matrix_of(name):
                sign, along = (1, 0) if letter == "A" else (-1, 1)
                both = [trained[name], sign * initial[name].to(trained[name].dtype)]
                trained[name] = torch.cat(both, dim=along).contiguous()
        save_file(trained, names[1], metadata={"format": "pt"})
    settings |= {"r": rank, "lora_alpha": scale * rank, "use_rslora": False, "init_lora_weights": True}
    write_json(names[0], settings)


def lora_plus_optimizer(trainer: Trainer, model: Any, ratio: float) -> torch.optim.Optimizer:
    """Return the trainer's optimizer, with `ratio` times the learning rate for B (LoRA+, arXiv 2402.12354)."""
    kind, options = Trainer.get_optimizer_cls_and_kwargs(trainer.args, model)
    rate = options.pop("lr")
    optimizer: torch.optim.Optimizer = create_loraplus_optimizer(
        model,
        kind,
        lr=rate,
        loraplus_lr_ratio=ratio,
        loraplus_weight_decay=trainer.args.weight_decay,
        loraplus_lr_embedding=rate,  # PEFT's default is 1e-6
        **options,
    )
    return optimizer
