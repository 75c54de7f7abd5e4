"""A tuned model gets the prompts of its training, even if toolhone's templates have changed since."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from toolhone.config import ChatConfig, Config, DataConfig, EvaluateConfig, ModelConfig, TrainConfig
from toolhone.config_file import load_config
from toolhone.errors import UserError
from toolhone.formats import FORMATS
from toolhone.jsonl import read_jsonl, write_json, write_jsonl
from toolhone.pipeline import evaluate_run, run_experiment
from toolhone.records import Message, Tool
from toolhone.run_folder import RunFolder, fingerprint
from toolhone.train.fused_lora import fuse_lora
from toolhone.train.hardware import Hardware
from toolhone.train.model import load_for_inference
from toolhone.tuned import TunedModel

PARAMETERS = {"type": "object", "properties": {"order_id": {"type": "string"}}, "required": ["order_id"]}
TOOLS = (Tool("query_order", "Look up an order", PARAMETERS),)
QUESTION = (Message("user", "order 7?"),)
QUIET = Console(quiet=True)


def row(number: int) -> dict[str, Any]:
    call = {"function": {"name": "query_order", "arguments": json.dumps({"order_id": f"A{number}"})}}
    question = {"role": "user", "content": f"order {number}?"}
    return {"id": f"row-{number}", "messages": [question, {"role": "assistant", "tool_calls": [call]}]}


def config(model: Path, **train: Any) -> Config:
    return Config(
        name="tuned",
        model=ModelConfig(name=str(model), device="cpu", dtype="float32"),
        data=DataConfig(train=("train.jsonl",), test=("test.jsonl",), tools="tools.json", validation=0),
        chat=ChatConfig(tools="names"),
        train=TrainConfig.model_validate({"max_steps": 2, **train}),
        evaluate=EvaluateConfig(max_new_tokens=4, base=False),
    )


@pytest.fixture(scope="module")
def trained(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a finished run in runs/tuned."""
    folder = tmp_path_factory.mktemp("workspace")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_jsonl(Path("train.jsonl"), map(row, range(6)))
        write_jsonl(Path("test.jsonl"), map(row, range(6, 9)))
        write_json(Path("tools.json"), [tool.to_json() for tool in TOOLS])
        run_experiment(config(tiny_llama), resume=False, fresh=False, console=QUIET)
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A copy of that folder, as the working folder of the test."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return RunFolder(Path("runs/tuned"))


@pytest.fixture
def newer_template(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace toolhone's hermes template with one that a later version may have."""
    newer = dataclasses.replace(
        FORMATS["hermes"], template=FORMATS["hermes"].template.replace("<tools>", "<functions>")
    )
    monkeypatch.setitem(FORMATS, "hermes", newer)


def test_a_newer_template_does_not_change_the_prompts_of_an_old_run(
    run: RunFolder, request: pytest.FixtureRequest
) -> None:
    before = TunedModel.load(run.path).renderer.prompt(QUESTION, TOOLS)
    request.getfixturevalue("newer_template")
    assert "<functions>" in TunedModel.base(run.path).renderer.prompt(QUESTION, TOOLS)[0]
    assert TunedModel.load(run.path).renderer.prompt(QUESTION, TOOLS) == before
    assert "<tools>" in before[0]


@pytest.mark.usefixtures("newer_template")
def test_evaluation_prompts_an_old_run_with_its_own_template(run: RunFolder) -> None:
    before = [(line["id"], line["text"], line["prompt_tokens"]) for _, line in read_jsonl(run.predictions("tuned"))]
    evaluate_run(run.path, {"batch_size": 1}, console=QUIET)
    after = [(line["id"], line["text"], line["prompt_tokens"]) for _, line in read_jsonl(run.predictions("tuned"))]
    assert after == before


@pytest.mark.usefixtures("newer_template")
def test_training_again_with_a_newer_template_is_refused_and_changes_nothing(run: RunFolder, tiny_llama: Path) -> None:
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"runs/tuned: its finished adapter was trained .*toolhone eval"):
        run_experiment(config(tiny_llama, log_every=5), resume=False, fresh=False, console=QUIET)
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before


