"""Rules for one row: its turns, its calls and their tools, `expected`, and argument values from nowhere.

A value that the conversation does not hold teaches a model to make values up. It counts as given if the messages before
the call hold it, in any case and spacing; a number also in words, English or Chinese; a text of several words if half
of them are there; a date if its day is there, or a word such as tomorrow. Values that the tool itself names (enum,
default, const, examples, its descriptions), truth values, nulls, 0 and 1 need no source. A text in letters of another
script than the conversation's may be a translation, and is accepted. These findings are warnings: likely, not sure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import takewhile
from typing import Any

from toolhone.data.check.finding import Finding
from toolhone.data.check.schema import ToolSet, Vocabulary
from toolhone.data.values import leaves, letters_and_digits, numbers_in
from toolhone.formats import FORMATS
from toolhone.formats.foreign_syntax import call_syntax
from toolhone.records import Conversation, Message, ToolCall
from toolhone.tool_schema import Path, without_paths, written_path

_TOKENS = dict.fromkeys(token for chat_format in FORMATS.values() for token in chat_format.control_tokens)
_OF_OTHER_MODELS = r"<\|[^<>|\s]{1,40}\|>|<｜[^<>｜\s]{1,40}｜>|</?s>|\[/?INST\]"
_CONTROL_TOKEN = re.compile("|".join([*map(re.escape, _TOKENS), _OF_OTHER_MODELS]))
# What comes from outside may not hold a format's tags either (`chat/control_tokens.py`).
_FROM_OUTSIDE = re.compile(rf"{_CONTROL_TOKEN.pattern}|</?tool_(?:call|response)>")


def turn_faults(row: Conversation) -> Iterator[Finding]:
    """Errors in the turns of one conversation. Of its tools only the names play a part."""
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
            # The end of a call alone cannot be read back in a format that has it.
            if content and (found := call_syntax(content, tools) or ("</tool_call>" in content and "</tool_call>")):
                text = f"message {number}: a call is in the text ({found}), not in tool_calls"
                yield Finding(where, "text-call", text, remedy="write it as an entry of tool_calls, not as text")
        elif role == "system" and number:
            yield Finding(where, "role-order", f"message {number}: a system message must come first")
        before = role
    yield from tie_faults(row)
    if not learned:
        yield Finding(where, "no-assistant", "no assistant turn: there is nothing to learn from the row")


def tie_faults(row: Conversation) -> Iterator[Finding]:
    """Errors in the ids that tie results to calls: repeated, unknown, or of a result without a call."""
    before = None
    for number, message in enumerate(row.messages):
        if len(message.tool_calls) > 1:
            yield from _parallel_faults(row, number, message)
        elif message.role == "tool" and before != "tool":
            yield from _result_faults(row, number)
        before = message.role


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


def control_tokens(row: Conversation) -> Iterator[Finding]:
    """Messages that hold the control tokens of a chat format, or of a model's tokenizer."""
    for number, message in enumerate(row.messages):
        text = message.content
        for call in message.tool_calls:
            text += f" {call.name} {call.arguments}"
        if "<" not in text and "[" not in text:
            continue
        found = (_FROM_OUTSIDE if message.role in ("user", "tool") else _CONTROL_TOKEN).search(text)
        if found:
            is_learned = message.role == "assistant" and message.weight > 0
            yield _control_token(row.where, f"message {number}", found.group(), is_learned=is_learned)


def control_tokens_in_tools(where: str, tools: ToolSet) -> Iterator[Finding]:
    """The same for tools; to be called once for each set of tools."""
    for tool in tools.tools:
        if found := _FROM_OUTSIDE.search(f"{tool.name} {tool.description} {tool.parameters}"):
            yield _control_token(where, f'tool "{tool.name}"', found.group())


