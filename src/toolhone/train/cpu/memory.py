"""How much memory this process has used at most, and giving back what it no longer needs."""

from __future__ import annotations

import ctypes
import gc
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_M_MMAP_THRESHOLD = -3  # mallopt's name for it, in glibc's malloc.h
_LARGE_BYTES = 4 << 20


def peak_memory_gb(device: str) -> float:
    """The peak so far, in GB of 10^9 bytes: allocated GPU memory on "cuda", the process's resident memory on "cpu"."""
    if device == "cuda":
        import torch

        return round(torch.cuda.max_memory_allocated() / 1e9, 2)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak * (1 if sys.platform == "darwin" else 1024) / 1e9, 2)


@contextmanager
def no_collecting() -> Iterator[None]:
    """Leave Python's collector of circles off for as long as it holds. Reading and judging make records by the hundred
    thousand, none of which is in a circle; to look through all of them again and again takes a fifth of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def give_large_tensors_back_at_once() -> None:
    """Have glibc map each tensor of 4 MiB or more by itself, so that it is the system's again as soon as it is freed.

    Left alone, glibc takes the activations of a training step from its heap, where the gaps between those that live
    longer add up: a step of SmolLM2 on 2,065 tokens peaks at 6.6 GB so and at 5.3 GB with this, in the same time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc alone has it
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)


def give_back_memory(device: str) -> None:
    """Return freed memory to the system before the next stage asks for its own.

    After a model has answered and gone, glibc keeps 0.75 GB of the freed 1.3 (SmolLM2, 30 rows) unless told to trim.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc alone has it
    if trim is not None:
        trim(0)
    if device == "cuda":
        import torch

        torch.cuda.empty_cache()
