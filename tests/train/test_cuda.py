"""Decisions about CUDA before a tensor is on the GPU. The driver and torch's answers are simulated."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import toolhone.doctor as doctor_module
from toolhone.config import Config
from toolhone.config_file import load_config
from toolhone.errors import UserError
from toolhone.run_folder import open_run
from toolhone.train import cuda
from toolhone.train.hardware import choose_hardware
from toolhone.train.trainer import training_arguments
from toolhone.tuned import TunedModel

SMOKE = Path(__file__).parents[2] / "configs" / "smoke.yaml"
VERSION = """NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  470.256.02  Release Build  (dvs-builder@U22)
GCC version:  gcc version 12.3.0 (Ubuntu 12.3.0-1ubuntu1~22.04)
"""
TOO_OLD = (
    "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver by "
    "downloading and installing a new version."
)


def config(device: str = "auto") -> Config:
    return load_config(SMOKE, [f"model.device={device}", "model.dtype=float32"])


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of an NVIDIA driver; CUDA_VISIBLE_DEVICES hides no GPU."""
    (tmp_path / "version").write_text(VERSION, encoding="utf-8")
    monkeypatch.setattr(cuda, "DRIVER", tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path


@pytest.fixture
def _cudnn_restored() -> Iterator[None]:
    before = torch.backends.cuda.cudnn_sdp_enabled()
    yield
    torch.backends.cuda.enable_cudnn_sdp(before)


def pretend_build(monkeypatch: pytest.MonkeyPatch, *, for_cuda: str | None, gpus: int, fault: str | None) -> None:
    """Simulates a build of torch, the number of GPUs that it counts, and the error of starting CUDA."""

    def init() -> None:
        if fault:
            raise RuntimeError(fault)

    monkeypatch.setattr(torch.version, "cuda", for_cuda)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "init", init)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)


def pretend_gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    pretend_build(monkeypatch, for_cuda="13.0", gpus=count, fault=None)


@pytest.mark.usefixtures("_cudnn_restored")
def test_cudnn_attention_is_off_unless_the_config_enables_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretend_gpus(monkeypatch, 1)
    torch.backends.cuda.enable_cudnn_sdp(True)
    assert choose_hardware(config().model).device == "cuda"
    assert not torch.backends.cuda.cudnn_sdp_enabled()
    switched_on = load_config(SMOKE, ["model.device=auto", "cuda.cudnn_attention=true"]).cuda.cudnn_attention
    choose_hardware(config().model, cudnn_attention=switched_on)
    assert torch.backends.cuda.cudnn_sdp_enabled()


@pytest.mark.usefixtures("_cudnn_restored", "in_workspace")
@pytest.mark.parametrize("asked", [False, True])
def test_a_run_is_loaded_with_the_cudnn_setting_of_its_config(
    monkeypatch: pytest.MonkeyPatch, tiny_llama: Path, asked: bool
) -> None:
    changes = ["model.device=auto", f"model.name={tiny_llama}", f"cuda.cudnn_attention={asked}".lower()]
    run = open_run(load_config(SMOKE, changes))
    pretend_gpus(monkeypatch, 1)
    torch.backends.cuda.enable_cudnn_sdp(not asked)
    assert TunedModel.base(run.path).hardware.device == "cuda"
    assert torch.backends.cuda.cudnn_sdp_enabled() is asked


