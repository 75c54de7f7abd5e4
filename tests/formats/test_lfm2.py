"""The lfm2 format: turns as LFM2's templates write them, and JSON in the same tokens."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import byte_tokenizer

from toolhone.chat.parse import parse_turn
from toolhone.records import ToolCall

START, END = "<|tool_call_start|>", "<|tool_call_end|>"
CALLS = (ToolCall("f", {"a": 1, "text": "x"}), ToolCall("g", {}))

# In the style of LFM2's second template: texts are escaped. Those of LFM2.5 write them as they are.
TEMPLATE = r"""{%- macro write(value) -%}
    {%- if value is string -%}{{- "'" + (value ESCAPES) + "'" -}}
    {%- elif value is mapping or value is iterable -%}{{- value | tojson -}}
    {%- else -%}{{- value | string -}}{%- endif -%}
{%- endmacro -%}
{%- set call = messages[0].tool_calls[0].function -%}
{{- messages[0].content + "<|tool_call_start|>[" + call.name + "(" -}}
{%- for name, value in call.arguments.items() -%}{{- (", " if not loop.first else "") + name + "=" + write(value) -}}
{%- endfor -%}{{- ")]<|tool_call_end|>" -}}"""
ESCAPES = r"""| replace("\\", "\\\\") | replace("'", "\\'") | replace("\n", "\\n") | replace("\r", "\\r")"""


def rendered(arguments: dict[str, Any], escapes: str) -> str:
    message = {
        "role": "assistant",
        "content": "Hi",
        "tool_calls": [{"function": {"name": "f", "arguments": arguments}}],
    }
    template = TEMPLATE.replace("ESCAPES", escapes)
    return str(byte_tokenizer([]).apply_chat_template([message], chat_template=template, tokenize=False))


@pytest.mark.parametrize(
    "value",
    ["x", 'it\'s "x" \\ \n\r\t\x00 订单 😀', "", "5", -1.5, 0, True, None, [1, None, "it's"], {"k": [True, {}]}],
)
def test_what_the_native_template_writes_is_read(value: Any) -> None:
    turn = parse_turn(rendered({"a": value, "from": 1, "订单": "y"}, ESCAPES), "lfm2", tools=("f",))
    assert (turn.status, turn.content) == ("calls", "Hi")
    assert repr(turn.calls[0].arguments) == repr({"a": value, "from": 1, "订单": "y"})


@pytest.mark.parametrize("value", ["plain", "two\nlines", "a\tb\x00"])
def test_texts_without_escapes_are_read_if_they_need_none(value: str) -> None:
    assert parse_turn(rendered({"a": value}, ""), "lfm2").calls == (ToolCall("f", {"a": value}),)


@pytest.mark.parametrize("value", ["it's", "C:\\new", "x\\"])
def test_texts_without_the_escapes_they_need_never_read_back_as_they_were(value: str) -> None:
    assert parse_turn(rendered({"a": value}, ""), "lfm2").calls != (ToolCall("f", {"a": value}),)


@pytest.mark.parametrize(
    "block",
    [
        "[f(a=1, text='x'), g()]",
        ' [ f( a=1, text = "x" ), g( ) ] ',
        '[{"name": "f", "arguments": {"a": 1, "text": "x"}}, {"name": "g", "arguments": {}}]',
        '[{"name": "f", "parameters": {"a": 1, "text": "x"}}, {"name": "g"}]',
    ],
)
@pytest.mark.parametrize(("before", "after"), [("", ""), ("Let me look.\n", ""), ("", "\nOne moment.")])
def test_a_block_of_python_or_json_is_read_with_text_on_either_side(block: str, before: str, after: str) -> None:
    turn = parse_turn(f"{before}{START}{block}{END}{after}", "lfm2", tools=("f", "g"))
    assert (turn.status, turn.calls, turn.content) == ("calls", CALLS, (before + after).strip())


def test_names_with_dots_are_read() -> None:
    assert parse_turn(f"{START}[math.add(a=1)]{END}", "lfm2").calls == (ToolCall("math.add", {"a": 1}),)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"{START}f(a=1){END}", f"expected [ after {START}"),
        (f"{START}[]{END}", "expected at least one call"),
        (f"{START}```json\n[]\n```{END}", f"a call in another format (MiniCPM3 {START} with a code fence)"),
        (f"{START}[f(order-id='1')]{END}", 'an argument named "order-id", which is not a name in Python'),
        (f"{START}[f(a='{END}')]{END}", f"a string that contains '{END}' without an escape"),
        (f"Done.{END}", f"{END} without the start of its call"),
        ("[f(a=1)]", "a call in another format (calls in a list, as Python writes them)"),
    ],
)
def test_a_broken_block_names_the_reason(text: str, reason: str) -> None:
    turn = parse_turn(text, "lfm2", tools=("f",))
    assert (turn.status, turn.calls, turn.failure) == ("malformed", (), reason)


def test_a_broken_block_does_not_hide_the_next() -> None:
    turn = parse_turn(f"{START}[f(a=)]{END}{START}[g()]{END}", "lfm2")
    assert (turn.status, turn.calls) == ("partial", (ToolCall("g", {}),))


@pytest.mark.parametrize("text", [f"{START}[f()]", f"{START}[f()] {END[:-1]}", f"{START}[", START, START[:-1]])
def test_a_block_that_was_cut_is_truncated(text: str) -> None:
    turn = parse_turn(text, "lfm2", "length")
    assert turn.status == ("partial" if "f()" in text else "truncated")
    assert str(turn.failure).startswith("cut off at the token limit")
    assert parse_turn(text, "lfm2").status in ("partial", "malformed", "none")
