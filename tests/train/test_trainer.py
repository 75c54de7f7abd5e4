"""Training on the tiny Llama: all packings agree with each other and with TRL's plain SFTTrainer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig as PeftLoraConfig
from safetensors.torch import load_file
from torch.utils.data import SequentialSampler
from transformers import AutoModelForCausalLM, set_seed
from trl import SFTConfig, SFTTrainer

from toolhone.chat.render import Rendered, mask_labels
from toolhone.config import CpuConfig, LoraConfig, ModelConfig, TrainConfig
from toolhone.errors import UserError
from toolhone.train import trainer
from toolhone.train.attention import AttentionBlocks, tree_attention
from toolhone.train.batches import TreeAttention
from toolhone.train.cpu import GroupedAttention
from toolhone.train.fused_lora import _FusedVariant
from toolhone.train.hardware import Hardware
from toolhone.train.log import TrainLog
from toolhone.train.model import load_for_inference, load_model
from toolhone.train.trainer import ToolCallTrainer, prefix_sampler

CPU = Hardware("cpu", torch.float32, ())
SGD = {"optimizer": "sgd", "scheduler": "constant", "warmup": 0, "learning_rate": 0.3}
ADAMW = {"scheduler": "constant", "warmup": 0, "learning_rate": 2e-3}
Train = Callable[..., Any]


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (found[name] - tensor).norm() <= tolerance * tensor.norm(), name


def assert_has_moved(adapter: dict[str, torch.Tensor]) -> None:
    """Check that training changed the adapter: B starts at zero."""
    assert all(tensor.norm() > 0 for name, tensor in adapter.items() if "lora_B" in name)


@pytest.fixture
def _in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the order of the rows, so that every packing and batch size has the same rows in each step."""
    monkeypatch.setattr(ToolCallTrainer, "_get_train_sampler", lambda self, *_: SequentialSampler(self.train_dataset))


@pytest.mark.usefixtures("_in_order")
@pytest.mark.parametrize("packing", [pytest.param("none", marks=pytest.mark.slow), "rows"])
def test_twenty_sgd_steps_give_the_same_adapter_with_every_packing(
    train: Train, short_rows: list[Rendered], packing: str
) -> None:
    keys = {**SGD, "max_steps": 20, "batch_size": 4}
    tree = train(short_rows, "tree", packing="prefix_tree", **keys)
    plain = train(short_rows, "plain", packing=packing, **keys)
    assert_has_moved(plain.adapter)
    assert_close(tree.adapter, plain.adapter, 1e-5)
    assert tree.losses == pytest.approx(plain.losses, rel=1e-5)
    assert tree.log[-1]["computed_tokens"] < plain.log[-1]["computed_tokens"] / 2


@pytest.mark.usefixtures("_in_order")
def test_a_lower_weight_of_answers_counts_the_same_in_rows_as_along_trees(
    train: Train, short_rows: list[Rendered]
) -> None:
    keys = {**SGD, "max_steps": 3, "batch_size": 4}
    parts = [(row, row.tokens.ids[: row.tokens.prompt_length], row.completion_ids) for row in short_rows]
    light = [replace(row, tokens=mask_labels(prompt, completion, 0.2)) for row, prompt, completion in parts]
    tree, rows = (train(light, packing, packing=packing, **keys) for packing in ("prefix_tree", "rows"))
    assert_close(rows.adapter, tree.adapter, 1e-5)
    assert rows.losses == pytest.approx(tree.losses, rel=1e-5)
    assert rows.losses[0] < 0.9 * train(short_rows, "heavy", packing="rows", **keys).losses[0]


@pytest.mark.usefixtures("_in_order")
def test_small_trees_give_the_same_adapter(train: Train, short_rows: list[Rendered]) -> None:
    keys = {**SGD, "max_steps": 4, "batch_size": 4}
    whole = train(short_rows, "whole", **keys)
    cut = train(short_rows, "cut", tree_tokens=400, **keys)
    assert cut.log[-1]["computed_tokens"] > whole.log[-1]["computed_tokens"]
    assert_close(cut.adapter, whole.adapter, 1e-5)


@pytest.mark.usefixtures("_in_order")
def test_adamw_losses_and_the_validation_loss_agree_between_packings(train: Train, short_rows: list[Rendered]) -> None:
    keys = {**ADAMW, "max_steps": 10, "batch_size": 4, "validate_every": 10, "validation": short_rows[-5:]}
    tree = train(short_rows, "tree", packing="prefix_tree", **keys)
    plain = train(short_rows, "plain", packing="none", **keys)
    assert tree.losses == pytest.approx(plain.losses, rel=1e-3)
    validated = [[line["eval_loss"] for line in one.log if "eval_loss" in line] for one in (tree, plain)]
    assert len(validated[0]) == 1
    assert validated[0] == pytest.approx(validated[1], rel=1e-3)


