"""The calls of GLM-4.5 (tags around keys and values) and of GLM-4-0414 (JSON under the name)."""

from __future__ import annotations

import json
from importlib import resources

import pytest
from conftest import byte_tokenizer
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from typed_calls import TOOLS, as_json, by_macro, by_template, calls, look, one_argument, prose, written

from toolhone.chat.parse import parse_turn
from toolhone.chat.probe import make_renderer
from toolhone.config import ChatConfig
from toolhone.formats import FORMATS
from toolhone.formats.chat_format import RawCall
from toolhone.formats.pieces import OTHER_FORMAT
from toolhone.records import ToolCall

GLM45 = (resources.files("trl") / "chat_templates" / "glm4moe.jinja").read_text(encoding="utf-8")
WRAP = "<tool_call>f\n<arg_key>a</arg_key>\n<arg_value>{}</arg_value>\n</tool_call>"
MADE = [
    ToolCall("look", {"text": "\na\n b \n", "count": -3, "price": 1.5, "sure": True, "list": [1, None, 'é"']}),
    ToolCall(
        "look", {"text": "", "maybe": None, "sure": False, "object": {"k": {"x": 1.0}}, "an argument": "<b> & 12"}
    ),
    ToolCall("get.now", {}),
]


def is_carried(made: list[ToolCall]) -> bool:
    """GLM-4.5 cannot carry a text with the end of a value or of a call."""
    text = json.dumps([call.arguments for call in made])
    return "</arg_value>" not in text and "</tool_call>" not in text


@given(content=prose, made=calls)
def test_written_calls_are_read_back_or_malformed(content: str, made: list[ToolCall]) -> None:
    for format in ("glm45", "glm4"):
        turn = look(format, written(format, content, made))
        if format == "glm4" or is_carried(made):
            assert (turn.status, turn.failure, turn.content) == ("calls", None, content)
            assert as_json(turn.calls) == as_json(made)
            assert by_macro(format, content, made) == written(format, content, made)
        else:
            assert turn.status in ("malformed", "partial")
            assert all(as_json([call]) in [as_json([one]) for one in made] for call in turn.calls)


@settings(max_examples=15)
@given(content=prose, made=calls, data=st.data())
def test_a_cut_turn_is_truncated_or_has_the_first_calls(
    content: str, made: list[ToolCall], data: st.DataObject
) -> None:
    assume(is_carried(made))
    for format in ("glm45", "glm4"):
        whole = written(format, content, made)
        for cut in data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=20)):
            turn = look(format, whole[:cut], "length")
            assert turn.status in ("none", "truncated", "calls", "partial")
            assert as_json(turn.calls) == as_json(made[: len(turn.calls)])
            assert turn.status != "none" or "<tool" not in whole[len(content) : cut]


@pytest.mark.parametrize("content", ["", "Let me look."])
def test_what_the_template_of_glm_4_5_writes_is_read(content: str) -> None:
    turn = look("glm45", by_template(GLM45, content, MADE))
    assert (turn.status, turn.failure, turn.content) == ("calls", None, content)
    assert as_json(turn.calls) == as_json(MADE)


def test_a_model_with_the_template_of_glm_4_5_gets_glm45_and_stops_at_the_next_turn() -> None:
    tokenizer = byte_tokenizer(["<|system|>", "<|user|>", "<|assistant|>", "<|observation|>", "<|endoftext|>"])
    tokenizer.chat_template = GLM45
    renderer = make_renderer(tokenizer, ChatConfig(), "glm")
    assert (renderer.format.name, renderer.source) == ("glm45", "model")
    assert {"<|user|>", "<|observation|>"} <= set(renderer.stops)


def test_calls_of_glm_4_7_have_no_new_lines() -> None:
    tags = "<arg_key>count</arg_key><arg_value>1</arg_value><arg_key>text</arg_key><arg_value>\nx\n</arg_value>"
    turn = look("glm45", f"</think>Wait.<tool_call>look{tags}</tool_call><tool_call>get.now</tool_call>")
    assert turn.calls == (ToolCall("look", {"count": 1, "text": "\nx\n"}), ToolCall("get.now", {}))
    assert turn.content == "Wait."


@pytest.mark.parametrize("value", ["12", "\n x \n", "", "<arg_key>", "<tool_call>", "</arg_key>", "null"])
def test_a_string_is_read_as_it_is_written(value: str) -> None:
    assert one_argument("glm45", value, {"type": "string"}, WRAP) == value


