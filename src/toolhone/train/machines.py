"""Copy a run folder to the machines of a training that do not share it.

Only process 0 writes a run folder. The processes of another machine need its config, splits and adapter to answer their
share, and its last checkpoint to resume. A machine that sees process 0's folder gets no copy.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from toolhone.config import Config
from toolhone.errors import UserError
from toolhone.jsonl import whole_file
from toolhone.launcher import local_rank
from toolhone.run_folder import RunFolder, empty_run, refuse_other_config, sha256_of
from toolhone.train.adapter import INITIAL_ADAPTER
from toolhone.train.checkpoint import last_checkpoint
from toolhone.train.processes import everyone, in_every_process, on_first_process, wait_for_all
from toolhone.train.select import MEASURED


def copy_to_other_machines(run: RunFolder, config: Config, *, fresh: bool = False, checkpoint: bool = False) -> None:
    """Copy the config, manifest, splits and adapter of a locked run folder; with `checkpoint`, also what a resumed
    training reads. With `fresh`, the copies are emptied first.

    Raises:
        UserError: in every process, if the folder of another machine would lose results of another run.
    """
    if not torch.distributed.is_initialized():
        return
    lock = on_first_process(lambda: _text(run.lock_file))
    sees_it = _text(run.lock_file) == lock
    if all(everyone(sees_it)):
        return
    offered, trained = on_first_process(lambda: (_needed(run, checkpoint), _finished(run)))
    keeps_copy = not sees_it and local_rank() == 0
    lacks = in_every_process(lambda: _lacking(run, config, offered, trained, fresh) if keeps_copy else set())
    for name in sorted(set().union(*everyone(lacks))):
        content = on_first_process(partial((run.path / name).read_bytes))
        if name in lacks:
            with whole_file(run.path / name) as out:
                out.write(content)
    wait_for_all()


def _needed(run: RunFolder, checkpoint: bool) -> dict[str, str]:
    """Return the files that another machine needs: their path in the run folder, and the SHA-256 of their content."""
    found = [run.config, run.manifest, *run.path.glob("splits/*.jsonl"), *run.adapter.rglob("*")]
    if checkpoint:
        last = last_checkpoint(run.checkpoints)
        found += [run.checkpoints / INITIAL_ADAPTER, run.checkpoints / "selection" / MEASURED]
        found += last.rglob("*") if last is not None else []
    return {path.relative_to(run.path).as_posix(): sha256_of(path) for path in found if path.is_file()}


def _lacking(run: RunFolder, config: Config, offered: dict[str, str], trained: str | None, fresh: bool) -> set[str]:
    """Return the names of the files that this machine's copy lacks, or has with another content."""
    if fresh and run.config.is_file():
        empty_run(run)
    refuse_other_config(run, config)
    if _finished(run) not in (None, trained):
        raise UserError(
            f"{run.path}: has a finished adapter that process 0's folder lacks; copy the folder to process 0's "
            "machine, delete it here, or start again with --fresh (FRESH=1)"
        )
    return {name for name, sha256 in offered.items() if not _is(run.path / name, sha256)}


def _finished(run: RunFolder) -> str | None:
    """Return when the run's training finished; None if it has not."""
    return (run.stage("train") or {}).get("finished")


def _is(path: Path, sha256: str) -> bool:
    return path.is_file() and sha256_of(path) == sha256


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None
