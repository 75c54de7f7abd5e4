"""How much memory this process has used at most, and giving back what it no longer needs."""

from __future__ import annotations

import ctypes
import gc
import resource
import sys


def peak_memory_gb(device: str) -> float:
    """The peak so far, in GB of 10^9 bytes: allocated GPU memory on "cuda", the process's resident memory on "cpu"."""
    if device == "cuda":
        import torch

        return round(torch.cuda.max_memory_allocated() / 1e9, 2)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak * (1 if sys.platform == "darwin" else 1024) / 1e9, 2)


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
