"""Reads the small model's text as an answer of OpenAI's API: a message with content, thinking and calls.

In: the text of a turn, and what the request allows. Out: a `Reply`. A turn with a call that cannot be read, or that the
request does not allow, is text as a whole: a client never gets some of the calls of a turn, nor an undeclared tool.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from toolhone.chat.parse import parse_turn
from toolhone.data.importers.thinking import split_thought
from toolhone.formats.pieces import THINK, THINK_END
from toolhone.records import FinishReason, FormatName, Status, ToolCall


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer. `content` is None if there is none beside calls or thinking; `status` says how the text was read;
    `finish_reason` is "tool_calls" if there are calls."""

    content: str | None
    thinking: str
    calls: tuple[ToolCall, ...]
    status: Status
    finish_reason: str

    def message(self) -> dict[str, Any]:
        """Return the message as JSON, with a new id for each call. Thinking is in `reasoning_content`, where other
        servers write it."""
        message: dict[str, Any] = {"role": "assistant", "content": self.content, "refusal": None}
        if self.calls:
            message["tool_calls"] = [{"id": new_call_id(), **call.to_json()} for call in self.calls]
        if self.thinking:
            message["reasoning_content"] = self.thinking
        return message


def new_call_id() -> str:
    return f"call_{uuid.uuid4().hex[:24]}"


def read_reply(
    text: str,
    finish_reason: FinishReason,
    format: FormatName,
    tools: Mapping[str, Any],
    *,
    callable_names: Collection[str],
    parallel: bool = True,
    in_thought: bool = False,
) -> Reply:
    """Return the answer in a text.

    Args:
        tools: the declared tools by name.
        callable_names: the tools that the answer may call; empty if it must be text.
        parallel: whether it may have several calls; otherwise only the first one is returned.
        in_thought: whether the prompt opens a thought, so that the text begins in it.
    """
    thinking, said = _split(text) if in_thought else ("", text)
    turn = parse_turn(said, format, finish_reason, tools=tools)
    if not in_thought and (turn.thinking or text.lstrip().startswith(THINK)):
        thinking, said = split_thought(text)
    if in_thought and turn.status == "none":  # calls in the thought count if none follows, as in `parse_turn`
        before = parse_turn(text.partition(THINK_END)[0], format, finish_reason, tools=tools)
        turn = replace(before, content=turn.content) if before.status == "calls" else turn
    if turn.status == "calls" and all(call.name in callable_names for call in turn.calls):
        calls = turn.calls if parallel else turn.calls[:1]
        thinking = thinking if in_thought else turn.thinking
        return Reply(turn.content or None, thinking, calls, turn.status, "tool_calls")
    if said.lstrip().startswith(THINK) and THINK_END not in said:  # a thought that was not closed
        thoughts = (thinking, said.lstrip().removeprefix(THINK).strip())
        return Reply(None, "\n\n".join(filter(None, thoughts)), (), turn.status, finish_reason)
    if in_thought and THINK_END not in text:
        return Reply(None, thinking, (), turn.status, finish_reason)
    if turn.status == "none":
        return Reply(turn.content, thinking if in_thought else turn.thinking, (), turn.status, finish_reason)
    return Reply(said.strip(), thinking, (), turn.status, finish_reason)


def _split(text: str) -> tuple[str, str]:
    """Return the thought with which a text begins, and the text after it. The prompt has the opening tag."""
    thought, _, said = text.partition(THINK_END)
    return thought.strip().removeprefix(THINK).strip(), said.lstrip()
