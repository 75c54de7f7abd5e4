"""What was measured of a model, from the files that predicting and scoring write."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from toolhone.economics.measured import has_model, measured_file, measured_run, training_examples
from toolhone.errors import UserError

CONTRACTS = Path(__file__).parents[1] / "fixtures" / "contracts"


def rows(path: Path, *changes: dict[str, object], of: str = "prediction") -> Path:
    row = json.loads((CONTRACTS / f"{of}.jsonl").read_text(encoding="utf-8"))
    path.write_text("".join(json.dumps({**row, **change}) + "\n" for change in changes), encoding="utf-8")
    return path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    shutil.copy(CONTRACTS / "metrics.json", tmp_path / "metrics.json")
    manifest = {"hardware": "CPU, 2 threads", "data": {"train": {"rows": 3, "examples": 7}}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return tmp_path


def test_predictions_give_mean_tokens_and_throughput(tmp_path: Path) -> None:
    file = rows(
        tmp_path / "a.jsonl",
        {"prompt_tokens": 100, "completion_tokens": 10, "latency_ms": 40.0},
        {"prompt_tokens": 300, "completion_tokens": 30, "latency_ms": 60.0},
    )
    found = measured_file(file)
    assert (found.rows, found.prompt_tokens, found.completion_tokens) == (2, 200, 20)
    assert found.calls_per_second == pytest.approx(2 / 0.1)
    assert found.accuracy is None


def test_scores_give_accuracy_too(tmp_path: Path) -> None:
    file = rows(tmp_path / "a.jsonl", {"exact": True}, {"exact": True}, {"exact": False}, of="score")
    assert measured_file(file).accuracy == pytest.approx(2 / 3)


def test_a_run_gives_its_last_models_figures_and_its_hardware(run: Path) -> None:
    found = measured_run(run)
    assert (found.rows, found.right, found.hardware) == (1, 0, "CPU, 2 threads")
    assert found.interval == pytest.approx((0.0, 0.7934506856))
    assert found.prompt_tokens == 512
    assert training_examples(run) == 7
    assert has_model(run, "tuned")
    assert not has_model(run, "base")


def test_no_time_means_no_throughput(tmp_path: Path) -> None:
    assert measured_file(rows(tmp_path / "a.jsonl", {"latency_ms": 0})).calls_per_second is None


@pytest.mark.parametrize("value", [None, "12", True, -1])
def test_a_row_without_a_count_is_told_with_its_line(tmp_path: Path, value: object) -> None:
    file = rows(tmp_path / "a.jsonl", {}, {"prompt_tokens": value})
    with pytest.raises(UserError, match=r"a\.jsonl:2: prompt_tokens: expected a number"):
        measured_file(file)


def test_no_rows_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").touch()
    with pytest.raises(UserError, match="holds no rows"):
        measured_file(tmp_path / "a.jsonl")


def test_an_unknown_model_is_told_with_those_there_are(run: Path) -> None:
    with pytest.raises(UserError, match="has no model large; it has tuned"):
        measured_run(run, "large")


def test_a_missing_or_foreign_metrics_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"metrics\.json: no such file"):
        measured_run(tmp_path)
    (tmp_path / "metrics.json").write_text('{"models": {"tuned": {"rows": 3}}}', encoding="utf-8")
    with pytest.raises(UserError, match=r"models\.tuned: .* missing"):
        measured_run(tmp_path)
    (tmp_path / "metrics.json").write_text("[]", encoding="utf-8")
    with pytest.raises(UserError, match="expected at least one model"):
        measured_run(tmp_path)


def test_a_manifest_without_examples_says_nothing(run: Path) -> None:
    (run / "manifest.json").write_text('{"data": []}', encoding="utf-8")
    assert training_examples(run) is None
