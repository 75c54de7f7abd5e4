"""Scoring a run folder or files: scores, metrics and report. Files that do not belong together are refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from loopback import serving
from rich.console import Console
from scored_run import scores_file

from toolhone.data.importers.openai import conversation as as_conversation
from toolhone.data.read import read_conversations, read_tools, turns
from toolhone.errors import UserError
from toolhone.evaluate.predict_endpoint import EndpointSettings, predict_endpoint
from toolhone.evaluate.score import compare_files, read_score_files, score_files, score_run
from toolhone.evaluate.values import BFCL
from toolhone.jsonl import read_jsonl, write_json, write_jsonl
from toolhone.records import Score
from toolhone.report.report import write_report
from toolhone.run_folder import RunFolder

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
    """A question and its gold: a call with these arguments, or a plain answer."""
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


CUSTOMER_SERVICE = Path(__file__).parents[2] / "data" / "customer_service"


def test_a_model_that_always_calls_in_another_syntax_gets_nothing_right(tmp_path: Path) -> None:
    rows = list(read_conversations(CUSTOMER_SERVICE / "test.jsonl", read_tools(CUSTOMER_SERVICE / "tools.json")))
    examples = turns(rows)
    texts = {
        "lfm2": "<|tool_call_start|>[cancel_order(order_id='1')]<|tool_call_end|>",
        "python": "cancel_order(order_id='1')",
        "glm4": 'cancel_order\n{"order_id": "1"}',
    }
    named = {"lfm2": "LFM2 <|tool_call_start|>", "python": "a Python call of cancel_order", "glm4": "GLM-4's JSON"}
    files = []
    for model, text in texts.items():
        files.append(tmp_path / f"{model}.jsonl")
        write_jsonl(files[-1], (prediction(example.id, model, text) for example in examples))
    found = score_files(files, rows, "test.jsonl", tmp_path / "out", "hermes")
    for model in texts:
        figures = found["models"][model]
        assert (figures["exact_match"]["numerator"], figures["exact_match"]["denominator"]) == (0, len(examples))
        assert figures["malformed"]["numerator"] == len(examples) > 200
        scores = [row for _, row in read_jsonl(tmp_path / "out" / "scores" / f"{model}.jsonl")]
        assert {row["status"] for row in scores} == {"malformed"}
        assert all(row["failure"].startswith(f"a call in another format ({named[model]}") for row in scores)


@pytest.mark.parametrize("end", [-1, 7, 1.5, True, "2"])
def test_a_prediction_whose_prose_ends_outside_its_text_is_refused(tmp_path: Path, end: Any) -> None:
    path = tmp_path / "m.jsonl"
    write_jsonl(path, [{**prediction(id_, "m", "Hello."), "prose_end": end} for id_ in GOOD])
    rows = [as_conversation(row, "rows.jsonl:1", ()) for row in ROWS]
    with pytest.raises(UserError, match=r"m\.jsonl:1: expected \"prose_end\" .* from 0 to .* 6, found "):
        score_files([path], rows, "rows.jsonl", tmp_path / "out", "hermes")


ROWS = [conversation("a", '{"order_id": "A1"}'), conversation("b", '{"order_id": "B2"}'), conversation("c", None)]
GOOD = {"a/1": call("A1"), "b/1": call("B2"), "c/1": "Hello."}


def answer(run: RunFolder, model: str, texts: dict[str, str]) -> None:
    write_jsonl(run.predictions(model), (prediction(id_, model, text) for id_, text in texts.items()))


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run of three rows: `base` has one of them right, `adapted` all."""
    run = RunFolder(tmp_path / "runs" / "small")
    write_jsonl(run.split("test"), ROWS)
    run.note(**MANIFEST)
    # Alphabetical order would not put the base model first.
    answer(run, "adapted", GOOD)
    answer(run, "base", {"c/1": "Good day.", "b/1": call("B3"), "a/1": "<tool_call>{"})
    return run


def scores_of(run: RunFolder, model: str) -> list[Score]:
    return [Score.from_json(row) for _, row in read_jsonl(run.scores(model))]


