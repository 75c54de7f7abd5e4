"""Optimizations for CPUs; GPUs use none of them. The config section `cpu` switches each of them off.

- `GroupedAttention`: attention as plain matrix products. In bfloat16 it takes at most half of the time of PyTorch's
  kernel (scripts/bench_attention.py).
- `map_large_tensors`, `trim_heap`, `TrimHeapCallback`: return freed memory to the system.
- `bfloat16_speedup`: decides whether `model.dtype: auto` means bfloat16.
"""

from __future__ import annotations

import ctypes
import math
import time
from functools import lru_cache
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

_M_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD in glibc's malloc.h
_LARGE_BYTES = 4 << 20
_TRIM_STEPS = 8
"""Optimizer steps between two calls of `trim_heap`."""
_PROBES = 5
"""Number of products that `bfloat16_speedup` times for each number type."""


class GroupedAttention(torch.autograd.Function):
    """Attention of one block as plain matrix products. The query heads of a group are stacked, so each key-value head
    is multiplied once and nothing is copied. The backward pass recomputes the probabilities. This costs a seventh of
    the time, but no memory that grows with queries times keys."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,  # [1, heads, queries, dim]
        key: torch.Tensor,  # [1, key-value heads, keys, dim]
        value: torch.Tensor,  # the same shape as key
        mask: torch.Tensor | None,  # [queries, keys]; None: causal
        scaling: float,
    ) -> torch.Tensor:
        ctx.save_for_backward(query, key, value, mask)
        ctx.scaling = scaling
        stacked = query.reshape(key.shape[1], -1, query.shape[-1])  # [key-value heads, group x queries, dim]
        return (_probabilities(stacked, key[0], mask, scaling) @ value[0]).view(query.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        query, key, value, mask = ctx.saved_tensors
        stacked = query.reshape(key.shape[1], -1, query.shape[-1])
        gradient = gradients[0].reshape(stacked.shape)
        probabilities = _probabilities(stacked, key[0], mask, ctx.scaling)
        of_value = probabilities.transpose(1, 2) @ gradient
        of_scores = torch._softmax_backward_data(
            gradient @ value[0].transpose(1, 2), probabilities, -1, probabilities.dtype
        ).mul_(ctx.scaling)
        of_query = (of_scores @ key[0]).view(query.shape)
        return of_query, (of_scores.transpose(1, 2) @ stacked)[None], of_value[None], None, None


def _probabilities(stacked: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None, scaling: float) -> torch.Tensor:
    """Return [key-value heads, group x queries, keys] from [key-value heads, group x queries, dim] and the keys."""
    if mask is None:
        mask = key.new_ones(key.shape[1], key.shape[1], dtype=torch.bool).tril()
    unseen = key.new_zeros(mask.shape).masked_fill_(~mask, float("-inf"))
    unseen = unseen.repeat(stacked.shape[1] // len(mask), 1)
    return torch.softmax(torch.baddbmm(unseen, stacked, key.transpose(1, 2), alpha=scaling), dim=-1)


def map_large_tensors() -> None:
    """Make glibc map each tensor of 4 MiB or more separately, so that its memory returns to the system when freed.

    Otherwise glibc allocates the activations of a training step on its heap, and gaps between longer-lived tensors
    accumulate. A step of SmolLM2 on 2,065 tokens peaks at 6.6 GB without this and at 5.3 GB with it, in the same time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc alone has it
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)


def trim_heap() -> None:
    """Return freed memory to the system. Without this, glibc keeps 0.75 GB of the 1.3 GB that are freed after a model
    has answered (SmolLM2, 30 rows)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc alone has it
    if trim is not None:
        trim(0)


class TrimHeapCallback(TrainerCallback):  # type: ignore[misc]
    """Trims the heap every few steps. Batches of different lengths leave gaps of different sizes. Without this, the
    memory of SmolLM2's training grew from 3.9 GB after 12 steps to 6.3 GB after 252."""

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step % _TRIM_STEPS == 0:
            trim_heap()


def cpu_multiplies_bfloat16() -> bool:
    """Return whether the CPU has instructions for bfloat16 products. Without them, products take fifty times as
    long."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


@lru_cache(maxsize=1)
def bfloat16_speedup() -> float:
    """Return the speedup of bfloat16 over float32 matrix products on this CPU; 0 without instructions for bfloat16.

    It is measured in about 70 ms, because the instructions alone do not decide: AMX is several times faster,
    AVX512-BF16 twice as fast on some processors and half as fast on others. The measure is the processor time of one
    thread: with wall time, a busy machine once chose the type that takes twice as long.
    """
    if not cpu_multiplies_bfloat16():
        return 0.0
    seconds = {torch.float32: math.inf, torch.bfloat16: math.inf}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in range(_PROBES):
            for dtype in seconds:
                rows, weight = torch.ones(256, 1024, dtype=dtype), torch.ones(1024, 1024, dtype=dtype)
                started = time.thread_time()
                rows @ weight
                seconds[dtype] = min(seconds[dtype], time.thread_time() - started)
    finally:
        torch.set_num_threads(threads)
    return seconds[torch.float32] / seconds[torch.bfloat16]
