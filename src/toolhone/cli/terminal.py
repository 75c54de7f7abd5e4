"""The console of commands, the result that they end with, and settings to make before model libraries are imported."""

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

if TYPE_CHECKING:
    from rich.console import Console


def plain_console() -> Console:
    """Standard output without coloured numbers; the terminal wraps lines."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True)


@contextmanager
def gc_disabled() -> Iterator[None]:
    """Turn off Python's cyclic garbage collector. Reading and scoring make hundreds of thousands of records without
    cycles, and searching them again and again takes a fifth of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def show_result(folder: Path, *, is_new: bool = False) -> None:
    """Print the short table of `metrics.json` and the path of the report, and for a run that was just trained what to
    do next; under a launcher, only from rank 0."""
    if os.environ.get("RANK", "0") != "0":
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
    """What is kept after Ctrl-C, and the command that continues; "" if nobody knows. `given`: the command's words."""
    if not isinstance(error, Interrupted):
        return ""
    if "WORLD_SIZE" in os.environ:  # the launcher's own words are not known here
        flag = f", with {error.flag}" if error.flag else ""
        return f": {error.kept}\nto continue, run the same command again{flag}"
    # --fresh has already deleted what it should, unless nothing was written.
    words = [word for word in given if error.flag is None or word not in ("--fresh", "--resume")]
    make = " (make: RESUME=1)" if error.flag == "--resume" and "MAKELEVEL" in os.environ else ""
    return (
        f": {error.kept}\nto continue: {shlex.join([*_program(), *words, *([error.flag] if error.flag else [])])}{make}"
    )


def _program() -> list[str]:
    """How toolhone was started, for a shell."""
    name = sys.argv[0]
    if name.endswith("__main__.py"):
        return [sys.executable, "-m", "toolhone"]
    return [Path(name).name if shutil.which(Path(name).name) == name else name]


def prepare_libraries() -> None:
    """Hide warnings that a user can do nothing about, and have GPUs counted without starting CUDA. Call this before the
    model libraries are imported, because they read these settings then."""
    # Otherwise the first check for a GPU starts CUDA. Then forked processes cannot use it, and CUDA_VISIBLE_DEVICES has
    # no effect any more.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    # Tokenizers warn at every fork of a process that has used one.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # On import, bitsandbytes asks for an optional CPU kernel that nothing here needs.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    # TRL and PEFT still use names that transformers 5 is renaming.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|trl|peft)\b")
    # FSDP is only imported, not used, by the code that warns on one process.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\b")
