"""Whole runs in the less common chat formats: trained, answered, scored and reported."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from toolhone.cli import main
from toolhone.config import ChatConfig, Config, DataConfig, EvaluateConfig, ModelConfig, TrainConfig
from toolhone.formats import FORMATS
from toolhone.formats.chat_format import RawCall
from toolhone.jsonl import read_jsonl, write_jsonl
from toolhone.pipeline import run_experiment
from toolhone.records import FormatName

PARAMETERS = {"type": "object", "properties": {"order_id": {"type": "string"}}, "required": ["order_id"]}
TOOLS = [{"name": "query_order", "description": "Look up an order", "parameters": PARAMETERS}]


def row(number: int) -> dict[str, Any]:
    """Return a question with its answer: prose, one call or two calls."""
    calls = [
        {"function": {"name": "query_order", "arguments": json.dumps({"order_id": f"A{number}; {{{n}"})}}
        for n in range(number % 3)
    ]
    turn = {"role": "assistant", "tool_calls": calls} if calls else {"role": "assistant", "content": "Which order?"}
    return {"id": f"row-{number}", "messages": [{"role": "user", "content": f"order {number}?"}, turn]}


def gold_text(number: int, format: FormatName) -> str:
    """Return the gold turn of `row(number)` as text in a format."""
    turn = row(number)["messages"][1]
    calls = [RawCall(c["function"]["name"], c["function"]["arguments"]) for c in turn.get("tool_calls", [])]
    return FORMATS[format].write(turn.get("content", ""), calls, "stop")


@pytest.mark.parametrize("format", ["gemma", "json", "llama3"])
def test_a_model_is_trained_scored_and_reported_in_its_format(
    format: FormatName, in_workspace: Path, tiny_llama: Path, tiny_llama3_tokenizer: Any, tiny_gemma_tokenizer: Any
) -> None:
    model = in_workspace / "model"
    shutil.copytree(tiny_llama, model)
    tokenizers = {"llama3": tiny_llama3_tokenizer, "gemma": tiny_gemma_tokenizer}
    if format in tokenizers:  # they have at most 263 tokens, and the model has 512 embeddings
        tokenizers[format].save_pretrained(model)
    write_jsonl(Path("train.jsonl"), map(row, range(6)))
    write_jsonl(Path("test.jsonl"), map(row, range(6, 12)))
    Path("tools.json").write_text(json.dumps(TOOLS), encoding="utf-8")
    config = Config(
        name=format,
        model=ModelConfig(name=str(model), device="cpu", dtype="float32"),
        data=DataConfig(train=("train.jsonl",), test=("test.jsonl",), tools="tools.json", validation=0),
        chat=ChatConfig(format=format),
        train=TrainConfig(max_steps=2),
        evaluate=EvaluateConfig(max_new_tokens=4),
    )
    run = run_experiment(config, resume=False, fresh=False, console=Console(quiet=True))
    assert run is not None
    assert run.read_manifest()["chat"]["format"] == format
    assert (run.adapter / "adapter_config.json").is_file()
    answered = {name: [line for _, line in read_jsonl(run.predictions(name))] for name in ("base", "tuned")}
    assert [len(lines) for lines in answered.values()] == [6, 6]
    assert "6 rows" in run.report.read_text(encoding="utf-8")

    # Tuned gets the gold texts in the run's format, base gets the same calls in another format.
    for name, written in (("base", "hermes"), ("tuned", format)):
        texts = {f"row-{n}/1": gold_text(n, written) for n in range(6, 12)}
        write_jsonl(run.predictions(name), [{**line, "text": texts[line["id"]]} for line in answered[name]])
    assert main(["score", "--run", str(run.path)]) == 0
    found = json.loads(run.metrics.read_text(encoding="utf-8"))["models"]
    assert {name: figures["exact_match"]["numerator"] for name, figures in found.items()} == {"base": 2, "tuned": 6}
    assert found["base"]["malformed"]["numerator"] == 4
    assert main(["report", "--run", str(run.path)]) == 0
    assert "base 33.3% to tuned 100.0% exact match" in run.report.read_text(encoding="utf-8")
