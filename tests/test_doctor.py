"""The self-test of `toolhone doctor`: each fault that it looks for is planted once, and must be found."""

from __future__ import annotations

import copy
import sys
from typing import Any

import pytest
import torch

import toolhone.doctor as doctor_module
from toolhone.cli import main
from toolhone.errors import UserError
from toolhone.train.batches import TreeAttention, TreeCollator, tree_features
from toolhone.train.fused_lora import LoraProduct


def test_the_doctor_reports_no_failure_on_a_working_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert "FAIL" not in printed
    for line in ("packed gradients", "NF4 step", "cached generation", "torch", "memory", "cores", "disk", "model hub"):
        assert line in printed


@pytest.mark.parametrize(
    ("speedup", "said"),
    [(2.3, "bfloat16: yes: this CPU multiplies it 2.3 times as fast"), (0.5, "bfloat16: not used on this CPU")],
)
def test_the_doctor_says_whether_a_cpu_trains_in_bfloat16(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], speedup: float, said: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(doctor_module, "bfloat16_speedup", lambda: speedup)
    assert main(["doctor"]) == 0
    assert said in capsys.readouterr().out


def test_a_wrong_attention_mask_fails_the_check_of_gradients(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a plain causal mask, each token also sees the branches before its own."""
    from toolhone.train import attention

    def causal(ends: torch.Tensor, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        return keys <= queries[:, None]

    monkeypatch.setattr(attention, "visible", causal)
    assert main(["doctor"]) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if "packed gradients" in line]
    assert lines[0].strip().startswith("FAIL")
    assert "packing: none" in lines[0]


def test_a_gpu_checks_both_kinds_of_attention_in_the_blocks_that_it_trains_with() -> None:
    """One causal block and several with a mask."""
    names = [name for name, _ in doctor_module._self_tests("cuda")]
    assert names[:2] == ["packed gradients, blocks", "packed gradients, flex"]
    collator = TreeCollator(0, 4096, TreeAttention(device="cuda"))
    trees = collator([tree_features(row) for row in doctor_module._rows()])["tree_blocks"].within(None)
    assert [block.mask is None for block in trees.each] == [True, False, False]


def test_gradients_in_bfloat16_are_as_close_to_float32_as_those_of_rows_and_a_step_lowers_the_loss() -> None:
    assert "times the rounding error of plain rows; loss" in doctor_module.bfloat16_gradients("cpu")


def test_a_wrong_adapter_in_bfloat16_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    right = LoraProduct.forward

    def scaled(ctx: Any, result: Any, x: Any, a: Any, b: Any, scaling: float) -> Any:
        return right(ctx, result, x, a, b, scaling * 1.1)

    monkeypatch.setattr(LoraProduct, "forward", staticmethod(scaled))
    with pytest.raises(UserError, match="with the fused adapter, gradients differ from float32"):
        doctor_module.bfloat16_gradients("cpu")


def test_an_optimizer_that_does_not_lower_the_loss_in_bfloat16_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self: None)
    with pytest.raises(UserError, match=r"in a step of AdamW in bfloat16; set model\.dtype: float32"):
        doctor_module.bfloat16_gradients("cpu")


def test_a_failing_nf4_step_fails_its_check(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import bitsandbytes.nn

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no kernel image is available for this device")

    monkeypatch.setattr(bitsandbytes.nn.Linear4bit, "forward", broken)
    assert main(["doctor"]) == 1
    printed = capsys.readouterr().out
    assert any(line.strip().startswith("FAIL") and "no kernel image" in line for line in printed.splitlines())


def test_a_step_on_nf4_weights_that_does_not_lower_the_loss_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.optim.SGD, "step", lambda self: None)
    with pytest.raises(UserError, match="do not use quantize: nf4"):
        doctor_module.nf4_step("cpu")


def test_a_stale_cache_fails_the_check_of_generation(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The cache belongs to another prefix."""
    import toolhone.evaluate.decode as decode

    compute = decode.compute_prefix

    def stale(model: object, ids: list[int]) -> decode.Prefix:
        other = [(id_ + 1) % 256 for id_ in ids]
        return decode.Prefix(ids, copy.deepcopy(compute(model, other).cache))

    monkeypatch.setattr(doctor_module, "compute_prefix", stale)
    assert main(["doctor"]) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if "cached generation" in line]
    assert lines[0].strip().startswith("FAIL")


def test_a_missing_library_fails_its_check_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes.nn", None)
    assert main(["doctor"]) == 1
    assert "FAIL  NF4 step" in capsys.readouterr().out
