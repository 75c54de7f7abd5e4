"""The quick test of a schema never accepts what jsonschema refuses, and accepts valid arguments of simple tools."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

from toolhone.data.check.schema import CompiledTool, quick_test
from toolhone.data.importers.schemas import without_nulls
from toolhone.records import Tool

NAMES = st.sampled_from(["a", "b", "c"])
TEXTS = st.sampled_from(["", "a", "ab", "1", "é𝄞"])
NUMBERS = st.one_of(st.integers(-3, 3), st.sampled_from([0.5, 1.0, -2.0, 10**400, 1e300]))
VALUES = st.recursive(
    st.one_of(TEXTS, NUMBERS, st.booleans(), st.none()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=3)),
    max_leaves=8,
)
TYPES = ["string", "integer", "number", "boolean", "array", "object", "null"]


def schemas() -> st.SearchStrategy[Any]:
    def keywords(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        limits = st.one_of(st.integers(-2, 3), st.sampled_from([0.5, 1.0]))
        counts = st.integers(0, 3)
        choices = {
            "type": st.one_of(st.sampled_from(TYPES), st.lists(st.sampled_from(TYPES), min_size=1, unique=True)),
            "enum": st.lists(VALUES, min_size=1, max_size=3),
            "properties": st.dictionaries(NAMES, inner, max_size=3),
            "additionalProperties": st.one_of(st.booleans(), inner),
            "required": st.lists(NAMES, unique=True, max_size=2),
            "items": inner,
            "minimum": limits,
            "maximum": limits,
            "exclusiveMinimum": limits,
            "minLength": counts,
            "maxLength": counts,
            "minItems": counts,
            "maxItems": counts,
            "format": st.just("date"),
            "description": TEXTS,
            "default": VALUES,
            "optional": st.booleans(),
            "const": VALUES,
            "anyOf": st.lists(inner, min_size=1, max_size=2),
            "pattern": st.just("^a"),
            "uniqueItems": st.booleans(),
            "$schema": st.just("http://json-schema.org/draft-07/schema#"),
        }
        pairs = [st.tuples(st.just(key), values) for key, values in choices.items()]
        return st.lists(st.one_of(pairs), max_size=4, unique_by=lambda pair: pair[0]).map(dict)

    return st.recursive(st.one_of(st.booleans(), st.just({})), keywords, max_leaves=6)


@settings(max_examples=400)
@given(schemas(), VALUES)
def test_what_the_quick_test_accepts_is_valid(schema: Any, value: Any) -> None:
    accepts = quick_test(schema)
    if accepts is not None and accepts(value):
        assert Draft202012Validator(schema).is_valid(value)


@settings(max_examples=400)
@given(schemas().filter(lambda schema: isinstance(schema, dict)), st.dictionaries(NAMES, VALUES, max_size=3))
def test_a_compiled_tool_finds_faults_exactly_if_jsonschema_does(
    schema: dict[str, Any], arguments: dict[str, Any]
) -> None:
    tool = CompiledTool(Tool("f", "", schema))
    valid = Draft202012Validator(schema).is_valid(arguments)
    assert (not list(tool.faults(arguments))) == (valid or bool(tool.unusable))


@pytest.mark.parametrize(
    ("schema", "value", "accepted"),
    [
        ({"type": "integer"}, 1, True),
        ({"type": "integer"}, True, False),
        ({"type": "number"}, True, False),
        ({"type": ["string", "null"]}, None, True),
        ({"enum": ["a", "b"]}, "b", True),
        ({"enum": ["a", "b"]}, "c", False),
        ({"properties": {"a": {"type": "string", "description": "d"}}, "required": ["a"]}, {"a": "x"}, True),
        ({"properties": {"a": {"type": "string"}}, "additionalProperties": False}, {"b": 1}, False),
        ({"type": "array", "items": {"type": "integer", "minimum": 1}}, [1, 2], True),
        ({"type": "array", "items": {"type": "integer", "minimum": 1}}, [1, 0], False),
        ({"type": "string", "minLength": 2}, "a", False),
    ],
)
def test_simple_schemas_are_decided_without_jsonschema(schema: Any, value: Any, accepted: bool) -> None:
    accepts = quick_test(schema)
    assert accepts is not None
    assert accepts(value) is accepted


@pytest.mark.parametrize("keyword", ["anyOf", "$ref", "pattern", "const", "if", "$schema", "multipleOf"])
def test_there_is_no_quick_test_for_unknown_keywords(keyword: str) -> None:
    assert quick_test({keyword: {}}) is None
    assert quick_test({"properties": {"a": {"items": {keyword: {}}}}}) is None


def test_nulls_that_a_table_filled_in_are_found_and_removed() -> None:
    schema = {
        "type": "object",
        "properties": {
            "a": {"type": "string", "enum": None, "default": None, "description": None},
            "b": None,
            "x-own": {"x-note": None},
            "c": {"type": "array", "items": {"type": "integer", "minimum": None}},
            "description": {"type": "string"},
        },
        "anyOf": [{"required": None}],
    }
    fixed, found = without_nulls(schema)
    assert found == [
        "properties.a.enum",
        "properties.a.description",
        "properties.b",
        "properties.c.items.minimum",
        "anyOf[0].required",
    ]
    assert without_nulls(fixed)[1] == []
    assert fixed["properties"] == {
        "a": {"type": "string", "default": None},
        "x-own": {"x-note": None},
        "c": {"type": "array", "items": {"type": "integer"}},
        "description": {"type": "string"},
    }


@settings(max_examples=150)
@given(
    st.recursive(
        st.one_of(VALUES, st.sampled_from(TYPES)),
        lambda i: st.dictionaries(
            st.sampled_from(
                ["type", "properties", "items", "$ref", "pattern", "enum", "a", "$id", "anyOf", "required"]
            ),
            i,
            max_size=4,
        ),
        max_leaves=8,
    ).filter(lambda schema: isinstance(schema, dict))
)
def test_no_schema_makes_the_check_crash(schema: dict[str, Any]) -> None:
    tool = CompiledTool(Tool("f", "", schema))
    list(tool.faults({"a": 1}))
    if not tool.unusable:
        Draft202012Validator.check_schema(schema)
    elif not without_nulls(schema)[1]:
        with pytest.raises((SchemaError, RecursionError)):
            Draft202012Validator.check_schema(schema)


def test_a_schema_that_is_nested_too_deeply_is_unusable() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(3000):
        schema = {"properties": {"a": schema}}
    assert "nested too deeply" in CompiledTool(Tool("f", "", schema)).unusable
