"""Mending one row of OpenAI's format, where there is one way to mend it and nothing of its meaning changes.

In: a row as decoded JSON, and the tools that stand in where it has none. Out: the mended row (the same object where
nothing was done) and what was done, as pairs of rule and text. Mending twice is mending once. What is mended:

legacy fields: `functions`, `function_call` and the role `function` as `tools`, `tool_calls` and `tool`;
arguments encoded twice, or more often, as JSON encoded once;
nulls that a table left in schemas, where no schema has them, and in arguments, where the tool's schema refuses them and
    accepts the arguments without them;
an empty `tool_calls`, which goes;
calls without an id that a result follows, and results without a `tool_call_id` where one call alone is open.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from toolhone.data.check.schema import CompiledTool
from toolhone.data.importers.schemas import null_places, without_nulls
from toolhone.records import Tool
from toolhone.strict_json import StrictJsonError, parse_strict

Done = list[tuple[str, str]]
"""Rule and what was done."""

_DEEPEST = 8


def mend(row: dict[str, Any], default_tools: Sequence[Tool] = ()) -> tuple[dict[str, Any], Done]:
    """The row mended, and what was done. A row that is not in OpenAI's format comes back as it is."""
    messages = row.get("messages")
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        return row, []
    done: Done = []
    mended = _without_null_schemas(_modern_tools(row, done), done)
    kept = [dict(message) for message in messages]
    _modernise(kept, done)
    compiled = _compiled(mended.get("tools"), default_tools)
    for number, message in enumerate(kept):
        if "tool_calls" in message and message["tool_calls"] == []:
            del message["tool_calls"]
            done.append(("empty-tool-calls", f"message {number}: an empty tool_calls left out"))
        if isinstance(message.get("tool_calls"), list):
            message["tool_calls"] = [
                _mended_call(call, f"message {number}: call {n}", compiled, done)
                for n, call in enumerate(message["tool_calls"])
            ]
    _tie_results(kept, done)
    return ({**mended, "messages": kept}, done) if done else (row, [])


def _modern_tools(row: dict[str, Any], done: Done) -> dict[str, Any]:
    functions = row.get("functions")
    if not isinstance(functions, list) or row.get("tools") is not None:
        return row
    if not all(isinstance(function, dict) and isinstance(function.get("name"), str) for function in functions):
        return row
    done.append(("legacy", f"functions written as tools ({len(functions)})"))
    tools = [{"type": "function", "function": function} for function in functions]
    kept = {key: value for key, value in row.items() if key not in ("functions", "tools", "function_call")}
    if row.get("function_call") not in (None, "auto"):  # an instruction of a request; where it says more, it stays
        kept["function_call"] = row["function_call"]
    return {**kept, "tools": tools}


def _without_null_schemas(row: dict[str, Any], done: Done) -> dict[str, Any]:
    tools = row.get("tools")
    if not isinstance(tools, list):
        return row
    kept: list[Any] = []
    for number, tool in enumerate(tools):
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        parameters = function.get("parameters") if isinstance(function, dict) else None
        places = null_places(parameters)
        if not places or not isinstance(function, dict):
            kept.append(tool)
            continue
        text = f"tool {number}: {len(places)} null(s) taken out of its parameters"
        done.append(("null-filled-schema", text))
        cleaned = {**function, "parameters": without_nulls(parameters)}
        kept.append({**tool, "function": cleaned} if "function" in tool else cleaned)
    return {**row, "tools": kept}


def _modernise(messages: list[dict[str, Any]], done: Done) -> None:
    """Legacy calls and results, in place; a result only where it follows the call that it names."""
    for number, message in enumerate(messages):
        call = message.get("function_call")
        called = isinstance(call, dict) and isinstance(call.get("name"), str)
        if message.get("role") == "assistant" and called and not message.get("tool_calls"):
            del message["function_call"]
            message["tool_calls"] = [{"id": _fresh_id(messages), "type": "function", "function": call}]
            done.append(("legacy", f"message {number}: function_call written as tool_calls"))
        if message.get("role") != "function" or not number:
            continue
        calls = messages[number - 1].get("tool_calls")
        only = calls[0] if isinstance(calls, list) and len(calls) == 1 and isinstance(calls[0], dict) else {}
        function = only.get("function", only)
        name = function.get("name") if isinstance(function, dict) else None
        if name is None or message.get("name") not in (None, name):
            continue
        if only.get("id") is None:
            only = {**only, "id": _fresh_id(messages)}
            messages[number - 1]["tool_calls"] = [only]
        if isinstance(only["id"], str):
            message.pop("name", None)
            message |= {"role": "tool", "tool_call_id": only["id"]}
            done.append(("legacy", f"message {number}: role function written as tool"))


