"""Rewrites rows of other formats in OpenAI's format, for `openai.conversation` to read: turns, calls, ids and tools.

The sources have no ids for calls and results. Each call gets an id; a result gets the id of the first unanswered call.
"""

from __future__ import annotations

import ast
import json
import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from toolhone.data.importers import openai
from toolhone.data.importers.functions import read_call, tool_definition
from toolhone.data.importers.importer import Row, listed, short, unexpected
from toolhone.data.importers.schemas import object_schema
from toolhone.errors import RowError
from toolhone.records import Conversation, Tool
from toolhone.strict_json import StrictJsonError, parse_strict

_SHAREGPT_KEYS = ("id", "conversations", "tools", "system")


def read_rewritten(
    row: Row,
    source: str,
    messages: list[Row],
    tools: list[Any] | None,
    where: str,
    default_tools: tuple[Tool, ...],
    own_keys: tuple[str, ...] = _SHAREGPT_KEYS,
    to_schema: Callable[[Any, str], Any] = object_schema,
    expected: Row | None = None,
) -> Conversation:
    """The conversation of a row whose messages are already in OpenAI's format. Its columns except `own_keys` become
    `meta`. `to_schema` turns each tool's parameters into JSON Schema."""
    functions = None if tools is None else [_with_schema(tool, n, where, to_schema) for n, tool in enumerate(tools)]
    meta = {key: value for key, value in row.items() if key not in own_keys and value is not None}
    made: Row = {
        "id": row.get("id"),
        "messages": with_call_ids(messages),
        "tools": functions,
        "meta": {"source": source, **meta},
        "expected": expected,
    }
    return openai.conversation(made, where, default_tools)


def _with_schema(tool: Any, number: int, where: str, to_schema: Callable[[Any, str], Any]) -> Row:
    """The tool as a bare function, with its parameters as JSON Schema."""
    place = f"{where}: tool {number}"
    function = tool_definition(tool, place)
    return {**function, "parameters": to_schema(function["parameters"], place)}


def sharegpt_turns(row: Row, roles: Mapping[str, str], where: str) -> list[tuple[str, str, str]]:
    """Role, text and place of each turn `{"from": ..., "value": ...}`; the place ends with the speaker's name."""
    turns = row.get("conversations")
    if not isinstance(turns, list) or not turns:
        raise unexpected(where, '"conversations", a list of turns', turns, "no-messages")
    found = []
    for number, turn in enumerate(turns):
        name, value = (turn.get("from"), turn.get("value")) if isinstance(turn, dict) else (None, None)
        if not isinstance(name, str) or name not in roles:
            raise unexpected(f"{where}: turn {number}", f'a "from" of {", ".join(roles)}', name, "bad-role")
        if not isinstance(value, str):
            raise unexpected(f"{where}: turn {number}", '"value" to be a string', value, "bad-content")
        found.append((roles[name], value, f"{where}: turn {number}: {name}"))
    return found


def speakers(row: Row) -> set[str]:
    """The speakers of a ShareGPT row's turns; empty if the row has no such turns."""
    turns = row.get("conversations")
    if not isinstance(turns, list) or not all(isinstance(turn, dict) and "value" in turn for turn in turns):
        return set()
    names = [turn.get("from") for turn in turns]
    return {name if isinstance(name, str) else "" for name in names}


def tool_rows(row: Row, where: str) -> list[Any] | None:
    """The row's own list of tools, decoded if it is a JSON string; None if it has no list. An empty list counts."""
    found = row.get("tools")
    found = None if isinstance(found, str) and not found.strip() else found
    return listed(found, f"{where}: tools", " of tools", "bad-tool")


def to_call(found: Any, where: str) -> Row:
    """A call that was parsed from a text, in OpenAI's shape. Raises RowError as `read_call` does."""
    arguments = found.get("arguments") if isinstance(found, dict) and "name" not in found else None
    if isinstance(arguments, dict) and "name" in arguments:
        raise RowError(f'{where}: the "name" is inside "arguments": {short(found)}', rule="bad-call")
    call = read_call(found, where)
    return {"function": {"name": call.name, "arguments": call.arguments}}