def test_a_batch_mixes_the_configured_number_of_tool_lists(short_rows: list[Rendered]) -> None:
    agents = [
        [replace(row, example=replace(row.example, tools=row.example.tools[n:])) for row in short_rows[:8]]
        for n in (0, 1)
    ]
    rows = [row for agent in agents for row in agent]
    for groups, expected in ((1, 1), (2, 2), (3, 2)):
        order = list(prefix_sampler(rows, TrainConfig(batch_size=4, groups_per_batch=groups), seed=3))
        batches = [order[first : first + 4] for first in range(0, 16, 4)]
        assert {len({index // 8 for index in batch}) for batch in batches} == {expected}


def test_packing_none_equals_plain_sfttrainer(
    train: Train, short_rows: list[Rendered], tiny_llama: Path, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    ours = train(short_rows, packing="none", batch_size=4, max_steps=6, **ADAMW)
    set_seed(42)
    rows = [
        {"input_ids": r.prompt_ids + r.completion_ids, "labels": [-100] * len(r.prompt_ids) + r.completion_ids}
        for r in short_rows
    ]
    theirs = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32),
        args=SFTConfig(
            output_dir=str(tmp_path / "sft"),
            seed=42,
            data_seed=42,
            use_cpu=True,
            bf16=False,
            max_steps=6,
            per_device_train_batch_size=4,
            optim="adamw_torch",
            learning_rate=2e-3,
            lr_scheduler_type="constant",
            warmup_steps=0,
            logging_steps=1,
            max_length=None,
            gradient_checkpointing=None,
            activation_checkpointing=False,
            dataloader_pin_memory=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tiny_tokenizer,
        peft_config=PeftLoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    theirs.train()
    losses = [line["loss"] for line in theirs.state.log_history if "loss" in line]
    assert ours.losses == losses
    alone = {name: p for name, p in theirs.model.get_base_model().named_parameters() if "lora_" in name}
    assert_close(ours.adapter, alone, 0.0)


@pytest.mark.usefixtures("_in_order")
@pytest.mark.parametrize("packing", ["prefix_tree", "rows", pytest.param("none", marks=pytest.mark.slow)])
def test_two_accumulated_batches_of_four_equal_one_of_eight(
    train: Train, short_rows: list[Rendered], packing: str
) -> None:
    keys = {**SGD, "max_steps": 3, "packing": packing}
    one = train(short_rows, "one", batch_size=8, **keys)
    two = train(short_rows, "two", batch_size=4, gradient_accumulation=2, **keys)
    assert_has_moved(one.adapter)
    assert_close(two.adapter, one.adapter, 1e-5)
    assert two.losses == pytest.approx(one.losses, rel=1e-5)
    assert [line["examples"] for line in two.log] == [line["examples"] for line in one.log] == [8, 16, 24]


@pytest.mark.parametrize(
    ("packing", "switched_on", "fused"),
    [("prefix_tree", True, True), ("rows", True, True), ("prefix_tree", False, False), ("none", True, False)],
)
def test_fused_lora_is_used_on_a_cpu_unless_switched_off(
    train: Train, short_rows: list[Rendered], packing: str, switched_on: bool, fused: bool
) -> None:
    model = train(short_rows, max_steps=1, batch_size=2, packing=packing, cpu=CpuConfig(fused_lora=switched_on)).model
    variants = [module.lora_variant for module in model.modules() if hasattr(module, "lora_variant")]
    assert variants
    assert all(variant == ({"default": _FusedVariant} if fused else {}) for variant in variants)


@pytest.mark.usefixtures("_in_order")
def test_the_speedups_for_cpus_do_not_change_the_adapter(train: Train, short_rows: list[Rendered]) -> None:
    keys = {**SGD, "max_steps": 4, "batch_size": 4}
    switched_off = CpuConfig(matrix_attention=False, fused_lora=False, release_memory=False)
    fast, stock = train(short_rows, "fast", **keys), train(short_rows, "stock", cpu=switched_off, **keys)
    assert_has_moved(stock.adapter)
    assert_close(fast.adapter, stock.adapter, 1e-5)


@pytest.mark.parametrize("switched_on", [True, False])
def test_matrix_attention_is_used_in_bfloat16_unless_switched_off(
    monkeypatch: pytest.MonkeyPatch, switched_on: bool
) -> None:
    used: list[str] = []
    apply = GroupedAttention.apply
    monkeypatch.setattr(GroupedAttention, "apply", lambda *inputs: used.append("matrix") or apply(*inputs))
    blocks = AttentionBlocks(torch.tensor([[2, 2]]), torch.tensor([[0, 1]]), matrix_attention=switched_on)
    states = torch.randn(1, 2, 2, 8).bfloat16()
    found, _ = tree_attention(torch.nn.Module(), states, states, states, None, tree_blocks=blocks, scaling=0.3)
    assert found.shape == (1, 2, 2, 8)
    assert used == (["matrix"] if switched_on else [])


@pytest.mark.usefixtures("_in_order")
def test_training_computes_attention_in_blocks_if_a_trial_of_flex_fails(
    train: Train, short_rows: list[Rendered], monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {**SGD, "max_steps": 2, "batch_size": 4}
    blocks = train(short_rows, "blocks", **keys)
    notes: list[str] = []
    monkeypatch.setattr(TrainLog, "say", lambda _, text: notes.append(text))
    # As on a GPU. The trial fails, because FlexAttention has no backward pass on a CPU.
    monkeypatch.setattr("toolhone.train.trainer.tree_attention_of", lambda *_: TreeAttention(flex=True))
    fallen_back = train(short_rows, "flex", **keys)
    assert [note.partition(" (")[0] for note in notes] == [
        "train.attention: blocks instead of flex, because a trial step fails"
    ]
    assert "does not support backward on CPU" in notes[0]
    assert_close(fallen_back.adapter, blocks.adapter, 0)
    try_flex = trainer._try_flex
    asked = TrainConfig(attention="flex")
    monkeypatch.setattr(trainer, "_try_flex", lambda found, _: try_flex(found, asked))
    with pytest.raises(
        UserError, match=r"train\.attention: flex does not work with this model here .*set it to blocks"
    ):
        train(short_rows, "asked", **keys)


@pytest.mark.usefixtures("_in_order")
def test_answer_weight_reduces_the_loss_of_plain_answers_only(train: Train, short_rows: list[Rendered]) -> None:
    answers = [row for row in short_rows if not row.example.turn.tool_calls][:2]
    calls = [row for row in short_rows if row.example.turn.tool_calls][:2]

    def weighted(row: Rendered, weight: float) -> Rendered:
        later = 1.0 if row.example.turn.tool_calls else weight
        return replace(row, tokens=mask_labels(row.prompt_ids, row.completion_ids, later))

    def first_loss(rows: list[Rendered], weight: float) -> float:
        name = f"{len(rows)}-{weight}"
        rows = [weighted(row, weight) for row in rows]
        loss: float = train(rows, name, max_steps=1, batch_size=len(rows)).losses[0]
        return loss

    whole, half, quarter = (first_loss([*calls, *answers], weight) for weight in (1.0, 0.5, 0.25))
    assert whole > half
    assert whole - half == pytest.approx(2 * (half - quarter), rel=1e-4)
    assert first_loss(calls, 0.25) == pytest.approx(first_loss(calls, 1.0), rel=1e-6)


def test_the_loss_of_a_few_rows_falls(train: Train, short_rows: list[Rendered]) -> None:
    keys = {**ADAMW, "learning_rate": 1e-2, "max_steps": 60, "batch_size": 2}
    losses = train(short_rows[:2], lora=LoraConfig(rank=16), **keys).losses
    # The frozen head of such a small model cannot separate tokens by more than two and a half nats.
    assert losses[-1] < losses[0] - 0.3


def nodes(rows: Sequence[Rendered]) -> int:
    """Returns the number of tokens that a tree computes: the distinct prefixes of all prompts, and each completion that
    no other prompt contains."""
    prompts = [tuple(row.prompt_ids[:-1]) for row in rows]
    shared = {prompt[:n] for prompt in prompts for n in range(1, len(prompt) + 1)}
    own = [row for row in rows if (*row.prompt_ids, *row.completion_ids) not in shared]
    assert len(own) < len(rows)
    return len(shared) + sum(len(row.completion_ids) + 1 for row in own)


@pytest.mark.parametrize("packing", ["prefix_tree", "none"])
def test_the_log_counts_examples_and_tokens(train: Train, short_rows: list[Rendered], packing: str) -> None:
    rows = short_rows[:6]
    log = train(rows, packing=packing, epochs=2, batch_size=6, **ADAMW).log
    tokens = sum(len(row) for row in rows)
    computed = nodes(rows) if packing == "prefix_tree" else tokens
    assert [line["step"] for line in log] == [1, 2]
    assert [line["epoch"] for line in log] == [1, 2]
    assert [line["examples"] for line in log] == [6, 12]
    assert [line["tokens"] for line in log] == [tokens, 2 * tokens]
    assert [line["computed_tokens"] for line in log] == [computed, 2 * computed]
    assert computed == tokens or computed < tokens / 2


def test_a_nan_or_infinite_loss_stops_training(train: Train, short_rows: list[Rendered]) -> None:
    with pytest.raises(UserError, match=r"train: \w+ is (nan|inf) at step \d.*lower train.learning_rate"):
        train(short_rows, batch_size=2, max_steps=10, **{**SGD, "learning_rate": 1e38})


def test_nf4_trains_the_adapter_and_does_not_change_the_base_weights(
    train: Train, short_rows: list[Rendered], monkeypatch: pytest.MonkeyPatch, tiny_llama: Path
) -> None:
    fresh = load_model(ModelConfig(name=str(tiny_llama), device="cpu", quantize="nf4"), CPU)
    done = train(short_rows, quantize="nf4", batch_size=2, max_steps=2, **ADAMW)
    before = dict(fresh.named_parameters())
    after = {name.replace(".base_layer", ""): p for name, p in done.model.named_parameters() if "lora_" not in name}
    packed = [name for name, p in before.items() if p.dtype == torch.uint8]
    assert len(packed) == 4 * 7
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert_has_moved(done.adapter)
    assert done.losses[1] != done.losses[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_small_updates_of_an_adapter_on_nf4_weights_are_not_rounded_away(
    train: Train, short_rows: list[Rendered], tiny_llama: Path, dtype: torch.dtype
) -> None:
    hardware = Hardware("cpu", dtype, ())
    keys = {**ADAMW, "learning_rate": 1e-5, "quantize": "nf4", "hardware": hardware, "batch_size": 2}
    # A changes only from the second step on, because B starts at zero.
    one, three = (train(short_rows, f"{steps}", max_steps=steps, **keys) for steps in (1, 3))
    for name, before in one.adapter.items():
        after = three.adapter[name]
        assert before.dtype == after.dtype == torch.float32
        assert (before != after).double().mean() > 0.95, name
    saved = load_file(three.run.adapter / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}
    config = ModelConfig(name=str(tiny_llama), device="cpu", quantize="nf4")
    loaded = dict(load_for_inference(config, hardware, three.run.adapter).named_parameters())
    assert all(torch.equal(loaded[f"base_model.model.{name}"], tensor) for name, tensor in three.adapter.items())


@pytest.mark.parametrize("packing", ["prefix_tree", "none"])
def test_an_adapter_on_bfloat16_weights_trains_in_float32(
    train: Train, short_rows: list[Rendered], packing: str
) -> None:
    bfloat16 = Hardware("cpu", torch.bfloat16, ())
    done = train(short_rows, hardware=bfloat16, batch_size=2, max_steps=1, packing=packing, **ADAMW)
    assert {tensor.dtype for tensor in done.adapter.values()} == {torch.float32}


def test_targets_that_name_no_layer_are_refused(train: Train, short_rows: list[Rendered]) -> None:
    with pytest.raises(UserError, match=r"lora.targets: \['W_pack'\] names no layer of .*tiny-llama"):
        train(short_rows, lora=LoraConfig(targets=("W_pack",)), max_steps=1)


def test_a_saved_adapter_reloads_with_the_same_logits(
    train: Train, short_rows: list[Rendered], tiny_llama: Path
) -> None:
    done = train(short_rows, batch_size=4, max_steps=3, packing="none", **{**ADAMW, "learning_rate": 1e-2})
    base_config = ModelConfig(name=str(tiny_llama), device="cpu")
    base = load_model(base_config, CPU)
    ids = torch.tensor([short_rows[0].prompt_ids])
    with torch.no_grad():
        untuned = base(input_ids=ids).logits
        trained = done.model.eval()(input_ids=ids).logits
        reloaded = load_for_inference(base_config, CPU, done.run.adapter)(input_ids=ids).logits
    assert not torch.allclose(trained, untuned, atol=1e-3)
    assert torch.equal(reloaded, trained)
    assert done.result.finished
    assert done.result.steps == 3


def test_free_memory_is_released_every_eight_steps(
    train: Train, short_rows: list[Rendered], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("toolhone.train.cpu.trim_heap", lambda: asked.append("trimmed"))
    train(short_rows, max_steps=17, batch_size=1)
    assert asked == ["trimmed", "trimmed"]
    train(short_rows, "kept", max_steps=17, batch_size=1, cpu=CpuConfig(release_memory=False))
    assert asked == ["trimmed", "trimmed"]