def test_a_run_whose_template_was_changed_or_deleted_is_refused(run: RunFolder) -> None:
    template = run.adapter / "chat_template.jinja"
    template.write_text(template.read_text(encoding="utf-8") + " ", encoding="utf-8")
    with pytest.raises(UserError, match=r"runs/tuned/adapter: its chat template is not the one .* restore"):
        TunedModel.load(run.path)
    template.unlink()
    with pytest.raises(UserError, match=r"runs/tuned/adapter: the chat template .* is missing; restore"):
        TunedModel.load(run.path)


def test_runs_of_older_versions_load_without_recorded_template_variables(run: RunFolder) -> None:
    manifest = run.read_manifest()
    expected = TunedModel.load(run.path).renderer.prompt(QUESTION, TOOLS)
    del manifest["chat"]["template_kwargs"]
    write_json(run.manifest, manifest)
    assert TunedModel.load(run.path).renderer.prompt(QUESTION, TOOLS) == expected


def test_only_the_tuned_model_has_an_adapter(run: RunFolder) -> None:
    tuned, base = TunedModel.load(run.path), TunedModel.base(run.path)
    assert (tuned.label, base.label) == ("tuned", "base")
    names = [[name for name, _ in one.model.named_parameters() if "lora_" in name] for one in (tuned, base)]
    assert names[0]
    assert not names[1]
    assert tuned.model is tuned.model


def test_in_16_bits_the_adapter_is_computed_as_in_training(run: RunFolder) -> None:
    """Training keeps the adapter in float32 and multiplies in the model's type."""
    tuned = dataclasses.replace(TunedModel.load(run.path), hardware=Hardware("cpu", torch.bfloat16, ()))
    trained = load_for_inference(tuned.config.model, tuned.hardware, tuned.adapter)
    fuse_lora(trained)
    kinds = [
        {weight.dtype for name, weight in model.named_parameters() if "lora_" in name}
        for model in (trained, tuned.model)
    ]
    assert kinds == [{torch.float32}, {torch.bfloat16}]
    ids = torch.arange(60)[None]
    with torch.no_grad():
        assert torch.equal(tuned.model(input_ids=ids).logits, trained(input_ids=ids).logits)


def test_a_run_records_the_engine_and_the_peak_memory_of_its_answers(run: RunFolder) -> None:
    stages = run.read_manifest()["stages"]
    assert stages["predict:tuned"]["engine"] == "transformers"
    assert all(stages[name]["peak_memory_gb"] > 0 for name in ("train", "predict:tuned"))


def test_keys_that_change_no_weight_may_change_on_a_finished_run(run: RunFolder, tiny_llama: Path) -> None:
    before = (run.adapter / "adapter_model.safetensors").stat().st_mtime_ns
    for steps in (5, 7):
        again = config(tiny_llama, log_every=steps, keep_checkpoints=3)
        assert run_experiment(again, resume=False, fresh=False, console=QUIET) == run
        assert load_config(run.config).train.log_every == steps
    assert (run.adapter / "adapter_model.safetensors").stat().st_mtime_ns == before


def test_a_finished_run_of_an_older_version_is_reused_with_another_log_every(run: RunFolder, tiny_llama: Path) -> None:
    """Versions before 0.2 included every key of these sections in the fingerprint."""
    from toolhone.prepare import prepare

    inputs = prepare(config(tiny_llama), console=QUIET).training_inputs
    manifest = run.read_manifest()
    values = config(tiny_llama).model_dump(mode="json", include={"seed", "model", "lora", "train"})
    manifest["stages"]["train"]["fingerprint"] = fingerprint(values, *inputs)
    write_json(run.manifest, manifest)
    before = (run.adapter / "adapter_model.safetensors").stat().st_mtime_ns
    for steps in (5, 7):
        run_experiment(config(tiny_llama, log_every=steps), resume=False, fresh=False, console=QUIET)
    assert (run.adapter / "adapter_model.safetensors").stat().st_mtime_ns == before


def test_a_folder_without_its_config_is_not_a_run_folder(run: RunFolder, tiny_llama: Path) -> None:
    run.config.unlink()
    with pytest.raises(UserError, match=r"runs/tuned: is not empty and is not a run folder"):
        run_experiment(config(tiny_llama), resume=False, fresh=False, console=QUIET)


def test_new_training_rows_for_a_finished_run_are_refused_before_anything_is_written(
    run: RunFolder, tiny_llama: Path
) -> None:
    write_jsonl(Path("train.jsonl"), map(row, range(20, 26)))
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"the training rows of data\.train: found"):
        run_experiment(config(tiny_llama, log_every=5), resume=False, fresh=False, console=QUIET)
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before
