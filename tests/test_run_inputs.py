"""The inputs of a run are compared by content when it is resumed or its adapter is used."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from toolhone.cli import main
from toolhone.config import ChatConfig, Config, DataConfig, EvaluateConfig, ModelConfig, TrainConfig, config_yaml
from toolhone.errors import UserError
from toolhone.evaluate.score import score_run
from toolhone.jsonl import read_jsonl, write_json, write_jsonl
from toolhone.pipeline import evaluate_run, run_experiment
from toolhone.report.report import write_report
from toolhone.run_folder import RunFolder
from toolhone.run_inputs import model_inputs
from toolhone.train.trainer import ToolCallTrainer
from toolhone.tuned import TunedModel

TOOL = {"name": "query_order", "description": "", "parameters": {"type": "object", "properties": {}}}


def row(number: int, question: str = "order") -> dict[str, Any]:
    call = {"function": {"name": "query_order", "arguments": "{}"}}
    asked = {"role": "user", "content": f"{question} {number}?"}
    return {"id": f"row-{number}", "messages": [asked, {"role": "assistant", "tool_calls": [call]}]}


def config(*, base: bool = True) -> Config:
    return Config(
        name="run",
        model=ModelConfig(name="model", device="cpu", dtype="float32"),
        data=DataConfig(train=("train.jsonl",), test=("test.jsonl",), tools="tools.json", validation=0),
        chat=ChatConfig(tools="signatures"),
        train=TrainConfig(max_steps=3, save_every=1, batch_size=2),
        evaluate=EvaluateConfig(max_new_tokens=3, base=base),
    )


def train(*, resume: bool = False, base: bool = True) -> str:
    """Run the experiment; returns what it printed."""
    printed = io.StringIO()
    console = Console(file=printed, width=1000)
    run_experiment(config(base=base), resume=resume, fresh=False, console=console)
    return printed.getvalue()


@pytest.fixture(scope="module")
def made(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a finished run of three steps, and a run that was interrupted after the second step."""
    folder = tmp_path_factory.mktemp("workspace")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        shutil.copytree(tiny_llama, "model")
        write_jsonl(Path("train.jsonl"), map(row, range(6)))
        write_jsonl(Path("test.jsonl"), map(row, range(6, 9)))
        write_json(Path("tools.json"), [TOOL])
        train()
        shutil.copytree("runs/run", "interrupted")
        cut = RunFolder(Path("interrupted"))
        shutil.rmtree(cut.adapter)
        shutil.rmtree(cut.checkpoints / "checkpoint-3")
        stages = cut.read_manifest()["stages"]
        del stages["train"], stages["predict:tuned"]
        cut.note(stages=stages)
    return folder


