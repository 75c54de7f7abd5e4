"""The olmo3 format: Python calls on lines of their own, in tags."""

from __future__ import annotations

import json

import pytest

from toolhone.chat.parse import parse_turn
from toolhone.formats.chat_format import RawCall
from toolhone.formats.olmo3 import OLMO3
from toolhone.records import ToolCall

CALLS = (ToolCall("f", {"a": 1, "none": None, "yes": True}), ToolCall("g", {}))


@pytest.mark.parametrize(
    "block",
    [
        "f(a=1, none=null, yes=true)\ng()",
        "\nf(a=1, none=None, yes=True)\ng()\n",
        "\r\nf(a=1, none=null, yes=true) \r\n\n  g()\r\n",
        "f(a=1, none=null, yes=true), g()",
    ],
)
@pytest.mark.parametrize("before", ["", "Let me look.\n"])
def test_calls_on_lines_are_read(block: str, before: str) -> None:
    turn = parse_turn(f"{before}<function_calls>{block}</function_calls>", "olmo3", tools=("f", "g"))
    assert (turn.status, turn.calls, turn.content) == ("calls", CALLS, before.strip())


@pytest.mark.parametrize("character", ["\n", "\r", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"])
def test_the_line_ends_of_python_are_written_as_escapes_and_refused_without(character: str) -> None:
    value = f"a{character}b"
    text = OLMO3.write("", [RawCall("f", json.dumps({"a": value}))], "stop")
    assert len(text.splitlines()) == 1
    assert parse_turn(text, "olmo3").calls == (ToolCall("f", {"a": value}),)
    turn = parse_turn(f'<function_calls>f(a="{value}")</function_calls>', "olmo3")
    assert (turn.status, turn.calls) == ("malformed", ())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<function_calls>f() g()</function_calls>", "expected </function_calls> or another call"),
        ("<function_calls></function_calls>", "expected at least one call"),
        ("<function_calls>[f()]</function_calls>", "expected the name of a function"),
        ("<function_calls>math.add(a=1)</function_calls>", 'a function named "math.add": the parsers'),
        ("Done.</function_calls>", "</function_calls> without the start of its call"),
        ("f(a=1)", "a call in another format (a Python call of f)"),
    ],
)
def test_a_broken_block_names_the_reason(text: str, reason: str) -> None:
    turn = parse_turn(text, "olmo3", tools=("f",))
    assert turn.status in ("malformed", "partial")
    assert str(turn.failure).startswith(reason)


@pytest.mark.parametrize(
    "text", ["<function_calls>f(a=1)\n", "<function_calls>f(a=1)</func", "<function_calls>\n", "<functi"]
)
def test_a_block_that_was_cut_is_truncated(text: str) -> None:
    turn = parse_turn(text, "olmo3", "length")
    assert turn.status == ("partial" if "f(a" in text else "truncated")
    assert str(turn.failure).startswith("cut off at the token limit")
