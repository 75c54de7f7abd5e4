"""Invented argument values: which values are found, and which are not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolhone.data.check.invented import invented_values
from toolhone.data.check.schema import Vocabulary
from toolhone.data.values import numbers_in
from toolhone.records import Conversation, Message, Tool, ToolCall

PARAMETERS = {
    "type": "object",
    "properties": {
        "unit": {"type": "string", "enum": ["celsius", "kelvin"]},
        "limit": {"type": "integer", "default": 25},
        "lang": {"type": "string", "description": "a code such as en or zh"},
    },
}
TOOLS = (Tool("f", "", PARAMETERS),)


def is_invented(question: str, value: Any, *, tool_result: str = "", name: str = "q") -> bool:
    asked = [Message("user", question)]
    if tool_result:
        asked += [Message("assistant", "", (ToolCall("f", {}, "1"),)), Message("tool", tool_result, (), "1")]
    row = Conversation("r", (*asked, Message("assistant", "", (ToolCall("f", {name: value}),))), TOOLS, "w:1")
    return bool(list(invented_values(row, Vocabulary(TOOLS))))


@pytest.mark.parametrize(
    ("question", "value"),
    [
        ("where is ORD-204?", "ORD-204"),
        ("where is ord 204?", "ORD-204"),
        ("where is order 204?", "ORD-204"),
        ("order 204 and 7", ["ORD-204", {"id": "ORD-7"}]),
        ("what's the weather in paris", "Paris"),
        ("the weather in San Francisco", "San Francisco, CA"),
        ("weather in New York City tomorrow", "NYC"),
        ("北京天气怎么样", "Beijing"),
        ("weather in Beijing", "北京"),
        ("three tickets please", 3),
        ("两张票", 2),
        ("我要一百二十个", 120),
        ("a dozen eggs", 12),
        ("一打鸡蛋", 12),
        ("twenty-one days", 21),
        ("two hundred and five", 205),
        ("1,500 dollars", 1500),
        ("5% off", 0.05),
        ("five million", 5_000_000),
        ("3.5万", 35_000),
        ("it is -4 outside", -4),
        ("any", 0),
        ("any", 1),
        ("any", True),
        ("any", None),
        ("any", "celsius"),
        ("any", 25),
        ("any", "zh"),
        ("book it for tomorrow", "2024-05-02"),
        ("book it for May 2nd, 2024", "2024-05-02"),
        ("请明天下午三点提醒我", "15:00"),
        ("remind me to call mum and buy milk", "call mum and buy some milk"),
        ("any", ""),
        ("any", "--"),
    ],
)
def test_a_value_in_the_conversation_or_the_tool_is_not_invented(question: str, value: Any) -> None:
    assert not is_invented(question, value)


@pytest.mark.parametrize(
    ("question", "value"),
    [
        ("where is my order?", "ORD-204"),
        ("where is order 205?", "ORD-204"),
        ("where is my order", "12345"),
        ("three tickets please", 4),
        ("两张票", 3),
        ("weather please", "Paris"),
        ("weather please", 17),
        ("send it", {"to": [{"mail": "jane@acme.com"}]}),
        ("remind me", "take the bins out on the kerb"),
        ("any", "fahrenheit"),
        ("book a table", "2024-05-02"),
        ("查一下", "订单A881"),
    ],
)
def test_a_value_without_a_source_is_invented(question: str, value: Any) -> None:
    assert is_invented(question, value)


def test_an_earlier_tool_result_is_a_source_and_a_later_one_is_not() -> None:
    assert not is_invented("track my order", "SF-88", tool_result='{"tracking": "SF-88"}')
    row = Conversation(
        "r",
        (Message("user", "hi"), Message("assistant", "", (ToolCall("f", {"q": "SF-88"}),)), Message("tool", "SF-88")),
        TOOLS,
        "w:1",
    )
    (found,) = invented_values(row, Vocabulary(TOOLS))
    assert found.message == 'message 1: argument q of "f" is "SF-88", which no earlier message contains'
    assert found.severity == "warning"


@given(st.integers(1, 9999))
def test_a_number_written_in_digits_is_found(number: int) -> None:
    assert number in numbers_in(f"take {number} of them")
    assert number in numbers_in(f"共{number}个")


@given(st.text(), st.one_of(st.text(), st.floats(allow_nan=False), st.integers()))
def test_a_value_in_the_text_is_never_invented_and_an_invented_value_is_never_in_the_text(
    text: str, value: Any
) -> None:
    assert not is_invented(f"{text} {value} {text}", value)
    if is_invented(text, value):
        assert str(value) not in text.split()
