"""Repairs: each fixes only its own fault, is counted if a call needed it, and loses no call."""

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
    """Return a turn with this call, in which KEY is replaced by the format's key for arguments."""
    call = call.replace("KEY", KEY[format])
    return f"<tool_call>\n{call}\n</tool_call>" if format == "hermes" else call


def repaired(
    text: str, format: FormatName, *allowed: Repair, finish_reason: Any = "stop"
) -> tuple[str, Any, dict[str, int]]:
    """Return status, calls and repairs of a turn that is read with the allowed repairs."""
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
def test_a_broken_call_is_fixed_by_exactly_the_repairs_it_needs(
    format: FormatName, call: str, repairs: dict[Repair, int]
) -> None:
    text = turn(format, call)
    assert parse_turn(text, format).status == "malformed"
    assert repaired(text, format) == repaired(text, format, *repairs) == ("calls", (CALL,), repairs)
    for left_out in repairs:
        assert repaired(text, format, *(r for r in REPAIRS if r != left_out)) == ("malformed", (), {})


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("opening", ["```\n", "```json\n", "```JSON "])
def test_a_call_in_a_code_fence_is_fixed_if_the_format_has_no_fences(format: FormatName, opening: str) -> None:
    call = f'{{"name": "f", "{KEY[format]}": {{"x": "```"}}}}'
    text = f"Here:\n{opening}{call}\n```\nDone."
    repairs = {} if format in ("json", "gemma") else {"code_fence": 1}
    assert repaired(text, format) == ("calls", (ToolCall("f", {"x": "```"}),), repairs)
    assert parse_repaired(text, format).turn.content == "Here:\n\nDone."


def test_a_code_fence_inside_the_tags_is_fixed() -> None:
    text = '<tool_call>\n```json\n{"name": "f", "arguments": {}}\n```\n</tool_call>'
    assert repaired(text, "hermes") == ("calls", (ToolCall("f", {}),), {"code_fence": 1})


@pytest.mark.parametrize("format", FORMATS)
def test_each_use_of_a_repair_is_counted(format: FormatName) -> None:
    call = turn(format, """{'name': 'f', 'KEY': {}}""")
    assert repaired(f"{call}\n{call}", format)[2] == {"python_literals": 2}


@pytest.mark.parametrize("format", FORMATS)
def test_repairs_of_a_call_inside_a_thought_do_not_count(format: FormatName) -> None:
    text = turn(format, """{'name': 'f', 'KEY': {}}""") + "\n</think>\n" + turn(format, """{'name': 'g', 'KEY': {}}""")
    assert repaired(text, format) == ("calls", (ToolCall("g", {}),), {"python_literals": 1})


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
def test_faults_without_a_repair_stay_malformed(format: FormatName, call: str) -> None:
    assert repaired(turn(format, call), format) == ("malformed", (), {})


@pytest.mark.parametrize("format", FORMATS)
def test_a_fixed_call_and_a_broken_one_are_partial(format: FormatName) -> None:
    text = turn(format, "{'name': 'f', 'KEY': {}}") + "\n" + turn(format, '{"name": "g", "KEY": {"a": oops}}')
    assert repaired(text, format) == ("partial", (ToolCall("f", {}),), {"python_literals": 1})


@pytest.mark.parametrize("format", FORMATS)
def test_a_call_that_is_cut_stays_truncated(format: FormatName) -> None:
    text = turn(format, '{"name": "f", "KEY": {"a": "b')[: None if format != "hermes" else -len("\n</tool_call>")]
    assert repaired(text, format, finish_reason="length") == ("truncated", (), {})


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
def test_repairs_only_add_calls_and_otherwise_keep_the_strict_result(
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
def test_python_literals_are_read_like_python_reads_them(value: dict[str, Any]) -> None:
    text = repr(value)
    assert ast.literal_eval(text) == value
    found = Repairer(["python_literals"], len(text)).decode(f"{text} and more", 0)
    assert isinstance(found, Decoded)
    assert json.dumps(found.value) == json.dumps(value)
    assert found.end == len(text)


# Calls in the syntax of another chat format

LOOKED_UP = ToolCall("look_up", {"id": "A1"})
HERMES_TURN = '<tool_call>\n{"name": "look_up", "arguments": {"id": "A1"}}\n</tool_call>'
BARE_TURN = '{"name": "look_up", "parameters": {"id": "A1"}}'


@pytest.mark.parametrize(
    ("format", "text"), [("llama3", HERMES_TURN), ("gemma", HERMES_TURN), ("json", HERMES_TURN), ("hermes", BARE_TURN)]
)
def test_a_call_in_another_formats_syntax_is_credited_only_with_repairs(format: FormatName, text: str) -> None:
    assert parse_turn(text, format, tools=("look_up",)).status == "malformed"
    found = parse_repaired(text, format, tools=("look_up",))
    assert (found.turn.status, found.turn.calls) == ("calls", (LOOKED_UP,))
    assert dict(found.repairs) == {"other_syntax": 1}


def test_a_broken_call_in_another_formats_syntax_is_not_credited() -> None:
    found = parse_repaired('<tool_call>\n{"name": "look_up", "arguments": {"id"\n</tool_call>', "llama3")
    assert (found.turn.status, dict(found.repairs)) == ("malformed", {})


def test_calls_of_the_own_syntax_are_never_read_in_another() -> None:
    both = f"{BARE_TURN}\n{HERMES_TURN}"
    found = parse_repaired(both, "llama3")
    assert (found.turn.status, found.turn.calls) == ("partial", (LOOKED_UP,))
    assert "other_syntax" not in found.repairs
