"""Short rows and short runs of training on the tiny Llama."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_cuda import build_stub
from rich.console import Console

from toolhone.chat.probe import make_renderer
from toolhone.chat.render import Rendered
from toolhone.config import ChatConfig, Config, CpuConfig, DataConfig, LoraConfig, ModelConfig, TrainConfig
from toolhone.data.read import read_conversations, turns
from toolhone.records import Tool
from toolhone.run_folder import RunFolder
from toolhone.train.hardware import Hardware
from toolhone.train.model import load_model
from toolhone.train.select import Measure
from toolhone.train.trainer import TrainResult, train_adapter

CPU = Hardware("cpu", torch.float32, ())
DATA = Path(__file__).parents[2] / "data" / "customer_service" / "train.jsonl"


@pytest.fixture(scope="session")
def short_rows(tiny_tokenizer: Any) -> list[Rendered]:
    """Short turns of customer_service with one small tool; some belong to the same conversation."""
    renderer = make_renderer(tiny_tokenizer, ChatConfig(), "tiny")
    tool = Tool("query_order", "", {"type": "object", "properties": {}})
    found = turns(list(read_conversations(DATA, [tool]))[:24])
    rendered = [renderer.render(replace(example, tools=(tool,))) for example in found]
    return sorted(rendered, key=lambda row: row.example.id)[:32]


@dataclass(frozen=True)
class Trained:
    """A finished training: its result, run folder, model and log."""

    result: TrainResult
    run: RunFolder
    model: Any
    log: list[dict[str, Any]]

    @property
    def losses(self) -> list[float]:
        return [line["loss"] for line in self.log if "loss" in line]

    @property
    def adapter(self) -> dict[str, torch.Tensor]:
        return {name: p.detach() for name, p in self.model.named_parameters() if "lora_" in name}


@pytest.fixture
def train(tiny_llama: Path, tiny_tokenizer: Any, tmp_path: Path) -> Callable[..., Trained]:
    """Trains in the run folder `name`; keyword arguments are the keys of the config's train section."""

    def run_training(
        rows: Sequence[Rendered],
        name: str = "run",
        *,
        validation: Sequence[Rendered] = (),
        lora: LoraConfig | None = None,
        cpu: CpuConfig | None = None,
        quantize: str = "none",
        hardware: Hardware = CPU,
        resume: bool = False,
        measure: Measure | None = None,
        **keys: Any,
    ) -> Trained:
        config = Config(
            name=name,
            model=ModelConfig.model_validate({"name": str(tiny_llama), "device": "cpu", "quantize": quantize}),
            data=DataConfig(train=("train.jsonl",), test=("test.jsonl",)),
            lora=lora or LoraConfig(rank=4, alpha=8),
            train=TrainConfig.model_validate(keys),
            cpu=cpu or CpuConfig(),
        )
        run = RunFolder(tmp_path / name)
        run.path.mkdir(exist_ok=True)
        model = load_model(config.model, hardware)
        quiet = Console(quiet=True)
        result = train_adapter(
            config, hardware, model, tiny_tokenizer, rows, validation, run, quiet, resume=resume, measure=measure
        )
        return Trained(result, run, model, read_log(run))

    return run_training


def read_log(run: RunFolder) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.train_log.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def stub(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that `fake_cuda` needs."""
    cache = getattr(request.config, "cache", None)  # absent with -p no:cacheprovider
    return build_stub(cache.mkdir("fake-cuda") if cache is not None else tmp_path_factory.mktemp("fake-cuda"))
