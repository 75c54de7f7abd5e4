"""The processes that a launcher (accelerate, torchrun) starts: their ranks, their group, and how they wait.

Training, evaluation and suites share their work among them. Only this module joins the group.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch

from toolhone.errors import UserError

Made = TypeVar("Made")

_GIVES_UP = timedelta(minutes=30)
"""How long a process waits for the others. A launcher ends all processes if one fails, so only a machine that hangs
takes this long. NCCL's own limit of ten minutes is too short: rank 0 alone scores and writes reports, and some shares
of an evaluation take longer than others."""
_SAYS_SO = timedelta(minutes=5)
"""How long a process waits before it says so."""


def world_size() -> int:
    """Processes that the launcher started; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """This process's number among them."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """This process's number on its machine, which is also the number of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def join_processes(device: str) -> None:
    """Join the group of all processes: NCCL on "cuda", gloo on "cpu". It is left when Python exits. A single process
    joins none."""
    if world_size() == 1 or torch.distributed.is_initialized():
        return
    from accelerate import PartialState

    PartialState(cpu=device == "cpu", timeout=_GIVES_UP)
    atexit.register(_leave_processes)


def wait_for_all() -> None:
    """Wait until every process has reached this point. After five minutes, say so.

    Raises:
        UserError: if another process has ended, or has not arrived within half an hour.
    """
    if not torch.distributed.is_initialized():
        return
    minutes = int(_SAYS_SO.total_seconds() // 60)
    limit = int(_GIVES_UP.total_seconds() // 60)
    word = f"process {rank()} has waited {minutes} minutes for the others, and gives up after {limit}"
    timer = threading.Timer(_SAYS_SO.total_seconds(), print, [word], {"file": sys.stderr, "flush": True})
    timer.daemon = True
    timer.start()
    try:
        torch.distributed.barrier()
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"process {rank()}: another process has failed, or has not come within {limit} minutes ({reason}); its own "
            "message says why"
        ) from None
    finally:
        timer.cancel()


def on_first_process(act: Callable[[], Made]) -> Made:
    """Run `act` in the first process, and return its result in every process. All raise its `UserError`."""
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
