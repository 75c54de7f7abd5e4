"""Errors when a model cannot be loaded, and the choice of device and dtype."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from transformers import AutoConfig, AutoTokenizer

from toolhone.config import ModelConfig
from toolhone.errors import UserError
from toolhone.pretrained import load_model_config, load_tokenizer
from toolhone.train import cpu
from toolhone.train.hardware import Hardware, choose_hardware
from toolhone.train.model import load_for_inference, load_model

NAME = "org/some-model"


def model_config(**keys: Any) -> ModelConfig:
    return ModelConfig.model_validate({"name": NAME, **keys})


def answered(kind: type[HfHubHTTPError], status: int) -> HfHubHTTPError:
    """The error that huggingface_hub raises for this status."""
    response: Any = SimpleNamespace(status_code=status, headers={}, request=None)
    return kind(f"{status} Client Error.", response=response)


LOADERS: list[tuple[Any, Callable[[ModelConfig], Any]]] = [
    (AutoTokenizer, load_tokenizer),
    (AutoConfig, load_model_config),
    (AutoConfig, lambda config: load_model(config, choose_hardware(config))),  # it reads the config first
]


def message_for(monkeypatch: pytest.MonkeyPatch, error: HfHubHTTPError | LocalEntryNotFoundError, which: int) -> str:
    """Returns what a user reads if the hub gives this error, which transformers wraps in an OSError."""
    loader, load = LOADERS[which]

    def refuse(*_: object, **__: object) -> None:
        raise OSError(f"transformers says something long about {NAME}\nand more") from error

    monkeypatch.setattr(loader, "from_pretrained", refuse)
    with pytest.raises(UserError) as raised:
        load(model_config(device="cpu", revision="v9"))
    return str(raised.value)


@pytest.mark.parametrize("which", range(3), ids=["tokenizer", "config", "model"])
@pytest.mark.parametrize(
    "error", [answered(GatedRepoError, 401), answered(GatedRepoError, 403), answered(HfHubHTTPError, 403)]
)
def test_the_error_for_a_gated_model_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, error: HfHubHTTPError, which: int
) -> None:
    message = message_for(monkeypatch, error, which)
    assert message.startswith(f"model.name: {NAME} is gated or private")
    assert "hf auth login" in message
    assert "Qwen/Qwen3-0.6B" in message


@pytest.mark.parametrize("status", [401, 404])  # the hub answers 401 if the user is not logged in
def test_the_error_for_an_unknown_name_suggests_checking_the_spelling(
    monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    message = message_for(monkeypatch, answered(RepositoryNotFoundError, status), 0)
    assert message.startswith(f"model.name: no folder and no hub model is called {NAME}; check the spelling")


def test_a_missing_revision_and_a_missing_model_have_different_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    message = message_for(monkeypatch, answered(RevisionNotFoundError, 404), 1)
    assert message.startswith(f"model.revision: {NAME} has no branch, tag or commit v9")


@pytest.mark.parametrize(
    "error", [LocalEntryNotFoundError("outgoing traffic has been disabled"), answered(HfHubHTTPError, 503)]
)
def test_the_error_without_a_network_suggests_a_local_folder(
    monkeypatch: pytest.MonkeyPatch, error: HfHubHTTPError | LocalEntryNotFoundError
) -> None:
    message = message_for(monkeypatch, error, 0)
    assert message.startswith(f"model.name: {NAME} cannot be loaded (transformers says")
    assert "offline, use a local folder" in message
    assert "\n" not in message


@pytest.mark.parametrize("which", range(3), ids=["tokenizer", "config", "model"])
def test_the_offline_error_of_transformers_becomes_one_sentence(which: int) -> None:
    with pytest.raises(UserError, match=rf"^model.name: {NAME} cannot be loaded"):
        LOADERS[which][1](model_config(device="cpu"))


def test_the_error_for_a_missing_folder_names_the_download_command() -> None:
    with pytest.raises(UserError, match=r"^model.name: no such folder: ./models/none$"):
        load_tokenizer(model_config(name="./models/none"))
    with pytest.raises(
        UserError, match=r"no such folder: ./gone/gemma-3-270m; download it: toolhone fetch gemma-3-270m$"
    ):
        load_tokenizer(model_config(name="./gone/gemma-3-270m"))
    with pytest.raises(UserError, match=r"no such folder: .cache/models/tiny-1$"):
        load_tokenizer(model_config(name=".cache/models/tiny-1"))


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no config.json"):
        load_model_config(model_config(name=str(tmp_path)))


def test_an_unknown_architecture_is_reported_in_one_message(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "abacus"}), encoding="utf-8")
    with pytest.raises(UserError, match=rf"^model.name: {tmp_path} has no model that can be loaded: .*abacus"):
        load_model_config(model_config(name=str(tmp_path)))


def test_a_folder_without_an_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no adapter; run `toolhone train` first"):
        load_for_inference(model_config(), Hardware("cpu", torch.float32, ()), tmp_path)


def test_a_tokenizer_without_a_padding_token_pads_with_its_end_token(
    tiny_llama: Path, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    tiny_tokenizer.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    del settings["pad_token"]
    (tmp_path / "config.json").write_bytes((tiny_llama / "config.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    assert AutoTokenizer.from_pretrained(tmp_path).pad_token is None
    assert load_tokenizer(model_config(name=str(tmp_path))).pad_token == "<|im_end|>"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_are_loaded_in_the_configured_dtype(tiny_llama: Path, dtype: str) -> None:
    config = model_config(name=str(tiny_llama), device="cpu", dtype=dtype)
    model = load_model(config, choose_hardware(config))
    assert {p.dtype for p in model.parameters()} == {getattr(torch, dtype)}


@pytest.fixture
def _no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def pretend_cpu(monkeypatch: pytest.MonkeyPatch, **capabilities: bool) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, **capabilities})


@pytest.mark.usefixtures("_no_cuda")
@pytest.mark.parametrize("device", ["auto", "cpu"])
@pytest.mark.parametrize(("speedup", "taken"), [(0.0, torch.float32), (0.5, torch.float32), (2.3, torch.bfloat16)])
def test_a_cpu_uses_bfloat16_if_it_multiplies_it_faster(
    monkeypatch: pytest.MonkeyPatch, speedup: float, taken: torch.dtype, device: str
) -> None:
    pretend_cpu(monkeypatch, avx512_bf16=speedup > 0)
    monkeypatch.setattr(cpu, "bfloat16_speedup", lambda: speedup)
    found = choose_hardware(model_config(device=device))
    assert (found.device, found.dtype, found.notes) == ("cpu", taken, ())
    assert choose_hardware(model_config(device=device, dtype="float32")).dtype == torch.float32
    assert choose_hardware(model_config(device=device, quantize="nf4")).dtype == torch.float32


@pytest.mark.usefixtures("_no_cuda")
def test_several_processes_use_float32_without_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "bfloat16_speedup", lambda: 2.3)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert choose_hardware(model_config()).dtype == torch.float32


@pytest.mark.parametrize("capability", ["avx512_bf16", "amx_bf16"])
def test_bfloat16_is_measured_only_if_the_cpu_has_instructions_for_it(
    monkeypatch: pytest.MonkeyPatch, capability: str
) -> None:
    products: list[torch.dtype] = []
    ones = torch.ones

    def noted(*shape: int, dtype: torch.dtype) -> torch.Tensor:
        products.append(dtype)
        return ones(8, 8)

    monkeypatch.setattr(torch, "ones", noted)
    pretend_cpu(monkeypatch)
    assert cpu.bfloat16_speedup.__wrapped__() == 0.0
    assert products == []
    pretend_cpu(monkeypatch, **{capability: True})
    assert cpu.bfloat16_speedup.__wrapped__() > 0
    assert set(products) == {torch.float32, torch.bfloat16}


def test_the_measured_speed_of_bfloat16_does_not_depend_on_the_load_of_the_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Matrix:
        def __init__(self, *_: int, dtype: torch.dtype) -> None:
            self.waits = dtype == torch.bfloat16

        def __matmul__(self, _: Matrix) -> None:
            if self.waits:
                time.sleep(0.02)  # another process has the core
            until = time.thread_time() + 0.002
            while time.thread_time() < until:
                pass

    pretend_cpu(monkeypatch, avx512_bf16=True)
    monkeypatch.setattr(torch, "ones", Matrix)
    threads = torch.get_num_threads()
    assert 0.7 < cpu.bfloat16_speedup.__wrapped__() < 1.4
    assert torch.get_num_threads() == threads


@pytest.mark.usefixtures("_no_cuda")
def test_bfloat16_on_a_cpu_without_instructions_for_it_is_allowed_with_a_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretend_cpu(monkeypatch)
    found = choose_hardware(model_config(dtype="bfloat16"))
    assert found.dtype == torch.bfloat16
    assert "fifty times slower" in found.notes[0]


@pytest.mark.usefixtures("_no_cuda")
@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"device": "cuda"}, "model.device: cuda was asked for, but .* set it to auto or cpu"),
        ({"dtype": "float16"}, "model.dtype: float16 does not train on a CPU"),
        ({"attention": "flash_attention_2"}, "model.attention: flash_attention_2 needs CUDA"),
    ],
)
def test_settings_that_need_a_gpu_are_refused_on_a_cpu(keys: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        choose_hardware(model_config(**keys))


@pytest.mark.parametrize(
    ("has_bfloat16", "asked", "taken"),
    [
        (True, "auto", torch.bfloat16),
        (False, "auto", torch.float32),
        (True, "float16", torch.float16),
        (True, "float32", torch.float32),
    ],
)
def test_a_gpu_uses_bfloat16_if_it_supports_it(
    monkeypatch: pytest.MonkeyPatch, has_bfloat16: bool, asked: str, taken: torch.dtype
) -> None:
    pretend_gpu(monkeypatch, has_bfloat16)
    hardware = choose_hardware(model_config(dtype=asked))
    assert (hardware.device, hardware.dtype) == ("cuda", taken)
    assert choose_hardware(model_config(device="cpu", dtype="float32")).device == "cpu"


def test_bfloat16_is_refused_on_a_gpu_that_does_not_support_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpu(monkeypatch, has_bfloat16=False)
    with pytest.raises(UserError, match=r"model.dtype: this GPU has no bfloat16"):
        choose_hardware(model_config(dtype="bfloat16"))


def pretend_gpu(monkeypatch: pytest.MonkeyPatch, has_bfloat16: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bfloat16)