@pytest.mark.usefixtures("_cudnn_restored")
def test_on_the_cpu_the_cudnn_setting_does_not_change(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpus(monkeypatch, 1)
    for before in (True, False):
        torch.backends.cuda.enable_cudnn_sdp(before)
        assert choose_hardware(config("cpu").model).device == "cpu"
        assert torch.backends.cuda.cudnn_sdp_enabled() is before


@pytest.mark.usefixtures("_cudnn_restored")
def test_one_process_uses_the_first_gpu_and_says_how_to_use_all(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pretend_gpus(monkeypatch, 8)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    hardware = choose_hardware(config().model)
    assert hardware.notes == ("this machine has 8 GPUs and one is used; to use all: make train CONFIG=... GPUS=8",)
    arguments = training_arguments(config(), hardware, tmp_path, validates=False)
    assert (arguments.n_gpu, arguments.device) == (1, torch.device("cuda:0"))
    assert arguments.train_batch_size == config().train.batch_size, "DataParallel would take one batch per GPU"
    assert (arguments.bf16, arguments.fp16, arguments.optim) == (False, False, "adamw_torch_fused")
    assert (arguments.dataloader_num_workers, arguments.dataloader_persistent_workers) == (2, True)
    assert arguments.dataloader_pin_memory
    assert arguments.accelerator_config.non_blocking
    assert "CUDA_VISIBLE_DEVICES" not in os.environ, "CUDA has already read it"


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpus(monkeypatch, 2)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UserError, match=r"process for GPU 3 of this machine, which has 2; start 2 .*GPUS=2"):
        choose_hardware(config().model)


def test_the_command_line_counts_gpus_without_starting_cuda() -> None:
    # bitsandbytes looks for a GPU when it is imported, before any code of toolhone can.
    script = """
import os, torch
asked = []
torch.cuda.is_available = lambda: asked.append(os.environ.get("PYTORCH_NVML_BASED_CUDA_CHECK")) or False
from toolhone.cli import main
main(["train", "--config", "absent.yaml", "--dry-run"])
import bitsandbytes
print(asked)
"""
    environment = {k: v for k, v in os.environ.items() if k != "PYTORCH_NVML_BASED_CUDA_CHECK"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    asked = done.stdout.strip().splitlines()[-1]
    assert asked.startswith("['1'"), asked
    assert "None" not in asked


@pytest.mark.parametrize(
    ("for_cuda", "gpus", "fault", "reason"),
    [
        (
            "13.0",
            1,
            TOO_OLD,
            r"for CUDA 13\.0 cannot use it: The NVIDIA driver on your system is too old \(found version",
        ),
        (
            "13.0",
            0,
            TOO_OLD,
            r"for CUDA 13\.0 cannot use it: The NVIDIA driver on your system is too old \(found version",
        ),
        ("13.0", 0, None, r"for CUDA 13\.0 cannot use it: it sees no device"),
        (None, 0, None, r"cannot use it: it is built without CUDA"),
    ],
    ids=["counted by NVML", "not counted", "no device", "CPU build"],
)
@pytest.mark.usefixtures("driver")
def test_a_driver_that_cuda_cannot_use_is_an_error_instead_of_a_slow_cpu_run(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    for_cuda: str | None,
    gpus: int,
    fault: str | None,
    reason: str,
) -> None:
    pretend_build(monkeypatch, for_cuda=for_cuda, gpus=gpus, fault=fault)
    expected = rf"^model.device: auto found the NVIDIA driver 470.256.02 in .*, but torch {torch.__version__}.*{reason}"
    with pytest.raises(UserError, match=expected.replace("+", r"\+")) as raised:
        choose_hardware(config().model)
    assert "set model.device: cpu to use the CPU" in str(raised.value)
    assert choose_hardware(config("cpu").model).device == "cpu"
    with pytest.raises(UserError, match=r"cuda was asked for, but .*; the NVIDIA driver here is 470.256.02; set it to"):
        choose_hardware(config("cuda").model)
    first = next(doctor_module.diagnose())
    assert (first.name, first.status, first.detail) == ("CUDA", "FAIL", str(raised.value))


@pytest.mark.parametrize("hidden", ["", "-1", "NoDevFiles"])
@pytest.mark.usefixtures("driver")
def test_if_all_gpus_are_hidden_the_cpu_is_used_with_a_note(monkeypatch: pytest.MonkeyPatch, hidden: str) -> None:
    pretend_build(monkeypatch, for_cuda="13.0", gpus=0, fault=None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    found = choose_hardware(config().model)
    assert (found.device, found.notes) == ("cpu", ("CUDA_VISIBLE_DEVICES hides every GPU, so this runs on the CPU",))
    assert next(doctor_module.diagnose()).status == "note"


def test_a_driver_without_a_version_is_reported_as_of_unknown_version(driver: Path) -> None:
    assert cuda.driver_version() == "470.256.02"
    (driver / "version").unlink()
    assert cuda.driver_version() == "of unknown version"


def test_auto_uses_the_cpu_if_there_is_no_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cuda, "DRIVER", tmp_path / "absent")
    pretend_build(monkeypatch, for_cuda="13.0", gpus=0, fault="Found no NVIDIA driver on your system. Please check.")
    found = choose_hardware(config().model)
    assert (found.device, found.notes) == ("cpu", ())
    assert "none (torch" in next(doctor_module.diagnose()).detail
