"""ms-swift: rows for agents, with calls and results as messages of their own roles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from toolhone.data.importers import swift
from toolhone.data.importers.importer import RowFault
from toolhone.data.read import detected_formats, read_source
from toolhone.errors import RowError
from toolhone.records import Conversation

ROWS = Path(__file__).parents[2] / "fixtures" / "importers" / "ms_swift" / "rows.jsonl"
Row = dict[str, Any]
USER = {"role": "user", "content": "Where is it warm?"}
CALL = {"role": "tool_call", "content": {"name": "find", "arguments": {"city": "Lund"}}}
RESULT = {"role": "tool_response", "content": "sunny"}
ANSWER = {"role": "assistant", "content": "Lund."}


def read(path: Path) -> tuple[list[Conversation], list[tuple[int, str]]]:
    found = list(read_source(path))
    faults = [(int(row.where.rpartition(":")[2]), row.rule) for row in found if isinstance(row, RowFault)]
    return [row for row in found if isinstance(row, Conversation)], faults


def messages(*said: Row, **row: Any) -> list[Row]:
    (made,) = swift.rewrite({"messages": list(said), **row}, "a.jsonl:3")
    assert isinstance(made, dict)
    found: list[Row] = made["messages"]
    return found


def rule(*said: Row, **row: Any) -> str:
    with pytest.raises(RowError, match=r"^a\.jsonl:3: ") as caught:
        messages(*said, **row)
    return caught.value.rule


def test_consecutive_calls_and_the_text_before_them_are_one_turn() -> None:
    assert list(detected_formats(ROWS).values()) == ["ms-swift"]
    found, faults = read(ROWS)
    assert faults == [(4, "rejected-answer")]
    turn = found[0].messages[2]
    assert turn.content == "Let me look at both."
    assert [(call.name, call.arguments) for call in turn.tool_calls] == [
        ("get_weather", {"city": "Lund", "days": 2}),
        ("get_weather", {"city": "Umeå", "days": 2}),
    ]
    assert [message.tool_call_id for message in found[0].messages[3:5]] == [call.id for call in turn.tool_calls]
    assert [len(row.tools) for row in found] == [2] * 5


def test_loss_becomes_weight_and_other_columns_become_meta() -> None:
    found, _ = read(ROWS)
    assert [m.weight for m in found[1].messages if m.role == "assistant"] == [0.0, 1.0]
    assert found[1].messages[1].tool_calls[0].arguments == {"restaurant": "Blue Lantern", "guests": 4, "note": None}
    assert found[1].meta == {"channel": "shop"}
    assert found[3].meta == {"rejected_response": "I do not know."}


def test_a_call_may_be_an_object_a_json_string_or_a_python_literal() -> None:
    arguments = {"city": "Lund"}
    for content in (
        {"name": "find", "arguments": arguments},
        {"name": "find", "parameters": arguments},
        {"name": "find", "arguments": json.dumps(arguments)},
        json.dumps({"name": "find", "arguments": json.dumps(arguments)}),
        "{'name': 'find', 'arguments': {'city': 'Lund'}}",
    ):
        _, turn, *_ = messages(USER, {"role": "tool_call", "content": content}, RESULT)
        assert turn["tool_calls"] == [{"id": "call_0", "function": {"name": "find", "arguments": arguments}}]


def test_the_older_role_names_and_messages_as_text_are_read(tmp_path: Path) -> None:
    wanted = messages(USER, CALL, RESULT, ANSWER)
    renamed = [USER, {**CALL, "role": "function_call"}, {**RESULT, "role": "observation"}, {**ANSWER, "role": "gpt"}]
    assert messages(*renamed) == wanted
    (made,) = swift.rewrite({"messages": json.dumps([USER, CALL, RESULT, ANSWER])}, "a.jsonl:3")
    assert isinstance(made, dict)
    assert made["messages"] == wanted
    assert messages(USER, CALL, system="Be brief.")[0] == {"role": "system", "content": "Be brief."}


def test_calls_after_a_result_are_a_new_turn() -> None:
    made = messages(USER, CALL, RESULT, CALL, {**RESULT, "role": "tool"}, ANSWER)
    assert [message["role"] for message in made] == ["user", "assistant", "tool", "assistant", "tool", "assistant"]
    assert made[3]["tool_calls"][0]["id"] == made[4]["tool_call_id"]


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ([USER, {"role": "tool_call", "content": "find(city)"}], "bad-call"),
        ([USER, {"role": "tool_call", "content": {"arguments": {}}}], "bad-call"),
        ([{**ANSWER, "loss": False}, {**CALL, "loss": True}], "bad-weight"),
        ([{**ANSWER, "loss_scale": 0.5}, CALL], "bad-weight"),
        ([{"role": "judge", "content": "x"}, CALL], "bad-role"),
        ([{**USER, "tool_calls": []}, CALL], "unknown-key"),
        ([], "no-messages"),
    ],
)
def test_what_cannot_be_read_has_a_rule(said: list[Row], wanted: str) -> None:
    assert rule(*said) == wanted


def test_rows_with_images_are_left_out_under_a_rule() -> None:
    assert rule(USER, CALL, images=["a.png"]) == "content-not-text"
    assert messages(USER, CALL, images=[])
