"""ShareGPT rows with tools, in four dialects: Hermes function-calling v1, Glaive v2, ToolACE, LLaMA-Factory's.

A row is a list of turns `{"from": ..., "value": ...}`. The dialects differ in whom `from` names, in where the tools
stand (a key of the row, or inside the system prompt) and in how a call is written in a text. Each row is rewritten in
OpenAI's format, which is then read as any row of it. What a system prompt says of the tools and of the source's own way
of calling goes, since a chat format writes both anew; every other word of it stays.

Calls and results carry no ids in the sources: they get them, a result that of the first call still unanswered.
"""

from __future__ import annotations

import json
import re
from typing import Any

from toolhone.data.importers import openai
from toolhone.data.importers.bracket_calls import is_bracket_call, parse_bracket_calls
from toolhone.data.importers.fields import json_text, short
from toolhone.data.importers.glaive import looks_like as looks_like_glaive
from toolhone.data.importers.glaive import read as read_glaive
from toolhone.data.importers.literals import LiteralError, decode_prefix, parse_literal
from toolhone.data.importers.schema_types import PYTHON_TYPES, object_schema
from toolhone.data.importers.turns import tied, to_call
from toolhone.errors import RowError
from toolhone.records import Conversation, Tool

__all__ = [
    "looks_like_glaive",
    "looks_like_hermes",
    "looks_like_llamafactory",
    "looks_like_toolace",
    "read_glaive",
    "read_hermes",
    "read_llamafactory",
    "read_toolace",
]

_ROLES = {
    "hermes": {"system": "system", "human": "user", "gpt": "assistant", "tool": "tool"},
    "toolace": {"system": "system", "user": "user", "assistant": "assistant", "tool": "tool"},
    "llamafactory": {
        "system": "system",
        "human": "user",
        "gpt": "assistant",
        "function_call": "assistant",
        "observation": "tool",
    },
}
_OTHER_TASKS = ("chosen", "rejected", "kto_tag", "images", "videos", "audios")
_OWN_KEYS = frozenset({"id", "conversations", "tools", "system"})

_TOOLS = re.compile(r"<tools>(?=\s*[\[{])(.*?)</tools>", re.DOTALL)
_TOOL_CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)
_TOOL_RESPONSE = re.compile(r"<tool_response>(.*?)</tool_response>", re.DOTALL)
# What Hermes' prompts say of calling in general, sentence by sentence, as the chat template will say it again.
_HERMES_PROMPT = re.compile(
    r"You are a function calling AI model\.\s*"
    r"|You are provided with function signatures within <tools>\s*</tools> XML tags\.\s*"
    r"|You may call one or more functions to assist with the user query\.\s*"
    r"|Don't make assumptions about what values to plug into functions\.\s*"
    r"|Here are the available tools:\s*"
    r"|Use the following pydantic model json schema for each tool call you will make:.*?(?=For each |\Z)"
    r"|For each (?:extraction )?function call,? return a json object with function name and arguments .*?"
    r"</tool_call>\s*\Z",
    re.DOTALL,
)
_TOOLACE_LEAD = re.compile(
    r"You are an expert in composing functions\..*?"
    r"Here is a list of functions in JSON format that you can invoke:\s*\Z",
    re.DOTALL,
)
_TOOLACE_END = re.compile(
    r"\A\s*\.?\s*Should you decide to return the function call\(s\)\.\s*Put it in the format of \[.*?\]"
    r"\s*NO other text MUST be included\.?\s*",
    re.DOTALL,
)


def looks_like_hermes(row: dict[str, Any]) -> bool:
    """Whether the row's turns are Hermes': a role `tool` among human and gpt, or its tags in a text."""
    names, texts = _speakers(row), _texts(row)
    if not names or not names <= _ROLES["hermes"].keys() or not names & {"human", "gpt"}:
        return False
    return "tool" in names or any("<tool_call>" in text or "<tools>" in text for text in texts)


def looks_like_toolace(row: dict[str, Any]) -> bool:
    """Whether the row's turns are ToolACE's: user and assistant, beside a system prompt."""
    names = _speakers(row)
    return bool(names & {"user", "assistant"}) and names <= _ROLES["toolace"].keys() and "system" in row


def looks_like_llamafactory(row: dict[str, Any]) -> bool:
    """Whether the row's turns are LLaMA-Factory's, with or without tools."""
    names = _speakers(row)
    return bool(names & {"human", "gpt", "function_call"}) and names <= _ROLES["llamafactory"].keys()


