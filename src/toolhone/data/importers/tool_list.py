"""Lists of tools: OpenAI's shape or the bare function."""

from __future__ import annotations

import marshal
from functools import lru_cache
from typing import Any

from toolhone.data.importers.fields import short, typed
from toolhone.data.importers.schema_nulls import told_nulls
from toolhone.errors import RowError
from toolhone.records import Tool

_NO_PARAMETERS = {"type": "object", "properties": {}}


def read_tool_list(rows: Any, where: str) -> tuple[Tool, ...]:
    """Tools, each in OpenAI's shape or as the bare function. Equal lists give one and the same tuple, so that a file
    whose every row repeats its tools holds, and has checked, but one.

    Raises:
        RowError: naming `where` and the tool.
    """
    if not isinstance(rows, list):
        raise RowError(f"{where}: expected a list of tools, found {short(rows)}", rule="bad-tool")
    try:
        # As the key of the cache: thrice as fast as JSON. Version 2 gives equal bytes for equal values.
        return _read_bytes(marshal.dumps(rows, 2))
    except RowError as error:
        raise RowError(f"{where}: {error}", rule=error.rule) from None


@lru_cache(maxsize=256)
def _read_bytes(rows: bytes) -> tuple[Tool, ...]:
    tools = tuple(_tool(row, f"tool {n}") for n, row in enumerate(marshal.loads(rows)))
    names = [tool.name for tool in tools]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise RowError(f'the tool "{twice[0]}" is defined twice', rule="tool-defined-twice")
    return tools


def _tool(row: Any, where: str) -> Tool:
    function = row.get("function", row) if isinstance(row, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        text = f'{where}: expected {{"type": "function", "function": {{"name": ...}}}}, found {short(row)}'
        raise RowError(text, rule="bad-tool")
    parameters = function.get("parameters")
    if parameters is None:
        parameters = dict(_NO_PARAMETERS)
    if not isinstance(parameters, dict):
        text = f'{where}: expected "parameters" to be a JSON Schema, found {short(parameters)}'
        raise RowError(text, rule="bad-tool")
    if nulls := told_nulls(parameters):
        raise RowError(f"{where}: {nulls}", rule="null-filled-schema")
    return Tool(function["name"], typed(function, "description", str, "", where), parameters)