def test_each_model_gets_scores_in_the_order_of_the_rows(run: RunFolder) -> None:
    score_run(run)
    base, adapted = scores_of(run, "base"), scores_of(run, "adapted")
    assert [score.id for score in base] == [score.id for score in adapted] == ["a/1", "b/1", "c/1"]
    assert [score.status for score in base] == ["malformed", "calls", "none"]
    assert [score.exact for score in base] == [False, False, True]
    assert all(score.exact for score in adapted)
    assert base[1].question == "Question of b"


def test_metrics_are_returned_and_written_with_their_provenance(run: RunFolder) -> None:
    found = score_run(run)
    assert found == json.loads(run.metrics.read_text(encoding="utf-8"))
    figures = {name: (model["exact_match"]["numerator"], model["rows"]) for name, model in found["models"].items()}
    assert figures == {"base": (1, 3), "adapted": (3, 3)}
    assert found["provenance"]["seed"] == 7
    assert found["provenance"]["chat"] == MANIFEST["chat"]
    assert found["provenance"]["quarantined"] == {}


def test_the_base_model_comes_first(run: RunFolder) -> None:
    answer(run, "zebra", GOOD)
    assert list(score_run(run)["models"]) == ["base", "adapted", "zebra"]


def test_the_report_shows_the_scores(run: RunFolder) -> None:
    score_run(run)
    write_report(run.path)
    assert "base 33.3% to adapted 100.0% exact match" in run.report.read_text(encoding="utf-8")
    assert "base 33.3% to adapted 100.0% exact match" in (run.path / "report.md").read_text(encoding="utf-8")


def test_scoring_uses_the_split_named_in_the_manifest(run: RunFolder) -> None:
    write_jsonl(run.split("validation"), ROWS[:1])
    run.note(judged="validation")
    for model in ("base", "adapted"):
        answer(run, model, {"a/1": GOOD["a/1"]})
    assert score_run(run)["models"]["base"]["rows"] == 1


def test_scoring_uses_the_format_named_in_the_manifest(run: RunFolder) -> None:
    run.note(chat={**MANIFEST["chat"], "format": "llama3"})
    answer(run, "adapted", {**GOOD, "a/1": '{"name": "query_order", "parameters": {"order_id": "A1"}}'})
    score_run(run)
    assert [score.exact for score in scores_of(run, "adapted")] == [True, False, True]


def test_a_row_whose_gold_no_call_satisfies_is_left_out_and_listed(run: RunFolder) -> None:
    write_jsonl(run.split("test"), [ROWS[0], conversation("b", '{"order_id": 2}'), ROWS[2]])
    found = score_run(run)
    assert list(found["provenance"]["quarantined"]) == ["b/1"]
    assert "do not satisfy the tool's schema" in found["provenance"]["quarantined"]["b/1"]
    assert [score.id for score in scores_of(run, "adapted")] == ["a/1", "c/1"]
    assert {model["rows"] for model in found["models"].values()} == {2}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"a/1": "", "b/1": ""}, r"1 lack an answer, 0 are other rows \(first: c/1\)"),
        ({**GOOD, "x/1": ""}, r"0 lack an answer, 1 are other rows \(first: x/1\)"),
        ({"a/1": "", "c/1": "", "x/1": ""}, r"1 lack an answer, 1 are other rows \(first: b/1\)"),
        ({}, r"3 lack an answer"),
    ],
    ids=["lacking", "foreign", "both", "none"],
)
def test_predictions_for_other_rows_are_refused(run: RunFolder, texts: dict[str, str], message: str) -> None:
    answer(run, "adapted", texts)
    with pytest.raises(UserError, match=rf"adapted\.jsonl: does not answer the test rows .*{message}.*toolhone eval"):
        score_run(run)
    assert not run.metrics.exists()


def test_a_row_that_is_answered_twice_is_refused(run: RunFolder) -> None:
    rows = [prediction(id_, "adapted", GOOD[id_]) for id_ in ("a/1", "b/1", "c/1", "a/1")]
    write_jsonl(run.predictions("adapted"), rows)
    with pytest.raises(UserError, match=r"adapted\.jsonl:4: a/1 is answered twice"):
        score_run(run)


