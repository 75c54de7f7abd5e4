"""Log training to `train_log.jsonl`, and show its progress with loss, speed and time left."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from toolhone.errors import UserError
from toolhone.launcher import rank
from toolhone.progress import Progress


class TrainLog(TrainerCallback):  # type: ignore[misc]
    """Writes a JSON line for every logged step, and shows the progress of training and of each validation.

    The counts cover all processes: examples, logical tokens (every row in full) and computed tokens (shared prefixes
    once, without padding). `earlier_seconds` is the time of the steps before the run was resumed.
    """

    def __init__(self, path: Path, console: Console) -> None:
        self.path = path
        self.console = console
        self.examples = 0
        self.logical_tokens = 0
        self.computed_tokens = 0
        self.earlier_seconds = 0.0
        self._started = 0.0
        self._tokens_at_start = 0
        self._training: Progress | None = None
        self._validation: Progress | None = None

    def count(self, examples: int, logical_tokens: int, computed_tokens: int) -> None:
        """Add the counts of a batch."""
        self.examples += examples
        self.logical_tokens += logical_tokens
        self.computed_tokens += computed_tokens

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if not state.is_world_process_zero:
            return
        self.keep_lines_until(state.global_step)
        self._started = time.perf_counter()
        self._tokens_at_start = self.logical_tokens
        self._training = Progress("training", state.max_steps, "steps", self.console, done=state.global_step)
        self._training.open()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self._training is not None:
            self._training.update(state.global_step)

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, eval_dataloader: Any, **_: Any
    ) -> None:
        if self._training is None:
            return
        if self._validation is None:
            self._validation = Progress("validation", len(eval_dataloader), "batches", self.console)
            self._validation.open()
        self._validation.advance()

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._end_validation()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        logs = logs or {}
        self._stop_on_nan(logs, state.global_step)
        if not state.is_world_process_zero:
            return
        if "eval_loss" in logs:
            self._write({"step": state.global_step, "eval_loss": logs["eval_loss"]})
            self.console.print(f"step {state.global_step}: validation loss {logs['eval_loss']:.4f}")
        if "loss" in logs:
            line = self._line(logs, state)
            self._write(line)
            if self._training is not None:
                speed = f"{line['tokens_per_second']:,.0f} tokens/s"
                self._training.update(state.global_step, f"loss {line['loss']:.3f}, {speed}")

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Stop showing progress; safe to call twice."""
        self._end_validation()
        if self._training is not None:
            self._training.close()
            self._training = None

    def _end_validation(self) -> None:
        if self._validation is not None:
            self._validation.close()
            self._validation = None

    def exact_match(self, step: int, right: int, total: int, *, is_best: bool) -> None:
        """Log how many validation turns were exactly right after a step."""
        if rank() == 0:
            self._write({"step": step, "eval_exact_match": right / total, "eval_turns": total})
        best = ", the best so far" if is_best else ""
        self.say(f"step {step}: validation exact match {right / total:.1%} ({right}/{total}){best}")

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self.console.print(text, markup=False)

    def _line(self, logs: dict[str, float], state: TrainerState) -> dict[str, float]:
        elapsed = time.perf_counter() - self._started
        return {
            "step": state.global_step,
            "epoch": round(state.epoch or 0.0, 4),
            "loss": logs["loss"],
            "learning_rate": logs["learning_rate"],
            "grad_norm": logs["grad_norm"],
            "examples": self.examples,
            "tokens": self.logical_tokens,
            "computed_tokens": self.computed_tokens,
            "tokens_per_second": round((self.logical_tokens - self._tokens_at_start) / elapsed, 1),
            "elapsed_s": round(self.earlier_seconds + elapsed, 2),
        }

    def _stop_on_nan(self, logs: dict[str, float], step: int) -> None:
        bad = [name for name in ("loss", "grad_norm", "eval_loss") if not math.isfinite(logs.get(name, 0.0))]
        if bad:
            raise UserError(
                f"train: {bad[0]} is {logs[bad[0]]} at step {step}; lower train.learning_rate, raise train.warmup, or "
                "use a wider model.dtype"
            )

    def keep_lines_until(self, step: int) -> None:
        """On resuming, drop the lines of steps that will be repeated, and continue the counts of the last remaining
        line."""
        kept: list[dict[str, Any]] = []
        if step and self.path.is_file():
            lines = [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]
            kept = [line for line in lines if line["step"] <= step]
        counted = [line for line in kept if "tokens" in line]
        if counted:
            last = counted[-1]
            self.examples, self.logical_tokens = last["examples"], last["tokens"]
            self.computed_tokens, self.earlier_seconds = last["computed_tokens"], last["elapsed_s"]
        self.path.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")

    def _write(self, line: dict[str, float]) -> None:
        with self.path.open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
