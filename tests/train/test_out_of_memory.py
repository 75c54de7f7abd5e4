"""A GPU that runs out of memory while training: the error names the key to change, and the largest size that fits."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from toolhone.chat.render import LabelledTokens, Rendered, mask_labels
from toolhone.config import Config, DataConfig, ModelConfig, TrainConfig
from toolhone.errors import UserError
from toolhone.pretrained import load_model_config
from toolhone.train.checkpoint import last_checkpoint
from toolhone.train.estimate import estimate
from toolhone.train.hardware import Hardware
from toolhone.train.out_of_memory import explain_out_of_memory
from toolhone.train.trainer import ToolCallTrainer

CUDA = Hardware("cuda", torch.bfloat16, ())
ROWS = [mask_labels([1] * 10_000 * length, [2] * 8) for length in (3, 3, 3, 1, 3, 3, 3)]


def test_the_error_comes_from_the_step_and_keeps_the_checkpoints(
    train: Callable[..., Any], short_rows: list[Rendered], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    step = ToolCallTrainer.training_step

    def fail_later(self: ToolCallTrainer, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return step(self, *args, **kwargs)

    monkeypatch.setattr(ToolCallTrainer, "training_step", fail_later)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (0, 80e9))
    expected = (
        r"^train: the GPU's memory of 80.0 GB ran out; the estimate is 1\.\d GB, so check with nvidia-smi .* kept$"
    )
    with pytest.raises(UserError, match=expected):
        train(short_rows, batch_size=4, max_steps=3, save_every=1)
    assert last_checkpoint(tmp_path / "run" / "checkpoints") is not None


def advice(config: Config, monkeypatch: pytest.MonkeyPatch, gigabytes: float) -> str:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (0, gigabytes * 1e9))
    with pytest.raises(UserError) as raised, explain_out_of_memory(config, CUDA, ROWS, None):
        raise torch.OutOfMemoryError
    return str(raised.value).partition("ran out; ")[2]


def test_the_largest_sizes_that_fit_by_the_estimate_are_named(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config(
        name="full",
        model=ModelConfig(name=str(tiny_llama)),
        data=DataConfig(train=("train.jsonl",), test=("test.jsonl",)),
        train=TrainConfig(packing="rows", batch_size=4),
    )
    model_config = load_model_config(config.model)

    def needed(rows: list[LabelledTokens] = ROWS, **changes: Any) -> float:
        changed = config.model_copy(update={"train": config.train.model_copy(update=changes)})
        return estimate(changed, CUDA, model_config, rows).memory_gb

    fits = {size: needed(batch_size=size) for size in (4, 3, 2, 1)}
    assert fits[4] >= fits[3] > fits[2] > fits[1]
    assert "check with nvidia-smi" in advice(config, monkeypatch, fits[4])
    found = advice(config, monkeypatch, fits[2])
    assert "lower train.batch_size from 4 to 2, the largest that fits by the estimate, and raise" in found
    assert "train.gradient_accumulation to 2; or set train.activation_checkpointing: true. Complete" in found
    found = advice(config, monkeypatch, needed(batch_size=1, activation_checkpointing=True))
    assert found.startswith("set train.activation_checkpointing: true and lower train.batch_size from 4 to 1, the")
    found = advice(config, monkeypatch, needed([min(ROWS, key=len)], batch_size=1, activation_checkpointing=True))
    assert re.match(r"set train.batch_size: 1, .*: true and chat.max_tokens: 10008, the longest row that fits", found)
    assert "not even the shortest row fits" in advice(config, monkeypatch, 0.1)
