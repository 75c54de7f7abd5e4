"""Rows of several requests are complete conversations with every request unchanged."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest

from toolhone.data.check import check
from toolhone.data.generate.templates import Result, join_requests, load_results
from toolhone.data.importers.openai import conversation
from toolhone.data.read import turns
from toolhone.errors import UserError
from toolhone.records import Conversation, Tool

TOOLS = (
    Tool("find", "", {"type": "object", "properties": {"code": {"type": "string"}}}),
    Tool("bye", "", {"type": "object", "properties": {}}),
)
RESULTS = {
    "find": [Result(tool={"at": "{code}"}, answer={"en": "Found {code}.", "zh": "找到 {code}。"})],
    "bye": [Result(tool=True, answer={"en": "Bye."})],
}


def single(id: str, asked: str, *calls: tuple[str, dict[str, Any]], language: str = "en") -> Conversation:
    turn: dict[str, Any] = {"role": "assistant", "content": None if calls else "Which one?"}
    if calls:
        turn["tool_calls"] = [
            {"id": f"call_{n}", "type": "function", "function": {"name": name, "arguments": json.dumps(given)}}
            for n, (name, given) in enumerate(calls, 1)
        ]
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": asked}, turn]
    row = {"id": id, "messages": messages, "meta": {"language": language, "template": id}}
    return conversation(row, f"row {id}", TOOLS)


def joined(*rows: Conversation, size: int = 2, results: Any = RESULTS) -> list[Conversation]:
    return join_requests(rows, size, results, rng=Random(0), tools=TOOLS, prefix="x")


def test_requests_are_consecutive_and_only_their_turns_are_learned() -> None:
    (row,) = joined(single("a", "A and B?", ("find", {"code": "A"}), ("find", {"code": "B"})), single("b", "thanks"))
    said = [(message.role, message.content) for message in row.messages]
    assert said == [
        ("system", "S"),
        ("user", "A and B?"),
        ("assistant", ""),
        ("tool", '{"at": "A"}'),
        ("tool", '{"at": "B"}'),
        ("assistant", "Found A. Found B."),
        ("user", "thanks"),
        ("assistant", "Which one?"),
    ]
    assert row.messages[3].tool_call_id == row.messages[2].tool_calls[0].id
    assert [example.turn.content for example in turns([row])] == ["", "Which one?"]
    assert (row.id, row.meta) == ("x-0001", {"language": "en", "template": "a+b"})
    assert not [finding for finding in check([row]) if finding.severity == "error"]


def test_calls_of_a_row_have_different_ids_and_results_have_the_id_of_their_call() -> None:
    (row,) = joined(*(single(id, id, ("find", {"code": id})) for id in "abc"), size=3)
    calls = [call.id for message in row.messages for call in message.tool_calls]
    assert calls == ["call_1", "call_2", "call_3"]
    assert [message.tool_call_id for message in row.messages if message.role == "tool"] == calls[:2]


def test_rows_of_a_language_stay_together_and_none_is_lost() -> None:
    rows = [single(f"{language}{n}", f"{n}?", language=language) for n in range(5) for language in ("en", "zh")]
    found = joined(*rows)
    parts = [str(row.meta["template"]).split("+") for row in found]
    assert sorted(id for part in parts for id in part) == sorted(row.id for row in rows)
    assert sum(len({id[:2] for id in part}) > 1 for part in parts) == 1  # of five and five, one row must mix both


def test_a_tool_without_a_result_in_the_language_is_an_error() -> None:
    with pytest.raises(UserError, match=r'^row a: results: nothing for bye in "zh"'):
        joined(single("a", "x", ("bye", {}), language="zh"), single("b", "y", language="zh"))
    with pytest.raises(UserError, match=r"^row a: results: find: \{code\} is not an argument of the call"):
        joined(single("a", "x", ("find", {})), single("b", "y"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("find: []\n", 'expected the one key "results"'),
        ("results: {find: [{tool: 1}]}\n", r"results.find.0.answer: field required"),
        ("results: {find: [{tool: 1, answer: {en: a}, more: 1}]}\n", r"results.find.0.more: extra inputs"),
    ],
)
def test_a_malformed_file_of_results_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "results.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        load_results(path)
