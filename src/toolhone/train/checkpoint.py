"""Complete checkpoints, and Ctrl-C: stopping at the end of a step.

Trainer writes a checkpoint file by file, so one that a crash cut short looks like any other. A marker file is written
once every process has written its part; training resumes only from marked checkpoints.
"""

from __future__ import annotations

import re
import signal
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from toolhone.errors import UserError

_MARKER = "complete"


def last_checkpoint(folder: Path) -> Path | None:
    """The complete checkpoint with the most steps, or None."""
    found = {int(m[1]): path for path in folder.glob("checkpoint-*") if (m := re.fullmatch(r".*-(\d+)", path.name))}
    complete = [step for step, path in found.items() if (path / _MARKER).is_file()]
    return found[max(complete)] if complete else None


def checkpoint_to_resume(folder: Path) -> Path:
    """The checkpoint that `--resume` continues from.

    Raises:
        UserError: if there is none.
    """
    path = last_checkpoint(folder)
    if path is None:
        raise UserError(f"{folder}: holds no complete checkpoint to resume from; leave out --resume")
    return path


class MarkComplete(TrainerCallback):  # type: ignore[misc]
    """Marks each checkpoint once all processes have written their part of it."""

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if torch.distributed.is_initialized():
            torch.distributed.barrier()
        if state.is_world_process_zero:
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / _MARKER).touch()


class StopOnSignal(TrainerCallback):  # type: ignore[misc]
    """On SIGINT (Ctrl-C) or SIGTERM: finish the step, save a checkpoint, stop. A second signal interrupts at once.

    With several processes, all stop at the same step, whichever of them got the signal.
    """

    def __init__(self) -> None:
        self.asked = False
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
            print("\nfinishing this step, then saving a checkpoint (Ctrl-C again: stop at once)", flush=True)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        asked = torch.tensor(float(self.asked), device=args.device)
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(asked, op=torch.distributed.ReduceOp.MAX)
        # After the last step training ends by itself.
        if asked.item() and state.global_step < state.max_steps:
            self.stopped = control.should_save = control.should_training_stop = True

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        # Trainer would validate and save once more at this point, while the user is waiting.
        if self.stopped:
            control.should_evaluate = control.should_save = False
