"""Says how serving engines load a tuned model: the command of each engine, with its tool-call parser and stop ids.

The model card, `toolhone formats probe` and the launch files of `toolhone export` all use these commands.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toolhone.formats.chat_format import ChatFormat

_VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
_USUAL_RANK = 16

SLOTS = 4
"""Requests that llama.cpp answers at a time. They share its context."""

LLAMA_CPP_READS = frozenset({"hermes", "gemma4", "glm45", "lfm2", "qwen_xml"})
"""The formats that llama.cpp's own parser reads, also with two calls in a turn (`engines/llama_cpp_parser.py`, build
11549). It answers others with HTTP 500, Gemma's pythonic even for a plain answer. Then parsing is switched off."""


@dataclass(frozen=True, slots=True)
class Target:
    """A tuned model as an engine loads it.

    Attributes:
        model: the base model of an adapter, or the folder of a merged model.
        folder: the folder with the tokenizer, the chat template and, if it is an export, generation_config.json.
        adapter: the adapter's settings, as in adapter_config.json; None for a merged model.
        revision: the base model's revision on the hub.
        name: the model's name in requests.
        stop_ids: where generation stops; empty if unknown.
        max_tokens: token limit of a training example; None if unknown.
        dtype: the number type to compute in; None: the engine's choice.
        trust_remote_code: whether the model comes with Python code of its own, as in `model.trust_remote_code`.
        is_export: whether the folder was written by `toolhone export`.
        has_response_template: whether the tokenizer says how its calls are read. vLLM's parser `hf` uses that.
        has_window: whether layers of the model see only a window of the last tokens.
        gguf, lora_gguf: GGUF files of the model and of the adapter.
        read_by_llama_cpp: whether llama.cpp's own parser reads the calls; None: as known for the format.
    """

    model: str
    folder: str
    adapter: Mapping[str, Any] | None = None
    revision: str | None = None
    name: str = "tuned"
    stop_ids: tuple[int, ...] = ()
    max_tokens: int | None = None
    dtype: str | None = None
    trust_remote_code: bool = False
    is_export: bool = False
    has_response_template: bool = False
    has_window: bool = False
    gguf: str = "MODEL.gguf"
    lora_gguf: str = "ADAPTER.gguf"
    read_by_llama_cpp: bool | None = None


@dataclass(frozen=True, slots=True)
class Serving:
    """How an engine serves a tuned model.

    Attributes:
        words: the command, one string for each argument.
        parses_calls: whether the engine itself turns the text into calls.
        refused: why the engine cannot serve the adapter; "" if it can.
        note: what else a user of the command must know; may be "".
    """

    engine: str
    words: tuple[str, ...]
    parses_calls: bool
    refused: str = ""
    note: str = ""

    @property
    def command(self) -> str:
        """The command for a shell."""
        return shlex.join(self.words)

    @property
    def script(self) -> str:
        """The launch file of an export that runs the command."""
        return f"launch/{self.engine.lower()}.sh"


def serving(chat_format: ChatFormat, target: Target) -> list[Serving]:
    """Return how vLLM, SGLang and llama.cpp serve a tuned model."""
    return [_vllm(chat_format, target), _sglang(chat_format, target), _llama_cpp(chat_format, target)]


def _vllm(chat_format: ChatFormat, target: Target) -> Serving:
    words = ["vllm", "serve", target.model, *_loading(target)]
    if target.is_export:
        # Without these two, vLLM takes the stop ids and the response template of the base model.
        words += ["--tokenizer", target.folder, "--generation-config", target.folder]
    if target.adapter is None:
        words += ["--served-model-name", target.name]
    else:
        limit, _ = vllm_rank(target.adapter)
        words += ["--enable-lora", "--max-lora-rank", str(limit), "--lora-modules", f"{target.name}={target.folder}"]
    words += ["--chat-template", f"{target.folder}/chat_template.jinja"]
    parser = vllm_parser(chat_format, has_response_template=target.has_response_template)
    if parser is not None:
        words += ["--enable-auto-tool-choice", "--tool-call-parser", parser]
    return Serving("vLLM", tuple(words), parser is not None, _refused("vLLM", target))


