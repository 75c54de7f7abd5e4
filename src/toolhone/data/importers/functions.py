"""Reads tool definitions and calls, in every shape that public tools write.

OpenAI keeps a tool's JSON Schema under `parameters` and a call's arguments under `arguments`. MCP, Anthropic, Gemini,
LangChain, Bedrock and the AI SDK use other keys. This module reads all of them, for rows, tool files and the server's
requests. Any other key is an error that names the key, because its value would be lost.
"""

from __future__ import annotations

from typing import Any

from toolhone.data.importers.importer import Row, json_text, short, typed, unexpected
from toolhone.data.importers.schemas import describe_nulls
from toolhone.errors import RowError
from toolhone.records import Tool, ToolCall
from toolhone.strict_json import StrictJsonError, parse_strict

_SCHEMA_KEYS = (
    *("parameters", "inputSchema", "input_schema", "parametersJsonSchema", "parameters_json_schema"),
    *("args_schema", "json_schema"),
)
_ARGUMENT_KEYS = ("arguments", "args", "parameters", "input")
_SCHEMA_WRAPPERS = ("json", "jsonSchema")  # Bedrock's and the AI SDK's: {"inputSchema": {"json": {...}}}

# Keys that do not affect what a call looks like.
_NOT_NEEDED = frozenset({"type", "strict", "cache_control", "index", "_meta", "meta", "metadata"})
_NOT_NEEDED_IN_TOOLS = _NOT_NEEDED | {
    *("title", "annotations", "icons", "execution", "tags", "examples", "input_examples"),
    *(
        "outputSchema",
        "output_schema",
        "response",
        "responseJsonSchema",
        "response_json_schema",
        "returns",
        "return_type",
        "behavior",
    ),
    *("defer_loading", "allowed_callers", "eager_input_streaming", "providerOptions", "outer_typed_dict_key"),
}
TOOL_KEYS = _NOT_NEEDED_IN_TOOLS | {"name", "description", *_SCHEMA_KEYS}
"""The known keys of a tool's definition."""
_CALL_KEYS = _NOT_NEEDED | {"id", "extra_content", "caller", "thought_signature"}


def looks_like_tool(row: Any) -> bool:
    """Whether the value is a tool definition: it has a name and a schema."""
    function = _inner(row, ("function", "toolSpec"))
    return isinstance(function, dict) and isinstance(function.get("name"), str) and bool(_given(function, _SCHEMA_KEYS))


def tool_definition(row: Any, where: str) -> Row:
    """The tool's `name`, `description` and `parameters`, unchanged. `parameters` is None if the tool has no schema.

    Raises:
        RowError: if the value is not a tool, has two schemas or has an unknown key.
    """
    if isinstance(row, str) and row.lstrip().startswith("{"):
        row = json_text(row, where)
    function = _inner(row, ("function", "toolSpec"))
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        raise unexpected(where, '{"type": "function", "function": {"name": ...}}', row, "bad-tool")
    if function is not row:
        _refuse_unknown(row, _NOT_NEEDED_IN_TOOLS | {"function", "toolSpec"}, f"{where}: a tool", "bad-tool")
    of_tool = f'{where}: the tool "{function["name"]}"'
    # ToolACE writes "required": null here if no argument is required. A list of names is refused as an unknown key.
    _refuse_unknown({**function, "required": function.get("required") or None}, TOOL_KEYS, of_tool, "bad-tool")
    found = _given(function, _SCHEMA_KEYS)
    if len(found) > 1:
        raise RowError(f'{of_tool} has two schemas, "{found[0]}" and "{found[1]}"; keep one', rule="bad-tool")
    parameters = function[found[0]] if found else None
    if isinstance(parameters, str):
        parameters = json_text(parameters, f"{of_tool}: {found[0]}")
    if isinstance(parameters, dict) and len(parameters) == 1:
        parameters = next((parameters[key] for key in _SCHEMA_WRAPPERS if key in parameters), parameters)
    description = typed(function, "description", str, "", where)
    return {"name": function["name"], "description": description, "parameters": parameters}


