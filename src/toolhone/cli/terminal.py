"""What commands print to, the result that they end with, and what is set before the model libraries are imported."""

from __future__ import annotations

import gc
import json
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def plain_console() -> Console:
    """Standard output, with line breaks left to the terminal and numbers uncoloured."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True)


@contextmanager
def gc_disabled() -> Iterator[None]:
    """Turn off Python's cyclic garbage collector. Reading and scoring make records by the hundred thousand, none of
    which is in a cycle; to search all of them again and again takes a fifth of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def show_result(folder: Path) -> None:
    """Print the short table of `metrics.json` and the path of the report; under a launcher, only from rank 0."""
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
        text = f"{len(unsound)} rows are in no figure, as even their gold does not score; the first: {id_}: {reason}"
        console.print(text, markup=False)
    console.print(f"report: {folder / 'report.html'}")


def prepare_libraries() -> None:
    """Set what the model libraries read when they are imported: no warnings that a user can do nothing about, and GPUs
    counted without starting CUDA. Call it before they are imported."""
    # Otherwise the first question for a GPU starts CUDA: forked processes then cannot use it, and CUDA_VISIBLE_DEVICES
    # has no effect any more.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    # It warns at every fork of a process that has used a tokenizer.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # On import it asks for an optional CPU kernel that nothing here needs.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    # TRL and PEFT still use names that transformers 5 is renaming.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|trl|peft)\b")
    # FSDP is only imported, not used, by the code that warns on one process.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\b")
