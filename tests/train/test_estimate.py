"""The figures of a dry run compared with the model that is built and the training that is run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from labelled import labelled
from peft import get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, Qwen3Config

from toolhone.chat.render import LabelledTokens, Rendered
from toolhone.config import Config, DataConfig, LoraConfig, ModelConfig, TrainConfig
from toolhone.train.batches import TreeCollator, tree_features
from toolhone.train.estimate import Estimate, estimate
from toolhone.train.hardware import Hardware
from toolhone.train.trainer import lora_config

CPU = Hardware("cpu", torch.float32, ())
SIZES = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
ARCHITECTURES = {
    "untied Llama with biases": LlamaConfig(
        **SIZES, num_hidden_layers=3, num_key_value_heads=1, attention_bias=True, tie_word_embeddings=False
    ),
    "tied Qwen3": Qwen3Config(
        **SIZES, num_hidden_layers=2, num_key_value_heads=2, head_dim=16, tie_word_embeddings=True
    ),
}


def experiment(lora: LoraConfig | None = None, **train: Any) -> Config:
    return Config(
        name="run",
        model=ModelConfig(name="tiny", device="cpu"),
        data=DataConfig(train=("train.jsonl",), test=("test.jsonl",)),
        lora=lora or LoraConfig(rank=4, alpha=8),
        train=TrainConfig.model_validate(train),
    )


def training_rows(rows: list[Rendered]) -> list[LabelledTokens]:
    return [row.tokens for row in rows]


def estimate_for(config: Config, tiny_llama: Path, rows: list[Rendered]) -> Estimate:
    return estimate(config, CPU, AutoConfig.from_pretrained(tiny_llama), training_rows(rows))


@pytest.mark.parametrize(
    "lora", [LoraConfig(rank=3), LoraConfig(rank=8, targets=("q_proj", "down_proj"))], ids=["all-linear", "two"]
)
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_estimated_parameters_equal_those_of_the_built_model(kind: str, lora: LoraConfig) -> None:
    found = estimate(experiment(lora), CPU, ARCHITECTURES[kind], [labelled([1, 2, 3], 1)])
    model = get_peft_model(AutoModelForCausalLM.from_config(ARCHITECTURES[kind]), lora_config(lora))
    trainable, total = model.get_nb_trainable_parameters()
    assert found.trainable_parameters == trainable > 0
    assert found.total_parameters == total


@pytest.mark.parametrize("packing", ["prefix_tree", "none"])
@pytest.mark.parametrize(
    "keys",
    [
        {"epochs": 1, "batch_size": 4},
        {"epochs": 2, "batch_size": 2, "gradient_accumulation": 2},
        {"epochs": 0.5, "batch_size": 3},
        {"epochs": 9, "max_steps": 1},
    ],
    ids=["one epoch", "accumulated", "half an epoch", "max_steps"],
)
def test_estimated_steps_and_parameters_equal_those_of_training(
    train: Callable[..., Any], short_rows: list[Rendered], tiny_llama: Path, packing: str, keys: dict[str, Any]
) -> None:
    rows = short_rows[:7]
    found = estimate_for(experiment(packing=packing, **keys), tiny_llama, rows)
    done = train(rows, packing=packing, **keys).result
    assert found.steps == done.steps
    assert found.trainable_parameters == done.trainable_parameters
    assert found.total_parameters == done.total_parameters


def test_estimated_tokens_equal_those_of_the_collator_and_the_training_log(
    train: Callable[..., Any], short_rows: list[Rendered], tiny_llama: Path
) -> None:
    rows = short_rows[:6]  # one batch, whatever the order
    found = estimate_for(experiment(batch_size=6), tiny_llama, rows)
    features = [tree_features(row.tokens) for row in rows]
    batch = TreeCollator(0, 8192)(features)
    line = train(rows, batch_size=6).log[0]
    assert found.computed_tokens == batch["computed_tokens"] == line["computed_tokens"]
    assert found.logical_tokens == batch["logical_tokens"] == line["tokens"]
    assert found.computed_tokens < found.logical_tokens / 2
    assert found.labelled_tokens == sum(len(row.completion_ids) for row in rows)
    assert found.examples == 6
    assert found.longest == max(len(row) for row in rows)
    assert found.effective_batch == 6


def test_without_packing_each_row_is_padded_to_the_longest(short_rows: list[Rendered], tiny_llama: Path) -> None:
    rows = short_rows[:6]
    found = estimate_for(experiment(batch_size=6, packing="none"), tiny_llama, rows)
    assert found.computed_tokens == 6 * max(len(row) for row in rows) > found.logical_tokens


def test_more_processes_need_fewer_steps(
    short_rows: list[Rendered], tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = experiment(batch_size=2, gradient_accumulation=2)
    alone = estimate_for(config, tiny_llama, short_rows[:16])
    monkeypatch.setenv("WORLD_SIZE", "2")
    shared = estimate_for(config, tiny_llama, short_rows[:16])
    assert (alone.steps, alone.effective_batch) == (4, 4)
    assert (shared.steps, shared.effective_batch) == (2, 8)
