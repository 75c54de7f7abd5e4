"""The check of a model's class before training: trees where their loss is right, rows or plain training elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig

from toolhone.config import Config
from toolhone.errors import UserError
from toolhone.pretrained import auto_class
from toolhone.train import attention, packing
from toolhone.train.hardware import Hardware
from toolhone.train.miniature import CannotShrinkError, make_miniature, shrink
from toolhone.train.packing import (
    TESTED,
    PackingCheck,
    check_packing,
    settle_packing,
    tree_attention_of,
    uses_flex,
)

CPU = Hardware("cpu", torch.float32, ())

# The config of a class with the sizes of a real model, as in its config.json.
LLAMA3 = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LONG = {"rope_type": "longrope", "short_factor": [1.1] * 48, "long_factor": [2.0] * 48, "rope_theta": 10000.0}
ACCEPTED: dict[str, tuple[str, dict[str, Any]]] = {
    "apertus": ("apertus", {}),
    "arcee": ("arcee", {}),
    "cohere": ("cohere", {}),
    "cohere2": ("cohere2", {}),
    "deepseek_v3": ("deepseek_v3", {}),
    "diffllama": ("diffllama", {}),
    "ernie4_5": ("ernie4_5", {}),
    "exaone4": ("exaone4", {}),
    "gpt2": ("gpt2", {}),
    "gpt_neox": ("gpt_neox", {}),
    "gemma": ("gemma", {}),
    "gemma3": ("gemma3_text", {}),
    "gemma3-270m": (
        "gemma3_text",
        {"hidden_size": 640, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256},
    ),
    "gemma3 with vision": ("gemma3", {}),
    "glm": ("glm", {}),
    "glm4": ("glm4", {}),
    "granite": ("granite", {"attention_multiplier": 0.015625, "logits_scaling": 8.0, "embedding_multiplier": 12.0}),
    "granite-4-micro": (
        "granitemoehybrid",
        {"layer_types": ["attention"] * 40, "num_hidden_layers": 40, "num_local_experts": 0, "num_experts_per_tok": 0,
         "position_embedding_type": "rope", "hidden_size": 2560, "num_attention_heads": 40, "num_key_value_heads": 8},
    ),
    "granitemoe": ("granitemoe", {}),
    "helium": ("helium", {}),
    "hunyuan": ("hunyuan_v1_dense", {"head_dim": 128}),
    "llama-2": ("llama", {}),
    "llama-3.2-1b": (
        "llama",
        {"rope_parameters": {**LLAMA3, "rope_theta": 500000.0, "original_max_position_embeddings": 8192},
         "hidden_size": 2048, "num_key_value_heads": 8, "head_dim": 64, "max_position_embeddings": 131072},
    ),
    "minicpm3": ("minicpm3", {}),
    "ministral": ("ministral", {"head_dim": 128}),
    "ministral3": ("ministral3", {}),
    "ministral3 with vision": ("mistral3", {}),
    "mistral": ("mistral", {"sliding_window": None}),
    "mistral with a window": ("mistral", {"sliding_window": 4096}),
    "opt": ("opt", {}),
    "olmo2": ("olmo2", {}),
    "olmo3": ("olmo3", {}),
    "phi": ("phi", {}),
    "phi3": ("phi3", {}),
    "phi-4-mini": (
        "phi3",
        {"rope_parameters": {**LONG, "original_max_position_embeddings": 4096, "partial_rotary_factor": 0.75},
         "hidden_size": 3072, "num_attention_heads": 24, "num_key_value_heads": 8, "max_position_embeddings": 131072},
    ),
    "qwen2": ("qwen2", {}),
    "qwen2 with windows": ("qwen2", {"use_sliding_window": True, "max_window_layers": 3, "num_hidden_layers": 6}),
    "qwen2_moe": ("qwen2_moe", {}),
    "qwen3": ("qwen3", {}),
    "qwen3_moe": ("qwen3_moe", {}),
    "seed_oss": ("seed_oss", {}),
    "smollm3": ("smollm3", {}),
}  # fmt: skip
HYBRID = {"num_hidden_layers": 10, "layer_types": ["mamba"] * 5 + ["attention"] + ["mamba"] * 4, "mamba_n_heads": 128}
TO_ROWS: dict[str, tuple[str, dict[str, Any], str]] = {
    "falcon-7b": ("falcon", {}, "FalconForCausalLM gives another loss along trees"),
    "falcon with alibi": ("falcon", {"alibi": True}, "FalconForCausalLM gives another loss along trees"),
    "bloom": ("bloom", {}, "BloomForCausalLM gives another loss along trees"),
    "mpt": ("mpt", {}, "MptForCausalLM gives another loss along trees"),
    "stablelm-2": ("stablelm", {}, "StableLmForCausalLM does not support it"),
    "nemotron": ("nemotron", {}, "NemotronForCausalLM does not support it"),
    "gemma2": ("gemma2", {}, "the model has capped attention logits"),
    "gpt_oss": ("gpt_oss", {}, "the model has attention sinks"),
    "llama4": ("llama4_text", {}, "the model has chunked_attention"),
    "granite-4-h": ("granitemoehybrid", HYBRID, "the model has linear_attention"),
    "falcon_h1": ("falcon_h1", {}, "the model has hybrid"),
    "mamba2": ("mamba2", {}, "the model has linear_attention"),
    "lfm2": ("lfm2", {"full_attn_idxs": [2, 5, 8, 10, 12, 14], "num_hidden_layers": 16}, "the model has conv"),
    "qwen3.5": ("qwen3_5_text", {}, "the model has linear_attention"),
    "qwen3.5 with vision": ("qwen3_5", {}, "the model has linear_attention"),
}


def experiment(**train: Any) -> Config:
    sections = {"model": {"name": "org/some"}, "data": {"train": ["a"], "test": ["b"]}, "train": train}
    return Config.model_validate({"name": "try", **sections})


@pytest.mark.parametrize("name", ACCEPTED)
def test_the_loss_along_trees_equals_the_plain_loss(name: str) -> None:
    model_type, values = ACCEPTED[name]
    assert check_packing(AutoConfig.for_model(model_type, **values)) == PackingCheck(None, None)


def test_the_list_of_tested_classes_is_what_is_tested_here() -> None:
    classes = set()
    for model_type, values in ACCEPTED.values():
        model_config = AutoConfig.for_model(model_type, **values)
        classes.add(auto_class(model_config)._model_mapping[type(model_config)].__name__)
    assert {name.removesuffix("ForCausalLM") for name in classes if "Conditional" not in name} == TESTED


@pytest.mark.parametrize("name", TO_ROWS)
def test_other_models_train_in_rows_with_a_notice(name: str) -> None:
    model_type, values, why = TO_ROWS[name]
    settled, (note,) = settle_packing(experiment(answer_weight=0.5), AutoConfig.for_model(model_type, **values))
    assert settled.train.packing == "rows"
    assert settled.train.answer_weight == 0.5
    assert note.startswith(f"train.packing: rows instead of prefix_tree, because {why}")
    Config.model_validate(settled.model_dump())  # the run folder's config.yaml is read again


def test_a_model_without_a_small_copy_trains_without_packing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise CannotShrinkError("ValueError: heads do not divide")

    monkeypatch.setattr(packing, "make_miniature", fail)
    model_config = AutoConfig.for_model("llama", num_hidden_layers=3)
    settled, (note,) = settle_packing(experiment(answer_weight=0.5), model_config)
    assert (settled.train.packing, settled.train.answer_weight) == ("none", 1)
    assert note == (
        "train.packing: none instead of prefix_tree, because no small copy of the model can be made to check its loss "
        "(ValueError: heads do not divide); train.answer_weight counts as 1 instead of 0.5"
    )


def test_a_chosen_packing_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "make_miniature", lambda *_, **__: pytest.fail("nothing to check"))
    for chosen in ("rows", "none"):
        config = experiment(packing=chosen)
        assert settle_packing(config, AutoConfig.for_model("falcon")) == (config, ())


@pytest.mark.parametrize(
    ("device", "keys", "expected"),
    [
        ("cuda", {}, True),
        ("cuda", {"attention": "flex"}, True),
        ("cuda", {"attention": "blocks"}, False),
        ("cuda", {"packing": "rows"}, False),
        ("cpu", {}, False),
        ("cpu", {"attention": "blocks"}, False),
    ],
)
def test_attention_is_flex_on_a_gpu_and_blocks_on_a_cpu(device: str, keys: dict[str, Any], expected: bool) -> None:
    assert uses_flex(experiment(**keys), Hardware(device, torch.float32, ())) is expected


def test_flex_on_a_cpu_is_refused() -> None:
    with pytest.raises(UserError, match=r"^train\.attention: flex needs a GPU.*set it to auto$"):
        uses_flex(experiment(attention="flex"), CPU)


@pytest.mark.parametrize(
    ("model_type", "values", "windows"),
    [
        ("llama", {}, {None}),
        ("mistral", {"sliding_window": 4096}, {4096}),
        ("mistral", {"sliding_window": None}, {None}),
        ("qwen2", {"sliding_window": 4096, "use_sliding_window": False}, {None}),
        ("gemma3_text", {"sliding_window": 512, "num_hidden_layers": 12}, {None, 512}),
        ("gemma3", {}, {None, 4096}),
    ],
)
def test_the_windows_of_all_layers_are_prepared(
    model_type: str, values: dict[str, Any], windows: set[int | None]
) -> None:
    found = tree_attention_of(experiment(), CPU, AutoConfig.for_model(model_type, **values))
    assert set(found.windows) == windows


def test_the_check_finds_a_branch_that_sees_one_token_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    right = attention.visible

    def leaking(ends: torch.Tensor, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        return right(ends + 1, queries, keys)

    monkeypatch.setattr(attention, "visible", leaking)
    found = check_packing(AutoConfig.for_model("llama", num_hidden_layers=5))
    assert found.tree_fault is not None
    assert "gives another loss along trees" in found.tree_fault


def test_a_small_copy_keeps_what_positions_and_kinds_of_layers_depend_on() -> None:
    model_config = AutoConfig.for_model("gemma3")
    small, text = shrink(model_config).text_config, model_config.text_config
    assert type(shrink(model_config)) is type(model_config)
    assert small.layer_types == text.layer_types[:6]
    assert set(small.layer_types) == set(text.layer_types)
    for name in ("rope_parameters", "head_dim", "max_position_embeddings", "query_pre_attn_scalar"):
        assert getattr(small, name) == getattr(text, name)
    assert small.sliding_window < 40  # shorter than the rows of the check
    assert sum(p.numel() for p in make_miniature(text).parameters()) < 2e7


def test_layers_that_use_the_keys_of_earlier_ones_stay_in_a_small_copy() -> None:
    small = shrink(AutoConfig.for_model("gemma3n_text"))
    kept = small.num_hidden_layers - small.num_kv_shared_layers
    assert 0 < kept < small.num_hidden_layers <= 20
    assert set(small.layer_types[kept:]) == set(small.layer_types[:kept]) == {"full_attention", "sliding_attention"}


def test_no_random_state_changes() -> None:
    torch.manual_seed(3)
    wanted = torch.rand(2)
    torch.manual_seed(3)
    check_packing(AutoConfig.for_model("llama", num_hidden_layers=6))
    assert torch.equal(torch.rand(2), wanted)


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "_checked", {})