def test_the_error_without_predictions_says_how_to_make_them(run: RunFolder) -> None:
    for path in run.predictions("base").parent.iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"runs/small: has no predictions yet; `toolhone train`"):
        score_run(run)


def test_scoring_loads_no_model_library(run: RunFolder) -> None:
    script = (
        "import sys; from pathlib import Path; from toolhone.run_folder import RunFolder; "
        "from toolhone.evaluate.score import score_run; score_run(RunFolder(Path(sys.argv[1]))); "
        "sys.exit(' '.join(sorted({'torch', 'transformers', 'tokenizers', 'peft', 'trl'} & set(sys.modules))) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(run.path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert run.metrics.is_file()


def test_models_are_compared(run: RunFolder) -> None:
    entry = score_run(run)["compare"][0]
    assert (entry["first"], entry["second"], entry["measure"], entry["value"]) == (
        *("base", "adapted", "exact_match"),
        pytest.approx(2 / 3),
    )
    assert entry["mcnemar"] == {"first_only": 0, "second_only": 2, "p_value": 0.5}


def test_seen_and_unseen_tools_have_separate_figures(run: RunFolder) -> None:
    assert "seen" not in score_run(run)["models"]["adapted"]["by"]
    write_jsonl(run.split("train"), [conversation("t", None)])
    seen = score_run(run)["models"]["adapted"]["by"]["seen"]
    assert {name: group["exact_match"]["denominator"] for name, group in seen.items()} == {"unseen": 2, "unstated": 1}
    write_jsonl(run.split("train"), [conversation("t", '{"order_id": "T"}')])
    seen = score_run(run)["models"]["adapted"]["by"]["seen"]
    assert {name: group["exact_match"]["denominator"] for name, group in seen.items()} == {"seen": 2, "unstated": 1}


def test_the_policy_applies_to_gold_and_answers(run: RunFolder) -> None:
    answer(run, "adapted", {**GOOD, "a/1": call("a 1"), "c/1": "<tool_call>{"})
    assert score_run(run)["models"]["adapted"]["exact_match"]["numerator"] == 1
    found = score_run(run, BFCL)
    assert found["models"]["adapted"]["exact_match"]["numerator"] == 3
    assert found["models"]["adapted"]["rules"] == {"spelling": 1, "unreadable-as-none": 1}
    assert found["provenance"]["policy"] == "bfcl"
    write_report(run.path)
    assert "Scored under the policy bfcl" in run.report.read_text(encoding="utf-8")
    # BFCL's checker does not compare gold with the schema's enum.
    tools = json.loads(json.dumps(TOOLS))
    tools[0]["function"]["parameters"]["properties"]["order_id"]["enum"] = ["other"]
    write_jsonl(run.split("test"), [{**row, "tools": tools} for row in ROWS])
    assert score_run(run, BFCL)["provenance"]["quarantined"] == {}
    assert list(score_run(run)["provenance"]["quarantined"]) == ["a/1", "b/1"]


def test_rows_that_an_endpoint_refused_are_excluded_for_every_model_and_listed(run: RunFolder) -> None:
    answer(run, "large", {"a/1": GOOD["a/1"], "c/1": GOOD["c/1"]})
    note = run.predictions("large").with_suffix(".json")
    write_json(note, {"left_out": {"b/1": "withheld", "c/1": "since answered"}})
    found = score_run(run)
    assert {name: model["rows"] for name, model in found["models"].items()} == {"base": 2, "adapted": 2, "large": 2}
    assert found["provenance"]["refused"] == {"large": {"b/1": "withheld"}}
    assert [score.id for score in scores_of(run, "adapted")] == ["a/1", "c/1"]
    write_report(run.path)
    page = run.report.read_text(encoding="utf-8")
    assert "1 test row is excluded from the figures of every model: the endpoint of large refused to answer." in page
    assert "b/1: withheld" in page
    answer(run, "large", {"a/1": GOOD["a/1"]})
    write_json(note, {"left_out": {"b/1": "withheld"}})
    with pytest.raises(UserError, match=r"large\.jsonl: .* 1 lack an answer, 0 are other rows \(first: c/1\)"):
        score_run(run)


def test_predict_and_score_leave_out_the_rows_that_an_endpoint_refuses(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answered(body: dict[str, Any]) -> tuple[int, Any]:
        if "Question of b" in str(body):
            return 400, {"error": {"message": "not this one"}}
        message = {"role": "assistant", "content": "Hello."}
        choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
        usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
        head = {"id": "x", "object": "chat.completion", "created": 0, "model": "m"}
        return 200, {**head, "choices": [choice], "usage": usage}

    with serving(answered, monkeypatch) as server:
        settings = EndpointSettings(model="m", base_url=server.url, leave_out_refused=True)
        rows = turns(read_conversations(run.split("test")))
        predict_endpoint(rows, "large", settings, run.predictions("large"), Console(quiet=True))
    found = score_run(run)
    assert list(found["provenance"]["refused"]["large"]) == ["b/1"]
    assert "not this one" in found["provenance"]["refused"]["large"]["b/1"]
    assert found["models"]["large"]["exact_match"]["numerator"] == 1
    assert {model["rows"] for model in found["models"].values()} == {2}


# Predictions in files, without a run


def score_answers(
    folder: Path, answers: dict[str, list[dict[str, Any]]], rows: list[dict[str, Any]] = ROWS
) -> dict[str, Any]:
    """Score each list of predictions as a file named after its key; writes to folder/scored."""
    write_jsonl(folder / "rows.jsonl", rows)
    for name, lines in answers.items():
        write_jsonl(folder / f"{name}.jsonl", lines)
    files = [folder / f"{name}.jsonl" for name in answers]
    return score_files(
        files, list(read_conversations(folder / "rows.jsonl")), "rows.jsonl", folder / "scored", "hermes"
    )


def answers(texts: dict[str, str] = GOOD, **changed: Any) -> list[dict[str, Any]]:
    return [{**prediction(id_, "x", text), **changed} for id_, text in texts.items()]


def test_prediction_files_get_the_same_scores_as_in_a_run(run: RunFolder, tmp_path: Path) -> None:
    lines = {path.stem: [row for _, row in read_jsonl(path)] for path in (run.path / "predictions").iterdir()}
    found = score_answers(tmp_path, {"base": lines["base"], "adapted": lines["adapted"]})
    of_run = score_run(run)
    assert (found["models"], found["compare"]) == (of_run["models"], of_run["compare"])
    written = RunFolder(tmp_path / "scored")
    assert scores_of(written, "base") == scores_of(run, "base")
    assert json.loads(written.metrics.read_text(encoding="utf-8")) == found
    assert found["provenance"]["quarantined"] == {}


def test_a_prediction_may_have_the_id_of_its_conversation_and_no_tokens(tmp_path: Path) -> None:
    lines = answers({id_.partition("/")[0]: text for id_, text in GOOD.items()})
    for line in lines:
        del line["tokens"]
    assert score_answers(tmp_path, {"m": lines})["models"]["m"]["exact_match"]["numerator"] == 3


def test_a_conversation_of_two_turns_needs_an_answer_to_each_turn(tmp_path: Path) -> None:
    two = conversation("d", '{"order_id": "D1"}')
    two["messages"] += [{"role": "user", "content": "Thanks"}, {"role": "assistant", "content": "Goodbye."}]
    two["messages"][1]["tool_calls"][0]["id"] = "1"
    two["messages"].insert(2, {"role": "tool", "tool_call_id": "1", "content": "sent"})
    with pytest.raises(UserError, match=r"2 lack an answer, 1 are other rows \(first: d/1\)"):
        score_answers(tmp_path, {"m": answers({"d": call("D1")})}, [two])
    assert (
        score_answers(tmp_path, {"m": answers({"d/1": call("D1"), "d/4": "Bye."})}, [two])["models"]["m"]["rows"] == 2
    )


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (answers({"a/1": ""}), r"m\.jsonl: does not answer the rows of rows\.jsonl: 2 lack an answer"),
        (answers() + answers(), r"m\.jsonl:4: a/1 is answered twice"),
        (answers(text=None), r'm\.jsonl:1: expected "text" to be a text, found NoneType'),
        (answers(finish_reason="tool_calls"), r"expected \"finish_reason\" to be stop or length, found 'tool_calls'"),
        (answers(latency_ms="1"), r'expected "latency_ms" to be a number, found str'),
        (answers(cost=1), r"m\.jsonl:1: is not a prediction: cost unknown; expected id, model, text"),
        (
            [{"id": "a/1", "text": ""}],
            r"is not a prediction: completion_tokens, finish_reason, latency_ms, model, prompt_",
        ),
    ],
    ids=["lacking", "twice", "null-text", "finish-reason", "latency", "unknown-key", "absent-keys"],
)
def test_files_that_do_not_answer_the_rows_are_refused(
    tmp_path: Path, lines: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        score_answers(tmp_path, {"m": lines})
    assert not (tmp_path / "scored").exists()


def test_rows_that_share_an_id_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"rows\.jsonl:2: a/1 is also the id at .*rows\.jsonl:1; give each row"):
        score_answers(tmp_path, {"m": answers()}, [ROWS[0], ROWS[0]])


