"""Tools and calls for the tests of formats whose values are typed by the tool's schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from transformers.utils.chat_template_utils import render_jinja_template

from toolhone.chat.parse import ParsedTurn, parse_turn
from toolhone.formats import FORMATS
from toolhone.formats.chat_format import RawCall
from toolhone.records import Tool, ToolCall

LOOK = Tool(
    "look",
    "looks",
    {
        "type": "object",
        "properties": {
            "text": {"type": "string"},
            "count": {"type": "integer"},
            "price": {"type": "number"},
            "sure": {"type": "boolean"},
            "list": {"type": "array"},
            "object": {"type": "object"},
            "maybe": {"type": ["object", "null"]},
            "kind": {"enum": ["a b", "c"], "type": "string"},
            "place": {"$ref": "#/$defs/place"},
            "either": {"anyOf": [{"type": "integer"}, {"$ref": "#/$defs/place"}, {"type": "null"}]},
            "an argument": {"type": "string"},
        },
        "$defs": {"place": {"type": "object", "properties": {"x": {"type": "integer"}}}},
    },
)
EMPTY = Tool("get.now", "tells the time", {"type": "object", "properties": {}})
TOOLS = {tool.name: tool for tool in (LOOK, EMPTY)}

# Without halves of surrogate pairs, which are not characters and make a call malformed.
texts = st.text(st.characters(exclude_categories=("Cs",))) | st.sampled_from(
    [
        *("", " ", "\n", "\n\n", " x ", "\nx\n", "x\n", "12", "-1.5", "true", "null", "None", "[1]", '{"a": 1}', "'x'"),
        *('say "hi"', "back\\slash", "a\nb", "é", "你好", "😀", "<b>bold</b>", "a < b & c", "&amp;", "]]>"),
        *("<parameter=a>", "<arg_key>a</arg_key>", "<param name=\"a\">", "<function=f>", "<tool_call>", "a > b"),
        *("}", "<![CDATA[x]]>"),
    ]
)  # fmt: skip
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(texts, values, max_size=3)
arguments = st.fixed_dictionaries(
    {},
    optional={
        "text": texts,
        "count": st.integers(-(2**60), 2**60),
        "price": st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**60), 2**60),
        "sure": st.booleans(),
        "list": st.lists(values, max_size=3),
        "object": objects,
        "maybe": st.none() | objects,
        "kind": st.sampled_from(["a b", "c"]),
        "place": st.fixed_dictionaries({"x": st.integers()}),
        "either": st.none() | st.integers() | st.fixed_dictionaries({"x": st.integers()}),
        "an argument": texts,
    },
)
calls = st.lists(
    st.builds(ToolCall, st.just("look"), arguments) | st.just(ToolCall("get.now", {})), min_size=1, max_size=3
)
prose = st.sampled_from(["", "Let me look.", "好的,我查一下。\n请稍等", "5 < 7; fine"])


def written(format: str, content: str, made: list[ToolCall]) -> str:
    raw = [RawCall(call.name, json.dumps(call.arguments, ensure_ascii=False)) for call in made]
    return FORMATS[format].write(content, raw, "stop")


def as_json(made: list[ToolCall] | tuple[ToolCall, ...]) -> str:
    """The calls as JSON text, because in Python 1 == 1.0 == True."""
    return json.dumps([[call.name, call.arguments] for call in made], ensure_ascii=False)


def look(format: str, text: str, finish_reason: Any = "stop", tools: Mapping[str, Tool] = TOOLS) -> ParsedTurn:
    return parse_turn(text, format, finish_reason, tools=tools)


def one_argument(format: str, value_text: str, schema: Any, wrap: str) -> Any:
    """The value that a text is read as, for an argument with this schema. `wrap` writes a call of `f` around it."""
    tool = Tool("f", "", {"type": "object", "properties": {"a": schema}})
    turn = look(format, wrap.format(value_text), tools={"f": tool})
    assert turn.failure is None, turn.failure
    return turn.calls[0].arguments["a"]


def by_macro(format: str, content: str, made: list[ToolCall]) -> str:
    """The turn as the format's Jinja macro writes it."""
    template = FORMATS[format].calls_macro + "{{- write_calls(messages[0].content, messages[0].tool_calls) }}"
    called = [{"function": {"name": call.name, "arguments": call.arguments}} for call in made]
    message = {"role": "assistant", "content": content, "tool_calls": called}
    rendered, _ = render_jinja_template([[message]], chat_template=template)
    return str(rendered[0])


def by_template(template: str | Path, content: str, made: list[ToolCall]) -> str:
    """The last turn as a model's own template writes it."""
    source = template if isinstance(template, str) else template.read_text(encoding="utf-8")
    called = [{"type": "function", "function": {"name": call.name, "arguments": call.arguments}} for call in made]
    messages = [
        {"role": "user", "content": "look"},
        {"role": "assistant", "content": content, "tool_calls": called},
    ]
    tools = [tool.to_json() for tool in TOOLS.values()]
    rendered, _ = render_jinja_template([messages], tools=tools, chat_template=source)
    turn = str(rendered[0])
    for opening in ("<|im_start|>assistant\n", "<|assistant|>"):
        turn = turn.rpartition(opening)[2]
    return turn.partition("<|im_end|>")[0]
