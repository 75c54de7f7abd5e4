"""OpenAI's own rules for chat fine-tuning files (`--profile openai`): what its upload would refuse.

The rules apply to rows as written, because toolhone reads more than OpenAI: arguments as objects, results without ids,
and its own keys. OpenAI's service may still refuse other rows. The sources:

- https://developers.openai.com/docs/guides/distillation (the page on supervised fine-tuning): at least 10 examples; 50
  to start with.
- OpenAI's OpenAPI document 2.3.0, FineTuneChatRequestInput: the keys of a row; at least one message; weight 0 or 1, on
  assistant messages; 1 to 128 `functions`; texts and images, but no audio and no files.
- The same document in its Python library 3.57.0, shared_params/function_definition.py: names of up to 64 characters
  a-z, A-Z, 0-9, _ and -, parameters as a JSON Schema object that may be left out; resources/files.py: .jsonl, 512 MB.
- Not documented, so warnings: 128 `tools` (the limit of `functions`); 1,024 characters of a description, which the API
  refused (error string_above_max_length) until about May 2025; 65,536 tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import Any

from toolhone.data.check.finding import Finding, Severity
from toolhone.data.files import SourceRow, iter_file

MIN_EXAMPLES = 10
MAX_BYTES = 512 * 1024 * 1024
MAX_TOOLS = 128
MAX_TOKENS = 65_536
"""Of an example, for the larger models. Estimated as a quarter of the characters."""
MAX_DESCRIPTION = 1_024

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_ROW_KEYS = {"messages", "tools", "parallel_tool_calls", "functions"}
_MESSAGE_KEYS = {"role", "content", "name", "weight", "tool_calls", "tool_call_id", "function_call", "refusal"}
_PARTS = {"text", "image_url", "refusal"}
_CALL_KEYS = {"id", "type", "function"}


def openai_findings(files: Iterable[str], where: str) -> Iterator[Finding]:
    """Findings on what OpenAI would refuse in files. `where` is the place of findings on all files together."""
    rows = 0
    for file in files:
        if not file.endswith(".jsonl"):
            yield Finding(file, "openai-file", "the file's name does not end in .jsonl", remedy="convert it to JSONL")
        if Path(file).is_file() and (size := Path(file).stat().st_size) > MAX_BYTES:
            text = f"{size / 2**20:,.0f} MB, more than the {MAX_BYTES // 2**20} MB that may be uploaded"
            yield Finding(file, "openai-file", text, remedy="remove rows")
        for row in iter_file(file):
            rows += row.row is not None
            yield from row_findings(row)
    if rows < MIN_EXAMPLES:
        text = f"{rows} rows, but OpenAI needs at least {MIN_EXAMPLES}"
        yield Finding(where, "openai-count", text, remedy="add rows; OpenAI advises starting with 50 to 100")


def row_findings(row: SourceRow) -> Iterator[Finding]:
    """Findings on what OpenAI would refuse in a row; none if it is not a JSON object, which is a reading fault."""
    for severity, rule, text in _row_faults(row.row) if row.row is not None else ():
        yield Finding(row.where, rule, text, severity, _REMEDIES[rule])


_Fault = tuple[Severity, str, str]


def _row_faults(row: dict[str, Any]) -> Iterator[_Fault]:
    for key in sorted(row.keys() - _ROW_KEYS):
        yield "warning", "openai-key", f'OpenAI does not know the key "{key}" in a row'
    if "tools" in row and "functions" in row:
        yield "error", "openai-tools", "the row has both tools and functions"
    if "parallel_tool_calls" in row and not isinstance(row["parallel_tool_calls"], bool):
        yield "error", "openai-tools", "parallel_tool_calls is not true or false"
    offered = yield from _tool_faults(row)
    messages = row.get("messages")
    if not isinstance(messages, list) or not messages:
        yield "error", "openai-messages", "the row has no list of messages"
        return
    open_calls: dict[str, str] = {}
    for number, message in enumerate(messages):
        place = f"message {number}"
        if not isinstance(message, dict) or message.get("role") not in _ROLES:
            role = message.get("role") if isinstance(message, dict) else message
            yield "error", "openai-messages", f"{place}: the role is {_shown(role)}, expected {', '.join(_ROLES)}"
            continue
        if open_calls and message["role"] != "tool":
            yield "error", "openai-results", f"{place}: the calls {', '.join(open_calls)} before it have no result"
            open_calls = {}
        yield from _message_faults(message, place)
        if message["role"] == "assistant":
            yield from _call_faults(message, place, offered, open_calls)
        elif message["role"] == "tool":
            id = message.get("tool_call_id")
            if not isinstance(id, str) or open_calls.pop(id, None) is None:
                yield "error", "openai-results", f"{place}: tool_call_id {_shown(id)} does not name an open call"
    last = messages[-1]
    if not isinstance(last, dict) or last.get("role") != "assistant":
        yield "error", "openai-messages", "the last message is not the assistant's"
    assistants = [m for m in messages if isinstance(m, dict) and m.get("role") == "assistant"]
    if assistants and all(message.get("weight") == 0 for message in assistants):
        yield "error", "openai-weight", "every assistant message has weight 0"
    tokens = len(json.dumps(row, ensure_ascii=False)) // 4
    if tokens > MAX_TOKENS:
        yield "warning", "openai-length", f"about {tokens:,} tokens, more than {MAX_TOKENS:,}"


def _message_faults(message: dict[str, Any], place: str) -> Iterator[_Fault]:
    role = message["role"]
    for key in sorted(message.keys() - _MESSAGE_KEYS):
        yield "error", "openai-key", f'{place}: OpenAI does not know the key "{key}" in a message'
    if "weight" in message:
        if role != "assistant":
            yield "error", "openai-weight", f"{place}: weight in a message of role {role}"
        elif isinstance(message["weight"], bool) or message["weight"] not in (0, 1):
            yield "error", "openai-weight", f"{place}: weight {_shown(message['weight'])} is not 0 or 1"
    name = message.get("name")
    if name is not None and not _is_name(name):
        yield "error", "openai-name", f"{place}: the name {_shown(name)} is not valid"
    calls = bool(message.get("tool_calls") or message.get("function_call"))
    content = message.get("content")
    if isinstance(content, list):
        if not all(isinstance(part, dict) and isinstance(part.get("type"), str) for part in content):
            yield "error", "openai-messages", f"{place}: content is a list with parts that have no type"
        elif kinds := sorted({part["type"] for part in content} - _PARTS):
            expected = ", ".join(sorted(_PARTS))
            yield "error", "openai-messages", f"{place}: a part of type {kinds[0]}, expected {expected}"
    elif not isinstance(content, str) and not (content is None and (calls or message.get("refusal"))):
        yield "error", "openai-messages", f"{place}: content is {_shown(content)}, expected a string"
    if role != "assistant" and calls:
        yield "error", "openai-calls", f"{place}: a message of role {role} has calls"


def _call_faults(
    message: dict[str, Any], place: str, offered: set[str], open_calls: dict[str, str]
) -> Iterator[_Fault]:
    calls = message.get("tool_calls", [None] if "tool_calls" in message else ())
    if "tool_calls" in message and (not isinstance(calls, list) or not calls):
        yield "error", "openai-calls", f"{place}: tool_calls is {_shown(calls)}, expected a list of calls"
        return
    if message.get("function_call") is not None:
        yield from _function_faults(message["function_call"], place, offered)
    for n, call in enumerate(calls):
        at = f"{place}: call {n}"
        if not isinstance(call, dict):
            yield "error", "openai-calls", f"{at}: {_shown(call)} is not a call"
            continue
        if not isinstance(call.get("id"), str) or not call["id"]:
            yield "error", "openai-calls", f"{at}: the call has no id"
        elif call["id"] in open_calls:
            yield "error", "openai-calls", f'{at}: the id "{call["id"]}" is used twice'
        else:
            open_calls[call["id"]] = at
        if call.get("type") != "function":
            yield "error", "openai-calls", f'{at}: type is {_shown(call.get("type"))}, expected "function"'
        for key in sorted(call.keys() - _CALL_KEYS):
            yield "error", "openai-key", f'{at}: OpenAI does not know the key "{key}" in a call'
        yield from _function_faults(call.get("function"), at, offered)


def _function_faults(function: Any, at: str, offered: set[str]) -> Iterator[_Fault]:
    if not isinstance(function, dict) or not _is_name(function.get("name")):
        yield "error", "openai-name", f"{at}: expected a function with a valid name, found {_shown(function)}"
        return
    if function["name"] not in offered:
        yield "error", "openai-tools", f'{at}: the tool "{function["name"]}" is not in the row\'s tools'
    arguments = function.get("arguments")
    try:
        decoded = json.loads(arguments) if isinstance(arguments, str) else None
    except (ValueError, RecursionError):
        decoded = None
    if not isinstance(decoded, dict):
        yield "error", "openai-calls", f"{at}: arguments are {_shown(arguments)}, expected a JSON object as a string"


def _tool_faults(row: dict[str, Any]) -> Generator[_Fault, None, set[str]]:
    """Yield the faults of the tools; return their names."""
    names: set[str] = set()
    tools = row.get("tools", row.get("functions", []))
    legacy = "tools" not in row
    if not isinstance(tools, list):
        yield "error", "openai-tools", f"tools is {_shown(tools)}, expected a list"
        return names
    if len(tools) > MAX_TOOLS:
        yield "error" if legacy else "warning", "openai-tools", f"{len(tools)} tools, more than {MAX_TOOLS}"
    if "functions" in row and not tools:
        yield "error", "openai-tools", f"functions is empty, expected 1 to {MAX_TOOLS} functions or no such key"
    for n, tool in enumerate(tools):
        function = tool if legacy else tool.get("function") if isinstance(tool, dict) else None
        if not legacy and isinstance(tool, dict) and tool.get("type") != "function":
            yield "error", "openai-tools", f'tool {n}: type is {_shown(tool.get("type"))}, expected "function"'
        if not isinstance(function, dict) or not _is_name(function.get("name")):
            yield "error", "openai-name", f"tool {n}: expected a function with a valid name, found {_shown(function)}"
            continue
        if function["name"] in names:
            yield "error", "openai-tools", f'tool {n}: "{function["name"]}" is defined twice'
        names.add(function["name"])
        description = function.get("description", "")
        if not isinstance(description, str):
            yield "error", "openai-tools", f"tool {n}: the description is {_shown(description)}, expected a string"
        elif len(description) > MAX_DESCRIPTION:
            text = f"tool {n}: the description has {len(description):,} characters"
            yield "warning", "openai-tools", f"{text}; older models refuse more than {MAX_DESCRIPTION:,}"
        parameters = function.get("parameters", {"type": "object"})
        if not isinstance(parameters, dict) or (parameters and parameters.get("type") != "object"):
            yield "error", "openai-tools", f'tool {n}: the parameters are not a JSON Schema of type "object"'
    return names


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


_REMEDIES = {
    "openai-key": "remove the key (toolhone data convert --to openai does)",
    "openai-tools": "write tools as OpenAI's API expects them",
    "openai-messages": "write messages as OpenAI's API expects them",
    "openai-results": "answer each call with one tool message that has its id, before any other message",
    "openai-weight": "set weight only on assistant messages, to 0 or 1, and to 1 on at least one of them",
    "openai-name": "use a name of 1 to 64 letters, digits, _ or -",
    "openai-calls": "write calls as OpenAI's API expects them",
    "openai-length": "shorten the row: training cuts off what is over the limit",
}