@pytest.fixture
def workspace(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that folder, with the files' times, as the working folder of the test."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def finished(workspace: Path) -> RunFolder:
    return RunFolder(Path("runs/run"))


@pytest.fixture
def interrupted(workspace: Path) -> RunFolder:
    shutil.rmtree("runs/run")
    shutil.move("interrupted", "runs/run")
    return RunFolder(Path("runs/run"))


def change_training_rows() -> None:
    write_jsonl(Path("train.jsonl"), map(row, range(20, 26)))


def change_weights() -> None:
    path = Path("model/model.safetensors")
    times = path.stat()
    weights = load_file(path)
    save_file({name: value + torch.ones_like(value) for name, value in weights.items()}, path, {"format": "pt"})
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # like a copy that keeps file times


def change_tokenizer() -> None:
    path = Path("model/tokenizer_config.json")
    write_json(path, {**json.loads(path.read_text(encoding="utf-8")), "model_max_length": 77})


def change_versions() -> None:
    """Record an older version of transformers in the manifest."""
    run = RunFolder(Path("runs/run"))
    inputs = run.inputs()
    assert inputs is not None
    inputs["versions"]["transformers"] = "4.0.0"
    run.note(inputs=inputs)


CHANGES = [
    (change_training_rows, "the training rows of data.train: found "),
    (change_weights, "the model's model.safetensors: found "),
    (change_tokenizer, "the tokenizer's tokenizer_config.json: found "),
]


def files(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {str(p): (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(("change", "named"), [*CHANGES, (change_versions, "the version of transformers: found ")])
def test_an_interrupted_run_is_not_resumed_with_changed_inputs_and_stays_unchanged(
    interrupted: RunFolder, change: Callable[[], None], named: str
) -> None:
    change()
    before = files(interrupted.path)
    with pytest.raises(UserError) as caught:
        train(resume=True)
    assert "checkpoint-2: belongs to an interrupted training that cannot be resumed" in str(caught.value)
    assert named in str(caught.value)
    assert "expected" in str(caught.value)
    assert "--fresh" in str(caught.value)
    assert files(interrupted.path) == before


@pytest.mark.parametrize(("change", "named"), CHANGES)
@pytest.mark.parametrize("resume", [False, True])
def test_a_finished_adapter_is_not_reused_with_changed_inputs_and_stays_unchanged(
    finished: RunFolder, change: Callable[[], None], named: str, resume: bool
) -> None:
    change()
    before = files(finished.path)
    with pytest.raises(UserError) as caught:
        train(resume=resume)
    assert "runs/run: its finished adapter was trained from other inputs" in str(caught.value)
    assert named in str(caught.value)
    assert files(finished.path) == before


def test_reusing_an_adapter_with_other_versions_gives_a_notice(finished: RunFolder) -> None:
    change_versions()
    assert "was made with transformers 4.0.0 (now " in train()


def test_a_resumed_run_gives_the_same_adapter_as_an_uninterrupted_one(interrupted: RunFolder) -> None:
    os.utime("model/model.safetensors")  # same content, new time
    inputs = interrupted.inputs()
    train(resume=True)
    weights = (interrupted.adapter / "adapter_model.safetensors").read_bytes()
    assert interrupted.inputs() == inputs
    shutil.rmtree("runs/run")
    train(base=False)
    assert (interrupted.adapter / "adapter_model.safetensors").read_bytes() == weights


def test_a_run_killed_after_its_last_step_is_finished_without_training(
    finished: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (finished.adapter / "adapter_model.safetensors").read_bytes()
    log = finished.train_log.read_text(encoding="utf-8")
    stages = finished.read_manifest()["stages"]
    del stages["train"]
    finished.note(stages=stages)
    with pytest.raises(UserError, match=r"its training has not finished; run `toolhone train` with --resume"):
        evaluate_run(finished.path, {}, console=Console(quiet=True))

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("another step was trained")

    monkeypatch.setattr(ToolCallTrainer, "training_step", refuse)
    printed = train(resume=True)
    assert "nothing is left to train" in printed
    assert "step 4/3" not in printed
    assert (finished.adapter / "adapter_model.safetensors").read_bytes() == before
    assert finished.train_log.read_text(encoding="utf-8") == log
    facts = finished.stage("train")
    assert facts is not None
    assert facts["steps"] == 3
    assert "reusing the adapter" in train(resume=True)


def test_changed_test_rows_are_answered_again_but_the_training_inputs_stay_recorded(
    finished: RunFolder,
) -> None:
    before = finished.read_manifest()
    answers = finished.predictions("tuned").read_bytes()
    write_jsonl(Path("test.jsonl"), (row(n, "parcel") for n in range(6, 9)))
    printed = train()
    after = finished.read_manifest()
    assert "reusing the adapter" in printed
    assert "tuned answers 3 turns" in printed
    assert "base answers 3 turns" in printed
    assert after["stages"]["train"] == before["stages"]["train"]
    assert [after[key] for key in ("inputs", "created", "versions")] == [
        before[key] for key in ("inputs", "created", "versions")
    ]
    assert after["data"]["train"] == before["data"]["train"]
    assert after["data"]["test"] != before["data"]["test"]
    assert after["stages"]["predict:tuned"]["asked"] != before["stages"]["predict:tuned"]["asked"]
    assert finished.predictions("tuned").read_bytes() != answers
    assert "parcel 6?" in finished.split("test").read_text(encoding="utf-8")


def test_answers_to_old_test_rows_are_not_scored_against_new_ones(
    finished: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is killed after the new rows were written and before they were answered."""
    write_jsonl(Path("test.jsonl"), (row(n, "parcel") for n in range(6, 9)))
    with monkeypatch.context() as patch:
        patch.setattr("toolhone.pipeline.predict_once", killed)
        with pytest.raises(KeyboardInterrupt):
            train()
    with pytest.raises(UserError, match=r"predictions/base\.jsonl: answers other rows .* `toolhone eval`"):
        score_run(finished)
    with pytest.raises(UserError, match=r"metrics\.json: .*splits/test\.jsonl has other rows now .*toolhone score"):
        write_report(finished.path)
    evaluate_run(finished.path, {}, console=Console(quiet=True))
    score_run(finished)


def killed(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("command", ["eval", "score"])
def test_a_split_that_was_edited_in_the_run_folder_is_refused(
    finished: RunFolder, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [line for _, line in read_jsonl(finished.split("test"))]
    rows[0]["messages"][0]["content"] = "edited?"
    write_jsonl(finished.split("test"), rows)
    before = files(finished.path)
    assert main([command, "--run", "runs/run"]) == 2
    assert "splits/test.jsonl: its rows are not those that" in capsys.readouterr().err
    assert files(finished.path) == before
    train()
    assert main([command, "--run", "runs/run"]) == 0


@pytest.mark.parametrize("load", [TunedModel.load, TunedModel.base])
def test_an_adapter_is_not_loaded_onto_changed_weights(finished: RunFolder, load: Callable[[Path], TunedModel]) -> None:
    assert load(finished.path).notes == ()
    change_weights()
    with pytest.raises(UserError, match=r"model is not the model that runs/run was made from .*model\.safetensors"):
        load(finished.path)


def test_base_answers_are_made_again_if_the_model_changed_before_training(
    interrupted: RunFolder,
) -> None:
    shutil.rmtree(interrupted.checkpoints)
    assert "reusing runs/run/predictions/base.jsonl" in train()
    shutil.rmtree(interrupted.checkpoints)
    shutil.rmtree(interrupted.adapter)
    stages = interrupted.read_manifest()["stages"]
    del stages["train"]
    interrupted.note(stages=stages)
    change_weights()
    assert "base answers 3 turns" in train()


def test_a_finished_run_without_fingerprints_is_used_with_a_notice(
    finished: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    forget_inputs(finished)
    weights = (finished.adapter / "adapter_model.safetensors").read_bytes()
    assert "was made by an older version" in train()
    assert "inputs" not in finished.read_manifest(), "it is not known what the adapter was made from"
    assert (finished.adapter / "adapter_model.safetensors").read_bytes() == weights
    for command in ("score", "report", "eval"):
        assert main([command, "--run", "runs/run"]) == 0
    assert "records no fingerprints" in capsys.readouterr().out
    assert main(["ask", "--run", "runs/run", "order 1?"]) == 0
    assert "records no fingerprints" in capsys.readouterr().err


def test_an_interrupted_run_without_fingerprints_is_always_refused(interrupted: RunFolder) -> None:
    forget_inputs(interrupted)
    before = files(interrupted.path)
    for resume in (True, False):
        with pytest.raises(UserError, match=r"cannot be resumed .*it records no fingerprints.* --fresh") as caught:
            train(resume=resume)
        assert "--resume" not in str(caught.value)
    assert files(interrupted.path) == before


def forget_inputs(run: RunFolder) -> None:
    manifest = run.read_manifest()
    del manifest["inputs"]
    write_json(run.manifest, manifest)


def test_an_adapter_without_a_manifest_is_not_overwritten(finished: RunFolder) -> None:
    finished.manifest.unlink()
    shutil.rmtree(finished.checkpoints)
    before = files(finished.path)
    with pytest.raises(UserError, match=r"runs/run/adapter: holds an adapter, but .* records no finished training"):
        train()
    assert files(finished.path) == before


def test_resume_and_fresh_together_are_refused_before_fresh_deletes_anything(
    interrupted: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(interrupted.path)
    with pytest.raises(SystemExit):
        main(["train", "--config", "runs/run/config.yaml", "--resume", "--fresh"])
    assert "argument --fresh: not allowed with argument --resume" in capsys.readouterr().err
    assert files(interrupted.path) == before


def test_all_processes_refuse_a_changed_number_of_processes_and_write_nothing(finished: RunFolder) -> None:
    Path("run.yaml").write_text(config_yaml(config()), encoding="utf-8")
    before = files(finished.path)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "toolhone"]
    command = [sys.executable, *launcher, "train", "--config", "run.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode != 0
    assert done.stderr.count("Error: runs/run: its finished adapter was trained from other inputs") == 2
    assert "the number of processes: found 2, expected 1" in done.stderr
    assert files(finished.path) == before


def test_files_are_hashed_again_only_if_they_may_have_changed(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ModelConfig(name="model")
    known = model_inputs(model)
    assert set(known["model"]) == {"config.json", "model.safetensors"}
    assert "tokenizer.json" in known["tokenizer"]
    read: list[str] = []

    def counting(path: Path) -> str:
        read.append(path.name)
        return "other"

    monkeypatch.setattr("toolhone.run_inputs.sha256_of", counting)
    assert model_inputs(model, known) == known
    assert read == []
    change_weights()
    assert model_inputs(model, known)["model"]["model.safetensors"] == "other"
    assert read == ["model.safetensors"]


def test_a_hub_model_is_identified_by_its_commit(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = tmp_path / "models--ours--tiny" / "snapshots" / "0123abc"
    shutil.copytree(tiny_llama, snapshot)
    (tmp_path / "models--ours--tiny" / "refs").mkdir()
    (tmp_path / "models--ours--tiny" / "refs" / "main").write_text("0123abc", encoding="utf-8")
    monkeypatch.setattr("toolhone.run_inputs.load_model_config", lambda _: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    commit = {"commit": "0123abc"}
    assert model_inputs(ModelConfig(name="ours/tiny")) == {"model": commit, "tokenizer": commit, "stat": {}}
    with pytest.raises(UserError, match=r"model\.name: ours/none is not in the hub cache"):
        model_inputs(ModelConfig(name="ours/none"))


def test_a_second_training_in_the_same_folder_is_refused_and_the_first_continues(
    interrupted: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This includes --fresh, which would delete the files of the first one."""
    step = ToolCallTrainer.training_step
    refused: list[str] = []

    def second(self: ToolCallTrainer, *args: Any, **others: Any) -> Any:
        monkeypatch.setattr(ToolCallTrainer, "training_step", step)
        for fresh in (False, True):
            with pytest.raises(UserError) as caught:
                run_experiment(config(), resume=not fresh, fresh=fresh, console=Console(quiet=True))
            refused.append(str(caught.value))
        return step(self, *args, **others)

    monkeypatch.setattr(ToolCallTrainer, "training_step", second)
    train(resume=True)
    assert [text.partition(",")[0].partition(" on ")[0] for text in refused] == [
        f"runs/run: is in use by process {os.getpid()}"
    ] * 2
    assert interrupted.stage("train") is not None
    assert not interrupted.lock_file.exists()
