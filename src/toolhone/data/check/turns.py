"""Rules for turns: their order, results that answer calls, and turns that say or teach nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator

from toolhone.data.check.finding import Finding
from toolhone.formats.call_json import call_in_prose
from toolhone.records import Conversation, Message

_CALL_MARK = re.compile(
    r"</?tool_call>|<\|python_tag\|>|<function=|<function_calls?>|<functioncall>|\[TOOL_CALLS\]|^Action Input:",
    re.MULTILINE,
)


def turn_faults(row: Conversation) -> Iterator[Finding]:
    """Errors in the turns of one conversation, whatever its tools."""
    where, before, learned = row.where, None, False
    for number, message in enumerate(row.messages):
        role = message.role
        if role == "assistant":
            learned = True
            if before is None or before == "system":
                yield Finding(where, "role-order", f"message {number}: an assistant turn with nothing to answer")
            elif before == "assistant":
                yield Finding(where, "role-order", f"message {number}: two assistant turns in a row; merge them")
            calls, content = message.tool_calls, message.content
            if not calls and not content.strip():
                yield _empty_turn(row, number)
            if len(calls) > 1:
                yield from _parallel_faults(row, number, message)
            if content and (found := call_in_text(content)):
                text = f"message {number}: a call is in the text ({found}), not in tool_calls"
                yield Finding(where, "text-call", text, remedy="write it as an entry of tool_calls, not as text")
        elif role == "tool":
            if before != "tool":
                yield from _result_faults(row, number)
        elif role == "system" and number:
            yield Finding(where, "role-order", f"message {number}: a system message must come first")
        before = role
    if not learned:
        yield Finding(where, "no-assistant", "no assistant turn: there is nothing to learn from the row")


def turn_warnings(row: Conversation) -> Iterator[Finding]:
    """What can be read, but is probably not meant."""
    messages, seen = row.messages, set[str]()
    assistants = learned = False
    for number, message in enumerate(messages):
        if message.role == "assistant":
            assistants = True
            learned = learned or message.weight > 0
            if message.tool_calls:
                yield from _call_warnings(row, number, seen)
        elif message.role == "user" and not message.content.strip():
            yield Finding(row.where, "empty-turn", f"message {number}: an empty user message", "warning", "write it")
    if assistants and not learned:
        text = "every assistant turn has weight 0: nothing is learned from the row"
        yield Finding(row.where, "nothing-learned", text, "warning", "give one turn weight 1, or take the row out")
    if assistants and messages[-1].role != "assistant":
        text = f"message {len(messages) - 1}: the row ends with a message of role {messages[-1].role}"
        remedy = "nothing is learned after the last assistant turn; end the row there"
        yield Finding(row.where, "trailing-turn", text, "advice", remedy)


def _empty_turn(row: Conversation, number: int) -> Finding:
    text = f"message {number}: the assistant neither calls nor says anything"
    is_last = all(message.role != "assistant" for message in row.messages[number + 1 :])
    if is_last and row.expected is not None and row.expected.status in ("none", "any"):
        # Benchmarks say whether a call is due, not what else to say: such a row can be scored, not learned from.
        return Finding(row.where, "empty-turn", text, "warning", "score the row; to learn from it, write an answer")
    return Finding(row.where, "empty-turn", text, remedy="write the answer, or take the turn out")


def _call_warnings(row: Conversation, number: int, seen: set[str]) -> Iterator[Finding]:
    """Warnings on one turn's calls and results. `seen` has the ids of earlier calls, and takes those of this turn."""
    messages, calls = row.messages, row.messages[number].tool_calls
    results = _results(messages, number) if number + 1 < len(messages) else []
    if number + len(results) + 1 < len(messages) and len(results) < len(calls):
        text = f"message {number}: {len(calls)} calls, {len(results)} results, and the conversation goes on"
        yield Finding(row.where, "unanswered-call", text, "warning", "add a tool message for every call")
    for call in calls:
        if call.id is None:
            if results:
                text = f"message {number}: a call without an id, though results follow"
                yield Finding(row.where, "missing-call-id", text, "warning", "give the call an id (--fix does)")
        elif call.id in seen:
            text = f'message {number}: the call id "{call.id}" is already in an earlier turn'
            yield Finding(row.where, "duplicate-call-id", text, "warning", "give every call of a row its own id")
    for offset, result in enumerate(results, 1):
        if result.tool_call_id is None:
            text = f"message {number + offset}: a tool result without a tool_call_id"
            remedy = "name the call that it answers (--fix does, if one call is open)"
            yield Finding(row.where, "missing-call-id", text, "warning", remedy)
    seen.update([call.id for call in calls if call.id is not None])


def _parallel_faults(row: Conversation, number: int, message: Message) -> Iterator[Finding]:
    calls = message.tool_calls
    if not row.parallel_tool_calls:
        text = f"message {number}: {len(calls)} calls at once, though parallel_tool_calls is false"
        yield Finding(row.where, "parallel-calls", text, remedy="split the turn, or allow parallel calls")
    ids = [call.id for call in calls if call.id is not None]
    if len(set(ids)) < len(ids):
        twice = next(id for id in ids if ids.count(id) > 1)
        text = f'message {number}: two calls have the id "{twice}"'
        yield Finding(row.where, "duplicate-call-id", text, remedy="give each call its own id")


def call_in_text(content: str) -> str:
    """What in a text is plainly a call, in any of the usual ways of writing one; "" if nothing is."""
    if ("<" in content or "[TOOL" in content or "Action Input:" in content) and (mark := _CALL_MARK.search(content)):
        return mark.group()
    if "{" in content and call_in_prose(content):
        return "JSON with a name and arguments"
    return ""


def _result_faults(row: Conversation, number: int) -> Iterator[Finding]:
    """Faults of the run of tool messages that starts at `number`."""
    calls = row.messages[number - 1].tool_calls if number else ()
    ids = [call.id for call in calls if call.id is not None]
    answered: set[str] = set()
    for offset, result in enumerate(_results(row.messages, number - 1)):
        at, id = number + offset, result.tool_call_id
        if not calls:
            yield Finding(row.where, "role-order", f"message {at}: a tool result without a call before it")
        elif id is not None and ids and id not in ids:
            yield Finding(row.where, "orphan-result", f'message {at}: no call has the id "{id}" ({", ".join(ids)})')
        elif id is not None and id in answered:
            text = f'message {at}: the call "{id}" has a result already'
            yield Finding(row.where, "double-result", text, remedy="leave one result for each call")
        elif offset >= len(calls):
            text = f"message {at}: more results than calls ({len(calls)})"
            yield Finding(row.where, "orphan-result", text, remedy="leave one result for each call")
        if id is not None:
            answered.add(id)


def _results(messages: tuple[Message, ...], caller: int) -> list[Message]:
    """The run of tool messages after message `caller`."""
    results = []
    for message in messages[caller + 1 :]:
        if message.role != "tool":
            break
        results.append(message)
    return results
