"""Gives the values of a call their types if the syntax writes all of them as plain text.

In: the text of a value and what the tool's JSON Schema says about the argument. Out: a JSON value. A text that fits no
declared type stays a text, so strict scoring compares it as it was written. Nothing here raises.

There are two rules, each that of vLLM's parsers for the family (0.33):

- `typed_value` (Qwen3-Coder, Qwen3.5, GLM-4.5): the declared types are tried in the order null, number, boolean, object
  or array, string. A text with no declared type stays a text.
- `literal_value` (MiniCPM5): only an argument of type string stays a text. Any other is read as JSON or as Python.

They differ from vLLM in three ways. `$ref`, `const` and `additionalProperties` are followed; vLLM leaves such values as
text. 5.0 stays a float; vLLM writes 5. Numbers are strict JSON; vLLM also reads "1_000" and "+1".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from toolhone.formats.call_json import Decoded, decode
from toolhone.formats.repair import literal_as_json
from toolhone.tool_schema import Schema, subschemas_of

_TYPE_NAMES = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
    type(None): "null",
}
_COMBINED = ("anyOf", "oneOf", "allOf", "$ref")
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
_JSON_SPACE = " \t\r\n"


def typed_value(text: str, parameters: Schema | None, name: str) -> Any:
    """Return the value that a text stands for.

    Args:
        parameters: the tool's JSON Schema; None if it is unknown.
        name: the name of the argument.
    """
    types = declared_types(parameters, name)
    if not types:
        return text
    if "null" in types and text.lower() == "null":
        return None
    json = None if types == {"string"} else _as_json(text)
    numbers = (int, float) if "number" in types else (int,) if "integer" in types else ()
    if json is not None and isinstance(json.value, numbers) and not isinstance(json.value, bool):
        return json.value
    if "boolean" in types and (word := text.strip().lower()) in _BOOLEANS:
        return _BOOLEANS[word]
    if json is not None and (types & {"object", "array"} or "string" not in types):
        return json.value
    return text


def literal_value(text: str, parameters: Schema | None, name: str) -> Any:
    """Return the value that a text stands for, as JSON or as a Python literal, unless the argument is a string."""
    # A reference says what the schema behind it says.
    own = next((schema for schema in _schemas_of(parameters, name) if "$ref" not in schema), {})
    if own.get("type") == "string":
        return text
    json = _as_json(text)
    if json is None:
        stripped = text.strip(_JSON_SPACE)
        written, end = literal_as_json(stripped, 0)
        json = _as_json(written) if written is not None and end == len(stripped) else None
    return text if json is None else json.value


def declared_types(parameters: Schema | None, name: str) -> set[str]:
    """Return the JSON types that a tool declares for an argument; empty if its schema does not list the argument.

    An `enum` declares the types of its values. A schema without any type declares a string, as in vLLM.
    """
    found: set[str] = set()
    for schema in _schemas_of(parameters, name):
        types = _own_types(schema)
        if not types and not any(key in schema for key in _COMBINED):
            types = {"string"}
        found |= types
    return found


def _schemas_of(parameters: Schema | None, name: str) -> Sequence[Mapping[str, Any]]:
    """Return every schema of an argument: its own first, then those that it refers to or combines."""
    if parameters is None:
        return ()
    try:
        return subschemas_of(parameters).property(name).alternatives
    except (AttributeError, TypeError):  # not a JSON Schema; scoring reports it
        return ()


def _own_types(schema: Mapping[str, Any]) -> set[str]:
    stated = schema.get("type")
    names = [stated] if isinstance(stated, str) else stated if isinstance(stated, list) else []
    listed = schema.get("enum")
    values = [*(listed if isinstance(listed, list) else []), *([schema["const"]] if "const" in schema else [])]
    return {name for name in names if isinstance(name, str)} | {_TYPE_NAMES.get(type(value), "") for value in values}


def _as_json(text: str) -> Decoded | None:
    """Return the decoded text if it is exactly one value of strict JSON, with or without white space around it."""
    stripped = text.strip(_JSON_SPACE)
    found = decode(stripped, 0)
    return found if isinstance(found, Decoded) and found.fault is None and found.end == len(stripped) else None
