"""Hermes function-calling v1: ShareGPT turns, calls in `<tool_call>` tags, results in `<tool_response>` tags.

A call is JSON or a Python literal. The tools are inside `<tools>` in the system prompt, or under the row's `tools`.
The prompt's sentences about tools and calling are removed, because a chat format writes its own. The rest stays.
"""

from __future__ import annotations

import re
from typing import Any

from toolhone.data.importers.importer import Row
from toolhone.data.importers.rewrite import (
    LiteralError,
    decode_prefix,
    parse_literal,
    read_rewritten,
    sharegpt_turns,
    speakers,
    to_call,
    tool_rows,
)
from toolhone.data.importers.thinking import KEY as THINKING
from toolhone.data.importers.thinking import split_thought
from toolhone.errors import RowError
from toolhone.records import Conversation, Tool

_ROLES = {"system": "system", "human": "user", "gpt": "assistant", "tool": "tool"}
_TOOLS = re.compile(r"<tools>(?=\s*[\[{])(.*?)</tools>", re.DOTALL)
_TOOL_CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)
_TOOL_RESPONSE = re.compile(r"<tool_response>(.*?)</tool_response>", re.DOTALL)
# The general sentences about calling in Hermes' prompts. The chat template says the same.
_PROMPT = re.compile(
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


def looks_like(row: Row) -> bool:
    """Whether the row's turns are Hermes': human or gpt turns, with either a `tool` turn or Hermes' tags in a text."""
    names = speakers(row)
    if not names or not names <= _ROLES.keys() or not names & {"human", "gpt"}:
        return False
    texts = (turn["value"] for turn in row["conversations"] if isinstance(turn["value"], str))
    return "tool" in names or any("<tool_call>" in text or "<tools>" in text for text in texts)


def read(row: Row, where: str, default_tools: tuple[Tool, ...] = ()) -> Conversation:
    tools = tool_rows(row, where)
    messages: list[Row] = []
    for role, text, place in sharegpt_turns(row, _ROLES, where):
        if role == "system":
            if found := _TOOLS.findall(text):
                stated = [tool for block in found for tool in _tool_block(block, place)]
                tools = stated if tools is None else tools
                text = _PROMPT.sub("", _TOOLS.sub("", text)).strip()
            if text:
                messages.append({"role": role, "content": text})
        elif role == "assistant":
            messages.append(_assistant_turn(text, place))
        elif role == "tool":
            answers = [answer.strip() for answer in _TOOL_RESPONSE.findall(text)] or [text]
            messages += [{"role": role, "content": answer} for answer in answers]
        else:
            messages.append({"role": role, "content": text})
    return read_rewritten(row, "hermes", messages, tools, where, default_tools)


def _assistant_turn(text: str, place: str) -> Row:
    thought, text = split_thought(text)
    thinking: Row = {THINKING: thought} if thought else {}
    blocks = _TOOL_CALL.findall(text)
    rest = _TOOL_CALL.sub("", text)
    if "<tool_call>" in rest or "</tool_call>" in rest:
        raise RowError(f"{place}: a <tool_call> tag has no matching tag; the turn was cut off", rule="bad-call")
    if not blocks:
        return {"role": "assistant", "content": text, **thinking}
    calls = []
    for block in blocks:
        # About 700 rows write a line break as a backslash and an n.
        call = block.strip().removeprefix("\\n").removesuffix("\\n").strip()
        try:
            found = parse_literal(call)
        except LiteralError as error:
            raise RowError(f"{place}: the call cannot be read ({error}): {call[:60]}", rule="bad-call") from None
        calls += [to_call(each, place) for each in (found if isinstance(found, list) else [found])]
    return {"role": "assistant", "content": rest.strip() or None, "tool_calls": calls, **thinking}


def _tool_block(text: str, where: str) -> list[Any]:
    """The tools between `<tools>` tags, written as a list or as a sequence of objects."""
    try:
        found = parse_literal(text)
        return found if isinstance(found, list) else [found]
    except LiteralError as error:
        text, tools, end = text.strip(), [], 0
        while end < len(text):
            try:
                tool, end = decode_prefix(text, end)
            except LiteralError:
                raise RowError(f"{where}: the list of tools cannot be read: {error}", rule="bad-tool") from None
            tools.append(tool)
        return tools
