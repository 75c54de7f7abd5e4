"""The reserved call `escalate`, with which a tuned model passes a request to a larger one, and rows that teach it.

The call is offered, parsed and scored like the call of any other tool. Metrics count it as a class of its own, and
routing escalates when the small model makes it. A row to escalate ends at its first answer to a user, which becomes the
call. All rows that list tools offer it, because a model must also see rows that could escalate and do not.
"""

from __future__ import annotations

from dataclasses import replace

from toolhone.errors import UserError
from toolhone.records import Conversation, Message, Tool, ToolCall

ESCALATE = "escalate"


def escalate_tool() -> Tool:
    """Return the reserved tool. It takes no arguments, which makes the call easy to learn."""
    description = "Hand the request over to a larger model: it is too complex, or out of scope."
    return Tool(ESCALATE, description, {"type": "object", "properties": {}, "required": []})


def should_escalate(row: Conversation, key: str) -> bool:
    """Return whether the row's meta marks it as one to escalate. Raises UserError if the mark is not a boolean."""
    mark = row.meta.get(key, False)
    if not isinstance(mark, bool):
        raise UserError(
            f'{row.where}: meta "{key}": expected true for a row to escalate, else false or no key, found {mark!r}'
        )
    return mark


def escalates(row: Conversation) -> bool:
    """Return whether a turn of the row calls `escalate`."""
    return any(call.name == ESCALATE for message in row.messages for call in message.tool_calls)


def escalated(row: Conversation) -> Conversation:
    """Return the row up to its first answer to a user, with that answer replaced by the reserved call.

    Raises:
        UserError: if no assistant turn follows a user's message, or the row lists no tools.
    """
    asked = next((n for n, message in enumerate(row.messages) if message.role == "user"), len(row.messages))
    turn = next((n for n, message in enumerate(row.messages) if n > asked and message.role == "assistant"), None)
    if turn is None:
        raise UserError(f"{row.where}: is marked to escalate, but no assistant turn follows a user's message")
    if not row.tools:
        raise UserError(
            f"{row.where}: is marked to escalate, but lists no tools; add tools, or give --tools TOOLS.json"
        )
    answer = Message("assistant", "", (ToolCall(ESCALATE, {}),))
    return replace(row, messages=(*row.messages[:turn], answer), expected=None, gold_source=None)


def with_escalate_tool(row: Conversation) -> Conversation:
    """Return the row with the reserved tool added at the end of its tools. A row without tools stays as it is."""
    if not row.tools or any(tool.name == ESCALATE for tool in row.tools):
        return row
    return replace(row, tools=(*row.tools, escalate_tool()))