def vllm_rank(adapter: Mapping[str, Any]) -> tuple[int, str]:
    """Return the value of vLLM's --max-lora-rank for an adapter's settings, and what is wrong if the largest one is too
    small; "" if it is not."""
    rank = max(adapter.get("r", _USUAL_RANK), *(adapter.get("rank_pattern") or {}).values(), 0)
    limit = next((known for known in _VLLM_RANKS if known >= rank), _VLLM_RANKS[-1])
    return limit, f"vLLM supports adapters up to rank {limit}, and this one has rank {rank}" if rank > limit else ""


def vllm_parser(chat_format: ChatFormat, *, has_response_template: bool) -> str | None:
    """Return vLLM's parser for a chat format: its own, otherwise `hf`, which reads the response template."""
    return chat_format.serving_parsers.get("vllm") or ("hf" if has_response_template else None)


def _sglang(chat_format: ChatFormat, target: Target) -> Serving:
    words = ["python", "-m", "sglang.launch_server", "--model-path", target.model, *_loading(target)]
    note = ""
    if target.adapter is None:
        words += ["--served-model-name", target.name]
    else:
        if target.is_export:
            words += ["--tokenizer-path", target.folder]
        words += ["--enable-lora", "--lora-paths", f"{target.name}={target.folder}"]
        if target.stop_ids:
            # SGLang reads generation_config.json of the base model only.
            words += ["--json-model-override-args", json.dumps({"eos_token_id": list(target.stop_ids)})]
        note = f"ask for the model {target.model}:{target.name}, and send temperature 0 in each request"
    words += ["--chat-template", f"{target.folder}/chat_template.jinja"]
    parser = chat_format.serving_parsers.get("sglang")
    words += _pair("--tool-call-parser", parser)
    return Serving("SGLang", tuple(words), parser is not None, _refused("SGLang", target), note)


def _llama_cpp(chat_format: ChatFormat, target: Target) -> Serving:
    words = ["llama-server", "-m", target.gguf]
    if target.adapter is not None:
        words += ["--lora", target.lora_gguf]
    words += ["--jinja", "--chat-template-file", f"{target.folder}/chat_template.jinja"]
    if target.max_tokens is not None:
        words += ["--parallel", str(SLOTS), "--ctx-size", str(SLOTS * target.max_tokens)]
    if target.has_window:
        words.append("--swa-full")  # otherwise almost no prefix of a prompt is reused
    words += ["--temp", "0", "--alias", target.name]
    is_read = target.read_by_llama_cpp
    if is_read is None:
        is_read = chat_format.name in LLAMA_CPP_READS
    words += [] if is_read else ["--skip-chat-parsing"]
    return Serving("llama.cpp", tuple(words), parses_calls=is_read, refused=_refused("llama.cpp", target))


def _loading(target: Target) -> list[str]:
    """Return the flags about loading a model that vLLM and SGLang share."""
    code = ["--trust-remote-code"] if target.trust_remote_code else []
    return [*_pair("--revision", target.revision), *code, *_pair("--dtype", target.dtype)]


def _pair(flag: str, value: str | None) -> Sequence[str]:
    return () if value is None else (flag, value)


def _refused(engine: str, target: Target) -> str:
    """Return why an engine cannot serve an adapter; "" if it can."""
    adapter = target.adapter or {}
    if adapter.get("use_dora"):
        return f"{engine} cannot load DoRA adapters"
    if adapter.get("modules_to_save"):
        fault = "leaves out" if engine == "SGLang" else "cannot load"
        return f"{engine} {fault} the weights of lora.modules_to_save"
    if adapter.get("bias", "none") != "none" or adapter.get("lora_bias"):
        return f"{engine} cannot load the biases of an adapter"
    return vllm_rank(adapter)[1] if engine == "vLLM" else ""
