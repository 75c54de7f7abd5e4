"""xLAM, that is APIGen's 60k rows: `query`, and `tools` and `answers` as JSON texts.

The tools' parameters are a flat list with Python annotations. A row has one question and the calls that answer it; no
calls at all is a row where none is right, and the source has no words for the assistant to say then.
"""

from __future__ import annotations

from typing import Any

from toolhone.data.importers import openai
from toolhone.data.importers.fields import json_text, short
from toolhone.data.importers.schema_types import PYTHON_TYPES, annotated_schema, object_schema
from toolhone.data.importers.turns import tied, to_call
from toolhone.errors import RowError
from toolhone.records import Conversation, Tool

_KEYS = frozenset({"id", "query", "tools", "answers"})


def looks_like(row: dict[str, Any]) -> bool:
    """Whether the row has a query and its answers."""
    return isinstance(row.get("query"), str) and "answers" in row and "tools" in row


def read(row: dict[str, Any], where: str, default_tools: tuple[Tool, ...] = ()) -> Conversation:
    """A row of xLAM as a `Conversation`; without calls its `expected` is that none is made.

    Raises:
        RowError: naming what was found and what was expected.
    """
    query = row.get("query")
    if not isinstance(query, str):
        raise RowError(f'{where}: expected "query" to be a text, found {short(query)}', rule="bad-content")
    answers = _listed(row.get("answers"), f"{where}: answers")
    if answers is None:
        raise RowError(f'{where}: expected "answers", a list of calls, found nothing', rule="bad-call")
    tools = _listed(row.get("tools"), f"{where}: tools")
    calls = [to_call(call, f"{where}: answer {n}") for n, call in enumerate(answers)]
    turn: dict[str, Any] = {"role": "assistant", "content": None, "tool_calls": calls} if calls else _SILENT
    meta = {key: value for key, value in row.items() if key not in _KEYS and value is not None}
    made: dict[str, Any] = {
        "id": row.get("id"),
        "messages": tied([{"role": "user", "content": query}, turn]),
        "meta": {"source": "xlam", **meta},
    }
    if not calls:
        made["expected"] = {"status": "none"}
    if tools is not None:
        made["tools"] = [_tool(tool, f"{where}: tool {n}") for n, tool in enumerate(tools)]
    return openai.conversation(made, where, default_tools)


_SILENT = {"role": "assistant", "content": ""}


def _listed(found: Any, where: str) -> list[Any] | None:
    if isinstance(found, str):
        found = json_text(found, where)
    if found is not None and not isinstance(found, list):
        raise RowError(f"{where}: expected a list, found {short(found)}", rule="bad-row")
    return found


def _tool(tool: Any, where: str) -> Any:
    """The tool with its parameters as JSON Schema; what is no tool is left for the reader to refuse."""
    function = tool.get("function", tool) if isinstance(tool, dict) else None
    parameters = function.get("parameters") if isinstance(function, dict) else None
    if not isinstance(function, dict) or not isinstance(parameters, dict | None):
        return tool
    # Other data of the same makers has JSON Schema; a flat list may well have a parameter "type", which is an object.
    if parameters and not isinstance(parameters.get("type"), str):
        return {**function, "parameters": annotated_schema(parameters, where)}
    return {**function, "parameters": object_schema(parameters, PYTHON_TYPES, where)}
