"""Faults that would stop training late are reported before it starts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from toolhone.config import Config
from toolhone.errors import UserError
from toolhone.train.preflight import refuse_untrainable


@pytest.fixture
def model(tiny_llama: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may damage."""
    return Path(shutil.copytree(tiny_llama, tmp_path / "model"))


def config(model: Path, section: str = "train", **values: object) -> Config:
    sections = {"model": {"name": str(model), "device": "cpu"}, "data": {"train": ["a"], "test": ["b"]}}
    return Config.model_validate({"name": "try", **sections, section: values})


def fault(found: Config) -> str:
    with pytest.raises(UserError) as caught:
        refuse_untrainable(found)
    return str(caught.value)


def test_a_valid_config_passes_and_nothing_is_written(model: Path) -> None:
    before = {path: path.read_bytes() for path in model.iterdir()}
    for sound in (config(model), config(model, "lora", targets=["q_proj", "mlp.down_proj"])):
        refuse_untrainable(sound)
    assert {path: path.read_bytes() for path in model.iterdir()} == before
    # The same targets with one letter missing fail, so the check did read them.
    assert "no layer mlp.down_prj" in fault(config(model, "lora", targets=["q_proj", "mlp.down_prj"]))


FSDP2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        (FSDP2, "SHARDED_STATE_DICT"),  # the default of FSDP2
        (FSDP2 | {"FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT"}, "SHARDED_STATE_DICT"),
        ({"ACCELERATE_USE_FSDP": "True", "FSDP_STATE_DICT_TYPE": "LOCAL_STATE_DICT"}, "LOCAL_STATE_DICT"),
    ],
)
def test_a_state_dict_type_that_saves_no_adapter_is_refused_by_name(
    model: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], found: str
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert fault(config(model)) == (
        f"accelerate's config: fsdp_state_dict_type: {found} saves no adapter; set it to FULL_STATE_DICT, as "
        "configs/accelerate/fsdp2.yaml does"
    )
    monkeypatch.setenv("FSDP_STATE_DICT_TYPE", "FULL_STATE_DICT")
    refuse_untrainable(config(model))
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "false")
    monkeypatch.setenv("FSDP_STATE_DICT_TYPE", found)
    refuse_untrainable(config(model))


def test_launcher_settings_that_training_does_not_support_are_refused(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    assert fault(config(model)).startswith("accelerate's config: distributed_type: DEEPSPEED is not supported; use ")
    monkeypatch.delenv("ACCELERATE_USE_DEEPSPEED")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    expected = "train.select_by: exact_match is not supported with FSDP; use last"
    assert fault(config(model, select_by="exact_match")) == expected


def test_an_unknown_target_is_reported_even_beside_a_known_one(model: Path) -> None:
    assert fault(config(model, "lora", targets=["q_proj", "qkv"])) == (
        f"lora.targets: {model} has no layer qkv; known: down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"
    )


def test_a_folder_without_weights_is_reported(model: Path) -> None:
    (model / "model.safetensors").unlink()
    assert fault(config(model)) == f"model.name: {model} has no weights; expected a file such as model.safetensors"


def test_truncated_weights_are_reported(model: Path) -> None:
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert fault(config(model)).startswith(f"model.name: {weights} is broken (")


def test_an_unknown_architecture_is_reported_in_one_line(model: Path) -> None:
    path = model / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), "model_type": "zzz"}), encoding="utf-8")
    message = fault(config(model))
    assert message.startswith(f"model.name: {model} has no model that can be loaded: ")
    assert "zzz" in message
    assert "\n" not in message


def test_a_tracker_that_is_not_installed_is_reported(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolhone.train.preflight.find_spec", lambda _: None)
    message = fault(config(model, report_to=["wandb"]))
    assert message == "train.report_to: wandb is not installed; run `pip install 'toolhone[wandb]'`"
