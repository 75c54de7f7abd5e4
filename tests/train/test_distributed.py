"""Two processes under the real launcher give the same losses, gradients and answers as one process."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from toolhone.chat.probe import make_renderer
from toolhone.cli import main
from toolhone.config import ChatConfig
from toolhone.data.read import read_conversations, turns
from toolhone.jsonl import read_json

ROOT = Path(__file__).parents[2]
BFCL = ROOT / "tests" / "fixtures" / "formats" / "bfcl"
FSDP2 = ROOT / "configs" / "accelerate" / "fsdp2.yaml"
TOOL = {
    "type": "function",
    "function": {
        "name": "note",
        "description": "",
        "parameters": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
    },
}


def conversation(side: str, number: int, text: str) -> dict[str, Any]:
    call = {"id": "c", "type": "function", "function": {"name": "note", "arguments": json.dumps({"text": text})}}
    question = {"role": "user", "content": f"{side} {number}"}
    answer = {"role": "assistant", "content": None, "tool_calls": [call]}
    return {"id": f"{side}-{number}", "tools": [TOOL], "messages": [question, answer]}


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen training rows with answers of very different lengths, and five test rows: an odd number."""
    folder = tmp_path_factory.mktemp("data")
    write_rows(folder / "train.jsonl", [conversation("train", n, "q" * round(2 + 1.35**n)) for n in range(16)])
    write_rows(folder / "test.jsonl", [conversation("test", n, "q") for n in range(5)])
    return folder


@dataclass(frozen=True)
class Run:
    """A finished `toolhone train`: its output and its run folder."""

    printed: str
    path: Path

    def lines(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.path / name).read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workspace")


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
ACCELERATE = ("-m", "accelerate.commands.launch", "--num_processes", "2", "--config_file")
MODULE = ("-m", "toolhone", "--")
"""The program that torchrun starts. Without `--`, torchrun reads `--run` as one of its own flags."""


