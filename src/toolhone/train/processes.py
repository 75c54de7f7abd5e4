"""Handle the processes that a launcher (accelerate, torchrun) starts: their group, and waiting for each other.

Training, evaluation and suites divide their work among them. Only this module joins the group.
"""

from __future__ import annotations

import atexit
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch

from toolhone.errors import UserError
from toolhone.launcher import rank, world_size

Made = TypeVar("Made")

_WAIT_LIMIT = timedelta(minutes=30)
"""Time limit for waiting for other processes. A launcher ends all processes if one fails, so only a machine that hangs
reaches this limit. NCCL's default of ten minutes is too short: rank 0 alone scores and writes reports, and some shares
of an evaluation take longer than others."""
_WARN_AFTER = timedelta(minutes=5)
"""Time after which a waiting process prints a message."""


def join_processes(device: str) -> None:
    """Join the group of all processes: NCCL on "cuda", gloo on "cpu". The process leaves it when Python exits. A single
    process joins no group."""
    if world_size() == 1 or torch.distributed.is_initialized():
        return
    from accelerate import PartialState

    PartialState(cpu=device == "cpu", timeout=_WAIT_LIMIT)
    atexit.register(_leave_processes)


def wait_for_all() -> None:
    """Wait until every process has reached this point. After five minutes, print a message.

    Raises:
        UserError: if another process has ended, or has not arrived within half an hour.
    """
    if not torch.distributed.is_initialized():
        return
    minutes = int(_WARN_AFTER.total_seconds() // 60)
    limit = int(_WAIT_LIMIT.total_seconds() // 60)
    word = f"process {rank()} has waited {minutes} minutes for the others, and gives up after {limit}"
    timer = threading.Timer(_WARN_AFTER.total_seconds(), print, [word], {"file": sys.stderr, "flush": True})
    timer.daemon = True
    timer.start()
    try:
        torch.distributed.barrier()
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"process {rank()}: another process has failed, or has not arrived within {limit} minutes ({reason}); see "
            "that process's own message"
        ) from None
    finally:
        timer.cancel()


def on_first_process(act: Callable[[], Made]) -> Made:
    """Run `act` in the first process, and return its result in every process. If it raises a `UserError`, all raise
    it."""
    if not torch.distributed.is_initialized():
        return act()
    sent: list[Any] = [None, None]
    if rank() == 0:
        try:
            sent[0] = act()
        except UserError as error:
            sent[1] = error
    torch.distributed.broadcast_object_list(sent)
    if sent[1] is not None:
        raise sent[1]
    made: Made = sent[0]
    return made


def _leave_processes() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
