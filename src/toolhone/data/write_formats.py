"""Write conversations as rows of other formats: OpenAI's, Hermes' and xLAM's.

A row that the format cannot represent raises `DoesNotFit`. `convert.py` reads each written row back to find the losses.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count, groupby
from typing import Any, NamedTuple

from toolhone.data.importers import hermes, openai, xlam
from toolhone.data.importers.openai import in_call_order
from toolhone.formats.pieces import THINK, THINK_END
from toolhone.records import Conversation, Message, Tool, ToolCall

Row = dict[str, Any]

_EXTRA = ("expected", "gold_source")
# The sentences that introduce the tools in Hermes' prompts and in toolhone's own template for these models.
_TOOLS_BEFORE = (
    "You are provided with function signatures within <tools></tools> XML tags. "
    "You may call one or more functions to assist with the user query. Here are the available tools:\n<tools>\n"
)
_TOOLS_AFTER = (
    "\n</tools>\nFor each function call return a json object with function name and arguments within "
    "<tool_call></tool_call> XML tags as follows:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)
_SPEAKERS = {"system": "system", "user": "human", "assistant": "gpt", "tool": "tool"}
_ANNOTATIONS = {
    "string": "str",
    "integer": "int",
    "number": "float",
    "boolean": "bool",
    "array": "list",
    "object": "dict",
    "null": "None",
}


class DoesNotFit(Exception):  # noqa: N818  (an outcome that is counted, not a fault)
    """The format cannot represent a row. The message says why, in the same words for all such rows."""


def to_openai(row: Conversation, keep_extra: bool) -> Row:
    """Return a row of OpenAI's chat fine-tuning format: every call has an id, and every result the id of its call.

    With `keep_extra`, it keeps toolhone's own keys (`id`, `expected`, `gold_source`, `meta`) and thinking
    (`reasoning_content`), which OpenAI refuses.
    """
    written = replace(row, messages=with_ids(row.messages)).to_json()
    for message in written["messages"]:
        if "weight" in message:
            message["weight"] = int(message["weight"])
        if not keep_extra:
            message.pop("reasoning_content", None)
    if not keep_extra:
        for key in ("id", "meta", *_EXTRA):
            written.pop(key, None)
    return written


def to_hermes(row: Conversation, keep_extra: bool) -> Row:
    """Return a row of Hermes' function-calling format in ShareGPT's shape: tools in the system prompt, calls in
    `<tool_call>` tags, thinking in `<think>` tags, and the results of a turn in one message, in the order of its calls.
    With `keep_extra`, the keys of meta become columns."""
    turns = []
    messages = list(row.messages)
    if row.tools and (not messages or messages[0].role != "system"):
        messages.insert(0, Message("system", ""))
    for role, run in groupby(in_call_order(with_ids(messages)), key=lambda message: message.role):
        if role == "tool":
            texts = ["\n".join(f"<tool_response>\n{message.content}\n</tool_response>" for message in run)]
        else:
            texts = [_hermes_text(message) for message in run]
        turns += [{"from": _SPEAKERS[role], "value": text} for text in texts]
    if row.tools:
        tools = _untagged(json.dumps([tool.to_json() for tool in row.tools], ensure_ascii=False), "tools>")
        system = turns[0]["value"]
        turns[0]["value"] = f"{system}\n\n{_TOOLS_BEFORE}{tools}{_TOOLS_AFTER}".lstrip("\n")
    written: Row = {"id": row.id, "conversations": turns}
    return {**written, **_columns(row, {"system", "tools", *written})} if keep_extra else written


def _hermes_text(message: Message) -> str:
    calls = [f"<tool_call>\n{_call_text(call)}\n</tool_call>" for call in message.tool_calls]
    thought = [f"{THINK}\n{message.thinking.strip()}\n{THINK_END}"] if message.thinking.strip() else []
    return "\n".join(thought + ([message.content] if message.content or not calls else []) + calls)


def _call_text(call: ToolCall) -> str:
    text = json.dumps({"name": call.name, "arguments": call.arguments}, ensure_ascii=False)
    return _untagged(text, "tool_call>")


def _untagged(text: str, tag: str) -> str:
    """Return JSON with "<" escaped if it contains the tag, so that the tag does not end it."""
    return text.replace("<", "\\u003c") if tag in text else text


def to_xlam(row: Conversation, keep_extra: bool) -> Row:
    """Return a row of xLAM's format: one question and the calls that answer it, and tools with flat parameters in
    Python's types. Raises DoesNotFit for a row of more than one turn."""
    spoken = [message for message in row.messages if message.role != "system"]
    if [message.role for message in spoken] != ["user", "assistant"]:
        raise DoesNotFit("not exactly one question and one turn, as xLAM requires")
    question, turn = spoken
    if turn.weight == 0:
        raise DoesNotFit("the only turn has weight 0, which xLAM cannot represent")
    answers = [{"name": call.name, "arguments": call.arguments} for call in turn.tool_calls]
    written: Row = {
        "id": row.id,
        "query": question.content,
        "tools": json.dumps([_flat_tool(tool) for tool in row.tools], ensure_ascii=False),
        "answers": json.dumps(answers, ensure_ascii=False),
    }
    return {**written, **_columns(row, set(written))} if keep_extra else written


