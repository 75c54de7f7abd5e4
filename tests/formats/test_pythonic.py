"""The pythonic format: what a list of calls may look like, and what vLLM's parser `pythonic` would not read."""

from __future__ import annotations

import json

import pytest

from toolhone.chat.parse import parse_repaired, parse_turn
from toolhone.formats.pythonic import PYTHONIC
from toolhone.records import ToolCall

CALL = ToolCall("f", {"a": 1, "text": "x"})


@pytest.mark.parametrize(
    "text",
    [
        '[f(a=1, text="x")]',
        "[f(a=1,text='x')]",
        "[\n  f(\n    a=1,\n    text='x',\n  )\n]",
        "\n[f(a=1, text='x')]\n",
        "<think>A tool can do it.</think>\n[f(a=1, text='x')]",
        "A tool can do it.\n</think>\n\n[f(a=1, text='x')]",
        "<|python_start|>[f(a=1, text='x')]<|python_end|>",
    ],
)
def test_a_list_that_is_the_whole_answer_is_read(text: str) -> None:
    turn = parse_turn(text, "pythonic", tools=("f",))
    assert (turn.status, turn.calls, turn.content) == ("calls", (CALL,), "")


@pytest.mark.parametrize(
    "text",
    [
        "Let me look.\n[f(a=1, text='x')]",
        "Let me look: [f(a=1, text='x')]",
        "[f(a=1, text='x')]\nOne moment.",
        "[f(a=1, text='x')][f(a=2)]",
        "[f(a=1, text='x')]\n[f(a=2)]",
        "```python\n[f(a=1, text='x')]\n```",
    ],
)
def test_a_list_with_anything_beside_it_is_malformed(text: str) -> None:
    turn = parse_turn(text, "pythonic", tools=("f",))
    assert turn.failure == "text beside the list of calls, which must be the whole answer"
    assert turn.status in ("malformed", "partial")
    assert turn.content == "" or turn.content in text


def test_text_beside_a_list_keeps_its_words() -> None:
    text = "Let me look.\n[f(a='</think> x')]"
    assert parse_turn(text, "pythonic").content == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[math.add(a=1)]", 'a function named "math.add": the parsers of serving engines take no dot here'),
        ("[look-up(a=1)]", 'a function named "look-up", which is not a name in Python'),
        ("[_f(a=1)]", 'a function named "_f": the parsers of serving engines need an ASCII letter first'),
        ('[f(订单号="1")]', 'an argument named "订单号": the parsers of serving engines need an ASCII letter first'),
        ('[f(order-id="1")]', 'an argument named "order-id", which is not a name in Python'),
        ('[f(from="1")]', 'an argument named "from", which is a keyword of Python'),
        ('[f("1")]', "expected each argument as name=value"),
    ],
)
def test_what_the_parsers_of_engines_cannot_read_is_malformed_by_name(text: str, reason: str) -> None:
    turn = parse_turn(text, "pythonic")
    assert (turn.status, turn.failure) == ("malformed", reason)


def test_a_fence_around_the_list_is_a_repair() -> None:
    found = parse_repaired("```python\n[f(a=1, text='x')]\n```", "pythonic", tools=("f",))
    assert (found.turn.status, found.turn.calls) == ("calls", (CALL,))
    assert dict(found.repairs) == {"code_fence": 1}


@pytest.mark.parametrize("text", ["[f(a=1, text='x')]", "[f(a=1,text='x')]\n"])
def test_the_list_is_credited_to_a_model_that_was_asked_in_another_format(text: str) -> None:
    found = parse_repaired(text, "hermes", tools=("f",))
    assert (found.strict.status, found.turn.calls) == ("malformed", (CALL,))
    assert dict(found.repairs) == {"other_syntax": 1}


@pytest.mark.parametrize(
    "text",
    [
        "[",
        "[f",
        "[f(",
        "[f(a",
        "[f(a=",
        "[f(a=Tr",
        "[f(a=-",
        "[f(a=1e",
        "[f(a='x",
        "[f(a='x\\",
        "[f(a={'k'",
        "[f(a=1)",
        "[f()",
        "<think>x</think>[f(",
    ],
)
def test_a_list_that_was_cut_is_truncated(text: str) -> None:
    turn = parse_turn(text, "pythonic", "length", tools=("f",))
    assert turn.status in ("truncated", "partial")
    assert str(turn.failure).startswith("cut off at the token limit")


def test_a_list_of_calls_takes_less_text_than_json() -> None:
    calls = [{"name": "query_order", "arguments": {"order_id": "ORD-1", "count": 2}}]
    rendered = '[query_order(order_id="ORD-1", count=2)]'
    assert parse_turn(rendered, "pythonic").calls == (ToolCall("query_order", calls[0]["arguments"]),)  # type: ignore[arg-type]
    assert len(rendered) < len(json.dumps(calls[0], separators=(",", ":")))


def test_the_instructions_name_the_syntax() -> None:
    assert "[name(argument=value), other_name()]" in PYTHONIC.instructions