def read_hermes(row: dict[str, Any], where: str, default_tools: tuple[Tool, ...] = ()) -> Conversation:
    """A row of Hermes function-calling v1: calls in `<tool_call>` tags, in JSON or as Python literals, results in
    `<tool_response>` tags, tools in the system prompt's `<tools>` or in the row's own key.

    Raises:
        RowError: naming the turn, what was found and what was expected.
    """
    tools = _tool_rows(row.get("tools"), f"{where}: tools")
    messages: list[dict[str, Any]] = []
    for role, text, place in _turns(row, "hermes", where):
        if role == "system":
            if found := _TOOLS.findall(text):
                stated = [tool for block in found for tool in _tool_block(block, place)]
                tools = stated if tools is None else tools
                text = _HERMES_PROMPT.sub("", _TOOLS.sub("", text)).strip()
            if text:
                messages.append({"role": role, "content": text})
        elif role == "assistant":
            messages.append(_hermes_turn(text, place))
        elif role == "tool":
            answers = [answer.strip() for answer in _TOOL_RESPONSE.findall(text)] or [text]
            messages += [{"role": role, "content": answer} for answer in answers]
        else:
            messages.append({"role": role, "content": text})
    return _conversation(row, "hermes", messages, tools, where, default_tools)


def read_toolace(row: dict[str, Any], where: str, default_tools: tuple[Tool, ...] = ()) -> Conversation:
    """A row of ToolACE: tools as a JSON list inside the system prompt, calls as `[Name(argument=value)]`.

    Raises:
        RowError: naming the turn, what was found and what was expected.
    """
    system, tools = _toolace_prompt(row.get("system"), where)
    names = [tool["name"] for tool in tools or [] if isinstance(tool, dict) and isinstance(tool.get("name"), str)]
    names = names or [tool.name for tool in default_tools]
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    for role, text, place in _turns(row, "toolace", where):
        if role == "assistant" and is_bracket_call(text, names):
            try:
                calls = [to_call(call, place) for call in parse_bracket_calls(text, names)]
            except LiteralError as error:
                raise RowError(f"{place}: a call that cannot be read: {error}", rule="bad-call") from None
            messages.append({"role": role, "content": None, "tool_calls": calls})
        elif role == "tool":
            open_calls = messages[-1].get("tool_calls", ()) if messages else ()
            messages += [{"role": role, "content": answer} for answer in _answers(text, len(open_calls))]
        else:
            messages.append({"role": role, "content": text})
    return _conversation(row, "toolace", messages, tools, where, default_tools)


def read_llamafactory(row: dict[str, Any], where: str, default_tools: tuple[Tool, ...] = ()) -> Conversation:
    """A row of LLaMA-Factory's ShareGPT: calls as JSON under `function_call`, results under `observation`, tools as a
    JSON text.

    Raises:
        RowError: naming the turn, what was found and what was expected; for preference pairs and images too.
    """
    task = next((key for key in _OTHER_TASKS if row.get(key) is not None), None)
    if task is not None:
        raise RowError(
            f'{where}: rows with "{task}" are of another task; a conversation has text alone', rule="bad-row"
        )
    system = row.get("system")
    if system is not None and not isinstance(system, str):
        raise RowError(f'{where}: expected "system" to be a text, found {short(system)}', rule="bad-content")
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    for role, text, place in _turns(row, "llamafactory", where):
        if role == "assistant" and place.endswith("function_call"):
            found = json_text(text, place)
            calls = [to_call(call, place) for call in (found if isinstance(found, list) else [found])]
            messages.append({"role": role, "content": None, "tool_calls": calls})
        else:
            messages.append({"role": role, "content": text})
    tools = _tool_rows(row.get("tools"), f"{where}: tools")
    return _conversation(row, "llamafactory", messages, tools, where, default_tools)


def _conversation(
    row: dict[str, Any],
    dialect: str,
    messages: list[dict[str, Any]],
    tools: list[Any] | None,
    where: str,
    default_tools: tuple[Tool, ...],
) -> Conversation:
    meta = {key: value for key, value in row.items() if key not in _OWN_KEYS and value is not None}
    made: dict[str, Any] = {"id": row.get("id"), "messages": tied(messages), "meta": {"source": dialect, **meta}}
    if tools is not None:
        made["tools"] = [_mapped_tool(tool, f"{where}: tool {n}") for n, tool in enumerate(tools)]
    return openai.conversation(made, where, default_tools)


