"""Handle the processes that a launcher (accelerate, torchrun) starts: their group, and what they tell each other.

Training, evaluation and suites divide their work among them. They may run on machines that share no folder: results go
through the group, and only process 0 writes them. Only this module joins the group.
"""

from __future__ import annotations

import atexit
import socket
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch

from toolhone.errors import UserError
from toolhone.launcher import local_rank, rank, world_size
from toolhone.run_folder import existing_run
from toolhone.run_inputs import Inputs, differences, listed
from toolhone.train.hardware import choose_device

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


def join_for_run(folder: Path) -> None:
    """Join the group of all processes for a command on a run folder. A process that lacks the folder joins too, so that
    the others get its error."""
    if world_size() == 1:
        return
    try:
        asked = existing_run(folder)[1].model.device
    except UserError:  # `in_every_process` reports it
        asked = "auto"
    join_processes(choose_device(asked)[0])


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


def in_every_process(act: Callable[[], Made]) -> Made:
    """Run `act` in every process, and return this process's result. If it raises a `UserError` in one, all stop: that
    one with its own error, the others with an error that names it."""
    if not torch.distributed.is_initialized():
        return act()
    failure: UserError | None = None
    try:
        made = act()
    except UserError as error:
        failure = error
    found = everyone(None if failure is None else f"{_this_process()}: {failure}")
    if failure is not None:
        raise failure
    for message in filter(None, found):
        raise UserError(message)
    return made


def everyone(mine: Made) -> list[Made]:
    """Return the values of all processes, in the order of their numbers."""
    if not torch.distributed.is_initialized():
        return [mine]
    found: list[Any] = [None] * world_size()
    torch.distributed.all_gather_object(found, mine)
    return found


def gather_to_first(mine: Made) -> list[Made]:
    """Return the values of all processes in process 0, and an empty list in the others."""
    if not torch.distributed.is_initialized():
        return [mine]
    found: list[Any] = [None] * world_size() if rank() == 0 else []
    torch.distributed.gather_object(mine, found or None)
    return found


def require_same_inputs(inputs: Callable[[], Inputs]) -> None:
    """Check that every machine has the inputs of process 0's machine. One process of each computes them.

    Raises:
        UserError: in every process, if one has other inputs. The message lists the differences.
    """
    if not torch.distributed.is_initialized():
        return
    mine = in_every_process(lambda: inputs() if local_rank() == 0 else None)
    found = everyone((_this_process(), mine))
    first, expected = found[0]
    assert expected is not None
    for process, theirs in found:
        if theirs is not None and (changed := differences(expected, theirs, expected)):
            raise UserError(
                f"{process} has other inputs than {first}: {listed(changed)}. Give every machine the same config, "
                "data, model, run folder and versions"
            )


def _this_process() -> str:
    return f"process {rank()} on {socket.gethostname()}"


def _leave_processes() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
