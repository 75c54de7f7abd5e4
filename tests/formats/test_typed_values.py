"""Values are typed by the tool's schema, as vLLM's parsers type them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolhone.formats.typed_values import declared_types, literal_value, typed_value

DEFS = {
    "place": {"type": "object"},
    "unit": {"enum": ["c", "f"]},
    "size": {"type": "integer"},
    "loop": {"$ref": "#/$defs/loop"},
    "a/b": {"type": "boolean"},
}


def parameters(schema: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": schema}, "$defs": DEFS}


def same(found: Any, expected: Any) -> bool:
    return json.dumps(found) == json.dumps(expected)


STRING = {"type": "string"}
TYPED: list[tuple[Any, str, Any]] = [
    (STRING, "12", "12"),
    (STRING, "null", "null"),
    (STRING, "\n x \n", "\n x \n"),
    ({"type": "integer"}, "12", 12),
    ({"type": "integer"}, " -12\n", -12),
    ({"type": "integer"}, "12345678901234567890123", 12345678901234567890123),
    ({"type": "integer"}, "5.5", 5.5),
    ({"type": "integer"}, "01", "01"),
    ({"type": "integer"}, "1_000", "1_000"),
    ({"type": "integer"}, "twelve", "twelve"),
    ({"type": "integer"}, "", ""),
    ({"type": "number"}, "5", 5),
    ({"type": "number"}, "5.0", 5.0),
    ({"type": "number"}, "1e-07", 1e-07),
    ({"type": "number"}, "NaN", "NaN"),
    ({"type": "number"}, "1e999", "1e999"),
    ({"type": "number"}, "[1]", [1]),
    ({"type": "boolean"}, "true", True),
    ({"type": "boolean"}, "False", False),
    ({"type": "boolean"}, "1", True),
    ({"type": "boolean"}, "yes", "yes"),
    ({"type": "null"}, "null", None),
    ({"type": "array"}, '[1, "a", null]', [1, "a", None]),
    ({"type": "array"}, "[1,", "[1,"),
    ({"type": "object"}, '{"a": {"b": 1.0}}', {"a": {"b": 1.0}}),
    ({"type": "object"}, '{"a": 1, "a": 2}', '{"a": 1, "a": 2}'),
    ({"type": "object"}, "{'a': 1}", "{'a': 1}"),
    ({"type": ["string", "null"]}, "null", None),
    ({"type": ["string", "null"]}, "None", "None"),
    ({"type": ["string", "null"]}, "12", "12"),
    ({"type": ["string", "integer"]}, "12", 12),
    ({"type": ["string", "integer"]}, "12.5", "12.5"),
    ({"type": ["string", "number"]}, "12.5", 12.5),
    ({"type": ["string", "object"]}, '{"a": 1}', {"a": 1}),
    ({"type": ["integer", "boolean"]}, "1", 1),
    ({"anyOf": [STRING, {"type": "null"}]}, "null", None),
    ({"oneOf": [{"type": "array"}, STRING]}, "[1]", [1]),
    ({"anyOf": [{"type": "integer"}, {"description": "anything"}]}, "x", "x"),
    ({"enum": ["1", "2"]}, "1", "1"),
    ({"enum": [1, 2]}, "1", 1),
    ({"enum": ["a", None]}, "null", None),
    ({"const": 5}, "5", 5),
    ({"$ref": "#/$defs/place"}, '{"x": 1}', {"x": 1}),
    ({"$ref": "#/$defs/unit"}, "c", "c"),
    ({"$ref": "#/$defs/a~1b"}, "true", True),
    ({"anyOf": [{"$ref": "#/$defs/place"}, {"type": "null"}]}, '{"x": 1}', {"x": 1}),
    ({"allOf": [{"$ref": "#/$defs/size"}], "description": "how many"}, "3", 3),
    ({"$ref": "#/$defs/loop"}, "3", "3"),
    ({"$ref": "#/$defs/missing"}, "3", "3"),
    ({}, "3", "3"),
    (True, "3", "3"),
]


@pytest.mark.parametrize(("schema", "text", "expected"), TYPED)
def test_a_text_becomes_a_value_of_a_declared_type_or_stays_a_text(schema: Any, text: str, expected: Any) -> None:
    assert same(typed_value(text, parameters(schema), "a"), expected)


LITERALS: list[tuple[Any, str, Any]] = [
    (STRING, "12", "12"),
    (STRING, "None", "None"),
    ({"$ref": "#/$defs/size"}, "12", 12),
    ({"type": "integer"}, "12", 12),
    ({"type": "boolean"}, "True", True),
    ({"type": ["string", "null"]}, "None", None),
    ({"type": ["string", "null"]}, "blue", "blue"),
    ({"type": ["string", "null"]}, "12", 12),
    ({"type": "object"}, "{'k': True, 'n': None, 'x': [1, 'é\\'\"']}", {"k": True, "n": None, "x": [1, "é'\""]}),
    ({"type": "object"}, '{"k": true}', {"k": True}),
    ({"type": "array"}, "[1, 2", "[1, 2"),
    ({"type": "array"}, "[1] [2]", "[1] [2]"),
    ({}, "3", 3),
]


@pytest.mark.parametrize(("schema", "text", "expected"), LITERALS)
def test_a_literal_of_python_is_a_value_unless_the_argument_is_a_string(schema: Any, text: str, expected: Any) -> None:
    assert same(literal_value(text, parameters(schema), "a"), expected)


@pytest.mark.parametrize("unknown", [None, {}, {"type": "object"}, {"properties": None}, {"properties": ["a"]}])
def test_a_value_without_a_schema_stays_a_text(unknown: Any) -> None:
    assert typed_value('{"a": 1}', unknown, "a") == '{"a": 1}'


def test_further_arguments_are_typed_by_additional_properties() -> None:
    assert typed_value("1", {"additionalProperties": {"type": "integer"}}, "a") == 1
    assert typed_value("1", {"properties": {"b": {"type": "integer"}}}, "a") == "1"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)
schemas = st.recursive(
    st.sampled_from(
        [*({"type": each} for each in ("string", "integer", "number", "boolean", "null", "array", "object"))]
    )
    | st.builds(lambda each: {"enum": each}, st.lists(json_values, max_size=2))
    | st.sampled_from([{"$ref": f"#/$defs/{name}"} for name in DEFS])
    | json_values,
    lambda inner: (
        st.builds(lambda key, each: {key: each}, st.sampled_from(["anyOf", "oneOf", "allOf", "type"]), inner)
        | st.builds(
            lambda key, each: {key: each}, st.sampled_from(["anyOf", "oneOf", "allOf"]), st.lists(inner, max_size=3)
        )
    ),
    max_leaves=4,
)


@given(schema=schemas, text=st.text() | st.builds(json.dumps, json_values))
def test_any_schema_and_any_text_give_a_value_of_json(schema: Any, text: str) -> None:
    for typed in (typed_value, literal_value):
        found = typed(text, parameters(schema), "a")
        assert isinstance(found, str) or json.dumps(found, allow_nan=False)
        assert isinstance(declared_types(parameters(schema), "a"), set)
