"""Variants of LoRA: each one trains, and predicts the same when it is loaded onto the unchanged base model."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig as PeftLoraConfig
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from toolhone.chat.render import Rendered
from toolhone.config import Config, DataConfig, LoraConfig, ModelConfig
from toolhone.errors import UserError
from toolhone.train.adapter import INITIAL_ADAPTER, lora_config, make_portable, unsupported_with_fsdp
from toolhone.train.fused_lora import _FusedVariant
from toolhone.train.hardware import Hardware
from toolhone.train.model import load_for_inference, load_model
from toolhone.train.preflight import refuse_untrainable

CPU = Hardware("cpu", torch.float32, ())
BFLOAT16 = Hardware("cpu", torch.bfloat16, ())
ADAMW = {"scheduler": "constant", "warmup": 0, "learning_rate": 5e-3, "batch_size": 4}
VARIANTS: dict[str, dict[str, Any]] = {
    "rslora": {"rslora": True},
    "dora": {"dora": True},
    "dora, rslora, orthogonal": {"dora": True, "rslora": True, "init": "orthogonal"},
    "plus": {"plus": 8},
    "gaussian": {"init": "gaussian"},
    "orthogonal": {"init": "orthogonal"},
    "mica": {"init": "mica"},
    "olora": {"init": "olora"},
    "pissa": {"init": "pissa"},
    "pissa, rslora": {"init": "pissa", "rslora": True},
    "pissa_niter_4": {"init": "pissa_niter_4"},
    "modules to save": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "pissa, modules to save": {"init": "pissa", "modules_to_save": ["model.norm"]},
    "dora, modules to save": {"dora": True, "modules_to_save": ["lm_head"]},
}
Train = Callable[..., Any]


def lora(**keys: Any) -> LoraConfig:
    return LoraConfig.model_validate({"rank": 4, "alpha": 8, **keys})


def base_model(folder: Path, hardware: Hardware = CPU, quantize: str = "none") -> ModelConfig:
    return ModelConfig.model_validate({"name": str(folder), "device": "cpu", "quantize": quantize})


@torch.no_grad()
def logits(model: Any, row: Rendered) -> torch.Tensor:
    kernel = model.config._attn_implementation  # that of prefix trees reads no plain rows
    model.set_attn_implementation("sdpa")
    found: torch.Tensor = model.eval()(input_ids=torch.tensor([row.prompt_ids])).logits.float()
    model.set_attn_implementation(kernel)
    return found


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_trains_two_steps_and_predicts_the_same_on_the_unchanged_base_model(
    train: Train, short_rows: list[Rendered], tiny_llama: Path, variant: str
) -> None:
    done = train(short_rows, lora=lora(**VARIANTS[variant]), max_steps=2, packing="rows", **ADAMW)
    base = base_model(tiny_llama)
    untuned = logits(load_model(base, CPU), short_rows[0])
    trained = logits(done.model, short_rows[0])
    reloaded = logits(load_for_inference(base, CPU, done.run.adapter), short_rows[0])
    assert (trained - untuned).abs().max() > 1e-3
    assert torch.allclose(reloaded, trained, atol=1e-5)
    saved = json.loads((done.run.adapter / "adapter_config.json").read_text(encoding="utf-8"))
    assert saved["init_lora_weights"] is True
    assert saved["use_rslora"] is False
    plain = 8 / 2 if VARIANTS[variant].get("rslora") else 8 / 4
    assert saved["lora_alpha"] / saved["r"] == plain
    ranks = {
        t.shape[0] for name, t in load_file(done.run.adapter / "adapter_model.safetensors").items() if "lora_A" in name
    }
    assert (
        ranks
        == {saved["r"]}
        == {8 if "init" in VARIANTS[variant] and VARIANTS[variant]["init"][:5] in ("pissa", "olora") else 4}
    )


@pytest.mark.parametrize("variant", ["dora", "plus", "mica", "olora", "pissa", "modules to save"])
def test_a_variant_gives_the_same_adapter_with_prefix_trees_and_without(
    train: Train, short_rows: list[Rendered], variant: str
) -> None:
    keys = {"optimizer": "sgd", "scheduler": "constant", "warmup": 0, "learning_rate": 0.1, "batch_size": 4}
    tree, plain = (
        train(short_rows[:4], packing, lora=lora(**VARIANTS[variant]), packing=packing, max_steps=2, **keys)
        for packing in ("prefix_tree", "none")
    )
    assert tree.losses == pytest.approx(plain.losses, rel=1e-5)
    found, expected = (load_file(done.run.adapter / "adapter_model.safetensors") for done in (tree, plain))
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (found[name] - tensor).norm() <= 1e-5 * tensor.norm(), name


@pytest.mark.parametrize("variant", ["dora", "plus", "mica", "olora", "pissa", "pissa_niter_4", "modules to save"])
def test_a_resumed_training_ends_with_the_same_adapter_as_an_uninterrupted_one(
    train: Train, short_rows: list[Rendered], variant: str
) -> None:
    keys = {"lora": lora(**VARIANTS[variant]), "save_every": 2, "keep_checkpoints": 3, **ADAMW}
    whole = train(short_rows, "whole", max_steps=4, **keys)
    again = whole.run.path.with_name("again")
    shutil.copytree(whole.run.path, again)
    shutil.rmtree(again / "adapter")
    shutil.rmtree(again / "checkpoints" / "checkpoint-4")
    resumed = train(short_rows, "again", max_steps=4, resume=True, **keys)
    found, expected = (load_file(one.run.adapter / "adapter_model.safetensors") for one in (resumed, whole))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_checkpoint_of_the_last_step_becomes_the_same_adapter(train: Train, short_rows: list[Rendered]) -> None:
    keys = {"lora": lora(init="pissa"), "max_steps": 2, "save_every": 2, **ADAMW}
    done = train(short_rows, **keys)
    before = load_file(done.run.adapter / "adapter_model.safetensors")
    shutil.rmtree(done.run.adapter)
    train(short_rows, resume=True, **keys)
    after = load_file(done.run.adapter / "adapter_model.safetensors")
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_resuming_without_the_initial_adapter_is_refused(train: Train, short_rows: list[Rendered]) -> None:
    keys = {"lora": lora(init="olora"), "save_every": 1, **ADAMW}
    done = train(short_rows, max_steps=1, **keys)
    (done.run.checkpoints / INITIAL_ADAPTER).unlink()
    with pytest.raises(UserError, match=rf"{INITIAL_ADAPTER}: is missing.*lora.init: olora.*--fresh"):
        train(short_rows, max_steps=2, resume=True, **keys)


def test_the_best_adapter_of_a_selection_is_converted_too(
    train: Train, short_rows: list[Rendered], tiny_llama: Path
) -> None:
    from toolhone.train.select import Measured

    seen: dict[int, torch.Tensor] = {}

    def measure(model: Any, step: int) -> Measured:
        seen[step] = logits(model, short_rows[0])
        model.train()
        return Measured(step, 5 - step, 10)  # the first step is the best

    keys = {"select_by": "exact_match", "validate_every": 1, "validation": short_rows[-2:], **ADAMW}
    done = train(short_rows[:-2], lora=lora(init="pissa"), max_steps=2, measure=measure, **keys)
    reloaded = logits(load_for_inference(base_model(tiny_llama), CPU, done.run.adapter), short_rows[0])
    assert torch.allclose(reloaded, seen[1], atol=1e-5)
    assert not torch.allclose(reloaded, seen[2], atol=1e-4)


def test_the_converted_adapter_equals_the_one_that_peft_converts(tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=32))
    peft = get_peft_model(
        model, PeftLoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights="pissa")
    )
    peft.peft_config["default"].init_lora_weights = True  # as PEFT's own guide does
    peft.save_pretrained(tmp_path / "initial")
    ours = tmp_path / "ours"
    (ours / "checkpoints").mkdir(parents=True)
    shutil.copy(tmp_path / "initial" / "adapter_model.safetensors", ours / "checkpoints" / INITIAL_ADAPTER)
    with torch.no_grad():
        for parameter in peft.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    peft.save_pretrained(ours)
    peft.save_pretrained(tmp_path / "theirs", path_initial_model_for_weight_conversion=str(tmp_path / "initial"))
    make_portable(ours, lora(init="pissa"), ours / "checkpoints")
    found, expected = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("ours", "theirs"))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    configs = [json.loads((tmp_path / name / "adapter_config.json").read_text()) for name in ("ours", "theirs")]
    for key in ("r", "lora_alpha", "use_rslora", "init_lora_weights"):
        assert configs[0][key] == configs[1][key], key


def test_lora_plus_gives_b_its_own_rate_and_the_vectors_too(train: Train, short_rows: list[Rendered]) -> None:
    """After one step of AdamW each weight has moved by its learning rate, whatever its gradient."""
    fresh = train(
        short_rows, "fresh", lora=lora(plus=8, init="pissa"), max_steps=1, **{**ADAMW, "learning_rate": 1e-12}
    )
    done = train(short_rows, "done", lora=lora(plus=8, init="pissa"), max_steps=1, **{**ADAMW, "learning_rate": 1e-3})
    steps = {"A": 1e-3, "B": 8e-3}
    for name, tensor in done.adapter.items():
        moved = (tensor - fresh.adapter[name]).abs()
        letter = name.partition("lora_")[2][0]
        assert moved.median() == pytest.approx(steps[letter], rel=0.01), name


@pytest.mark.parametrize("optimizer", ["adamw_torch", "adamw_torch_fused", "sgd"])
def test_lora_plus_works_with_every_optimizer_of_a_cpu(
    train: Train, short_rows: list[Rendered], optimizer: str
) -> None:
    done = train(short_rows, lora=lora(plus=4), max_steps=2, **{**ADAMW, "optimizer": optimizer, "weight_decay": 0.1})
    assert done.result.finished
    assert done.log[-1]["learning_rate"] == pytest.approx(5e-3)


# Types of numbers


@pytest.mark.parametrize("packing", ["prefix_tree", "none"])
@pytest.mark.parametrize("variant", ["dora", "mica", "pissa", "modules to save"])
def test_a_variant_trains_in_float32_on_bfloat16_weights_and_answers_in_bfloat16(
    train: Train, short_rows: list[Rendered], tiny_llama: Path, variant: str, packing: str
) -> None:
    done = train(short_rows, lora=lora(**VARIANTS[variant]), max_steps=2, packing=packing, hardware=BFLOAT16, **ADAMW)
    assert {p.dtype for p in done.model.parameters() if p.requires_grad} == {torch.float32}
    config = ModelConfig(name=str(tiny_llama), device="cpu", dtype="bfloat16")
    trained = logits(done.model, short_rows[0])  # without autocast, as select_by measures it
    reloaded = logits(load_for_inference(config, BFLOAT16, done.run.adapter), short_rows[0])
    untuned = logits(load_model(config, BFLOAT16), short_rows[0])
    assert (reloaded - trained).norm() < 0.1 * (trained - untuned).norm()


@pytest.mark.parametrize("variant", ["rslora", "dora", "plus", "gaussian", "modules to save"])
@pytest.mark.parametrize("hardware", [CPU, BFLOAT16], ids=["float32", "bfloat16"])
def test_a_variant_trains_on_nf4_weights(
    train: Train, short_rows: list[Rendered], tiny_llama: Path, variant: str, hardware: Hardware
) -> None:
    done = train(short_rows, lora=lora(**VARIANTS[variant]), max_steps=2, quantize="nf4", hardware=hardware, **ADAMW)
    base = base_model(tiny_llama, quantize="nf4")
    trained = logits(done.model, short_rows[0])
    untuned = logits(load_model(base, hardware), short_rows[0])
    reloaded = logits(load_for_inference(base, hardware, done.run.adapter), short_rows[0])
    assert (trained - untuned).abs().max() > 1e-3
    limit = 1e-4 if hardware is CPU else 0.1 * (trained - untuned).abs().max()
    assert (reloaded - trained).abs().max() <= limit


@pytest.mark.parametrize(
    ("variant", "fused"), [("plus", True), ("pissa", True), ("modules to save", True), ("dora", False), ("mica", False)]
)
def test_fused_lora_is_used_unless_the_variant_has_its_own_computation(
    train: Train, short_rows: list[Rendered], variant: str, fused: bool
) -> None:
    model = train(short_rows, lora=lora(**VARIANTS[variant]), max_steps=1, **ADAMW).model
    found = [module.lora_variant for module in model.modules() if hasattr(module, "lora_variant")]
    assert len(found) == 4 * 7
    assert all((one == {"default": _FusedVariant}) is fused for one in found)


# Fully trained modules


def test_the_shared_weight_of_embeddings_and_lm_head_is_trained_once(
    train: Train, short_rows: list[Rendered], tiny_llama: Path, tmp_path: Path
) -> None:
    tied = AutoModelForCausalLM.from_pretrained(tiny_llama)
    tied.config.tie_word_embeddings = True
    tied.tie_weights()
    folder = tmp_path / "tied"
    tied.save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    for names in (["lm_head"], ["embed_tokens"], ["embed_tokens", "lm_head"]):
        peft = get_peft_model(copy.deepcopy(model), lora_config(lora(modules_to_save=names), model))
        trained = [name for name, p in peft.named_parameters() if p.requires_grad and "lora_" not in name]
        assert trained == ["base_model.model.model.embed_tokens.modules_to_save.default.weight"]
        assert peft.get_output_embeddings().weight is peft.get_input_embeddings().weight
        with torch.no_grad():
            peft.get_input_embeddings().weight.add_(torch.randn(peft.get_input_embeddings().weight.shape) * 0.1)
        peft.save_pretrained(tmp_path / "adapter")
        again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), str(tmp_path / "adapter"))
        assert torch.equal(logits(again, short_rows[0]), logits(peft, short_rows[0]))


def test_a_name_means_the_end_of_a_dotted_path_not_of_a_text(tiny_llama: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    peft = get_peft_model(model, lora_config(lora(modules_to_save=["norm"]), model))
    trained = [name for name, p in peft.named_parameters() if p.requires_grad and "lora_" not in name]
    assert trained == ["base_model.model.model.norm.modules_to_save.default.weight"]


def test_modules_with_4_bit_weights_and_unknown_modules_are_refused(train: Train, short_rows: list[Rendered]) -> None:
    with pytest.raises(
        UserError, match=r"lora.modules_to_save: model.layers.0.mlp.up_proj has 4-bit weights.*nf4|none"
    ):
        train(short_rows, lora=lora(modules_to_save=["layers.0.mlp.up_proj"]), quantize="nf4", max_steps=1)
    with pytest.raises(UserError, match=r"lora.modules_to_save: the model has no module score; known: .*lm_head"):
        train(short_rows, lora=lora(modules_to_save=["score"]), max_steps=1)
    with pytest.raises(UserError, match=r"lora.modules_to_save: model.layers.0.mlp.act_fn has no weights; remove it"):
        train(short_rows, lora=lora(modules_to_save=["layers.0.mlp.act_fn"]), max_steps=1)


# Refusals before any weight is loaded


def experiment(tiny_llama: Path, **keys: Any) -> Config:
    data = DataConfig(train=("train.jsonl",), test=("test.jsonl",))
    return Config(name="run", model=base_model(tiny_llama), data=data, lora=lora(**keys))


def test_a_rank_above_the_smaller_side_of_a_weight_is_refused_before_loading(tiny_llama: Path) -> None:
    for init in ("pissa", "olora", "mica"):
        config = experiment(tiny_llama, init=init, rank=512)
        with pytest.raises(
            UserError, match=rf"lora.rank: 512 is more than lora.init: {init} can take from model.layers"
        ):
            refuse_untrainable(config)
    refuse_untrainable(experiment(tiny_llama, init="pissa", rank=8))
    refuse_untrainable(experiment(tiny_llama, init="gaussian", rank=512))


def test_embeddings_as_targets_are_refused_with_an_initialisation_for_linear_layers(tiny_llama: Path) -> None:
    for init in ("pissa", "olora", "orthogonal", "mica"):
        config = experiment(tiny_llama, init=init, targets=["embed_tokens", "q_proj"])
        with pytest.raises(
            UserError, match=rf"lora.init: {init} fits linear layers only, and lora.targets has model.emb"
        ):
            refuse_untrainable(config)


def test_unknown_modules_are_refused_before_loading(tiny_llama: Path) -> None:
    with pytest.raises(UserError, match=r"lora.modules_to_save: the model has no module embeddings"):
        refuse_untrainable(experiment(tiny_llama, modules_to_save=["embeddings"]))


@pytest.mark.parametrize(
    ("keys", "refused"),
    [
        ({"dora": True}, "lora.dora"),
        ({"plus": 2}, "lora.plus"),
        ({"init": "pissa"}, "lora.init"),
        ({"modules_to_save": ["lm_head"]}, "lora.modules_to_save"),
        ({"rslora": True, "init": "gaussian"}, None),
    ],
)
def test_untested_variants_are_refused_with_fsdp(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch, keys: dict[str, Any], refused: str | None
) -> None:
    config = experiment(tiny_llama, **keys)
    assert unsupported_with_fsdp(config.lora) == refused
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_STATE_DICT_TYPE", "FULL_STATE_DICT")
    if refused is None:
        refuse_untrainable(config)
    else:
        with pytest.raises(UserError, match=rf"^{refused}: not supported with FSDP; remove it, or train with data"):
            refuse_untrainable(config)
