"""Says how serving engines read a chat format: the command of each engine, with its tool-call parser."""

from __future__ import annotations

import shlex
from typing import NamedTuple

from toolhone.formats.chat_format import ChatFormat


class Serving(NamedTuple):
    """How an engine serves an adapter: the command, and whether the engine itself turns the text into calls."""

    engine: str
    command: str
    parses_calls: bool


def serving(chat_format: ChatFormat, base: str, adapter: str) -> list[Serving]:
    """Return how vLLM, SGLang and llama.cpp serve an adapter.

    Args:
        base: the base model, a folder or a name on the hub.
        adapter: the adapter's folder, which has the chat template too.
    """
    base, template, adapter = shlex.quote(base), shlex.quote(f"{adapter}/chat_template.jinja"), shlex.quote(adapter)
    parsers = chat_format.serving_parsers
    vllm = f"vllm serve {base} --enable-lora --lora-modules tuned={adapter} --chat-template {template}"
    if "vllm" in parsers:
        vllm += f" --enable-auto-tool-choice --tool-call-parser {parsers['vllm']}"
    sglang = (
        f"python -m sglang.launch_server --model-path {base} --enable-lora --lora-paths tuned={adapter} "
        f"--chat-template {template}"
    )
    if "sglang" in parsers:
        sglang += f" --tool-call-parser {parsers['sglang']}"
    llama_cpp = f"llama-server -m BASE.gguf --lora ADAPTER.gguf --jinja --chat-template-file {template}"
    return [
        Serving("vLLM", vllm, "vllm" in parsers),
        Serving("SGLang", sglang, "sglang" in parsers),
        # llama.cpp derives its parser from the template, and returns an error if it cannot.
        Serving("llama.cpp", llama_cpp, parses_calls=True),
    ]
