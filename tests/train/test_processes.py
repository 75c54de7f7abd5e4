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
from toolhone.train.processes import join_processes, wait_for_all


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
