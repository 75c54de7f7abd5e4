"""Fixes tool parameters that are almost JSON Schema: maps other type names, and removes nulls.

BFCL, ToolACE and others use the type names of a programming language (`dict`, `float`, `ArrayList`). They become JSON
Schema's; a type without a counterpart is an error. Gemini's schemas have types in upper case and `nullable`. A table
that merges the schemas of several tools gives every tool every column, with null for the keys that the tool does not
have. Those nulls are detected and removed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toolhone.errors import RowError

Schema = dict[str, Any]

PYTHON_TYPES: Mapping[str, str | None] = {
    **{name: name for name in ("string", "integer", "number", "boolean", "array", "object", "null")},
    **dict.fromkeys(("list", "tuple", "set"), "array"),
    "str": "string",
    "int": "integer",
    "float": "number",
    "bool": "boolean",
    "dict": "object",
    "any": None,
}
"""Maps a type name to JSON Schema's. None means any value: BFCL's `any` holds strings, numbers and lists."""

JAVA_TYPES: Mapping[str, str | None] = {
    **PYTHON_TYPES,
    **dict.fromkeys(("String", "char"), "string"),
    **dict.fromkeys(("byte", "short", "long"), "integer"),
    **dict.fromkeys(("Array", "ArrayList"), "array"),
    "double": "number",
    "HashMap": "object",
}

JAVASCRIPT_TYPES: Mapping[str, str | None] = {
    **PYTHON_TYPES,
    "String": "string",
    "Boolean": "boolean",
    "Bigint": "integer",
}


def object_schema(parameters: Any, where: str, types: Mapping[str, str | None] = PYTHON_TYPES) -> Any:
    """The tool's parameters as a JSON Schema of type object; null or {} means no parameters. A value that is not an
    object is returned for `openai` to refuse. Raises RowError with the rule "unknown-type" for a type not in `types`.
    """
    if parameters is None or parameters == {}:
        return {"type": "object", "properties": {}}
    if not isinstance(parameters, dict):
        return parameters
    schema = json_schema(parameters, types, where)
    return schema if "type" in schema else {"type": "object", **schema}


def json_schema(schema: Any, types: Mapping[str, str | None], where: str) -> Any:
    """The schema with its type names mapped, at every depth. Two contradictions are fixed: a parameter whose default is
    null accepts null, as in Python, and an `enum` beside an array applies to the array's items.

    Raises:
        RowError: with the rule "unknown-type" for a type not in `types`.
    """
    try:
        return _mapped(schema, types, where)
    except RecursionError:
        raise RowError(f"{where}: the parameters are nested too deeply", rule="unknown-type") from None


def _mapped(schema: Any, types: Mapping[str, str | None], where: str) -> Any:
    if not isinstance(schema, dict):
        return schema
    mapped: Schema = {}
    for key, value in schema.items():
        if key == "type":
            mapped_type = _mapped_type(value, types, where)
            if mapped_type is not None:
                mapped[key] = mapped_type
        elif key == "properties" and isinstance(value, dict):
            mapped[key] = {name: _mapped(each, types, where) for name, each in value.items()}
        elif key in ("items", "additionalProperties", "not"):
            mapped[key] = _mapped(value, types, where)
        elif key in ("anyOf", "oneOf", "allOf", "prefixItems") and isinstance(value, list):
            mapped[key] = [_mapped(each, types, where) for each in value]
        elif not (key == "required" and value is None):  # ToolACE writes null if nothing is required
            mapped[key] = value
    _move_enum_to_items(mapped)
    return _widened(mapped) if mapped.get("default", ...) is None else mapped


def _move_enum_to_items(schema: Schema) -> None:
    """Move an array's `enum` to its items, in place. BFCL writes it beside the array, where it refuses every array."""
    choices, items = schema.get("enum"), schema.get("items", {})
    of_items = isinstance(choices, list) and not any(isinstance(choice, list | None) for choice in choices)
    if schema.get("type") == "array" and of_items and isinstance(items, dict):
        del schema["enum"]
        schema["items"] = {**items, "enum": choices}


def _widened(schema: Schema) -> Schema:
    """The schema with null among its types and in its `enum`."""
    types, choices = schema.get("type"), schema.get("enum")
    if types is not None and "null" not in types:
        schema["type"] = [*([types] if isinstance(types, str) else types), "null"]
    if isinstance(choices, list) and None not in choices:
        schema["enum"] = [*choices, None]
    return schema


def _mapped_type(found: Any, types: Mapping[str, str | None], where: str) -> str | list[str] | None:
    if isinstance(found, list):
        each = [types.get(name, "?") if isinstance(name, str) else "?" for name in found]
        if "?" not in each:
            names = [name for name in each if name is not None]
            return list(dict.fromkeys(names)) if len(names) == len(each) else None
    elif isinstance(found, str) and found in types:
        return types[found]
    raise unknown_type(found, where)


def unknown_type(found: Any, where: str) -> RowError:
    """The error for a type without a counterpart."""
    text = repr(found)
    shown = text if len(text) <= 60 else text[:57] + "..."
    return RowError(f"{where}: the type {shown} has no counterpart in JSON Schema", rule="unknown-type")


# Gemini

