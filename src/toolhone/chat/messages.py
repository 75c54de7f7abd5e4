"""Gives messages to chat templates in the form that each template takes: keys, ids, names and arguments."""

from __future__ import annotations

import hashlib
import json
import re
from collections import deque
from collections.abc import Sequence
from typing import Any

from toolhone.chat.control_tokens import ControlTokens, guard
from toolhone.chat.template import TemplateTraits
from toolhone.formats.pieces import THINK, THINK_END
from toolhone.records import Message, ToolCall

_SHORT_ID = re.compile(r"[a-zA-Z0-9]{9}")


def template_messages(
    messages: Sequence[Message], control: ControlTokens, traits: TemplateTraits, thinking_key: str | None
) -> list[dict[str, Any]]:
    """Return the messages as a template takes them, with marks in the control tokens of their texts.

    Every result has the name of its tool and the id of its call. If the data has no ids, results belong to the calls in
    their order.
    """
    rows = []
    open_calls: deque[tuple[str | None, str, str]] = deque()  # the calls without a result: id, id as written, name
    number = 0
    for message in messages:
        forbidden = control.outside if message.role in ("user", "tool") else control.everywhere
        row: dict[str, Any] = {"role": message.role, "content": guard(message.content, forbidden)}
        if thinking := guard(message.thinking.strip(), forbidden):
            if thinking_key is not None:
                row[thinking_key] = thinking
            else:
                # Templates begin a new line before calls that follow a text.
                space = "\n\n" if message.content or not message.tool_calls else "\n"
                row["content"] = f"{THINK}\n{thinking}\n{THINK_END}{space}{row['content']}"
        if message.tool_calls:
            row["tool_calls"] = []
            open_calls.clear()
            for call in message.tool_calls:
                number += 1
                id_ = _short_id(call.id, number) if traits.short_ids else call.id or ""
                open_calls.append((call.id, id_, call.name))
                row["tool_calls"].append(_template_call(call, id_, traits, forbidden))
            if traits.null_content and not row["content"]:
                row["content"] = None
        if message.role == "tool":
            answered = next((call for call in open_calls if call[0] == message.tool_call_id), None)
            answered = answered or (open_calls[0] if open_calls and message.tool_call_id is None else None)
            if answered is not None:
                open_calls.remove(answered)
                row["name"] = guard(answered[2], forbidden)
            written = answered[1] if answered else message.tool_call_id
            if message.tool_call_id is not None or traits.short_ids:
                row["tool_call_id"] = guard(_short_id(written, 0) if traits.short_ids else written, forbidden)
        rows.append(row)
    return rows


def _template_call(call: ToolCall, id_: str, traits: TemplateTraits, forbidden: re.Pattern[str]) -> dict[str, Any]:
    arguments: Any = json.dumps(call.arguments, ensure_ascii=False) if traits.text_arguments else call.arguments
    id_, name, arguments = guard([id_, call.name, arguments], forbidden)
    return {"type": "function", "id": id_, "function": {"name": name, "arguments": arguments}}


def _short_id(id_: str | None, number: int) -> str:
    """Return an id of nine letters or digits: the given one, one made from it, or one made from the call's number."""
    if id_ and _SHORT_ID.fullmatch(id_):
        return id_
    return hashlib.sha256(id_.encode()).hexdigest()[:9] if id_ else f"call{number:05}"
