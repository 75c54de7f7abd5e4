"""OpenAI's format and its variants: legacy rows, other spellings, and the faults that tables and converters make."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolhone.data.importers.openai import conversation, looks_like, read, read_tool_list
from toolhone.errors import RowError
from toolhone.records import Message, ToolCall

USER = {"role": "user", "content": "Where is ORD-001?"}
FUNCTION = {"name": "query_order", "parameters": {"type": "object", "properties": {"order_id": {"type": "string"}}}}
CALL = {"name": "query_order", "arguments": '{"order_id": "ORD-001"}'}
LEGACY = {
    "messages": [
        USER,
        {"role": "assistant", "content": None, "function_call": CALL},
        {"role": "function", "name": "query_order", "content": '{"status": "shipped"}'},
        {"role": "assistant", "content": "It has been shipped."},
    ],
    "functions": [FUNCTION],
}


def rule(row: dict[str, Any]) -> tuple[str, str]:
    with pytest.raises(RowError) as caught:
        read(row, "a.jsonl:3")
    where, _, message = str(caught.value).partition(": ")
    assert where == "a.jsonl:3"
    return caught.value.rule, message


# Legacy rows and variants


def test_a_legacy_row_is_read_with_results_linked_to_their_calls() -> None:
    row = read(LEGACY, "a.jsonl:1")
    assert row.messages[1] == Message("assistant", "", (ToolCall("query_order", {"order_id": "ORD-001"}, "call_1"),))
    assert row.messages[2] == Message("tool", '{"status": "shipped"}', tool_call_id="call_1")
    assert [tool.name for tool in row.tools] == ["query_order"]
    assert conversation(json.loads(json.dumps(row.to_json())), "a.jsonl:1") == row


def test_each_legacy_result_is_linked_to_the_call_before_it() -> None:
    call, result = LEGACY["messages"][1:3]
    row = read({"messages": [USER, call, result, call, result]}, "a.jsonl:1")
    assert [message.tool_call_id for message in row.messages] == [None, None, "call_1", None, "call_3"]
    assert [call.id for message in row.messages for call in message.tool_calls] == ["call_1", "call_3"]


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([USER, LEGACY["messages"][2]], "message 1: a function result without a function_call before it"),
        ([LEGACY["messages"][2]], "message 0: a function result without a function_call before it"),
        (
            [USER, LEGACY["messages"][1], {"role": "function", "name": "other", "content": ""}],
            'message 2: the result of "other" follows a call of "query_order"',
        ),
    ],
)
def test_a_legacy_result_without_its_call_is_refused(messages: list[Any], message: str) -> None:
    assert rule({"messages": messages}) == ("orphan-result", message)


def test_a_row_with_both_legacy_and_current_keys_is_refused() -> None:
    assert rule({**LEGACY, "tools": [FUNCTION]})[0] == "tools-and-functions"
    both = {"role": "assistant", "function_call": CALL, "tool_calls": [{"function": CALL}]}
    assert rule({"messages": [USER, both]})[0] == "tools-and-functions"


def test_null_counts_as_absent() -> None:
    nulls = {"function_call": None, "tool_calls": None, "tool_call_id": None, "weight": None, "audio": None}
    row = {"messages": [{**USER, **nulls}], "functions": None, "tools": None, "split": None}
    assert read(row, "a.jsonl:1").messages == (Message("user", "Where is ORD-001?"),)


def test_text_parts_are_joined_and_developer_becomes_system() -> None:
    parts = [{"type": "text", "text": "Where "}, {"type": "text", "text": ""}, {"type": "text", "text": "is it?"}]
    row = read({"messages": [{"role": "developer", "content": "Be brief."}, {**USER, "content": parts}]}, "a.jsonl:1")
    assert row.messages == (Message("system", "Be brief."), Message("user", "Where is it?"))


def test_an_image_is_refused_instead_of_dropped() -> None:
    image = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    found = rule({"messages": [{**USER, "content": [{"type": "text", "text": "Look"}, image]}]})
    assert found[0] == "content-not-text"
    assert found[1].startswith("message 0: expected a text part, found")


def test_tools_may_be_a_json_string() -> None:
    row = {"messages": [USER], "tools": json.dumps([FUNCTION])}
    assert [tool.name for tool in read(row, "a.jsonl:1").tools] == ["query_order"]
    assert rule({**row, "tools": "[{"}) == (
        "broken-json",
        'tools: broken JSON: Expecting property name enclosed in double quotes at column 3: "[{"',
    )


# Faults by their rule


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"message": []}, "unknown-key"),
        ({}, "no-messages"),
        ({"messages": ["hi"]}, "bad-message"),
        ({"messages": [{"role": "bot", "content": ""}]}, "bad-role"),
        ({"messages": [{"role": "user", "txt": "hi", "content": ""}]}, "unknown-key"),
        ({"messages": [{"role": "user", "content": 1}]}, "bad-content"),
        ({"messages": [{"role": "user"}]}, "empty-message"),
        ({"messages": [{"role": "user", "tool_calls": [CALL]}]}, "calls-of-another-role"),
        ({"messages": [{"role": "assistant", "tool_calls": "x"}]}, "bad-call"),
        ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "bad-call"),
        ({"messages": [{"role": "assistant", "content": "", "weight": 2}]}, "bad-weight"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"name": "f", "arguments": "{"}]}]}, "bad-arguments"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"name": "f", "arguments": [1]}]}]}, "bad-arguments"),
        ({"messages": [USER], "tools": {}}, "bad-tool"),
        ({"messages": [USER], "tools": [{}]}, "bad-tool"),
        ({"messages": [USER], "tools": [FUNCTION, FUNCTION]}, "tool-defined-twice"),
        ({"messages": [USER], "expected": {"status": "maybe"}}, "bad-expected"),
        ({"messages": [USER], "expected": {"status": "calls", "calls": ["f"]}}, "bad-expected"),
        ({"messages": [USER], "meta": 1}, "bad-type"),
    ],
)
def test_each_fault_has_its_rule(row: dict[str, Any], expected: str) -> None:
    assert rule(row)[0] == expected


def test_arguments_encoded_twice_have_their_own_rule() -> None:
    twice = {"name": "query_order", "arguments": json.dumps(CALL["arguments"])}
    turn = {"role": "assistant", "tool_calls": [{"type": "function", "function": twice}]}
    found = rule({"messages": [USER, turn]})
    assert found[0] == "arguments-encoded-twice"
    assert found[1].startswith("message 1: call 0: the arguments are encoded twice")
    assert rule({"messages": [USER, {"role": "assistant", "function_call": twice}]})[0] == "arguments-encoded-twice"


def test_schemas_that_a_table_filled_with_nulls_are_refused() -> None:
    import pyarrow

    tools = [
        {"name": "query_order", "parameters": {"type": "object", "properties": {"order_id": {"type": "string"}}}},
        {
            "name": "query_stock",
            "parameters": {"type": "object", "properties": {"sku": {"type": "string", "enum": ["A"]}}},
        },
    ]
    (merged,) = pyarrow.Table.from_pylist([{"tools": tools}]).to_pylist()
    assert merged["tools"] != tools
    found = rule({"messages": [USER], **merged})
    assert found[0] == "null-filled-schema"
    assert found[1].startswith("tool 0: its parameters have 1 null where JSON Schema allows none (properties.sku)")


@pytest.mark.parametrize(
    ("parameters", "path"),
    [
        (
            {"type": "object", "properties": {"a": {"type": "string", "default": None, "enum": None}}},
            "properties.a.enum",
        ),
        ({"type": "object", "properties": None}, "properties"),
        ({"type": "object", "required": None}, "required"),
        ({"properties": {"a": {"items": {"type": None}}}}, "properties.a.items.type"),
        ({"$defs": {"a": {"maxProperties": None}}}, "$defs.a.maxProperties"),
        ({"properties": {"a": {"anyOf": [{"type": "string"}, {"pattern": None}]}}}, "properties.a.anyOf[1].pattern"),
    ],
)
def test_a_null_is_named_by_its_path(parameters: dict[str, Any], path: str) -> None:
    found = rule({"messages": [USER], "tools": [{"name": "f", "parameters": parameters}]})
    assert found[0] == "null-filled-schema"
    assert f"({path})" in found[1]


def test_nulls_with_a_meaning_in_the_schema_stay() -> None:
    parameters = {
        "properties": {"a": {"default": None, "enum": ["x", None]}, "type": {"const": None}, "b": {"x-note": None}}
    }
    (tool,) = read({"messages": [USER], "tools": [{"name": "f", "parameters": parameters}]}, "a.jsonl:1").tools
    assert tool.parameters == parameters


def test_rows_with_equal_tools_share_one_tuple() -> None:
    # So a file of a million rows holds its tools, and compiles their schemas, once.
    rows = [{"messages": [USER], "tools": json.loads(json.dumps([FUNCTION]))} for _ in range(2)]
    assert read(rows[0], "a:1").tools is read(rows[1], "a:2").tools
    assert (
        read_tool_list([{"name": "f", "parameters": {"minimum": 1}}], "a")[0].parameters
        != read_tool_list([{"name": "f", "parameters": {"minimum": 1.5}}], "a")[0].parameters
    )


def test_tools_that_differ_only_in_a_number_s_type_are_not_shared() -> None:
    for value in (1, 1.0, True):
        (tool,) = read_tool_list([{"name": "f", "parameters": {"const": value}}], "a")
        assert repr(tool.parameters["const"]) == repr(value)


def test_rows_with_messages_are_detected() -> None:
    assert looks_like(LEGACY)
    assert looks_like({"messages": []})
    assert not looks_like({"messages": [{"from": "human", "value": "hi"}]})
    assert not looks_like({"messages": "hi"})
    assert not looks_like({"query": "hi"})


# Any row

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=4,
)
MODERN = {
    "id": "r",
    "messages": [
        {"role": "system", "content": "x"},
        USER,
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c", "type": "function", "function": CALL}],
            "weight": 1,
        },
        {"role": "tool", "tool_call_id": "c", "content": "{}"},
    ],
    "tools": [{"type": "function", "function": FUNCTION}],
    "parallel_tool_calls": True,
    "expected": {"status": "calls", "calls": [{"name": "f", "arguments": {"a": [1]}, "optional": ["a"]}]},
    "gold_source": "m",
    "meta": {},
}


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, inner in items for place in places(inner, (*path, key)))]


def mutated(row: Any, path: tuple[Any, ...], how: str, value: Any) -> Any:
    """The row with the value at the path replaced, removed, repeated or renamed."""
    if not path:
        return value
    key, rest = path[0], path[1:]
    copy = dict(row) if isinstance(row, dict) else list(row)
    if rest or how == "replace":
        copy[key] = mutated(copy[key], rest, how, value)
    elif how == "delete":
        del copy[key]
    elif isinstance(copy, list):
        copy.append(copy[key])
    else:
        copy[f"{key}_"] = copy.pop(key)
    return copy


@settings(max_examples=300)
@given(st.data())
def test_any_mutated_row_is_a_conversation_or_a_row_error(data: st.DataObject) -> None:
    row = data.draw(st.sampled_from([MODERN, LEGACY]))
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from([place for place in places(row) if place] or [()]))
        how = data.draw(st.sampled_from(["replace", "delete", "other"]))
        row = mutated(row, path, how, data.draw(JSON)) if path else row
    try:
        found = read(row, "a.jsonl:3")
    except RowError as error:
        fault = (str(error)[:11], error.rule)
    else:
        fault = None
    if fault is not None:
        assert fault[0] == "a.jsonl:3: "
        assert fault[1] != "row"
        return
    written = json.loads(json.dumps(found.to_json(), ensure_ascii=False))
    assert repr(conversation(written, "a.jsonl:3")) == repr(found)
