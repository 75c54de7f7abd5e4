"""The training log: one line per step, continued when a run resumes."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from transformers import TrainerState

from toolhone.errors import UserError
from toolhone.train.log import TrainLog

LOGS = {"loss": 2.5, "learning_rate": 1e-3, "grad_norm": 0.5}


def state(step: int, *, zero: bool = True) -> TrainerState:
    return TrainerState(global_step=step, max_steps=40, epoch=step / 10, is_world_process_zero=zero)


def start(path: Path, step: int = 0, out: io.StringIO | None = None, *, zero: bool = True) -> TrainLog:
    log = TrainLog(path, Console(file=out or io.StringIO(), width=200))
    begin: Any = SimpleNamespace()
    log.on_train_begin(begin, state(step, zero=zero), begin)
    return log


def steps(log: TrainLog, first: int, last: int, *, zero: bool = True, **more: float) -> None:
    """Logs steps of four examples with ten tokens each, six of them computed."""
    nothing: Any = SimpleNamespace()
    for step in range(first, last + 1):
        log.count(4, 40, 24)
        log.on_log(nothing, state(step, zero=zero), nothing, logs={**LOGS, **more})


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_each_step_is_one_line_with_running_counts(tmp_path: Path) -> None:
    steps(start(tmp_path / "log.jsonl"), 1, 2)
    first, second = lines(tmp_path / "log.jsonl")
    assert [first[k] for k in ("step", "examples", "tokens", "computed_tokens")] == [1, 4, 40, 24]
    assert [second[k] for k in ("step", "examples", "tokens", "computed_tokens")] == [2, 8, 80, 48]
    assert {k: second[k] for k in LOGS} == LOGS
    assert second["epoch"] == 0.2
    assert second["elapsed_s"] >= first["elapsed_s"]


def test_resuming_drops_the_lines_of_repeated_steps_and_continues_the_counts(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    nothing: Any = SimpleNamespace()
    before = start(path)
    steps(before, 1, 2)
    before.on_log(nothing, state(2), nothing, logs={"eval_loss": 1.5})
    steps(before, 3, 5)
    before.on_log(nothing, state(5), nothing, logs={"eval_loss": 1.25})
    kept = lines(path)[:3]
    assert kept[-1] == {"step": 2, "eval_loss": 1.5}

    resumed = start(path, step=2)
    assert lines(path) == kept
    steps(resumed, 3, 4)
    assert lines(path)[:3] == kept
    assert [line["step"] for line in lines(path)] == [1, 2, 2, 3, 4]
    assert lines(path)[-1]["examples"] == 4 * 4
    assert lines(path)[-1]["tokens"] == 4 * 40
    assert lines(path)[-1]["computed_tokens"] == 4 * 24
    assert lines(path)[-1]["elapsed_s"] >= kept[1]["elapsed_s"]


def test_the_speed_after_resuming_counts_only_new_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr("toolhone.train.log.time.perf_counter", lambda: clock.now)
    before = start(tmp_path / "log.jsonl")
    clock.now += 10
    steps(before, 1, 1)
    resumed = start(tmp_path / "log.jsonl", step=1)
    clock.now += 2
    steps(resumed, 2, 2)
    first, second = lines(tmp_path / "log.jsonl")
    assert (first["tokens_per_second"], first["elapsed_s"]) == (4.0, 10.0)
    assert (second["tokens_per_second"], second["elapsed_s"]) == (20.0, 12.0)


def test_a_fresh_run_starts_with_an_empty_log(tmp_path: Path) -> None:
    steps(start(tmp_path / "log.jsonl"), 1, 3)
    start(tmp_path / "log.jsonl")
    assert lines(tmp_path / "log.jsonl") == []


def test_only_the_first_process_writes(tmp_path: Path) -> None:
    steps(start(tmp_path / "log.jsonl", zero=False), 1, 3, zero=False)
    assert not (tmp_path / "log.jsonl").exists()


@pytest.mark.parametrize("bad", [{"loss": float("nan")}, {"grad_norm": float("inf")}, {"eval_loss": float("nan")}])
@pytest.mark.parametrize("zero", [True, False])
def test_a_nan_or_infinite_figure_stops_every_process(tmp_path: Path, bad: dict[str, float], zero: bool) -> None:
    log = start(tmp_path / "log.jsonl", zero=zero)
    name = next(iter(bad))
    with pytest.raises(UserError, match=rf"^train: {name} is (nan|inf) at step 7; lower train.learning_rate"):
        steps(log, 7, 7, zero=zero, **bad)


def test_progress_lines_show_loss_speed_time_left_and_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr("toolhone.progress.time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr("toolhone.train.log.time", SimpleNamespace(perf_counter=lambda: clock.now))
    monkeypatch.setattr("toolhone.progress._IDLE_INTERVAL_S", 1e6)
    out = io.StringIO()
    log = start(tmp_path / "log.jsonl", out=out)
    nothing: Any = SimpleNamespace()
    for step in range(1, 41):
        clock.now += 5
        steps(log, step, step)
        log.on_step_end(nothing, state(step), nothing)
    for _ in range(2):
        clock.now += 6
        log.on_prediction_step(nothing, state(40), nothing, eval_dataloader=[1, 2])
    log.on_evaluate(nothing, state(40), nothing)
    log.on_train_end(nothing, state(40), nothing)
    printed = out.getvalue().splitlines()
    assert printed[0] == "training: 4 of 40 steps, loss 2.500, 8 tokens/s, 3 min left"
    assert printed[-2:] == ["validation: 2 of 2 batches in 6 s", "training: 40 of 40 steps in 4 min"]
    assert len(printed) == 11
