"""The benchmark of the data commands, on a few rows: every stage runs and loses no row."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

from toolhone.data.check import Survey
from toolhone.data.importers.openai import conversation

ROOT = Path(__file__).parent.parent
bench_data = SimpleNamespace(**runpy.run_path(str(ROOT / "scripts" / "bench_data.py")))


def test_generated_rows_have_1000_bytes_and_pass_the_check() -> None:
    survey = Survey()
    for number, row in enumerate(bench_data.generate(200), 1):
        assert abs(len(json.dumps(row)) + 1 - 1000) <= 2
        assert list(survey.row(conversation(row, f"rows.jsonl:{number}"))) == []


def test_every_stage_runs_in_its_own_process_and_loses_no_row(tmp_path: Path) -> None:
    found = bench_data.measure(tmp_path, 300)
    assert {stage: figures["rows"] for stage, figures in found["stages"].items()} == dict.fromkeys(
        ("read", "check", "write", "all", "split"), 300
    )
    assert found["findings"] == 0
    assert all(figures["peak_mb"] > 10 for figures in found["stages"].values())
    assert (tmp_path / "written.jsonl").read_bytes().count(b"\n") == 300


def test_the_benchmark_prints_a_table_and_writes_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = tmp_path / "data.json"
    monkeypatch.setattr("sys.argv", ["bench_data.py", "--rows", "50", "--json", str(figures)])
    assert bench_data.main() == 0
    assert "read, check and write" in capsys.readouterr().out
    assert json.loads(figures.read_text(encoding="utf-8"))["rows"] == 50