def _mended_call(call: Any, place: str, compiled: dict[str, CompiledTool], done: Done) -> Any:
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict):
        return call
    given = function.get("arguments")
    arguments = _encoded_once(given)
    if arguments is not given:
        done.append(("arguments-encoded-twice", f"{place}: arguments encoded once"))
    arguments = _without_null_arguments(arguments, compiled.get(str(function.get("name"))), place, done)
    if arguments is given:
        return call
    mended = {**function, "arguments": arguments}
    return {**call, "function": mended} if "function" in call else mended


def _encoded_once(arguments: Any) -> Any:
    """The innermost JSON text of arguments, where that is an object; else the arguments as they are."""
    text = arguments
    for _ in range(_DEEPEST):
        decoded = _decoded(text)
        if isinstance(decoded, dict):
            return text
        if not isinstance(decoded, str):
            return arguments
        text = decoded
    return arguments


def _without_null_arguments(given: Any, tool: CompiledTool | None, place: str, done: Done) -> Any:
    arguments = _decoded(given) if isinstance(given, str) else given
    if tool is None or not isinstance(arguments, dict) or None not in arguments.values():
        return given
    nothing = set(tool.faults({}))
    refused = [name for name, value in arguments.items() if value is None and set(tool.faults({name: None})) - nothing]
    kept = {name: value for name, value in arguments.items() if name not in refused}
    if not refused or any(True for _ in tool.faults(kept)):
        return given
    done.append(("null-arguments", f"{place}: arguments that were null left out ({', '.join(refused)})"))
    return json.dumps(kept, ensure_ascii=False) if isinstance(given, str) else kept


def _decoded(text: Any) -> Any:
    if not isinstance(text, str):
        return None
    try:
        return parse_strict(text)
    except StrictJsonError:
        return None


def _tie_results(messages: list[dict[str, Any]], done: Done) -> None:
    """Ids of calls and of results, in place."""
    for number, message in enumerate(messages):
        calls = message.get("tool_calls")
        if message.get("role") != "assistant" or not isinstance(calls, list):
            continue
        results = _results(messages, number)
        if not results or not all(isinstance(call, dict) for call in calls):
            continue
        given = [result.get("tool_call_id") for result in results]
        if len(calls) == len(results) == 1 and calls[0].get("id") is None and isinstance(given[0], str):
            calls[0] = {**calls[0], "id": given[0]}
            done.append(("missing-call-id", f"message {number}: call 0 takes the id of its result"))
        elif all(id is None for id in given) or all(call.get("id") is not None for call in calls):
            # A result that names an id nobody has may mean any of the calls without one: those are left.
            for n, call in enumerate(calls):
                if call.get("id") is None:
                    calls[n] = {**call, "id": _fresh_id(messages)}
                    done.append(("missing-call-id", f'message {number}: call {n} given the id "{calls[n]["id"]}"'))
        nameless = [result for result in results if result.get("tool_call_id") is None]
        waiting = [call["id"] for call in calls if call.get("id") is not None and call["id"] not in given]
        if len(nameless) == len(waiting) == 1 and len(results) == len(calls):
            nameless[0]["tool_call_id"] = waiting[0]
            at = number + 1 + next(n for n, result in enumerate(results) if result is nameless[0])
            done.append(("missing-call-id", f'message {at}: the result tied to the one open call "{waiting[0]}"'))


def _results(messages: list[dict[str, Any]], caller: int) -> list[dict[str, Any]]:
    results = []
    for message in messages[caller + 1 :]:
        if message.get("role") != "tool":
            break
        results.append(message)
    return results


def _fresh_id(messages: list[dict[str, Any]]) -> str:
    """The first of call_1, call_2, ... that no call and no result of the row has."""
    taken: set[Any] = set()
    for message in messages:
        taken.add(str(message.get("tool_call_id")))
        calls = message.get("tool_calls")
        taken |= {str(call.get("id")) for call in calls if isinstance(call, dict)} if isinstance(calls, list) else set()
    number = 1
    while f"call_{number}" in taken:
        number += 1
    return f"call_{number}"


def _compiled(tools: Any, default_tools: Sequence[Tool]) -> dict[str, CompiledTool]:
    if tools is None:
        return {tool.name: _compile(tool) for tool in default_tools}
    found: dict[str, CompiledTool] = {}
    for row in tools if isinstance(tools, list) else ():
        function = row.get("function", row) if isinstance(row, dict) else None
        if isinstance(function, dict) and isinstance(function.get("name"), str):
            parameters = function.get("parameters")
            if isinstance(parameters, dict):
                tool = Tool(function["name"], "", parameters)
                found[tool.name] = _compile(tool)
    return found


def _compile(tool: Tool) -> CompiledTool:
    """Compiled tools by content, the latest few hundred."""
    key = json.dumps([tool.name, tool.parameters])
    if key not in _COMPILED:
        if len(_COMPILED) >= 512:
            _COMPILED.clear()
        _COMPILED[key] = CompiledTool(tool)
    return _COMPILED[key]


_COMPILED: dict[str, CompiledTool] = {}
