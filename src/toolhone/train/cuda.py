"""Check the CUDA driver and set torch up for it. None of this has run on a GPU.

- `why_unavailable`, `driver_version`, `gpus_are_hidden`: whether CUDA can be used, and the reason if not.
- `set_up`: the settings of torch. The config section `cuda` switches each part off.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch

DRIVER = Path("/proc/driver/nvidia")
"""The folder with information on NVIDIA's Linux driver. A container sees its host's folder, with or without GPUs."""
_ALL_HIDDEN = ("", "-1", "NoDevFiles")
"""Values of CUDA_VISIBLE_DEVICES that hide every GPU. Slurm sets the last one."""
HOW_TO_FIX = (
    "install a driver that is new enough for torch, or the build of torch for this driver "
    "(https://pytorch.org/get-started/locally; make takes its environment as VENV=...); give a container the GPUs "
    "(docker run --gpus all); or set model.device: cpu to use the CPU"
)
"""How a user can fix a driver that does not work with CUDA."""


def why_unavailable() -> str | None:
    """Return why torch cannot use CUDA, as part of a sentence; None if it can.

    NVML counts GPUs even if the driver is too old for CUDA. So this also starts CUDA.
    """
    if not torch.cuda.is_available():
        if torch.version.cuda is None:
            return "it is built without CUDA"
        if gpus_are_hidden():
            return "CUDA_VISIBLE_DEVICES hides every GPU"
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as error:  # AssertionError: a build without CUDA
        return _first_sentence(error)
    return None if torch.cuda.is_available() else "it sees no device"


def torch_build() -> str:
    """Return the version of torch and of the CUDA that it is built for."""
    return f"torch {torch.__version__}" + (f" for CUDA {torch.version.cuda}" if torch.version.cuda else "")


def driver_version() -> str | None:
    """Return the version of this machine's NVIDIA driver, such as "580.65.06"; None without a driver."""
    if not DRIVER.exists():
        return None
    try:
        text = (DRIVER / "version").read_text(encoding="utf-8")
    except OSError:
        return "of unknown version"
    found = re.search(r"\s(\d+\.\d+(?:\.\d+)?)\s", text)
    return found[1] if found else "of unknown version"


def gpus_are_hidden() -> bool:
    """Return whether CUDA_VISIBLE_DEVICES hides every GPU, as users do to run on the CPU."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible is not None and visible.split(",")[0].strip() in _ALL_HIDDEN


def set_up(*, cudnn_attention: bool) -> None:
    """Set torch up for training, evaluation and serving.

    cuDNN's attention builds a plan for every new shape, which takes 0.02 to 0.9 s. A training step has two or three new
    shapes, and decoding has one for each token. If it is off, torch uses its flash or memory-efficient kernel.
    """
    torch.backends.cuda.enable_cudnn_sdp(cudnn_attention)


def _first_sentence(error: BaseException) -> str:
    return re.split(r"(?<=[a-z\d)])\. |\n", str(error).strip(), maxsplit=1)[0].rstrip(".")
