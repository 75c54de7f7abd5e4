"""Values that data sets write into a text: JSON, or what Python's `repr` makes of a value.

Hermes rows hold both, often one inside the other (`{"queries": ['a', 'b']}`), so one reader takes either. Nothing is
evaluated: the text is parsed and only literals are taken. Whatever has no single JSON value is refused, by the same
rules as `parse_strict`.
"""

from __future__ import annotations

import ast
import json
import math
import re
import warnings
from typing import Any

from toolhone.strict_json import StrictJsonError, parse_strict

_JSON_NAMES = {"true": True, "false": False, "null": None}
_BREAK = re.compile(r"\s+")


class LiteralError(ValueError):
    """A text that is neither JSON nor a Python literal with a JSON value."""


def parse_literal(text: str) -> Any:
    """The JSON value that a text states, in JSON or as a Python literal (tuples are lists).

    Raises:
        LiteralError: where it states none, or more than one (a key that appears twice, NaN).
    """
    try:
        return parse_strict(text)
    except StrictJsonError as error:
        if error.rule != "broken-json":
            raise LiteralError(str(error)) from None
        fault = str(error)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "\d" in a text is none of Python's business here
            node = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise LiteralError(f"{fault}, nor is it a Python literal") from None
    try:
        return _converted(node)
    except RecursionError:
        raise LiteralError("a literal that is nested too deeply") from None


def decode_prefix(text: str, start: int) -> tuple[Any, int]:
    """The JSON value that begins at `start`, and where it ends.

    Raises:
        LiteralError: where no value, or none of a single meaning, begins there.
    """
    try:
        end = json.JSONDecoder().raw_decode(text, start)[1]
        return parse_strict(text[start:end]), end
    except RecursionError:
        raise LiteralError("JSON that is nested too deeply") from None
    except ValueError as error:  # broken JSON, what `parse_strict` refuses, or a number with too many digits
        raise LiteralError(str(error)) from None


def _converted(node: ast.expr) -> Any:
    if isinstance(node, ast.Dict):
        return _object(node)
    if isinstance(node, ast.List | ast.Tuple):
        return [_converted(item) for item in node.elts]
    if isinstance(node, ast.Name) and node.id in _JSON_NAMES:
        return _JSON_NAMES[node.id]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        number = _converted(node.operand)
        if isinstance(number, int | float) and not isinstance(number, bool):
            return -number if isinstance(node.op, ast.USub) else number
    if isinstance(node, ast.Constant) and (node.value is None or isinstance(node.value, str | bool | int | float)):
        if isinstance(node.value, float) and not math.isfinite(node.value):
            raise LiteralError("a number that is too large for a float")
        return node.value
    raise LiteralError(f"{_BREAK.sub(' ', ast.unparse(node))[:60]} is no JSON value")


def _object(node: ast.Dict) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in zip(node.keys, node.values, strict=True):
        if not isinstance(key, ast.Constant) or not isinstance(key.value, str):
            raise LiteralError("a key that is no text")
        if key.value in found:
            raise LiteralError(f'the key "{key.value}" appears twice in one object')
        found[key.value] = _converted(value)
    return found
