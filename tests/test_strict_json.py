"""Decoding lines: a line that repeats the tools of the line before has the same value as on its own."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolhone.strict_json import StrictJsonError, parse_line, parse_strict

TOOLS = ["[]", '[{"name": "f"}]', '[{"name": "f"}, {"name": "g", "parameters": {"a": [1, 2.0, null, true]}}]', '["]"]']
PIECES = [
    *TOOLS,
    *('{"tools": ', '"tools":', '"tools" : ', '"x\\"tools": ', '"meta": {"tools": ', '"id": ', "{", "}", "[", "]"),
    *(", ", ",", '"', "\\", " ", "1", "-0", "1.0", "NaN", "1e999", '"tools": [{"name": "f"}], ', '"\\ud800"', "null"),
]


def outcome(text: str, decoder: Any) -> Any:
    try:
        # Compare as text: 1, 1.0 and True are equal in Python.
        return json.dumps(decoder(text))
    except StrictJsonError as error:
        return error.rule, str(error)


def line(text: str) -> Any:
    return parse_line(text.encode())[0]


@given(st.lists(st.lists(st.sampled_from(PIECES), max_size=9).map("".join), min_size=1, max_size=4))
def test_earlier_lines_do_not_change_how_a_line_is_read(texts: list[str]) -> None:
    for text in texts:
        assert outcome(text, line) == outcome(text.rstrip("\r\n"), parse_strict)


@given(st.lists(st.tuples(st.sampled_from(TOOLS), st.sampled_from(["{}", '"x"', "1", '{"tools": []}'])), max_size=5))
def test_the_position_of_tools_in_a_row_does_not_matter(rows: list[tuple[str, str]]) -> None:
    for tools, other in rows:
        for text in (
            f'{{"a": {other}, "tools": {tools}}}',
            f'{{"tools":{tools},"a":{other}}}',
            f'{{"tools": {tools}}}',
        ):
            assert line(text) == json.loads(text)


def test_neighbouring_lines_with_equal_tools_share_the_value() -> None:
    first, second = (line(f'{{"id": {n}, "tools": [{{"name": "f"}}]}}') for n in (1, 2))
    assert first["tools"] is second["tools"]


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ('{"tools": [1], "tools": [1]}', "duplicate-key"),
        ('{"tools": [1] "a": 1}', "broken-json"),
        ('{"tools": [1]', "broken-json"),
        ('{"tools": [1]},', "broken-json"),
        ('{"tools": [1], }', "broken-json"),
    ],
)
def test_faults_after_reused_tools_are_reported(text: str, rule: str) -> None:
    line('{"tools": [1]}')
    with pytest.raises(StrictJsonError) as caught:
        line(text)
    assert caught.value.rule == rule
