"""Writing a structured turn as text: the parser reads back the same calls, and broken calls stay broken."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolhone.chat.parse import parse_turn
from toolhone.formats import FORMATS
from toolhone.formats.chat_format import RawCall
from toolhone.records import FormatName, ToolCall

# Without halves of surrogate pairs, which are not characters and make a call malformed.
texts = st.text(st.characters(exclude_categories=("Cs",)))
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
calls = st.lists(st.tuples(texts.filter(bool), st.dictionaries(texts, values, max_size=4)), min_size=1, max_size=4)
QUOTES_NAMES = {name: '"a\\"b"' in f.write("", [RawCall('a"b', "{}")], "stop") for name, f in FORMATS.items()}
"""Whether a format writes the name of a call as a JSON string. If not, a name must be a name as APIs allow it."""
TYPED_BY_SCHEMA = ("qwen_xml", "minicpm5", "glm45")
"""Formats that write values as plain text. Each has a test with its tools, such as test_qwen_xml.py."""
PYTHON_NAMES = ("pythonic", "lfm2", "olmo3", "tool_code")
"""Formats whose names must be names in Python. Their round trip is in test_python_calls.py."""
BARE_NAMES = ("functiongemma", "gemma4")
"""Formats that cannot carry every name. Their round trip is in test_gemma_calls.py."""
UNTYPED = [name for name in FORMATS if name not in (*TYPED_BY_SCHEMA, *PYTHON_NAMES, *BARE_NAMES)]
prose = st.sampled_from(["", "Let me look.", "好的,我查一下。\n请稍等", "5 < 7; fine"])


@pytest.mark.parametrize("format", UNTYPED)
@settings(max_examples=30)  # of each of 17 formats, which share their readers
@given(content=prose, made=calls, ascii=st.booleans())
def test_written_calls_are_read_back_unchanged(
    format: FormatName, content: str, made: list[tuple[str, dict[str, Any]]], ascii: bool
) -> None:
    if not QUOTES_NAMES[format]:
        made = [(f"get_{number}.x-y", arguments) for number, (_, arguments) in enumerate(made)]
    raw = [RawCall(name, json.dumps(arguments, ensure_ascii=ascii)) for name, arguments in made]
    turn = parse_turn(FORMATS[format].write(content, raw, "stop"), format)
    assert (turn.status, turn.failure, turn.content) == ("calls", None, content)
    # As JSON text, because in Python 1 == 1.0 == True.
    assert json.dumps([[c.name, c.arguments] for c in turn.calls]) == json.dumps([[n, a] for n, a in made])


BROKEN = [
    '{"a": 1',
    '{"a": 1}}',
    "{'a': 1}",
    '{"a": NaN}',
    '{"a": 1, "a": 2}',
    "[1]",
    "5",
    "null",
    '"{}"',
    "not json",
    '{}}\n</tool_call>\n<tool_call>\n{"name": "other", "arguments": {}',
    '{}}; {"name": "other", "parameters": {}',
    '{"a": "\\ud800"}',
    "{" * 5000,
]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("arguments", BROKEN)
def test_arguments_that_are_not_a_json_object_are_malformed_and_add_no_call(format: FormatName, arguments: str) -> None:
    turn = parse_turn(FORMATS[format].write("", [RawCall("look", arguments)], "stop"), format)
    assert (turn.status, turn.calls) == ("malformed", ())


@pytest.mark.parametrize("format", FORMATS)
@settings(max_examples=30)
@given(raw=st.text())
def test_any_arguments_are_read_back_as_their_object_or_malformed(format: FormatName, raw: str) -> None:
    turn = parse_turn(FORMATS[format].write("", [RawCall("look", raw)], "stop"), format)
    if turn.status == "calls":
        said = json.loads(raw) if raw.strip() else {}
        if format in TYPED_BY_SCHEMA:  # without a schema, values stay texts
            assert turn.calls[0].arguments.keys() == said.keys()
        else:
            assert turn.calls == (ToolCall("look", said),)
    else:
        assert turn.status == "malformed"


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("cut", range(1, 16))
def test_a_call_cut_at_the_limit_is_truncated(format: FormatName, cut: int) -> None:
    arguments = '{"city": "Köln"}'
    assert len(arguments) == 16
    text = FORMATS[format].write("", [RawCall("look", arguments[:cut])], "length")
    assert parse_turn(text, format, "length").status == "truncated"


@pytest.mark.parametrize("format", FORMATS)
def test_a_good_call_before_a_broken_one_is_partial(format: FormatName) -> None:
    text = FORMATS[format].write("", [RawCall("look", "{}"), RawCall("look", "{")], "stop")
    turn = parse_turn(text, format)
    assert (turn.status, turn.calls) == ("partial", (ToolCall("look", {}),))


@pytest.mark.parametrize("format", FORMATS)
def test_empty_arguments_are_no_arguments(format: FormatName) -> None:
    turn = parse_turn(FORMATS[format].write("", [RawCall("look", " ")], "stop"), format)
    assert (turn.status, turn.calls) == ("calls", (ToolCall("look", {}),))
