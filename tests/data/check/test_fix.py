"""Fixing: a fault with only one right fix is fixed, and everything else stays unchanged."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolhone.data.check import Survey
from toolhone.data.check.fix import fix_row
from toolhone.data.importers import openai
from toolhone.errors import RowError
from toolhone.records import Conversation, Tool

Row = dict[str, Any]
USER = {"role": "user", "content": "where is ORD-1?"}
ANSWER = {"role": "assistant", "content": "On its way."}
PARAMETERS = {"type": "object", "properties": {"id": {"type": "string"}, "n": {"type": ["integer", "null"]}}}
TOOL = Tool("find", "", PARAMETERS)


def call(arguments: Any = '{"id": "ORD-1"}', **more: Any) -> Row:
    return {"type": "function", "function": {"name": "find", "arguments": arguments}, **more}


def turn(*calls: Row) -> Row:
    return {"role": "assistant", "content": None, "tool_calls": list(calls)}


def result(**more: Any) -> Row:
    return {"role": "tool", "content": "shipped", **more}


def fixed(*messages: Row, **more: Any) -> tuple[Row, list[str]]:
    row = {"messages": list(messages), **more}
    before = copy.deepcopy(row)
    made, done = fix_row(row, (TOOL,))
    assert row == before, "fix_row changed its argument"
    assert fix_row(made, (TOOL,)) == (made, [])
    return made, [rule for rule, _ in done]


@pytest.mark.parametrize("times", [2, 3])
def test_arguments_are_encoded_once(times: int) -> None:
    text = given_text = '{"id": "ORD-1"}'
    for _ in range(times - 1):
        given_text = json.dumps(given_text)
    row, done = fixed(USER, turn(call(given_text)))
    assert row["messages"][1]["tool_calls"][0]["function"]["arguments"] == text
    assert done == ["arguments-encoded-twice"]


@pytest.mark.parametrize("arguments", ['"ORD-1"', '"[1]"', '"{"', "[1]", '{"id": NaN}', "", None, {"id": "ORD-1"}, 7])
def test_arguments_that_are_sound_or_hold_no_object_stay_unchanged(arguments: Any) -> None:
    row, done = fixed(USER, turn(call(arguments)))
    assert (row["messages"][1]["tool_calls"][0]["function"]["arguments"], done) == (arguments, [])


def test_nulls_are_removed_from_schemas() -> None:
    parameters = {"type": "object", "properties": {"id": {"type": "string", "enum": None}, "sku": None}}
    row, done = fixed(USER, ANSWER, tools=[{"type": "function", "function": {"name": "f", "parameters": parameters}}])
    assert row["tools"][0]["function"]["parameters"] == {"type": "object", "properties": {"id": {"type": "string"}}}
    assert done == ["null-filled-schema"]


@pytest.mark.parametrize(
    ("arguments", "kept"),
    [
        ({"id": None, "n": 1}, {"n": 1}),
        ({"id": None, "n": None}, {"n": None}),  # the schema accepts null there, so it may be intended
        ({"id": "ORD-1", "other": None}, {"id": "ORD-1"}),  # the tool does not list it
        ({"id": None, "n": "x"}, {"n": "x"}),  # "n" is another fault
    ],
)
def test_a_null_that_the_schema_refuses_is_removed(arguments: Row, kept: Row) -> None:
    row, _ = fixed(USER, turn(call(json.dumps(arguments))))
    assert json.loads(row["messages"][1]["tool_calls"][0]["function"]["arguments"]) == kept


def test_legacy_functions_become_tools_and_calls() -> None:
    legacy = {"role": "assistant", "content": None, "function_call": {"name": "find", "arguments": "{}"}}
    answer = {"role": "function", "name": "find", "content": "shipped"}
    row, done = fixed(USER, legacy, answer, legacy, answer, ANSWER, functions=[{"name": "find", "parameters": {}}])
    assert row["tools"] == [{"type": "function", "function": {"name": "find", "parameters": {}}}]
    assert "functions" not in row
    ids = [message["tool_calls"][0]["id"] for message in row["messages"] if message.get("tool_calls")]
    assert ids == ["call_1", "call_2"]
    assert row["messages"][4] == {"role": "tool", "content": "shipped", "tool_call_id": "call_2"}
    assert set(done) == {"legacy"}


def test_a_legacy_result_of_another_function_stays_unchanged() -> None:
    legacy = {"role": "assistant", "content": None, "function_call": {"name": "find", "arguments": "{}"}}
    row, _ = fixed(USER, legacy, {"role": "function", "name": "other", "content": "x"}, ANSWER)
    assert row["messages"][2]["role"] == "function"


def test_ids_are_added_if_results_can_be_linked_to_calls_in_only_one_way() -> None:
    row, done = fixed(USER, turn(call()), result(), ANSWER)
    assert row["messages"][1]["tool_calls"][0]["id"] == row["messages"][2]["tool_call_id"] == "call_1"
    assert done == ["missing-call-id", "missing-call-id"]
    row, _ = fixed(USER, turn(call(id="a"), call(id="b")), result(tool_call_id="b"), result(), ANSWER)
    assert row["messages"][3]["tool_call_id"] == "a"
    row, _ = fixed(USER, turn(call()), result(tool_call_id="x"), ANSWER)
    assert row["messages"][1]["tool_calls"][0]["id"] == "x"


def test_results_that_may_answer_either_call_stay_unchanged() -> None:
    row, done = fixed(USER, turn(call(id="a"), call(id="b")), result(), result(), ANSWER)
    assert [message.get("tool_call_id") for message in row["messages"][2:4]] == [None, None]
    assert done == []
    row, done = fixed(USER, turn(call(id="a"), call()), result(tool_call_id="a"), result(tool_call_id="z"), ANSWER)
    assert "id" not in row["messages"][1]["tool_calls"][1]
    assert done == []


@pytest.mark.parametrize("row", [{}, {"messages": "x"}, {"messages": ["x"]}, {"conversations": [{"from": "human"}]}])
def test_rows_of_another_format_stay_unchanged(row: Row) -> None:
    assert fix_row(row) == (row, [])


# Properties

ARGUMENTS = st.sampled_from(
    ["{}", '{"id": "ORD-1"}', '"{\\"id\\": \\"ORD-1\\"}"', '"\\"{}\\""', '{"id": null}', '{"n": null}', "[]", "{", None]
)
IDS = st.sampled_from([None, "a", "b", "call_1"])


def optional(key: str, values: st.SearchStrategy[Any]) -> st.SearchStrategy[Row]:
    return st.one_of(st.just({}), values.map(lambda value: {key: value}))


CALLS = st.builds(lambda arguments, id: call(arguments, **id), ARGUMENTS, optional("id", IDS))
MESSAGES = st.one_of(
    st.just(USER),
    st.just(ANSWER),
    st.builds(lambda calls: turn(*calls), st.lists(CALLS, max_size=2)),
    st.builds(lambda id: result(**id), optional("tool_call_id", IDS)),
    st.builds(
        lambda name, arguments: {"role": "assistant", "function_call": {"name": name, "arguments": arguments}},
        st.sampled_from(["find", "other"]),
        ARGUMENTS,
    ),
    st.builds(lambda name: {"role": "function", "name": name, "content": "x"}, st.sampled_from(["find", "other"])),
)
SCHEMAS = st.sampled_from([PARAMETERS, {"properties": {"id": None}}, {"properties": {"id": {"enum": None}}}, None])
ROWS = st.builds(
    lambda messages, tools, functions: {"messages": messages, **tools, **functions},
    st.lists(MESSAGES, max_size=6),
    optional("tools", st.lists(SCHEMAS.map(lambda p: {"name": "find", "parameters": p}), max_size=1)),
    optional("functions", st.lists(SCHEMAS.map(lambda p: {"name": "find", "parameters": p}), max_size=1)),
)
FIXABLE = {"arguments-encoded-twice", "null-filled-schema"}


@settings(max_examples=400)
@given(ROWS)
def test_fixing_twice_changes_nothing_more_and_a_sound_row_is_the_same_object(row: Row) -> None:
    before = copy.deepcopy(row)
    made, done = fix_row(row, (TOOL,))
    assert row == before
    assert fix_row(made, (TOOL,)) == (made, [])
    assert bool(done) == (made is not row)


@settings(max_examples=400)
@given(ROWS)
def test_a_readable_row_keeps_its_meaning(row: Row) -> None:
    made, _ = fix_row(row, (TOOL,))
    try:
        read = openai.read(row, "w:1", (TOOL,))
    except RowError:
        return
    again = openai.read(made, "w:1", (TOOL,))
    assert _meaning(again) == _meaning(read)


@settings(max_examples=400)
@given(ROWS)
def test_a_fixed_row_has_no_fixable_finding_left(row: Row) -> None:
    made, _ = fix_row(row, (TOOL,))
    try:
        read = openai.read(made, "w:1", (TOOL,))
    except RowError as error:
        fault = error
    else:
        fault = None
    if fault is not None:
        assert fault.rule not in FIXABLE
        return
    rules = {finding.rule for finding in Survey().row(read)}
    assert not rules & FIXABLE
    # After fixing, a single call and its single result always have ids.
    for number, message in enumerate(read.messages[:-1]):
        results = [m for m in read.messages[number + 1 : number + 3] if m.role == "tool"]
        if len(message.tool_calls) == len(results) == 1 and read.messages[number + 1] is results[0]:
            assert message.tool_calls[0].id is not None
            assert results[0].tool_call_id is not None


def _meaning(row: Conversation) -> list[Any]:
    """Everything except ids and null arguments."""
    return [
        (
            message.role,
            message.content,
            [
                (call.name, {key: value for key, value in call.arguments.items() if value is not None})
                for call in message.tool_calls
            ],
        )
        for message in row.messages
    ]
