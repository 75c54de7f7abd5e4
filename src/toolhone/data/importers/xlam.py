"""xLAM, the 60k rows of APIGen: `query`, and `tools` and `answers` as JSON strings.

The tools' parameters are a flat object with Python annotations (`List[int], optional`). A row has one question and the
calls that answer it. A row without calls expects no call, and its assistant turn is empty.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from toolhone.data.importers.importer import Row, listed, unexpected
from toolhone.data.importers.rewrite import read_rewritten, split_outside, to_call
from toolhone.data.importers.schemas import PYTHON_TYPES, Schema, object_schema, unknown_type
from toolhone.records import Conversation, Tool

_TYPES: Mapping[str, str | None] = {
    **PYTHON_TYPES,
    **{name.capitalize(): PYTHON_TYPES[name] for name in ("list", "dict", "set", "tuple", "any")},
    **dict.fromkeys(("Callable", "callable"), "string"),  # xLAM's answers write a function as its source
}


def looks_like(row: Row) -> bool:
    """Whether the row has a query and its answers."""
    return isinstance(row.get("query"), str) and "answers" in row and "tools" in row


def read(row: Row, where: str, default_tools: tuple[Tool, ...] = ()) -> Conversation:
    query = row.get("query")
    if not isinstance(query, str):
        raise unexpected(where, '"query" to be a string', query, "bad-content")
    answers = listed(row.get("answers"), f"{where}: answers", "", "bad-row")
    if answers is None:
        raise unexpected(where, '"answers", a list of calls', None, "bad-call")
    tools = listed(row.get("tools"), f"{where}: tools", "", "bad-row")
    calls = [to_call(call, f"{where}: answer {n}") for n, call in enumerate(answers)]
    turn: Row = {"role": "assistant", "content": None if calls else "", "tool_calls": calls}
    messages = [{"role": "user", "content": query}, turn]
    own_keys = ("id", "query", "tools", "answers")
    expected = None if calls else {"status": "none"}
    return read_rewritten(row, "xlam", messages, tools, where, default_tools, own_keys, _parameters, expected)


def _parameters(parameters: Schema | None, where: str) -> Any:
    # Other data of the same authors has JSON Schema. Flat parameters may include one named "type", which is an object.
    if parameters and not isinstance(parameters.get("type"), str):
        return _annotated_schema(parameters, where)
    return object_schema(parameters, where)


def _annotated_schema(parameters: Mapping[str, Any], where: str) -> Schema:
    """xLAM's flat parameters (`{"year": {"type": "int, optional", "description": ..., "default": ...}}`) as a JSON
    Schema of type object. A parameter is required unless its type says "optional" or it has a default."""
    properties: Schema = {}
    required = []
    for name, parameter in parameters.items():
        if not isinstance(parameter, dict) or not isinstance(parameter.get("type"), str):
            raise unexpected(where, f'the parameter "{name}" to have a "type"', parameter, "unknown-type")
        annotation, *words = (part.strip() for part in split_outside(parameter["type"], ",") or [""])
        schema = annotation_schema(annotation, where)
        rest = {key: value for key, value in parameter.items() if key != "type"}
        properties[name] = {**schema, **rest}
        optional = any(word.startswith(("optional", "default")) for word in words) or annotation.startswith("Optional")
        if not optional and "default" not in parameter:
            required.append(name)
    schema = {"type": "object", "properties": properties}
    return {**schema, "required": required} if required else schema


def annotation_schema(annotation: str, where: str) -> Schema:
    """A Python annotation (`List[Union[int, float]]`) as a JSON Schema."""
    try:
        return _annotated(ast.parse(annotation, mode="eval").body)
    except (SyntaxError, ValueError, KeyError, MemoryError, RecursionError):
        raise unknown_type(annotation, where) from None


def _annotated(node: ast.expr) -> Schema:
    """The schema of a parsed annotation. Raises ValueError or KeyError for a type without a counterpart."""
    if isinstance(node, ast.Constant) and node.value is None:
        return {"type": "null"}
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return {"anyOf": [_annotated(node.left), _annotated(node.right)]}
    if isinstance(node, ast.Name):
        kind = _TYPES[node.id]
        return {} if kind is None else {"type": kind}
    if not isinstance(node, ast.Subscript) or not isinstance(node.value, ast.Name):
        raise ValueError
    inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    match node.value.id.lower():
        case "tuple" if not (len(inner) == 2 and isinstance(inner[1], ast.Constant) and inner[1].value is ...):
            items = [_annotated(item) for item in inner]
            return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
        case "list" | "set" | "sequence" | "iterable" | "tuple":
            return {"type": "array", "items": _annotated(inner[0])}
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
