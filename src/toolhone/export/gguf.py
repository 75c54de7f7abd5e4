"""Write a run as GGUF files, with llama.cpp's own converter, and the Modelfile with which Ollama serves one.

In: a merged model in a folder as transformers saves it, or an adapter with the folder of its base model. Out: one GGUF
file that has the weights, the tokenizer and the chat template. The converter runs as a child process with this Python.
It is never part of toolhone: `toolhone fetch llama.cpp` downloads it, and `TOOLHONE_LLAMA_CPP` may name another folder
with llama.cpp's sources.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from toolhone.errors import UserError
from toolhone.export.gguf_file import gguf_metadata, set_scores
from toolhone.fetch import CONVERTER_FOLDER, fetch_converter
from toolhone.jsonl import write_json
from toolhone.run_folder import ADAPTER_FILES

if TYPE_CHECKING:
    from rich.console import Console

    from toolhone.chat.render import ChatRenderer

LLAMA_CPP = "TOOLHONE_LLAMA_CPP"
"""The environment variable with a folder of llama.cpp's sources, to use instead of the downloaded converter."""

WRITTEN_TYPES = ("f32", "bf16", "q8_0")
"""The types of weights that the converter itself writes."""
QUANTISED_TYPES = ("q6_k", "q5_k_m", "q5_k_s", "q4_k_m", "q4_k_s", "q3_k_m", "q2_k")
"""The types that need llama.cpp's `llama-quantize`, from the largest to the smallest."""

_MODEL_SCRIPT, _ADAPTER_SCRIPT = "convert_hf_to_gguf.py", "convert_lora_to_gguf.py"
_MAX_REASONS = 3

_KNOWN_ENDS = {
    *("<|eot_id|>", "<|im_end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>", "<|endoftext|>"),
    *("<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>", "<end_of_utterance>", "<eos>", "<turn|>"),
    *("<|tool_response>", "<｜end▁of▁sentence｜>", "[e~["),
}
"""Tokens at which llama.cpp always stops, known by their text (`llama-vocab.cpp`). `</s>` and `<|end|>` are not among
them: next to some other tokens they are normal."""


class GgufFile(NamedTuple):
    """A GGUF file of a model. `command` still has to be run to quantise it; None if it has the type that was asked."""

    path: Path
    dtype: str
    command: str | None = None


def converter(console: Console) -> Path:
    """Return the folder with llama.cpp's converter. Downloads it if it is missing.

    Raises:
        UserError: if `TOOLHONE_LLAMA_CPP` names a folder without the converter, or the download fails.
    """
    own = os.environ.get(LLAMA_CPP)
    if own:
        missing = [name for name in (_MODEL_SCRIPT, _ADAPTER_SCRIPT) if not (Path(own) / name).is_file()]
        if missing:
            raise UserError(f"{LLAMA_CPP}: {own} has no {missing[0]}; set it to a folder with llama.cpp's sources")
        return Path(own)
    if not CONVERTER_FOLDER.is_dir():
        fetch_converter(console)
    return CONVERTER_FOLDER


def check_type(dtype: str, *, merged: bool) -> None:
    """Refuse an unknown type of weights, and one that a GGUF file of an adapter cannot have.

    Raises:
        UserError: naming the known types.
    """
    if dtype not in WRITTEN_TYPES + QUANTISED_TYPES:
        known = ", ".join(WRITTEN_TYPES + QUANTISED_TYPES)
        raise UserError(f"--gguf: unknown type {dtype}; expected one of {known}")
    if not merged and dtype not in WRITTEN_TYPES:
        raise UserError(f"--gguf: {dtype} is for merged weights; add --merge, or choose {' or '.join(WRITTEN_TYPES)}")


