"""What only a GPU can show: each check of scripts/gpu_check.py as a test. The models have random weights.

`pytest -m gpu` runs them on a machine with a CUDA device.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import load_script

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; none is visible here"),
]

gpu_check = load_script("gpu_check")
Check = Callable[[Any], Any]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = tmp_path_factory.mktemp("gpu")
    for shape in ("tiny", "small", "llama-3.2-1b"):
        gpu_check.make_model(folder / "models" / shape, shape)
    return gpu_check.Place(folder, "cuda")


def out_of_bounds(check: Check, place: Any) -> list[dict[str, Any]]:
    figures = list(check(place))
    assert any("bound" in figure for figure in figures)
    return [figure for figure in figures if not figure.get("holds", True)]


def test_the_doctor_finds_no_fault(place: Any) -> None:
    assert out_of_bounds(gpu_check.check_doctor, place) == []


def test_gradients_of_a_tree_equal_those_of_its_rows_in_float32_and_are_as_close_in_bfloat16(place: Any) -> None:
    assert out_of_bounds(gpu_check.check_gradients, place) == []


def test_flex_attention_has_the_gradients_of_the_blocks_is_compiled_once_and_is_faster(place: Any) -> None:
    assert out_of_bounds(gpu_check.check_flex, place) == []


def test_a_training_on_4_bit_weights_with_the_paged_optimizer_lowers_the_loss(place: Any) -> None:
    assert out_of_bounds(gpu_check.check_nf4, place) == []


def test_answers_with_a_cached_prefix_equal_those_of_generate(place: Any) -> None:
    assert out_of_bounds(gpu_check.check_decoding, place) == []


def test_the_dry_run_expects_the_peak_memory(place: Any) -> None:
    assert out_of_bounds(gpu_check.check_memory, place) == []


def test_a_step_launches_few_kernels_and_rarely_waits(place: Any) -> None:
    assert out_of_bounds(gpu_check.check_launches, place) == []


def test_a_training_that_sigterm_stopped_resumes_at_its_step(place: Any) -> None:
    assert out_of_bounds(gpu_check.check_signal_and_resume, place) == []
