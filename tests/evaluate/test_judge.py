"""Judging a run folder: scores, metrics and report from its files alone, and only if they belong together."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from toolhone.errors import UserError
from toolhone.evaluate.judge import judge_run
from toolhone.jsonl import read_jsonl, write_jsonl
from toolhone.records import Score
from toolhone.run import RunFolder

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "query_order",
            "description": "",
            "parameters": {"type": "object", "properties": {"order_id": {"type": "string"}}, "required": ["order_id"]},
        },
    }
]
MANIFEST = {
    "toolhone": "0.0",
    "run": "small",
    "created": "2026-01-01T00:00:00+00:00",
    "git_commit": None,
    "seed": 7,
    "versions": {"torch": "2"},
    "chat": {"format": "hermes", "template": "toolhone", "template_hash": "0"},
    "judged": "test",
    "stages": {},
}


def call(order_id: str) -> str:
    return f'<tool_call>\n{{"name": "query_order", "arguments": {{"order_id": "{order_id}"}}}}\n</tool_call>'


def conversation(id: str, arguments: str | None) -> dict[str, Any]:
    """A question with its gold: a call with these arguments, or a plain answer."""
    function = {"name": "query_order", "arguments": arguments}
    turn = {"content": "Hello."} if arguments is None else {"tool_calls": [{"type": "function", "function": function}]}
    return {
        "id": id,
        "messages": [{"role": "user", "content": f"Question of {id}"}, {"role": "assistant", **turn}],
        "tools": TOOLS,
    }


def prediction(id: str, model: str, text: str) -> dict[str, Any]:
    return {
        "id": id,
        "model": model,
        "text": text,
        "finish_reason": "stop",
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "latency_ms": 1.0,
        "tokens": [],
    }


ROWS = [conversation("a", '{"order_id": "A1"}'), conversation("b", '{"order_id": "B2"}'), conversation("c", None)]
GOOD = {"a/1": call("A1"), "b/1": call("B2"), "c/1": "Hello."}


def answer(run: RunFolder, model: str, texts: dict[str, str]) -> None:
    write_jsonl(run.predictions(model), (prediction(id_, model, text) for id_, text in texts.items()))


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run of three rows: `base` has one of them right, `tuned` all."""
    run = RunFolder(tmp_path / "runs" / "small")
    write_jsonl(run.split("test"), ROWS)
    run.note(**MANIFEST)
    # In the file names' order the base model would not be first.
    answer(run, "adapted", GOOD)
    answer(run, "base", {"c/1": "Good day.", "b/1": call("B3"), "a/1": "<tool_call>{"})
    return run


def scores_of(run: RunFolder, model: str) -> list[Score]:
    return [Score.from_json(row) for _, row in read_jsonl(run.scores(model))]


def test_each_model_gets_scores_in_the_order_of_the_rows(run: RunFolder) -> None:
    judge_run(run)
    base, adapted = scores_of(run, "base"), scores_of(run, "adapted")
    assert [score.id for score in base] == [score.id for score in adapted] == ["a/1", "b/1", "c/1"]
    assert [score.status for score in base] == ["malformed", "calls", "none"]
    assert [score.exact for score in base] == [False, False, True]
    assert all(score.exact for score in adapted)
    assert base[1].question == "Question of b"


def test_metrics_are_returned_and_written_with_where_they_come_from(run: RunFolder) -> None:
    found = judge_run(run)
    assert found == json.loads(run.metrics.read_text(encoding="utf-8"))
    figures = {name: (model["exact_match"]["numerator"], model["rows"]) for name, model in found["models"].items()}
    assert figures == {"base": (1, 3), "adapted": (3, 3)}
    assert found["provenance"]["seed"] == 7
    assert found["provenance"]["chat"] == MANIFEST["chat"]
    assert found["provenance"]["quarantined"] == {}


def test_the_base_model_comes_first(run: RunFolder) -> None:
    answer(run, "zebra", GOOD)
    assert list(judge_run(run)["models"]) == ["base", "adapted", "zebra"]


def test_the_report_is_drawn(run: RunFolder) -> None:
    judge_run(run)
    assert "base 33.3% to adapted 100.0% exact match" in run.report.read_text(encoding="utf-8")
    assert "base 33.3% to adapted 100.0% exact match" in (run.path / "report.md").read_text(encoding="utf-8")


def test_the_split_that_the_manifest_names_is_judged(run: RunFolder) -> None:
    write_jsonl(run.split("validation"), ROWS[:1])
    run.note(judged="validation")
    for model in ("base", "adapted"):
        answer(run, model, {"a/1": GOOD["a/1"]})
    assert judge_run(run)["models"]["base"]["rows"] == 1


def test_the_format_that_the_manifest_names_is_read(run: RunFolder) -> None:
    run.note(chat={**MANIFEST["chat"], "format": "llama3"})
    answer(run, "adapted", {**GOOD, "a/1": '{"name": "query_order", "parameters": {"order_id": "A1"}}'})
    judge_run(run)
    assert [score.exact for score in scores_of(run, "adapted")] == [True, False, True]


def test_a_row_whose_gold_cannot_be_right_is_left_out_and_listed(run: RunFolder) -> None:
    write_jsonl(run.split("test"), [ROWS[0], conversation("b", '{"order_id": 2}'), ROWS[2]])
    found = judge_run(run)
    assert list(found["provenance"]["quarantined"]) == ["b/1"]
    assert "do not satisfy the tool's schema" in found["provenance"]["quarantined"]["b/1"]
    assert [score.id for score in scores_of(run, "adapted")] == ["a/1", "c/1"]
    assert {model["rows"] for model in found["models"].values()} == {2}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"a/1": "", "b/1": ""}, r"1 lack an answer, 0 are no such rows \(first: c/1\)"),
        ({**GOOD, "x/1": ""}, r"0 lack an answer, 1 are no such rows \(first: x/1\)"),
        ({"a/1": "", "c/1": "", "x/1": ""}, r"1 lack an answer, 1 are no such rows \(first: b/1\)"),
        ({}, r"3 lack an answer"),
    ],
    ids=["lacking", "foreign", "both", "none"],
)
def test_answers_to_other_rows_are_refused(run: RunFolder, texts: dict[str, str], message: str) -> None:
    answer(run, "adapted", texts)
    with pytest.raises(UserError, match=rf"adapted\.jsonl: does not answer the test rows .*{message}.*toolhone eval"):
        judge_run(run)
    assert not run.metrics.exists()


def test_a_row_that_is_answered_twice_is_refused(run: RunFolder) -> None:
    rows = [prediction(id_, "adapted", GOOD[id_]) for id_ in ("a/1", "b/1", "c/1", "a/1")]
    write_jsonl(run.predictions("adapted"), rows)
    with pytest.raises(UserError, match=r"adapted\.jsonl:4: a/1 is answered twice"):
        judge_run(run)


def test_a_run_without_predictions_says_what_makes_them(run: RunFolder) -> None:
    for path in run.predictions("base").parent.iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"runs/small: has no predictions yet; `toolhone train`"):
        judge_run(run)


def test_judging_loads_no_model_library(run: RunFolder) -> None:
    script = (
        "import sys; from pathlib import Path; from toolhone.run import RunFolder; "
        "from toolhone.evaluate.judge import judge_run; judge_run(RunFolder(Path(sys.argv[1]))); "
        "sys.exit(' '.join(sorted({'torch', 'transformers', 'tokenizers', 'peft', 'trl'} & set(sys.modules))) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(run.path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert run.metrics.is_file()
