"""scripts/gpu_check.py without a GPU: how it reports steps, and the steps themselves with tiny models on a CPU."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import load_script

gpu_check = load_script("gpu_check")
HERE = gpu_check.Place(Path(), "cpu")


def run(check: Any) -> dict[str, Any]:
    result: dict[str, Any] = gpu_check.run_step(gpu_check.Step("a step", check, 1), HERE)
    return result


def test_without_a_gpu_it_says_so_in_one_line_and_writes_nothing(
    in_workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_check.main([]) == 2
    assert capsys.readouterr().out.count("\n") == 1
    assert not list(in_workspace.iterdir())


def test_a_figure_beyond_its_bound_fails_its_step() -> None:
    def check(_: Any) -> Iterator[dict[str, Any]]:
        yield gpu_check.at_most("error", 2.0, 1.0)
        yield gpu_check.at_least("speed", 2.0, 1.0)

    found = run(check)
    assert (found["result"], found["detail"]) == ("FAIL", "error")
    assert [figure["holds"] for figure in found["figures"]] == [False, True]


def test_a_step_that_raises_fails_with_its_figures_so_far_and_the_place_of_the_error() -> None:
    def check(_: Any) -> Iterator[dict[str, Any]]:
        yield gpu_check.at_most("error", 0.5, 1.0)
        raise RuntimeError("no kernel image is available")

    found = run(check)
    assert found["result"] == "FAIL"
    assert found["detail"].startswith("RuntimeError: no kernel image is available (test_gpu_check.py:")
    assert len(found["figures"]) == 1


def test_a_step_that_cannot_run_here_is_skipped_with_the_reason() -> None:
    found = run(gpu_check.check_flex)
    assert found["result"] == "skipped"
    assert "backward pass on a CPU" in found["detail"]


def test_nan_holds_no_bound() -> None:
    assert not gpu_check.at_most("error", float("nan"), 1.0)["holds"]
    assert not gpu_check.at_least("speed", float("nan"), 1.0)["holds"]


def test_a_step_that_takes_too_long_is_stopped() -> None:
    assert gpu_check.start_child(["--child", "1", "--cpu"], 0.2) == "took longer than 0 s"


def test_answers_may_differ_only_after_two_tokens_that_are_equally_likely() -> None:
    def answer(runner_up: float) -> SimpleNamespace:
        return SimpleNamespace(ids=[5, 6, 7], logprobs=[-1.0, -1.0, -1.0], runner_ups=[-3.0, runner_up, -3.0])

    assert gpu_check.same_answer(answer(-2.0), [5, 6, 7])
    assert not gpu_check.same_answer(answer(-2.0), [5, 9, 7])
    assert gpu_check.same_answer(answer(-1.00001), [5, 9, 7])
    assert not gpu_check.same_answer(answer(-2.0), [5, 6])


@pytest.mark.slow
def test_its_steps_run_on_a_cpu_with_tiny_models(in_workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps = (2, 3, 5, 6, 8, 9)
    assert gpu_check.main(["--cpu", "--limit", "1000", "--step", *map(str, steps)]) == 0
    found = json.loads((in_workspace / "gpu_check.json").read_text(encoding="utf-8"))
    assert [(step["step"], step["result"]) for step in found["steps"]] == [(number, "pass") for number in steps]
    gradients = {figure["what"]: figure for figure in found["steps"][1]["figures"]}
    assert gradients["float32: tree against rows, relative"]["measured"] < 1e-5
    assert gradients["float32 with one token too many in view"]["measured"] > 1e-3
    assert "| 3 | gradients of a tree" in capsys.readouterr().out
