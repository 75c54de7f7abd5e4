"""Families with experts, recurrent layers or a vision tower: two steps, save, reload and answer, on tiny models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors import safe_open
from transformers import AutoConfig

from toolhone.chat.render import Rendered
from toolhone.config import Config
from toolhone.errors import UserError
from toolhone.evaluate.decode import compute_prefix, decode_greedily, shared_prefix
from toolhone.pretrained import auto_class
from toolhone.run_folder import RunFolder
from toolhone.train.hardware import Hardware
from toolhone.train.language_layers import target_notes
from toolhone.train.miniature import shrink
from toolhone.train.model import load_for_inference, load_model
from toolhone.train.packing import settle_packing
from toolhone.train.preflight import refuse_untrainable
from toolhone.train.trainer import train_adapter

CPU = Hardware("cpu", torch.float32, ())
GRANITE = {"num_hidden_layers": 10, "layer_types": ["mamba"] * 5 + ["attention"] + ["mamba"] * 4, "mamba_n_heads": 128}
FAMILIES: dict[str, tuple[dict[str, Any], str]] = {
    "gpt_oss": ({}, "rows"),
    "qwen3_moe": ({}, "prefix_tree"),
    "gemma4": ({}, "prefix_tree"),
    "gemma3": ({}, "prefix_tree"),
    "mistral3": ({}, "prefix_tree"),
    "qwen3_5": ({}, "rows"),
    "lfm2": ({"num_hidden_layers": 16, "full_attn_idxs": [2, 5, 8, 10, 12, 14]}, "rows"),
    "granitemoehybrid": (GRANITE, "rows"),
    "mamba2": ({}, "rows"),
    "gemma2": ({}, "rows"),
    "falcon": ({}, "rows"),
    "stablelm": ({}, "rows"),
}
TOWERS = ("vision_tower", "visual", "audio_tower", "projector", "embed_vision", "embed_audio")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> dict[str, Path]:
    return {name: tmp_path_factory.mktemp(name) for name in FAMILIES}


def save_model(name: str, folder: Path, tokenizer: Any) -> Path:
    """Save a tiny random model of a family with the tiny Llama's tokenizer."""
    if not (folder / "config.json").is_file():
        values, _ = FAMILIES[name]
        found = shrink(AutoConfig.for_model(name, **values)).to_dict()
        text = next((found[key] for key in ("text_config", "llm_config") if key in found), found)
        vocabulary = {"vocab_size", "vocab_size_per_layer_input"} & set(text)
        text.update(dict.fromkeys(vocabulary, len(tokenizer)))
        torch.manual_seed(0)
        model_config = type(AutoConfig.for_model(name)).from_dict(found)
        auto_class(model_config).from_config(model_config, dtype=torch.float32).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


def experiment(name: str, folder: Path, packing: str, **lora: Any) -> Config:
    sections = {"model": {"name": str(folder), "device": "cpu"}, "data": {"train": ["a"], "test": ["b"]}}
    train = {"packing": packing, "max_steps": 2, "batch_size": 3, "learning_rate": 1e-2}
    return Config.model_validate({"name": name, **sections, "train": train, "lora": {"rank": 2, **lora}})


@pytest.mark.filterwarnings("ignore:The following .*_pattern keys did not match:RuntimeWarning")  # see adapter.py
@pytest.mark.parametrize("name", FAMILIES)
def test_two_steps_are_saved_reloaded_and_answer(
    name: str, folders: dict[str, Path], tiny_tokenizer: Any, short_rows: list[Rendered], tmp_path: Path
) -> None:
    folder = save_model(name, folders[name], tiny_tokenizer)
    rows = sorted(short_rows, key=lambda row: len(row.tokens.ids))[:3]
    config, _ = settle_packing(experiment(name, folder, "prefix_tree"), AutoConfig.from_pretrained(folder))
    assert config.train.packing == FAMILIES[name][1]
    refuse_untrainable(config)
    losses = {}
    for packing in (config.train.packing, "none"):
        run = RunFolder(tmp_path / packing)
        run.path.mkdir()
        chosen = config.model_copy(update={"train": config.train.model_copy(update={"packing": packing})})
        model = load_model(config.model, CPU)
        quiet = Console(quiet=True)
        assert train_adapter(chosen, CPU, model, tiny_tokenizer, rows, (), run, quiet, resume=False).finished
        lines = [json.loads(line) for line in run.train_log.read_text(encoding="utf-8").splitlines()]
        losses[packing] = [line["loss"] for line in lines if "loss" in line]
        with safe_open(run.adapter / "adapter_model.safetensors", framework="pt") as tensors:
            names = list(tensors.keys())
        assert names
        assert not [one for one in names if any(tower in one for tower in TOWERS)]

        tuned = load_for_inference(config.model, CPU, run.adapter)
        prompts = [row.prompt_ids for row in rows]
        ids = torch.tensor([prompts[0]])
        with torch.no_grad():
            reloaded = tuned(input_ids=ids).logits
            base = load_model(config.model, CPU).eval()(input_ids=ids).logits
        if packing != "prefix_tree":  # its attention needs trees
            with torch.no_grad():
                trained = model.eval()(input_ids=ids).logits
            torch.testing.assert_close(reloaded, trained, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(reloaded, base, atol=1e-4)
        answers = decode_greedily(tuned, prompts, compute_prefix(tuned, shared_prefix(prompts)), frozenset(), 3)
        for prompt, answer in zip(prompts, answers, strict=True):
            with torch.no_grad():
                first = tuned(input_ids=torch.tensor([prompt]), use_cache=False).logits[0, -1].argmax()
            assert answer.ids[0] == first
    assert losses[config.train.packing][0] == pytest.approx(losses["none"][0], rel=1e-4)
    assert losses[config.train.packing][1] == pytest.approx(losses["none"][1], rel=1e-2)


def test_a_target_in_the_vision_tower_is_refused(folders: dict[str, Path], tiny_tokenizer: Any) -> None:
    folder = save_model("gemma3", folders["gemma3"], tiny_tokenizer)
    refuse_untrainable(experiment("try", folder, "rows", targets=["q_proj"]))
    with pytest.raises(UserError, match=r"lora.targets: .* has no layer out_proj; known: down_proj, gate_proj, k_proj"):
        refuse_untrainable(experiment("try", folder, "rows", targets=["q_proj", "out_proj"]))


def test_notices_say_what_an_adapter_leaves_out() -> None:
    config = experiment("try", Path("org/some"), "rows")
    assert target_notes(config, AutoConfig.for_model("llama")) == ()
    (towers,) = target_notes(config, AutoConfig.for_model("gemma3"))
    assert towers.startswith("the adapter leaves out multi_modal_projector, vision_tower: the data is text")
    (experts,) = target_notes(config, AutoConfig.for_model("qwen3_moe"))
    assert experts.startswith("lora.targets: all-linear covers linear layers only; the experts are fused parameters (9")
    assert experts.endswith("of all weights), so they and their routers stay frozen")


def test_a_class_that_needs_a_missing_package_is_refused_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ImportError("\nTimmWrapperModel requires the timm library but it was not found\nand more")

    model_config = AutoConfig.for_model("gemma3")
    monkeypatch.setattr(auto_class(model_config), "from_config", fail)
    with pytest.raises(
        UserError, match=r"^model.name: org/some needs a package .* requires the timm library .* found$"
    ):
        target_notes(experiment("try", Path("org/some"), "rows"), model_config)
