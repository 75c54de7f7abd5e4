"""Choose the device and number type of a run, and measure its memory."""

from __future__ import annotations

import gc
import re
import resource
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from toolhone.config import ModelConfig
from toolhone.errors import UserError
from toolhone.launcher import local_rank, world_size
from toolhone.train import cpu, cuda

_PROCESS = Path("/proc/self")


@dataclass(frozen=True, slots=True)
class Hardware:
    """The device ("cpu" or "cuda") and dtype of a run. `notes` are notices for the user."""

    device: str
    dtype: torch.dtype
    notes: tuple[str, ...]

    @property
    def dtype_name(self) -> str:
        """The number type's name, such as "bfloat16"."""
        return str(self.dtype).removeprefix("torch.")

    def describe(self) -> str:
        """Return a description of the device and the number type for the user."""
        name = torch.cuda.get_device_name() if self.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
        return f"{name}, {self.dtype_name}"


def choose_hardware(config: ModelConfig, *, cudnn_attention: bool = False) -> Hardware:
    """Resolve `model.device` and `model.dtype`, and set torch up for CUDA if that is the device.

    Raises:
        UserError: if the device or the number type of the config is not available.
    """
    device, notes = choose_device(config.device)
    if device == "cuda":
        cuda.set_up(cudnn_attention=cudnn_attention)
    if device == "cpu" and config.attention == "flash_attention_2":
        raise UserError("model.attention: flash_attention_2 needs CUDA, and there is none here; use sdpa")
    dtype = _choose_dtype(config, device)
    if device == "cpu" and dtype == torch.bfloat16 and not cpu.cpu_multiplies_bfloat16():
        notes.append("bfloat16 on a CPU without AVX512-BF16 or AMX can be fifty times slower than float32")
    return Hardware(device, dtype, tuple(notes))


def choose_device(asked: str) -> tuple[str, list[str]]:
    """Return the device for `model.device`, "cuda" or "cpu", and notices for the user about the choice.

    Raises:
        UserError: if CUDA is asked for but missing, CUDA does not work with this machine's NVIDIA driver, or there are
        fewer
            GPUs than processes.
    """
    if asked == "cpu":
        return "cpu", []
    reason = cuda.why_unavailable()
    if reason is None:
        return "cuda", _count_gpus()
    driver = cuda.driver_version()
    if asked == "cuda":
        here = f"the NVIDIA driver here is {driver}" if driver else "there is no NVIDIA driver here"
        raise UserError(
            f"model.device: cuda was asked for, but {cuda.torch_build()} cannot use it: {reason}; {here}; set it to "
            "auto or cpu"
        )
    if driver is None:
        return "cpu", []
    if cuda.gpus_are_hidden():
        return "cpu", ["CUDA_VISIBLE_DEVICES hides every GPU, so this runs on the CPU"]
    raise UserError(
        f"model.device: auto found the NVIDIA driver {driver} in {cuda.DRIVER}, but {cuda.torch_build()} cannot use "
        f"it: {reason}; {cuda.HOW_TO_FIX}"
    )


def _count_gpus() -> list[str]:
    """Check that each process has a GPU. Return a notice if a single process leaves GPUs idle."""
    count = torch.cuda.device_count()
    if local_rank() >= count:
        raise UserError(
            f"the launcher started a process for GPU {local_rank() + 1} of this machine, which has {count}; start "
            f"{count} processes on it (make: GPUS={count})"
        )
    if world_size() == 1 and count > 1:
        return [f"this machine has {count} GPUs and one is used; to use all: make train CONFIG=... GPUS={count}"]
    return []


def _choose_dtype(config: ModelConfig, device: str) -> torch.dtype:
    name = config.dtype
    cuda_lacks_bfloat16 = device == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False)
    if name == "auto":
        if device == "cuda":
            takes_bfloat16 = not cuda_lacks_bfloat16
        else:  # quantised weights use other kernels, and several processes could measure different speeds
            takes_bfloat16 = config.quantize == "none" and world_size() == 1 and cpu.bfloat16_speedup() > 1
        return torch.bfloat16 if takes_bfloat16 else torch.float32
    if name == "bfloat16" and cuda_lacks_bfloat16:
        raise UserError("model.dtype: this GPU has no bfloat16; use float16 or float32")
    if name == "float16" and device == "cpu":
        raise UserError("model.dtype: float16 does not train on a CPU; use float32")
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def reset_peak_memory(device: str) -> None:
    """Start measuring `peak_memory_gb` again, so that a stage does not report the peak of an earlier one. For resident
    memory only Linux can do this, and some containers forbid it; then the peak is that of the process so far."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return
    with suppress(OSError):
        (_PROCESS / "clear_refs").write_text("5", encoding="ascii")  # proc(5): 5 resets the peak of resident memory


def peak_memory_gb(device: str) -> float:
    """Return the peak since `reset_peak_memory` in GB of 10^9 bytes: allocated GPU memory on "cuda", the process's
    resident memory on "cpu"."""
    if device == "cuda":
        return round(torch.cuda.max_memory_allocated() / 1e9, 2)
    with suppress(OSError):
        found = re.search(r"^VmHWM:\s*(\d+) kB$", (_PROCESS / "status").read_text(encoding="utf-8"), re.M)
        if found:
            return round(int(found[1]) * 1024 / 1e9, 2)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak * (1 if sys.platform == "darwin" else 1024) / 1e9, 2)


def release_memory(device: str) -> None:
    """Return freed memory to the system, so that the next stage can use it."""
    gc.collect()
    cpu.trim_heap()
    if device == "cuda":
        torch.cuda.empty_cache()
