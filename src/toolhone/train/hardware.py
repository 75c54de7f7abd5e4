"""Which device and number type a run uses, how many processes there are, and how much memory is in use."""

from __future__ import annotations

import gc
import os
import resource
import sys
from dataclasses import dataclass

import torch

from toolhone.config import ModelConfig
from toolhone.errors import UserError
from toolhone.train import cpu


@dataclass(frozen=True, slots=True)
class Hardware:
    """The device ("cpu" or "cuda") and dtype of a run; `notes` are sentences for the user."""

    device: str
    dtype: torch.dtype
    notes: tuple[str, ...]

    @property
    def dtype_name(self) -> str:
        """The number type's name, such as "bfloat16"."""
        return str(self.dtype).removeprefix("torch.")

    def describe(self) -> str:
        """The device and the number type, for the user."""
        name = torch.cuda.get_device_name() if self.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
        return f"{name}, {self.dtype_name}"


def world_size() -> int:
    """Processes that the launcher (accelerate, torchrun) started; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """This process's number among them."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """This process's number on its machine, which is also the number of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def choose_hardware(config: ModelConfig) -> Hardware:
    """Resolve `model.device` and `model.dtype`.

    Raises:
        UserError: if the device or the number type that the config asks for is not available.
    """
    cuda = torch.cuda.is_available()
    if config.device == "cuda" and not cuda:
        reason = "this build of torch has no CUDA" if torch.version.cuda is None else "no CUDA device is visible"
        raise UserError(f"model.device: cuda was asked for, but {reason}; set it to auto or cpu")
    device = "cuda" if cuda and config.device != "cpu" else "cpu"
    notes = _keep_one_gpu() if device == "cuda" and world_size() == 1 else []
    if device == "cpu" and config.attention == "flash_attention_2":
        raise UserError("model.attention: flash_attention_2 needs CUDA, and there is none here; use sdpa")
    dtype = _choose_dtype(config, device)
    if device == "cpu" and dtype == torch.bfloat16 and not cpu.cpu_multiplies_bfloat16():
        notes.append("bfloat16 on a CPU without AVX512-BF16 or AMX can be fifty times slower than float32")
    return Hardware(device, dtype, tuple(notes))


def _choose_dtype(config: ModelConfig, device: str) -> torch.dtype:
    name = config.dtype
    cuda_lacks_bfloat16 = device == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False)
    if name == "auto":
        if device == "cuda":
            takes_bfloat16 = not cuda_lacks_bfloat16
        else:  # what is quantised is multiplied by kernels of another kind, and processes must not measure apart
            takes_bfloat16 = config.quantize == "none" and world_size() == 1 and cpu.bfloat16_speedup() > 1
        return torch.bfloat16 if takes_bfloat16 else torch.float32
    if name == "bfloat16" and cuda_lacks_bfloat16:
        raise UserError("model.dtype: this GPU has no bfloat16; use float16 or float32")
    if name == "float16" and device == "cpu":
        raise UserError("model.dtype: float16 does not train on a CPU; use float32")
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def _keep_one_gpu() -> list[str]:
    """Hide all GPUs but the first: Trainer would otherwise split batches by DataParallel, which TRL refuses."""
    count = torch.cuda.device_count()
    if count <= 1:
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0] or "0"
    os.environ["CUDA_VISIBLE_DEVICES"] = visible
    return [f"{count} GPUs are visible and one is used; for all of them: make train CONFIG=... GPUS={count}"]


def peak_memory_gb(device: str) -> float:
    """The peak so far in GB of 10^9 bytes: allocated GPU memory on "cuda", the process's resident memory on "cpu"."""
    if device == "cuda":
        return round(torch.cuda.max_memory_allocated() / 1e9, 2)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak * (1 if sys.platform == "darwin" else 1024) / 1e9, 2)


def release_memory(device: str) -> None:
    """Return freed memory to the system, so that the next stage can use it."""
    gc.collect()
    cpu.trim_heap()
    if device == "cuda":
        torch.cuda.empty_cache()
