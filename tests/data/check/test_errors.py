"""Checking conversations: every rule finds its fault at its place, and clean data has no findings."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from toolhone.data.check import Finding, check, refuse_faults
from toolhone.data.importers.openai import conversation
from toolhone.data.read import read_conversations, read_tools
from toolhone.errors import UserError
from toolhone.records import Conversation

SHIPPED = Path(__file__).parents[3] / "data" / "customer_service"
PARAMETERS = {
    "type": "object",
    "properties": {
        "order_id": {"type": "string"},
        "lines": {"type": "array", "items": {"type": "object", "properties": {"count": {"type": "integer"}}}},
    },
    "required": ["order_id"],
    "additionalProperties": False,
}
TOOLS = [{"name": "query_order", "parameters": PARAMETERS}, {"name": "query_stock"}]

SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "Where is ORD-1?"}
ANSWER = {"role": "assistant", "content": "On its way."}


def call(arguments: Any = None, name: str = "query_order", id: str | None = None) -> dict[str, Any]:
    arguments = {"order_id": "ORD-1"} if arguments is None else arguments
    return {"id": id, "function": {"name": name, "arguments": arguments}}


def calls(*found: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": list(found)}


def result(id: str | None = None) -> dict[str, Any]:
    return {"role": "tool", "content": "shipped", "tool_call_id": id}


def row(*messages: dict[str, Any], line: int = 4, tools: Any = TOOLS, **more: Any) -> Conversation:
    return conversation({"messages": list(messages), "tools": tools, **more}, f"train.jsonl:{line}")


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_shipped_data_has_no_findings(split: str) -> None:
    tools = read_tools(SHIPPED / "tools.json")
    rows = list(read_conversations(SHIPPED / f"{split}.jsonl", tools))
    assert len(rows) >= 200
    assert list(check(rows)) == []


@pytest.mark.parametrize(
    "messages",
    [
        (USER, ANSWER),
        (SYSTEM, USER, calls(call(id="a"), call(id="b")), result("b"), result("a"), ANSWER),
        (USER, calls(call()), result(), ANSWER),
        (USER, calls(call(id="a")), result(), calls(call({}, "query_stock", "b")), result("b"), ANSWER),
        (USER, USER, {**ANSWER, "weight": 0}, USER, ANSWER),
    ],
)
def test_a_sound_conversation_has_no_findings(messages: tuple[dict[str, Any], ...]) -> None:
    assert list(check([row(*messages)])) == []


@pytest.mark.parametrize(
    ("messages", "rule", "message"),
    [
        ((SYSTEM, USER), "no-assistant", "no assistant turn: there is nothing to learn from the row"),
        ((USER, SYSTEM, USER, ANSWER), "role-order", "message 1: a system message must come first"),
        ((ANSWER, USER, ANSWER), "role-order", "message 0: an assistant turn with nothing to answer"),
        ((SYSTEM, ANSWER), "role-order", "message 1: an assistant turn with nothing to answer"),
        ((USER, ANSWER, ANSWER), "role-order", "message 2: two assistant turns in a row; merge them"),
        ((USER, {**ANSWER, "content": " "}), "empty-turn", "message 1: the assistant turn has no text and no call"),
        ((USER, result(), ANSWER), "role-order", "message 1: a tool result without a call before it"),
        ((result(), ANSWER), "role-order", "message 0: a tool result without a call before it"),
        ((USER, ANSWER, result(), ANSWER), "role-order", "message 2: a tool result without a call before it"),
        (
            (USER, calls(call(id="a"), call(id="b")), result("a"), result("c"), ANSWER),
            "orphan-result",
            'message 3: no call has the id "c"; the calls before have a, b',
        ),
        (
            (USER, calls(call(name="query_ordr"))),
            "unknown-tool",
            'message 1: tool call "query_ordr" is not in tools (did you mean "query_order"?)',
        ),
        (
            (USER, calls(call(name="zzz"))),
            "unknown-tool",
            'message 1: tool call "zzz" is not in tools; known: query_order, query_stock',
        ),
        (
            (USER, calls(call({}))),
            "schema",
            "message 1: arguments of \"query_order\": 'order_id' is a required property",
        ),
        (
            (USER, calls(call({"order_id": 7}))),
            "schema",
            "message 1: arguments of \"query_order\": order_id: 7 is not of type 'string'",
        ),
        (
            (USER, calls(call({"order_id": "A", "lines": [{}, {"count": "two"}]}))),
            "schema",
            "message 1: arguments of \"query_order\": lines[1].count: 'two' is not of type 'integer'",
        ),
    ],
)
def test_each_fault_is_found_once_at_its_place(messages: tuple[dict[str, Any], ...], rule: str, message: str) -> None:
    clean = row(USER, ANSWER, line=1, id="clean")
    assert list(check([clean, row(*messages)])) == [Finding("train.jsonl:4", rule, message)]


def test_a_repeated_id_is_found_with_both_places() -> None:
    rows = [row(USER, ANSWER, line=n, id=id) for n, id in enumerate(["a", "b", "a"], 1)]
    message = 'the id "a" is already at train.jsonl:1; ids must differ'
    assert list(check(rows)) == [Finding("train.jsonl:3", "duplicate-id", message)]


def test_two_faults_in_one_call_are_both_found() -> None:
    found = list(check([row(USER, calls(call({"order_id": 1, "extra": 2})))]))
    assert [finding.rule for finding in found] == ["schema", "schema"]
    assert "'extra' was unexpected" in " ".join(finding.message for finding in found)


def test_a_call_without_any_tools_is_found() -> None:
    (found,) = check([row(USER, calls(call()), tools=[])])
    hint = "no tools are known (`toolhone data infer-tools` makes a list from the calls)"
    assert found.message == f'message 1: tool call "query_order" is not in tools; {hint}'


def test_a_row_is_checked_against_its_own_tools_only() -> None:
    rows = [row(USER, calls(call({}, "f")), line=n, id=str(n), tools=[{"name": name}]) for n, name in enumerate("fgf")]
    assert [finding.where for finding in check(rows)] == ["train.jsonl:1"]


def test_the_errors_of_all_rows_are_in_one_message() -> None:
    rows = [row(USER, line=n, id=str(n)) for n in range(25)]
    with pytest.raises(UserError) as caught:
        refuse_faults(rows)
    lines = str(caught.value).splitlines()
    assert len(lines) == 21
    assert lines[0] == "train.jsonl:0: no assistant turn: there is nothing to learn from the row"
    assert lines[-1] == "... and 5 more"
    refuse_faults([row(USER, ANSWER)])


# Schemas


def schema_of(property: Any) -> list[dict[str, Any]]:
    return [{"name": "f", "parameters": {"type": "object", "properties": {"a": property}}}]


def test_an_invalid_schema_is_found_once_with_tool_and_row() -> None:
    tools = read_rows_tools(schema_of({"type": "text"}))
    lines = [{"messages": [USER, calls(call({"a": 1}, "f"))], "id": str(n)} for n in range(3)]
    rows = [conversation(line, f"train.jsonl:{n}", tools) for n, line in enumerate(lines, 1)]
    (found,) = check(rows)
    assert (found.where, found.rule) == ("train.jsonl:1", "bad-schema")
    assert found.message.startswith("tool \"f\": its parameters are not a JSON Schema: 'text' is not valid")


def read_rows_tools(tools: list[dict[str, Any]]) -> Any:
    return row(USER, tools=tools).tools


def test_no_reference_is_looked_up_on_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(urllib.request, "urlopen", lambda *args, **_: asked.append(args))
    tools = schema_of({"$ref": "https://example.org/other.json"})
    (found,) = check([row(USER, calls(call({"a": 1}, "f")), tools=tools)])
    assert asked == []
    assert (found.where, found.rule) == ("train.jsonl:4", "bad-schema")
    assert found.message.startswith('message 1: tool "f": its parameters have a broken reference (')


def test_a_reference_within_the_schema_is_followed() -> None:
    tools = schema_of({"$ref": "#/$defs/word"})
    tools[0]["parameters"]["$defs"] = {"word": {"type": "string"}}
    assert list(check([row(USER, calls(call({"a": "x"}, "f")), tools=tools)])) == []
    (found,) = check([row(USER, calls(call({"a": 1}, "f")), tools=tools)])
    assert found.message == "message 1: arguments of \"f\": a: 1 is not of type 'string'"


def test_references_that_form_a_circle_are_found() -> None:
    tools = schema_of({"$ref": "#/properties/a"})
    (found,) = check([row(USER, calls(call({"a": 1}, "f")), tools=tools)])
    assert found.message == 'message 1: tool "f": references in its parameters form a circle; fix the tool'


def test_a_number_larger_than_any_float_is_a_finding() -> None:
    arguments = json.dumps({"a": 10**400})
    (found,) = check([row(USER, calls(call(arguments, "f")), tools=schema_of({"multipleOf": 0.5}))])
    assert (found.rule, found.message) == ("schema", 'message 1: arguments of "f": a number is too large')
