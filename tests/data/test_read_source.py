"""Sources of any format: which format is detected, what each row becomes, and how weights choose rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolhone.data.importers import IMPORTERS
from toolhone.data.importers.importer import Importer, RowFault
from toolhone.data.importers.openai import conversation
from toolhone.data.read import (
    detect_format,
    detected_formats,
    examples,
    read_conversations,
    read_source,
    read_sources,
    split_weight,
)
from toolhone.errors import RowError, UserError
from toolhone.records import Conversation, Tool

FIXTURES = Path(__file__).parents[1] / "fixtures"
SHIPPED = Path(__file__).parents[2] / "data" / "customer_service"
USER = {"role": "user", "content": "hi"}
ANSWER = {"role": "assistant", "content": "Hello."}
OPENAI = {"messages": [USER, ANSWER]}
LEGACY = {"messages": [USER, {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}]}
LOG = {
    "request": {"model": "m", "messages": [USER]},
    "response": {"id": "r1", "model": "m", "choices": [{"message": ANSWER, "finish_reason": "stop"}]},
}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def write(path: Path, *rows: Any) -> Path:
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
    )
    return path


def split(found: Any) -> tuple[list[Conversation], list[tuple[str, str]]]:
    found = list(found)
    faults = [(row.where, row.rule) for row in found if isinstance(row, RowFault)]
    return [row for row in found if isinstance(row, Conversation)], faults


@pytest.mark.parametrize(
    ("row", "name"), [(OPENAI, "openai"), (LEGACY, "openai"), (LOG, "logs"), (TOOL, "tools"), ({"x": 1}, "openai")]
)
def test_a_format_is_detected_by_its_rows(row: dict[str, Any], name: str) -> None:
    assert detect_format([row]) == name


def test_a_file_has_the_format_of_most_of_its_rows() -> None:
    assert detect_format([OPENAI, LOG, LOG]) == "logs"
    assert detect_format([TOOL, OPENAI]) == "openai"
    assert detect_format([]) == "openai"


def test_each_file_of_a_folder_has_its_own_format_and_a_list_of_tools_is_left_out_with_a_fault(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", OPENAI, LEGACY)
    write(tmp_path / "b.jsonl", LOG)
    (tmp_path / "tools.json").write_text(json.dumps([TOOL]), encoding="utf-8")
    assert list(detected_formats(tmp_path).values()) == ["openai", "logs", "tools"]
    file_formats: dict[str, str] = {}
    rows, faults = split(read_source(tmp_path, file_formats=file_formats))
    assert file_formats == detected_formats(tmp_path)
    assert [row.gold_source for row in rows] == [None, None, "m"]
    assert faults == [(f"{tmp_path / 'tools.json'}:1", "tools-file")]


def test_a_conversation_that_continues_in_the_next_log_file_is_one(tmp_path: Path) -> None:
    more = json.loads(json.dumps(LOG))
    more["request"]["messages"] += [ANSWER, USER]
    more["response"]["id"] = "r2"
    write(tmp_path / "monday.jsonl", LOG)
    write(tmp_path / "tuesday.jsonl", more)
    (row,), faults = split(read_source(tmp_path))
    assert faults == []
    assert [turn.weight for turn in row.messages if turn.role == "assistant"] == [1, 1]


def test_a_row_of_another_format_in_a_file_is_read_in_its_own_format(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", OPENAI, OPENAI, LOG)
    rows, faults = split(read_source(path))
    assert (len(rows), faults) == (3, [])
    rows, faults = split(read_source(path, format="openai"))
    assert (len(rows), faults) == (2, [(f"{path}:3", "unknown-key")])


def test_faults_do_not_stop_reading_and_do_not_repeat_their_place(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", "{", '\ufeff{"messages": []}', OPENAI, '{"messages": [{"role": "bot"}]}', OPENAI)
    found = list(read_source(path))
    assert [(row.rule, row.message[:40]) for row in found if isinstance(row, RowFault)] == [
        ("broken-json", "broken JSON: Expecting property name enc"),
        ("bom", "its first character is a byte order mark"),
        ("no-messages", 'expected "messages", a list of messages,'),
        ("bad-role", 'message 0: expected a "role" of system, '),
    ]
    assert [row.where[-2:] for row in found] == [":1", ":2", ":2", ":3", ":4", ":5"]


def test_rows_without_tools_get_the_default_tools(tmp_path: Path) -> None:
    tools = (Tool("f", "", {"type": "object"}),)
    path = write(tmp_path / "a.jsonl", OPENAI, {**OPENAI, "tools": []})
    assert [row.tools for row in split(read_source(path, tools))[0]] == [tools, ()]
    assert split(read_source(write(tmp_path / "b.jsonl", LOG), tools))[0][0].tools == tools


def test_an_unknown_format_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        UserError, match=r'^data.format: unknown format "csv"; expected one of auto, .*logs, openai, hermes'
    ):
        list(read_source("a.jsonl", format="csv"))
    with pytest.raises(
        UserError, match=r'unknown format "opnai"; did you mean "openai"\? expected one of auto, .*logs'
    ):
        list(read_source("a.jsonl", format="opnai"))


def test_an_importer_in_the_table_is_detected_and_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(row: dict[str, Any], where: str, default_tools: tuple[Tool, ...]) -> Conversation:
        if not row.get("asked"):
            raise RowError(f"{where}: nothing was asked", rule="quiz-empty")
        messages = [{"role": "user", "content": row["asked"]}, {"role": "assistant", "content": row["answered"]}]
        return conversation({"messages": messages}, where, default_tools)

    monkeypatch.setitem(IMPORTERS, "quiz", Importer("quiz", lambda row: "asked" in row, read))
    asked = [{"asked": "Who?", "answered": "I."}, {"asked": "", "answered": ""}]
    path = write(tmp_path / "quiz.jsonl", *asked, OPENAI)
    assert detected_formats(path) == {str(path): "quiz"}
    rows, faults = split(read_source(path))
    assert [[message.content for message in row.messages] for row in rows] == [["Who?", "I."], ["hi", "Hello."]]
    assert faults == [(f"{path}:2", "quiz-empty")]
    write(path, asked[0])
    assert [row.where for row in read_source(path, format="quiz")] == [f"{path}:1"]


def test_the_shipped_rows_are_read_as_training_reads_them() -> None:
    path = SHIPPED / "test.jsonl"
    assert list(read_source(path)) == list(read_conversations(path))


# Weights


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a.jsonl", ("a.jsonl", 1.0)),
        ("a.jsonl=2", ("a.jsonl", 2.0)),
        ("a=b.jsonl", ("a=b.jsonl", 1.0)),
        ("a=b.jsonl=0.5", ("a=b.jsonl", 0.5)),
        ("hub:o/n:train=0.1", ("hub:o/n:train", 0.1)),
    ],
)
def test_a_source_is_a_path_with_or_without_its_weight(source: str, expected: tuple[str, float]) -> None:
    assert split_weight(source) == expected


@pytest.mark.parametrize("weight", ["0", "-1", "inf", "nan"])
def test_an_invalid_weight_is_refused(weight: str) -> None:
    with pytest.raises(UserError, match=f"^a.jsonl={weight}: expected a weight above 0, found {weight}"):
        split_weight(f"a.jsonl={weight}")


def test_half_the_rows_are_the_same_half_whatever_other_rows_there_are(tmp_path: Path) -> None:
    rows = [{"messages": [{**USER, "content": str(n)}, ANSWER]} for n in range(400)]
    all_rows, few = write(tmp_path / "a.jsonl", *rows), write(tmp_path / "b.jsonl", *reversed(rows[:100]))
    kept = {row.id for row in split(read_sources([f"{all_rows}=0.5"]))[0]}
    assert 160 < len(kept) < 240
    assert {row.id for row in split(read_sources([f"{few}=0.5"]))[0]} == kept & {
        row.id for row in split(read_sources([str(few)]))[0]
    }


def test_whole_weights_repeat_rows_under_new_ids_and_faults_come_once(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"id": "a", **OPENAI}, "{", {"id": "b", **OPENAI})
    other = write(tmp_path / "b.jsonl", {"id": "c", **OPENAI})
    rows, faults = split(read_sources([f"{path}=3", str(other)]))
    assert [row.id for row in rows] == ["a", "a#2", "a#3", "b", "b#2", "b#3", "c"]
    assert faults == [(f"{path}:2", "broken-json")]
    ids = [row.id for row in split(read_sources([f"{path}=1.5"]))[0]]
    assert set(ids) >= {"a", "b"}
    assert set(ids) <= {"a", "a#2", "b", "b#2"}


# Arbitrary input


@settings(max_examples=150)
@given(st.data())
def test_every_line_that_is_not_blank_gives_a_conversation_or_a_fault(
    tmp_path_factory: Any, data: st.DataObject
) -> None:
    texts = [json.dumps(row) for row in (OPENAI, LEGACY, LOG, {"messages": [USER], "tools": [TOOL]})]
    lines = []
    for n in range(data.draw(st.integers(1, 6))):
        line = list(data.draw(st.sampled_from(texts)).replace("r1", f"r{n}"))
        for _ in range(data.draw(st.integers(0, 4))):
            place = data.draw(st.integers(0, len(line) - 1))
            line[place] = data.draw(st.sampled_from(['"', "{", "}", "[", ",", "\\", "\x00", "n", "é", "\ud83d", "9"]))
        lines.append("".join(line))
    path = tmp_path_factory.mktemp("any") / "a.jsonl"
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
    found = list(read_source(path))

    named = {row.where for row in found}
    steps = sum(len(examples(row)) for row in found if isinstance(row, Conversation) and row.gold_source)
    others = {row.where for row in found if isinstance(row, RowFault) or not row.gold_source}
    assert len(others) + steps >= len(lines)
    assert named <= {f"{path}:{n}" for n in range(1, len(lines) + 1)}


@pytest.mark.parametrize("name", [name for name in IMPORTERS if name != "logs"])
def test_every_named_format_turns_an_unknown_row_into_a_fault(name: str, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"of": "no format"}\n', encoding="utf-8")
    found = list(read_source(tmp_path / "x.jsonl", format=name))
    assert [type(row) for row in found] == [RowFault]
