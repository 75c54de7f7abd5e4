"""The fused LoRA gives PEFT's own values and gradients, and is used where it can be."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model

from toolhone.config_file import load_config
from toolhone.train.fused_lora import LoraProduct, _FusedVariant, fuse_lora, fuses_lora
from toolhone.train.hardware import Hardware

SMOKE = Path(__file__).parents[2] / "configs" / "smoke.yaml"


class TwoLayers(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = torch.nn.Linear(12, 20, bias=False)
        self.down = torch.nn.Linear(20, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(torch.nn.functional.silu(self.up(x)))


def adapted(dtype: torch.dtype, adapter: torch.dtype, **keys: object) -> torch.nn.Module:
    torch.manual_seed(0)
    model = get_peft_model(TwoLayers().to(dtype), LoraConfig(r=4, lora_alpha=6, target_modules=["up", "down"], **keys))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape).to(adapter)
    return model


def output_and_gradients(model: torch.nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    torch.manual_seed(1)  # for dropout
    x = x.clone().requires_grad_()
    output = model(x)
    (output * torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view(output.shape)).sum().backward()
    learned = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
    assert all(gradient is not None for gradient in (x.grad, *learned))
    return [output.detach(), x.grad, *learned]


@pytest.mark.parametrize("keys", [{}, {"use_rslora": True}, {"lora_dropout": 0.5}])
@pytest.mark.parametrize("shape", [(3, 5, 12), (7, 12)])
def test_fused_lora_has_pefts_values_and_gradients(keys: dict[str, object], shape: tuple[int, ...]) -> None:
    model = adapted(torch.float64, torch.float64, **keys)
    ours = copy.deepcopy(model)
    fuse_lora(ours)
    x = torch.randn(shape, dtype=torch.float64)
    for found, expected in zip(output_and_gradients(ours, x), output_and_gradients(model, x), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_on_bfloat16_weights_the_adapter_and_its_gradients_stay_float32() -> None:
    exact = adapted(torch.float64, torch.float64)
    ours = adapted(torch.bfloat16, torch.float32)
    fuse_lora(ours)
    x = torch.randn(9, 12).bfloat16()
    found = output_and_gradients(ours, x)
    assert [tensor.dtype for tensor in found] == [torch.bfloat16] * 2 + [torch.float32] * 4
    for one, other in zip(found, output_and_gradients(exact, x.double()), strict=True):
        assert (one.double() - other).norm() <= 0.03 * other.norm()


@pytest.mark.parametrize("safe", [False, True])
def test_a_fused_adapter_is_merged_and_taken_out_as_pefts_is(safe: bool) -> None:
    plain = adapted(torch.float64, torch.float64)
    ours = copy.deepcopy(plain)
    fuse_lora(ours)
    before = [weight.clone() for weight in ours.parameters()]
    for model in (plain, ours):
        model.merge_adapter(safe_merge=safe)
    for found, expected in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    ours.unmerge_adapter()
    for found, expected in zip(ours.parameters(), before, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_on_nf4_weights_fused_lora_has_pefts_values_and_gradients() -> None:
    from bitsandbytes.nn import Linear4bit

    torch.manual_seed(0)
    layer = Linear4bit(64, 128, bias=False, compute_dtype=torch.float32, quant_type="nf4")
    layer.weight.data = torch.randn(128, 64)
    model = get_peft_model(torch.nn.Sequential(layer.to("cpu")), LoraConfig(r=4, target_modules=["0"]))
    torch.nn.init.normal_(model.get_submodule("base_model.model.0.lora_B.default").weight)
    ours = copy.deepcopy(model)
    fuse_lora(ours)
    assert ours.get_submodule("base_model.model.0").lora_variant == {"default": _FusedVariant}
    x = torch.randn(3, 5, 64)
    for found, expected in zip(output_and_gradients(ours, x), output_and_gradients(model, x), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


NF4 = ["model.device=auto", "model.quantize=nf4"]


@pytest.mark.parametrize(
    ("device", "dtype", "changes", "fused"),
    [
        ("cpu", torch.float32, [], True),
        ("cpu", torch.float32, NF4, False),
        ("cuda", torch.bfloat16, [], True),
        ("cuda", torch.bfloat16, NF4, True),
        ("cuda", torch.float16, [], False),
        ("cuda", torch.bfloat16, ["cuda.fused_lora=false"], False),
        ("cuda", torch.bfloat16, ["cpu.fused_lora=false"], True),
        ("cuda", torch.bfloat16, ["lora.dora=true"], False),
        ("cuda", torch.bfloat16, ["train.packing=none"], False),
    ],
)
def test_training_is_fused_or_else_under_autocast(
    device: str, dtype: torch.dtype, changes: list[str], fused: bool
) -> None:
    config = load_config(SMOKE, changes)
    assert fuses_lora(config, Hardware(device, dtype, ())) is fused


def test_the_gradient_agrees_with_finite_differences() -> None:
    tensors = [
        torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ((6, 5), (6, 3), (2, 3), (5, 2))
    ]
    assert torch.autograd.gradcheck(lambda *given: LoraProduct.apply(*given, 1.5), tensors)


def test_a_disabled_adapter_does_not_change_the_layer() -> None:
    model = adapted(torch.float64, torch.float64)
    fuse_lora(model)
    x = torch.randn(2, 12, dtype=torch.float64)
    with model.disable_adapter():
        plain = model(x)
    assert not torch.equal(plain, model(x))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.zero_()
    torch.testing.assert_close(model(x), plain)


def test_dora_is_left_to_peft_and_trains_in_bfloat16() -> None:
    model = adapted(torch.bfloat16, torch.float32, use_dora=True)
    ours = copy.deepcopy(model)
    fuse_lora(ours)
    x = torch.randn(9, 12).bfloat16()
    for found, expected in zip(output_and_gradients(ours, x), output_and_gradients(model, x), strict=True):
        torch.testing.assert_close(found, expected)
