"""Loading what a run tunes: tokenizer, frozen weights (quantised or not) and, for inference, a saved adapter."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from transformers.utils import logging as transformers_logging

from toolhone.config import ModelConfig
from toolhone.errors import UserError
from toolhone.train.cpu.memory import give_large_tensors_back_at_once
from toolhone.train.hardware import Hardware, local_rank

_UNGATED = "Qwen/Qwen3-0.6B or HuggingFaceTB/SmolLM2-135M-Instruct"
_FETCHED_FOLDER = ".cache/models"


def load_tokenizer(config: ModelConfig, folder: Path | None = None) -> Any:
    """The model's tokenizer, or the one saved beside an adapter in `folder`."""
    tokenizer = _from_pretrained(AutoTokenizer, config, str(folder) if folder else None)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model_config(config: ModelConfig) -> Any:
    """The model's architecture (layers, sizes), without its weights."""
    return _from_pretrained(AutoConfig, config)


def load_model(config: ModelConfig, hardware: Hardware) -> Any:
    """The frozen model on its device. NF4 weights (QLoRA, arXiv 2305.14314) are quantised while loading.

    Raises:
        UserError: naming model.name, where the model cannot be had, with what to try.
    """
    if hardware.device == "cpu":
        give_large_tensors_back_at_once()
    options: dict[str, Any] = {"dtype": hardware.dtype, "attn_implementation": config.attention}
    if config.quantize == "nf4":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=hardware.dtype,
            # A floating storage type is what FSDP needs to shard 4-bit weights.
            bnb_4bit_quant_storage=hardware.dtype if hardware.device == "cuda" else torch.uint8,
        )
        options["device_map"] = {"": local_rank() if hardware.device == "cuda" else "cpu"}
    with _no_progress_bar():
        model = _from_pretrained(AutoModelForCausalLM, config, **options)
    model.config.use_cache = False
    return model


def load_adapter(model: Any, folder: Path) -> Any:
    """The model with a saved adapter on it, ready for inference.

    Raises:
        UserError: where the folder holds no adapter.
    """
    from peft import PeftModel

    if not (folder / "adapter_config.json").is_file():
        raise UserError(f"{folder}: holds no adapter; run `toolhone train` first")
    return PeftModel.from_pretrained(model, str(folder))


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Keeps transformers' weight-loading bar off the terminal."""
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.enable_progress_bar()


def _from_pretrained(loader: Any, config: ModelConfig, name: str | None = None, **options: Any) -> Any:
    name = name or config.name
    local = Path(name)
    if not local.is_dir() and _is_path(name):
        is_fetched = any(model in name for model in ("SmolLM2", "gemma-3"))
        fetch = f" (`scripts/fetch_model.py {local.name}` brings it; `make train` calls it)" if is_fetched else ""
        raise UserError(f"model.name: no such folder: {name}{fetch}")
    if local.is_dir() and name == config.name and not (local / "config.json").is_file():
        raise UserError(f"model.name: {name} holds no config.json; expected a folder saved by transformers")
    revision = {} if local.is_dir() else {"revision": config.revision}
    try:
        return loader.from_pretrained(name, **revision, **options)
    except (OSError, HfHubHTTPError) as error:
        raise UserError(_why_missing(name, config.revision, error)) from None
    except SafetensorError as error:
        raise UserError(f"model.name: the weights in {name} are broken ({error}); fetch them again") from None
    except ValueError as error:  # an architecture that transformers does not know, a broken config
        what = "tokenizer" if loader is AutoTokenizer else "model"
        raise UserError(f"model.name: {name} holds no {what} that can be loaded: {_first_line(error)}") from None


def _is_path(name: str) -> bool:
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or (os.sep in name and Path(name).parent.is_dir())


def _why_missing(name: str, revision: str | None, error: BaseException) -> str:
    causes = []
    cause: BaseException | None = error
    while cause is not None:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    statuses = {getattr(getattr(c, "response", None), "status_code", None) for c in causes}
    gated = any(isinstance(c, GatedRepoError) for c in causes)
    # To someone who is not logged in, the hub answers 401 for a name that does not exist.
    if not gated and any(isinstance(c, RepositoryNotFoundError) for c in causes):
        return (
            f"model.name: no folder and no hub model is called {name}; check the spelling, "
            "or run `hf auth login` if it is private"
        )
    if any(isinstance(c, RevisionNotFoundError) for c in causes):
        return f"model.revision: {name} has no branch, tag or commit {revision}; see its page on the hub"
    if gated or statuses & {401, 403}:
        return (
            f"model.name: {name} is gated or private on the hub: accept its licence on its page and run "
            f"`hf auth login`, or take an ungated model such as {_UNGATED}"
        )
    return (
        f"model.name: {name} cannot be had ({_first_line(error)}); offline, name a local folder, "
        f"for example one under {_FETCHED_FOLDER}"
    )


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
