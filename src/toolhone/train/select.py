"""Keep the adapter of the step whose answers were best instead of the last step's.

The loss keeps falling long after calls have stopped improving, and may rise while they still do. So the validation
turns are answered by generation, as the test turns will be, and scored by the same scorer.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from toolhone.jsonl import read_json, write_json
from toolhone.train.progress import TrainLog


@dataclass(frozen=True, slots=True)
class Measured:
    """How many of the validation turns were exactly right after a step."""

    step: int
    right: int
    total: int


Measure = Callable[[Any, int], Measured]
"""Scores a model as it is after a step. Every process calls it and gets the same result."""


class SelectByExactMatch(TrainerCallback):  # type: ignore[misc]
    """Measures at each validation and after the last step, and keeps the adapter that was best; of equals, the first.

    With `patience`, training ends after this many measurements in a row without a new best. `folder` holds the adapter
    and the measurements (`best/`, `selection.json`), so that a resumed run goes on with them.
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
        """Put the best adapter where the run's adapter belongs."""
        shutil.copytree(self.folder / "best", adapter, dirs_exist_ok=True)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        written = self._written()
        self.history = [measured for measured in written if measured.step <= state.global_step]
        if self.history and self.best != _best(written):
            self.history = []  # a later step was the best of the run that is resumed; it will come again

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        self._measure(model, state)
        since_best = len(self.history) - 1 - self.history.index(self.best)
        if self.patience is not None and since_best >= self.patience:
            self.log.say(f"step {state.global_step}: no better after {since_best} measurements; training ends")
            control.should_training_stop = True

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        # A run that was asked to stop before its last step is not measured: whoever asked is waiting.
        if state.global_step >= state.max_steps and (not self.history or self.history[-1].step != state.global_step):
            self._measure(model, state)

    def _measure(self, model: Any, state: TrainerState) -> None:
        found = self.measure(model, state.global_step)
        self.history.append(found)
        is_best = self.best == found
        if state.is_world_process_zero:
            if is_best:
                model.save_pretrained(str(self.folder / "best"))
            rows = [asdict(measured) for measured in self.history]
            write_json(self.folder / "selection.json", {"best": self.best.step, "measured": rows})
        self.log.exact_match(found.step, found.right, found.total, is_best=is_best)

    def _written(self) -> list[Measured]:
        path = self.folder / "selection.json"
        if not path.is_file():
            return []
        return [Measured(**row) for row in read_json(path, "training writes it")["measured"]]


def _best(history: Sequence[Measured]) -> Measured:
    return max(history, key=lambda measured: (measured.right, -measured.step))
