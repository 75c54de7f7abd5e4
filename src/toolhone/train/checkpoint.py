"""Mark complete checkpoints, and stop training at the end of a step on Ctrl-C.

Trainer writes a checkpoint file by file, so after a crash an incomplete one looks like any other. Once every process
has written its files, a marker file is added. Training resumes only from marked checkpoints. Older checkpoints are
deleted only after the new one is marked.
"""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch.utils.data import get_worker_info
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from toolhone.errors import UserError
from toolhone.jsonl import read_json
from toolhone.run_folder import ADAPTER_FILES, RunFolder, missing_adapter_files
from toolhone.train.processes import wait_for_all

_MARKER = "complete"


def last_checkpoint(folder: Path) -> Path | None:
    """Return the complete checkpoint with the most steps, or None."""
    return next((path for path in _newest_first(folder) if _is_complete(path)), None)


def can_continue(run: RunFolder) -> bool:
    """Return whether the run's training was interrupted and has a complete checkpoint."""
    return run.stage("train") is None and last_checkpoint(run.checkpoints) is not None


def _newest_first(folder: Path) -> list[Path]:
    """Return all checkpoints, complete or not."""
    found = {int(m[1]): path for path in folder.glob("checkpoint-*") if (m := re.fullmatch(r".*-(\d+)", path.name))}
    return [found[step] for step in sorted(found, reverse=True)]


def _is_complete(checkpoint: Path) -> bool:
    return (checkpoint / _MARKER).is_file()


def checkpoint_to_resume(folder: Path) -> Path:
    """Return the checkpoint that `--resume` continues from.

    Raises:
        UserError: if there is none.
    """
    path = last_checkpoint(folder)
    if path is None:
        raise UserError(f"{folder}: has no complete checkpoint to resume from; leave out --resume")
    return path


def steps_of(checkpoint: Path) -> tuple[int, int]:
    """Return the step that a checkpoint was saved after, and the step that its training ends at."""
    state = read_json(checkpoint / "trainer_state.json", "start again with --fresh (FRESH=1)")
    return int(state["global_step"]), int(state["max_steps"])


def copy_adapter(checkpoint: Path, folder: Path) -> None:
    """Copy the adapter of a checkpoint into a folder.

    Raises:
        UserError: if the checkpoint lacks it.
    """
    if lacking := missing_adapter_files(checkpoint):
        raise UserError(f"{checkpoint}: has no {lacking[0]}; restore it, or start again with --fresh (FRESH=1)")
    folder.mkdir(parents=True, exist_ok=True)
    for name in ADAPTER_FILES:
        shutil.copyfile(checkpoint / name, folder / name)


class MarkComplete(TrainerCallback):  # type: ignore[misc]
    """Marks each checkpoint once all processes have written it, and then keeps only the newest ones.

    Trainer's own `save_total_limit` deletes the last complete checkpoint before the new one is complete.
    """

    def __init__(self, keep: int) -> None:
        self.keep = keep

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        wait_for_all()
        if state.is_world_process_zero:
            folder = Path(args.output_dir)
            (folder / f"checkpoint-{state.global_step}" / _MARKER).touch()
            for path in _newest_first(folder)[self.keep :]:
                (path / _MARKER).unlink(
                    missing_ok=True
                )  # first, so that after a kill the remaining files do not count as complete
                shutil.rmtree(path)


class StopOnSignal(TrainerCallback):  # type: ignore[misc]
    """On SIGINT (Ctrl-C) or SIGTERM: finish the step, save a checkpoint, stop. A second signal interrupts at once.

    With several processes, all stop at the same step, even if only one got the signal. `asked` is true if this process
    got it, `agreed` if any process did. This must be the last callback: then a signal during a measurement stops
    training at that step.
    """

    def __init__(self) -> None:
        self.asked = False
        self.agreed = False
        self.stopped = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopOnSignal:
        self._previous = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        if number == signal.SIGINT:
            word = "training stops after this step or validation and saves a checkpoint; Ctrl-C again stops it at once"
            print(f"\n{word}", flush=True)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._stop_if_asked(args, state, control)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._stop_if_asked(args, state, control)

    def _stop_if_asked(self, args: TrainingArguments, state: TrainerState, control: TrainerControl) -> None:
        self.agreed = self.asked
        if torch.distributed.is_initialized():  # a single process does not wait for its GPU
            asked = torch.tensor(float(self.asked), device=args.device)
            torch.distributed.all_reduce(asked, op=torch.distributed.ReduceOp.MAX)
            self.agreed = bool(asked.item())
        # After the last step training ends anyway.
        if self.agreed and state.global_step < state.max_steps:
            self.stopped = control.should_save = control.should_training_stop = True

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        # Otherwise Trainer validates and saves again here, while the user waits.
        if self.stopped:
            control.should_evaluate = control.should_save = False


@dataclass(frozen=True, slots=True)
class LeaveSignals:
    """A collator for worker processes that leaves signals to the training process.

    Ctrl-C and Slurm signal all processes of a job. A worker that ends would end training in the middle of a step.
    """

    collator: Callable[[Sequence[dict[str, Any]]], dict[str, Any]]

    def __call__(self, features: Sequence[dict[str, Any]]) -> dict[str, Any]:
        if get_worker_info() is not None:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
        return self.collator(features)