def _turns(row: dict[str, Any], dialect: str, where: str) -> list[tuple[str, str, str]]:
    """Role, text and place of each turn; the place ends with the speaker's own name."""
    roles, turns = _ROLES[dialect], row.get("conversations")
    if not isinstance(turns, list) or not turns:
        text = f'{where}: expected "conversations", a list of turns, found {short(turns)}'
        raise RowError(text, rule="no-messages")
    found = []
    for number, turn in enumerate(turns):
        name, value = (turn.get("from"), turn.get("value")) if isinstance(turn, dict) else (None, None)
        if not isinstance(name, str) or name not in roles:
            expected = ", ".join(roles)
            text = f'{where}: turn {number}: expected a "from" of {expected}, found {short(name)}'
            raise RowError(text, rule="bad-role")
        if not isinstance(value, str):
            text = f'{where}: turn {number}: expected "value" to be a text, found {short(value)}'
            raise RowError(text, rule="bad-content")
        found.append((roles[name], value, f"{where}: turn {number}: {name}"))
    return found


def _hermes_turn(text: str, place: str) -> dict[str, Any]:
    blocks = _TOOL_CALL.findall(text)
    rest = _TOOL_CALL.sub("", text)
    if "<tool_call>" in rest or "</tool_call>" in rest:
        raise RowError(f"{place}: a <tool_call> tag without its partner; the turn was cut", rule="bad-call")
    if not blocks:
        return {"role": "assistant", "content": text}
    calls = []
    for block in blocks:
        # Some seven hundred rows have the line breaks as a backslash and an n.
        call = block.strip().removeprefix("\\n").removesuffix("\\n").strip()
        try:
            found = parse_literal(call)
        except LiteralError as error:
            raise RowError(f"{place}: a call that cannot be read ({error}): {call[:60]}", rule="bad-call") from None
        calls += [to_call(each, place) for each in (found if isinstance(found, list) else [found])]
    return {"role": "assistant", "content": rest.strip() or None, "tool_calls": calls}


def _toolace_prompt(system: Any, where: str) -> tuple[str, list[Any] | None]:
    """What of the system prompt is not about calling, and the tools; None where it lists none."""
    if not isinstance(system, str):
        raise RowError(f'{where}: expected "system" to be a text, found {short(system)}', rule="bad-content")
    opening = re.search(r"\[\s*\{", system)
    if opening is None:
        return system.strip(), None
    try:
        tools, end = decode_prefix(system, opening.start())
    except LiteralError as error:
        raise RowError(f"{where}: system: the list of functions cannot be read: {error}", rule="bad-tool") from None
    before = _TOOLACE_LEAD.sub("", system[: opening.start()]).strip()
    after = _TOOLACE_END.sub("", system[end:]).strip()
    return f"{before}\n{after}".strip(), tools


def _answers(text: str, calls: int) -> list[str]:
    """ToolACE answers all calls of a turn in one text, a JSON list with an entry for each."""
    if calls < 2:
        return [text]
    try:
        entries = parse_literal(text)
    except LiteralError:
        return [text]
    if not isinstance(entries, list) or len(entries) != calls:
        return [text]
    return [json.dumps(entry, ensure_ascii=False) for entry in entries]


def _tool_rows(found: Any, where: str) -> list[Any] | None:
    """A row's own list of tools, or its JSON text; None where the row has none (an empty list is one)."""
    if isinstance(found, str):
        found = json_text(found, where) if found.strip() else None
    if found is not None and not isinstance(found, list):
        raise RowError(f"{where}: expected a list of tools, found {short(found)}", rule="bad-tool")
    return found


def _tool_block(text: str, where: str) -> list[Any]:
    """The tools between `<tools>` tags: a list, or one object after the other."""
    try:
        found = parse_literal(text)
        return found if isinstance(found, list) else [found]
    except LiteralError as error:
        tools, end = [], 0
        while end < len(text.rstrip()):
            try:
                tool, end = decode_prefix(text, end + len(text[end:]) - len(text[end:].lstrip()))
            except LiteralError:
                raise RowError(f"{where}: the list of tools cannot be read: {error}", rule="bad-tool") from None
            tools.append(tool)
        return tools


def _mapped_tool(tool: Any, where: str) -> Any:
    """The tool with its parameters as JSON Schema; what is no tool is left for the reader to refuse."""
    function = tool.get("function", tool) if isinstance(tool, dict) else None
    parameters = function.get("parameters") if isinstance(function, dict) else None
    if not isinstance(function, dict) or not isinstance(parameters, dict | None):
        return tool
    return {**function, "parameters": object_schema(parameters, PYTHON_TYPES, where)}


def _speakers(row: dict[str, Any]) -> set[str]:
    """Whom the turns name; nobody where they are no turns."""
    turns = row.get("conversations")
    if not isinstance(turns, list) or not all(isinstance(turn, dict) and "value" in turn for turn in turns):
        return set()
    names = [turn.get("from") for turn in turns]
    return {name if isinstance(name, str) else "" for name in names}


def _texts(row: dict[str, Any]) -> list[str]:
    return [turn["value"] for turn in row["conversations"] if isinstance(turn["value"], str)] if _speakers(row) else []
