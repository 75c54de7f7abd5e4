"""Joining the process group and waiting for it. Tests with two real processes are in test_distributed.py."""

from __future__ import annotations

import time
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import accelerate
import pytest
import torch

from toolhone.errors import UserError
from toolhone.train import processes
from toolhone.train.processes import (
    everyone,
    gather_to_first,
    in_every_process,
    join_processes,
    require_same_inputs,
    wait_for_all,
)


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Records the arguments of joining the group, without real processes."""
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(accelerate, "PartialState", lambda **keys: calls.append(keys))
    monkeypatch.setattr(processes, "atexit", SimpleNamespace(register=lambda leave: calls[-1].update(leave=leave)))
    return calls


def test_a_single_process_joins_no_group_and_does_not_wait(
    joined: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    join_processes("cpu")
    wait_for_all()
    assert joined == []


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_group_is_joined_once_with_a_timeout_and_left_at_exit(
    joined: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    left: list[str] = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: left.append(device))
    join_processes(device)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    join_processes(device)
    [call] = joined
    assert call["cpu"] is (device == "cpu")
    assert timedelta(minutes=10) < call["timeout"] <= timedelta(hours=1)
    call["leave"]()
    assert left == [device]


def test_a_long_wait_is_announced_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "barrier", lambda: time.sleep(0.3))
    monkeypatch.setattr(processes, "_WARN_AFTER", timedelta(seconds=0.05))
    wait_for_all()
    assert capsys.readouterr().err.count("process 0 has waited") == 1
    monkeypatch.setattr(processes, "_WARN_AFTER", timedelta(seconds=60))
    wait_for_all()
    assert capsys.readouterr().err == ""


def test_a_process_that_died_gives_an_error_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def barrier() -> None:
        raise RuntimeError("[pair.cc:553] Connection closed by peer\nGLHF!")

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "barrier", barrier)
    with pytest.raises(
        UserError, match=r"^process 0: another process has failed.* \(\[pair.cc:553\] Connection closed by peer\)"
    ):
        wait_for_all()


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Makes this process the first of two. The list has the answers of the second, in the order of the questions."""
    answers: list[Any] = []

    def gather(found: list[Any], mine: Any) -> None:
        found[:] = [mine, answers.pop(0)]

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    return answers


def test_a_single_process_has_only_its_own_values() -> None:
    assert everyone(5) == gather_to_first(5) == [5]
    assert in_every_process(lambda: 5) == 5
    require_same_inputs(lambda: {"versions": {"torch": "2"}})


def test_an_error_in_another_process_stops_this_one_and_names_it(two: list[Any]) -> None:
    two.append("process 1 on b: data/train.jsonl: no such file")
    with pytest.raises(UserError, match=r"^process 1 on b: data/train\.jsonl: no such file$"):
        in_every_process(lambda: 5)


def test_the_process_that_failed_raises_its_own_error(two: list[Any]) -> None:
    def fail() -> None:
        raise UserError("data/train.jsonl: no such file")

    two.append(None)
    with pytest.raises(UserError, match=r"^data/train\.jsonl: no such file$"):
        in_every_process(fail)


def test_other_inputs_on_another_machine_are_listed_and_other_processes_of_a_machine_are_not_asked(
    two: list[Any],
) -> None:
    mine = {"versions": {"torch": "2.13"}, "answers": {"rows to answer": "aa"}}
    two += [None, ("process 1 on b", None)]
    require_same_inputs(lambda: mine)
    two += [None, ("process 1 on b", {"versions": {"torch": "2.12"}, "answers": {"rows to answer": "bb"}})]
    with pytest.raises(UserError) as caught:
        require_same_inputs(lambda: mine)
    assert str(caught.value).startswith("process 1 on b has other inputs than process 0 on ")
    assert "the version of torch: found 2.12, expected 2.13; the rows to answer: found bb, expected aa. " in str(
        caught.value
    )
