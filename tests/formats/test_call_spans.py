"""Spans of names and values, compared with the positions where a text was written piece by piece."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolhone.chat.parse import parse_turn
from toolhone.formats.call_json import CallSpans, Span, call_spans
from toolhone.records import FormatName

texts = st.text(st.characters(exclude_categories=("Cs",))) | st.sampled_from(
    ['say "hi"', "back\\slash", "line\nbreak", "é", "}", "</tool_call>", '"}}', "; {", "你好,订单", "😀", "\x7f"]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
calls = st.lists(st.tuples(texts.filter(bool), st.dictionaries(texts, values, max_size=4)), min_size=1, max_size=3)
gaps = st.sampled_from(["", " ", "\n", "\n    ", "\t"])
KEYS: dict[FormatName, list[str]] = {
    "hermes": ["arguments"],
    "llama3": ["parameters", "arguments"],
    "gemma": ["parameters", "arguments"],
    "json": ["arguments", "parameters"],
}


class Writer:
    """Writes a turn and records the span of each name and value."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.places: list[Span] = []
        self.spans: list[CallSpans] = []

    def put(self, text: str) -> Span:
        start = len(self.text)
        self.text += text
        return start, len(self.text)

    def call(self, draw: st.DrawFn, name: str, arguments: dict[str, Any], key: str) -> None:
        ascii = draw(st.booleans())
        start = len(self.text)
        found: dict[str, Span] = {}
        parts = ["name", "arguments"] if arguments or draw(st.booleans()) else ["name"]
        if len(parts) > 1 and draw(st.booleans()):
            parts.append("id")  # ignored in any position
        self.put("{" + draw(gaps))
        for number, part in enumerate(draw(st.permutations(parts))):
            self.put(f",{draw(gaps)}" if number else "")
            self.put(f'"{key if part == "arguments" else part}"{draw(gaps)}:{draw(gaps)}')
            if part == "id":
                self.put('"call_1"')
            elif part == "name":
                written = self.put(json.dumps(name, ensure_ascii=ascii))
            else:
                self.put("{" + draw(gaps))
                for place, (argument, value) in enumerate(arguments.items()):
                    self.put(f",{draw(gaps)}" if place else "")
                    self.put(f"{json.dumps(argument, ensure_ascii=ascii)}{draw(gaps)}:{draw(gaps)}")
                    indent = draw(st.sampled_from([None, 1]))
                    found[argument] = self.put(json.dumps(value, ensure_ascii=ascii, indent=indent))
                    self.put(draw(gaps))
                self.put("}")
            self.put(draw(gaps))
        self.places.append((start, self.put("}")[1]))
        self.spans.append(CallSpans(written, found))


@st.composite
def turns(draw: st.DrawFn, format: FormatName) -> Writer:
    """Draw a turn of one or more calls, after prose or after a thought that contains a call."""
    fake = '{"name": "fake", "arguments": {"a": "1"}}'
    fake = f"<tool_call>{fake}</tool_call>" if format == "hermes" else fake
    turn = Writer(draw(st.sampled_from(["", "好的,我查一下。\n", "Let me look.\n\n", f"<think>{fake}</think>\n"])))
    made = draw(calls)
    key = draw(st.sampled_from(KEYS[format]))
    if format == "hermes":
        for name, arguments in made:
            turn.put(f"<tool_call>{draw(gaps)}")
            turn.call(draw, name, arguments, key)
            turn.put(f"{draw(gaps)}</tool_call>{draw(gaps)}")
        return turn
    opening, between, closing = draw(
        st.sampled_from(
            [
                ("", "\n", ""),
                ("[", ", ", "]"),
                ("<|python_tag|>", "; ", "") if format == "llama3" else ("```json\n", "\n", "\n```"),
            ]
        )
    )
    turn.put(opening)
    for number, (name, arguments) in enumerate(made):
        turn.put(between if number else "")
        turn.call(draw, name, arguments, key)
    turn.put(closing)
    return turn


@pytest.mark.parametrize("format", list(KEYS))
@given(data=st.data())
def test_the_spans_are_where_names_and_values_were_written(format: FormatName, data: st.DataObject) -> None:
    written = data.draw(turns(format))
    turn = parse_turn(written.text, format)
    assert turn.failure is None
    assert list(turn.places) == written.places
    assert [call_spans(written.text, place) for place in turn.places] == written.spans


def test_a_turn_without_calls_has_no_places() -> None:
    assert parse_turn("Hello.", "hermes").places == ()


def test_the_readable_calls_of_a_broken_turn_have_places() -> None:
    text = '<tool_call>{"name": "a", "arguments": {}}</tool_call><tool_call>{"name": "b", </tool_call>'
    turn = parse_turn(text, "hermes")
    assert turn.status == "partial"
    assert [text[start:end] for start, end in turn.places] == ['{"name": "a", "arguments": {}}']


def test_turns_with_the_same_calls_are_equal_whatever_their_places() -> None:
    call = '{"name": "a", "arguments": {}}'
    one, other = (parse_turn(f"<tool_call>{gap}{call}</tool_call>", "hermes") for gap in ("", "\n"))
    assert one.places != other.places
    assert one == other
    assert repr(one) == repr(other)
