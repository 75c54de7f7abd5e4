"""A training that a signal stopped resumes to the same adapter, bit for bit, as an uninterrupted one."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from toolhone.chat.render import Rendered
from toolhone.errors import UserError
from toolhone.train.checkpoint import LeaveSignals, MarkComplete, StopOnSignal, checkpoint_to_resume, last_checkpoint
from toolhone.train.trainer import ToolCallTrainer

KEYS = {"batch_size": 2, "gradient_accumulation": 2, "max_steps": 5, "learning_rate": 1e-2, "scheduler": "cosine"}
Train = Callable[..., Any]


def weights(run: Any) -> bytes:
    return bytes((run.adapter / "adapter_model.safetensors").read_bytes())


def steps(folder: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("checkpoint-")) for path in folder.glob("checkpoint-*"))


@pytest.fixture
def signal_in_step(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sends this process a signal in the middle of a step, once."""
    original = ToolCallTrainer.training_step

    def arrange(step: int, number: int = signal.SIGINT, times: int = 1) -> None:
        def training_step(self: ToolCallTrainer, *args: Any, **kwargs: Any) -> Any:
            if self.state.global_step == step - 1:
                monkeypatch.setattr(ToolCallTrainer, "training_step", original)
                for _ in range(times):
                    os.kill(os.getpid(), number)
            return original(self, *args, **kwargs)

        monkeypatch.setattr(ToolCallTrainer, "training_step", training_step)

    return arrange


@pytest.mark.parametrize(
    ("number", "packing", "quantize"),
    [(signal.SIGINT, "prefix_tree", "none"), (signal.SIGTERM, "none", "none"), (signal.SIGINT, "prefix_tree", "nf4")],
    ids=["SIGINT", "SIGTERM", "NF4"],
)
def test_a_stopped_run_resumes_to_the_same_adapter_bit_for_bit(
    train: Train,
    short_rows: list[Rendered],
    signal_in_step: Callable[..., None],
    number: int,
    packing: str,
    quantize: str,
) -> None:
    keys = {**KEYS, "packing": packing, "quantize": quantize, "save_every": 10}
    handler = signal.getsignal(signal.SIGINT)
    rows = short_rows[:8]  # two steps per epoch: stopped inside the second epoch, resumed into the third
    whole = train(rows, "whole", **keys)
    signal_in_step(3, number)
    stopped = train(rows, "stopped", **keys)
    assert not stopped.result.finished
    assert stopped.result.steps == 3
    assert not stopped.run.adapter.exists()
    assert last_checkpoint(stopped.run.checkpoints) == stopped.run.checkpoints / "checkpoint-3"
    assert signal.getsignal(signal.SIGINT) is handler

    resumed = train(rows, "stopped", resume=True, **keys)
    assert resumed.result.finished
    assert resumed.result.steps == 5
    assert weights(resumed.run) == weights(whole.run)
    assert [line["step"] for line in resumed.log] == [1, 2, 3, 4, 5]
    kept = ("step", "epoch", "loss", "grad_norm", "learning_rate", "examples", "tokens", "computed_tokens")
    assert [[line[k] for k in kept] for line in resumed.log] == [[line[k] for k in kept] for line in whole.log]


def test_a_second_signal_stops_training_at_once(
    train: Train, short_rows: list[Rendered], signal_in_step: Callable[..., None]
) -> None:
    handler = signal.getsignal(signal.SIGINT)
    signal_in_step(2, times=2)
    with pytest.raises(KeyboardInterrupt):
        train(short_rows, **KEYS)
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_signal_in_the_last_step_lets_the_run_finish(
    train: Train, short_rows: list[Rendered], signal_in_step: Callable[..., None]
) -> None:
    signal_in_step(2)
    done = train(short_rows, **{**KEYS, "max_steps": 2})
    assert done.result.finished
    assert (done.run.adapter / "adapter_config.json").is_file()


def test_a_checkpoint_without_its_marker_is_ignored(
    train: Train, short_rows: list[Rendered], signal_in_step: Callable[..., None]
) -> None:
    keys = {**KEYS, "save_every": 1, "keep_checkpoints": 5}
    whole = train(short_rows, "whole", **keys)
    signal_in_step(3)
    stopped = train(short_rows, "stopped", **keys)
    folder = stopped.run.checkpoints
    # As a crash while writing the third checkpoint leaves it.
    (folder / "checkpoint-3" / "complete").unlink()
    (folder / "checkpoint-3" / "optimizer.pt").unlink()
    assert checkpoint_to_resume(folder) == folder / "checkpoint-2"
    resumed = train(short_rows, "stopped", resume=True, **keys)
    assert weights(resumed.run) == weights(whole.run)
    assert [line["step"] for line in resumed.log] == [1, 2, 3, 4, 5]
    assert last_checkpoint(folder) == folder / "checkpoint-5"


