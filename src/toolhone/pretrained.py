"""Load a model's config, tokenizer or weights from a folder or the hub, with one clear error if that fails."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

from toolhone.config import ModelConfig
from toolhone.errors import UserError
from toolhone.fetch import MODELS, MODELS_FOLDER
from toolhone.hub import hub_fault, is_path, reach_hub_or_cache, unreachable
from toolhone.launcher import rank

_UNGATED = "Qwen/Qwen3-0.6B or HuggingFaceTB/SmolLM2-135M-Instruct"


def load_tokenizer(config: ModelConfig, folder: Path | None = None) -> Any:
    """Load the model's tokenizer, or the one that was saved with an adapter in `folder`."""
    tokenizer = from_pretrained(AutoTokenizer, config, str(folder) if folder else None)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model_config(config: ModelConfig) -> Any:
    """Load the model's architecture (layers, sizes) without its weights."""
    return from_pretrained(AutoConfig, config)


def auto_class(model_config: Any) -> Any:
    """Return transformers' Auto class that builds a language model of this config. It lists some models with a vision
    tower, such as Ministral 3, only as image-text models."""
    kind = type(model_config)
    is_other = kind not in AutoModelForCausalLM._model_mapping and kind in AutoModelForImageTextToText._model_mapping
    return AutoModelForImageTextToText if is_other else AutoModelForCausalLM


def build_model(model_config: Any, **options: Any) -> Any:
    """Return the architecture with random weights. Options are those of transformers' `from_config`."""
    return auto_class(model_config).from_config(model_config, **options)


def from_pretrained(loader: Any, config: ModelConfig, name: str | None = None, **options: Any) -> Any:
    """Load the model, or `name` instead, with one of transformers' Auto classes.

    The model's own Python code runs only if `model.trust_remote_code` is set, and after a warning.

    Raises:
        UserError: if it cannot be loaded. The message names model.name or model.revision, and a fix.
    """
    name = name or config.name
    local = Path(name)
    if not local.is_dir() and is_path(name):
        fetch = f"; download it: toolhone fetch {local.name}" if local.name in MODELS else ""
        raise UserError(f"model.name: no such folder: {name}{fetch}")
    if local.is_dir() and name == config.name and not (local / "config.json").is_file():
        raise UserError(f"model.name: {name} has no config.json; expected a folder saved by transformers")
    reach_hub_or_cache(name, config.revision)
    revision = {} if local.is_dir() else {"revision": config.revision}
    if config.trust_remote_code:
        _warn_of_remote_code(config.name)
    try:
        # Always pass trust_remote_code: without it transformers asks the user on standard input.
        return loader.from_pretrained(name, trust_remote_code=config.trust_remote_code, **revision, **options)
    except (OSError, HfHubHTTPError) as error:
        raise UserError(_load_failure(name, config.revision, error)) from None
    except SafetensorError as error:
        raise UserError(f"model.name: the weights in {name} are broken ({error}); fetch them again") from None
    except ImportError as error:
        raise UserError(missing_package(name, error)) from None
    except ValueError as error:
        if "trust_remote_code" in str(error):
            raise UserError(
                f"model.trust_remote_code: {name} comes with its own Python code, which is not run; read that code and "
                "set model.trust_remote_code: true if you trust it, or choose another model"
            ) from None
        # An architecture that transformers does not know, a broken config.
        what = "tokenizer" if loader is AutoTokenizer else "model"
        raise UserError(f"model.name: {name} has no {what} that can be loaded: {_first_line(error)}") from None


@functools.cache  # once per process
def _warn_of_remote_code(name: str) -> None:
    if rank() == 0:
        code = f"Python code that comes with {name} runs here, with your permissions"
        print(f"WARNING: model.trust_remote_code is true: {code}", file=sys.stderr, flush=True)


def _load_failure(name: str, revision: str | None, error: BaseException) -> str:
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
            f"`hf auth login`, or use an ungated model such as {_UNGATED}"
        )
    if hub_fault() is not None:  # and the cache lacks a file
        return unreachable("model.name", name, "use a local folder")
    return (
        f"model.name: {name} cannot be loaded ({_first_line(error)}); offline, use a local folder, "
        f"for example one under {MODELS_FOLDER}"
    )


def missing_package(name: str, error: ImportError) -> str:
    """Return the message for a model whose class needs a package that is not installed."""
    return f"model.name: {name} needs a package that is not installed: {_first_line(error)}"


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