def test_an_output_folder_whose_files_would_be_overwritten_is_refused(run: RunFolder, tmp_path: Path) -> None:
    run.config.write_text("name: small\n", encoding="utf-8")
    rows = list(read_conversations(run.split("test")))
    with pytest.raises(UserError, match=r"^--out .*small: is a run folder"):
        score_files([run.predictions("base")], rows, "test.jsonl", run.path, "hermes")
    write_jsonl(tmp_path / "scores" / "m.jsonl", answers())
    with pytest.raises(UserError, match=r"scores/m\.jsonl would be overwritten"):
        score_files([tmp_path / "scores" / "m.jsonl"], rows, "test.jsonl", tmp_path, "hermes")
    with pytest.raises(UserError, match=r"another file is also named m\.jsonl"):
        score_files([tmp_path / "m.jsonl", tmp_path / "scores" / "m.jsonl"], rows, "test.jsonl", tmp_path, "hermes")


def test_models_of_one_run_are_named_after_their_files_base_first(tmp_path: Path) -> None:
    for name in ("zebra", "adapted", "base"):
        scores_file(tmp_path / "run" / "scores" / f"{name}.jsonl", "10")
    assert list(read_score_files([tmp_path / "run"])) == ["base", "adapted", "zebra"]
    assert list(read_score_files([tmp_path / "run" / "scores"])) == ["base", "adapted", "zebra"]


