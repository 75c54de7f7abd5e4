"""The tool_code format: the code fence in which Gemma 3 calls."""

from __future__ import annotations

import pytest

from toolhone.chat.parse import parse_repaired, parse_turn
from toolhone.records import ToolCall

CALL = ToolCall("f", {"a": 1})


@pytest.mark.parametrize(
    "code",
    ["f(a=1)", "print(f(a=1))", "print(default_api.f(a=1))", "default_api.f(a=1)", "\n  f(a=1)  ", "print( f(a=1) )"],
)
def test_a_call_in_the_fence_is_read(code: str) -> None:
    text = f"Let me look.\n```tool_code\n{code}\n```\nOne moment."
    turn = parse_turn(text, "tool_code", tools=("f",))
    assert (turn.status, turn.calls, turn.content) == ("calls", (CALL,), "Let me look.\n\nOne moment.")
    assert [text[slice(*spans.name)] for spans in turn.call_spans(text)] == ["f"]


@pytest.mark.parametrize("code", ["f(a=1)\ng()", "f(a=1); g()", "f(a=1)\n\n\ng()\n"])
def test_each_line_is_a_call(code: str) -> None:
    assert parse_turn(f"```tool_code\n{code}\n```", "tool_code").calls == (CALL, ToolCall("g", {}))


@pytest.mark.parametrize(
    "code", ["x = f(a=1)", "f(1)", "f(a=x)", "import json", "", "print(f(a=1)", "for x in y: f(a=1)", "f(a=1)\nx = 1"]
)
def test_other_code_in_the_fence_is_malformed(code: str) -> None:
    assert parse_turn(f"```tool_code\n{code}\n```", "tool_code", tools=("f",)).status in ("malformed", "partial")


def test_other_fences_are_prose() -> None:
    text = "```python\nprint(1)\n```\nand\n```\nx\n```"
    turn = parse_turn(text, "tool_code", tools=("f",))
    assert (turn.status, turn.content) == ("none", text)


@pytest.mark.parametrize(
    "text", ["```tool_code\n", "```tool_code\nf(a=", "```tool_code\nprint(f()", "```tool_code\nf()\n``"]
)
def test_a_fence_that_was_cut_is_truncated(text: str) -> None:
    turn = parse_turn(text, "tool_code", "length")
    assert turn.status in ("truncated", "partial")
    assert str(turn.failure).startswith("cut off at the token limit")


@pytest.mark.parametrize("format", ["hermes", "gemma", "pythonic"])
def test_a_base_model_that_answers_in_a_fence_is_credited_in_the_repaired_reading(format: str) -> None:
    found = parse_repaired("```tool_code\nprint(f(a=1))\n```", format, tools=("f",))
    assert (found.strict.status, found.turn.calls) == ("malformed", (CALL,))
    assert dict(found.repairs) == {"other_syntax": 1}
