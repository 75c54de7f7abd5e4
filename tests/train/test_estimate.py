"""The figures of a dry run compared with the model that is built and the training that is run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from labelled import labelled
from peft import get_peft_model
from peft.tuners.lora.layer import LoraLayer
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, Qwen3Config

from toolhone.chat.render import LabelledTokens, Rendered
from toolhone.config import Config, DataConfig, LoraConfig, ModelConfig, TrainConfig
from toolhone.train.adapter import lora_config
from toolhone.train.batches import TreeCollator, tree_features
from toolhone.train.estimate import Estimate, estimate, training_flops
from toolhone.train.hardware import Hardware

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
    "lora",
    [
        LoraConfig(rank=3),
        LoraConfig(rank=8, targets=("q_proj", "down_proj")),
        LoraConfig(rank=4, dora=True),
        LoraConfig(rank=4, init="mica"),
        LoraConfig(rank=4, init="pissa"),
        LoraConfig(rank=4, modules_to_save=("embed_tokens", "lm_head")),
        LoraConfig(rank=4, modules_to_save=("norm", "layers.0.mlp.up_proj")),
    ],
    ids=["all-linear", "two", "dora", "mica", "pissa", "embeddings and head", "norm and layer"],
)
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_estimated_parameters_equal_those_of_the_built_model(kind: str, lora: LoraConfig) -> None:
    found = estimate(experiment(lora), CPU, ARCHITECTURES[kind], [labelled([1, 2, 3], 1)])
    model = AutoModelForCausalLM.from_config(ARCHITECTURES[kind])
    model = get_peft_model(model, lora_config(lora, model))
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


def memory(config: Config, hardware: Hardware = CPU) -> float:
    return estimate(config, hardware, WIDE, [labelled(list(range(1, 60)), 40)]).memory_gb


WIDE = LlamaConfig(
    vocab_size=50_000,
    hidden_size=1024,
    intermediate_size=2048,
    num_hidden_layers=2,
    num_attention_heads=8,
    num_key_value_heads=8,
    tie_word_embeddings=False,
)


def test_fully_trained_modules_take_weights_gradients_and_moments_beside_the_original() -> None:
    count = 50_000 * 1024
    plain = memory(experiment(LoraConfig()))
    assert memory(experiment(LoraConfig(modules_to_save=("lm_head",)))) - plain == pytest.approx(
        count * 16 / 1e9, abs=0.02
    )
    sgd = memory(experiment(LoraConfig(modules_to_save=("lm_head",)), optimizer="sgd"))
    assert sgd - plain == pytest.approx(count * 8 / 1e9, abs=0.02)
    bfloat16 = Hardware("cuda", torch.bfloat16, ())
    both = LoraConfig(modules_to_save=("embed_tokens", "lm_head"))
    grown = memory(experiment(both), bfloat16) - memory(experiment(LoraConfig()), bfloat16)
    assert grown == pytest.approx(2 * count * 18 / 1e9, abs=0.02)


def test_weights_that_are_trained_and_not_multiplied_cost_no_operations_of_the_layers() -> None:
    rows = [labelled(list(range(1, 60)), 40)]
    plain, embeddings, layer = (
        estimate(experiment(LoraConfig(modules_to_save=names)), CPU, WIDE, rows)
        for names in ((), ("embed_tokens", "lm_head"), ("layers.0.mlp.up_proj",))
    )
    batch = plain.epoch[0]
    assert training_flops(embeddings.sizes, batch) == training_flops(plain.sizes, batch)
    assert (plain.sizes.trains_head, embeddings.sizes.trains_head) == (False, True)
    # The layer loses its adapter of rank 16, and its weight costs six operations instead of four.
    fewer = 6 * 16 * (1024 + 2048)
    grown = training_flops(layer.sizes, batch) - training_flops(plain.sizes, batch)
    assert grown == batch.tokens * (2 * 1024 * 2048 - fewer)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dora_keeps_the_estimated_activations(dtype: torch.dtype) -> None:
    """Counts what autograd saves for the backward pass of one batch."""

    def saved(lora: LoraConfig) -> tuple[int, int]:
        model = AutoModelForCausalLM.from_config(SMALL, dtype=dtype)
        model = get_peft_model(model, lora_config(lora, model)).train()
        storages: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            if not isinstance(tensor, torch.nn.Parameter):
                storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        ids = torch.arange(400)[None] % 90
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype != torch.float32):
                loss = model(input_ids=ids, labels=ids).loss
            found = sum(storages.values())
        del loss
        adapted = sum(layer.out_features for layer in model.modules() if isinstance(layer, LoraLayer))
        return found, adapted

    plain, adapted = saved(LoraConfig(rank=4))
    dora, _ = saved(LoraConfig(rank=4, dora=True))
    expected = 2 * 400 * adapted * dtype.itemsize
    assert dora - plain == pytest.approx(expected, rel=0.35)


SMALL = LlamaConfig(**SIZES, num_hidden_layers=2, num_key_value_heads=2)
