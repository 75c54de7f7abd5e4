"""Opens the engine of the small model: starts llama.cpp or vLLM, connects to a running one, or loads transformers.

In: a run's tuned model and which engine to use. Out: an `OpenEngine` for as long as a `with` block runs. An engine that
is started here listens on this machine only, and ends with the block. Every engine except transformers is first asked
for a few answers to prompts of the run, and refused if they differ from the run's own.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args

from rich.console import Console

from toolhone.engines.client import EngineClient, connect
from toolhone.engines.generate import Generator
from toolhone.engines.llama_cpp import llama_cpp_server
from toolhone.engines.remote import RemoteGenerator
from toolhone.engines.vllm import vllm_command, vllm_server
from toolhone.errors import UserError
from toolhone.evaluate.score import scored_split
from toolhone.export.folder import export_gguf_alone, exported_ggufs
from toolhone.export.gguf import LLAMA_CPP
from toolhone.fetch import CONVERTER_FOLDER
from toolhone.pretrained import load_model_config
from toolhone.route.policy import Identity, identity_of_run
from toolhone.serve.local import LocalGenerator
from toolhone.tuned import TunedModel
from toolhone.verify.gate import Chosen, choose_turns, verify
from toolhone.verify.policy import served_identity

Kind = Literal["llama.cpp", "vllm", "transformers"]
KINDS: tuple[Kind, ...] = get_args(Kind)

ENGINE_KEY = "TOOLHONE_ENGINE_KEY"
"""The environment variable with the key of the engine at --small-base-url, which never gets the large model's key."""

_VERIFIED_ROWS = 6
_VERIFIED_AT_ONCE = 2
_CONTEXT = 4096
_TYPE = "q8_0"


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Which engine serves the small model.

    Attributes:
        kind: the engine to start; None: the fastest that is installed.
        base_url: the address of a running engine instead.
        model: the model's name there; None: the last one that it lists.
        gguf: the file for llama.cpp; None: the one in RUN/export, or a new one.
        vllm_command: the command vllm, for example of another Python environment.
        verify: whether a few answers are compared with the run's first.
        parallel: answers that llama.cpp generates at the same time.
        context: limit of prompt and answer together, in tokens; None: 4096, or more if the run's training needs it.
    """

    kind: Kind | None = None
    base_url: str | None = None
    model: str | None = None
    gguf: Path | None = None
    vllm_command: str | None = None
    verify: bool = True
    parallel: int = 8
    context: int | None = None


@dataclass(frozen=True, slots=True)
class OpenEngine:
    """An engine that answers. `identity` says which model it serves, and in which number type."""

    generator: Generator
    identity: Identity

    @property
    def engine(self) -> str:
        """The engine in words, such as "llama.cpp q8_0"."""
        return self.identity.engine


@contextmanager
def open_engine(tuned: TunedModel, settings: EngineSettings, console: Console) -> Iterator[OpenEngine]:
    """Yield the engine that the settings choose.

    Raises:
        UserError: if it cannot be started or reached, or its answers differ from the run's.
    """
    kind = settings.kind
    if settings.base_url is None and kind is None:
        kind = default_kind(tuned, settings, console)
        if kind == "llama.cpp" and settings.gguf is None:
            try:
                settings = replace(settings, gguf=served_gguf(tuned, console))
            except UserError as error:
                console.print(
                    f"note: transformers answers, because llama.cpp cannot serve this run: {error}", markup=False
                )
                kind = "transformers"
    if settings.base_url is None and kind == "transformers":
        local = LocalGenerator(tuned.model, tuned.renderer)
        identity = replace(identity_of_run(tuned.run), template=tuned.renderer.template_hash())
        try:
            yield OpenEngine(local, identity)
        finally:
            asyncio.run(local.close())
        return
    verifies = settings.verify and tuned.run.split(scored_split(tuned.run)).is_file()
    chosen = choose_turns(tuned, _VERIFIED_ROWS) if verifies else None
    server, flag = _server(kind, tuned, settings, chosen, console)
    key = os.environ.get(ENGINE_KEY) or "none"
    with server as base_url, connect(base_url, settings.model, flag, key) as client:
        remote = RemoteGenerator(base_url, client.facts, tuned.renderer, key=key, flag=flag)
        try:
            weights = client.facts.weights or tuned.hardware.dtype_name
            if chosen is not None:
                refuse_if_different(tuned, client, chosen, weights, console)
            elif settings.verify:
                console.print("note: the run has no rows to compare the engine's answers on", markup=False)
            yield OpenEngine(remote, served_identity(tuned, client.facts, weights))
        finally:
            with suppress(RuntimeError):  # its connections belong to an event loop that has ended
                asyncio.run(remote.close())


def default_kind(tuned: TunedModel, settings: EngineSettings, console: Console) -> Kind:
    """Return the fastest engine that is installed and can serve the run. A note says what a faster one needs."""
    if tuned.hardware.device == "cuda":
        with suppress(UserError):
            vllm_command(settings.vllm_command)
            return "vllm"
        note = "vLLM is faster on a GPU; name its command with --vllm-command, or run pip install 'toolhone[vllm]'"
    elif find_spec("xllamacpp") is None:
        note = "llama.cpp is faster on a CPU; run pip install 'toolhone[gguf]' and toolhone fetch llama.cpp"
    elif settings.gguf is None and not exported_ggufs(tuned) and not _has_converter():
        note = "llama.cpp is faster on a CPU; run toolhone fetch llama.cpp, which downloads its converter"
    else:
        return "llama.cpp"
    console.print(f"note: {note}", markup=False)
    return "transformers"


def _has_converter() -> bool:
    return bool(os.environ.get(LLAMA_CPP)) or CONVERTER_FOLDER.is_dir()


def _server(
    kind: Kind | None, tuned: TunedModel, settings: EngineSettings, chosen: Chosen | None, console: Console
) -> tuple[AbstractContextManager[str], str]:
    """Return a context that yields the engine's address, and the flag that chose the engine."""
    if settings.base_url is not None:
        return nullcontext(settings.base_url), "--small-base-url"
    context = settings.context or _context(tuned, chosen)
    if kind == "llama.cpp":
        gguf = settings.gguf or served_gguf(tuned, console)
        # Answers are asked for by token ids and read here, so llama.cpp's own parser is not needed.
        server = llama_cpp_server(gguf.resolve(), parallel=settings.parallel, ctx=context, skip_chat_parsing=True)
        return server, "--engine"
    log = tuned.run.path / "verify" / "vllm.log"
    log.parent.mkdir(exist_ok=True)
    server = vllm_server(
        tuned.config.model.name,
        revision=tuned.config.model.revision,
        trust_remote_code=tuned.config.model.trust_remote_code,
        adapter=tuned.run.adapter.resolve(),
        executable=settings.vllm_command,
        dtype=tuned.hardware.dtype_name,
        max_model_len=context,
        takes_lark=True,
        log=log,
    )
    return server, "--engine"