@pytest.mark.parametrize(
    "keys",
    [
        {"max_steps": 3, "save_every": 100},
        {"max_steps": 3, "save_every": 1, "keep_checkpoints": 1},
        {"max_steps": 3},
        {"epochs": 1},
        {"epochs": 1.5, "save_every": 2},
    ],
    ids=str,
)
def test_resuming_at_the_last_step_trains_nothing_and_saves_the_same_adapter(
    train: Train, short_rows: list[Rendered], monkeypatch: pytest.MonkeyPatch, keys: dict[str, Any]
) -> None:
    keys = {"batch_size": 2, "gradient_accumulation": 2, "learning_rate": 1e-2, **keys}
    rows = short_rows[:12]
    whole = train(rows, **keys)
    names = ("adapter_model.safetensors", "adapter_config.json")
    saved = {name: (whole.run.adapter / name).read_bytes() for name in names}
    shutil.rmtree(whole.run.adapter)  # as a kill just after the last checkpoint leaves it

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("another step was trained")

    monkeypatch.setattr(ToolCallTrainer, "training_step", refuse)
    again = train(rows, resume=True, **keys)
    assert again.result.finished
    assert again.result.steps == whole.result.steps == whole.log[-1]["step"]
    assert {name: (again.run.adapter / name).read_bytes() for name in saved} == saved
    assert again.log == whole.log
    assert again.result.seconds >= whole.log[-1]["elapsed_s"] - 0.1


def test_the_last_complete_checkpoint_stays_until_the_next_one_is_complete(
    train: Train, short_rows: list[Rendered], monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {**KEYS, "save_every": 1, "keep_checkpoints": 1}
    whole = train(short_rows, "whole", **keys)
    mark = MarkComplete.on_save

    def killed(self: MarkComplete, args: Any, state: Any, control: Any, **others: Any) -> None:
        if state.global_step == 3:  # the third checkpoint is written, except its marker
            raise KeyboardInterrupt
        mark(self, args, state, control, **others)

    monkeypatch.setattr(MarkComplete, "on_save", killed)
    with pytest.raises(KeyboardInterrupt):
        train(short_rows, "killed", **keys)
    monkeypatch.undo()
    resumed = train(short_rows, "killed", resume=True, **keys)
    assert [line["step"] for line in resumed.log] == [1, 2, 3, 4, 5]
    assert weights(resumed.run) == weights(whole.run)
    assert steps(resumed.run.checkpoints) == [5]


def test_a_checkpoint_that_is_being_deleted_counts_as_incomplete(
    train: Train, short_rows: list[Rendered], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(_: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("toolhone.train.checkpoint.shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        train(short_rows, "run", save_every=1, keep_checkpoints=1, **KEYS)
    folder = tmp_path / "run" / "checkpoints"
    assert last_checkpoint(folder) == folder / "checkpoint-2"
    assert not (folder / "checkpoint-1" / "complete").exists()


def test_resuming_without_a_complete_checkpoint_is_an_error(
    train: Train, short_rows: list[Rendered], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"checkpoints: has no complete checkpoint .*--resume"):
        train(short_rows, resume=True, **KEYS)
    (tmp_path / "checkpoint-7").mkdir()
    assert last_checkpoint(tmp_path) is None


def test_checkpoints_are_ordered_by_number_not_by_name(tmp_path: Path) -> None:
    for name in ("checkpoint-9", "checkpoint-10", "checkpoint-best"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "complete").touch()
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-10"


@pytest.mark.parametrize("keep", [1, 3])
def test_only_the_newest_checkpoints_stay_and_all_are_complete(
    train: Train, short_rows: list[Rendered], keep: int
) -> None:
    run = train(short_rows, save_every=1, keep_checkpoints=keep, **KEYS).run
    assert steps(run.checkpoints) == [1, 2, 3, 4, 5][-keep:]
    for path in run.checkpoints.glob("checkpoint-*"):
        assert (path / "complete").is_file()
        assert (path / "adapter_model.safetensors").is_file()
        state = json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
        assert f"checkpoint-{state['global_step']}" == path.name


def test_signal_handlers_are_restored() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopOnSignal() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_worker_that_prepares_batches_survives_signals_to_the_whole_job() -> None:
    batches = iter(DataLoader(range(40), batch_size=2, num_workers=1, collate_fn=LeaveSignals(tensor_of)))
    found = [next(batches)]
    (worker,) = multiprocessing.active_children()
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(worker.pid or 0, number)
    found += batches
    assert [batch["rows"].tolist() for batch in found] == [[n, n + 1] for n in range(0, 40, 2)]


def tensor_of(rows: list[int]) -> dict[str, torch.Tensor]:
    return {"rows": torch.tensor(rows)}
