"""Review: which turns are chosen for the sheet, what the page does, and how marks are applied to the data."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from toolhone.data.read import examples, read_conversations, read_source, read_tools
from toolhone.data.review import ReviewReport, apply_marks, read_marks
from toolhone.data.review_sample import Sampled, find_doubts, sample
from toolhone.errors import UserError
from toolhone.jsonl import write_jsonl
from toolhone.records import Conversation, Example, Message, Tool, ToolCall
from toolhone.report.review_sheet import write_sheet

FOLDER = Path(__file__).parents[3] / "data" / "customer_service"
FILES = Path(__file__).parents[3] / "src" / "toolhone" / "report" / "templates"
TOOLS = read_tools(FOLDER / "tools.json")
ORDER = Tool(
    "order",
    "",
    {
        "type": "object",
        "properties": {"code": {"type": "string"}, "count": {"type": "integer"}},
        "required": ["code"],
        "additionalProperties": False,
    },
)
RARE = Tool("rare", "", {"type": "object", "properties": {}})

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="the page's script runs in node, which is missing")


def quiet() -> Console:
    return Console(file=io.StringIO())


def row(number: int, code: str | None = None, tool: str = "order", **given: Any) -> Conversation:
    """A user asks for code K<number>, and the gold calls with `code` or, by default, with the right code."""
    arguments = {"code": code or f"K{number}"} if tool == "order" else {}
    turn = Message("assistant", "", (ToolCall(tool, arguments, "call_1"),))
    messages = (Message("user", f"get me K{number}"), turn)
    return Conversation(f"r{number}", messages, (ORDER, RARE), f"rows.jsonl:{number}", **given)


def turns(rows: list[Conversation]) -> list[Example]:
    return [example for one in rows for example in examples(one)]


def chosen_of(data: list[Conversation], disagreements: dict[str, str] | None = None, **given: Any) -> list[Sampled]:
    options = {"rows": 40, "random_share": 0.5, "seed": 7, **given}
    return sample(turns(data), disagreements or {}, **options)


def crowd(count: int = 1000) -> list[Conversation]:
    """Every tenth row has an invented value, and three rows call a rare tool."""
    rows = [row(n, "made-up" if n % 10 == 0 else None) for n in range(count)]
    return [replace(row(n, tool="rare"), where=one.where) if n in (5, 505, 905) else one for n, one in enumerate(rows)]


def test_the_sheet_has_each_kind_of_doubt_and_a_random_share() -> None:
    disagreements = {f"r{n}/1": "small: nothing" for n in range(700, 760)}
    chosen = chosen_of(crowd(), disagreements)
    assert Counter(one.reason for one in chosen) == {
        "random": 20, "rare tool": 3, "disagreement": 9, "invented value": 8
    }  # fmt: skip
    assert len({one.example.id for one in chosen}) == 40


def test_each_turn_lists_all_its_doubts() -> None:
    found = find_doubts(turns(crowd()), {"r700/1": "small: nothing"})
    assert set(found["r700/1"]) == {"disagreement", "invented value"}
    assert found["r700/1"]["disagreement"] == "small: nothing"
    assert "made-up" in found["r10/1"]["invented value"]
    assert found["r5/1"] == {"rare tool": "rare is called in 3 turns"}
    assert found["r6/1"] == {}


def test_a_probability_is_the_chosen_share_of_the_pool() -> None:
    chosen = chosen_of(crowd(), {})
    random = [one for one in chosen if one.reason == "random"]
    assert {one.probability for one in random} == {len(random) / 1000}
    drawn = {one.example.id for one in random}
    for kind, size in (("invented value", 100), ("rare tool", 3)):
        members = [one for one in chosen if one.reason == kind]
        kinds = find_doubts(turns(crowd()), {})
        left = size - sum(kind in kinds[id] for id in drawn)
        assert {one.probability for one in members} == {len(members) / left}


def test_over_many_seeds_every_turn_is_in_the_random_share_equally_often() -> None:
    rows = crowd(60)
    seen: Counter[str] = Counter()
    for seed in range(150):
        seen.update(one.example.id for one in chosen_of(rows, rows=20, seed=seed) if one.reason == "random")
    expected = sum(seen.values()) / 60
    assert len(seen) == 60
    assert max(abs(count - expected) for count in seen.values()) < 5 * (expected * 0.8) ** 0.5


def test_the_seed_decides_which_turns_are_chosen() -> None:
    ids = [[one.example.id for one in chosen_of(crowd(), seed=seed)] for seed in (7, 7, 8)]
    assert ids[0] == ids[1]
    assert set(ids[0]) != set(ids[2])


def test_a_small_data_set_is_reviewed_as_a_whole() -> None:
    chosen = chosen_of(crowd(30))
    assert len(chosen) == 30
    assert {(one.reason, one.probability) for one in chosen} == {("random", 1.0)}


def test_with_few_doubtful_turns_the_random_share_is_larger() -> None:
    rows = [row(n, "made-up" if n < 4 else None) for n in range(300)]
    reasons = Counter(one.reason for one in chosen_of(rows))
    assert reasons["random"] == 36
    assert reasons["invented value"] <= 4


@settings(max_examples=15)
@given(st.integers(1, 60), st.floats(0.05, 1.0), st.integers(0, 5))
def test_no_turn_is_chosen_twice_and_probabilities_are_valid(rows: int, random_share: float, seed: int) -> None:
    chosen = chosen_of(crowd(50), {"r1/1": "x", "r2/1": "y"}, rows=rows, random_share=random_share, seed=seed)
    assert 0 < len(chosen) <= rows
    assert len({one.example.id for one in chosen}) == len(chosen)
    assert all(0 < one.probability <= 1 for one in chosen)


def write(folder: Path, rows: list[Conversation]) -> Path:
    path = folder / "rows.jsonl"
    write_jsonl(path, (one.to_json() for one in rows))
    return path


def prediction(number: int, code: str) -> dict[str, Any]:
    call = json.dumps({"name": "order", "arguments": {"code": code}})
    counts = {"prompt_tokens": 1, "completion_tokens": 1, "latency_ms": 1.0, "tokens": []}
    return {
        "id": f"r{number}/1",
        "model": "small",
        "text": f"<tool_call>\n{call}\n</tool_call>",
        "finish_reason": "stop",
        **counts,
    }


def test_predictions_that_differ_from_the_gold_are_disagreements(tmp_path: Path) -> None:
    source = write(tmp_path, [row(n) for n in range(300)])
    answers = [prediction(n, "other" if n % 20 == 0 else f"K{n}") for n in range(300)]
    write_jsonl(tmp_path / "predictions.jsonl", answers)
    predictions = tmp_path / "predictions.jsonl"
    chosen = write_sheet([str(source)], tmp_path / "review.html", quiet(), predictions=predictions, rows=30)
    differing = [one for one in chosen if one.reason == "disagreement"]
    assert len(differing) > 8
    assert all(int(one.example.conversation_id[1:]) % 20 == 0 for one in differing)
    assert "other" in differing[0].doubts["disagreement"]


def test_scores_can_replace_predictions(tmp_path: Path) -> None:
    contracts = Path(__file__).parents[2] / "fixtures" / "contracts"
    source = contracts / "conversation.jsonl"
    chosen = write_sheet([str(source)], tmp_path / "review.csv", quiet(), predictions=contracts / "score.jsonl")
    assert {one.example.id: set(one.doubts) for one in chosen}["order-1/2"] >= {"disagreement"}


def test_predictions_of_other_data_are_refused(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "predictions.jsonl", [{**prediction(1, "x"), "id": "other/1"}])
    source = write(tmp_path, [row(1)])
    with pytest.raises(UserError, match=r"predictions.jsonl: answers no turn of the data; expected ids such as r1/1"):
        write_sheet([str(source)], tmp_path / "r.html", quiet(), predictions=tmp_path / "predictions.jsonl")


def test_a_sheet_with_another_file_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected review.html or review.csv"):
        write_sheet([str(write(tmp_path, [row(1)]))], tmp_path / "review.xlsx", quiet())


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline="")))


def sheet_of(tmp_path: Path, data: list[Conversation], **given: Any) -> tuple[Path, list[dict[str, str]]]:
    source = write(tmp_path, data)
    write_sheet([str(source)], tmp_path / "review.csv", quiet(), **given)
    return source, table(tmp_path / "review.csv")


def fill(path: Path, rows: list[dict[str, str]], marks: dict[str, Any], delimiter: str = ",") -> Path:
    """Write the sheet with a mark for each turn: a word, or the fixed turn."""
    out = io.StringIO()
    writer = csv.DictWriter(out, rows[0], delimiter=delimiter)
    writer.writeheader()
    for one in rows:
        mark = marks.get(one["id"], "")
        fixed = "" if isinstance(mark, str) else json.dumps(mark)
        writer.writerow({**one, "mark": "fixed" if fixed else mark, "fixed": fixed})
    path.write_text(out.getvalue(), encoding="utf-8-sig", newline="")
    return path


def applied(tmp_path: Path, rows: list[Conversation], marks: dict[str, Any], **given: Any) -> tuple[Any, ReviewReport]:
    source, lines = sheet_of(tmp_path, rows)
    filled = fill(tmp_path / "marks.csv", lines, marks)
    report = apply_marks([str(source)], filled, tmp_path / "out.jsonl", quiet(), **given)
    return {one.id: one for one in read_conversations(tmp_path / "out.jsonl")}, report


RIGHT_CALL = [{"name": "order", "arguments": {"code": "K2"}}]


def test_wrong_rows_are_dropped_fixed_turns_replaced_and_marks_counted(tmp_path: Path) -> None:
    rows = [row(n, "made-up" if n in (1, 2) else None, gold_source="gpt-4o") for n in range(5)]
    marks = {"r0/1": "right", "r1/1": "wrong", "r2/1": RIGHT_CALL, "r3/1": " Right "}
    out, report = applied(tmp_path, rows, marks)
    assert list(out) == ["r0", "r2", "r3", "r4"]
    assert out["r2"].messages[1].tool_calls == (ToolCall("order", {"code": "K2"}, "call_1"),)
    assert report.marked == {"right": 2, "wrong": 1, "fixed": 1, "unmarked": 1}
    assert (report.dropped, report.fixed) == (1, 1)


def test_a_fixed_turn_loses_its_thinking_and_the_report_says_so(tmp_path: Path) -> None:
    def thoughtful(number: int) -> Conversation:
        ask, turn = row(number).messages
        return replace(row(number), messages=(ask, replace(turn, thinking="It is made up.")))

    out, report = applied(tmp_path, [thoughtful(n) for n in range(1, 4)], {"r1/1": "right", "r2/1": RIGHT_CALL})
    assert [out[id].messages[1].thinking for id in ("r1", "r2", "r3")] == ["It is made up.", "", "It is made up."]
    assert "thinking dropped from 1 fixed turns" in report.lines()
    assert "thinking" not in "\n".join(applied(tmp_path, [row(2)], {"r2/1": RIGHT_CALL})[1].lines())


def test_files_of_marks_that_say_mended_are_still_read(tmp_path: Path) -> None:
    source, lines = sheet_of(tmp_path, [row(1), row(2)])
    filled = fill(tmp_path / "marks.csv", lines, {"r1/1": "right", "r2/1": RIGHT_CALL})
    old_json = [{("mended" if name == "fixed" else name): text for name, text in one.items()} for one in table(filled)]
    for one in old_json:
        if one["mark"] == "fixed":
            one |= {"mark": "mended"}
    (tmp_path / "old.json").write_text(json.dumps(old_json))
    out = io.StringIO()
    writer = csv.DictWriter(out, old_json[0])
    writer.writeheader()
    writer.writerows(old_json)
    (tmp_path / "old.csv").write_text(out.getvalue(), newline="")
    for name in ("old.csv", "old.json"):
        report = apply_marks([str(source)], tmp_path / name, tmp_path / "out.jsonl", quiet())
        assert report.marked == {"right": 1, "fixed": 1}
        assert [mark.fixed for mark in read_marks(tmp_path / name)] == [mark.fixed for mark in read_marks(filled)]


def test_gold_that_a_person_confirmed_no_longer_names_a_model_as_its_source(tmp_path: Path) -> None:
    rows = [row(n, gold_source="gpt-4o") for n in range(1, 4)]
    out, _ = applied(tmp_path, rows, {"r1/1": "right", "r2/1": RIGHT_CALL})
    assert (out["r1"].gold_source, out["r1"].meta) == (None, {"reviewed": "right", "gold_source": "gpt-4o"})
    assert (out["r2"].gold_source, out["r2"].meta["reviewed"]) == (None, "fixed")
    assert (out["r3"].gold_source, out["r3"].meta) == ("gpt-4o", {})


def longer(results: bool = True) -> Conversation:
    """Two learned turns: a call, and an answer about its result."""
    first = row(1, gold_source="gpt-4o")
    more = (Message("tool", "{}", tool_call_id="call_1"), Message("assistant", "It is there."))
    return replace(first, messages=(*first.messages, *more))


def test_a_conversation_with_an_unmarked_turn_keeps_its_source(tmp_path: Path) -> None:
    out, _ = applied(tmp_path, [longer()], {"r1/1": "right"})
    assert out["r1"].gold_source == "gpt-4o"
    out, _ = applied(tmp_path, [longer()], {"r1/1": "right", "r1/3": "right"})
    assert out["r1"].gold_source is None


def test_wrong_turns_may_get_weight_0_and_the_row_stays(tmp_path: Path) -> None:
    out, report = applied(tmp_path, [longer(), row(2)], {"r1/1": "right", "r1/3": "wrong"}, wrong="weight")
    assert [message.weight for message in out["r1"].messages] == [1, 1, 1, 0]
    assert out["r1"].gold_source == "gpt-4o"
    assert (report.dropped, report.unlearned) == (0, 1)


def test_a_fixed_call_keeps_the_id_that_its_result_answers(tmp_path: Path) -> None:
    out, _ = applied(tmp_path, [longer()], {"r1/1": [{"name": "order", "arguments": {"code": "K1", "count": 2}}]})
    assert out["r1"].messages[1].tool_calls == (ToolCall("order", {"code": "K1", "count": 2}, "call_1"),)
    two = [{"name": "order", "arguments": {"code": "K1"}}, {"name": "rare"}]
    out, _ = applied(tmp_path, [row(1)], {"r1/1": two})
    assert [call.id for call in out["r1"].messages[1].tool_calls] == ["call_1", "fixed_1"]
    with pytest.raises(UserError, match=r'expected 1 calls, because .*, found 2; mark "r1/1" wrong instead'):
        applied(tmp_path, [longer()], {"r1/1": two})


def test_an_answer_can_fix_a_call_and_replaces_the_rows_expected(tmp_path: Path) -> None:
    line = row(1).to_json()
    line["expected"] = {"status": "calls", "calls": [{"name": "order", "arguments": {"code": ["K1", "k1"]}}]}
    rows = [next(iter(read_conversations(write_line(tmp_path, line))))]
    out, _ = applied(tmp_path, rows, {"r1/1": {"calls": [], "content": "Which one?"}})
    assert out["r1"].messages[1] == Message("assistant", "Which one?")
    assert out["r1"].expected is None
    out, _ = applied(tmp_path, rows, {"r1/1": "right"})
    assert out["r1"].expected == rows[0].expected


def write_line(folder: Path, line: dict[str, Any]) -> Path:
    path = folder / "line.jsonl"
    write_jsonl(path, [line])
    return path


def test_accuracy_counts_only_the_random_share(tmp_path: Path) -> None:
    source, lines = sheet_of(tmp_path, crowd(), rows=100)
    by_reason = {reason: [one for one in lines if one["reason"] == reason] for reason in ("random", "invented value")}
    random = by_reason["random"]
    assert len(random) == 50
    assert len(by_reason["invented value"]) > 30
    marks = {one["id"]: "wrong" for one in lines} | {one["id"]: "right" for one in random[4:]}
    del marks[random[49]["id"]]
    report = apply_marks([str(source)], fill(tmp_path / "m.csv", lines, marks), tmp_path / "out.jsonl", quiet())
    assert (report.accuracy["numerator"], report.accuracy["denominator"]) == (45, 49)
    # The Wilson interval for 45 of 49, calculated by hand: centre 0.8878, half width 0.0799.
    assert report.accuracy["low"] == pytest.approx(0.8081, abs=5e-4)
    assert report.accuracy["high"] == pytest.approx(0.9678, abs=5e-4)
    assert report.unmarked_random == 1
    said = "\n".join(report.lines())
    assert "91.8% [80.8%, 96.8%] (95%, Wilson; 45 of 49 random turns)" in said
    assert "only the random share counts" in said
    assert "1 random turns have no mark" in said


def test_without_a_mark_in_the_random_share_the_accuracy_is_unknown(tmp_path: Path) -> None:
    source, lines = sheet_of(tmp_path, crowd(), rows=40)
    doubtful = next(one for one in lines if one["reason"] != "random")
    filled = fill(tmp_path / "m.csv", lines, {doubtful["id"]: "wrong"})
    report = apply_marks([str(source)], filled, tmp_path / "out.jsonl", quiet())
    assert report.accuracy["value"] is None
    assert "unknown" in "\n".join(report.lines())


BAD_MARKS: dict[str, tuple[Any, str]] = {
    "unknown word": ("ok", r'marks.csv:2: expected the mark right, wrong or fixed, found "ok"'),
    "fixed without calls": ("fixed", r'marks.csv:2: the mark is "fixed", but the column fixed has nothing'),
    "unknown tool": ([{"name": "ordr", "arguments": {}}], r'marks.csv:2: fixed: .*"ordr" is not in tools'),
    "breaks the schema": ([{"name": "order", "arguments": {"code": 3}}], r"marks.csv:2: fixed: .*code: 3 is not"),
    "lacks an argument": ([{"name": "order", "arguments": {}}], r"marks.csv:2: fixed: .*'code' is a required"),
    "no call and no text": ({"calls": []}, "marks.csv:2: fixed: expected"),
    "no name": ([{"arguments": {}}], "marks.csv:2: fixed: expected"),
    "unknown key": ({"cals": []}, "marks.csv:2: fixed: expected"),
    "arguments as a text": ([{"name": "order", "arguments": "{}"}], "marks.csv:2: fixed: expected"),
}


@pytest.mark.parametrize(("mark", "message"), BAD_MARKS.values(), ids=BAD_MARKS.keys())
def test_a_bad_mark_is_refused_with_its_line_and_nothing_is_written(tmp_path: Path, mark: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        applied(tmp_path, [row(1)], {"r1/1": mark})
    assert not (tmp_path / "out.jsonl").exists()


def test_one_error_names_all_bad_marks(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        applied(tmp_path, [row(n) for n in range(3)], {f"r{n}/1": "ok" for n in range(3)})
    assert len(str(caught.value).splitlines()) == 3


def test_broken_json_in_the_column_fixed_is_refused(tmp_path: Path) -> None:
    _, lines = sheet_of(tmp_path, [row(1)])
    lines[0] |= {"mark": "fixed", "fixed": "order K1"}
    path = tmp_path / "marks.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, lines[0])
        writer.writeheader()
        writer.writerows(lines)
    with pytest.raises(UserError, match=r"marks.csv:2: fixed: not JSON"):
        read_marks(path)


def test_marks_of_data_that_has_changed_are_refused(tmp_path: Path) -> None:
    source, lines = sheet_of(tmp_path, [row(1), row(2)])
    filled = fill(tmp_path / "marks.csv", lines, {"r1/1": "right", "r2/1": "right"})
    write(tmp_path, [row(1, "K7"), row(2)])
    with pytest.raises(UserError, match=r'"r1/1" is not the turn that was marked \(.*rows.jsonl:1 has changed\)'):
        apply_marks([str(source)], filled, tmp_path / "out.jsonl", quiet())
    write(tmp_path, [row(2)])
    with pytest.raises(UserError, match=r'has no learned turn "r1/1"'):
        apply_marks([str(source)], filled, tmp_path / "out.jsonl", quiet())


def test_a_turn_that_is_marked_twice_is_refused(tmp_path: Path) -> None:
    source, lines = sheet_of(tmp_path, [row(1)])
    filled = fill(tmp_path / "marks.csv", lines * 2, {"r1/1": "right"})
    with pytest.raises(UserError, match='"r1/1" is marked twice'):
        apply_marks([str(source)], filled, tmp_path / "out.jsonl", quiet())


FILES_OF_MARKS = {
    "missing column": ("marks.csv", b"id,mark\nr1/1,right\n", "the column fixed is missing"),
    "empty": ("marks.csv", b"", "the column id is missing"),
    "no rows": ("marks.csv", b"id,mark,fixed,reason,hash\n", "the file has no marks; export the marks with the button"),
    "another encoding": ("marks.csv", "id,mark\n订单".encode("gbk"), "not UTF-8; in Excel, save it as CSV UTF-8"),
    "broken JSON": ("marks.json", b"[{", r"marks.json:1: broken JSON"),
    "no list": ("marks.json", b"{}", "expected a list of marks"),
    "JSON without a key": ("marks.json", b'[{"id": "r1/1"}]', "the column mark is missing"),
}


@pytest.mark.parametrize(("name", "content", "message"), FILES_OF_MARKS.values(), ids=FILES_OF_MARKS.keys())
def test_a_file_without_readable_marks_is_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_marks(tmp_path / name)
    with pytest.raises(UserError, match="no such file"):
        read_marks(tmp_path / "nowhere.csv")


def test_a_sheet_that_excel_saved_with_semicolons_is_read(tmp_path: Path) -> None:
    _, lines = sheet_of(tmp_path, [row(1), row(2)])
    filled = fill(tmp_path / "marks.csv", lines, {"r1/1": "right", "r2/1": RIGHT_CALL}, delimiter=";")
    assert sorted(mark.verdict or "" for mark in read_marks(filled)) == ["fixed", "right"]


def test_the_csv_sheet_shows_the_conversation_and_the_gold(tmp_path: Path) -> None:
    _, lines = sheet_of(tmp_path, [longer()])
    by_id = {one["id"]: one for one in lines}
    assert by_id["r1/1"]["conversation"] == "user: get me K1"
    assert json.loads(by_id["r1/1"]["gold"]) == [{"name": "order", "arguments": {"code": "K1"}}]
    assert by_id["r1/3"]["gold"] == "It is there."
    assert 'order({"code": "K1"})' in by_id["r1/3"]["conversation"]


FIXTURES = Path(__file__).parents[2] / "fixtures"


@pytest.mark.parametrize(
    ("file", "format", "turns_there"),
    [
        ("formats/hermes.json", "hermes", 2),
        ("formats/glaive.jsonl", "glaive", 6),
        ("formats/llamafactory.json", "llamafactory", 6),
        ("formats/xlam.jsonl", "xlam", 1),
        ("logs/chat.jsonl", "logs", 4),
        ("logs/responses.jsonl", "logs", 4),
    ],
)
def test_rows_of_any_format_are_reviewed_and_written_in_toolhones_own_format(
    tmp_path: Path, file: str, format: str, turns_there: int
) -> None:
    source, said = str(FIXTURES / file), Console(file=io.StringIO(), width=500)
    write_sheet([source], tmp_path / "review.csv", said)
    assert f"{file}: read as {format}\n" in said.file.getvalue()  # type: ignore[attr-defined]
    lines = table(tmp_path / "review.csv")
    assert len(lines) == turns_there
    marks = fill(tmp_path / "m.csv", lines, {lines[0]["id"]: "wrong"})
    apply_marks([source], marks, tmp_path / "out.jsonl", quiet(), wrong="weight")
    before = [one for one in read_source(source) if isinstance(one, Conversation)]
    after = list(read_conversations(tmp_path / "out.jsonl"))
    assert [one.id for one in after] == [one.id for one in before]
    assert [one.tools for one in after] == [one.tools for one in before]
    kept = {one.id for one in turns(before)} - {one.id for one in turns(after)}
    assert kept == {lines[0]["id"]}, "only the turn marked wrong is no longer learned"


def test_several_sources_make_one_sheet_and_none_of_them_is_overwritten(tmp_path: Path) -> None:
    one, other = str(FIXTURES / "formats" / "xlam.jsonl"), str(write(tmp_path, [row(1)]))
    assert len(write_sheet([one, other], tmp_path / "review.csv", quiet())) == 2
    marks = fill(tmp_path / "m.csv", table(tmp_path / "review.csv"), {"r1/1": "right"})
    with pytest.raises(UserError, match=r"rows\.jsonl: is one of the files to read"):
        apply_marks([one, str(tmp_path)], marks, Path(other), quiet())
    apply_marks([one, other], marks, tmp_path / "out.jsonl", quiet())
    assert len(list(read_conversations(tmp_path / "out.jsonl"))) == 2


def test_no_sheet_is_written_if_a_row_cannot_be_read(tmp_path: Path) -> None:
    source = write(tmp_path, [row(1)])
    source.write_text(source.read_text() + "{\n")
    with pytest.raises(UserError, match=r"rows\.jsonl:2: [\s\S]*toolhone data check"):
        write_sheet([str(source)], tmp_path / "review.html", quiet())
    assert not (tmp_path / "review.html").exists()


def test_an_id_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='the id "r1/1" occurs twice'):
        write_sheet([str(write(tmp_path, [row(1), row(1)]))], tmp_path / "review.csv", quiet())


def page_of(tmp_path: Path, data: list[Conversation], **given: Any) -> str:
    write_sheet([str(write(tmp_path, data))], tmp_path / "review.html", quiet(), **given)
    return (tmp_path / "review.html").read_text(encoding="utf-8")


def test_the_page_is_complete_and_loads_nothing(tmp_path: Path) -> None:
    text = page_of(tmp_path, crowd(20))
    assert not re.search(r"""(?:src|href)=["']|@import|url\(|fetch\(|XMLHttpRequest|https?://""", text)
    assert "default-src 'none'" in text
    assert "prefers-color-scheme: dark" in text
    assert "{{" not in text