def launch(arguments: list[str], workspace: Path, launcher: tuple[str, ...], program: tuple[str, ...] = MODULE) -> Any:
    """Start a command on two processes and return the finished process."""
    return subprocess.run(
        [sys.executable, *launcher, *program, *arguments],
        cwd=workspace,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def write_config(name: str, packing: str, processes: int, data: Path, model: Path, workspace: Path) -> Path:
    """Writes a config whose step is four batches of two, shared by the processes."""
    config = {
        "name": name,
        "model": {"name": str(model), "device": "cpu", "dtype": "float32"},
        "data": {"train": [str(data / "train.jsonl")], "test": [str(data / "test.jsonl")], "validation": 0},
        "lora": {"rank": 4, "alpha": 8},
        "train": {
            "packing": packing,
            "epochs": 2,
            "batch_size": 2,
            "gradient_accumulation": 4 // processes,
            "optimizer": "sgd",
            "scheduler": "constant",
            "warmup": 0,
            "learning_rate": 0.3,
        },
        "evaluate": {"max_new_tokens": 6, "batch_size": 2},
    }
    path = workspace / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def run(data: Path, tiny_llama: Path, workspace: Path) -> Callable[[str, int], Run]:
    """Runs `toolhone train` with N processes, once per pair of arguments."""

    @functools.cache
    def train(packing: str, processes: int) -> Run:
        name = f"{packing}-{processes}"
        command = ["train", "--config", str(write_config(name, packing, processes, data, tiny_llama, workspace))]
        if processes == 1:
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(workspace)
                assert main(command) == 0
            return Run("", workspace / "runs" / name)
        done = launch(command, workspace, TORCHRUN)
        assert done.returncode == 0, done.stdout + done.stderr
        return Run(done.stdout, workspace / "runs" / name)

    return train


@pytest.fixture(scope="module", params=["prefix_tree", pytest.param("none", marks=pytest.mark.slow)])
def one_and_two(request: pytest.FixtureRequest, run: Callable[[str, int], Run]) -> tuple[Run, Run]:
    return run(request.param, 1), run(request.param, 2)


def test_any_two_pairs_of_rows_have_unequal_label_counts(data: Path, tiny_tokenizer: Any) -> None:
    # So the mean of the two processes' losses differs from the batch's loss, whichever pairs of rows they get.
    renderer = make_renderer(tiny_tokenizer, ChatConfig(), "tiny")
    rows = turns(list(read_conversations(data / "train.jsonl", [])))
    counts = [len(renderer.render(row).completion_ids) for row in rows]
    pairs = list(combinations(range(16), 2))
    apart = [(one, two) for one, two in combinations(pairs, 2) if not set(one) & set(two)]
    equal = [1 for (a, b), (c, d) in apart if counts[a] + counts[b] == counts[c] + counts[d]]
    assert len(equal) < 0.02 * len(apart)
    assert max(counts) > 2 * min(counts)


def test_two_processes_have_the_losses_and_gradient_norms_of_one(one_and_two: tuple[Run, Run]) -> None:
    # Each process takes every second batch, so a step has the four batches that one process accumulates.
    one, two = (run.lines("train_log.jsonl") for run in one_and_two)
    assert [line["step"] for line in two] == [1, 2, 3, 4]
    for column in ("loss", "grad_norm"):
        assert [line[column] for line in two] == pytest.approx([line[column] for line in one], rel=1e-5)
    for column in ("step", "epoch", "learning_rate", "examples", "tokens"):
        assert [line[column] for line in two] == [line[column] for line in one]
    assert len({line["loss"] for line in one}) == 4


def test_two_processes_give_the_answers_of_one(one_and_two: tuple[Run, Run]) -> None:
    one, two = (run.lines("predictions/base.jsonl") for run in one_and_two)
    assert [row["id"] for row in two] == [f"test-{n}/1" for n in range(5)]
    for found, expected in zip(two, one, strict=True):
        for column in ("id", "text", "finish_reason", "prompt_tokens", "completion_tokens"):
            assert found[column] == expected[column]
        assert [t["id"] for t in found["tokens"]] == [t["id"] for t in expected["tokens"]]
        logprobs = [[t["logprob"] for t in row["tokens"]] for row in (found, expected)]
        assert logprobs[0] == pytest.approx(logprobs[1], abs=1e-4)
    assert [row["id"] for row in one_and_two[1].lines("predictions/tuned.jsonl")] == [row["id"] for row in one]


def test_two_processes_write_one_run_with_one_report(one_and_two: tuple[Run, Run]) -> None:
    _, two = one_and_two
    assert two.printed.count("report.html") == 1
    assert "2 processes" in two.printed
    assert (two.path / "report.html").is_file()
    assert json.loads((two.path / "manifest.json").read_text(encoding="utf-8"))["processes"] == 2
    assert set(json.loads((two.path / "metrics.json").read_text(encoding="utf-8"))["models"]) == {"base", "tuned"}
    assert not list((two.path / "predictions").glob(".*"))


@pytest.fixture
def trained(run: Callable[[str, int], Run], workspace: Path, request: pytest.FixtureRequest) -> Path:
    """A copy of a finished run, to be evaluated again."""
    folder = workspace / "runs" / request.node.name
    shutil.copytree(run("prefix_tree", 2).path, folder)
    return folder


WATCHED = """
import atexit, os, sys, torch
# One write per process, because they share the output.
atexit.register(lambda: os.write(1, f"\\nleft the group: {not torch.distributed.is_initialized()}\\n".encode()))
from toolhone.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    "suite", [pytest.param(False, id="own rows", marks=pytest.mark.slow), pytest.param(True, id="suite")]
)
def test_an_evaluation_on_two_processes_scores_once_and_leaves_the_process_group(
    trained: Path, workspace: Path, suite: bool
) -> None:
    program = workspace / "watched.py"
    program.write_text(WATCHED, encoding="utf-8")
    bfcl = ["--suite", "bfcl", "--suite-data", str(BFCL), "--categories", "simple_python", "--models", "tuned"]
    command = ["eval", "--run", str(trained), "--max-tokens", "3", *(bfcl if suite else [])]
    done = launch(command, workspace, TORCHRUN, (str(program), "--"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("left the group: True") == 2
    folder = trained / "suite" / "bfcl" if suite else trained
    answers = Run(done.stdout, folder).lines("predictions/tuned.jsonl")
    assert len(answers) == (4 if suite else 5)
    assert {row["completion_tokens"] for row in answers} == {3}
    assert "tuned" in read_json(folder / "metrics.json", "")["models"]
    assert done.stdout.count("figures, scores and predictions: " if suite else "report.html") == 1


FAILS_IN_ONE = """
import os, sys
import toolhone.evaluate.predict as predict
from toolhone.cli import main
from toolhone.errors import UserError

def fail(*_):
    raise UserError("the disk of this machine is full")

if os.environ["RANK"] == "1":
    predict.decode_greedily = fail
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_if_one_process_fails_all_stop_and_its_error_is_shown(trained: Path, workspace: Path) -> None:
    program = workspace / "fails.py"
    program.write_text(FAILS_IN_ONE, encoding="utf-8")
    began = time.monotonic()
    done = launch(["eval", "--run", str(trained), "--max-tokens", "4"], workspace, TORCHRUN, (str(program), "--"))
    assert done.returncode != 0
    assert "Error: the disk of this machine is full" in done.stderr
    assert time.monotonic() - began < 120, "the others do not wait for their limit"


FSDP_ON_CPU = """
import sys
from accelerate import PartialState
from accelerate.utils import DistributedType
from toolhone.cli import main

start = PartialState.__init__

def count_as_gpus(self, *args, **kwargs):  # accelerate does not support FSDP on CPUs, although torch does
    start(self, *args, **kwargs)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_GPU

PartialState.__init__ = count_as_gpus
sys.exit(main(sys.argv[1:]))
"""


def test_fsdp_saves_the_whole_adapter_equal_to_that_of_data_parallel(
    run: Callable[[str, int], Run], data: Path, tiny_llama: Path, workspace: Path
) -> None:
    program = workspace / "fsdp.py"
    program.write_text(FSDP_ON_CPU, encoding="utf-8")
    config = write_config("fsdp", "prefix_tree", 2, data, tiny_llama, workspace)
    command = ["train", "--config", str(config), "--set", "evaluate.base=false"]
    done = launch(command, workspace, (*ACCELERATE, str(FSDP2)), (str(program),))
    assert done.returncode == 0, done.stdout + done.stderr
    folders = (workspace / "runs" / "fsdp", run("prefix_tree", 2).path)
    found, expected = (load_file(folder / "adapter" / "adapter_model.safetensors") for folder in folders)
    assert found.keys() == expected.keys()
    assert all(tensor.shape == expected[name].shape for name, tensor in found.items())
    assert all((found[name] - tensor).norm() <= 1e-5 * tensor.norm() for name, tensor in expected.items())
    assert all(tensor.norm() > 0 for tensor in found.values()), "training has changed every tensor"


@pytest.mark.slow
def test_fsdp_that_would_save_no_adapter_is_refused_before_anything_is_written(
    data: Path, tiny_llama: Path, workspace: Path
) -> None:
    sharded = workspace / "accelerate.yaml"
    settings = yaml.safe_load(FSDP2.read_text(encoding="utf-8"))
    settings["fsdp_config"]["fsdp_state_dict_type"] = "SHARDED_STATE_DICT"
    sharded.write_text(yaml.safe_dump(settings), encoding="utf-8")
    config = write_config("sharded", "prefix_tree", 2, data, tiny_llama, workspace)
    done = launch(["train", "--config", str(config)], workspace, (*ACCELERATE, str(sharded)), ("-m", "toolhone"))
    assert done.returncode != 0
    assert "Error: accelerate's config: fsdp_state_dict_type: SHARDED_STATE_DICT saves no adapter" in done.stderr
    assert not (workspace / "runs" / "sharded").exists()
