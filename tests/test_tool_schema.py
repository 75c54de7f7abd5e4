"""Arguments against a tool's schema, and schemas that are none."""

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


def test_arguments_are_validated_as_json_schema_says() -> None:
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
        ({"$ref": "http://["}, "it refers to what is not in it"),
        ({"$ref": "#/$defs/absent"}, "it refers to what is not in it"),
        ({"$ref": "https://example.org/schema.json"}, "it refers to what is not in it"),
        ({"$ref": "#/properties/a"}, "its references form a circle"),
    ],
)
def test_a_schema_that_cannot_be_used_names_the_row_and_the_tool(schema: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=r'^test.jsonl:3: tool "f": its "parameters" are not a JSON Schema') as caught:
        valid({"a": "text"}, property_of(schema))
    assert reason in str(caught.value)


def test_no_reference_is_looked_up_on_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(urllib.request, "urlopen", asked.append)
    with pytest.raises(UserError):
        valid({"a": "text"}, property_of({"$ref": "https://example.org/other.json"}))
    assert asked == []


def test_a_number_beyond_any_float_is_judged_without_a_crash() -> None:
    assert not valid({"a": 10**400}, property_of({"type": "number", "multipleOf": 0.5}))
    assert valid({"a": 10**400}, property_of({"type": "number", "minimum": 0.5}))


def test_values_that_python_takes_for_equal_are_validated_apart() -> None:
    whole = property_of({"type": "integer"})
    assert [valid({"a": value}, whole) for value in (1, True, 1.0, 1.5, 1)] == [True, False, True, False, True]
    truth = property_of({"type": "boolean"})
    assert [valid({"a": value}, truth) for value in (1, True, 1)] == [False, True, False]


def test_arguments_too_deep_to_be_remembered_are_validated_all_the_same() -> None:
    deep: Any = "end"
    for _ in range(300):
        deep = [deep]
    assert valid({"a": deep}, property_of({"type": "array"}))
    assert not valid({"a": deep}, property_of({"type": "string"}))


def test_what_is_said_of_a_place_is_the_same_each_time_and_unknown_names_are_one() -> None:
    said = subschemas_of(
        {
            "type": "object",
            "properties": {"a": {"prefixItems": [{"type": "string"}], "items": {"type": "integer"}}, "b": {}},
            "additionalProperties": {"type": "null"},
        }
    )
    for _ in range(2):
        items = said.property("a")
        assert [items.item(index).types() for index in (0, 1, 2, 0)] == [
            {"string"},
            {"integer"},
            {"integer"},
            {"string"},
        ]
        assert said.property("b").types() == set()
        assert said.property("anything").types() == {"null"}
    kept = len(said._properties)
    for number in range(1000):
        assert said.property(f"invented {number}").types() == {"null"}
    assert len(said._properties) == kept