def export_gguf(
    export: Path, name: str, dtype: str, renderer: ChatRenderer, *, llama_cpp: Path, base: Path, log: Path
) -> GgufFile:
    """Write the GGUF file of an export into its folder: of the merged model, or else of the adapter alone.

    Args:
        export: the folder of the export.
        name: the run's name, with which the file's name begins.
        base: the folder of the base model.

    Raises:
        UserError: if the converter fails, or an adapter cannot have this type.
    """
    merged = not (export / ADAPTER_FILES[0]).is_file()
    check_type(dtype, merged=merged)
    if merged:
        tokens = {stop: renderer.tokenizer.convert_tokens_to_ids(stop) for stop in renderer.stops}
        stops = {stop: id_ for stop, id_ in tokens.items() if id_ in renderer.stop_ids()}
        return model_gguf(export, export / f"{name}-{dtype}.gguf", dtype, llama_cpp=llama_cpp, stops=stops, log=log)
    out = export / f"{name}-lora-{dtype}.gguf"
    lora_gguf(export, base, out, llama_cpp=llama_cpp, dtype=dtype, log=log)
    return GgufFile(out, dtype)


def model_gguf(
    merged: Path, out: Path, dtype: str, *, llama_cpp: Path, stops: Mapping[str, int], log: Path | None = None
) -> GgufFile:
    """Write a merged model as one GGUF file, with its tokenizer and its chat template.

    A type of `QUANTISED_TYPES` needs `llama-quantize`. If there is none, the file has 16 or 32 bits, and the result
    names the command that quantises it.

    Args:
        merged: a folder as transformers saves it. Its chat template is the one that the model was tuned with.
        out: the file to write. It appears only once it is complete.
        llama_cpp: the folder of the converter.
        stops: the tokens at which generation stops, with their ids. The file makes llama.cpp stop at each of them.
        log: file for what the converter prints; by default, beside `out`.

    Raises:
        UserError: if the type is unknown, or the converter or the quantiser fails.
    """
    check_type(dtype, merged=True)
    if not (merged / "config.json").is_file():
        raise UserError(f"{merged}: has no config.json; expected a merged model as `toolhone export --merge` writes it")
    log = log or out.with_suffix(".log")
    if dtype in WRITTEN_TYPES:
        _convert_model(merged, out, dtype, llama_cpp, stops, log)
        return GgufFile(out, dtype)
    quantiser = _quantiser(llama_cpp)
    wide_type = "bf16" if _saved_type(merged) == "bfloat16" else "f32"
    wide = out.with_name(f"{out.name.removesuffix('.gguf').removesuffix(f'-{dtype}')}-{wide_type}.gguf")
    _convert_model(merged, wide, wide_type, llama_cpp, stops, log)
    if quantiser is None:
        return GgufFile(wide, wide_type, shlex.join(["llama-quantize", str(wide), str(out), dtype.upper()]))
    partial = _partial(out)
    _run([str(quantiser), str(wide), str(partial), dtype.upper()], partial, log, f"{wide}: llama-quantize failed")
    partial.replace(out)
    wide.unlink()
    return GgufFile(out, dtype)


def lora_gguf(
    adapter: Path, base: Path, out: Path, *, llama_cpp: Path, dtype: str = "f32", log: Path | None = None
) -> None:
    """Write an adapter as a GGUF file that llama.cpp loads onto its unchanged base model.

    Args:
        base: the folder of the base model, of which only config and tokenizer are read.

    Raises:
        UserError: if a GGUF file cannot hold the adapter, or the converter fails.
    """
    if missing := [name for name in ADAPTER_FILES if not (adapter / name).is_file()]:
        raise UserError(f"{adapter}: has no {missing[0]}; run `toolhone train` first")
    _refuse_unfit_adapter(adapter)
    if not (base / "config.json").is_file():
        raise UserError(f"{base}: has no config.json; name the folder of the adapter's base model")
    partial, log = _partial(out), log or out.with_suffix(".log")
    script = [sys.executable, str(llama_cpp / _ADAPTER_SCRIPT), str(adapter), "--base", str(base)]
    command = [*script, "--outtype", dtype, "--outfile", str(partial)]
    _run(command, partial, log, f"{adapter}: llama.cpp's converter failed")
    partial.replace(out)


def modelfile(gguf: str, stops: Iterable[str], *, ctx: int, max_tokens: int) -> str:
    """Return the text of a Modelfile, with which `ollama create` makes a model of a GGUF file beside it.

    It has no TEMPLATE, so Ollama uses the template in the GGUF file. It has no ADAPTER, which Ollama no longer reads.

    Args:
        gguf: the name of the file of the merged model.
        stops: the tokens at which generation stops.
        ctx: tokens of context. Ollama's default is 2,048, and it shortens longer prompts without an error.
        max_tokens: the highest number of tokens of an answer.
    """
    # Older versions of Ollama penalise repetition by default, which changes greedy answers.
    values = {"temperature": 0, "repeat_penalty": 1.0, "num_ctx": ctx, "num_predict": max_tokens}
    lines = [f"FROM ./{gguf}", *(f"PARAMETER {key} {value}" for key, value in values.items())]
    return "\n".join([*lines, *(f'PARAMETER stop "{stop}"' for stop in stops), ""])


