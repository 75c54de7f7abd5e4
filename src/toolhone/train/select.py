"""Keep the adapter of the step with the best answers, instead of the last one.

The loss can keep falling after calls have stopped improving, and can rise while they still improve. So the model
generates answers to the validation turns, as it will for the test turns, and the same scorer scores them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from toolhone.jsonl import read_json, write_json
from toolhone.train.log import TrainLog


@dataclass(frozen=True, slots=True)
class Measured:
    """The number of validation turns that were exactly right after a step."""

    step: int
    right: int
    total: int


MEASURED = "selection.json"
"""The file with the measurements, which a resumed run continues."""

Measure = Callable[[Any, int], Measured]
"""Scores a model after a step. Every process calls it and gets the same result."""


class SelectByExactMatch(TrainerCallback):  # type: ignore[misc]
    """Measures at each validation and after the last step, and keeps the best adapter. In a tie, the first one is kept.

    With `patience`, training ends after this many measurements in a row without a new best. `folder` has the adapter
    (`best/`) and the measurements (`selection.json`); a resumed run continues with them. A step is measured before
    its checkpoint is saved, so every checkpoint has its measurement.
    """

    def __init__(self, measure: Measure, folder: Path, patience: int | None, log: TrainLog) -> None:
        self.measure = measure
        self.folder = folder
        self.patience = patience
        self.log = log
        self.history: list[Measured] = []

    @property
    def best(self) -> Measured:
        """The first of the best measurements."""
        return _best(self.history)

    def take_best(self, adapter: Path) -> None:
        """Copy the best adapter into the run's adapter folder."""
        shutil.copytree(self.folder / "best", adapter, dirs_exist_ok=True)

    def ends_at(self, step: int) -> bool:
        """Return whether training ended after this step because `patience` ran out."""
        history = self._history_until(step)
        return self.patience is not None and _since_best(history) >= self.patience

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.history = self._history_until(state.global_step)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        # At the end of an epoch Trainer validates only after `save_every` has saved, which is too late.
        ends_epoch = args.eval_strategy == "epoch" and float(state.epoch or 0).is_integer()
        if not (control.should_evaluate or ends_epoch or state.global_step >= state.max_steps):
            return
        self._measure(model, state)
        since_best = _since_best(self.history)
        if self.patience is not None and since_best >= self.patience and state.global_step < state.max_steps:
            self.log.say(f"step {state.global_step}: no improvement in {since_best} measurements; training ends")
            control.should_training_stop = True
            if args.save_strategy == "steps":  # otherwise Trainer saves at the end of the epoch
                control.should_save = True

    def _measure(self, model: Any, state: TrainerState) -> None:
        found = self.measure(model, state.global_step)
        self.history.append(found)
        is_best = self.best == found
        if state.is_world_process_zero:
            if is_best:
                model.save_pretrained(str(self.folder / "best"))
            rows = [asdict(measured) for measured in self.history]
            write_json(self.folder / MEASURED, {"best": self.best.step, "measured": rows})
        self.log.exact_match(found.step, found.right, found.total, is_best=is_best)

    def _history_until(self, step: int) -> list[Measured]:
        """Return the saved measurements up to a step; none if a later step was the best, because it will be
        repeated."""
        written = self._written()
        history = [measured for measured in written if measured.step <= step]
        return history if history and _best(history) == _best(written) else []

    def _written(self) -> list[Measured]:
        path = self.folder / MEASURED
        if not path.is_file():
            return []
        return [Measured(**row) for row in read_json(path, "training writes it")["measured"]]


def _best(history: Sequence[Measured]) -> Measured:
    return max(history, key=lambda measured: (measured.right, -measured.step))


def _since_best(history: Sequence[Measured]) -> int:
    """Return the number of measurements after the best one."""
    return len(history) - 1 - history.index(_best(history)) if history else 0
