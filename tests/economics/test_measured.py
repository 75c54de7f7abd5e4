"""Figures measured on a model, from the files of a run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from toolhone.economics.measured import find_model, measured_inputs, measured_run
from toolhone.errors import UserError

CONTRACTS = Path(__file__).parents[1] / "fixtures" / "contracts"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    shutil.copy(CONTRACTS / "metrics.json", tmp_path / "metrics.json")
    manifest = {"hardware": "CPU, 2 threads", "data": {"train": {"rows": 3, "examples": 7}}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return tmp_path


def test_a_run_gives_the_tuned_models_figures_and_its_hardware(run: Path) -> None:
    found = measured_run(run)
    assert (found.rows, found.right, found.hardware) == (1, 0, "CPU, 2 threads")
    assert found.interval == pytest.approx((0.0, 0.7934506856))
    assert found.prompt_tokens == 512
    assert measured_inputs(run, "gpt-4o", "none")[0]["examples"] == (7, f"counted: training examples of {run}")
    assert find_model(run, "tuned") == found
    assert find_model(run, "base") is None


def test_without_a_recorded_time_there_is_no_throughput(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    metrics["models"]["tuned"]["latency_ms"] = {"total": 0}
    (run / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    assert measured_run(run).calls_per_second is None


def test_an_unknown_model_is_reported_with_the_known_ones(run: Path) -> None:
    with pytest.raises(UserError, match="has no model large; it has tuned"):
        measured_run(run, "large")


def test_a_missing_or_invalid_metrics_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"metrics\.json: no such file"):
        measured_run(tmp_path)
    (tmp_path / "metrics.json").write_text('{"models": {"tuned": {"rows": 3}}}', encoding="utf-8")
    with pytest.raises(UserError, match=r"models\.tuned: .* missing"):
        measured_run(tmp_path)
    (tmp_path / "metrics.json").write_text("[]", encoding="utf-8")
    with pytest.raises(UserError, match="expected at least one model"):
        measured_run(tmp_path)


def test_a_manifest_without_examples_gives_no_examples(run: Path) -> None:
    (run / "manifest.json").write_text('{"data": []}', encoding="utf-8")
    assert "examples" not in measured_inputs(run, "gpt-4o", "none")[0]