@pytest.mark.parametrize("format", ["glm45", "glm4"])
def test_spans_are_where_name_and_values_are_written(format: str) -> None:
    text = written(format, "Wait.", MADE)
    turn = look(format, text)
    for call, spans, (start, end) in zip(turn.calls, turn.call_spans(text), turn.places, strict=True):
        assert text[slice(*spans.name)] == call.name
        assert text[start:end].startswith(call.name)
        for name, value in call.arguments.items():
            raw = isinstance(value, str) and format == "glm45"
            assert text[slice(*spans.values[name])] == (value if raw else json.dumps(value, ensure_ascii=False))


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>look\n<arg_key>count</arg_key>\n</tool_call>",
        "<tool_call>look\n<arg_key>count</arg_key>\n<arg_value>1\n</tool_call>",
        "<tool_call>look\n<arg_key>count\n<arg_value>1</arg_value>\n</tool_call>",
        "<tool_call>look\n<arg_value>1</arg_value>\n</tool_call>",
        "<tool_call>look\n<arg_key>a</arg_key>1<arg_value>1</arg_value>\n</tool_call>",
        "<tool_call>look\n<arg_key>a</arg_key>\n<arg_value>1</arg_value>\n<arg_key>a</arg_key>\n<arg_value>2</arg_value>\n</tool_call>",
        "<tool_call>look\n<arg_key></arg_key>\n<arg_value>1</arg_value>\n</tool_call>",
        "<tool_call>look\n<arg_key>count</arg_key>\n<arg_value>1</arg_value>\n",
        "<tool_call></tool_call>",
        "<tool_call>",
        "</tool_call>",
        "<arg_key>count</arg_key>",
        "<tool_call>look\n<arg_key>text</arg_key>\n<arg_value>\ud800</arg_value>\n</tool_call>",
    ],
)
def test_a_broken_call_of_glm_4_5_is_malformed(text: str) -> None:
    turn = look("glm45", text)
    assert (turn.status, turn.calls) == ("malformed", ())


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>\n{"name": "look", "arguments": {}}\n</tool_call>',
        "<tool_call>\n<function=look>\n<parameter=count>\n1\n</parameter>\n</function>\n</tool_call>",
        '<function name="look"><param name="count">1</param></function>',
        "<tool_call>look(count=1)</tool_call>",
        "[look(count=1)]",
    ],
)
@pytest.mark.parametrize("format", ["glm45", "glm4"])
def test_a_call_in_another_syntax_is_malformed(format: str, text: str) -> None:
    turn = look(format, text)
    assert (turn.status, turn.calls) == ("malformed", ())
    assert (turn.failure or "").startswith(OTHER_FORMAT)


@pytest.mark.parametrize(
    "text",
    [
        'look\n{"count": 1}',
        '\nlook \r\n  {"count": 1}\n',
        'other\n{"count": 1}',
        '<think>Hm.</think>\nlook\n{"count": 1}',
        'Hm.</think>look\n{"count": 1}',
        'Wait.\nlook\n{\n "count": 1\n}',
        'Wait.\n<|assistant|>look\n{"count": 1}<|observation|>',
    ],
)
def test_a_name_above_an_object_is_a_call_of_glm_4(text: str) -> None:
    turn = look("glm4", text)
    assert turn.status == "calls"
    assert [call.arguments for call in turn.calls] == [{"count": 1}]


def test_parallel_calls_of_glm_4_follow_the_token_of_the_next_turn() -> None:
    turn = look("glm4", 'look\n{"count": 1}<|assistant|>get.now\n{}<|observation|>')
    assert turn.calls == (ToolCall("look", {"count": 1}), ToolCall("get.now", {}))
    assert turn.content == ""


@pytest.mark.parametrize(
    "text",
    [
        'look\n{"count": 1',
        "look\n{count: 1}",
        'look\n{"count": NaN}',
        'look\n{"count": 1, "count": 2}',
        'Please look\n{"count": 1}',
        'look {"count": 1}',
        '```\nlook\n{"count": 1\n```',
        "get.now",
    ],
)
def test_a_broken_call_of_glm_4_is_malformed(text: str) -> None:
    turn = look("glm4", text)
    assert (turn.status, turn.calls) == ("malformed", ())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I can look for you.",
        "look",
        'The answer:\n{"count": 1}',
        'The count is this\n{"count": 1}',
        'Result. \nTotal\n{"count": 1}',
        "Example\n{ x | x > 1 }",
        "look\nfor it",
    ],
)
def test_prose_has_no_call(text: str) -> None:
    assert (look("glm4", text).status, look("glm4", text).content) == ("none", text)
    assert (look("glm45", "I can look.").status, look("glm45", "a <tool b").status) == ("none", "none")


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("get.n", "truncated"),
        ("Wait.\nget.now\n", "truncated"),
        ("other\n", "none"),
        ("Good mor", "none"),
        ("Wait.\nI", "none"),
    ],
)
def test_a_cut_name_of_glm_4_is_truncated_only_if_it_may_become_a_call(text: str, status: str) -> None:
    assert look("glm4", text, "length").status == status


@pytest.mark.parametrize("format", ["glm45", "glm4"])
@pytest.mark.parametrize(
    ("name", "arguments"), [("a b\n{", "{}"), ("look", "{"), ("look", "5"), ("<x>", '{"a": "</tool_call>"}')]
)
def test_a_call_that_cannot_be_written_is_malformed(format: str, name: str, arguments: str) -> None:
    for tools in (None, TOOLS):
        turn = parse_turn(FORMATS[format].write("Wait.", [RawCall(name, arguments)], "stop"), format, tools=tools)
        assert (turn.status, turn.calls) == ("malformed", ())
