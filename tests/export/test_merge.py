"""Merged weights predict what base and adapter predict, for every variant of LoRA and class of model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from rich.console import Console
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoTokenizer, LlamaForCausalLM

from toolhone.chat.probe import make_renderer
from toolhone.config import ChatConfig, LoraConfig, ModelConfig
from toolhone.errors import UserError
from toolhone.evaluate.decode import Completion
from toolhone.export.merge import NotEqualError, compare_answers, merge_adapter, prove_merge
from toolhone.pretrained import auto_class
from toolhone.records import Example, Gold, Message, Tool, ToolCall
from toolhone.train.adapter import lora_config, make_portable, start_adapter
from toolhone.train.hardware import Hardware
from toolhone.train.miniature import shrink
from toolhone.train.model import load_for_inference, load_model

CPU = Hardware("cpu", torch.float32, ())
VARIANTS: dict[str, dict[str, Any]] = {
    "lora": {},
    "dora": {"dora": True},
    "pissa": {"init": "pissa", "rslora": True},
    "olora, modules to save": {"init": "olora", "modules_to_save": ["model.norm"]},
    "tied embeddings to save": {"modules_to_save": ["embed_tokens"]},
    "tied head to save": {"modules_to_save": ["lm_head"]},
    "an adapter on tied embeddings": {"targets": ["embed_tokens", "q_proj"]},
}
FAMILIES = ("mistral3", "qwen3_moe")


def model_config(folder: Path, **keys: Any) -> ModelConfig:
    return ModelConfig.model_validate({"name": str(folder), "device": "cpu", **keys})


def make_adapter(base: ModelConfig, folder: Path, **keys: Any) -> Path:
    """Save an adapter with random weights, as a training would save it."""
    config = LoraConfig.model_validate({"rank": 4, "alpha": 8, **keys})
    torch.manual_seed(1)
    model = load_model(base, CPU)
    adapted = get_peft_model(model, lora_config(config, model))
    start_adapter(config, adapted, folder, resume=False, is_main=True)
    with torch.no_grad():
        for weight in (one for one in adapted.parameters() if one.requires_grad):
            weight += torch.randn_like(weight) * 0.1
    adapted.save_pretrained(str(folder / "adapter"))
    make_portable(folder / "adapter", config, folder)
    return folder / "adapter"


@torch.no_grad()
def logits(config: ModelConfig, adapter: Path | None = None, hardware: Hardware = CPU) -> torch.Tensor:
    found: torch.Tensor = load_for_inference(config, hardware, adapter)(torch.arange(3, 40)[None]).logits
    return found.float()


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")
@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers` to `True`:UserWarning")
@pytest.mark.parametrize("variant", VARIANTS)
def test_merged_weights_predict_what_base_and_adapter_predict(tiny_llama: Path, tmp_path: Path, variant: str) -> None:
    base, merged = model_config(tiny_llama), tmp_path / "merged"
    adapter = make_adapter(base, tmp_path, **VARIANTS[variant])
    merge_adapter(base, adapter, "f32", merged)
    expected = logits(base, adapter)
    assert (expected - logits(base)).abs().max() > 1e-2
    assert torch.allclose(logits(model_config(merged)), expected, atol=1e-4)


@pytest.mark.filterwarnings("ignore:The following .*_pattern keys did not match:RuntimeWarning")  # see adapter.py
@pytest.mark.parametrize("name", FAMILIES)
def test_other_classes_of_models_merge_and_load_again(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    small = shrink(AutoConfig.for_model(name))
    model = auto_class(small).from_config(small, dtype=torch.float32)
    model.save_pretrained(tmp_path / "base")
    base, merged = model_config(tmp_path / "base"), tmp_path / "merged"
    adapter = make_adapter(base, tmp_path)
    merge_adapter(base, adapter, "f32", merged)
    expected = logits(base, adapter)
    assert (expected - logits(base)).abs().max() > 1e-4
    assert torch.allclose(logits(model_config(merged)), expected, atol=1e-4)
    assert AutoConfig.from_pretrained(merged).architectures == [type(model).__name__]


def test_weights_in_bfloat16_are_those_in_float32_rounded_once(tiny_llama: Path, tmp_path: Path) -> None:
    base = model_config(tiny_llama)
    adapter = make_adapter(base, tmp_path)
    for dtype in ("f32", "bf16"):
        merge_adapter(base, adapter, dtype, tmp_path / dtype)  # type: ignore[arg-type]
    exact, rounded = (load_file(tmp_path / dtype / "model.safetensors") for dtype in ("f32", "bf16"))
    assert exact.keys() == rounded.keys()
    assert all(torch.equal(rounded[name], weight.bfloat16()) for name, weight in exact.items())
    assert json.loads((tmp_path / "bf16" / "config.json").read_text(encoding="utf-8"))["dtype"] == "bfloat16"


def test_weights_that_a_class_keeps_in_float32_stay_so(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LlamaForCausalLM, "_keep_in_fp32_modules_strict", ["input_layernorm"])
    base = model_config(tiny_llama)
    merge_adapter(base, make_adapter(base, tmp_path), "bf16", tmp_path / "merged")
    for name, weight in load_file(tmp_path / "merged" / "model.safetensors").items():
        assert weight.dtype == (torch.float32 if "input_layernorm" in name else torch.bfloat16)


def test_a_run_with_4_bit_weights_merges_into_the_unquantised_ones(tiny_llama: Path, tmp_path: Path) -> None:
    base = model_config(tiny_llama)
    adapter = make_adapter(base, tmp_path)
    merge_adapter(model_config(tiny_llama, quantize="nf4"), adapter, "f32", tmp_path / "merged")
    assert torch.allclose(logits(model_config(tmp_path / "merged")), logits(base, adapter), atol=1e-4)
    assert "quantization_config" not in (tmp_path / "merged" / "config.json").read_text(encoding="utf-8")


def test_a_quantised_base_model_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    config = json.loads((tiny_llama / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(UserError, match=r"model\.name: .* is quantised.*leave out --merge"):
        merge_adapter(model_config(tmp_path), tmp_path, "f32", tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


TOOL = Tool("query_order", "", {"type": "object", "properties": {"order_id": {"type": "string"}}})


def example(number: int) -> Example:
    turn = Message("assistant", "", (ToolCall("query_order", {"order_id": f"A{number}"}, "call_1"),))
    asked = (Message("user", f"order {number}?"),)
    return Example(f"r{number}/1", f"r{number}", asked, turn, Gold.of_message(turn), (TOOL,), "made:1", None, {})


def test_a_faulty_merge_is_found_in_float32_and_counted_in_bfloat16(tiny_llama: Path, tmp_path: Path) -> None:
    base, merged = model_config(tiny_llama), tmp_path / "merged"
    adapter = make_adapter(base, tmp_path)
    renderer = make_renderer(AutoTokenizer.from_pretrained(tiny_llama), ChatConfig(), "tiny")
    examples, quiet = [example(number) for number in range(6)], Console(quiet=True)
    merge_adapter(base, adapter, "f32", merged)
    proof = prove_merge(base, adapter, merged, "f32", renderer, examples, 8, quiet)
    assert (proof.agreement["numerator"], proof.agreement["denominator"]) == (6, 6)
    assert 6 <= proof.tokens <= 48
    assert proof.max_logprob_difference < 1e-4
    weights = load_file(merged / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"].flip(0) * torch.linspace(-1, 1, 64)
    save_file(weights, merged / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(NotEqualError, match=r"answers \d of 6 prompts differently .*: r0/1 from token 1 on"):
        prove_merge(base, adapter, merged, "f32", renderer, examples, 8, quiet)
    agreement = prove_merge(base, adapter, merged, "bf16", renderer, examples, 8, quiet).agreement
    assert agreement["numerator"] < 6
    assert agreement["low"] <= agreement["value"] <= agreement["high"]


def test_answers_are_compared_up_to_the_first_token_that_differs() -> None:
    def answer(*ids: int, logprob: float = -1.0) -> Completion:
        return Completion(list(ids), [logprob] * len(ids), [None] * len(ids), stopped=True)

    examples = [example(number) for number in range(3)]
    expected = {"r0/1": answer(5, 6), "r1/1": answer(5, 6, 7), "r2/1": answer(5, 6)}
    found = {"r0/1": answer(5, 6, logprob=-1.5), "r1/1": answer(5, 8, 7, logprob=-1.25), "r2/1": answer(5, 6, 7)}
    proof = compare_answers("float32", examples, expected, found)
    assert (proof.agreement["numerator"], proof.tokens, proof.max_logprob_difference) == (1, 7, 0.5)
    assert proof.differences == ("r1/1 from token 2 on", "r2/1 from token 3 on")
