"""Glaive function-calling v2: a row has two strings, the system prompt with the functions and the whole chat.

`system` is `SYSTEM: `, an introduction and a JSON object for each function. In `chat`, a turn begins with `USER: `,
`ASSISTANT: ` or `FUNCTION RESPONSE: ` after a blank line. An assistant turn ends with `<|endoftext|>`. A call is
`<functioncall> {"name": ..., "arguments": '{...}'}`: JSON, except that the arguments are a JSON string in single
quotes, which may contain apostrophes.
"""

from __future__ import annotations

import re
from typing import Any

from toolhone.data.importers.importer import Row, json_text, unexpected
from toolhone.data.importers.rewrite import LiteralError, decode_prefix, read_rewritten, to_call
from toolhone.data.importers.thinking import KEY as THINKING
from toolhone.data.importers.thinking import split_thought
from toolhone.errors import RowError
from toolhone.records import Conversation, Tool

_END = "<|endoftext|>"
_CALL = "<functioncall>"
_ROLES = {"USER": "user", "ASSISTANT": "assistant", "FUNCTION RESPONSE": "tool"}
_TURN = re.compile(rf"(?:\A\s*|\n[ \t]*\n[ \t]*)({'|'.join(_ROLES)}):[ \t]?")
_INTRODUCTION = re.compile(
    r"You are an? helpful assistant with access to the following functions\.\s*Use them if required\s*-?\s*"
)
_QUOTED_CALL = re.compile(r"""\{\s*"name":\s*"([^"\\]+)",\s*"arguments":\s*'(.*)'\s*\}""", re.DOTALL)


def looks_like(row: Row) -> bool:
    """Whether the row has the two strings, and the chat begins with a turn."""
    chat = row.get("chat")
    return isinstance(row.get("system"), str) and isinstance(chat, str) and bool(_TURN.match(chat))


def read(row: Row, where: str, default_tools: tuple[Tool, ...] = ()) -> Conversation:
    system, chat = row.get("system"), row.get("chat")
    for key, text in (("system", system), ("chat", chat)):
        if not isinstance(text, str):
            raise unexpected(where, f'"{key}" to be a string', text, "bad-content")
    prompt, tools = _prompt(str(system), where)
    messages: list[Row] = [{"role": "system", "content": prompt}] if prompt else []
    for number, (speaker, text) in enumerate(_turns(str(chat), where)):
        place = f"{where}: turn {number}: {speaker}"
        if speaker == "ASSISTANT":
            messages.append(_assistant_turn(text, place))
        elif _END in text:
            raise RowError(f"{place}: contains {_END}, which may only end an assistant turn", rule="bad-turn")
        else:
            messages.append({"role": _ROLES[speaker], "content": text.strip()})
    # A row without functions has an empty list, not None, so that it does not take the config's tools.
    return read_rewritten(row, "glaive", messages, tools, where, default_tools, ("id", "system", "chat"))


def _prompt(text: str, where: str) -> tuple[str, list[Any]]:
    """The system prompt without the functions and their introduction, and the functions."""
    text = text.strip().removeprefix("SYSTEM:").strip()
    start = text.find("{")
    if start < 0:
        return text, []
    tools: list[Any] = []
    end = start
    while end < len(text) and text[end] == "{":
        try:
            tool, end = decode_prefix(text, end)
        except LiteralError as error:
            text = f"{where}: system: function {len(tools)} cannot be read: {error}"
            raise RowError(text, rule="bad-tool") from None
        tools.append(tool)
    return f"{_INTRODUCTION.sub('', text[:start])}\n{text[end:]}".strip(), tools


def _turns(chat: str, where: str) -> list[tuple[str, str]]:
    """Speaker and text of each turn."""
    if not _TURN.match(chat):
        raise unexpected(where, '"chat" to begin with "USER: "', chat, "bad-turn")
    _, *parts = _TURN.split(chat)
    return list(zip(parts[::2], parts[1::2], strict=True))


def _assistant_turn(text: str, place: str) -> Row:
    turn = text.strip()
    if not turn.endswith(_END) or _END in turn[: -len(_END)]:
        found = "was cut off: it does not end with" if not turn.endswith(_END) else "continues after"
        raise RowError(f"{place}: the turn {found} {_END}", rule="bad-turn")
    thought, said = split_thought(turn.removesuffix(_END))
    thinking: Row = {THINKING: thought} if thought else {}
    words, *calls = said.split(_CALL)
    if not calls:
        return {"role": "assistant", "content": words.strip(), **thinking}
    made = [to_call(_call(call.strip(), place), place) for call in calls]
    return {"role": "assistant", "content": words.strip() or None, "tool_calls": made, **thinking}


def _call(text: str, place: str) -> Any:
    quoted = _QUOTED_CALL.fullmatch(text)
    if quoted:
        return {"name": quoted[1], "arguments": quoted[2]}
    try:
        return json_text(text, place)
    except RowError:
        found = text if len(text) <= 80 else text[:77] + "..."
        message = f"""{place}: expected {{"name": ..., "arguments": '{{...}}'}} after {_CALL}, found {found}"""
        raise RowError(message, rule="bad-call") from None
