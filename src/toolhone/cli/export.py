"""The command `toolhone export`: a run as a folder that serving engines load."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolhone.cli import flags
from toolhone.cli.terminal import plain_console
from toolhone.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from toolhone.export.folder import Exported
    from toolhone.export.merge import Proof


def add_export_commands(commands: Any) -> None:
    """Add `export`."""
    parser = flags.command(commands, "export", _export, "write a run's model for vLLM, SGLang and llama.cpp")
    parser.add_argument("folder", type=Path, metavar="RUN", help="run folder, for example runs/first")
    about = "merge the adapter into the base weights, in bfloat16 or float32 (default: the adapter alone)"
    parser.add_argument("--merge", choices=("bf16", "f32"), help=about)
    about = "folder to write (default: RUN/export/adapter, or RUN/export/merged-bf16 and so on)"
    parser.add_argument("--out", type=Path, metavar="DIR", help=about)
    about = (
        "with --merge: number of scored turns on which merged weights are compared with base and adapter (default: 20)"
    )
    parser.add_argument("--prompts", type=flags.count, default=20, metavar="N", help=about)
    about = "write a GGUF file too: f32, bf16, q8_0, or a type such as q4_k_m, which needs llama.cpp's llama-quantize"
    parser.add_argument("--gguf", metavar="TYPE", help=about)
    parser.add_argument("--ollama", action="store_true", help="with --merge and --gguf: write a Modelfile for Ollama")
    about = "upload the export to the Hugging Face hub, into a private repository"
    parser.add_argument("--push", metavar="OWNER/NAME", help=about)
    parser.add_argument("--public", action="store_true", help="with --push: make the repository public")


def _export(options: argparse.Namespace) -> int:
    from toolhone.run_folder import existing_run

    run, config = existing_run(options.folder)
    run.require_adapter()
    if options.public and options.push is None:
        raise UserError("--public: needs --push OWNER/NAME")
    if options.ollama and (options.merge is None or options.gguf is None):
        raise UserError("--ollama: needs --merge and --gguf, for example --merge bf16 --gguf q8_0")
    if options.gguf is not None:
        from toolhone.export.gguf import check_type

        check_type(options.gguf, merged=options.merge is not None)
    if options.push is not None:
        _check_push(options, config.model.name, config.name)
    from toolhone.export.folder import check_replaceable, export_run
    from toolhone.export.merge import NotEqualError
    from toolhone.tuned import TunedModel

    kind = "adapter" if options.merge is None else f"merged-{options.merge}"
    out: Path = options.out or run.path / "export" / kind
    check_replaceable(out, config.name)
    console = plain_console()
    tuned = TunedModel.load(options.folder)
    for note in tuned.notes:
        console.print(f"note: {note}", markup=False)
    if options.merge is not None and config.model.quantize != "none":
        about = f"trained on {config.model.quantize} weights; merged into the same weights without quantisation"
        console.print(f"note: {about}", markup=False)
    try:
        done = export_run(
            tuned,
            out,
            console,
            merge=options.merge,
            prompts=options.prompts,
            gguf=options.gguf,
            ollama=options.ollama,
        )
    except NotEqualError as error:
        console.print(f"the merge is not proven, and nothing is written: {error}", markup=False)
        return 1
    _show(done, options.folder, console)
    if options.push is not None:
        from toolhone.export.hub import push_folder

        if not done.licence:
            about = "the base model's card names no licence, so this card has none; add the key `license` to README.md"
            console.print(f"warning: {about}", markup=False)
        console.print(f"pushed to {push_folder(out, options.push, public=options.public)}", markup=False)
    return 0


def _check_push(options: argparse.Namespace, base: str, run: str) -> None:
    if options.merge is None and Path(base).is_dir():
        raise UserError(
            f"--push: the adapter's base model is the folder {base}, which nobody else has; add --merge bf16, or train "
            "with model.name from the hub"
        )
    from toolhone.export.hub import check_push

    check_push(options.push, run, public=options.public)


def _show(done: Exported, folder: Path, console: Console) -> None:
    """Print what was written, the proof, and what to run next."""
    if done.proof is not None:
        console.print(_proof_line(done.proof), markup=False)
    size = sum(path.stat().st_size for path in done.folder.rglob("*") if path.is_file()) / 1e6
    what = "adapter" if done.proof is None else f"merged weights in {done.facts['dtype']}"
    stops = ", ".join(done.facts["stops"]["tokens"])
    console.print(f"{done.folder}: {what}, {size:,.0f} MB, stops at {stops}", markup=False)
    gguf = done.facts.get("gguf")
    if gguf is not None:
        console.print(f"{done.folder / gguf['file']}: {gguf['type']} weights as GGUF", markup=False)
    if done.quantise:
        console.print(f"no llama-quantize was found; to quantise the file: {done.quantise}", markup=False)
    for way in done.ways:
        if way.refused:
            console.print(f"note: {way.refused}; use --merge", markup=False)
        elif not way.parses_calls:
            console.print(f"note: {way.engine} has no parser for the chat format; calls stay in the text", markup=False)
    if unread := done.facts["unread_turns"]:
        about = f"transformers and vLLM's parser hf do not read {len(unread)} of the scored turns, such as {unread[0]}"
        console.print(f"note: {about}; use another parser for these", markup=False)
    usable = [way for way in done.ways if not way.refused]
    if usable:
        console.print(f"serve it: sh {done.folder / usable[0].script}", markup=False)
    if (done.folder / "Modelfile").is_file():
        console.print(f"for Ollama: ollama create {done.facts['run']} -f {done.folder / 'Modelfile'}", markup=False)
    if gguf is not None:
        file = str(done.folder / gguf["file"])
        flags = ["--gguf", file] if done.proof is not None else ["--gguf", "BASE.gguf", "--lora", file]
        command = shlex.join(["toolhone", "verify", "--run", str(folder), *flags])
        console.print(f"prove that llama.cpp answers as the run does: {command}", markup=False)


def _proof_line(proof: Proof) -> str:
    rate = proof.agreement
    counts = f"{rate['numerator']} of {rate['denominator']} answers are equal to those of base and adapter"
    interval = f"95% interval {rate['low']:.1%} to {rate['high']:.1%}"
    off = f"log-probabilities differ by at most {proof.max_logprob_difference:.2g}"
    return f"merge in {proof.dtype}: {counts} ({interval}; {proof.tokens} tokens, {off})"
