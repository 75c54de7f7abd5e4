"""Repairs: each mends its own fault and no other, is counted where a call owes its reading to it, and loses no call."""

from __future__ import annotations

import ast
import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolhone.chat.parse import parse_repaired, parse_turn
from toolhone.formats.call_json import Decoded
from toolhone.formats.repair import REPAIRS, Repairer
from toolhone.records import FormatName, Repair, ToolCall

FORMATS: tuple[FormatName, ...] = ("hermes", "llama3", "gemma", "json")
KEY: dict[FormatName, str] = {
    "hermes": "arguments",
    "llama3": "parameters",
    "gemma": "parameters",
    "json": "arguments",
}
CALL = ToolCall("f", {"a": [True, None], "b": "it's"})


def turn(format: FormatName, call: str) -> str:
    """A turn with that call, whose arguments' key is written KEY."""
    call = call.replace("KEY", KEY[format])
    return f"<tool_call>\n{call}\n</tool_call>" if format == "hermes" else call


def mended(
    text: str, format: FormatName, *allowed: Repair, finish_reason: Any = "stop"
) -> tuple[str, Any, dict[str, int]]:
    """Status, calls and repairs of a turn that was read with those repairs."""
    found = parse_repaired(text, format, finish_reason, allowed or REPAIRS)
    return found.turn.status, found.turn.calls, dict(found.repairs)


BROKEN: list[tuple[str, dict[Repair, int]]] = [
    ("""{'name': 'f', 'KEY': {'a': [True, None], 'b': "it's"}}""", {"python_literals": 1}),
    ("""{'name': 'f', 'KEY': {'a': [True, None,], 'b': 'it\\'s',},}""", {"python_literals": 1}),
    ("""{"name": "f", "KEY": {"a": [True, None], "b": "it's"}}""", {"python_literals": 1}),
    ("""{"name": "f", "KEY": {"a": [true, null], "b": "it\\u0027s"},}""", {"python_literals": 1}),
    ("""{"name": "f", "KEY": "{\\"a\\": [true, null], \\"b\\": \\"it's\\"}"}""", {"arguments_as_text": 1}),
    ("""{"name": "f", "KEY": "{'a': [True, None], 'b': 'it\\\\'s'}"}""", {"python_literals": 1,
      "arguments_as_text": 1}),
]  # fmt: skip


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(("call", "repairs"), BROKEN)
def test_a_broken_call_is_mended_by_the_repairs_it_needs_and_by_no_others(
    format: FormatName, call: str, repairs: dict[Repair, int]
) -> None:
    text = turn(format, call)
    assert parse_turn(text, format).status == "malformed"
    assert mended(text, format) == mended(text, format, *repairs) == ("calls", (CALL,), repairs)
    for left_out in repairs:
        assert mended(text, format, *(r for r in REPAIRS if r != left_out)) == ("malformed", (), {})


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("opening", ["```\n", "```json\n", "```JSON "])
def test_a_call_in_a_code_fence_is_mended_where_the_format_has_none(format: FormatName, opening: str) -> None:
    call = f'{{"name": "f", "{KEY[format]}": {{"x": "```"}}}}'
    text = f"Here:\n{opening}{call}\n```\nDone."
    repairs = {} if format in ("json", "gemma") else {"code_fence": 1}
    assert mended(text, format) == ("calls", (ToolCall("f", {"x": "```"}),), repairs)
    assert parse_repaired(text, format).turn.content == "Here:\n\nDone."


def test_a_code_fence_inside_the_tags_is_mended() -> None:
    text = '<tool_call>\n```json\n{"name": "f", "arguments": {}}\n```\n</tool_call>'
    assert mended(text, "hermes") == ("calls", (ToolCall("f", {}),), {"code_fence": 1})


@pytest.mark.parametrize("format", FORMATS)
def test_each_repair_is_counted_as_often_as_it_fired(format: FormatName) -> None:
    call = turn(format, """{'name': 'f', 'KEY': {}}""")
    assert mended(f"{call}\n{call}", format)[2] == {"python_literals": 2}


