"""Rows that teach a model to hand over: marked ones are answered with the reserved call `escalate`, all may make it.

In: rows, and the key in `meta` that marks those which a larger model should have. Out: the same rows, in which a marked
conversation ends at its first answer to a user, which is the call; and every row that lists tools offers it beside
them, since a model can only learn what not to hand over where it could have.
"""

from __future__ import annotations

from dataclasses import replace

from toolhone.data.escalation import ESCALATE, escalate_tool
from toolhone.errors import UserError
from toolhone.records import Conversation, Message, ToolCall

_TOOL = escalate_tool()


def is_marked(row: Conversation, key: str) -> bool:
    """Whether the row's meta says that it should be handed over.

    Raises:
        UserError: where it says neither true nor false.
    """
    mark = row.meta.get(key, False)
    if not isinstance(mark, bool):
        raise UserError(
            f'{row.where}: meta "{key}" should be true for a row to hand over, or false or absent, found {mark!r}'
        )
    return mark


def hands_over(row: Conversation) -> bool:
    """Whether a turn of the row calls `escalate`."""
    return any(call.name == ESCALATE for message in row.messages for call in message.tool_calls)


def handed_over(row: Conversation) -> Conversation:
    """The row up to its first answer to a user, and that answer the reserved call, whoever gave the other.

    Raises:
        UserError: where no assistant turn follows a user's message, or the row lists no tools to offer the call beside.
    """
    asked = next((n for n, message in enumerate(row.messages) if message.role == "user"), len(row.messages))
    turn = next((n for n, message in enumerate(row.messages) if n > asked and message.role == "assistant"), None)
    if turn is None:
        raise UserError(f"{row.where}: is to be handed over, and no assistant turn follows a user's message")
    if not row.tools:
        raise UserError(f"{row.where}: is to be handed over, and lists no tools; add them, or name a file with --tools")
    answer = Message("assistant", "", (ToolCall(ESCALATE, {}),))
    return replace(row, messages=(*row.messages[:turn], answer), expected=None, gold_source=None)


def offering(row: Conversation) -> Conversation:
    """The row with the reserved tool as its last, if it lists tools and not that one."""
    if not row.tools or any(tool.name == ESCALATE for tool in row.tools):
        return row
    return replace(row, tools=(*row.tools, _TOOL))
