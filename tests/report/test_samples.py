"""Samples in lm-evaluation-harness's layout have the fields that its evaluator logs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from toolhone.report.report import write_report

FIELDS = [
    "doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics", "doc_hash", "prompt_hash",
    "target_hash",
]  # fmt: skip
"""The keys of a logged sample in `lm_eval.evaluator`, 0.4.9; the keys of its metrics follow."""

WRONG = '<tool_call>\n{"name": "query_order", "arguments": {"order_id": "ORD-010"}}\n</tool_call>'
ANSWERS = {
    "base": ["我不知道", "right", '<tool_call>\n{"name": "query_or'],
    "tuned": ["right", WRONG, "right"],
}

ScoredRun = Callable[..., Path]


def _samples(run: Path, model: str) -> list[dict[str, Any]]:
    write_report(run)
    [path] = (run / "samples" / model).glob("samples_*.jsonl")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_sample_has_the_harness_s_fields_and_then_its_metrics(tmp_path: Path, scored_run: ScoredRun) -> None:
    rows = _samples(scored_run(tmp_path, ANSWERS), "base")
    for number, row in enumerate(rows):
        assert list(row) == [*FIELDS, *row["metrics"]]
        assert row["doc_id"] == number
        assert row["doc"]["id"] == f"r{number}/2"
        assert json.loads(row["target"])["calls"] == [
            {"name": "query_order", "arguments": {"order_id": [f"ORD-00{number}"]}}
        ]
    assert [row["exact_match"] for row in rows] == [0.0, 1.0, 0.0]
    assert [row["resps"][0][0] for row in rows][0::2] == ANSWERS["base"][0::2]
    assert [row["filtered_resps"] for row in rows] == [
        ["[]"],
        ['[{"name": "query_order", "arguments": {"order_id": "ORD-001"}}]'],
        [ANSWERS["base"][2]],
    ]


def test_the_mean_of_a_sample_s_metric_is_the_figure_in_metrics_json(tmp_path: Path, scored_run: ScoredRun) -> None:
    run = scored_run(tmp_path, ANSWERS)
    found = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["models"]
    for model in ANSWERS:
        rows = _samples(run, model)
        for metric in rows[0]["metrics"]:
            assert sum(row[metric] for row in rows) / len(rows) == found[model][metric]["value"]


def test_document_prompt_and_target_are_hashed_as_the_harness_does(tmp_path: Path, scored_run: ScoredRun) -> None:
    for row in _samples(scored_run(tmp_path, ANSWERS), "tuned"):
        texts = {
            "doc_hash": json.dumps(row["doc"], indent=2, ensure_ascii=False),
            "prompt_hash": row["arguments"]["gen_args_0"]["arg_0"],
            "target_hash": row["target"],
        }
        assert {key: row[key] for key in texts} == {
            key: hashlib.sha256(text.encode()).hexdigest() for key, text in texts.items()
        }


def test_the_prompt_is_all_messages_before_the_answer_or_the_question_without_a_split(
    tmp_path: Path, scored_run: ScoredRun
) -> None:
    run = scored_run(tmp_path, ANSWERS)
    [first, *_] = _samples(run, "tuned")
    user = {"role": "user", "content": "帮我查订单 ORD-000"}
    assert first["doc"]["messages"] == [{"role": "system", "content": "你是客服"}, user]
    assert json.loads(first["arguments"]["gen_args_0"]["arg_0"]) == first["doc"]["messages"]
    assert "你是客服" in (run / "report.html").read_text(encoding="utf-8")
    (run / "splits" / "test.jsonl").unlink()
    assert _samples(run, "tuned")[0]["doc"]["messages"] == [user]
    assert "你是客服" not in (run / "report.html").read_text(encoding="utf-8")


def test_an_answer_with_a_lone_surrogate_is_hashed_and_written(tmp_path: Path, scored_run: ScoredRun) -> None:
    [row] = _samples(scored_run(tmp_path, {"tuned": ["\ud800 right"]}), "tuned")
    assert row["resps"] == [["\ud800 right"]]


def test_the_file_name_has_task_and_date_and_a_later_evaluation_replaces_the_file(
    tmp_path: Path, scored_run: ScoredRun
) -> None:
    for hour in ("10", "11"):
        stage = {"finished": f"2025-11-02T{hour}:21:07+00:00"}
        run = scored_run(tmp_path / "my run", {"tuned": ["right"]}, stages={"predict:tuned": stage})
        write_report(run)
    names = [path.name for path in (run / "samples" / "tuned").iterdir()]
    assert names == ["samples_my_run_test_2025-11-02T11-21-07.jsonl"]
