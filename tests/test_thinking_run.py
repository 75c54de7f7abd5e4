"""A short training with `chat.thinking`: what it says, what it refuses, and that its answers parse."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from toolhone.chat.parse import parse_turn
from toolhone.config import ChatConfig, Config, DataConfig, EvaluateConfig, ModelConfig, TrainConfig
from toolhone.errors import UserError
from toolhone.jsonl import read_jsonl, write_json, write_jsonl
from toolhone.pipeline import run_experiment
from toolhone.prepare import prepare
from toolhone.run_folder import RunFolder
from toolhone.tuned import TunedModel

TOOL = {"name": "query_order", "description": "", "parameters": {"type": "object", "properties": {}}}


def row(number: int, *, thinking: bool = True) -> dict[str, Any]:
    call = {"function": {"name": "query_order", "arguments": "{}"}}
    turn = {"role": "assistant", "tool_calls": [call]} | ({"reasoning_content": f"Order {number}."} if thinking else {})
    return {"id": f"row-{number}", "messages": [{"role": "user", "content": f"order {number}?"}, turn]}


def config(model: Path, **chat: Any) -> Config:
    return Config(
        name="run",
        model=ModelConfig(name=str(model), device="cpu", dtype="float32"),
        data=DataConfig(train=("train.jsonl",), test=("test.jsonl",), tools="tools.json", validation=0),
        chat=ChatConfig(tools="signatures", **chat),
        train=TrainConfig(max_steps=2, batch_size=2),
        evaluate=EvaluateConfig(max_new_tokens=8),
    )


@pytest.fixture
def rows(in_workspace: Path) -> Path:
    write_jsonl(Path("train.jsonl"), map(row, range(4)))
    write_jsonl(Path("test.jsonl"), [row(4), row(5, thinking=False)])
    write_json(Path("tools.json"), [TOOL])
    return in_workspace


@pytest.mark.usefixtures("rows")
def test_a_run_that_learns_thinking_says_so_and_its_answers_parse(tiny_llama: Path) -> None:
    printed = io.StringIO()
    run_experiment(
        config(tiny_llama, thinking="train"), resume=False, fresh=False, console=Console(file=printed, width=1000)
    )
    text = printed.getvalue()
    line = "thinking: 5 of 6 assistant turns have some; it is learned, and is context in later prompts"
    assert text.count(line) == 1
    assert "more than evaluate.max_new_tokens (8); raise it" in text
    run = RunFolder(Path("runs/run"))
    tuned = TunedModel.load(run.path)
    assert tuned.renderer.thinking == "train"
    answers = [found for _, found in read_jsonl(run.predictions("tuned"))]
    assert len(answers) == 2
    for answer in answers:
        parse_turn(answer["text"], "hermes", answer["finish_reason"], tools=["query_order"])


def said(chosen: Config) -> str:
    printed = io.StringIO()
    prepare(chosen, console=Console(file=printed, width=1000))
    return printed.getvalue()


@pytest.mark.usefixtures("rows")
def test_the_start_of_training_says_what_happens_to_thinking_if_there_is_any(tiny_llama: Path) -> None:
    assert "it is left out (chat.thinking: strip)" in said(config(tiny_llama))
    assert "it is context in later prompts and is not learned (chat.thinking: keep)" in said(
        config(tiny_llama, thinking="keep")
    )
    for name, numbers in (("train", range(4)), ("test", range(4, 6))):
        write_jsonl(Path(f"{name}.jsonl"), [row(number, thinking=False) for number in numbers])
    assert "thinking" not in said(config(tiny_llama))


@pytest.mark.usefixtures("rows")
def test_learning_thinking_from_rows_without_any_is_refused(tiny_llama: Path) -> None:
    write_jsonl(Path("train.jsonl"), [row(number, thinking=False) for number in range(4)])
    with pytest.raises(UserError, match=r"^chat\.thinking: train, but no turn .*set chat\.thinking: strip"):
        said(config(tiny_llama, thinking="train"))


@pytest.mark.usefixtures("rows")
def test_stripped_thinking_leaves_the_tokens_of_training_unchanged(tiny_llama: Path) -> None:
    """So a run on rows without thinking has the fingerprints that older versions recorded."""
    quiet = Console(quiet=True)
    before = prepare(config(tiny_llama), console=quiet)
    for name, numbers in (("train", range(4)), ("test", range(4, 6))):
        write_jsonl(Path(f"{name}.jsonl"), [row(number, thinking=False) for number in numbers])
    after = prepare(config(tiny_llama), console=quiet)
    assert before.training_fingerprint == after.training_fingerprint