def test_models_of_several_runs_are_prefixed_with_the_run_if_names_clash(tmp_path: Path) -> None:
    for run in ("one", "two"):
        scores_file(tmp_path / run / "scores" / "tuned.jsonl", "10")
    alone = scores_file(tmp_path / "gpt.jsonl", "11")
    assert list(read_score_files([tmp_path / "one", alone])) == ["tuned", "gpt"]
    names = list(read_score_files([tmp_path / "one", tmp_path / "two", alone]))
    assert names == ["one/tuned", "two/tuned", f"{tmp_path.name}/gpt"]
    deep = scores_file(tmp_path / "more" / "one" / "scores" / "tuned.jsonl", "10")
    files = [tmp_path / "one" / "scores" / "tuned.jsonl", deep]
    assert list(read_score_files(files)) == list(map(str, files))


def test_files_without_scores_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: has no scores .*run `toolhone score`"):
        compare_files([tmp_path / "empty"])
    with pytest.raises(UserError, match=r"absent\.jsonl: no such file"):
        compare_files([tmp_path / "absent.jsonl"])
    write_jsonl(tmp_path / "predictions.jsonl", [{"id": "a", "text": ""}])
    with pytest.raises(UserError, match=r"predictions\.jsonl:1: not a score .*run `toolhone score`"):
        compare_files([tmp_path / "predictions.jsonl"])
    one = scores_file(tmp_path / "run" / "scores" / "one.jsonl", "1")
    with pytest.raises(UserError, match=r"one\.jsonl: is named twice"):
        compare_files([tmp_path / "run", one])
    with pytest.raises(UserError, match=r"^one and two cannot be compared.*1 are in two alone \(such as r1/1\)"):
        compare_files([one, scores_file(tmp_path / "two.jsonl", "11")])
