"""The llama3_ipython format: the three ways in which Llama 3.1 calls in the environment "ipython"."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import byte_tokenizer

from toolhone.chat.parse import parse_turn
from toolhone.records import ToolCall

SEARCH = ToolCall("brave_search", {"query": "gold price"})

# In the style of Llama 3.1's template, which writes the tools in `builtin_tools` as Python.
BUILT_IN = r"""{%- set call = messages[0].tool_calls[0].function -%}
{{- "<|python_tag|>" + call.name + ".call(" -}}
{%- for name, value in call.arguments | items -%}
    {{- name + '="' + value + '"' -}}{%- if not loop.last -%}{{- ", " -}}{%- endif -%}
{%- endfor -%}{{- ")" -}}"""


def rendered(arguments: dict[str, Any]) -> str:
    message = {"role": "assistant", "tool_calls": [{"function": {"name": "brave_search", "arguments": arguments}}]}
    return str(byte_tokenizer([]).apply_chat_template([message], chat_template=BUILT_IN, tokenize=False))


@pytest.mark.parametrize("arguments", [{"query": "gold price"}, {"query": "1 < 2, (x)", "lang": "订单"}, {}])
def test_what_the_native_template_writes_for_built_in_tools_is_read(arguments: dict[str, Any]) -> None:
    text = rendered(arguments) + "<|eom_id|>"
    turn = parse_turn(text, "llama3_ipython", tools=("brave_search",))
    assert (turn.status, turn.calls) == ("calls", (ToolCall("brave_search", arguments),))
    assert [text[slice(*spans.name)] for spans in turn.call_spans(text)] == ["brave_search"]


def test_a_text_with_a_quote_does_not_read_back_from_the_native_template() -> None:
    assert parse_turn(rendered({"query": 'say "x"'}), "llama3_ipython").status == "malformed"


@pytest.mark.parametrize(
    "text",
    [
        '<function=brave_search>{"query": "gold price"}</function>',
        '<function=brave_search>\n{"query": "gold price"}\n</function>',
        '<|python_tag|>brave_search.call(query="gold price")',
        '<|python_tag|>{"type": "function", "name": "brave_search", "parameters": {"query": "gold price"}}',
        '{"name": "brave_search", "parameters": {"query": "gold price"}}',
    ],
)
def test_each_way_of_calling_is_read(text: str) -> None:
    turn = parse_turn(text, "llama3_ipython", tools=("brave_search",))
    assert (turn.status, turn.calls, turn.content) == ("calls", (SEARCH,), "")


def test_calls_in_tags_may_follow_each_other_and_text() -> None:
    turn = parse_turn('Let me look.<function=f>{}</function>\n<function=g>{"a": 1}</function>', "llama3_ipython")
    assert (turn.status, turn.content) == ("calls", "Let me look.")
    assert turn.calls == (ToolCall("f", {}), ToolCall("g", {"a": 1}))


@pytest.mark.parametrize(
    "text",
    [
        "<|python_tag|>import os\nprint(os.getcwd())",
        "<|python_tag|>print(a=1)",
        "<|python_tag|>brave_search.call('gold price')",
        "<function=f>\n<parameter=a>\n1\n</parameter>\n</function>",
        "<function=f>{'a': 1}</function>",
        "<function=>{}</function>",
    ],
)
def test_other_code_and_other_tags_are_malformed(text: str) -> None:
    turn = parse_turn(text, "llama3_ipython", tools=("f",))
    assert (turn.status, turn.calls) == ("malformed", ())


@pytest.mark.parametrize(
    "text", ["<|python_tag|>brave_se", "<|python_tag|>f.call(a=", '<function=f>{"a": ', "<function=f"]
)
def test_a_call_that_was_cut_is_truncated(text: str) -> None:
    assert parse_turn(text, "llama3_ipython", "length").status == "truncated"


def test_llama3_reads_no_python_because_its_parser_in_vllm_does_not() -> None:
    assert parse_turn('<|python_tag|>brave_search.call(query="x")', "llama3").status == "malformed"
