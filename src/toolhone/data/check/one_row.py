"""Rules for one row: its turns, its calls and their tools, and `expected`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import takewhile

from toolhone.data.check.finding import Finding
from toolhone.data.check.schema import NO_TOOLS, ToolSet
from toolhone.formats import FORMATS
from toolhone.formats.foreign_syntax import call_syntax
from toolhone.formats.pieces import THINK, THINK_END
from toolhone.records import Conversation, Message, ToolCall
from toolhone.tool_schema import Path, without_paths, written_path

_TOKENS = dict.fromkeys(
    token for chat_format in FORMATS.values() for token in (*chat_format.special_tokens, *chat_format.other_stops)
)
_OF_OTHER_MODELS = r"<\|[^<>|\s]{1,40}\|>|<｜[^<>｜\s]{1,40}｜>|</?s>|\[/?INST\]"
_CONTROL_TOKEN = re.compile("|".join([*map(re.escape, _TOKENS), _OF_OTHER_MODELS]))
# Users, tools and tool definitions must not contain a format's tags either (`chat/control_tokens.py`).
_FROM_OUTSIDE = re.compile(rf"{_CONTROL_TOKEN.pattern}|</?tool_(?:call|response)>")

_FILL_TURN = "write its content, or delete the turn"
_FIX_NAME = "fix the name, or add the tool to tools"
_GIVE_TOOLS = 'give a list with --tools or data.tools; a row with "tools": [] takes none, so remove its key first'
_REMEDIES = {"unknown-tool": _FIX_NAME, "schema": "fix the arguments, or the tool's schema"}


def turn_faults(row: Conversation) -> Iterator[Finding]:
    """Errors in the turns of one conversation. Only the names of its tools matter."""
    where, before, learned = row.where, None, False
    tools = [tool.name for tool in row.tools]
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
            # A format that uses </tool_call> cannot read back a turn with only that tag.
            if content and (found := call_syntax(content, tools) or ("</tool_call>" in content and "</tool_call>")):
                text = f"message {number}: a call is in the text ({found}), not in tool_calls"
                yield Finding(where, "text-call", text, remedy="move the call from the text to tool_calls")
            if message.weight and (THINK_END in content or content.lstrip().startswith(THINK)):
                yield _thought_in_text(where, number, content)
        elif role == "system" and number:
            yield Finding(where, "role-order", f"message {number}: a system message must come first")
        before = role
    yield from tie_faults(row)
    if not learned:
        yield Finding(where, "no-assistant", "no assistant turn: there is nothing to learn from the row")


def tie_faults(row: Conversation) -> Iterator[Finding]:
    """Errors in the ids that link results to calls: repeated ids, unknown ids, and results without a call."""
    before = None
    for number, message in enumerate(row.messages):
        if len(message.tool_calls) > 1:
            yield from _parallel_faults(row, number, message)
        elif message.role == "tool" and before != "tool":
            yield from _result_faults(row, number)
        before = message.role


def turn_warnings(row: Conversation) -> Iterator[Finding]:
    """Warnings and advice on turns that can be read but are probably mistakes."""
    messages, seen = row.messages, set[str]()
    assistants = learned = False
    for number, message in enumerate(messages):
        if message.role == "assistant":
            assistants = True
            learned = learned or message.weight > 0
            if message.tool_calls:
                yield from _call_warnings(row, number, seen)
        elif message.role == "user" and not message.content.strip():
            yield Finding(row.where, "empty-turn", f"message {number}: an empty user message", "warning", _FILL_TURN)
    if assistants and not learned:
        text = "every assistant turn has weight 0: nothing is learned from the row"
        yield Finding(row.where, "nothing-learned", text, "warning", "give one turn weight 1, or delete the row")
    if assistants and messages[-1].role != "assistant":
        text = f"message {len(messages) - 1}: the row ends with a message of role {messages[-1].role}"
        remedy = "end the row at the last assistant turn; nothing after it is learned"
        yield Finding(row.where, "trailing-turn", text, "advice", remedy)


def control_tokens(row: Conversation) -> Iterator[Finding]:
    """Warnings on messages that contain control tokens of a chat format or of a tokenizer."""
    for number, message in enumerate(row.messages):
        text = f"{message.thinking} {message.content}" if message.thinking else message.content
        for call in message.tool_calls:
            text += f" {call.name} {call.arguments}"
        if "<" not in text and "[" not in text:
            continue
        found = (_FROM_OUTSIDE if message.role in ("user", "tool") else _CONTROL_TOKEN).search(text)
        if found:
            is_learned = message.role == "assistant" and message.weight > 0
            yield _control_token(row.where, f"message {number}", found.group(), is_learned=is_learned)


def control_tokens_in_tools(where: str, tools: ToolSet) -> Iterator[Finding]:
    """The same warnings on tools. Call it once for each set of tools."""
    for tool in tools.tools:
        if found := _FROM_OUTSIDE.search(f"{tool.name} {tool.description} {tool.parameters}"):
            yield _control_token(where, f'tool "{tool.name}"', found.group())


def _control_token(where: str, holder: str, token: str, *, is_learned: bool = False) -> Finding:
    remedy = "remove it if it does not belong there; models get it as plain text, never as the token"
    if is_learned:
        remedy = "remove it: a model that has this token cannot be trained on the turn"
    return Finding(where, "control-token", f"{holder}: the text contains the control token {token}", "warning", remedy)


def _thought_in_text(where: str, number: int, content: str) -> Finding:
    """The error for a thought in the text of a turn. The importers moved the thought at its start to the thinking."""
    text = f"message {number}: a {THINK} block in the text has no closing tag; the turn was cut off"
    remedy = f"write {THINK_END} and the answer, or delete the turn"
    if THINK_END in content:
        text = f"message {number}: a {THINK_END} tag in the text, after the start of the turn"
        remedy = "move the reasoning to reasoning_content, and remove the tags"
    return Finding(where, "text-thinking", text, remedy=remedy)


def _empty_turn(row: Conversation, number: int) -> Finding:
    text = f"message {number}: the assistant turn has no text and no call"
    is_last = all(message.role != "assistant" for message in row.messages[number + 1 :])
    if is_last and row.expected is not None and row.expected.status in ("none", "any"):
        # Benchmarks only state whether a call is expected: such a row can be scored, but not learned from.
        return Finding(row.where, "empty-turn", text, "warning", "write an answer, or use the row only for scoring")
    return Finding(row.where, "empty-turn", text, remedy=_FILL_TURN)


def _call_warnings(row: Conversation, number: int, seen: set[str]) -> Iterator[Finding]:
    """Warnings on one turn's calls and results. `seen` has the ids of earlier calls; this turn's ids are added."""
    messages, calls = row.messages, row.messages[number].tool_calls
    results = _results(messages, number) if number + 1 < len(messages) else []
    if number + len(results) + 1 < len(messages) and len(results) < len(calls):
        answered = {result.tool_call_id for result in results}
        open_ids = [f'"{call.id}"' for call in calls if call.id is not None and call.id not in answered]
        named = f" (none for {', '.join(open_ids)})" if open_ids and len(open_ids) < len(calls) else ""
        text = f"message {number}: {len(calls)} calls but {len(results)} results{named}, and the conversation continues"
        yield Finding(row.where, "unanswered-call", text, "warning", "add a tool message for every call")
    for call in calls:
        if call.id is None:
            if results:
                text = f"message {number}: a call without an id, but results follow"
                yield Finding(row.where, "missing-call-id", text, "warning", "give the call an id (--fix does)")
        elif call.id in seen:
            text = f'message {number}: the call id "{call.id}" is already used in an earlier turn'
            yield Finding(row.where, "duplicate-call-id", text, "warning", "give every call of a row its own id")
    for offset, result in enumerate(results, 1):
        if result.tool_call_id is None:
            text = f"message {number + offset}: a tool result without a tool_call_id"
            remedy = "set it to the id of the call that it answers (--fix does, if only one call is open)"
            yield Finding(row.where, "missing-call-id", text, "warning", remedy)
    seen.update([call.id for call in calls if call.id is not None])


def _parallel_faults(row: Conversation, number: int, message: Message) -> Iterator[Finding]:
    calls = message.tool_calls
    if not row.parallel_tool_calls:
        text = f"message {number}: {len(calls)} parallel calls, but parallel_tool_calls is false"
        yield Finding(row.where, "parallel-calls", text, remedy="split the turn, or set parallel_tool_calls to true")
    ids = [call.id for call in calls if call.id is not None]
    if len(set(ids)) < len(ids):
        twice = next(id for id in ids if ids.count(id) > 1)
        text = f'message {number}: two calls have the id "{twice}"'
        yield Finding(row.where, "duplicate-call-id", text, remedy="give each call its own id")


def _result_faults(row: Conversation, number: int) -> Iterator[Finding]:
    """Errors in the run of tool messages that starts at `number`."""
    calls = row.messages[number - 1].tool_calls if number else ()
    ids = [call.id for call in calls if call.id is not None]
    answered: set[str] = set()
    for offset, result in enumerate(_results(row.messages, number - 1)):
        at, id = number + offset, result.tool_call_id
        if not calls:
            yield Finding(row.where, "role-order", f"message {at}: a tool result without a call before it")
        elif id is not None and ids and id not in ids:
            text = f'message {at}: no call has the id "{id}"; the calls before have {", ".join(ids)}'
            yield Finding(row.where, "orphan-result", text, remedy="use the id of the call that the result answers")
        elif id is not None and id in answered:
            text = f'message {at}: the call "{id}" already has a result'
            yield Finding(row.where, "double-result", text, remedy="keep one result for each call")
        elif offset >= len(calls):
            text = f"message {at}: more results than calls ({len(calls)})"
            yield Finding(row.where, "orphan-result", text, remedy="keep one result for each call")
        if id is not None:
            answered.add(id)


def _results(messages: tuple[Message, ...], caller: int) -> list[Message]:
    """The run of tool messages after message `caller`."""
    return list(takewhile(lambda message: message.role == "tool", messages[caller + 1 :]))


def call_faults(row: Conversation, tools: ToolSet) -> Iterator[Finding]:
    """Errors in calls: unknown tools, arguments that violate the tool's schema, and nulls that a table filled in.
    Arguments that the tool does not list although its schema accepts them are advice."""
    for number, turn in enumerate(row.messages):
        for call in turn.tool_calls:
            known = tools.by_name.get(call.name)
            if known is not None and not known.lists_all(call.arguments):
                if nulls := known.filled_nulls(call.arguments):
                    yield _null_finding(row.where, f"message {number}", call.name, nulls, "remove them (--fix does)")
                    call = ToolCall(call.name, without_paths(call.arguments, nulls))
                if unlisted := known.unlisted_keys(call.arguments):
                    named = ", ".join(map(written_path, unlisted))
                    text = f'message {number}: arguments of "{call.name}" that the tool does not list: {named}'
                    remedy = "add them to the tool's schema, or remove them"
                    yield Finding(row.where, "unlisted-argument", text, "advice", remedy)
            if known is not None and known.accepts(call.arguments):
                continue
            for rule, text in tools.faults(call):
                remedy = _REMEDIES.get(rule, "") if tools.tools else _GIVE_TOOLS
                yield Finding(row.where, rule, f"message {number}: {text}", remedy=remedy)


def _null_finding(where: str, place: str, name: str, nulls: Sequence[Path], remedy: str) -> Finding:
    named = ", ".join(map(written_path, nulls))
    text = f'{place}: arguments of "{name}" have nulls that the tool does not accept ({named})'
    cause = "a table merged the arguments of several tools"
    return Finding(where, "null-arguments", f"{text}: {cause}", remedy=remedy)


def schema_faults(where: str, tools: ToolSet) -> Iterator[Finding]:
    """Errors in schemas that cannot be used. Call it once for each set of tools."""
    for tool in tools.by_name.values():
        if tool.unusable:
            remedy = "remove the nulls (--fix does)" if tool.unusable_rule == "null-filled-schema" else ""
            yield Finding(where, tool.unusable_rule, tool.unusable, remedy=remedy)


def expected_findings(row: Conversation, tools: ToolSet) -> Iterator[Finding]:
    """Contradictions between `expected` and the tools, or between `expected` and the turn whose gold it is."""
    gold = row.expected
    if gold is None:
        return
    for call in gold.calls:
        if call.name not in tools.by_name:
            text = f'expected: the tool "{call.name}" is not in tools, so no answer can be right'
            text, remedy = (text, _FIX_NAME) if tools.tools else (f"{text}; {NO_TOOLS}", _GIVE_TOOLS)
            yield Finding(row.where, "expected", text, remedy=remedy)
            return
        canonical = {name: accepted[0] for name, accepted in call.arguments.items() if name not in call.optional}
        if nulls := tools.by_name[call.name].filled_nulls(canonical):
            yield _null_finding(row.where, "expected", call.name, nulls, "remove them")
            canonical = without_paths(canonical, nulls)
        for _, text in tools.by_name[call.name].faults(canonical):
            yield Finding(row.where, "expected", f"expected: {text}", "warning", "fix the value or the schema")
    last = next((message for message in reversed(row.messages) if message.role == "assistant"), None)
    if last is None:
        return
    names = sorted(call.name for call in last.tool_calls)
    wanted = sorted(call.name for call in gold.calls)
    text = ""
    if gold.status == "none" and names:
        text = f"expected: no call, but the last assistant turn calls {', '.join(names)}"
    elif gold.status == "calls" and names != wanted:
        has = ", ".join(names) or "none"
        text = f"expected: calls of {', '.join(wanted)}, but the last assistant turn has {has}"
    if text:
        yield Finding(row.where, "expected", text, "warning", "fix the turn, or fix expected")
