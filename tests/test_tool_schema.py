"""Arguments are validated against a tool's schema, and invalid schemas are refused."""

from __future__ import annotations

import urllib.request
from typing import Any

import pytest

from toolhone.errors import UserError
from toolhone.records import Tool
from toolhone.tool_schema import arguments_valid, subschemas_of


def valid(arguments: dict[str, Any], parameters: dict[str, Any]) -> bool:
    return arguments_valid(arguments, Tool("f", "", parameters), "test.jsonl:3")


def property_of(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": schema}, "additionalProperties": False}


def test_arguments_are_validated_by_the_rules_of_json_schema() -> None:
    assert valid({"a": 5.0}, property_of({"type": "integer"}))
    assert not valid({"a": True}, property_of({"type": "integer"}))
    assert not valid({"b": 1}, property_of({}))
    assert valid({"a": None}, property_of({"type": ["string", "null"]}))
    assert not valid({"a": None}, property_of({"type": "string"}))
    assert valid({"a": "late"}, property_of({"enum": ["late", "damaged"]}))
    assert not valid({"a": 1}, property_of({"enum": [True]}))
    assert valid({"a": "x"}, {**property_of({"$ref": "#/$defs/text"}), "$defs": {"text": {"type": "string"}}})


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "float"}, "'float' is not valid"),
        ({"type": "string", "pattern": "("}, "'(' is not a 'regex'"),
        ({"$ref": "http://["}, "a reference cannot be resolved"),
        ({"$ref": "#/$defs/absent"}, "a reference cannot be resolved"),
        ({"$ref": "https://example.org/schema.json"}, "a reference cannot be resolved"),
        ({"$ref": "#/properties/a"}, "its references form a cycle"),
    ],
)
def test_an_unusable_schema_is_an_error_that_names_the_row_and_the_tool(schema: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=r'^test.jsonl:3: tool "f": its "parameters" are not a JSON Schema') as caught:
        valid({"a": "text"}, property_of(schema))
    assert reason in str(caught.value)


def test_no_reference_is_fetched_from_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(urllib.request, "urlopen", asked.append)
    with pytest.raises(UserError):
        valid({"a": "text"}, property_of({"$ref": "https://example.org/other.json"}))
    assert asked == []


def test_an_integer_too_large_for_a_float_is_validated() -> None:
    assert not valid({"a": 10**400}, property_of({"type": "number", "multipleOf": 0.5}))
    assert valid({"a": 10**400}, property_of({"type": "number", "minimum": 0.5}))


def test_values_that_are_equal_in_python_are_validated_separately() -> None:
    whole = property_of({"type": "integer"})
    assert [valid({"a": value}, whole) for value in (1, True, 1.0, 1.5, 1)] == [True, False, True, False, True]
    truth = property_of({"type": "boolean"})
    assert [valid({"a": value}, truth) for value in (1, True, 1)] == [False, True, False]


def test_arguments_too_deep_for_the_cache_are_validated() -> None:
    deep: Any = "end"
    for _ in range(300):
        deep = [deep]
    assert valid({"a": deep}, property_of({"type": "array"}))
    assert not valid({"a": deep}, property_of({"type": "string"}))


def test_subschemas_are_cached_and_unknown_names_share_one_entry() -> None:
    subschemas = subschemas_of(
        {
            "type": "object",
            "properties": {"a": {"prefixItems": [{"type": "string"}], "items": {"type": "integer"}}, "b": {}},
            "additionalProperties": {"type": "null"},
        }
    )
    for _ in range(2):
        items = subschemas.property("a")
        assert [items.item(index).types() for index in (0, 1, 2, 0)] == [
            {"string"},
            {"integer"},
            {"integer"},
            {"string"},
        ]
        assert subschemas.property("b").types() == set()
        assert subschemas.property("anything").types() == {"null"}
    entries = len(subschemas._properties)
    for number in range(1000):
        assert subschemas.property(f"invented {number}").types() == {"null"}
    assert len(subschemas._properties) == entries
