"""The terminal tables of runs and score files, and the report made from score files alone."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from scored_run import scores_file

from toolhone.errors import UserError
from toolhone.evaluate.score import compare_files
from toolhone.report.report import report_scores
from toolhone.report.tables import models_table, pairs_table


def shown(table: Any) -> str:
    out = io.StringIO()
    Console(file=out, width=200).print(table)
    return out.getvalue()


def test_models_of_run_folders_and_files_are_compared_together(tmp_path: Path) -> None:
    scores_file(tmp_path / "run" / "scores" / "base.jsonl", "1000110000")
    scores_file(tmp_path / "run" / "scores" / "tuned.jsonl", "1111110100")
    found = compare_files([tmp_path / "run", scores_file(tmp_path / "gpt.jsonl", "1111111111")])
    assert [(entry["first"], entry["second"]) for entry in found["compare"][::3]] == [
        ("base", "tuned"),
        ("base", "gpt"),
        ("tuned", "gpt"),
    ]
    text = shown(models_table(found))
    assert "3 models on the same 10 rows" in text
    assert "70.0% [39.7, 89.2] 7/10" in text
    text = shown(pairs_table(found))
    assert "+40.0 points [" in text
    assert "10,000 resamples of 10 conversations" in text


def test_a_single_model_has_figures_but_no_pairs(tmp_path: Path) -> None:
    found = compare_files([scores_file(tmp_path / "gpt.jsonl", "1101")])
    assert "75.0%" in shown(models_table(found))
    assert pairs_table(found) is None


def test_agreement_is_never_called_accuracy(tmp_path: Path) -> None:
    files = [scores_file(tmp_path / f"{name}.jsonl", "10", gold_source="gpt-4o") for name in ("a", "b")]
    found = compare_files(files)
    text = shown(models_table(found)) + shown(pairs_table(found))
    assert "agreement with gpt-4o" in text
    assert "Exact agreement" in text
    assert "ccuracy" not in text
    assert {entry["agreement_with"] for entry in found["compare"]} == {"gpt-4o"}


def test_a_report_can_be_made_from_score_files_alone(tmp_path: Path) -> None:
    files = [scores_file(tmp_path / "base.jsonl", "1000110000"), scores_file(tmp_path / "tuned.jsonl", "1111110100")]
    found = report_scores(files, tmp_path / "out" / "july.html")
    page = (tmp_path / "out" / "july.html").read_text(encoding="utf-8")
    assert "base 30.0% to tuned 70.0% exact match" in page
    assert "base 30.0% to tuned 70.0% exact match" in (tmp_path / "out" / "july.md").read_text(encoding="utf-8")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["july.html", "july.md"]
    assert json.loads(json.dumps(found)) == found
    with pytest.raises(UserError, match=r"^--out .*july: expected a file that ends in \.html"):
        report_scores(files, tmp_path / "july")
