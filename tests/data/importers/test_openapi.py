"""OpenAPI documents and MCP's tools/list as a list of tools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from toolhone.data.importers.openapi import openapi_tools, parse_yaml
from toolhone.data.read import detected_formats, read_source, read_tools
from toolhone.errors import RowError, UserError
from toolhone.records import Tool

FIXTURES = Path(__file__).parents[2] / "fixtures" / "importers"
Row = dict[str, Any]


def tools(name: str) -> dict[str, Tool]:
    return {tool.name: tool for tool in read_tools(FIXTURES / "openapi" / name)}


def document(*operations: Row, version: str = "3.1.0", **components: Row) -> Row:
    paths = {f"/p{n}": {"post": operation} for n, operation in enumerate(operations)}
    return {"openapi": version, "paths": paths, "components": {"schemas": components}}


def body(schema: Row, media: str = "application/json", **more: Any) -> Row:
    return {"operationId": "f", "requestBody": {"content": {media: {"schema": schema}}, **more}}


def schema_of(found: Row) -> Row:
    (tool,) = openapi_tools(found, "api.json")
    return tool["parameters"]


def query(name: str, **schema: Any) -> Row:
    return {"name": name, "in": "query", "schema": schema}


@pytest.mark.parametrize("name", ["fastapi.json", "orders.yaml"])
def test_every_operation_of_a_document_is_one_tool_with_a_valid_schema(name: str) -> None:
    found = tools(name)
    assert len(found) == {"fastapi.json": 4, "orders.yaml": 5}[name]
    for tool in found.values():
        jsonschema.Draft202012Validator.check_schema(tool.parameters)
        assert "$ref" not in json.dumps(tool.parameters)
        assert "nullable" not in json.dumps(tool.parameters)


def test_parameters_of_all_places_become_arguments() -> None:
    weather = tools("fastapi.json")["get_weather_weather__city__get"]
    assert weather.description == "Get Weather\nReturn the forecast of a city."
    assert list(weather.parameters["properties"]) == ["city", "days", "unit", "x-trace", "session"]
    assert weather.parameters["required"] == ["city"]
    assert weather.parameters["properties"]["days"]["description"] == "Number of days"
    assert weather.parameters["properties"]["unit"]["enum"] == ["celsius", "fahrenheit"]


def test_a_parameter_of_the_operation_replaces_that_of_the_path() -> None:
    order = tools("orders.yaml")["getOrder"].parameters
    assert order == {
        "type": "object",
        "properties": {
            "id": {"type": "integer"},
            "unit": {"type": "string", "default": "kg"},
            "session": {"type": "string"},
        },
        "required": ["id", "unit"],
    }


def test_a_body_of_properties_is_merged_and_others_are_one_argument() -> None:
    found = tools("fastapi.json")
    booking = found["book_table_bookings_post"].parameters
    assert list(booking["properties"]) == ["restaurant", "guests", "unit", "note"]
    assert booking["required"] == ["restaurant", "guests"]
    assert booking["properties"]["guests"]["items"]["properties"]["name"]["description"] == "Full name"
    guests = found["add_guests_guests_post"].parameters
    assert guests["properties"]["body"]["type"] == "array"
    assert guests["required"] == ["body"]


def test_names_that_clash_get_their_place_or_stay_inside_the_body() -> None:
    change = tools("fastapi.json")["changeBooking"].parameters
    assert change["required"] == ["restaurant", "body"]
    assert list(change["properties"]["body"]["properties"]) == ["restaurant", "guests", "unit", "note"]
    assert tools("orders.yaml")["put_orders_id"].parameters["required"] == ["id", "body"]
    operation = {
        "operationId": "f",
        "parameters": [query("id", type="string"), {"name": "id", "in": "header", "schema": {"type": "integer"}}],
    }
    assert schema_of(document(operation))["properties"] == {
        "query_id": {"type": "string"},
        "header_id": {"type": "integer"},
    }


def test_null_values_of_version_3_0_become_types_and_yaml_words_stay_strings() -> None:
    found = tools("orders.yaml")
    created = found["orders_create"].parameters
    assert list(created["properties"]) == ["items", "note", "address"]  # the number is read-only
    assert "required" not in created  # the body is optional
    assert created["properties"]["note"] == {"type": ["string", "null"]}
    assert created["properties"]["address"]["description"] == "Where to send it"
    assert created["properties"]["address"]["anyOf"][1] == {"type": "null"}
    unit = found["put_orders_id"].parameters["properties"]["unit"]
    assert (unit["enum"], unit["type"]) == (["on", "off", "kg", None], ["string", "null"])
    deleted = found["delete-orders"].parameters["properties"]["body"]
    assert deleted["items"] == {"type": "integer", "exclusiveMinimum": 0}


def test_what_stands_beside_a_reference_counts_in_version_3_1_only() -> None:
    beside = {"$ref": "#/components/schemas/A", "description": "mine"}
    schema = {"type": "object", "properties": {"a": beside}}
    for version, wanted in (("3.1.0", "mine"), ("3.0.3", "its own")):
        found = document(body(schema), version=version, A={"type": "string", "description": "its own"})
        assert schema_of(found)["properties"]["a"]["description"] == wanted


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"swagger": "2.0", "paths": {}}, r"OpenAPI Swagger 2.0 is not read; convert the document to OpenAPI 3"),
        ({"openapi": "3.1.0", "paths": {}}, r'no operations under "paths"'),
        ({"openapi": "3.1.0"}, r"paths: expected an object, found nothing"),
        (
            document(
                body({"$ref": "#/components/schemas/A"}), A={"properties": {"a": {"$ref": "#/components/schemas/A"}}}
            ),
            r"POST /p0: requestBody: a: the references form a cycle \(A -> A\)",
        ),
        (document(body({"$ref": "#/components/schemas/B"})), r'nothing is at the reference "#/components/schemas/B"'),
        (document(body({"$ref": "other.yaml#/A"})), r'"other.yaml#/A" is to another file'),
        (document(body({}, "application/xml")), r"POST /p0: the body is application/xml, expected JSON or a form"),
        (
            document(body({"properties": {"f": {"type": "string", "format": "binary"}}}, "multipart/form-data")),
            r'the body has a file \("f"\)',
        ),
        (document({"operationId": "f"}, {"operationId": "f"}), r'POST /p1 and POST /p0 both give the tool "f"'),
        (document({"parameters": [{"in": "query"}]}), r'POST /p0: parameter 0: expected a "name" and an "in"'),
    ],
)
def test_what_cannot_be_read_is_named(found: Row, said: str) -> None:
    with pytest.raises(RowError, match=said):
        openapi_tools(found, "api.json")


def test_broken_yaml_is_an_error_with_its_line(tmp_path: Path) -> None:
    for text, said in (
        ("openapi: 3.1.0\nopenapi: 3.1.0\n", r"api\.yaml:2: .*given twice"),
        ("a: [1", r"api\.yaml:1: "),
    ):
        (tmp_path / "api.yaml").write_text(text)
        with pytest.raises(UserError, match=said):
            read_tools(tmp_path / "api.yaml")
    with pytest.raises(UserError, match="no such file"):
        read_tools(tmp_path / "missing.yaml")
    assert parse_yaml(b"[yes, 12:30, 2026-01-01, 1e3, 010, true, ~]", "a") == [
        "yes",
        "12:30",
        "2026-01-01",
        1e3,
        10,
        True,
        None,
    ]


def test_the_tools_of_mcp_are_read_in_every_form_its_package_writes() -> None:
    first, *others = [
        read_tools(FIXTURES / "mcp" / name) for name in ("tools_list.json", "json_rpc.json", "model_dump.json")
    ]
    assert [tool.name for tool in first] == ["get_weather", "book_table", "list_restaurants"]
    assert first[0].parameters["properties"]["city"]["description"] == "Name of the city"
    assert first[1].parameters["properties"]["guests"]["items"] == {"$ref": "#/$defs/Guest"}
    assert all(other == first for other in others)


@pytest.mark.parametrize("key", ["nextCursor", "next_cursor"])
def test_a_list_of_tools_that_goes_on_is_refused(key: str, tmp_path: Path) -> None:
    listed = json.loads((FIXTURES / "mcp" / "tools_list.json").read_text())
    for found in ({**listed, key: "2"}, {"jsonrpc": "2.0", "result": {**listed, key: "2"}}):
        (tmp_path / "tools.json").write_text(json.dumps(found))
        with pytest.raises(UserError, match="request all pages"):
            read_tools(tmp_path / "tools.json")


@pytest.mark.parametrize("name", ["mcp/tools_list.json", "mcp/json_rpc.json", "openapi/fastapi.json"])
def test_a_document_of_tools_among_rows_is_left_out_with_a_fault(name: str) -> None:
    assert list(detected_formats(FIXTURES / name).values()) == ["tools"]
    (fault,) = read_source(FIXTURES / name)
    assert getattr(fault, "rule", None) == "tools-file"
