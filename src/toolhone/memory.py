"""How much memory this process has used at most."""

from __future__ import annotations

import resource
import sys


def peak_memory_gb(device: str) -> float:
    """The peak so far, in GB of 10^9 bytes: allocated GPU memory on "cuda", the process's resident memory on "cpu"."""
    if device == "cuda":
        import torch

        return round(torch.cuda.max_memory_allocated() / 1e9, 2)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak * (1 if sys.platform == "darwin" else 1024) / 1e9, 2)