def test_markup_in_a_row_cannot_break_out_of_the_page(tmp_path: Path) -> None:
    nasty = '</script><script>alert(1)</script><!-- {{script}} \u2028 &amp; \\u003c "'
    rows = [replace(row(1), messages=(Message("user", nasty), row(1).messages[1]))]
    text = page_of(tmp_path, rows)
    assert text.count("</script>") == 2
    data = re.search(r'<script type="application/json" id="sheet">(.*?)</script>', text, re.DOTALL)
    assert data is not None
    assert json.loads(data[1])["items"][0]["messages"][0]["content"] == nasty


@needs_node
def test_the_pages_script_is_valid_javascript() -> None:
    read = subprocess.run(["node", "--check", str(FILES / "review.js")], check=False, capture_output=True, text=True)
    assert (read.returncode, read.stderr) == (0, "")


# The parts of a browser that the page's script needs, and a way to press keys.
BROWSER = r"""
const fs = require("fs");
const vm = require("vm");
const page = fs.readFileSync(process.argv[2], "utf8");
const stored = new Map(process.argv[3] ? [JSON.parse(process.argv[3])] : []);
const elements = new Map();
const made = [];
class Element {
  constructor(id) { this.id = id; this.tagName = "DIV"; this.value = ""; this.textContent = ""; this.children = [];
    this.hidden = false; this.listeners = {}; this.attributes = {}; }
  append(...more) { this.children.push(...more); }
  replaceChildren(...more) { this.children = more; }
  addEventListener(kind, action) { this.listeners[kind] = action; }
  setAttribute(name, value) { this.attributes[name] = value; }
  focus() { document.activeElement = this; }
  blur() { document.activeElement = body; }
  scrollIntoView() {}
  click() { if (this.listeners.click) this.listeners.click(); }
  get text() { return [this.textContent, ...this.children.map((child) => child.text)].filter(Boolean).join(" "); }
}
const body = new Element("body");
const ids = [...page.matchAll(/ id="(\w+)"/g)].map((match) => match[1]);
for (const id of ids) elements.set(id, new Element(id));
elements.get("fixed").tagName = "TEXTAREA";
elements.get("note").tagName = "INPUT";
elements.get("sheet").textContent = page.match(/id="sheet">([^]*?)<\/script>/)[1];
const document = {
  activeElement: body, listeners: {},
  getElementById: (id) => elements.get(id),
  createElement: (tag) => { const one = new Element(tag); made.push(one); return one; },
  addEventListener(kind, action) { this.listeners[kind] = action; },
};
const localStorage = { getItem: (key) => stored.get(key) ?? null, setItem: (key, text) => stored.set(key, text) };
const blobs = [];
class Blob { constructor(parts) { blobs.push(parts.join("")); } }
const script = page.match(/<script>([^]*)<\/script>/)[1];
vm.runInNewContext(script, { document, localStorage, Blob, URL: { createObjectURL: () => "", revokeObjectURL() {} },
  scrollTo() {}, setTimeout() {}, JSON });
const press = (key, options = {}) => document.listeners.keydown({ key, target: document.activeElement,
  preventDefault() {}, ...options });
const at = (id) => elements.get(id);
const out = eval(process.argv[4]);
console.log(JSON.stringify({ out, blobs, stored: [...stored][0] ?? null }));
"""