def _convert_model(merged: Path, out: Path, dtype: str, llama_cpp: Path, stops: Mapping[str, int], log: Path) -> None:
    """Write a model with the converter, and correct what the converter leaves out or gets wrong."""
    partial = _partial(out)
    script = [sys.executable, str(llama_cpp / _MODEL_SCRIPT)]
    flags = ["--outtype", dtype, "--model-name", out.stem.removesuffix(f"-{dtype}"), "--outfile", str(partial)]
    failure = f"{merged}: llama.cpp's converter failed"
    try:
        _run([*script, str(merged), *flags], partial, log, failure)
        found = gguf_metadata(partial)
        config = _json(merged / "config.json")
        rows = config.get("vocab_size") or config.get("text_config", {}).get("vocab_size")
        if rows is not None and found.get("tokenizer.ggml.tokens", rows) < rows:
            with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
                padded = _padded(merged, Path(scratch) / merged.name, rows)
                _run([*script, str(padded), *flags], partial, log, failure)
            found = gguf_metadata(partial)
        template = merged / "chat_template.jinja"
        if template.is_file() and found.get("tokenizer.chat_template") != template.read_text(encoding="utf-8"):
            raise UserError(f"{out}: the converter left out {template}; serve the model with --chat-template-file")
        if found.get("tokenizer.ggml.model") == "llama" and not (merged / "tokenizer.model").is_file():
            set_scores(partial, _json(merged / "tokenizer.json"))
        _set_stops(partial, found, stops, llama_cpp, log)
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)


def _padded(merged: Path, copy: Path, rows: int) -> Path:
    """Return a copy of a model whose tokenizer has a token for each row of the embedding. The weights are links.

    For some tokenizers the converter writes only the tokens that exist, and llama.cpp refuses such a file.
    """
    copy.mkdir()
    for path in merged.iterdir():
        (copy / path.name).symlink_to(path.resolve())
    tokenizer = _json(merged / "tokenizer.json")
    known = {*tokenizer["model"]["vocab"].values(), *(token["id"] for token in tokenizer["added_tokens"])}
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    padding = [{"id": id_, "content": f"[PAD{id_}]", **plain} for id_ in range(rows) if id_ not in known]
    tokenizer["added_tokens"] = sorted([*tokenizer["added_tokens"], *padding], key=lambda token: token["id"])
    (copy / "tokenizer.json").unlink()
    write_json(copy / "tokenizer.json", tokenizer)
    return copy


