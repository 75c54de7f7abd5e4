"""Tools whose parameters are typed in another way than JSON Schema's.

BFCL and ToolACE write JSON Schema with the type names of a programming language (`dict`, `float`, `ArrayList`); xLAM
writes a flat list of parameters with Python annotations (`List[int], optional`). Both become JSON Schema here, and a
type that has no counterpart is said, never guessed.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from toolhone.errors import RowError

Schema = dict[str, Any]

PYTHON_TYPES: Mapping[str, str | None] = {
    **{name: name for name in ("string", "integer", "number", "boolean", "array", "object", "null")},
    "dict": "object",
    "float": "number",
    "tuple": "array",
    "list": "array",
    "set": "array",
    "str": "string",
    "int": "integer",
    "bool": "boolean",
    "any": None,
}
"""A type's name to JSON Schema's; None where every value is of the type. `any` of BFCL, for one, holds texts, numbers
and lists."""

JAVA_TYPES: Mapping[str, str | None] = {
    **PYTHON_TYPES,
    "String": "string",
    "char": "string",
    "byte": "integer",
    "short": "integer",
    "long": "integer",
    "double": "number",
    "Array": "array",
    "ArrayList": "array",
    "HashMap": "object",
}

JAVASCRIPT_TYPES: Mapping[str, str | None] = {
    **PYTHON_TYPES,
    "String": "string",
    "Boolean": "boolean",
    "Bigint": "integer",
}

_SUBSCHEMAS = ("items", "additionalProperties", "not")
_SUBSCHEMA_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")


def object_schema(parameters: Any, types: Mapping[str, str | None], where: str) -> Any:
    """A tool's parameters as a JSON Schema of type object; null or {} is a tool without parameters. What is no object
    stays, for the reader of tools to refuse.

    Raises:
        RowError: with rule "unknown-type" at a type that `types` does not know.
    """
    if parameters is None or parameters == {}:
        return {"type": "object", "properties": {}}
    if not isinstance(parameters, dict):
        return parameters
    schema = json_schema(parameters, types, where)
    return schema if "type" in schema else {"type": "object", **schema}


def json_schema(schema: Any, types: Mapping[str, str | None], where: str) -> Any:
    """A schema with its type names mapped, at every depth. All else stays as it is, but where the schema contradicts
    itself: a parameter whose default is null takes null, as it does in Python, and choices that stand beside an array
    are those of its items.

    Raises:
        RowError: with rule "unknown-type" at a type that `types` does not know.
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
            named = _names(value, types, where)
            if named is not None:
                mapped[key] = named
        elif key == "properties" and isinstance(value, dict):
            mapped[key] = {name: _mapped(each, types, where) for name, each in value.items()}
        elif key in _SUBSCHEMAS:
            mapped[key] = _mapped(value, types, where)
        elif key in _SUBSCHEMA_LISTS and isinstance(value, list):
            mapped[key] = [_mapped(each, types, where) for each in value]
        elif not (key == "required" and value is None):  # ToolACE says so where nothing is required
            mapped[key] = value
    _move_choices(mapped)
    return _widened(mapped) if mapped.get("default", ...) is None else mapped


def _move_choices(schema: Schema) -> None:
    """BFCL lists the choices of an array's items beside the array, where they would refuse every array."""
    choices, items = schema.get("enum"), schema.get("items", {})
    of_items = isinstance(choices, list) and not any(isinstance(choice, list | None) for choice in choices)
    if schema.get("type") == "array" and of_items and isinstance(items, dict):
        del schema["enum"]
        schema["items"] = {**items, "enum": choices}


def _widened(schema: Schema) -> Schema:
    """The schema with null among its types and its choices."""
    named, choices = schema.get("type"), schema.get("enum")
    if named is not None and "null" not in named:
        schema["type"] = [*([named] if isinstance(named, str) else named), "null"]
    if isinstance(choices, list) and None not in choices:
        schema["enum"] = [*choices, None]
    return schema