def _flat_tool(tool: Tool) -> Row:
    properties = tool.parameters.get("properties", {})
    required = tool.parameters.get("required", [])
    flat = {name: _flat_parameter(schema, name in required) for name, schema in properties.items()}
    return {"name": tool.name, "description": tool.description, "parameters": flat}


def _flat_parameter(schema: Any, required: bool) -> Row:
    """Return a parameter with its type as a Python annotation, and the other keywords of its schema."""
    schema = schema if isinstance(schema, dict) else {}
    annotation, used = _annotation(schema)
    rest = {key: value for key, value in schema.items() if key not in used}
    plain = required or "default" in schema  # a default alone makes a parameter optional
    return {"type": annotation if plain else f"{annotation}, optional", **rest}


def _annotation(schema: Row) -> tuple[str, frozenset[str]]:
    """Return the annotation, and the keywords that it covers."""
    kinds = schema.get("type")
    if isinstance(kinds, list):
        names = ", ".join(_ANNOTATIONS.get(str(kind), "Any") for kind in kinds)
        return f"Union[{names}]", frozenset({"type"})
    items = schema.get("items")
    if kinds == "array" and isinstance(items, dict) and "type" in items:
        inner, used = _annotation(items)
        if used >= items.keys():
            return f"List[{inner}]", frozenset({"type", "items"})
    return _ANNOTATIONS.get(str(kinds), "Any"), frozenset({"type"})


class Target(NamedTuple):
    """A format that can be written. `write` takes a row and whether to keep toolhone's own keys. `read` is the format's
    importer, which must give the row back."""

    write: Callable[[Conversation, bool], Row]
    read: Callable[[Row, str, tuple[Tool, ...]], Conversation]


WRITERS = {
    "openai": Target(to_openai, openai.read),
    "hermes": Target(to_hermes, hermes.read),
    "xlam": Target(to_xlam, xlam.read),
}


def _columns(row: Conversation, taken: set[str]) -> Row:
    extra = {key: value for key, value in row.to_json().items() if key in (*_EXTRA, "parallel_tool_calls")}
    return {key: value for key, value in {**row.meta, **extra}.items() if key not in taken}


def with_ids(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Return the messages with an id for every call. A result without an id gets that of the first unanswered call.
    Raises DoesNotFit if there is no such call."""
    taken = {call.id for message in messages for call in message.tool_calls}
    fresh = (id for id in map("call_{}".format, count(1)) if id not in taken)
    made: list[Message] = []
    waiting: list[str] = []
    for message in messages:
        if message.role == "tool":
            if message.tool_call_id is None and not waiting:
                raise DoesNotFit("a tool result without a call before it")
            answered = waiting[0] if message.tool_call_id is None else message.tool_call_id
            if answered in waiting:
                waiting.remove(answered)
            made.append(replace(message, tool_call_id=answered))
            continue
        calls = tuple(call if call.id is not None else replace(call, id=next(fresh)) for call in message.tool_calls)
        waiting = [str(call.id) for call in calls]
        made.append(replace(message, tool_calls=calls))
    return tuple(made)