@pytest.mark.parametrize("format", FORMATS)
def test_repairs_of_a_call_that_was_only_thought_do_not_count(format: FormatName) -> None:
    text = turn(format, """{'name': 'f', 'KEY': {}}""") + "\n</think>\n" + turn(format, """{'name': 'g', 'KEY': {}}""")
    assert mended(text, format) == ("calls", (ToolCall("g", {}),), {"python_literals": 1})


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    "call",
    ['{"name": "f", "KEY": {"a": NaN}}', '{"name": "f", "KEY": {"a": 1, "a": 2}}',
     "{'name': 'f', 'KEY': {'a': 1, 'a': 2}}",
     "{'name': 'f', 'KEY': {'a': print(1)}}", "{'name': 'f', 'KEY': {'a': (1, 2)}}", "{'name': 'f', 'KEY': {1: 2}}",
     "{'name': 'f', 'KEY': [1]}", '{"name": "f", "KEY": "[1]"}', '{"name": "f", "KEY": "{} {}"}',
     '{"name": "f", "KEY": {"a": 1}',
     "{'name': 'f', 'KEY': {'a': [,]}}", "{'name': 'f', 'KEY': {'a': [1 2]}}", "{'name': 'f', 'KEY': {'a': 'x\ny'}}"],
)  # fmt: skip
def test_what_no_repair_is_named_for_stays_malformed(format: FormatName, call: str) -> None:
    assert mended(turn(format, call), format) == ("malformed", (), {})


@pytest.mark.parametrize("format", FORMATS)
def test_a_mended_call_beside_a_broken_one_is_partial(format: FormatName) -> None:
    text = turn(format, "{'name': 'f', 'KEY': {}}") + "\n" + turn(format, '{"name": "g", "KEY": {"a": oops}}')
    assert mended(text, format) == ("partial", (ToolCall("f", {}),), {"python_literals": 1})


@pytest.mark.parametrize("format", FORMATS)
def test_a_call_that_is_cut_stays_truncated(format: FormatName) -> None:
    text = turn(format, '{"name": "f", "KEY": {"a": "b')[: None if format != "hermes" else -len("\n</tool_call>")]
    assert mended(text, format, finish_reason="length") == ("truncated", (), {})


PIECES = [
    "<tool_call>", "</tool_call>", "\n", "```", "```json\n", "{'name': 'f', 'arguments': {}}",
    '{"name": "f", "arguments": {}}', '{"name": "f", "arguments": "{}"}', "{'name': ", "{", "}", "'", '"', "True", ",",
    ";", "</think>", "[", "]", "text",
]  # fmt: skip


@given(
    st.lists(st.sampled_from(PIECES), max_size=14).map("".join),
    st.sampled_from(FORMATS),
    st.sampled_from(["stop", "length"]),
)
def test_repairs_only_add_calls_and_without_one_the_reading_is_the_strict_one(
    text: str, format: FormatName, finish_reason: Any
) -> None:
    strict, found = parse_turn(text, format, finish_reason), parse_repaired(text, format, finish_reason)
    if strict.failure is None or not found.repairs:
        assert (found.turn, found.repairs) == (strict, Counter())
    else:
        assert len(found.turn.calls) > len(strict.calls)
    assert parse_repaired(text, format, finish_reason, ()).turn == strict


TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
NUMBERS = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=50)
@given(st.dictionaries(TEXTS, VALUES, max_size=4))
def test_what_python_writes_is_read_as_python_reads_it(value: dict[str, Any]) -> None:
    text = repr(value)
    assert ast.literal_eval(text) == value
    found = Repairer(["python_literals"], len(text)).decode(f"{text} and more", 0)
    assert isinstance(found, Decoded)
    assert json.dumps(found.value) == json.dumps(value)
    assert found.end == len(text)