# In the order of their numbers in the API's binary form, from 1.
_GEMINI_TYPES = ("string", "number", "integer", "boolean", "array", "object", "null")
_GEMINI_KEYWORDS = {
    "type_": "type",
    "format_": "format",
    "any_of": "anyOf",
    "additional_properties": "additionalProperties",
    "defs": "$defs",
    "ref": "$ref",
    "min_items": "minItems",
    "max_items": "maxItems",
    "min_length": "minLength",
    "max_length": "maxLength",
    "min_properties": "minProperties",
    "max_properties": "maxProperties",
}
_COUNTS = ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")
_DROPPED = ("nullable", "property_ordering", "propertyOrdering")  # the last two order the keys of the answer's text


def gemini_schema(schema: Any) -> Any:
    """Gemini's schema as JSON Schema: its types and keywords, at every depth. A schema that is JSON Schema already only
    loses nulls that mean "absent"."""
    if not isinstance(schema, dict):
        return schema
    made: Schema = {}
    for key, value in schema.items():
        name = str(_GEMINI_KEYWORDS.get(key, key))
        if name == "type":
            value = _gemini_type(value)
        elif name in ("properties", "$defs") and isinstance(value, dict):
            value = {each: gemini_schema(sub) for each, sub in value.items()}
        elif name == "anyOf" and isinstance(value, list):
            value = [gemini_schema(sub) for sub in value]
        elif name in ("items", "additionalProperties"):
            value = gemini_schema(value)
        elif name in _COUNTS and isinstance(value, str) and value.isdecimal():
            value = int(value)  # JSON has 64-bit numbers as strings
        if value is not None and name not in _DROPPED:
            made[name] = value
    return _nullable(made) if schema.get("nullable") is True else made


def _nullable(schema: Schema) -> Schema:
    """The schema that also accepts null."""
    if isinstance(schema.get("type"), str):
        schema["type"] = [schema["type"], "null"]
    elif isinstance(schema.get("anyOf"), list):
        schema["anyOf"] = [*schema["anyOf"], {"type": "null"}]
    if isinstance(schema.get("enum"), list) and None not in schema["enum"]:
        schema["enum"] = [*schema["enum"], None]
    return schema


def _gemini_type(found: Any) -> Any:
    """The type's name in JSON Schema; None if it is unspecified. Another type is unchanged, for the check to report."""
    if isinstance(found, str):
        name = found.rpartition(".")[2].lower()
        return None if name == "type_unspecified" else name if name in _GEMINI_TYPES else found
    if isinstance(found, int) and not isinstance(found, bool):
        return _GEMINI_TYPES[found - 1] if 0 < found <= len(_GEMINI_TYPES) else None
    return found


# Nulls

_SUBSCHEMAS = ("additionalProperties", "contains", "else", "if", "items", "not", "propertyNames", "then")
_SUBSCHEMA_MAPS = ("$defs", "definitions", "dependentSchemas", "patternProperties", "properties")
_SUBSCHEMA_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_NEVER_NULL = frozenset(
    {*_SUBSCHEMAS, *_SUBSCHEMA_MAPS, *_SUBSCHEMA_LISTS}
    | {"$comment", "$dynamicRef", "$id", "$ref", "$schema", "dependentRequired", "deprecated", "description", "enum"}
    | {"examples", "exclusiveMaximum", "exclusiveMinimum", "format", "maxItems", "maxLength", "maxProperties"}
    | {"maximum", "minItems", "minLength", "minProperties", "minimum", "multipleOf", "pattern", "readOnly", "required"}
    | {"title", "type", "unevaluatedItems", "unevaluatedProperties", "uniqueItems", "writeOnly"}
)
"""The keywords of JSON Schema except `const` and `default`, whose value may be null."""


def without_nulls(schema: Any) -> tuple[Any, list[str]]:
    """The schema without nulls that mean "absent", and the places of those nulls: properties without a schema and
    keywords without a value."""
    places: list[str] = []
    return _without_nulls(schema, "", places), places


def describe_nulls(parameters: Schema) -> str:
    """Why the nulls in a tool's parameters are wrong and how to fix them; "" if there are none."""
    _, nulls = without_nulls(parameters)
    if not nulls:
        return ""
    shown = ", ".join(nulls[:3]) + (", ..." if len(nulls) > 3 else "")
    return (
        f"its parameters have {len(nulls)} null{'s' if len(nulls) > 1 else ''} where JSON Schema allows none ({shown}):"
        " a table merged the schemas of several tools; write each schema as a JSON string, or remove the nulls"
    )


def _without_nulls(schema: Any, path: str, places: list[str]) -> Any:
    """The schema without its nulls. Adds their places to `places`."""
    if not isinstance(schema, dict):
        return schema
    kept: Schema = {}
    for key, value in schema.items():
        place = f"{path}.{key}" if path else key
        if value is None and key in _NEVER_NULL:
            places.append(place)
            continue
        if key in _SUBSCHEMA_MAPS and isinstance(value, dict):
            subs: Schema = {}
            for name, sub in value.items():
                if sub is None:
                    places.append(f"{place}.{name}")
                else:
                    subs[name] = _without_nulls(sub, f"{place}.{name}", places)
            value = subs
        elif key in _SUBSCHEMA_LISTS and isinstance(value, list):
            value = [_without_nulls(sub, f"{place}[{n}]", places) for n, sub in enumerate(value)]
        elif key in _SUBSCHEMAS:
            value = _without_nulls(value, place, places)
        kept[key] = value
    return kept
