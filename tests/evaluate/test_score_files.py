"""Reading scores from files: what each model is called, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from scored_run import scores_file

from toolhone.errors import UserError
from toolhone.evaluate.score import compare_files, read_score_files
from toolhone.jsonl import write_jsonl


def test_the_models_of_one_run_go_by_their_files_the_base_first(tmp_path: Path) -> None:
    for name in ("zebra", "adapted", "base"):
        scores_file(tmp_path / "run" / "scores" / f"{name}.jsonl", "10")
    assert list(read_score_files([tmp_path / "run"])) == ["base", "adapted", "zebra"]
    assert list(read_score_files([tmp_path / "run" / "scores"])) == ["base", "adapted", "zebra"]


def test_models_of_several_runs_go_by_their_run_too_where_names_meet(tmp_path: Path) -> None:
    for run in ("one", "two"):
        scores_file(tmp_path / run / "scores" / "tuned.jsonl", "10")
    alone = scores_file(tmp_path / "gpt.jsonl", "11")
    assert list(read_score_files([tmp_path / "one", alone])) == ["tuned", "gpt"]
    names = list(read_score_files([tmp_path / "one", tmp_path / "two", alone]))
    assert names == ["one/tuned", "two/tuned", f"{tmp_path.name}/gpt"]
    deep = scores_file(tmp_path / "more" / "one" / "scores" / "tuned.jsonl", "10")
    files = [tmp_path / "one" / "scores" / "tuned.jsonl", deep]
    assert list(read_score_files(files)) == list(map(str, files))


def test_what_holds_no_scores_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: holds no scores .*`toolhone score` makes scores"):
        compare_files([tmp_path / "empty"])
    with pytest.raises(UserError, match=r"absent\.jsonl: no such file"):
        compare_files([tmp_path / "absent.jsonl"])
    write_jsonl(tmp_path / "predictions.jsonl", [{"id": "a", "text": ""}])
    with pytest.raises(UserError, match=r"predictions\.jsonl:1: not a score .*`toolhone score` makes scores"):
        compare_files([tmp_path / "predictions.jsonl"])
    one = scores_file(tmp_path / "run" / "scores" / "one.jsonl", "1")
    with pytest.raises(UserError, match=r"one\.jsonl: is named twice"):
        compare_files([tmp_path / "run", one])
    with pytest.raises(UserError, match=r"^one and two cannot be compared.*1 are in two alone \(such as r1/1\)"):
        compare_files([one, scores_file(tmp_path / "two.jsonl", "11")])
