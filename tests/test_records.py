"""Records are written as the golden lines of the contracts, and read back from them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolhone.data.importers.openai import conversation
from toolhone.jsonl import conversation_line, json_line, read_jsonl, write_jsonl
from toolhone.records import (
    ArgumentError,
    CallMatch,
    Conversation,
    Gold,
    GoldCall,
    Message,
    Prediction,
    Score,
    Token,
    Tool,
    ToolCall,
)

CONTRACTS = Path(__file__).parent / "fixtures" / "contracts"


def golden(name: str) -> tuple[str, dict[str, Any]]:
    """Return the line of a contract as text and as a row."""
    path = CONTRACTS / f"{name}.jsonl"
    ((_, row),) = read_jsonl(path)
    return path.read_text(encoding="utf-8"), row


def order_schema(properties: dict[str, Any], required: str) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": [required], "additionalProperties": False}


CONVERSATION = Conversation(
    id="order-1",
    messages=(
        Message("system", "你是客服 Agent,负责查询订单和物流。"),
        Message("user", "帮我查订单 ORD-001,再看看 SKU4471 有没有货"),
        Message(
            "assistant",
            "",
            (
                ToolCall("query_order", {"order_id": "ORD-001"}, "call_1"),
                ToolCall("query_stock", {"sku": "SKU4471"}, "call_2"),
            ),
        ),
        Message("tool", '{"status": "已发货"}', tool_call_id="call_1"),
        Message("tool", '{"stock": 3}', tool_call_id="call_2"),
        Message("assistant", "订单 ORD-001 已发货,SKU4471 还有 3 件。"),
    ),
    tools=(
        Tool("query_order", "查询订单状态", order_schema({"order_id": {"type": "string"}}, "order_id")),
        Tool(
            "query_stock",
            "查询商品库存",
            order_schema({"sku": {"type": "string"}, "quantity": {"type": "integer", "default": 1}}, "sku"),
        ),
    ),
    where="conversation.jsonl:1",
    meta={"language": "zh", "template": "parallel-1"},
)
TEXT = '<tool_call>\n{"name": "query_order", "arguments": {"order_id": "ORD-001"}}\n</tool_call>'
PREDICTION = Prediction(
    id="order-1/2",
    model="tuned",
    text=TEXT,
    finish_reason="stop",
    prompt_tokens=512,
    completion_tokens=2,
    latency_ms=41.5,
    tokens=(Token(44, b"<t", -0.01, -4.75), Token(2, b"", -0.002)),
)
SCORE = Score(
    id="order-1/2",
    conversation_id="order-1",
    model="tuned",
    status="calls",
    failure=None,
    calls=(ToolCall("query_order", {"order_id": "ORD-001"}),),
    gold=Gold(
        "calls",
        (GoldCall("query_order", {"order_id": ["ORD-001"]}), GoldCall("query_stock", {"sku": ["SKU4471"]})),
    ),
    tools=("query_order", "query_stock"),
    matches=(CallMatch(0, 0, 1, ()),),
    missing_calls=(1,),
    extra_calls=(),
    names_right=False,
    exact=False,
    schema_valid=True,
    rules=(),
    question="帮我查订单 ORD-001,再看看 SKU4471 有没有货",
    text=TEXT,
    finish_reason="stop",
    prompt_tokens=512,
    completion_tokens=2,
    latency_ms=41.5,
    gold_source=None,
    meta={"language": "zh", "template": "parallel-1", "turn": "first"},
)


@pytest.mark.parametrize(
    ("name", "record"), [("conversation", CONVERSATION), ("prediction", PREDICTION), ("score", SCORE)]
)
def test_a_record_is_written_as_its_golden_line(
    tmp_path: Path, name: str, record: Conversation | Prediction | Score
) -> None:
    line, _ = golden(name)
    write_jsonl(tmp_path / "written.jsonl", [record.to_json()])
    assert (tmp_path / "written.jsonl").read_text(encoding="utf-8") == line


def test_golden_lines_are_read_as_the_records() -> None:
    assert conversation(golden("conversation")[1], "conversation.jsonl:1") == CONVERSATION
    assert Prediction.from_json(golden("prediction")[1]) == PREDICTION
    assert Score.from_json(golden("score")[1]) == SCORE


def test_fields_without_a_golden_value_survive_a_round_trip_through_json() -> None:
    error = ArgumentError("f", "x", "missing", [1, {"y": None}], None)
    score = replace(
        SCORE,
        gold=Gold("calls", (GoldCall("f", {"x": [1, 2], "y": ["a"]}, frozenset({"y"})),)),
        matches=(CallMatch(0, 0, 0, (error,)),),
        rules=("number-as-text",),
        gold_source="teacher",
        schema_valid=None,
    )
    assert Score.from_json(json.loads(json.dumps(score.to_json()))) == score


def test_figures_are_rounded_when_they_are_written() -> None:
    tokens = (Token(1, b"\xe6", -0.123456789, -2.123456789), Token(2, b"", -0.5))
    row = replace(PREDICTION, latency_ms=1.23456, tokens=tokens).to_json()
    assert row["latency_ms"] == 1.235
    assert row["tokens"] == [
        {"id": 1, "bytes": [0xE6], "logprob": -0.123457, "runner_up": -2.123457},
        {"id": 2, "bytes": [], "logprob": -0.5},
    ]
    # Files of older versions have no runner-up.
    assert Prediction.from_json(row).tokens[1] == Token(2, b"", -0.5, None)


def test_prose_end_is_written_only_if_an_endpoint_gave_prose_separately() -> None:
    separate = replace(PREDICTION, text=f"One moment.\n{TEXT}", prose_end=11)
    assert separate.to_json()["prose_end"] == 11
    assert Prediction.from_json(json.loads(json.dumps(separate.to_json()))) == separate
    assert "prose_end" not in PREDICTION.to_json()


def test_a_conversation_is_written_without_default_values() -> None:
    plain = Conversation("1", (Message("user", "hi"), Message("assistant", "")), (), "x:1")
    assert plain.to_json() == {
        "id": "1",
        "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": ""}],
    }
    full = replace(
        plain,
        messages=(Message("assistant", "a", (ToolCall("f", {}),), weight=0.0),),
        parallel_tool_calls=False,
        expected=Gold("any"),
        gold_source="teacher",
        meta={"k": 1},
    )
    call = {"type": "function", "function": {"name": "f", "arguments": "{}"}}
    assert full.to_json() == {
        "id": "1",
        "messages": [{"role": "assistant", "content": "a", "tool_calls": [call], "weight": 0.0}],
        "parallel_tool_calls": False,
        "expected": {"status": "any", "calls": []},
        "gold_source": "teacher",
        "meta": {"k": 1},
    }


def test_the_content_hash_depends_only_on_messages_and_tools() -> None:
    found = CONVERSATION.content_hash()
    assert len(found) == 16
    assert replace(CONVERSATION, id="other", where="y:9", meta={}, gold_source="teacher").content_hash() == found
    assert replace(CONVERSATION, messages=CONVERSATION.messages[:-1]).content_hash() != found
    assert replace(CONVERSATION, tools=CONVERSATION.tools[:1]).content_hash() != found


@pytest.mark.parametrize(
    "row",
    [
        CONVERSATION,
        replace(CONVERSATION, tools=()),
        replace(CONVERSATION, meta={}, gold_source=None, expected=None),
        replace(CONVERSATION, tools=tuple(reversed(CONVERSATION.tools)), parallel_tool_calls=False),
        replace(CONVERSATION, meta={"half of a pair": "\ud800"}),
    ],
    ids=["all", "no-tools", "nothing-after-tools", "other-tools", "surrogate"],
)
def test_line_and_content_hash_equal_those_of_plain_json_encoding(row: Conversation) -> None:
    for _ in range(2):  # the second time with the text of the tools cached
        assert conversation_line(row) == json_line(row.to_json())
        content = {"messages": row.to_json()["messages"], "tools": row.to_json().get("tools", [])}
        text = json.dumps(content, ensure_ascii=False, sort_keys=True)
        assert row.content_hash() == hashlib.sha256(text.encode()).hexdigest()[:16]


VALUES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
CALLS = st.builds(ToolCall, st.text(), st.dictionaries(st.text(), VALUES, max_size=3), st.none() | st.text())
MESSAGES = st.builds(
    Message,
    st.sampled_from(["system", "user", "assistant", "tool"]),
    st.text(st.characters(exclude_categories=[])),
    st.lists(CALLS, max_size=2).map(tuple),
    st.none() | st.text(),
    st.sampled_from([0.0, 1.0, 0.25]),
)


@given(MESSAGES)
def test_the_text_of_a_message_equals_its_encoded_json(message: Message) -> None:
    assert message.to_text() == json.dumps(message.to_json(), ensure_ascii=False)


def test_the_gold_of_a_turn_has_its_calls_with_one_value_per_argument() -> None:
    assert Gold.of_message(Message("assistant", "Hello")) == Gold("none")
    assert Gold.of_message(Message("assistant", "", (ToolCall("f", {"x": 1}, "call_1"), ToolCall("g", {})))) == Gold(
        "calls", (GoldCall("f", {"x": [1]}), GoldCall("g", {}))
    )


def test_a_match_is_right_if_no_argument_is_wrong() -> None:
    assert CallMatch(0, 0, 2, ()).right
    assert not CallMatch(0, 0, 1, (ArgumentError("f", "x", "wrong", [1], 2),)).right


@pytest.mark.parametrize("record", [CONVERSATION, CONVERSATION.messages[0], PREDICTION, SCORE])
def test_records_are_frozen(record: Any) -> None:
    field = "role" if isinstance(record, Message) else "id"
    with pytest.raises(FrozenInstanceError):
        setattr(record, field, "changed")