def _set_stops(path: Path, found: Mapping[str, Any], stops: Mapping[str, int], llama_cpp: Path, log: Path) -> None:
    """Have llama.cpp stop at each of the stop tokens, which the file may not name yet.

    llama.cpp stops at the ids that the file names as eos, eot and eom, and at tokens that it knows by their text.
    """
    slots = {slot: found.get(f"tokenizer.ggml.{slot}_token_id") for slot in ("eos", "eot", "eom")}
    lacking = [(text, id_) for text, id_ in stops.items() if id_ not in slots.values() and text not in _KNOWN_ENDS]
    if not lacking:
        return
    free = [slot for slot, id_ in slots.items() if id_ is None]
    if len(lacking) > len(free):
        names = ", ".join(text for text, _ in lacking[len(free) :])
        raise UserError(f"{path}: a GGUF file has no place for the stop token {names}; use --merge without --gguf")
    setting = [part for slot, (_, id_) in zip(free, lacking, strict=False) for part in (slot, str(id_))]
    flags = [f for n in range(0, len(setting), 2) for f in ("--special-token-by-id", setting[n], setting[n + 1])]
    copy = path.with_name(f"{path.name}.copy")
    script = llama_cpp / "gguf-py" / "gguf" / "scripts" / "gguf_new_metadata.py"
    python_path = os.pathsep.join([str(script.parents[2]), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, str(script), *flags, "--force", str(path), str(copy)]
    _run(command, copy, log, f"{path}: llama.cpp's converter failed", {"PYTHONPATH": python_path})
    copy.replace(path)


def _refuse_unfit_adapter(adapter: Path) -> None:
    """Refuse an adapter that llama.cpp would apply wrongly, or not at all."""
    config = _json(adapter / ADAPTER_FILES[0])
    merge = "merge it into its base model with --merge"
    parts = {
        "DoRA": config.get("use_dora"),
        "modules_to_save": config.get("modules_to_save"),
        "trained tokens (trainable_token_indices)": config.get("trainable_token_indices"),
        "biases": config.get("lora_bias") or config.get("bias", "none") != "none",
        "rsLoRA": config.get("use_rslora"),
    }
    for part, is_used in parts.items():
        if is_used:
            raise UserError(f"{adapter}: a GGUF adapter cannot hold {part}; {merge}")
    from safetensors import safe_open

    with safe_open(adapter / ADAPTER_FILES[1], framework="numpy") as tensors:
        names = list(tensors.keys())
    if other := [name for name in names if not re.search(r"\.lora_(embedding_)?[AB](\.weight)?$", name)]:
        raise UserError(f"{adapter}: a GGUF adapter cannot hold {other[0]}; {merge}")
    # PEFT lists the experts of every mixture there, also for models without any.
    alphas = [
        key for key in config.get("alpha_pattern") or {} if any(re.search(rf"(^|\.){key}\.lora", n) for n in names)
    ]
    if alphas:
        raise UserError(
            f"{adapter}: a GGUF adapter has one alpha, and alpha_pattern sets another for {alphas[0]}; {merge}"
        )


def _quantiser(llama_cpp: Path) -> Path | None:
    """Return llama.cpp's program `llama-quantize`, from the folder of its sources or the search path."""
    for folder in (llama_cpp, llama_cpp / "build" / "bin"):
        if os.access(folder / "llama-quantize", os.X_OK):
            return folder / "llama-quantize"
    found = shutil.which("llama-quantize")
    return Path(found) if found else None


def _saved_type(merged: Path) -> str:
    config = _json(merged / "config.json")
    return str(config.get("dtype") or config.get("torch_dtype"))


def _json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _partial(out: Path) -> Path:
    out.parent.mkdir(parents=True, exist_ok=True)
    return out.with_name(f".{out.name}.partial")


def _run(
    command: Sequence[str], writes: Path, log: Path, failure: str, environment: Mapping[str, str] | None = None
) -> None:
    """Run a child process that writes a file. Its output goes to the end of the log.

    Raises:
        UserError: starting with `failure` and the last lines of its output, if it fails. The file is then deleted.
    """
    done = False
    try:
        with log.open("a", encoding="utf-8") as output:
            print(shlex.join(command), file=output, flush=True)
            start = output.tell()
            # A model with its own Python code makes transformers ask on standard input whether to run it.
            ran = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "TQDM_DISABLE": "1", **(environment or {})},
                check=False,
            )
        done = ran.returncode == 0 and writes.is_file()
        if not done:
            text = log.read_bytes()[start:].decode("utf-8", "replace")
            raise UserError(f"{failure}: {_reason(text)}; read {log}")
    except OSError as error:
        raise UserError(f"{failure}: {error.strerror or error}; check permissions and free disk space") from None
    finally:
        if not done:
            writes.unlink(missing_ok=True)


def _reason(output: str) -> str:
    """Return why the converter failed, from what it printed."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    if unsupported := [line for line in lines if re.search(r"Model \S+ is not supported", line)]:
        architecture = unsupported[0].split("Model ", 1)[1].split()[0]
        return f"it does not support the architecture {architecture}"
    if "BPE pre-tokenizer was not recognized" in output:
        return "it does not know how the model's tokenizer splits words (BPE pre-tokenizer was not recognized)"
    if lacking := re.search(r"ModuleNotFoundError: No module named '(\w+)", output):
        return f"it needs the package {lacking[1]}, which is not installed (run pip install 'toolhone[gguf]')"
    errors = [line for line in lines if line.startswith(("ERROR", "Error", "error"))]
    return " / ".join((errors or lines or ["it printed nothing"])[-_MAX_REASONS:])
