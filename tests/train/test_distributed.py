"""Two processes through the real launcher against one process: the same losses, gradients and answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from toolhone.chat.probe import make_renderer
from toolhone.cli import main
from toolhone.config import ChatConfig
from toolhone.data.read import read_conversations, turns

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
    """Sixteen rows whose answers are of very unequal length, and five to judge, which two processes share unevenly."""
    folder = tmp_path_factory.mktemp("data")
    write_rows(folder / "train.jsonl", [conversation("train", n, "q" * round(2 + 1.35**n)) for n in range(16)])
    write_rows(folder / "test.jsonl", [conversation("test", n, "q") for n in range(5)])
    return folder


@dataclass(frozen=True)
class Run:
    """A finished `toolhone train`: what it printed, and its folder."""

    printed: str
    path: Path

    def lines(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.path / name).read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def run(data: Path, tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], Run]:
    """Runs `toolhone train` on so many processes, which take four batches of two to a step between them."""
    workspace = tmp_path_factory.mktemp("workspace")

    def train(packing: str, processes: int) -> Run:
        name = f"{packing}-{processes}"
        config = {
            "name": name,
            "model": {"name": str(tiny_llama), "device": "cpu", "dtype": "float32"},
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
        return Run(start(path, processes), workspace / "runs" / name)

    def start(config: Path, processes: int) -> str:
        command = ["train", "--config", str(config)]
        if processes == 1:
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(workspace)
                assert main(command) == 0
            return ""
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes), "-m", "toolhone"]
        done = subprocess.run(
            [sys.executable, *launcher, *command],
            cwd=workspace,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return train


@pytest.fixture(scope="module", params=["prefix_tree", "none"])
def one_and_two(request: pytest.FixtureRequest, run: Callable[[str, int], Run]) -> tuple[Run, Run]:
    return run(request.param, 1), run(request.param, 2)


def test_any_two_pairs_of_rows_have_unequal_label_counts(data: Path, tiny_tokenizer: Any) -> None:
    # So whichever pairs of rows fall to the two processes, the plain mean of their losses is not the batch's loss.
    renderer = make_renderer(tiny_tokenizer, ChatConfig(), "tiny")
    rows = turns(list(read_conversations(data / "train.jsonl", [])))
    counts = [len(renderer.render(row).completion_ids) for row in rows]
    pairs = list(combinations(range(16), 2))
    apart = [(one, two) for one, two in combinations(pairs, 2) if not set(one) & set(two)]
    equal = [1 for (a, b), (c, d) in apart if counts[a] + counts[b] == counts[c] + counts[d]]
    assert len(equal) < 0.02 * len(apart)
    assert max(counts) > 2 * min(counts)


def test_every_step_has_the_loss_and_gradient_norm_of_one_process(one_and_two: tuple[Run, Run]) -> None:
    # Each of two processes takes every other batch: the four of a step are those that one process accumulates.
    one, two = (run.lines("train_log.jsonl") for run in one_and_two)
    assert [line["step"] for line in two] == [1, 2, 3, 4]
    for column in ("loss", "grad_norm"):
        assert [line[column] for line in two] == pytest.approx([line[column] for line in one], rel=1e-5)
    for column in ("step", "epoch", "learning_rate", "examples", "tokens"):
        assert [line[column] for line in two] == [line[column] for line in one]
    assert len({line["loss"] for line in one}) == 4


def test_answers_shared_out_over_processes_are_those_of_one(one_and_two: tuple[Run, Run]) -> None:
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
    assert two.printed.count("report: ") == 1
    assert "2 processes" in two.printed
    assert (two.path / "report.html").is_file()
    assert json.loads((two.path / "manifest.json").read_text(encoding="utf-8"))["processes"] == 2
    assert set(json.loads((two.path / "metrics.json").read_text(encoding="utf-8"))["models"]) == {"base", "tuned"}
    assert not list((two.path / "predictions").glob(".*"))
