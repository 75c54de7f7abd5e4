"""The command `toolhone verify`, which proves that a serving engine answers as the run's model does."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolhone.cli import flags
from toolhone.cli.terminal import plain_console
from toolhone.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from toolhone.engines.client import EngineClient
    from toolhone.tuned import TunedModel
    from toolhone.verify.gate import Chosen, Verdict

_PARALLEL = 4


def add_verify_command(commands: Any) -> None:
    """Add `verify`."""
    about = "check that a serving engine gives the prompts, answers and calls of the run's model; exit code 1 if not"
    parser = flags.command(commands, "verify", _verify, about)
    flags.add(parser, "--run")
    engine = parser.add_mutually_exclusive_group(required=True).add_argument
    about = "address of a running engine: llama-server, vLLM, SGLang, or another with OpenAI's API"
    engine("--endpoint", metavar="URL", help=about)
    engine("--gguf", type=Path, metavar="FILE", help="GGUF of the merged model, or with --lora of the base model")
    engine("--engine", choices=("vllm",), help="start this engine, for the folder of --export")
    add = parser.add_argument
    about = "model that the endpoint is asked for (default: the last one that it lists)"
    add("--endpoint-model", metavar="NAME", help=about)
    add("--lora", type=Path, metavar="FILE", help="with --gguf: GGUF of the adapter")
    add("--export", type=Path, metavar="FOLDER", help="with --engine: folder that `toolhone export` wrote")
    about = "with --engine: the command vllm, for example of another Python environment (default: the one on PATH)"
    add("--vllm-command", metavar="COMMAND", help=about)
    about = "number type of the served weights, such as bfloat16 or q8_0 (default: as the engine says, or the run's)"
    add("--weights", metavar="TYPE", help=about)
    about = "use at most N turns, a sample of all kinds of turns (default: all)"
    add("--max-rows", type=flags.count, metavar="N", help=about)
    about = "calls at a time (default: %(default)s)"
    add("--concurrency", type=flags.count, default=_PARALLEL, metavar="N", help=about)
    about = "read calls from the answer's text, for servers that do not separate them"
    add("--calls-in-text", action="store_true", help=about)
    about = "when to escalate: the policy.json of `toolhone route` (default: the one made for the engine, or the run's)"
    add("--policy", type=Path, metavar="FILE", help=about)
    add("--out", type=Path, metavar="FILE", help="file for the result as JSON (default: RUN/verify/ENGINE.json)")


def _verify(options: argparse.Namespace) -> int:
    from toolhone.tuned import TunedModel
    from toolhone.verify.gate import choose_turns, verify, write_verdict

    for name, needed in (
        ("endpoint_model", "endpoint"),
        ("lora", "gguf"),
        ("export", "engine"),
        ("vllm_command", "engine"),
    ):
        if getattr(options, name) is not None and getattr(options, needed) is None:
            raise UserError(f"--{name.replace('_', '-')}: goes with --{needed}; leave it out, or give both")
    console = plain_console()
    tuned = TunedModel.load(options.folder)
    chosen = choose_turns(tuned, options.max_rows)
    with tuned.run.lock(console), _client(options, tuned, chosen, console) as (client, calls_in_text):
        verdict = verify(
            tuned,
            client,
            console,
            chosen=chosen,
            concurrency=options.concurrency,
            weights=options.weights,
            policy=options.policy,
            calls_in_text=calls_in_text,
        )
        path = write_verdict(verdict, tuned.run, options.out)
    console.print(verdict_table(verdict))
    console.print(f"written to {path}", markup=False)
    return 0 if verdict.passed else 1


@contextmanager
def _client(
    options: argparse.Namespace, tuned: TunedModel, chosen: Chosen, console: Console
) -> Iterator[tuple[EngineClient, bool]]:
    """Yield a client of the engine that the flags name, and whether it leaves calls in the text. An engine that does
    not run yet is started first, and ended after."""
    from toolhone.engines.client import connect

    if options.endpoint is not None:
        with connect(options.endpoint, options.endpoint_model) as client:
            yield client, options.calls_in_text
        return
    start = _start_vllm if options.engine is not None else _start_llama_cpp
    server, calls_in_text = start(options, tuned, chosen, console)
    with server as base_url, connect(base_url, flag="--engine" if options.engine else "--gguf") as client:
        yield client, calls_in_text


def _start_llama_cpp(
    options: argparse.Namespace, tuned: TunedModel, chosen: Chosen, console: Console
) -> tuple[AbstractContextManager[str], bool]:
    """Return llama.cpp's server, which starts as a context, and whether it leaves calls in the text."""
    from toolhone.engines.llama_cpp import llama_cpp_server
    from toolhone.engines.llama_cpp_parser import unread_turn

    for flag, path in (("--gguf", options.gguf), ("--lora", options.lora)):
        if path is not None and not path.is_file():
            raise UserError(f"{flag} {path}: no such file; `toolhone export` writes it")
    calls_in_text = options.calls_in_text
    if not calls_in_text and (reason := unread_turn(tuned.renderer)) is not None:
        console.print(f"llama.cpp's parser does not read this chat format ({reason}): calls stay text", markup=False)
        calls_in_text = True
    server = llama_cpp_server(
        options.gguf.resolve(),
        lora=None if options.lora is None else options.lora.resolve(),
        # A merged GGUF must have the right template itself. A base model's GGUF has another one.
        template=None if options.lora is None else tuned.renderer.template,
        parallel=options.concurrency,
        ctx=chosen.context(tuned.config.evaluate.max_new_tokens),
        skip_chat_parsing=calls_in_text,
    )
    return server, calls_in_text


