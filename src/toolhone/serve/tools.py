"""Reads the tools of a request, and its choice of tools, in the shapes of several APIs.

Tools may be written as OpenAI's chat completions or responses, Anthropic or MCP write them, or as legacy functions. No
schema is lost: a tool whose schema is under an unknown key is refused, and so are tools that a provider hosts.
"""

from __future__ import annotations

import marshal
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any, Literal

from toolhone.data.importers.functions import TOOL_KEYS, looks_like_tool, schema_key, tool_definition
from toolhone.data.importers.importer import Row, short, unexpected
from toolhone.data.importers.schemas import without_nulls
from toolhone.errors import RowError
from toolhone.records import Tool
from toolhone.strict_json import is_nested_deeper
from toolhone.tool_schema import check_schema

MAX_DEPTH = 100
"""The most levels that objects and lists of a request, or of a JSON text in it, may be nested."""

MAX_TOOLS = 1024
_MAX_TOOL_BYTES = 2**19

Mode = Literal["auto", "none", "required"]

_MODES: dict[str, Mode] = {"auto": "auto", "none": "none", "required": "required", "any": "required"}
_CHOICES = (
    '"auto", "none", "required", {"type": "function", "function": {"name": ...}} or '
    '{"type": "allowed_tools", "allowed_tools": {"mode": ..., "tools": [...]}}'
)


@dataclass(frozen=True, slots=True)
class RequestTools:
    """The tools of a request. `strict` names those whose `strict` is true. `repaired` says what was changed in them,
    and `ignored` has the places of unknown keys."""

    tools: tuple[Tool, ...] = ()
    strict: tuple[str, ...] = ()
    repaired: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()


def read_tools(rows: Any, key: str) -> RequestTools:
    """Return the tools in the list under a key of the request. Equal lists give the same object, so that each list is
    checked once.

    Raises:
        UserError: naming the tool, if one has no name, has an unusable schema, is defined twice, or is hosted.
    """
    if not isinstance(rows, list):
        raise unexpected(key, "a list of tools", rows, "bad-tool")
    packed = marshal.dumps(rows, 2)  # version 2 gives equal bytes only for equal values
    if len(rows) > MAX_TOOLS or len(packed) > _MAX_TOOL_BYTES:  # checking more takes many seconds
        text = f"{key}: {len(rows)} tools of {len(packed)} bytes, expected at most {MAX_TOOLS} of {_MAX_TOOL_BYTES}"
        raise RowError(f"{text}; give fewer tools", rule="too-many-tools")
    return _read_tools(packed, key)


@lru_cache(maxsize=64)
def _read_tools(rows: bytes, key: str) -> RequestTools:
    tools: dict[str, Tool] = {}
    strict: list[str] = []
    repaired: list[str] = []
    ignored: list[str] = []
    for number, row in enumerate(marshal.loads(rows)):
        where = f"{key}[{number}]"
        function = _function(row, where)
        is_strict = function.get("strict", row.get("strict"))
        if not isinstance(is_strict, bool | None):
            raise unexpected(f"{where}.strict", "true or false", is_strict, "bad-tool")
        if looks_like_tool(function):
            unknown = sorted(name for name in function.keys() - TOOL_KEYS if function[name] is not None)
            ignored += [f"{where}.{name}" for name in unknown]
            function = {name: value for name, value in function.items() if name in TOOL_KEYS}
        tool = _tool(function, where, repaired)
        if tool.name in tools:
            raise RowError(f"{where}: the tool {short(tool.name)} is defined twice", rule="tool-defined-twice")
        check_schema(tool.parameters, f"{where}: tool {short(tool.name)}")
        tools[tool.name] = tool
        strict += [tool.name] if is_strict else []
    return RequestTools(tuple(tools.values()), tuple(strict), tuple(repaired), tuple(ignored))