def read_tool(row: Any, where: str) -> Tool:
    """The tool that a row defines. Without a schema it takes no arguments. Raises RowError as `tool_definition` does,
    and if the schema is not an object or has nulls."""
    found = tool_definition(row, where)
    parameters = found["parameters"]
    if parameters is None:
        parameters = {"type": "object", "properties": {}}
    if not isinstance(parameters, dict):
        raise unexpected(where, '"parameters" to be a JSON Schema', parameters, "bad-tool")
    if nulls := describe_nulls(parameters):
        raise RowError(f"{where}: {nulls}", rule="null-filled-schema")
    return Tool(found["name"], found["description"], parameters)


def read_call(row: Any, where: str) -> ToolCall:
    """The call in a row, with or without its `function` wrapper. An empty id counts as absent.

    Raises:
        RowError: if the value is not a call, its arguments are not a JSON object, or a key is unknown.
    """
    function = _inner(row, ("function",))
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise unexpected(where, 'a call with "name" and "arguments"', row, "bad-call")
    if function is not row and not row.keys() <= (_CALL_KEYS | {"function"}):
        _refuse_unknown(row, _CALL_KEYS | {"function"}, f"{where}: a call", "bad-call")
    key = arguments_key(function)
    if function.keys() - {"name", key}:
        known = _CALL_KEYS | {"name", *_ARGUMENT_KEYS}
        _refuse_unknown(function, known, f'{where}: the call of "{function["name"]}"', "bad-call")
        found = _given(function, _ARGUMENT_KEYS)
        if len(found) > 1:
            text = f'{where}: the call of "{function["name"]}" has both "{found[0]}" and "{found[1]}"; keep one'
            raise RowError(text, rule="bad-call")
    id_ = typed(row, "id", str, None, where) or None
    return ToolCall(function["name"], read_arguments(function.get(key), where), id_)


def arguments_key(function: Row) -> str:
    """The key under which a call keeps its arguments; "arguments" if it has none."""
    return next(iter(_given(function, _ARGUMENT_KEYS)), "arguments")


def schema_key(function: Row) -> str:
    """The key under which a tool's definition keeps its schema; "parameters" if it has none."""
    return next(iter(_given(function, _SCHEMA_KEYS)), "parameters")


def read_arguments(found: Any, where: str) -> Row:
    """The arguments, decoded once if they are a string; None means no arguments. Raises RowError if they are not a JSON
    object, or are encoded twice."""
    arguments = {} if found is None else found
    if isinstance(found, str):
        try:
            arguments = parse_strict(found) if found.strip() else {}
        except StrictJsonError as error:
            if str(error).startswith("holds "):  # valid JSON, but with a value that cannot be written again
                raise RowError(f"{where}: {error}", rule=error.rule) from None
            reason = str(error).removeprefix("broken JSON: ")
            text = f"{where}: the arguments are not JSON ({reason}): {short(found)}"
            raise RowError(text, rule="bad-arguments") from None
    if isinstance(arguments, str):
        text = f"{where}: the arguments are encoded twice (a JSON string inside a JSON string): {short(found)}"
        raise RowError(text, rule="arguments-encoded-twice")
    if not isinstance(arguments, dict):
        raise unexpected(where, "arguments as a JSON object", found, "bad-arguments")
    return arguments


def _inner(row: Any, wrappers: tuple[str, ...]) -> Any:
    """The value without its wrapper, if it has one."""
    if not isinstance(row, dict):
        return None
    return next((row[key] for key in wrappers if isinstance(row.get(key), dict)), row)


def _given(row: Row, keys: tuple[str, ...]) -> list[str]:
    """The keys that the row has, with a value other than null."""
    return [key for key in keys if row.get(key) is not None]


def _refuse_unknown(row: Row, known: frozenset[str] | set[str], holder: str, rule: str) -> None:
    unknown = sorted(key for key in row.keys() - known if row[key] is not None)
    if unknown:
        keys = _SCHEMA_KEYS if rule == "bad-tool" else _ARGUMENT_KEYS
        what = "the schema" if rule == "bad-tool" else "the arguments"
        text = f'{holder} has the unknown key "{unknown[0]}"; remove it, or write {what} under "{keys[0]}"'
        raise RowError(f"{text} (also read: {', '.join(keys[1:])})", rule=rule)