def browse(page: Path, steps: str, stored: list[str] | None = None) -> dict[str, Any]:
    """Open a page, run the steps (JavaScript), and return their value (`out`), the exports and what was stored."""
    script = page.parent / "browser.js"
    script.write_text(BROWSER, encoding="utf-8")
    kept = "" if stored is None else json.dumps(stored)
    done = subprocess.run(["node", str(script), str(page), kept, steps], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    read: dict[str, Any] = json.loads(done.stdout)
    return read


@needs_node
def test_marks_made_with_the_pages_keys_are_applied_to_the_data(tmp_path: Path) -> None:
    rows = [row(n, gold_source="gpt-4o") for n in range(1, 6)]
    chosen = write_sheet([str(write(tmp_path, rows))], tmp_path / "review.html", quiet())
    ids = [one.example.id for one in chosen]
    fixed = json.dumps({"calls": [{"name": "order", "arguments": {"code": 'K9, "new"\n查'}}]})
    steps = f"""press("r"); press("w"); press("f"); at("fixed").value = {json.dumps(fixed)};
        press("Enter", {{ctrlKey: true}}); at("note").value = 'hm, "so"'; at("note").listeners.input();
        at("csv").click(); at("json").click(); at("count").textContent"""
    done = browse(tmp_path / "review.html", steps)
    assert done["out"] == "3 of 5 marked"
    for name, text in zip(("marks.csv", "marks.json"), done["blobs"], strict=True):
        (tmp_path / name).write_text(text, encoding="utf-8", newline="")
        marks = {mark.id: mark for mark in read_marks(tmp_path / name)}
        assert [marks[id].verdict for id in ids] == ["right", "wrong", "fixed", None, None]
        report = apply_marks([str(tmp_path / "rows.jsonl")], tmp_path / name, tmp_path / "out.jsonl", quiet())
        assert report.marked == {"right": 1, "wrong": 1, "fixed": 1, "unmarked": 2}
        out = {f"{one.id}/1": one for one in read_conversations(tmp_path / "out.jsonl")}
        assert out[ids[2]].messages[1].tool_calls[0].arguments == {"code": 'K9, "new"\n查'}
        assert ids[1] not in out
    assert table(tmp_path / "marks.csv")[3]["note"] == 'hm, "so"'


@needs_node
def test_the_page_moves_between_turns_undoes_and_stores_its_marks(tmp_path: Path) -> None:
    page_of(tmp_path, [row(n) for n in range(1, 6)])
    page = tmp_path / "review.html"
    place = 'at("place").text.split(" ")[0]'
    assert browse(page, f'press("j"); press("j"); press("k"); {place}')["out"] == "2"
    assert browse(page, f'press("k"); {place}')["out"] == "1"
    undone = 'press("r"); press("w"); press("u"); at("count").textContent + " at " + at("place").text[0]'
    assert browse(page, undone)["out"] == "1 of 5 marked at 2"
    first = browse(page, 'press("r"); press("w")')
    again = browse(page, 'press("u"); at("count").textContent', first["stored"])
    assert again["out"] == "1 of 5 marked"


@needs_node
def test_the_page_still_reads_stored_marks_that_say_mended(tmp_path: Path) -> None:
    page_of(tmp_path, [row(n) for n in range(1, 4)])
    page = tmp_path / "review.html"
    fixed = json.dumps({"calls": [{"name": "order", "arguments": {"code": "mended"}}]})
    steps = f'press("f"); at("fixed").value = {json.dumps(fixed)}; at("save").click(); press("k"); press("r"); '
    key, text = browse(page, steps)["stored"]
    state = json.loads(text)
    for mark in (*state["marks"].values(), *(done["before"] for done in state["history"])):
        if mark is not None:
            mark["mended"] = mark.pop("fixed")
            mark["mark"] = "mended" if mark["mark"] == "fixed" else mark["mark"]
    assert '"mark": "mended"' in json.dumps(state)
    read = browse(page, 'press("u"); at("json").click(); at("gold").text', [key, json.dumps(state)])
    assert "fixed:" in read["out"]
    first = json.loads(read["blobs"][0])[0]
    assert (first["mark"], first["fixed"]) == (
        "fixed",
        {"calls": [{"name": "order", "arguments": {"code": "mended"}}], "content": ""},
    )


@needs_node
def test_after_the_last_turn_the_page_shows_the_first_unmarked_one_or_asks_for_the_export(
    tmp_path: Path,
) -> None:
    page_of(tmp_path, [row(n) for n in range(1, 4)])
    page = tmp_path / "review.html"
    skipped = 'press("r"); press("j"); press("W"); at("place").text.split(" ")[0]'
    assert browse(page, skipped)["out"] == "2"
    assert browse(page, skipped + '; press("r"); at("count").textContent')["out"] == "3 of 3 marked: export them"


@needs_node
def test_undo_keeps_the_note_and_a_turn_that_is_being_fixed_takes_no_other_mark(tmp_path: Path) -> None:
    page_of(tmp_path, [row(n) for n in range(1, 4)])
    page = tmp_path / "review.html"
    noted = 'press("r"); press("k"); at("note").value = "odd"; at("note").listeners.input(); press("u"); '
    assert browse(page, noted + '[at("note").value, at("count").textContent]')["out"] == ["odd", "0 of 3 marked"]
    left = 'press("f"); at("fixed").blur(); press("r"); press("ArrowRight"); '
    assert browse(page, left + 'at("count").textContent + at("place").text[0]')["out"] == "0 of 3 marked1"
    assert browse(page, left + 'press("Escape"); press("r"); at("count").textContent')["out"] == "1 of 3 marked"


@needs_node
def test_keys_that_are_typed_into_a_field_mark_nothing(tmp_path: Path) -> None:
    page_of(tmp_path, [row(n) for n in range(1, 4)])
    steps = 'press("f"); press("r"); press("w"); press("Escape"); press("r", {ctrlKey: true}); at("count").textContent'
    assert browse(tmp_path / "review.html", steps)["out"] == "0 of 3 marked"


@needs_node
@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{", "Not JSON"),
        ('[{"name": "ordr"}]', "Unknown tool"),
        ('[{"name": "order", "arguments": {}}]', "order: code is required"),
        ('[{"name": "order", "arguments": {"code": "a", "size": 1}}]', "order: unknown argument size"),
        ('[{"name": "order", "arguments": []}]', "arguments must be an object"),
        ("[null]", "Unknown tool in null"),
        ("[]", "Neither a call nor a text"),
        ('{"cals": []}', "Unknown key cals"),
    ],
)
def test_the_editor_says_what_is_wrong_with_a_fixed_turn(tmp_path: Path, text: str, fault: str) -> None:
    page_of(tmp_path, [row(1)])
    steps = f'press("f"); at("fixed").value = {json.dumps(text)}; at("save").click(); at("fault").textContent'
    done = browse(tmp_path / "review.html", steps)
    assert fault in done["out"]
    assert done["stored"] is None


@needs_node
def test_the_page_shows_the_gold_and_the_models_answer_of_real_rows(tmp_path: Path) -> None:
    source = FOLDER / "test.jsonl"
    write_sheet([str(source)], tmp_path / "review.html", quiet(), tools=TOOLS, rows=40)
    steps = '[...Array(40)].map(() => { const shown = at("gold").text; press("j"); return shown; })'
    shown = browse(tmp_path / "review.html", steps)["out"]
    assert len(shown) == 40
    assert all(shown)
    assert sum('"order_id"' in text for text in shown) > 5
