"""Which argument values count as equal."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolhone.evaluate.values import same_value
from toolhone.tool_schema import Subschemas


def same(expected: Any, found: Any, schema: dict[str, Any] | None = None) -> bool:
    return same_value(expected, found, Subschemas([schema], schema or {}))


NUMBER, INTEGER, STRING = {"type": "number"}, {"type": "integer"}, {"type": "string"}


@pytest.mark.parametrize("wrap", [lambda v: v, lambda v: [v], lambda v: {"a": v}, lambda v: {"a": [{"b": v}]}])
def test_true_is_not_one_at_any_depth(wrap: Any) -> None:
    assert same(wrap(True), wrap(True))
    assert not same(wrap(True), wrap(1))
    assert not same(wrap(1), wrap(True))
    assert not same(wrap(0), wrap(False))
    assert not same(wrap(0.0), wrap(False))
    assert not same(wrap(True), wrap(False))


def test_null_is_only_null() -> None:
    assert same(None, None, {"type": ["string", "null"]})
    for other in (0, False, "", "null", [], {}):
        assert not same(None, other)
        assert not same(other, None)


def test_a_number_differs_from_its_text() -> None:
    assert not same("5", 5, STRING)
    assert not same(5, "5", INTEGER)


@pytest.mark.parametrize("schema", [NUMBER, INTEGER, None])
def test_whole_numbers_are_equal_with_or_without_a_point(schema: dict[str, Any] | None) -> None:
    assert same(5, 5.0, schema)
    assert same(5.0, 5, schema)
    assert same(10**22, 1e22, schema)
    assert not same(5, -5, schema)
    assert not same(15, 1.5, schema)


def test_large_whole_numbers_are_compared_exactly() -> None:
    assert same(10**40, 10**40, NUMBER)
    assert not same(10**40, 10**40 + 1, NUMBER)
    assert not same(10**15, 10**15 + 1, NUMBER)
    assert not same(2**53 + 1, float(2**53), NUMBER)
    assert not same(10**400, 1.5, NUMBER)


def test_other_numbers_are_equal_within_one_in_a_million() -> None:
    assert same(0.3, 0.1 + 0.2, NUMBER)
    assert same(1234.5, 1234.5001, NUMBER)
    assert not same(1234.5, 1234.51, NUMBER)
    assert not same(1e-9 + 0.5e-10, 2e-9, NUMBER)
    assert not same(5, 5.0000001, NUMBER)
    assert not same(0, 1e-12, NUMBER)


def test_a_fraction_never_matches_an_integer() -> None:
    assert same(5, 5.0, INTEGER)
    assert not same(5, 5.5, INTEGER)
    assert not same(5.5, 5.5, INTEGER)
    assert same(5.5, 5.5, {"type": ["integer", "number"]})
    assert same(5.5, 5.5)


def test_strings_are_compared_exactly_after_nfc_and_stripping() -> None:
    assert same("café", "cafe\u0301", STRING)
    assert same("文三路 478 号", " 文三路 478 号\n", STRING)
    assert same("ORD-1", "\u3000ORD-1")
    assert not same("文三路 478 号", "文三路478号")
    assert not same("ORD-1", "ord-1")
    assert not same("ORD-1", "ORD1")
    assert not same("１", "1")


def test_arrays_are_compared_in_order() -> None:
    assert same([1, "a", [2.0]], [1.0, "a", [2]])
    assert not same([1, 2], [2, 1])
    assert not same([1], [1, 1])
    assert not same([], {})
    assert not same([1], 1)


def test_objects_are_compared_by_key() -> None:
    assert same({"a": 1, "b": 2}, {"b": 2.0, "a": 1})
    assert not same({"a": 1}, {"a": 1, "b": None})
    assert not same({"a": 1, "b": None}, {"a": 1})
    assert not same({"a": 1}, {"A": 1})


NESTED = {
    "$defs": {"count": {"anyOf": [{"type": "integer"}, {"type": "null"}]}},
    "type": "object",
    "properties": {
        "plain": {"type": "array", "items": {"type": "integer"}},
        "pair": {"type": "array", "prefixItems": [{"type": "number"}], "items": {"$ref": "#/$defs/count"}},
        "either": {"oneOf": [{"type": "object", "properties": {"n": {"type": "integer"}}}, {"type": "string"}]},
        "both": {"oneOf": [{"type": "integer"}, {"type": "number"}]},
        "all": {"allOf": [{"description": "a count"}, {"$ref": "#/$defs/count"}]},
        "free": True,
        "self": {"$ref": "#"},
    },
    "additionalProperties": {"type": "integer"},
}


@pytest.mark.parametrize(
    ("value", "integer"),
    [
        ({"plain": [5.5]}, True),
        ({"pair": [5.5]}, False),
        ({"pair": [1, 5.5]}, True),
        ({"either": {"n": 5.5}}, True),
        ({"both": 5.5}, False),
        ({"all": 5.5}, True),
        ({"free": 5.5}, False),
        ({"self": {"self": {"plain": [5.5]}}}, True),
        ({"other": 5.5}, True),
    ],
)
def test_the_schema_applies_at_any_depth(value: dict[str, Any], integer: bool) -> None:
    # 5.5 equals itself unless its schema says that it is an integer.
    assert same(value, value, NESTED) is not integer


def test_a_schema_with_a_circular_or_broken_reference_is_ignored() -> None:
    assert same(5.5, 5.5, {"$ref": "#"})
    assert same(5.5, 5.5, {"$ref": "#/$defs/absent"})
    assert same(5.5, 5.5, {"$ref": "https://example.org/elsewhere"})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(JSON, JSON)
def test_equality_is_reflexive_and_symmetric(one: Any, other: Any) -> None:
    assert same(one, one)
    assert same(one, other) == same(other, one)