def _names(found: Any, types: Mapping[str, str | None], where: str) -> str | list[str] | None:
    if isinstance(found, list):
        each = [types.get(name, "?") if isinstance(name, str) else "?" for name in found]
        if "?" not in each:
            names = [name for name in each if name is not None]
            return list(dict.fromkeys(names)) if len(names) == len(each) else None
    elif isinstance(found, str) and found in types:
        return types[found]
    raise RowError(f"{where}: the type {_shown(found)} has no counterpart in JSON Schema", rule="unknown-type")


def annotated_schema(parameters: Mapping[str, Any], where: str) -> Schema:
    """xLAM's flat parameters (`{"year": {"type": "int, optional", "description": ..., "default": ...}}`) as a JSON
    Schema of type object. A parameter is required unless its type says "optional" or it has a default.

    Raises:
        RowError: with rule "unknown-type" at an annotation that is none of Python's.
    """
    properties: Schema = {}
    required = []
    for name, said in parameters.items():
        if not isinstance(said, dict) or not isinstance(said.get("type"), str):
            raise RowError(
                f'{where}: expected a "type" of the parameter "{name}", found {_shown(said)}', rule="unknown-type"
            )
        annotation, *words = (part.strip() for part in _outer_split(said["type"]))
        schema = annotation_schema(annotation, where)
        rest = {key: value for key, value in said.items() if key != "type"}
        properties[name] = {**schema, **rest}
        optional = any(word.startswith(("optional", "default")) for word in words) or annotation.startswith("Optional")
        if not optional and "default" not in said:
            required.append(name)
    schema = {"type": "object", "properties": properties}
    return {**schema, "required": required} if required else schema


def annotation_schema(annotation: str, where: str) -> Schema:
    """A Python annotation (`List[Union[int, float]]`) as a JSON Schema.

    Raises:
        RowError: with rule "unknown-type" where it is none, or names a type without a counterpart.
    """
    try:
        return _annotated(ast.parse(annotation, mode="eval").body)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise RowError(
            f"{where}: the type {_shown(annotation)} has no counterpart in JSON Schema", rule="unknown-type"
        ) from None


def _annotated(node: ast.expr) -> Schema:
    """Raises ValueError at what has no counterpart."""
    if isinstance(node, ast.Constant) and node.value is None:
        return {"type": "null"}
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return {"anyOf": [_annotated(node.left), _annotated(node.right)]}
    if isinstance(node, ast.Name):
        return _plain(node.id)
    if not isinstance(node, ast.Subscript) or not isinstance(node.value, ast.Name):
        raise ValueError
    inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    match node.value.id.lower():
        case "list" | "set" | "sequence" | "iterable":
            return {"type": "array", "items": _annotated(inner[0])}
        case "tuple" if len(inner) == 2 and isinstance(inner[1], ast.Constant) and inner[1].value is ...:
            return {"type": "array", "items": _annotated(inner[0])}
        case "tuple":
            items = [_annotated(item) for item in inner]
            return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
        case "dict":
            value = _annotated(inner[-1])
            return {"type": "object", "additionalProperties": value} if value else {"type": "object"}
        case "union":
            return {"anyOf": [_annotated(item) for item in inner]}
        case "optional":
            return {"anyOf": [_annotated(inner[0]), {"type": "null"}]}
        case "callable":
            return {"type": "string"}
        case "literal":
            return {"enum": [item.value for item in inner if isinstance(item, ast.Constant)]}
    raise ValueError


def _plain(name: str) -> Schema:
    if name in ("List", "Dict", "Set", "Tuple", "Any"):
        name = name.lower()
    if name in ("Callable", "callable"):  # xLAM's answers write a function as its source
        return {"type": "string"}
    if name not in PYTHON_TYPES:
        raise ValueError(name)
    mapped = PYTHON_TYPES[name]
    return {} if mapped is None else {"type": mapped}


def _outer_split(text: str) -> list[str]:
    """Split at the commas outside brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "[(") - (character in "])")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
