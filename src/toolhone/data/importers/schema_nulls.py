"""Schemas that a table has filled with nulls: where they stand, how that is told, and the schema without them.

A table that merges the schemas of several tools gives each of them every column, and so null where a tool has none. No
JSON Schema has them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

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
"""The keywords of JSON Schema but for `const` and `default`, under which null is a value like any other."""


def null_places(schema: Any, path: str = "") -> Iterator[str]:
    """The places in a schema where null stands for what is absent: a property without a schema, a keyword without a
    value. No JSON Schema has them; rows that went through a table with merged columns do."""
    if not isinstance(schema, dict):
        return
    for key, value in schema.items():
        place = f"{path}.{key}" if path else key
        if value is None and key in _NEVER_NULL:
            yield place
        elif key in _SUBSCHEMA_MAPS and isinstance(value, dict):
            for name, sub in value.items():
                if sub is None:
                    yield f"{place}.{name}"
                yield from null_places(sub, f"{place}.{name}")
        elif key in _SUBSCHEMA_LISTS and isinstance(value, list):
            for n, sub in enumerate(value):
                yield from null_places(sub, f"{place}[{n}]")
        elif key in _SUBSCHEMAS:
            yield from null_places(value, place)


def without_nulls(schema: Any) -> Any:
    """The schema without what `null_places` lists."""
    if not isinstance(schema, dict):
        return schema
    kept: dict[str, Any] = {}
    for key, value in schema.items():
        if value is None and key in _NEVER_NULL:
            continue
        if key in _SUBSCHEMA_MAPS and isinstance(value, dict):
            value = {name: without_nulls(sub) for name, sub in value.items() if sub is not None}
        elif key in _SUBSCHEMA_LISTS and isinstance(value, list):
            value = [without_nulls(sub) for sub in value]
        elif key in _SUBSCHEMAS:
            value = without_nulls(value)
        kept[key] = value
    return kept


def told_nulls(parameters: dict[str, Any]) -> str:
    """What is wrong with the parameters of a tool and how to mend it; "" where no null is in the way."""
    nulls = list(null_places(parameters))
    if not nulls:
        return ""
    shown = ", ".join(nulls[:3]) + (", ..." if len(nulls) > 3 else "")
    return (
        f"its parameters hold {len(nulls)} null{'s' if len(nulls) > 1 else ''} where JSON Schema has none ({shown}): a "
        "table has merged the schemas of several tools; write them as JSON texts, or take the nulls out"
    )
