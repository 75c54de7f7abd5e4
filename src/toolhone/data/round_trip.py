"""What a conversation loses on its way through another format: it is held against what reading back gave.

A difference in what is asked, called or answered is one that no conversion may make (`Changed`). Everything else is a
loss: named, so that it can be counted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from toolhone.data.write_formats import in_call_order, with_ids
from toolhone.records import Conversation, Message, Tool, ToolCall


class Changed(Exception):  # noqa: N818  (an outcome that is counted, not a fault)
    """What was read back says something else."""


def losses(before: Conversation, after: Conversation, format: str) -> list[str]:
    """What `after`, read from a row of the format, lacks of `before`; in the same words for all such rows.

    Raises:
        Changed: where the two differ in more than a format may lose.
    """
    found = [*_key_losses(before, after), *_tool_losses(before, after), *_lost_words(before, after, format)]
    return list(dict.fromkeys(found))


def _key_losses(before: Conversation, after: Conversation) -> Iterator[str]:
    # A row without an id is named by its content's hash, which a new call id changes.
    if after.id != before.id and before.id != before.content_hash():
        yield "id"
    if after.parallel_tool_calls != before.parallel_tool_calls:
        yield "parallel_tool_calls: false"
    if before.expected is not None and after.expected != before.expected:
        yield "expected (accepted alternatives)"
    if after.gold_source != before.gold_source:
        yield "gold_source (whose answers the gold is)"
    lacking = sorted(key for key, value in before.meta.items() if key not in after.meta or after.meta[key] != value)
    if lacking:
        yield f"meta: {', '.join(lacking)}"


def _tool_losses(before: Conversation, after: Conversation) -> Iterator[str]:
    if [tool.name for tool in before.tools] != [tool.name for tool in after.tools]:
        raise Changed("the tools are others when it is read back")
    for old, new in zip(before.tools, after.tools, strict=True):
        if old.description != new.description:
            yield "tools: description"
        if _plain_schema(old) != _plain_schema(new):
            changed = sorted(_differing(_plain_schema(old), _plain_schema(new)))
            yield f"tools: {', '.join(changed)} in the schema"


def _plain_schema(tool: Tool) -> dict[str, Any]:
    """The parameters without what says nothing: an empty `required`, and the order of it."""
    schema = {"type": "object", "properties": {}, **tool.parameters}
    required = schema.pop("required", None)
    return {**schema, "required": sorted(required)} if required else schema


def _differing(old: Any, new: Any, key: str = "schema") -> set[str]:
    """The keywords whose values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        found: set[str] = set()
        for name in {*old, *new}:
            if name not in old or name not in new:
                found.add(name)
            elif old[name] != new[name]:
                inner = name if key != "properties" else "schema"
                found |= _differing(old[name], new[name], inner)
        return found
    return {key}


def _lost_words(before: Conversation, after: Conversation, format: str) -> Iterator[str]:
    old, new = with_ids(before.messages), with_ids(after.messages)
    if format == "xlam" and old and old[0].role == "system":
        yield "system message"
        old = tuple(message for message in old if message.role != "system")
    ordered = in_call_order(old)
    if format == "hermes" and ordered != old:
        yield "order of results, which is now that of the calls"
        old = ordered
    if [message.role for message in old] != [message.role for message in new]:
        raise Changed("the messages are others when it is read back")
    for one, other, old_tie, new_tie in zip(old, new, _ties(old), _ties(new), strict=True):
        if _as_json(one.tool_calls) != _as_json(other.tool_calls):
            raise Changed("a call is another when it is read back")
        if old_tie != new_tie:
            raise Changed("a result would be another call's when it is read back")
        if one.weight != other.weight:
            yield "weight 0: the turn would be learned"
        if one.content != other.content:
            yield _lost_text(one, other, format)
    pairs = zip(_call_ids(before.messages), _call_ids(after.messages), strict=True)
    if any(old is not None and old != new for old, new in pairs):
        yield "call ids, which are others now"


def _call_ids(messages: Sequence[Message]) -> list[str | None]:
    return [call.id for message in messages for call in message.tool_calls]


def _lost_text(one: Message, other: Message, format: str) -> str:
    if one.content.strip() == other.content.strip():
        return "white space at the ends of a text"
    if one.role == "system":
        return "words of the system message that the format says itself"
    if one.role == "assistant" and format == "xlam" and not other.content:
        return "text beside a call" if one.tool_calls else "text of a turn without a call"
    raise Changed(f"a text of role {one.role} is another when it is read back")


def _as_json(calls: Sequence[ToolCall]) -> str:
    # As JSON text, since in Python True == 1 and 1 == 1.0.
    return json.dumps([[call.name, call.arguments] for call in calls], ensure_ascii=False, sort_keys=True)


def _ties(messages: Sequence[Message]) -> list[int | None]:
    """For each message, the place of the call that it answers among those of the turn before; None where it is none."""
    ties: list[int | None] = []
    order: dict[str | None, int] = {}
    for message in messages:
        if message.role == "tool":
            ties.append(order.get(message.tool_call_id))
            continue
        order = {call.id: n for n, call in enumerate(message.tool_calls)}
        ties.append(None)
    return ties
