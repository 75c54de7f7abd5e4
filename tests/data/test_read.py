"""Reading conversations: which rows are accepted, what they become, and how errors name a faulty row."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolhone.data.importers.openai import conversation
from toolhone.data.read import examples, read_conversations, read_tools
from toolhone.errors import RowError, UserError
from toolhone.records import Conversation, Gold, GoldCall, Message, Tool, ToolCall

CONTRACTS = Path(__file__).parents[1] / "fixtures" / "contracts"
SHIPPED = Path(__file__).parents[2] / "data" / "customer_service"
USER = {"role": "user", "content": "查订单 ORD-001"}
QUERY = Tool("query_order", "", {"type": "object", "properties": {"order_id": {"type": "string"}}})


def call_row(arguments: Any, **more: Any) -> dict[str, Any]:
    function = {"name": "query_order", "arguments": arguments}
    turn = {"role": "assistant", "content": None, "tool_calls": [{"function": function, **more}]}
    return {"messages": [USER, turn]}


def read(row: dict[str, Any], tools: tuple[Tool, ...] = ()) -> Conversation:
    return conversation(row, "train.jsonl:17", tools)


def fault(row: dict[str, Any]) -> str:
    with pytest.raises(RowError) as caught:
        read(row)
    where, _, message = str(caught.value).partition(": ")
    assert where == "train.jsonl:17"
    return message


# Accepted rows


def test_openais_format_is_read_completely() -> None:
    (row,) = read_conversations(CONTRACTS / "conversation.jsonl")
    assert row.id == "order-1"
    assert [message.role for message in row.messages] == ["system", "user", "assistant", "tool", "tool", "assistant"]
    assert row.messages[2].tool_calls == (
        ToolCall("query_order", {"order_id": "ORD-001"}, "call_1"),
        ToolCall("query_stock", {"sku": "SKU4471"}, "call_2"),
    )
    assert row.messages[2].content == ""
    assert row.messages[4].tool_call_id == "call_2"
    assert [tool.name for tool in row.tools] == ["query_order", "query_stock"]
    assert row.tools[1].parameters["properties"]["quantity"] == {"type": "integer", "default": 1}
    assert row.meta == {"language": "zh", "template": "parallel-1"}
    assert row.where == f"{CONTRACTS / 'conversation.jsonl'}:1"


@pytest.mark.parametrize(
    "call",
    [
        {"function": {"name": "query_order", "arguments": {"order_id": "ORD-001"}}},
        {"function": {"name": "query_order", "arguments": '{"order_id": "ORD-001"}'}},
        {"name": "query_order", "arguments": {"order_id": "ORD-001"}},
        {"id": None, "type": "function", "function": {"name": "query_order", "arguments": '{"order_id":"ORD-001"}'}},
    ],
    ids=["object", "text", "bare", "null-id"],
)
@pytest.mark.parametrize("content", [{"content": None}, {"content": ""}, {}], ids=["null", "empty", "absent"])
def test_common_variants_of_a_call_are_read_alike(call: dict[str, Any], content: dict[str, Any]) -> None:
    row = read({"messages": [USER, {"role": "assistant", "tool_calls": [call], **content}]})
    assert row.messages[1] == Message("assistant", "", (ToolCall("query_order", {"order_id": "ORD-001"}),))


@pytest.mark.parametrize("arguments", [None, "", "  ", "{}", {}])
def test_a_call_without_arguments_may_be_written_in_any_way(arguments: Any) -> None:
    assert read(call_row(arguments)).messages[1].tool_calls == (ToolCall("query_order", {}),)


def test_text_beside_a_call_is_kept() -> None:
    row = call_row({})
    row["messages"][1]["content"] = "我来查。"
    assert read(row).messages[1].content == "我来查。"


def test_a_row_without_tools_gets_the_default_tools_and_an_empty_list_stays_empty() -> None:
    row = {"messages": [USER]}
    assert read(row, (QUERY,)).tools == (QUERY,)
    assert read({**row, "tools": None}, (QUERY,)).tools == (QUERY,)
    assert read({**row, "tools": []}, (QUERY,)).tools == ()


def test_a_tool_may_be_the_bare_function_and_may_have_no_parameters() -> None:
    bare = {"name": "ping", "description": "pong"}
    expected = (Tool("ping", "pong", {"type": "object", "properties": {}}),)
    assert read({"messages": [USER], "tools": [bare]}).tools == expected
    assert read({"messages": [USER], "tools": [{"type": "function", "function": bare}]}).tools == expected


def test_a_row_without_an_id_gets_a_hash_of_its_content() -> None:
    named, other = read({"messages": [USER], "meta": {"k": 1}}), read({"messages": [{**USER, "content": "?"}]})
    assert named.id == named.content_hash()
    assert conversation({"messages": [USER]}, "elsewhere.jsonl:3").id == named.id
    assert other.id != named.id
    assert read({"id": 7, "messages": [USER]}).id == "7"


def test_expected_is_read_with_its_alternatives() -> None:
    accepted = {"name": "query_order", "arguments": {"order_id": ["A", "a"], "fast": [True]}, "optional": ["fast"]}
    row = read({**call_row({}), "expected": {"status": "calls", "calls": [accepted]}})
    call = GoldCall("query_order", {"order_id": ["A", "a"], "fast": [True]}, frozenset({"fast"}))
    assert row.expected == Gold("calls", (call,))
    assert read({"messages": [USER], "expected": {"status": "any"}}).expected == Gold("any")


# Refused rows


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"message": []}, 'unknown key "message"; a row has expected, gold_source, id, messages, meta,'),
        ({}, 'expected "messages", a list of messages, found nothing'),
        ({"messages": []}, 'expected "messages", a list of messages, found []'),
        ({"messages": {"role": "user"}}, 'expected "messages", a list of messages, found {"role": "user"}'),
        ({"messages": [USER], "tools": {}}, "expected a list of tools, found {}"),
        ({"messages": [USER], "tools": [{"type": "function"}]}, 'tool 0: expected {"type": "function", "function"'),
        ({"messages": [USER], "tools": [{"name": ""}]}, 'tool 0: expected {"type": "function", "function"'),
        ({"messages": [USER], "tools": ["f"]}, 'tool 0: expected {"type": "function", "function"'),
        (
            {"messages": [USER], "tools": [{"name": "f", "parameters": []}]},
            'tool 0: expected "parameters" to be a JSON Schema, found []',
        ),
        (
            {"messages": [USER], "tools": [{"name": "f", "description": 1}]},
            'tool 0: expected "description" to be a string, found 1',
        ),
        ({"messages": [USER], "tools": [{"name": "f"}, {"name": "f"}]}, 'the tool "f" is defined twice'),
        (
            {"messages": [USER], "parallel_tool_calls": "yes"},
            'expected "parallel_tool_calls" to be true or false, found "yes"',
        ),
        ({"messages": [USER], "gold_source": 1}, 'expected "gold_source" to be a string, found 1'),
        ({"messages": [USER], "meta": []}, 'expected "meta" to be an object, found []'),
        ({"messages": [USER], "meta": {"n": float("inf")}}, "holds a number that is too large for a float"),
        ({"messages": [USER], "meta": {"t": "\ud83d"}}, "holds '\\ud83d', half of a surrogate pair"),
    ],
)
def test_the_error_for_a_faulty_row_says_what_was_found(row: dict[str, Any], message: str) -> None:
    assert fault(row).startswith(message)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("hi", 'expected an object, found "hi"'),
        ({"content": "hi"}, 'expected a "role" of system, user, assistant, tool, found nothing'),
        ({"role": "function", "content": "hi"}, 'expected a "role" of system, user, assistant, tool, found "function"'),
        ({"role": ["user"], "content": "hi"}, 'expected a "role" of system'),
        (
            {"role": "assistant", "function_call": {"name": "f"}},
            'unknown key "function_call" in a message of role assistant',
        ),
        ({"role": "user", "content": ["hi"]}, 'expected "content" to be a string, found ["hi"]'),
        ({"role": "user"}, 'a message of role user has neither "content" nor "tool_calls"'),
        ({"role": "assistant", "content": None}, 'a message of role assistant has neither "content" nor "tool_calls"'),
        ({"role": "user", "content": "", "tool_calls": [{}]}, "tool_calls in a message of role user"),
        ({"role": "assistant", "tool_calls": {"name": "f"}}, 'expected "tool_calls" to be a list, found {"name": "f"}'),
        ({"role": "assistant", "content": "x", "weight": 0.5}, 'expected "weight" to be 0 or 1, found 0.5'),
        ({"role": "assistant", "content": "x", "weight": True}, 'expected "weight" to be 0 or 1, found true'),
        ({"role": "tool", "content": "x", "tool_call_id": 1}, 'expected "tool_call_id" to be a string, found 1'),
    ],
)
def test_the_error_for_a_faulty_message_names_its_number(row: Any, message: str) -> None:
    assert fault({"messages": [USER, row]}).startswith(f"message 1: {message}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ('{"order_id": ', "the arguments are not JSON (Expecting value"),
        ("{'order_id': 'ORD-001'}", "the arguments are not JSON (Expecting property name"),
        ('{"n": NaN}', "the arguments are not JSON (NaN is not JSON)"),
        ('{"n": 1, "n": 2}', 'the arguments are not JSON (the key "n" appears twice in one object)'),
        ('{"n": ' + "1" * 5000 + "}", "the arguments are not JSON (a number with too many digits)"),
        ("[" * 10_000, "the arguments are not JSON (JSON that is nested too deeply)"),
        (json.dumps('{"order_id": "ORD-001"}'), "the arguments are encoded twice (a JSON string inside a JSON"),
        ("[1]", 'expected arguments as a JSON object, found "[1]"'),
        ([1], "expected arguments as a JSON object, found [1]"),
        ('{"n": 1e999}', "holds a number that is too large for a float"),
        ('{"t": "\\ud83d"}', "holds '\\ud83d', half of a surrogate pair"),
    ],
    ids=lambda value: str(value)[:12],
)
def test_the_error_for_faulty_arguments_names_message_and_call(arguments: Any, message: str) -> None:
    assert fault(call_row(arguments)).startswith(f"message 1: call 0: {message}")


@pytest.mark.parametrize(
    "call", ["f", {}, {"function": "f"}, {"function": {"arguments": {}}}, {"function": {"name": 1}}]
)
def test_a_call_without_a_name_is_refused(call: Any) -> None:
    row = {"messages": [USER, {"role": "assistant", "tool_calls": [call]}]}
    assert fault(row).startswith('message 1: call 0: expected a call with "name" and "arguments", found ')


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        ([], 'expected "expected" to have a "status" of calls, none or any, found []'),
        ({"status": "maybe"}, 'expected "expected" to have a "status" of calls, none or any'),
        ({"status": "calls"}, '"expected" must list "calls" if its status is calls, and must not otherwise'),
        (
            {"status": "none", "calls": [{}]},
            '"expected" must list "calls" if its status is calls, and must not otherwise',
        ),
        ({"status": "calls", "calls": [{"name": "f"}]}, 'expected call 0: expected "name" and "arguments"'),
        ({"status": "calls", "calls": ["f"]}, 'expected call 0: expected "name" and "arguments"'),
        (
            {"status": "calls", "calls": [{"name": "f", "arguments": {"x": 1}}]},
            "expected call 0: expected the accepted values of x as a list, found 1",
        ),
        (
            {"status": "calls", "calls": [{"name": "f", "arguments": {"x": []}}]},
            "expected call 0: expected the accepted values of x as a list, found []",
        ),
        (
            {"status": "calls", "calls": [{"name": "f", "arguments": {"x": [1]}, "optional": "x"}]},
            'expected call 0: expected "optional" to be a list, found "x"',
        ),
        (
            {"status": "calls", "calls": [{"name": "f", "arguments": {"x": [1]}, "optional": [["y"]]}]},
            'expected call 0: "optional" names ["y"], which is not among the arguments',
        ),
    ],
)
def test_a_faulty_expected_is_refused(expected: Any, message: str) -> None:
    assert fault({"messages": [USER], "expected": expected}).startswith(message)


def test_a_long_value_is_shortened() -> None:
    message = fault({"messages": [{"role": "user", "content": ["x" * 500]}]})
    assert message.endswith("...")
    assert len(message) < 150


def test_reading_stops_at_the_first_faulty_line_and_names_it(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    good = json.dumps({"messages": [USER]})
    path.write_text(f'{good}\n\n{{"messages": 1}}\n{good}\n', encoding="utf-8")
    rows = read_conversations(path)
    assert next(rows).where == f"{path}:1"
    with pytest.raises(RowError, match=f"^{path}:3: expected "):
        next(rows)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[\n{"name": }]', ":2: broken JSON: Expecting value at column 10"),
        ('{"name": "f"}', ': expected a list of tools, found {"name": "f"}'),
        ('[{"name": "f", "name": "g"}]', ': the key "name" appears twice in one object'),
        ('[{"name": "f"}, {"nmae": "g"}]', ": tool 1: expected"),
        ('[{"name": "f", "description": "\\ud83d"}]', ": holds '\\ud83d', half of a surrogate pair"),
    ],
)
def test_a_faulty_file_of_tools_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "tools.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_tools(path)
    assert str(caught.value).startswith(f"{path}{message}")


def test_the_error_for_a_missing_file_of_tools_says_how_to_name_it(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"no such file; give the file with the list of tools as data\.tools or --tools"
    ):
        read_tools(tmp_path / "tools.json")
    with pytest.raises(UserError, match=f"^{tmp_path}: "):
        read_tools(tmp_path)


# Examples


def test_each_learned_assistant_turn_is_an_example_with_the_messages_before_it() -> None:
    (row,) = read_conversations(CONTRACTS / "conversation.jsonl")
    first, last = examples(row)
    assert (first.id, last.id) == ("order-1/2", "order-1/5")
    assert (first.prompt, first.turn) == (row.messages[:2], row.messages[2])
    assert (last.prompt, last.turn) == (row.messages[:5], row.messages[5])
    assert first.gold == Gold.of_message(row.messages[2])
    assert last.gold == Gold("none")
    for example in (first, last):
        assert (example.conversation_id, example.tools, example.where) == ("order-1", row.tools, row.where)


def test_a_turn_of_weight_0_is_context_but_not_an_example() -> None:
    turns = [{"role": "assistant", "content": str(n), "weight": n} for n in (0, 1)]
    found = examples(read({"id": "r", "messages": [USER, turns[0], USER, turns[1]]}))
    assert [example.id for example in found] == ["r/3"]
    assert found[0].prompt[1].content == "0"


def test_expected_is_the_gold_of_only_the_last_assistant_turn() -> None:
    expected = {"status": "calls", "calls": [{"name": "f", "arguments": {"x": [1, 2]}}]}
    turn = {"role": "assistant", "content": "one moment"}
    done = {"role": "tool", "content": "done"}
    found = examples(read({"id": "r", "messages": [USER, turn, USER, turn, done], "expected": expected}))
    assert [example.gold.status for example in found] == ["none", "calls"]


def test_expected_is_unused_if_the_last_turn_is_not_learned() -> None:
    turn = {"role": "assistant", "content": "one moment"}
    messages = [USER, turn, USER, {**turn, "weight": 0}]
    (found,) = examples(read({"id": "r", "messages": messages, "expected": {"status": "any"}}))
    assert (found.id, found.gold) == ("r/1", Gold("none"))


# Writing and reading back

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NAME = st.text("abc_.-", min_size=1, max_size=6)
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
OBJECT = st.dictionaries(TEXT, VALUE, max_size=3)
CALL = st.builds(ToolCall, NAME, OBJECT, st.none() | NAME)
MESSAGE = st.one_of(
    st.builds(Message, st.sampled_from(["system", "user"]), TEXT),
    st.builds(Message, st.just("tool"), TEXT, tool_call_id=st.none() | NAME),
    st.builds(
        Message,
        st.just("assistant"),
        TEXT,
        st.lists(CALL, max_size=3).map(tuple),
        weight=st.sampled_from([0.0, 1.0]),
    ),
)
TOOLS = st.lists(st.builds(Tool, NAME, TEXT, OBJECT), max_size=3, unique_by=lambda tool: tool.name).map(tuple)


@st.composite
def gold_calls(draw: st.DrawFn) -> GoldCall:
    accepted = draw(st.dictionaries(NAME, st.lists(VALUE, min_size=1, max_size=3), max_size=3))
    optional = draw(st.sets(st.sampled_from(sorted(accepted)))) if accepted else set()
    return GoldCall(draw(NAME), accepted, frozenset(optional))


GOLD = st.sampled_from([Gold("none"), Gold("any")]) | st.builds(
    Gold, st.just("calls"), st.lists(gold_calls(), min_size=1, max_size=3).map(tuple)
)
CONVERSATION = st.builds(
    Conversation,
    id=NAME,
    messages=st.lists(MESSAGE, min_size=1, max_size=4).map(tuple),
    tools=TOOLS,
    where=st.just("train.jsonl:17"),
    parallel_tool_calls=st.booleans(),
    expected=st.none() | GOLD,
    gold_source=st.none() | TEXT,
    meta=OBJECT,
)


def exactly(row: Conversation) -> str:
    # Compare repr, because True == 1 and 0.0 == -0.0 in Python.
    return repr(replace(row, expected=None)) + json.dumps(row.expected.to_json() if row.expected else None)


@given(CONVERSATION)
def test_a_conversation_that_is_written_and_read_is_the_same(row: Conversation) -> None:
    line = json.dumps(row.to_json(), ensure_ascii=False)
    assert exactly(read(json.loads(line))) == exactly(row)


def test_the_shipped_rows_are_written_exactly_as_they_were_read() -> None:
    path = SHIPPED / "test.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [row.to_json() for row in read_conversations(path)] == lines
