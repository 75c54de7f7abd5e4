"""Two processes with different working folders stand for two machines that share none. They train, evaluate and answer
a suite together, and stop with one clear error if their inputs differ."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
BFCL = ROOT / "tests" / "fixtures" / "formats" / "bfcl"
TOOL = {
    "type": "function",
    "function": {
        "name": "note",
        "description": "",
        "parameters": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
    },
}


def conversation(side: str, number: int) -> dict[str, Any]:
    call = {
        "id": "c",
        "type": "function",
        "function": {"name": "note", "arguments": json.dumps({"text": "q" * number})},
    }
    question = {"role": "user", "content": f"{side} {number}"}
    answer = {"role": "assistant", "content": None, "tool_calls": [call]}
    return {"id": f"{side}-{number}", "tools": [TOOL], "messages": [question, answer]}


def write_rows(path: Path, side: str, count: int) -> None:
    path.write_text("".join(json.dumps(conversation(side, n)) + "\n" for n in range(count)), encoding="utf-8")


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> tuple[Path, Path]:
    """Two working folders, each with its own copy of config, data and model, after a training together."""
    folders = tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second")
    for folder in folders:
        shutil.copytree(tiny_llama, folder / "model")
        write_rows(folder / "train.jsonl", "train", 8)
        write_rows(folder / "test.jsonl", "test", 5)
        write_config(folder, "run")
    done = start(folders, "train", "--config", "run.yaml")
    assert [process.returncode for process in done] == [0, 0], done[0].stderr + done[1].stderr
    return folders


def write_config(folder: Path, name: str, **train: Any) -> None:
    config = {
        "name": name,
        "model": {"name": "model", "device": "cpu", "dtype": "float32"},
        "data": {"train": ["train.jsonl"], "test": ["test.jsonl"], "validation": 0.25},
        "lora": {"rank": 4, "alpha": 8},
        "train": {"max_steps": 2, "batch_size": 2, "select_by": "exact_match", **train},
        "evaluate": {"max_new_tokens": 3, "batch_size": 2},
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")


def start(folders: tuple[Path, Path], *arguments: str) -> list[subprocess.CompletedProcess[str]]:
    """Run a command in one process in each folder, as a launcher with two machines does, and return both."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": "0", "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "toolhone", *arguments],
            cwd=folder,
            env={**os.environ, **place, "WORLD_SIZE": "2", "RANK": str(number)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number, folder in enumerate(folders)
    ]
    try:
        printed = [process.communicate(timeout=200) for process in started]
    finally:
        for process in started:
            process.kill()
    return [subprocess.CompletedProcess(p.args, p.returncode, *out) for p, out in zip(started, printed, strict=True)]


def answered(path: Path) -> list[str]:
    return [json.loads(line)["id"] for line in path.read_text(encoding="utf-8").splitlines()]


def test_two_machines_without_a_shared_folder_train_and_answer_together(machines: tuple[Path, Path]) -> None:
    first, second = (folder / "runs" / "run" for folder in machines)
    for label in ("base", "tuned"):
        assert answered(first / "predictions" / f"{label}.jsonl") == [f"test-{n}/1" for n in range(5)]
    assert (first / "report.html").is_file()
    assert not (second / "report.html").exists()
    assert not list(second.glob("predictions/*")), "the second machine keeps no answers"
    weights = [run / "adapter" / "adapter_model.safetensors" for run in (first, second)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.slow
def test_they_evaluate_the_trained_run_again(machines: tuple[Path, Path]) -> None:
    done = start(machines, "eval", "--run", "runs/run", "--max-tokens", "2")
    assert [process.returncode for process in done] == [0, 0], done[0].stderr + done[1].stderr
    rows = (machines[0] / "runs" / "run" / "predictions" / "tuned.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(row)["completion_tokens"] for row in rows] == [2] * 5


@pytest.mark.slow
def test_they_answer_a_suite(machines: tuple[Path, Path]) -> None:
    bfcl = ["--suite", "bfcl", "--suite-data", str(BFCL), "--categories", "simple_python", "--models", "tuned"]
    done = start(machines, "eval", "--run", "runs/run", "--max-tokens", "2", *bfcl)
    assert [process.returncode for process in done] == [0, 0], done[0].stderr + done[1].stderr
    suite = machines[0] / "runs" / "run" / "suite" / "bfcl"
    assert len(answered(suite / "predictions" / "tuned.jsonl")) == 4
    assert (suite / "metrics.json").is_file()


@pytest.mark.slow
def test_both_stop_with_one_error_if_their_data_differs(machines: tuple[Path, Path]) -> None:
    write_rows(machines[1] / "other.jsonl", "test", 4)
    write_rows(machines[0] / "other.jsonl", "test", 5)
    command = ("train", "--config", "run.yaml", "--set", "data.test=[other.jsonl]", "--set", "name=differs")
    done = start(machines, *command)
    assert [process.returncode for process in done] == [2, 2]
    for process in done:
        assert "Error: process 1 on " in process.stderr
        assert "has other inputs than process 0 on " in process.stderr
        assert "the rows to answer: found " in process.stderr
    assert not any((folder / "runs" / "differs").exists() for folder in machines)


@pytest.mark.slow
def test_a_machine_without_its_copy_of_the_run_stops_both(machines: tuple[Path, Path], tmp_path: Path) -> None:
    done = start((machines[0], tmp_path), "eval", "--run", "runs/run")
    assert [process.returncode for process in done] == [2, 2]
    assert "Error: runs/run: is not a run folder" in done[1].stderr
    assert "Error: process 1 on " in done[0].stderr
    assert "runs/run: is not a run folder" in done[0].stderr


@pytest.mark.slow
def test_an_interrupted_training_is_resumed_on_both_machines(machines: tuple[Path, Path]) -> None:
    """The second machine gets the checkpoint of the first."""
    for folder in machines:
        write_config(folder, "resumed", max_steps=4, save_every=1, keep_checkpoints=4, select_by="last")
    done = start(machines, "train", "--config", "resumed.yaml")
    assert [process.returncode for process in done] == [0, 0], done[0].stderr + done[1].stderr
    whole = (machines[0] / "runs" / "resumed" / "adapter" / "adapter_model.safetensors").read_bytes()
    for folder in machines:
        run = folder / "runs" / "resumed"
        shutil.rmtree(run / "adapter")
        manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
        del manifest["stages"]["train"]
        (run / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    first = machines[0] / "runs" / "resumed" / "checkpoints"
    for number in (3, 4):
        shutil.rmtree(first / f"checkpoint-{number}")
    done = start(machines, "train", "--config", "resumed.yaml", "--resume")
    assert [process.returncode for process in done] == [0, 0], done[0].stderr + done[1].stderr
    assert (machines[0] / "runs" / "resumed" / "adapter" / "adapter_model.safetensors").read_bytes() == whole
