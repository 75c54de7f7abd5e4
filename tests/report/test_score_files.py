"""Scores in files, compared and drawn: what each model is called, what is shown, and what is refused."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from toolhone.errors import UserError
from toolhone.jsonl import read_jsonl, write_jsonl
from toolhone.report.score_files import compare_files, models_table, pairs_table, read_score_files, report_scores

CONTRACTS = Path(__file__).parent.parent / "fixtures" / "contracts"
((_, ROW),) = read_jsonl(CONTRACTS / "score.jsonl")


def write(path: Path, outcomes: str, **changed: Any) -> Path:
    """A file of scores of rows r0/1, r1/1, ...: "1" is right."""
    rows = (
        {
            **ROW,
            "id": f"r{n}/1",
            "conversation_id": f"r{n}",
            "exact": right == "1",
            "names_right": right == "1",
            "meta": {},
            **changed,
        }
        for n, right in enumerate(outcomes)
    )
    write_jsonl(path, rows)
    return path


def shown(table: Any) -> str:
    out = io.StringIO()
    Console(file=out, width=200).print(table)
    return out.getvalue()


def test_the_models_of_one_run_go_by_their_files_the_base_first(tmp_path: Path) -> None:
    for name in ("zebra", "adapted", "base"):
        write(tmp_path / "run" / "scores" / f"{name}.jsonl", "10")
    assert list(read_score_files([tmp_path / "run"])) == ["base", "adapted", "zebra"]
    assert list(read_score_files([tmp_path / "run" / "scores"])) == ["base", "adapted", "zebra"]


def test_models_of_several_runs_go_by_their_run_too_where_names_meet(tmp_path: Path) -> None:
    for run in ("one", "two"):
        write(tmp_path / run / "scores" / "tuned.jsonl", "10")
    alone = write(tmp_path / "gpt.jsonl", "11")
    assert list(read_score_files([tmp_path / "one", alone])) == ["tuned", "gpt"]
    names = list(read_score_files([tmp_path / "one", tmp_path / "two", alone]))
    assert names == ["one/tuned", "two/tuned", f"{tmp_path.name}/gpt"]
    deep = write(tmp_path / "more" / "one" / "scores" / "tuned.jsonl", "10")
    files = [tmp_path / "one" / "scores" / "tuned.jsonl", deep]
    assert list(read_score_files(files)) == list(map(str, files))


def test_models_are_compared_over_runs_and_files(tmp_path: Path) -> None:
    write(tmp_path / "run" / "scores" / "base.jsonl", "1000110000")
    write(tmp_path / "run" / "scores" / "tuned.jsonl", "1111110100")
    found = compare_files([tmp_path / "run", write(tmp_path / "gpt.jsonl", "1111111111")])
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
    assert "10,000 folds over 10 conversations" in text


def test_one_model_has_figures_and_no_pairs(tmp_path: Path) -> None:
    found = compare_files([write(tmp_path / "gpt.jsonl", "1101")])
    assert "75.0%" in shown(models_table(found))
    assert pairs_table(found) is None


def test_agreement_is_never_called_accuracy(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{name}.jsonl", "10", gold_source="gpt-4o") for name in ("a", "b")]
    found = compare_files(files)
    text = shown(models_table(found)) + shown(pairs_table(found))
    assert "agreement with gpt-4o" in text
    assert "Exact agreement" in text
    assert "ccuracy" not in text
    assert {entry["agreement_with"] for entry in found["compare"]} == {"gpt-4o"}


def test_a_report_is_drawn_from_scores_alone(tmp_path: Path) -> None:
    files = [write(tmp_path / "base.jsonl", "1000110000"), write(tmp_path / "tuned.jsonl", "1111110100")]
    found = report_scores(files, tmp_path / "out" / "july.html")
    page = (tmp_path / "out" / "july.html").read_text(encoding="utf-8")
    assert "base 30.0% to tuned 70.0% exact match" in page
    assert "base 30.0% to tuned 70.0% exact match" in (tmp_path / "out" / "july.md").read_text(encoding="utf-8")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["july.html", "july.md"]
    assert json.loads(json.dumps(found)) == found
    with pytest.raises(UserError, match=r"^--out .*july: expected a file that ends in \.html"):
        report_scores(files, tmp_path / "july")


def test_what_holds_no_scores_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: holds no scores .*`toolhone score` makes scores"):
        compare_files([tmp_path / "empty"])
    with pytest.raises(UserError, match=r"absent\.jsonl: no such file"):
        compare_files([tmp_path / "absent.jsonl"])
    write_jsonl(tmp_path / "predictions.jsonl", [{"id": "a", "text": ""}])
    with pytest.raises(UserError, match=r"predictions\.jsonl:1: not a score .*`toolhone score` makes scores"):
        compare_files([tmp_path / "predictions.jsonl"])
    one = write(tmp_path / "run" / "scores" / "one.jsonl", "1")
    with pytest.raises(UserError, match=r"one\.jsonl: is named twice"):
        compare_files([tmp_path / "run", one])
    with pytest.raises(UserError, match=r"^one and two cannot be compared.*1 are in two alone \(such as r1/1\)"):
        compare_files([one, write(tmp_path / "two.jsonl", "11")])