def with_call_ids(messages: list[Row]) -> list[Row]:
    """The messages with an id for each call, unique in the row. Each result gets the id of the first unanswered call. A
    result without such a call gets no id; the check reports it."""
    made: list[Row] = []
    unanswered: list[str] = []
    count = 0
    for message in messages:
        if message["role"] == "tool":
            made.append({**message, "tool_call_id": unanswered.pop(0)} if unanswered else message)
            continue
        calls = message.get("tool_calls", [])
        unanswered = [f"call_{count + n}" for n in range(len(calls))]
        count += len(calls)
        if calls:
            with_ids = [{"id": id, **call} for id, call in zip(unanswered, calls, strict=True)]
            message = {**message, "tool_calls": with_ids}
        made.append(message)
    return made


# Parsing values: JSON, or Python literals as `repr` writes them. Nothing is evaluated.

_JSON_NAMES = {"true": True, "false": False, "null": None}


class LiteralError(ValueError):
    """A text that is neither JSON nor a Python literal with a JSON value."""


def parse_literal(text: str) -> Any:
    """The JSON value of a text that is JSON or a Python literal (tuples become lists). Raises LiteralError if it is
    neither, or if its value is not clear (a key that appears twice, NaN)."""
    try:
        return parse_strict(text)
    except StrictJsonError as error:
        if error.rule != "broken-json":
            raise LiteralError(str(error)) from None
        fault = str(error)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python warns about "\d" in a string
            node = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise LiteralError(f"{fault}, and not a Python literal either") from None
    try:
        return _converted(node)
    except RecursionError:
        raise LiteralError("a literal that is nested too deeply") from None


def decode_prefix(text: str, start: int) -> tuple[Any, int]:
    """The JSON value that begins at `start`, and the index after it and the white space that follows. Raises
    LiteralError if no value begins there, or if its value is not clear."""
    try:
        end = json.JSONDecoder().raw_decode(text, start)[1]
        return parse_strict(text[start:end]), len(text) - len(text[end:].lstrip())
    except RecursionError:
        raise LiteralError("JSON that is nested too deeply") from None
    except ValueError as error:  # broken JSON, what `parse_strict` refuses, or a number with too many digits
        raise LiteralError(str(error)) from None


def _converted(node: ast.expr) -> Any:
    if isinstance(node, ast.Dict):
        found: dict[str, Any] = {}
        for key, value in zip(node.keys, node.values, strict=True):
            if not isinstance(key, ast.Constant) or not isinstance(key.value, str):
                raise LiteralError("a key that is not a string")
            if key.value in found:
                raise LiteralError(f'the key "{key.value}" appears twice in one object')
            found[key.value] = _converted(value)
        return found
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
    raise LiteralError(f"{' '.join(ast.unparse(node).split())[:60]} is not a JSON value")


def split_outside(text: str, separator: str, at_most: int = -1) -> list[str]:
    """The parts of a text between separators. A separator inside quotes or brackets does not count. Blank text has no
    parts."""
    parts: list[str] = []
    start = depth = 0
    for place, character in unquoted(text, 0):
        depth += (character in "([{") - (character in ")]}")
        if character == separator and depth == 0 and at_most != len(parts):
            parts.append(text[start:place])
            start = place + 1
    rest = text[start:]
    return [*parts, rest] if parts or rest.strip() else []


def unquoted(text: str, start: int) -> Iterable[tuple[int, str]]:
    """The characters outside quotes, with their indexes. A quote opens a string only if a value may begin there, so an
    apostrophe inside a name does not."""
    quote, escaped, before = "", False, ""
    for place in range(start, len(text)):
        character = text[place]
        if quote:
            if escaped:
                escaped = False
            elif character == "\\":
                escaped = True
            elif character == quote:
                quote = ""
        elif character in "\"'" and before in "([{=,:":
            quote = character
        else:
            yield place, character
        if not character.isspace():
            before = character
