"""The calls of Qwen3-Coder, Qwen3.5 and Nemotron 3: XML-like tags around texts that the tool's schema types."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

import pytest
from conftest import byte_tokenizer
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from typed_calls import (
    LOOK,
    arguments,
    as_json,
    by_macro,
    by_template,
    calls,
    look,
    one_argument,
    prose,
    texts,
    written,
)

from toolhone.chat.probe import make_renderer
from toolhone.config import ChatConfig
from toolhone.formats.pieces import OTHER_FORMAT
from toolhone.records import ToolCall

TEMPLATES = resources.files("trl") / "chat_templates"
WRAP = "<tool_call>\n<function=f>\n<parameter=a>\n{}\n</parameter>\n</function>\n</tool_call>"
# Texts with these end a value or a call, in vLLM too.
NOT_CARRIED = ("<parameter=", "</parameter>", "<function=", "</function>")


def is_carried(made: list[ToolCall]) -> bool:
    said = [value for call in made for value in call.arguments.values()]
    text = "\n".join(each if isinstance(each, str) else json.dumps(each) for each in said)
    return not any(tag in text for tag in NOT_CARRIED)


@given(content=prose, made=calls)
def test_written_calls_are_read_back_or_malformed(content: str, made: list[ToolCall]) -> None:
    turn = look("qwen_xml", written("qwen_xml", content, made))
    if is_carried(made):
        assert (turn.status, turn.failure, turn.content) == ("calls", None, content)
        assert as_json(turn.calls) == as_json(made)
        assert by_macro("qwen_xml", content, made) == written("qwen_xml", content, made)
    else:
        assert turn.status in ("malformed", "partial")
        assert all(as_json([call]) in [as_json([one]) for one in made] for call in turn.calls)


@pytest.mark.parametrize(
    "value", ["a</parameter>b", "<parameter=b>", "</function>", "\n</parameter>\n<parameter=count>\n2"]
)
def test_a_text_with_the_tags_of_the_syntax_is_malformed_as_the_model_template_writes_it(value: str) -> None:
    turn = look("qwen_xml", by_template(str(TEMPLATE), "", [ToolCall("look", {"text": value})]))
    assert turn.calls != (ToolCall("look", {"text": value}),)
    assert turn.status == "malformed" or value.endswith("2")  # the last one is two arguments, and no reader can know


@settings(max_examples=15)
@given(content=prose, made=calls, data=st.data())
def test_a_cut_turn_is_truncated_or_has_the_first_calls(
    content: str, made: list[ToolCall], data: st.DataObject
) -> None:
    assume(is_carried(made))
    whole = written("qwen_xml", content, made)
    for cut in data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=20)):
        turn = look("qwen_xml", whole[:cut], "length")
        assert turn.status in ("none", "truncated", "calls", "partial")
        assert as_json(turn.calls) == as_json(made[: len(turn.calls)])
        assert turn.status != "none" or "<func" not in whole[:cut]
        stopped = look("qwen_xml", whole[:cut])
        assert as_json(stopped.calls) == as_json(turn.calls)


TEMPLATE = """{%- for message in messages %}{{ "<|im_start|>" + message.role + "\\n" + message.content }}
{%- for call in message.tool_calls or [] %}{{ "<tool_call>\\n<function=" + call.function.name + ">\\n" }}
{%- for name, value in call.function.arguments.items() %}
{{- "<parameter=" + name + ">\\n" + (value | string) + "\\n</parameter>\\n" }}{% endfor %}
{{- "</function>\\n</tool_call>" }}{% endfor %}{{ "<|im_end|>\\n" }}{% endfor %}"""
OWN = [
    path.name
    for path in sorted(TEMPLATES.iterdir(), key=str)
    if path.name.startswith(("qwen3_5", "qwen3_6", "qwen3_8", "nemotron_3")) and "training" not in path.name
]
MADE = [
    ToolCall("look", {"text": "a\n b \n", "count": -3, "price": 1.5, "sure": True, "list": [1, None, 'é"']}),
    ToolCall(
        "look", {"text": "", "price": 1e-07, "sure": False, "object": {"k": {"x": 1.0}}, "an argument": "<b> & 12"}
    ),
    ToolCall("get.now", {}),
]


def test_the_templates_of_trl_are_there() -> None:
    assert len(OWN) >= 6


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("content", ["", "Let me look."])
def test_what_the_model_templates_write_is_read(name: str, content: str) -> None:
    source = (TEMPLATES / name).read_text(encoding="utf-8")
    turn = look("qwen_xml", by_template(source, content, MADE))
    assert (turn.status, turn.failure, turn.content) == ("calls", None, content)
    assert as_json(turn.calls) == as_json(MADE)


@pytest.mark.parametrize("name", OWN)
def test_a_model_with_such_a_template_gets_this_format(name: str) -> None:
    tokenizer = byte_tokenizer(["<|im_start|>", "<|im_end|>"], eos_token="<|im_end|>")
    tokenizer.chat_template = (TEMPLATES / name).read_text(encoding="utf-8")
    renderer = make_renderer(tokenizer, ChatConfig(), name)
    assert (renderer.format.name, renderer.source) == ("qwen_xml", "model")


@pytest.mark.parametrize(("name", "expected"), [("qwen3_5_think.jinja", "None"), ("qwen3_6.jinja", None)])
def test_a_null_of_the_older_template_is_read_as_a_text_as_vllm_reads_it(name: str, expected: Any) -> None:
    source = (TEMPLATES / name).read_text(encoding="utf-8")
    turn = look("qwen_xml", by_template(source, "", [ToolCall("look", {"maybe": None})]))
    assert turn.calls == (ToolCall("look", {"maybe": expected}),)


def test_spans_are_where_name_and_values_are_written() -> None:
    text = written("qwen_xml", "Wait.", MADE)
    turn = look("qwen_xml", text)
    for call, spans, (start, end) in zip(turn.calls, turn.call_spans(text), turn.places, strict=True):
        assert text[slice(*spans.name)] == call.name
        assert text[start:end].startswith(f"<function={call.name}>")
        assert text[start:end].endswith("</function>")
        for name, value in call.arguments.items():
            shown = text[slice(*spans.values[name])]
            assert shown == (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


@pytest.mark.parametrize(
    "text",
    [
        "<function=look>\n<parameter=count>\n1\n</parameter>\n</function>",
        "<function=look>\n<parameter=count>\n1\n</parameter>\n</function>\n</tool_call>",
        "<tool_call><function=look><parameter=count>1</parameter></function></tool_call>",
        "<think>\nHm.\n</think>\n\n<tool_call>\n<function=look>\n<parameter=count>\n1\n</parameter>\n</function>\n"
        "</tool_call>",
        "Hm.</think><tool_call>\n<function=look>\n<parameter=count>\n1\n</parameter>\n</function>\n</tool_call>\n",
    ],
)
def test_the_outer_tag_and_the_new_lines_may_be_missing(text: str) -> None:
    turn = look("qwen_xml", text)
    assert (turn.status, turn.calls, turn.content) == ("calls", (ToolCall("look", {"count": 1}),), "")


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>\n<function=look>\n<parameter=count>\n1\n</function>\n</tool_call>",
        "<tool_call>\n<function=look>\n<parameter=count>\n1\n<parameter=price>\n2\n</parameter>\n</function>\n</tool_call>",
        "<tool_call>\n<function=look>\n<parameter=count>\n1\n</parameter>\n</tool_call>",
        "<tool_call>\n<function=look>\n<parameter=count>\n1\n</parameter>\n</function>",
        "<tool_call>\n<function=look>\n<parameter=count>\n1\n</parameter>\n</function>\nand",
        "<tool_call>\n<function=look>\nx\n</function>\n</tool_call>",
        "<tool_call>\n<function=look>\n<parameter=count>\n1\n</parameter>\n<parameter=count>\n2\n</parameter>\n</function>\n</tool_call>",
        "<tool_call>\n<function=>\n</function>\n</tool_call>",
        "<tool_call>\n<function=look\n</function>\n</tool_call>",
        "<tool_call>\n</tool_call>",
        "<tool_call>\nlook\n</tool_call>",
        "</tool_call>",
        "<tool_call>",
        "<function=look>",
        "<tool_call>\n<function=look>\n<parameter=text>\n\ud800\n</parameter>\n</function>\n</tool_call>",
    ],
)
def test_a_broken_call_is_malformed(text: str) -> None:
    turn = look("qwen_xml", text)
    assert (turn.status, turn.calls) == ("malformed", ())


def test_a_broken_call_does_not_hide_the_next_one() -> None:
    good = "<tool_call>\n<function=get.now>\n</function>\n</tool_call>"
    for broken in ("<tool_call>\n<function=look>\nx\n", "<tool_call>\n<x></tool_call>", "<function=look>x</function>"):
        turn = look("qwen_xml", broken + good)
        assert (turn.status, turn.calls) == ("partial", (ToolCall("get.now", {}),))


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>\n{"name": "look", "arguments": {}}\n</tool_call>',
        "<tool_call>look\n<arg_key>count</arg_key>\n<arg_value>1</arg_value>\n</tool_call>",
        '<function=look>{"count": 1}</function>',
        '<function name="look"><param name="count">1</param></function>',
        "[look(count=1)]",
    ],
)
def test_a_call_in_another_syntax_is_malformed(text: str) -> None:
    turn = look("qwen_xml", text)
    assert (turn.status, turn.calls) == ("malformed", ())
    assert (turn.failure or "").startswith(OTHER_FORMAT)


@pytest.mark.parametrize(
    "text", ["", "I can look for you.", "Use look() with a count.", "a < b > c", "<func", "<b>x</b>"]
)
def test_prose_has_no_call(text: str) -> None:
    assert (look("qwen_xml", text).status, look("qwen_xml", text).content) == ("none", text)


@pytest.mark.parametrize(
    ("value", "expected"), [("12", "12"), ("\n\nx\n", "\n\nx\n"), ("", ""), ("</think>", "</think>")]
)
def test_a_string_is_read_as_it_is_written(value: str, expected: str) -> None:
    assert one_argument("qwen_xml", value, {"type": "string"}, WRAP) == expected


@settings(max_examples=30)
@given(made=arguments, value=texts)
def test_a_call_of_an_undeclared_tool_has_only_texts(made: dict[str, Any], value: str) -> None:
    call = [ToolCall("other", {**made, "text": value})]
    assume(is_carried(call))
    turn = look("qwen_xml", written("qwen_xml", "", call), tools={"look": LOOK})
    assert turn.calls[0].name == "other"
    assert all(isinstance(each, str) for each in turn.calls[0].arguments.values())
