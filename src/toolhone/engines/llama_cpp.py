"""Start llama.cpp's HTTP server on this machine, from the package xllamacpp.

In: a GGUF file, and what to serve with it. Out: the server's address, for as long as a `with` block runs. The server is
a child process, because llama.cpp ends its process if a file is broken, and writes to standard error. Its output goes
to a log. It ends with the block, and also if this process ends in any other way.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

from toolhone.errors import UserError

_START_S = 300.0
"""Seconds to wait for a server. It reads the whole GGUF file before it answers."""
_STOP_S = 10.0
_CACHE_MIB = 256
"""Memory for prompts that no slot holds any more. llama.cpp's default is 8 GiB, which it would fill over time."""
_CHILD = "from toolhone.engines.llama_cpp import serve; serve()"


@dataclass(frozen=True, slots=True)
class _Settings:
    """What the child process is told."""

    gguf: str
    lora: str | None
    template: str | None
    parallel: int
    ctx: int
    threads: int
    skip_chat_parsing: bool


@contextmanager
def llama_cpp_server(
    gguf: Path,
    *,
    lora: Path | None = None,
    template: str | None = None,
    parallel: int = 1,
    ctx: int = 4096,
    threads: int | None = None,
    skip_chat_parsing: bool = False,
    log: Path | None = None,
) -> Iterator[str]:
    """Serve a GGUF file on a free port of this machine, and yield the address, such as `http://127.0.0.1:4321`.

    Args:
        gguf: the model.
        lora: an adapter as GGUF, to apply to the model.
        template: a Jinja chat template, to use instead of the one in the GGUF file.
        parallel: number of requests that are answered at the same time.
        ctx: tokens of context for each of them, prompt and answer together.
        threads: processor threads; by default as many as are idle now.
        skip_chat_parsing: whether `/v1/chat/completions` returns the model's text as content, without reading calls.
            `llama_cpp_parser.reads_calls` says when this is needed.
        log: file for what llama.cpp prints; by default a temporary one.

    Raises:
        UserError: if xllamacpp is not installed, a file is missing or broken, or the server does not start.
    """
    if find_spec("xllamacpp") is None:
        raise UserError(
            "llama.cpp needs the package xllamacpp, which is not installed; run pip install 'toolhone[gguf]'"
        )
    for path in (gguf, *([lora] if lora else [])):
        _require_gguf(path)
    threads = threads or _idle_processors()
    settings = _Settings(str(gguf), str(lora) if lora else None, template, parallel, ctx, threads, skip_chat_parsing)
    with tempfile.TemporaryDirectory(prefix="toolhone-llama-cpp-") as scratch:
        path = log or Path(scratch) / "llama_cpp.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as output:
            child = subprocess.Popen(
                [sys.executable, "-c", _CHILD],
                stdin=subprocess.PIPE,  # the child ends when this end of the pipe closes
                stdout=subprocess.PIPE,
                stderr=output,
                start_new_session=True,  # Ctrl-C reaches only this process, which then closes the pipe
            )
        try:
            yield _wait(child, settings, path)
        finally:
            _stop(child)


def _wait(child: subprocess.Popen[bytes], settings: _Settings, log: Path) -> str:
    """Return the address that the child reports once it answers."""
    assert child.stdin is not None
    assert child.stdout is not None
    start = log.stat().st_size
    child.stdin.write(json.dumps(asdict(settings)).encode() + b"\n")
    child.stdin.flush()
    deadline = time.monotonic() + _START_S
    os.set_blocking(child.stdout.fileno(), False)
    said = b""
    while b"\n" not in said:
        piece = child.stdout.read()
        said += piece or b""
        if piece == b"" or child.poll() is not None:
            raise UserError(f"{settings.gguf}: llama.cpp cannot serve it: {_reason(log, start)}")
        if time.monotonic() > deadline:
            raise UserError(f"{settings.gguf}: llama.cpp did not start in {_START_S:.0f} s: {_reason(log, start)}")
        time.sleep(0.02)
    return said.decode().strip()


def _stop(child: subprocess.Popen[bytes]) -> None:
    """End the child. It is asked first, then killed."""
    assert child.stdin is not None
    assert child.stdout is not None
    with suppress(BrokenPipeError):  # it has ended already
        child.stdin.close()
    try:
        child.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    child.stdout.close()


def _idle_processors() -> int:
    """Return how many processors this process may use that nothing else uses, but at least one.

    llama.cpp's threads wait for each other in busy loops. With more threads than idle processors, a request that takes
    seconds can take minutes.
    """
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, usable - round(os.getloadavg()[0]))


def _require_gguf(path: Path) -> None:
    """Refuse a file that is missing or is no GGUF file, before a server starts."""
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); expected a GGUF file") from None
    if start != b"GGUF":
        raise UserError(f"{path}: is not a GGUF file; write one with `toolhone export --gguf`")


def _reason(log: Path, start: int) -> str:
    """Return the first errors that llama.cpp printed. Its lines are `time level text`."""
    lines = log.read_bytes()[start:].decode("utf-8", "replace").splitlines()
    errors = [line.split(" E ", 1)[1].strip() for line in lines if re.match(r"[\d.]+ E ", line)]
    found = errors or [line.strip() for line in lines if line.strip()][-1:] or ["it printed nothing"]
    return " / ".join(dict.fromkeys(found[:2]))


def serve() -> None:
    """Run llama.cpp's server in this process until standard input closes. The first line of the input has the settings
    as JSON. Prints the server's address."""
    import xllamacpp

    options = _Settings(**json.loads(sys.stdin.readline()))
    params = xllamacpp.CommonParams()
    params.model.path = options.gguf
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_ctx = options.ctx * options.parallel  # llama.cpp divides the context among its slots
    params.n_parallel = options.parallel
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options.threads
    params.n_threads_http = options.parallel + 2
    params.use_jinja = params.endpoint_props = params.endpoint_slots = True
    params.warmup = False
    params.cache_ram_mib = _CACHE_MIB
    params.swa_full = True  # otherwise a model with sliding windows reuses almost nothing of an earlier prompt
    params.force_pure_content_parser = options.skip_chat_parsing
    if options.template is not None:
        params.chat_template = options.template
    if options.lora is not None:
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(options.lora, 1.0)]
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    sys.stdin.read()
    del server