def _function(row: Any, where: str) -> Row:
    """Return the part of a tool that has its name and schema. Raises RowError for a tool that a provider hosts."""
    if not isinstance(row, dict):
        raise unexpected(where, '{"type": "function", "function": {"name": ...}}', row, "bad-tool")
    kind = row.get("type")
    function = row.get("function")
    # Anthropic's own type of a function is "custom"; OpenAI's "custom" takes free text and has no schema.
    if kind not in (None, "function") and not (kind == "custom" and looks_like_tool(row)):
        if not isinstance(kind, str):
            raise unexpected(f"{where}.type", '"function"', kind, "bad-tool")
        text = f"{where}: a tool of type {short(kind)}; this server hosts no tools; define a function instead"
        raise RowError(text, rule="hosted-tool")
    return function if isinstance(function, dict) else row


def _tool(function: Row, where: str, repaired: list[str]) -> Tool:
    found = tool_definition(function, where)
    parameters = found["parameters"]
    if parameters is None:
        parameters = {"type": "object", "properties": {}}
    if not isinstance(parameters, dict) or is_nested_deeper(parameters, MAX_DEPTH):
        expected = f"a JSON Schema of at most {MAX_DEPTH} levels"
        raise unexpected(f"{where}.{schema_key(function)}", expected, function[schema_key(function)], "bad-tool")
    parameters, nulls = without_nulls(parameters)
    if nulls:
        repaired.append(f"{where}: {len(nulls)} nulls in its schema are left out")
    types = parameters.get("type", "object")
    if types != "object" and not (isinstance(types, list) and "object" in types):
        raise unexpected(f"{where}.{schema_key(function)}.type", '"object"', types, "bad-tool")
    return Tool(found["name"], found["description"], parameters)


def read_tool_choice(found: Any, tools: Iterable[str], key: str = "tool_choice") -> tuple[Mode, tuple[str, ...]]:
    """Return the mode of a request's `tool_choice` or `function_call`, and the names of the tools that may be called.

    Raises:
        RowError: for another value, a tool that is not declared, or a required call without tools.
    """
    mode, chosen = _mode_and_names(found, key)
    declared = dict.fromkeys(tools)
    for name in chosen or ():
        if name not in declared:
            known = ", ".join(map(short, islice(declared, 20))) or "none"
            raise RowError(f"{key}: the tool {short(name)} is not declared; the tools are {known}", rule="unknown-tool")
    if mode == "none":
        return mode, ()
    if mode == "required" and not declared:
        raise RowError(f"{key}: a call is required, but there are no tools; give tools", rule="no-tools")
    return mode, tuple(declared) if chosen is None else tuple(dict.fromkeys(chosen))


def _mode_and_names(found: Any, key: str) -> tuple[Mode, list[str] | None]:
    """Return the mode and the chosen tools; None instead of these if all tools may be called."""
    if found is None:
        return "auto", None
    if isinstance(found, str) and found in _MODES:
        return _MODES[found], None
    if isinstance(found, dict):
        kind = found.get("type", "function")
        if isinstance(kind, str) and kind in _MODES:  # Anthropic's shape
            return _MODES[kind], None
        if kind in ("function", "tool"):
            return "required", [_name(found, key)]
        if kind == "allowed_tools":
            allowed = found.get("allowed_tools", found)  # the responses API has no inner object
            mode = allowed.get("mode", "auto") if isinstance(allowed, dict) else None
            tools = allowed.get("tools") if isinstance(allowed, dict) else None
            if mode in ("auto", "required") and isinstance(tools, list) and tools:
                return _MODES[mode], [_name(tool, f"{key}.tools") for tool in tools]
    raise unexpected(key, _CHOICES, found, "bad-tool-choice")


def _name(found: Any, key: str) -> str:
    inner = found.get("function", found) if isinstance(found, dict) else None
    name = inner.get("name") if isinstance(inner, dict) else None
    if not isinstance(name, str):
        raise unexpected(key, "the name of a function", found, "bad-tool-choice")
    return name