def _control_token(where: str, holder: str, token: str, *, is_learned: bool = False) -> Finding:
    remedy = "take it out if it does not belong there; models get it as plain text, never as the token"
    if is_learned:
        remedy = "take it out: a model whose token it is cannot be trained on the turn"
    return Finding(where, "control-token", f"{holder}: the text holds the control token {token}", "warning", remedy)


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
        answered = {result.tool_call_id for result in results}
        open_ids = [f'"{call.id}"' for call in calls if call.id is not None and call.id not in answered]
        named = f" (none for {', '.join(open_ids)})" if open_ids and len(open_ids) < len(calls) else ""
        text = f"message {number}: {len(calls)} calls, {len(results)} results{named}, and the conversation goes on"
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
    return list(takewhile(lambda message: message.role == "tool", messages[caller + 1 :]))


_REMEDIES = {"unknown-tool": "offer the tool, or fix the name", "schema": "fix the arguments, or the tool's schema"}


def call_faults(row: Conversation, tools: ToolSet) -> Iterator[Finding]:
    """Unknown tools, arguments that break their tool's schema, nulls that a table filled in, and, as advice, arguments
    that the tool does not list although its schema accepts them."""
    for number, turn in enumerate(row.messages):
        for call in turn.tool_calls:
            known = tools.by_name.get(call.name)
            if known is not None and not known.lists_all(call.arguments):
                if nulls := known.filled_nulls(call.arguments):
                    yield _null_finding(row.where, f"message {number}", call.name, nulls, "leave them out (--fix does)")
                    call = ToolCall(call.name, without_paths(call.arguments, nulls))
                if unlisted := known.unlisted_keys(call.arguments):
                    named = ", ".join(map(written_path, unlisted))
                    text = f'message {number}: arguments of "{call.name}" that the tool does not list: {named}'
                    remedy = "add them to the tool, or leave them out"
                    yield Finding(row.where, "unlisted-argument", text, "advice", remedy)
            if known is not None and known.accepts(call.arguments):
                continue
            for rule, text in tools.faults(call):
                yield Finding(row.where, rule, f"message {number}: {text}", remedy=_REMEDIES.get(rule, ""))


def _null_finding(where: str, place: str, name: str, nulls: Sequence[Path], remedy: str) -> Finding:
    named = ", ".join(map(written_path, nulls))
    text = f'{place}: arguments of "{name}" hold nulls that the tool does not take ({named})'
    cause = "a table has merged the arguments of several tools"
    return Finding(where, "null-arguments", f"{text}: {cause}", remedy=remedy)


def schema_faults(where: str, tools: ToolSet) -> Iterator[Finding]:
    """Unusable schemas; to be called once for each set of tools."""
    for tool in tools.by_name.values():
        if tool.unusable:
            remedy = "--fix takes the nulls out" if tool.unusable_rule == "null-filled-schema" else ""
            yield Finding(where, tool.unusable_rule, tool.unusable, remedy=remedy)


def expected_findings(row: Conversation, tools: ToolSet) -> Iterator[Finding]:
    """Contradictions of `expected` with the tools, and with the turn that it is the gold of."""
    gold = row.expected
    if gold is None:
        return
    for call in gold.calls:
        if call.name not in tools.by_name:
            text = f'expected: the call "{call.name}" is not in tools, so that no answer can be right'
            yield Finding(row.where, "expected", text, remedy="offer the tool, or fix the name")
            return
        canonical = {name: accepted[0] for name, accepted in call.arguments.items() if name not in call.optional}
        if nulls := tools.by_name[call.name].filled_nulls(canonical):
            yield _null_finding(row.where, "expected", call.name, nulls, "leave them out")
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
        yield Finding(row.where, "expected", text, "warning", "fix the turn, or what is expected")


# Values from nowhere

