"""The calls of MiniCPM5: XML with CDATA sections, and values in JSON or Python."""

from __future__ import annotations

import json

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from typed_calls import as_json, by_macro, by_template, calls, look, one_argument, prose, written

from toolhone.formats.pieces import OTHER_FORMAT
from toolhone.records import ToolCall

WRAP = '<function name="f"><param name="a">{}</param></function>'
# The template of the model writes values as Python does, and CDATA sections in the same cases.
TEMPLATE = """{%- for message in messages %}{{ "<|im_start|>" + message.role + "\\n" + message.content }}
{%- for call in message.tool_calls or [] %}{{ "\\n<function name=\\"" + call.function.name + "\\">" }}
{%- for name, value in call.function.arguments.items() %}{{ "<param name=\\"" + name + "\\">" }}
{%- if value is string and ("<" in value or "&" in value or "\\n" in value) %}{{ "<![CDATA[" + value + "]]>" }}
{%- else %}{{ value }}{% endif %}{{ "</param>" }}{% endfor %}
{{- "</function>" }}{% endfor %}{{ "<|im_end|>\\n" }}{% endfor %}"""


def is_carried(made: list[ToolCall]) -> bool:
    """Whether XML can carry the texts: no end of a call, no other line ends, and no control characters."""
    values = [value for call in made for value in call.arguments.values()]
    text = "\n".join(value if isinstance(value, str) else json.dumps(value) for value in values)
    is_xml = all(character in "\t\n" or " " <= character not in "\ufffe\uffff" for character in text)
    return is_xml and "</function>" not in text and "]]>" not in text


@given(content=prose, made=calls)
def test_written_calls_are_read_back_or_malformed(content: str, made: list[ToolCall]) -> None:
    turn = look("minicpm5", written("minicpm5", content, made))
    if is_carried(made) or turn.status == "calls":
        assert (turn.status, turn.failure, turn.content) == ("calls", None, content)
        assert as_json(turn.calls) == as_json(made)
        assert by_macro("minicpm5", content, made) == written("minicpm5", content, made)
    else:
        assert turn.status in ("malformed", "partial")
        assert all(as_json([call]) in [as_json([one]) for one in made] for call in turn.calls)


@settings(max_examples=15)
@given(content=prose, made=calls, data=st.data())
def test_a_cut_turn_is_truncated_or_has_the_first_calls(
    content: str, made: list[ToolCall], data: st.DataObject
) -> None:
    assume(is_carried(made))
    whole = written("minicpm5", content, made)
    assume(as_json(look("minicpm5", whole, "stop").calls) == as_json(made))
    for cut in data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=20)):
        turn = look("minicpm5", whole[:cut], "length")
        assert turn.status in ("none", "truncated", "calls", "partial")
        assert as_json(turn.calls) == as_json(made[: len(turn.calls)])
        assert turn.status != "none" or "<func" not in whole[:cut]


def test_what_the_model_template_writes_is_read() -> None:
    made = [
        ToolCall("look", {"text": "a\n<b> & ", "count": -3, "price": 1.5, "sure": True, "list": [1, None, "é\"'"]}),
        ToolCall("look", {"text": "", "maybe": None, "sure": False, "object": {"k": {"x": 1.0}, "t": True}}),
        ToolCall("look", {"object": {"html": "1 < 2 & 3 > 2"}, "text": "a & b"}),
        ToolCall("get.now", {}),
    ]
    for content in ("", "Let me look."):
        turn = look("minicpm5", by_template(TEMPLATE, content, made))
        assert (turn.status, turn.failure, turn.content) == ("calls", None, content)
        assert as_json(turn.calls) == as_json(made)


@pytest.mark.parametrize(
    ("written_text", "expected"),
    [
        ("a b", "a b"),
        (" a ", " a "),
        ("", ""),
        ("12", "12"),
        ("a &lt; b &amp;&#65;&#x42;", "a < b &AB"),
        ("a & b", "a & b"),
        (" a & b ", "a & b"),
        ("&nbsp;", "&nbsp;"),
        ("<![CDATA[a < b & c\n]]>", "a < b & c\n"),
        ("<![CDATA[use </param> here]]>", "use </param> here"),
        ("<![CDATA[&amp;]]>", "&amp;"),
        ("<![CDATA[a]]]>", "a]"),
        ("<![CDATA[]]>", ""),
        ("a\r\nb", "a\nb"),
    ],
)
def test_a_string_is_read_as_a_parser_of_xml_reads_it(written_text: str, expected: str) -> None:
    assert one_argument("minicpm5", written_text, {"type": "string"}, WRAP) == expected


def test_spans_are_where_name_and_values_are_written() -> None:
    text = written("minicpm5", "Wait.", [ToolCall("look", {"text": "a\nb", "count": 12})])
    (spans,) = look("minicpm5", text).call_spans(text)
    assert text[slice(*spans.name)] == "look"
    assert [text[slice(*span)] for span in spans.values.values()] == ["a\nb", "12"]


@pytest.mark.parametrize(
    "text",
    [
        '<function name="look"><param name="text">a <b>b</b></param></function>',
        '<function name="look"><param name="text">a & <param name="count">1</param></function>',
        '<function name="look"><param name="text">&</param><param name="kind"><![CDATA[</param>]]></param></function>',
        '<function name="look"><param name="count">1</function>',
        '<function name="look"><param name="count">1</param>',
        '<function name="look"><param>1</param></function>',
        '<function name="look">1</function>',
        '<function name="look"><param name="text"><![CDATA[a</param></function>',
        '<function name="look"><param name="text"><![CDATA[a</function>]]></param></function>',
        '<function name="look"><param name="text"><![CDATA[a]]>b</param>]]></param></function>',
        '<function name="look"><param name="count">1</param><param name="count">2</param></function>',
        "<function name='look'></function>",
        '<function name=""></function>',
        '<function name="look',
        "</function>",
        '<function name="look"><param name="text">\ud800</param></function>',
    ],
)
def test_a_broken_call_is_malformed(text: str) -> None:
    turn = look("minicpm5", text)
    assert (turn.status, turn.calls) == ("malformed", ())


def test_a_broken_call_does_not_hide_the_next_one() -> None:
    for broken in ('<function name="look">x</function>', '<function name="look"><param name="a">'):
        turn = look("minicpm5", f'{broken}<function name="get.now"></function>')
        assert (turn.status, turn.calls) == ("partial", (ToolCall("get.now", {}),))


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>\n{"name": "look", "arguments": {}}\n</tool_call>',
        "<tool_call>look\n<arg_key>count</arg_key>\n<arg_value>1</arg_value>\n</tool_call>",
        "<function=look>\n<parameter=count>\n1\n</parameter>\n</function>",
        "[look(count=1)]",
    ],
)
def test_a_call_in_another_syntax_is_malformed(text: str) -> None:
    turn = look("minicpm5", text)
    assert (turn.status, turn.calls) == ("malformed", ())
    assert (turn.failure or "").startswith(OTHER_FORMAT)


@pytest.mark.parametrize(
    "text", ["", "I can look for you.", "#include <functional>", "a < b > c", "<function name", "<b>"]
)
def test_prose_has_no_call(text: str) -> None:
    assert (look("minicpm5", text).status, look("minicpm5", text).content) == ("none", text)


def test_json_without_tags_inside_is_written() -> None:
    text = written("minicpm5", "", [ToolCall("look", {"list": ["</param></function>", "a & b"]})])
    assert json.loads(text.partition('"list">')[2].partition("</param>")[0]) == ["</param></function>", "a & b"]