def _start_vllm(
    options: argparse.Namespace, tuned: TunedModel, chosen: Chosen, console: Console
) -> tuple[AbstractContextManager[str], bool]:
    """Return vLLM's server for an exported folder, and whether it leaves calls in the text. The weights have the run's
    number type unless --weights names another."""
    folder = options.export
    if folder is None:
        raise UserError("--engine vllm: needs --export, the folder that `toolhone export` wrote")
    from toolhone.chat.serving import vllm_parser
    from toolhone.engines.vllm import vllm_server
    from toolhone.jsonl import read_json

    settings = read_json(folder / "tokenizer_config.json", "name a folder that `toolhone export` wrote")
    parser = vllm_parser(tuned.renderer.format, has_response_template="response_template" in settings)
    calls_in_text = options.calls_in_text or parser is None
    if parser is None:
        console.print("vLLM has no parser for this chat format: calls stay text", markup=False)
    adapter = folder if (folder / "adapter_config.json").is_file() else None
    log = tuned.run.path / "verify" / "vllm.log"
    log.parent.mkdir(exist_ok=True)
    server = vllm_server(
        str(folder) if adapter is None else tuned.config.model.name,
        revision=None if adapter is None else tuned.config.model.revision,
        trust_remote_code=tuned.config.model.trust_remote_code,
        adapter=adapter,
        tokenizer=adapter,
        generation_config=adapter,
        executable=options.vllm_command,
        dtype=options.weights or tuned.hardware.dtype_name,
        max_model_len=chosen.context(tuned.config.evaluate.max_new_tokens),
        parser=None if calls_in_text else parser,
        log=log,
    )
    return server, calls_in_text


def verdict_table(verdict: Verdict) -> Table:
    """Return the table of a verdict, one row per check."""
    from rich.text import Text

    from toolhone.report.tables import rich_table

    turns = f"{verdict.rows} of {verdict.of_rows} turns"
    title = f"{verdict.identity.engine} against {verdict.reference}: {turns}, {'pass' if verdict.passed else 'FAIL'}"
    table = rich_table(title, "lll", ("Check", "Result", "Detail"))
    table.columns[-1].overflow = "fold"  # a text without spaces is shown whole
    styles = {"pass": "green", "FAIL": "bold red"}
    for line in verdict.lines:
        table.add_row(Text(line.name), Text(line.result, style=styles.get(line.result, "")), Text(line.detail))
    return table