_WORD = re.compile(r"[^\W_]+")
_DIGITS = re.compile(r"\d+")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}(?:[T ].*)?|\d{1,2}:\d{2}(?::\d{2})?(?:\s*[ap]m)?", re.IGNORECASE)
_WHEN = re.compile(
    r"today|tomorrow|tonight|yesterday|week|month|year|next|now|noon|midnight|morning|evening|afternoon|\b(?:mon|tues?|"
    r"wed(?:nes)?|thu(?:rs)?|fri|sat(?:ur)?|sun)(?:day)?\b|o'clock|今|明|后天|昨|周|星期|月|现在|点|早|晚|午",
    re.IGNORECASE,
)
_HAN = re.compile(r"[\u3400-\u9fff\u3040-\u30ff\uac00-\ud7af]")
_LATIN = re.compile(r"[A-Za-z]")
_SHARE = 0.5
_LARGEST_SCALED = 10**15
"""Below it a float holds every whole number, so a scaled one can be compared. Larger ones are ids."""


def invented_values(row: Conversation, vocabulary: Vocabulary) -> Iterator[Finding]:
    """Values of arguments that no message before the call contains."""
    for number, turn in enumerate(row.messages):
        if not turn.tool_calls:
            continue
        source = _Source("\n".join([message.content for message in row.messages[:number]]))
        for call in turn.tool_calls:
            for path, value in _doubtful(call.arguments, source.text):
                if source.holds(value) or vocabulary.names(value):
                    continue
                text = f'argument {path} of "{call.name}" is {_shown(value)}, which no message before it holds'
                remedy = "let the user or a tool result say it, or leave the argument out"
                yield Finding(row.where, "invented", f"message {number}: {text}", "warning", remedy)


def _doubtful(arguments: dict[str, Any], text: str) -> Iterator[tuple[str, Any]]:
    """The values that need a source, with their paths, except texts that are in `text` as they are: nearly all are."""
    for name, value in arguments.items():
        if type(value) is str and value in text:
            continue
        for path, leaf in leaves(value, name):
            if leaf.strip() if isinstance(leaf, str) else abs(leaf) < 1e300 and leaf not in (0, 1):
                yield path, leaf


class _Source:
    """The text before a call. Its letters and its numbers are read when they are first needed."""

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def _letters(self) -> str:
        return letters_and_digits(self.text)

    @cached_property
    def _numbers(self) -> set[int | float]:
        return numbers_in(self.text)

    def holds(self, value: str | int | float) -> bool:
        if isinstance(value, str):
            return value in self.text or self._holds_text(value)
        return str(value) in self.text or self._holds_number(value)

    def _holds_text(self, value: str) -> bool:
        bare = letters_and_digits(value)
        if bare in self._letters:  # a value without any letter or digit is, too
            return True
        digits = [int(found) for found in _DIGITS.findall(value) if len(found) < 300]
        if _DATE.fullmatch(value.strip()):
            return bool(_WHEN.search(self.text)) or any(map(self._holds_number, digits[-3:]))
        words = _WORD.findall(value.casefold())
        if len(words) > 1 and " " in value.strip():
            found = sum(word in self._letters for word in words)
            return found >= _SHARE * len(words) or _initials(words) in self._letters
        if not digits:
            other_script = _LATIN if _HAN.search(value) else _HAN
            # Perhaps a translation, or NYC of New York City: its letters begin words of the text, one after the other.
            words = _WORD.findall(self.text.casefold()) if 1 < len(bare) <= 5 else []
            return bool(other_script.search(self.text)) or bare in _initials(words)
        # A code: "order 204" gives "ORD-204", but nothing gives "ORD-771".
        return all(map(self._holds_number, digits[:8]))

    def _holds_number(self, value: int | float) -> bool:
        # Python compares a whole number with another exactly, however many digits an id has.
        if abs(value) in self._numbers:
            return True
        if abs(value) >= _LARGEST_SCALED:
            return False
        # 5% is 0.05, and 5 million is written with six zeros fewer.
        return any(round(abs(value) * unit, 6) in self._numbers for unit in (1, 100, 1e-3, 1e-4, 1e-6, 1e-8, 1e-9))


def _initials(words: list[str]) -> str:
    return "".join(word[0] for word in words)


def _shown(value: Any) -> str:
    text = f'"{value}"' if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:57] + '..."'
