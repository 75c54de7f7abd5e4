"""A run whose adapter is trained for two steps on the tiny Llama, made once for all tests of exports."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from toolhone.config import ChatConfig, Config, DataConfig, EvaluateConfig, LoraConfig, ModelConfig, TrainConfig
from toolhone.jsonl import write_json, write_jsonl
from toolhone.pipeline import run_experiment
from toolhone.records import Tool
from toolhone.run_folder import RunFolder

PARAMETERS = {"type": "object", "properties": {"order_id": {"type": "string"}}, "required": ["order_id"]}
TOOLS = (Tool("query_order", "Look up an order", PARAMETERS),)


def row(number: int) -> dict[str, Any]:
    call = {"function": {"name": "query_order", "arguments": json.dumps({"order_id": f"A{number}"})}}
    question = {"role": "user", "content": f"order {number}?"}
    return {"id": f"row-{number}", "messages": [question, {"role": "assistant", "tool_calls": [call]}]}


@pytest.fixture(scope="session")
def trained(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a base model in `model` and a scored run in `runs/shop`."""
    folder = tmp_path_factory.mktemp("workspace")
    shutil.copytree(tiny_llama, folder / "model")
    (folder / "model" / "LICENSE").write_text("Do as you like.\n", encoding="utf-8")
    (folder / "model" / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Tiny\n", encoding="utf-8")
    sampling = {"do_sample": True, "temperature": 0.6, "top_p": 0.95, "eos_token_id": 2, "pad_token_id": 0}
    write_json(folder / "model" / "generation_config.json", sampling)
    config = Config(
        name="shop",
        model=ModelConfig(name="model", device="cpu", dtype="float32"),
        data=DataConfig(train=("train.jsonl",), test=("test.jsonl",), tools="tools.json", validation=0),
        chat=ChatConfig(tools="names", template_kwargs={"enable_thinking": False}),
        lora=LoraConfig(rank=4, alpha=64),
        train=TrainConfig(max_steps=2, learning_rate=0.05),
        evaluate=EvaluateConfig(max_new_tokens=4, base=False),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_jsonl(Path("train.jsonl"), map(row, range(6)))
        write_jsonl(Path("test.jsonl"), map(row, range(6, 9)))
        write_json(Path("tools.json"), [tool.to_json() for tool in TOOLS])
        run_experiment(config, resume=False, fresh=False, console=Console(quiet=True))
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """The run in a copy of that folder, which is the working folder of the test."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return RunFolder(Path("runs/shop"))
