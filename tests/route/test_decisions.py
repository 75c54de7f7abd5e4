"""Rows from a cascade's decision log: the gold, what is left out and under which rule, and the review sheet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from decided import completion, decide, half_sure, small_answer
from loopback import Server, serving
from rich.console import Console

from toolhone.cli import main
from toolhone.data.read import examples, read_conversations
from toolhone.errors import UserError
from toolhone.jsonl import write_conversations, write_jsonl
from toolhone.records import Conversation, Example, Gold, Message, Tool, ToolCall
from toolhone.route.decisions import Imported, import_decisions

_TEXT = {"type": "string"}
ORDER = Tool("query_order", "", {"type": "object", "properties": {"order_id": _TEXT}, "required": ["order_id"]})
HELP = Tool("help", "", {"type": "object", "properties": {}})
TOOLS = (ORDER, HELP)
BROKEN = '<tool_call>\n{"name": "query_order", "argum'


def gold(body: dict[str, Any]) -> tuple[int, Any]:
    """The large model: queries the order that the last message names, thanks a tool, and has a few bad days."""
    said = body["messages"][-1]["content"]
    if body["messages"][-1]["role"] == "tool":
        return 200, completion(text="It is on its way.")
    if body.get("tool_choice") == "none":
        return 200, completion(text="I may not look.")
    if "refuse" in said:
        return 401, {"error": {"message": "no"}}
    if "cut" in said:
        return 200, completion(text="Your order is", finish="length")
    if "wrongly" in said:
        return 200, completion([("query_order", {"order": "K1"})])
    return 200, completion([("query_order", {"order_id": said.split()[-1]})])


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with serving(gold, monkeypatch) as server:
        yield server


def query(id_: str, *messages: Message | str) -> Example:
    prompt = tuple(Message("user", one) if isinstance(one, str) else one for one in messages)
    return Example(id_, id_, prompt, Message("assistant", ""), Gold("any"), TOOLS, "made:1", None, {})


def call_text(name: str, **arguments: object) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def logged(
    large: Server, *asked: Example, small: str = BROKEN, path: str = "decisions.jsonl", keeps: bool = False, **how: Any
) -> Path:
    requests = [(one, small_answer(one.id, small)) for one in asked]
    decide(Path(path), large.url, requests, half_sure(keeps=keeps), **how)
    return Path(path)


def imported(path: Path, *against: str, **given: Any) -> Imported:
    return import_decisions([path], against, Console(file=io.StringIO()), **given)


pytestmark = pytest.mark.usefixtures("in_workspace")


def test_an_escalated_query_becomes_a_row_with_the_large_models_answer_as_gold(large: Server) -> None:
    small = call_text("query_order", order_id="K7")
    found = imported(logged(large, query("d1", Message("system", "Be brief."), "Where is K7"), small=small))
    [row] = found.rows
    assert (row.id, row.gold_source, row.tools) == ("d1", "big-1", TOOLS)
    assert [message.role for message in row.messages] == ["system", "user", "assistant"]
    [call] = row.messages[2].tool_calls
    assert (call.name, call.arguments) == ("query_order", {"order_id": "K7"})
    assert row.meta.keys() == {"date", "confidence", "small_disagrees"}
    assert (row.meta["confidence"], row.meta["small_disagrees"]) == (0.5, False)
    assert found.disagreements == {}


def test_an_answer_of_the_small_model_that_differs_is_named(large: Server) -> None:
    path = logged(large, query("d1", "Where is K7"), small=call_text("query_order", order_id="K8"))
    found = imported(path)
    assert found.rows[0].meta["small_disagrees"] is True
    assert found.disagreements == {"d1/1": 'the small model: query_order({"order_id": "K8"})'}


def test_answers_that_the_policy_kept_are_counted_and_not_imported(large: Server) -> None:
    path = logged(large, query("d1", "Where is K7"), small=call_text("query_order", order_id="K7"), keeps=True)
    logged(large, query("d2", "Where is K8"))
    found = imported(path)
    assert [row.id for row in found.rows] == ["d2"]
    assert next(found.lines()) == "2 decisions: 1 answers of the small model kept, 1 escalated"


def test_requests_of_one_conversation_become_one_row(large: Server) -> None:
    first = query("d1", "Where is K7")
    call = Message("assistant", "", (ToolCall("query_order", {"order_id": "K7"}, "call_0"),))
    second = query("d2", "Where is K7", call, Message("tool", "{}", tool_call_id="call_0"))
    [row] = imported(logged(large, first, second)).rows
    assert [(m.role, m.weight) for m in row.messages if m.role == "assistant"] == [("assistant", 1.0)] * 2
    assert len(examples(row)) == 2


def test_an_earlier_answer_of_the_small_model_is_context_and_not_learned(large: Server) -> None:
    call = Message("assistant", "", (ToolCall("help", {}, "call_0"),))
    second = query("d2", "Hello", call, Message("tool", "{}", tool_call_id="call_0"))
    [row] = imported(logged(large, second)).rows
    assert [m.weight for m in row.messages if m.role == "assistant"] == [0.0, 1.0]


def test_whatever_is_left_out_is_counted_by_its_rule(large: Server) -> None:
    path = logged(large, *(query(f"d{n}", text) for n, text in enumerate(("refuse", "cut", "wrongly", "is K1"))))
    logged(large, query("d4", "is K4"), log_texts=False)
    found = imported(path)
    assert [row.id for row in found.rows] == ["d3"]
    assert found.left_out == {"no-large-answer": 1, "log-truncated": 1, "invalid (schema)": 1, "no-texts": 1}
    assert list(found.lines()) == [
        "5 decisions: 0 answers of the small model kept, 5 escalated",
        "left out 4 of 5 escalated queries: 1 no-large-answer, 1 log-truncated, 1 no-texts, 1 invalid (schema)",
        "imported 1 escalated queries as 1 rows; the small model answered 1 of them otherwise",
    ]


def test_known_turns_are_left_out(large: Server) -> None:
    path = logged(large, *(query(f"d{n}", text) for n, text in enumerate(("is K1", "is K2", "is K3", "is K3"))))
    known = [
        Conversation(
            f"r{n}",
            (Message("user", f"is K{n}"), Message("assistant", "", (ToolCall("query_order", {"order_id": code}),))),
            (HELP, ORDER),
            f"rows:{n}",
        )
        for n, code in ((1, "K1"), (2, "K-2"))
    ]
    write_conversations(Path("train.jsonl"), known)
    found = imported(path, "train.jsonl")
    assert [row.id for row in found.rows] == ["d2"]
    assert found.left_out == {"duplicate": 2, "same-prompt": 1}


def test_a_conversation_with_one_known_turn_learns_only_the_other(large: Server) -> None:
    call = Message("assistant", "", (ToolCall("query_order", {"order_id": "K7"}, "call_0"),))
    second = query("d2", "Where is K7", call, Message("tool", "{}", tool_call_id="call_0"))
    path = logged(large, query("d1", "Where is K7"), second)
    write_conversations(Path("train.jsonl"), [Conversation("r", (Message("user", "Where is K7"), call), TOOLS, "r:1")])
    found = imported(path, "train.jsonl")
    assert [example.id for example in examples(found.rows[0])] == ["d2/3"]
    assert found.left_out == {"duplicate": 1}


def test_near_duplicates_are_left_out_on_request(large: Server) -> None:
    text = "Good morning, could you please tell me right now where my order is, the one with the number"
    path = logged(large, query("d1", f"{text} K71"), query("d2", f"{text} K72"), query("d3", "Stop. K73"))
    assert len(imported(path).rows) == 3
    found = imported(path, near=True)
    assert [row.id for row in found.rows] == ["d1", "d3"]
    assert found.left_out == {"near-duplicate": 1}
    write_conversations(Path("train.jsonl"), [replace(imported(path).rows[1], id="r")])
    assert [row.id for row in imported(path, "train.jsonl", near=True).rows] == ["d3"]


def test_a_request_that_forbade_calls_offers_no_tools(large: Server) -> None:
    [row] = imported(logged(large, query("d1", "Where is K7"), may_call=False)).rows
    assert (row.tools, row.messages[1].content) == ((), "I may not look.")


def test_a_log_without_texts_is_refused(large: Server) -> None:
    path = logged(large, query("d1", "is K1"), query("d2", "refuse"), log_texts=False)
    with pytest.raises(UserError, match=r"none of 1 escalated decisions has texts; run `toolhone serve` with --log-t"):
        imported(path)


def test_a_file_that_is_no_decision_log_is_refused() -> None:
    write_jsonl(Path("rows.jsonl"), [{"id": "r1", "messages": []}])
    with pytest.raises(UserError, match=r"^rows.jsonl:1: is not a decision; expected a line of the log of"):
        imported(Path("rows.jsonl"))


def test_a_log_of_an_older_version_is_read_with_the_given_chat_format(large: Server) -> None:
    path = logged(large, query("d1", "Where is K7"), small='{"name": "query_order", "parameters": {"order_id": "K7"}}')
    [line] = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    del line["large_model"], line["texts"]["format"], line["texts"]["finish_reason"], line["texts"]["tool_choice"]
    write_jsonl(Path("old.jsonl"), [line])
    [row] = imported(Path("old.jsonl"), chat_format="gemma").rows
    assert (row.gold_source, row.meta["small_disagrees"]) == ("unknown", False)


def test_the_command_writes_rows_and_a_sheet_that_begins_with_the_doubtful_ones(
    large: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    agreed = [query(f"d{n}", f"is K{n}") for n in range(6)]
    for n, one in enumerate(agreed):
        logged(large, one, small=call_text("query_order", order_id=f"K{n}"))
    path = logged(large, query("d9", "is K9"), small="I do not know.")
    command = ["data", "import-decisions", str(path), "--out", "rows.jsonl", "--review", "sheet.csv"]
    assert main(command) == 0
    assert "imported 7 escalated queries as 7 rows; the small model answered 1 of them otherwise" in (
        capsys.readouterr().out
    )
    assert len(list(read_conversations(Path("rows.jsonl")))) == 7
    sheet = list(csv.DictReader(io.StringIO(Path("sheet.csv").read_text(encoding="utf-8-sig"), newline="")))
    assert sheet[0]["id"] == "d9/1"
    assert sheet[0]["doubts"] == "disagreement: the small model: I do not know."
    assert len(sheet) == 7
    assert main(["data", "check", "rows.jsonl"]) == 0


def test_the_log_itself_is_not_overwritten(large: Server, capsys: pytest.CaptureFixture[str]) -> None:
    path = logged(large, query("d1", "is K1"))
    assert main(["data", "import-decisions", str(path), "--out", str(path)]) == 2
    assert "decisions.jsonl: is one of the logs; name another file" in capsys.readouterr().err