def served_gguf(tuned: TunedModel, console: Console) -> Path:
    """Return the GGUF file of the run's merged model: the one in RUN/export, or a new one, with weights as Q8_0.

    Raises:
        UserError: if there is none and it cannot be made.
    """
    found = exported_ggufs(tuned)
    if found:
        path = next((path for path, dtype in found.items() if dtype == _TYPE), next(iter(found)))
        console.print(f"serving {path}", markup=False)
        return path
    out = tuned.run.path / "export" / f"gguf-{_TYPE}"
    console.print(f"merging the adapter and writing {_TYPE} weights as GGUF to {out} ...", markup=False)
    with tuned.run.lock(console):
        return export_gguf_alone(tuned, out, _TYPE, console)


def _context(tuned: TunedModel, chosen: Chosen | None) -> int:
    """Return the context of a request in tokens. It has room for every training example and the turns to compare."""
    config = tuned.config
    needed = config.chat.max_tokens + config.evaluate.max_new_tokens
    if chosen is not None:
        needed = max(needed, chosen.context(config.evaluate.max_new_tokens))
    limit: int = load_model_config(config.model).get_text_config().max_position_embeddings
    return min(limit, max(_CONTEXT, needed))


def refuse_if_different(
    tuned: TunedModel, client: EngineClient, chosen: Chosen, weights: str, console: Console
) -> None:
    """Compare the engine's answers to token ids with those of the run, on the chosen turns.

    Raises:
        UserError: naming the checks that failed and how to fix each, if they differ.
    """
    with tuned.run.lock(console):
        verdict = verify(
            tuned,
            client,
            console,
            chosen=chosen,
            concurrency=_VERIFIED_AT_ONCE,
            weights=weights,
            calls_in_text=True,
            ids_only=True,
        )
    failed = [f"{line.name}: {line.detail}" for line in verdict.lines if line.passed is False]
    if failed:
        raise UserError(
            f"{verdict.identity.engine} answers differently from {verdict.reference}: {'; '.join(failed)}; "
            "`toolhone verify` has the details; --no-verify serves it all the same"
        )
    console.print(
        f"{verdict.identity.engine} answers as {verdict.reference} does, on {verdict.rows} of {verdict.of_rows} turns",
        markup=False,
    )
