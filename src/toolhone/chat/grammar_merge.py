"""A JSON Schema as alternatives without references and combinations, for the rules of a grammar.

In: a schema and its root. Out: flat schemas, one of which a value satisfies. `allOf`, `anyOf`, `oneOf` and `$ref` are
resolved at the top level only; the schemas of properties and items keep theirs. "pattern" becomes a list.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from toolhone.tool_schema import pointed_at

_MAX_ALTERNATIVES = 64
_TYPES = ("string", "integer", "number", "boolean", "null", "array", "object")
_COMBINED = ("allOf", "anyOf", "oneOf", "$ref")
_HINTS = {
    "object": ("properties", "required", "additionalProperties", "minProperties", "maxProperties"),
    "array": ("items", "prefixItems", "minItems", "maxItems", "uniqueItems"),
    "string": ("minLength", "maxLength", "pattern", "format"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}
_KEPT = frozenset(
    {"type", "enum", "const", "not", "if", "contains", "patternProperties", "propertyNames", "dependentRequired"}
    | {"dependentSchemas", "unevaluatedProperties", "unevaluatedItems"}.union(*_HINTS.values())
)
_LOWER = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_UPPER = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")

Flat = dict[str, Any]
Note = Callable[[str], None]


def flattened(schema: Any, root: Mapping[str, Any], note: Note) -> list[Flat]:
    """Return the alternatives of a schema; none if it accepts nothing. `note` takes the keywords that are left out."""
    return _flattened(schema, root, note, ())


def _flattened(schema: Any, root: Mapping[str, Any], note: Note, seen: tuple[str, ...]) -> list[Flat]:
    if schema is False:
        return []
    if not isinstance(schema, Mapping):
        return [{}]
    found: list[Flat] = [_own(schema)]
    reference = schema.get("$ref")
    if isinstance(reference, str):
        target = None if reference in seen else pointed_at(reference, dict(root))
        if target is None:
            note(f"$ref {reference}")
        else:
            found = _crossed(found, _flattened(target, root, note, (*seen, reference)), note)
    for each in schema.get("allOf", ()):
        found = _crossed(found, _flattened(each, root, note, seen), note)
    for keyword in ("anyOf", "oneOf"):
        if keyword in schema:
            branches = [_flattened(each, root, note, seen) for each in schema[keyword]]
            if keyword == "oneOf" and not all(itertools.starmap(_are_disjoint, itertools.combinations(branches, 2))):
                note("oneOf")
            found = _crossed(found, list(itertools.chain.from_iterable(branches)), note)
    return [each for each in found if types_of(each) != ()]


def _own(schema: Mapping[str, Any]) -> Flat:
    own = {key: value for key, value in schema.items() if key in _KEPT}
    if "pattern" in own:
        own["pattern"] = (own["pattern"],)
    return own


def types_of(schema: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return the types of a flat schema: those that it states, or those that its keywords are for. None: any."""
    stated = schema.get("type")
    if stated is None:
        hints = tuple(name for name, keywords in _HINTS.items() if any(key in schema for key in keywords))
        return hints or None
    names = (stated,) if isinstance(stated, str) else tuple(stated)
    if any(name not in _TYPES for name in names):
        return None
    return tuple(name for name in names if name != "integer" or "number" not in names)


def _crossed(first: Sequence[Flat], second: Sequence[Flat], note: Note) -> list[Flat]:
    """Return the schemas that say what one of the first and one of the second say."""
    if len(first) * len(second) > _MAX_ALTERNATIVES:
        note("anyOf")
        return list(first) if len(first) > 1 else list(second)
    return [_merged(one, other, note) for one in first for other in second]


def _merged(first: Flat, second: Flat, note: Note) -> Flat:
    """Return the flat schema that accepts what both accept."""
    merged = {**second, **first}
    if "properties" in first or "properties" in second:
        merged["properties"] = _merged_properties(first, second)
    for key in first.keys() & second.keys() - {"properties"}:
        one, other = first[key], second[key]
        if one == other and _same(one, other):
            continue
        if key == "type":
            merged[key] = _shared_types(one, other)
        elif key == "enum":
            merged[key] = [value for value in one if any(_same(value, each) for each in other)]
        elif key == "const":
            merged.pop("const")
            merged["enum"] = []
        elif key == "required":
            merged[key] = list(dict.fromkeys([*one, *other]))
        elif key == "pattern":
            merged[key] = (*one, *other)
        elif key in _LOWER:
            merged[key] = max(one, other)
        elif key in _UPPER:
            merged[key] = min(one, other)
        elif key in ("items", "additionalProperties"):
            merged[key] = {"allOf": [one, other]}
        else:
            note(key)
    return merged


def _merged_properties(first: Flat, second: Flat) -> dict[str, Any]:
    """Return the properties of both. One that the other does not list satisfies its `additionalProperties`."""
    found: dict[str, Any] = {}
    for name in dict.fromkeys([*first.get("properties", ()), *second.get("properties", ())]):
        said = [
            each["properties"][name] if name in each.get("properties", ()) else each.get("additionalProperties", True)
            for each in (first, second)
        ]
        said = [each for each in said if each is not True]
        found[name] = said[0] if len(said) == 1 else {"allOf": said} if said else True
    return found


def _shared_types(first: Any, second: Any) -> list[str]:
    one, other = ([each] if isinstance(each, str) else list(each) for each in (first, second))
    both = [name for name in one if name in other]
    is_integer = ("integer" in one and "number" in other) or ("number" in one and "integer" in other)
    return [*both, "integer"] if is_integer and "integer" not in both and "number" not in both else both


def _same(first: Any, second: Any) -> bool:
    return json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)


def _are_disjoint(first: Sequence[Flat], second: Sequence[Flat]) -> bool:
    """Whether no value satisfies an alternative of each, as far as types and listed values say."""
    return all(_apart(one, other) for one in first for other in second)


def _apart(first: Flat, second: Flat) -> bool:
    one, other = types_of(first), types_of(second)
    if one is not None and other is not None and "type" in first and "type" in second:
        numbers = {"integer", "number"}
        if not set(one) & set(other) and not (set(one) & numbers and set(other) & numbers):
            return True
    values, others = _values(first), _values(second)
    if values is not None and others is not None and not any(_same(a, b) for a in values for b in others):
        return True
    shared = set(first.get("required", ())) & set(second.get("required", ()))
    for name in shared:
        inner = [each.get("properties", {}).get(name) for each in (first, second)]
        if all(isinstance(each, Mapping) for each in inner) and _apart(*map(_own, inner)):
            return set(one or ()) == {"object"} == set(other or ())
    return False


def _values(schema: Mapping[str, Any]) -> list[Any] | None:
    return [schema["const"]] if "const" in schema else schema.get("enum")
