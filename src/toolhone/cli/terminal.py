"""The commands' console, the result that they print last, and settings to make before model libraries are imported."""

from __future__ import annotations

import gc
import json
import logging
import os
import shlex
import shutil
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from toolhone.errors import Interrupted
from toolhone.launcher import rank

if TYPE_CHECKING:
    from rich.console import Console


def plain_console() -> Console:
    """Return a console on standard output without coloured numbers. The terminal wraps lines."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True)


@contextmanager
def gc_disabled() -> Iterator[None]:
    """Turn off Python's cyclic garbage collector. Reading and scoring create hundreds of thousands of records without
    cycles. Searching them repeatedly takes a fifth of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def show_result(folder: Path, *, is_new: bool = False) -> None:
    """Print the short table of `metrics.json` and the path of the report. After a training, print the next command
    too. Under a launcher, only rank 0 prints."""
    if rank() != 0:
        return
    from toolhone.report.routing import run_ways, ways_table
    from toolhone.report.tables import summary_table

    console = plain_console()
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    console.print(summary_table(metrics))
    if ways := run_ways(folder, metrics):
        console.print(ways_table(ways))
        for remark in ways["remarks"]:
            console.print(remark, markup=False)
    if unsound := metrics["provenance"].get("quarantined"):
        id_, reason = next(iter(unsound.items()))
        text = f"{len(unsound)} rows are left out, because even their gold does not score; the first: {id_}: {reason}"
        console.print(text, markup=False)
    console.print(f"report: {folder / 'report.html'}", markup=False)
    if is_new:
        ask = shlex.join([*_program(), "ask", "--run", str(folder)])
        console.print(f'next, ask the tuned model: {ask} "your request"', markup=False)


def describe_interruption(error: KeyboardInterrupt, given: Sequence[str]) -> str:
    """Return what is kept after Ctrl-C and the command that continues; "" if unknown. `given`: the command's
    arguments."""
    if not isinstance(error, Interrupted):
        return ""
    if "WORLD_SIZE" in os.environ:  # the launcher's own arguments are unknown here
        flag = f", with {error.flag}" if error.flag else ""
        return f": {error.kept}\nto continue, run the same command again{flag}"
    # --fresh has already deleted what it should, unless nothing was written.
    words = [word for word in given if error.flag is None or word not in ("--fresh", "--resume")]
    make = " (make: RESUME=1)" if error.flag == "--resume" and "MAKELEVEL" in os.environ else ""
    return (
        f": {error.kept}\nto continue: {shlex.join([*_program(), *words, *([error.flag] if error.flag else [])])}{make}"
    )


def _program() -> list[str]:
    """Return the shell command that started toolhone, without arguments."""
    name = sys.argv[0]
    if name.endswith("__main__.py"):
        return [sys.executable, "-m", "toolhone"]
    return [Path(name).name if shutil.which(Path(name).name) == name else name]


def prepare_libraries() -> None:
    """Hide warnings that a user cannot act on, and count GPUs without starting CUDA. Call this before the model
    libraries are imported, because they read these settings on import."""
    # Otherwise the first check for a GPU starts CUDA. After that, forked processes cannot use CUDA, and
    # CUDA_VISIBLE_DEVICES has no effect.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    # A process that has used a tokenizer prints a warning at every fork.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # On import, bitsandbytes warns about an optional CPU kernel that nothing here needs.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    # TRL and PEFT still use names that transformers 5 is renaming.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|trl|peft)\b")
    # With one process, FSDP is imported but not used, and it warns on import.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\b")
