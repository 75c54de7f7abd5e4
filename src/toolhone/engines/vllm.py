"""Starts `vllm serve` as a child process, waits until it answers, and ends it with all of its processes.

vLLM may be in a Python environment of its own: only its command is needed. It serves a merged folder, or a base model
with an adapter. It stops where generation_config.json says, and reads the calls of its own parsers, or with the parser
`hf` those of the `response_template` in tokenizer_config.json.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx2

from toolhone.chat.serving import vllm_rank
from toolhone.errors import UserError

SERVED_NAME = "tuned"
"""The name of the served model in requests."""

_SHOWN_LINES = 15
_POLL_S = 0.5
_END_S = 20.0
"""The time that vLLM has to end by itself."""

# Without a GPU, vLLM would take half of the memory, and one core for each of its threads.
_CPU_VARIABLES = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}


@contextmanager
def vllm_server(
    model: str,
    *,
    adapter: Path | None = None,
    tokenizer: Path | None = None,
    generation_config: Path | None = None,
    executable: str | None = None,
    port: int | None = None,
    dtype: str = "auto",
    max_model_len: int | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    parser: str | None = None,
    reasoning_parser: str | None = None,
    takes_lark: bool = False,
    log: Path = Path("vllm.log"),
    timeout_s: float = 600.0,
) -> Iterator[str]:
    """Serve a model on this machine, and yield the address, such as `http://127.0.0.1:4321`. The model's name in
    requests is SERVED_NAME.

    Args:
        model: a folder with a merged model; or the base model of `adapter`, a folder or a name on the hub.
        adapter: the folder of a LoRA adapter.
        tokenizer: the folder with the tokenizer and the chat template, if it is not that of `model`.
        generation_config: the folder with the generation_config.json, if it is not that of `model`.
        executable: the command `vllm`, for example of another Python environment. By default the one on PATH.
        port: a free port by default.
        revision: the branch, tag or commit of `model` on the hub.
        trust_remote_code: whether vLLM may run Python code that comes with the model.
        parser: the tool-call parser. Without one, calls stay text.
        reasoning_parser: the parser of thinking, only for a model that thinks. With it, vLLM constrains an answer, for
            example to a JSON schema, only after the end of a thought.
        takes_lark: whether requests may have grammars in llguidance's Lark. Otherwise vLLM takes them for its own EBNF.
        log: the file for what vLLM prints.
        timeout_s: the time that vLLM has to start.

    Raises:
        UserError: if there is no vLLM, it does not support the adapter, or it does not start.
    """
    command = [vllm_command(executable), "serve", model]
    port = port or _free_port()
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", dtype]
    command += ["--served-model-name", "base" if adapter else SERVED_NAME]
    command.append("--enable-prompt-tokens-details")  # so that answers say how much of the prompt was cached
    if adapter is not None:
        rank = str(max_lora_rank(adapter))
        command += ["--enable-lora", "--max-lora-rank", rank, "--lora-modules", f"{SERVED_NAME}={adapter}"]
    if tokenizer is not None:
        command += ["--tokenizer", str(tokenizer)]
    if generation_config is not None:
        command += ["--generation-config", str(generation_config)]
    if max_model_len is not None:
        command += ["--max-model-len", str(max_model_len)]
    if revision is not None:
        command += ["--revision", revision]
    if trust_remote_code:
        command.append("--trust-remote-code")
    if parser is not None:
        command += ["--enable-auto-tool-choice", "--tool-call-parser", parser]
    if reasoning_parser is not None:
        command += ["--reasoning-parser", reasoning_parser]
    if takes_lark:
        command += ["--structured-outputs-config", json.dumps({"backend": "guidance"})]
    environment = {**os.environ, "VLLM_NO_USAGE_STATS": "1"}
    if not _has_gpu():
        environment = {**_CPU_VARIABLES, **environment}
        command.append("--enforce-eager")  # compiling takes longer than it saves
    url = f"http://127.0.0.1:{port}"
    with log.open("w", encoding="utf-8") as output:
        # A group of its own, so that all of its processes can be ended together.
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
    try:
        _wait_until_ready(process, url, log, timeout_s)
        yield url
    finally:
        _end(process)


def vllm_command(executable: str | None = None) -> str:
    """Return the command `vllm`: the given one, that of this Python environment, or the one on PATH.

    Raises:
        UserError: if there is none.
    """
    beside = str(Path(sys.executable).with_name("vllm"))
    for name in [executable] if executable else [beside, "vllm"]:
        if found := shutil.which(name):
            return found
    if executable:
        raise UserError(f"{executable}: is not an executable file; name the command vllm of an environment with vLLM")
    raise UserError(
        "the command vllm is missing; run `pip install vllm`, or name the command of another Python environment"
    )


def max_lora_rank(adapter: Path, instead: str = "serve the merged model") -> int:
    """Return the value of `max_lora_rank` that vLLM needs for an adapter.

    Raises:
        UserError: if vLLM does not support the adapter. It says what to do `instead`.
    """
    settings = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    for key, name in (("use_dora", "lora.dora"), ("modules_to_save", "lora.modules_to_save")):
        if settings.get(key):
            raise UserError(f"{adapter}: was trained with {name}, which vLLM does not support; {instead}")
    limit, fault = vllm_rank(settings)
    if fault:
        raise UserError(f"{adapter}: {fault}; {instead}")
    return limit


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path, timeout_s: float) -> None:
    """Wait until the server answers.

    Raises:
        UserError: with the end of the log, if the process ends or the time is over.
    """
    deadline = time.monotonic() + timeout_s
    while process.poll() is None:
        with suppress(httpx2.HTTPError):
            if httpx2.get(f"{url}/health", timeout=_POLL_S * 4, trust_env=False).status_code == 200:
                return
        if time.monotonic() > deadline:
            raise UserError(f"vLLM was not ready after {timeout_s:g} s. {_end_of(log)}")
        time.sleep(_POLL_S)
    raise UserError(f"vLLM ended with exit code {process.returncode} before it was ready. {_end_of(log)}")


def _end_of(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    shown = "\n".join(lines[-_SHOWN_LINES:]) or "(empty)"
    return f"The end of {log}:\n{shown}"


def _end(process: subprocess.Popen[bytes]) -> None:
    """End vLLM and all of its processes. It is asked first, so that it frees its shared memory."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_END_S)
    with suppress(ProcessLookupError):  # no process of the group is left
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
