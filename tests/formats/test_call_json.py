"""The JSON of a call: where it ends, what strict decoding refuses, and what counts as a call."""

from __future__ import annotations

import json

import pytest

from toolhone.formats.call_json import MAX_NESTING, Decoded, Undecodable, call_in_prose, decode, looks_like_call, short


def test_a_value_ends_where_its_json_ends() -> None:
    text = 'so: {"a": "}"} then'
    assert decode(text, 4) == Decoded({"a": "}"}, text.index(" then"))


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ("NaN", "NaN is not JSON"),
        ('{"a": 1, "a": 2}', 'the key "a" appears twice in one object'),
        ("1e999", "holds a number that is too large for a float; write it as a text"),
        ('{"\\ud800": 1}', "half of a surrogate pair, which is not a character"),
        ("9" * 5000, "a number with too many digits"),
        ("[" * (MAX_NESTING + 1) + "]" * (MAX_NESTING + 1), f"JSON nested deeper than {MAX_NESTING} levels"),
    ],
)
def test_a_value_that_strict_json_refuses_has_an_end_and_a_fault(value: str, fault: str) -> None:
    assert decode(f"{value} rest", 0) == Decoded(None, len(value), fault)


def test_nesting_up_to_the_limit_is_decoded() -> None:
    text = "[" * MAX_NESTING + "1" + "]" * MAX_NESTING
    assert decode(text, 0) == Decoded(json.loads(text), len(text))


@pytest.mark.parametrize(
    "text", ["", '{"a', '{"a":', '{"a": tr', '{"a": -', '{"a": 1.', '{"a": 1e', r'{"a": "\u00e', r'{"a": "x\ '[:-1]]
)
def test_json_that_ends_too_early_is_cut(text: str) -> None:
    found = decode(text, 0)
    assert isinstance(found, Undecodable)
    assert (found.cut, found.end) == (True, len(text))


def test_json_that_is_broken_before_its_end_is_not_cut() -> None:
    found = decode('{"a": b, "c": 1}', 0)
    assert isinstance(found, Undecodable)
    assert (found.cut, found.end) == (False, 6)


def test_a_name_with_arguments_looks_like_a_call_and_data_does_not() -> None:
    assert looks_like_call({"arguments": "{}", "name": "f"}, ())
    assert looks_like_call({"type": "function", "function": {"name": "f"}}, ())
    assert not looks_like_call({"name": "Ann", "id": 7}, None)
    assert not looks_like_call({"name": "circle", "type": "shape"}, None)
    assert not looks_like_call({"parameters": {}}, None)
    assert not looks_like_call(["name"], None)


def test_only_a_name_looks_like_a_call_if_the_tool_is_declared() -> None:
    assert looks_like_call({"name": "f"}, ["f", "g"])
    assert not looks_like_call({"name": "Ada"}, ["f", "g"])
    assert not looks_like_call({"name": "f"}, ())
    assert looks_like_call({"name": "Ada"}, None)  # the declared tools are unknown


def test_a_call_is_found_anywhere_in_prose() -> None:
    assert call_in_prose('I call {"thought": "x", "name": "f", "parameters": {"a', ())
    assert call_in_prose('I call {"parameters": {"a": {"b": 1}}, "name": "f"} now', ())
    assert not call_in_prose('The schema is {"parameters": {"a": 1}}; its "name": "f" is {"name": "f"}.', ["f"])
    assert call_in_prose('{"name": "f"}', ["f"])
    assert not call_in_prose('{"name": "Ada"}', ["f"])


def test_only_the_first_hundred_objects_in_prose_are_searched_for_a_call() -> None:
    data, call = '{"parameters": {}} ', '{"parameters": {}, "name": "f"}'
    assert call_in_prose(data * 99 + call, ())
    assert not call_in_prose(data * 100 + call, ())


def test_short_gives_one_line_of_valid_text() -> None:
    assert short("a\nb\ud800") == "a b�"
    assert len(short("x" * 1000)) == 80
