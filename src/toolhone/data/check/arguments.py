"""Rules for the arguments of calls: tools that are offered, schemas, `expected`, and values from nowhere.

A value that the conversation does not hold teaches a model to make values up. It counts as given if the messages before
the call hold it, in any case and spacing; a number also in words, English or Chinese; a text of several words if half
of them are there; a date if its day is there, or a word such as tomorrow. Values that the tool itself names (enum,
default, const, examples, its descriptions), truth values, nulls, 0 and 1 need no source. A text in letters of another
script than the conversation's may be a translation, and is accepted. These findings are warnings: likely, not sure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from typing import Any

from toolhone.data.check.finding import Finding
from toolhone.data.check.schema import ToolSet, Vocabulary, letters_and_digits
from toolhone.data.values import leaves, numbers_in
from toolhone.records import Conversation, Gold, Message

_REMEDIES = {
    "unknown-tool": "offer the tool, or fix the name",
    "schema": "fix the arguments, or the tool's schema",
}


def call_faults(row: Conversation, tools: ToolSet) -> Iterator[Finding]:
    """Unknown tools and arguments that break their tool's schema."""
    for number, turn in enumerate(row.messages):
        for call in turn.tool_calls:
            known = tools.by_name.get(call.name)
            if known is not None and known.accepts(call.arguments):
                continue
            for rule, text in tools.faults(call):
                yield Finding(row.where, rule, f"message {number}: {text}", remedy=_REMEDIES.get(rule, ""))


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
        for _, text in tools.by_name[call.name].faults(canonical):
            yield Finding(row.where, "expected", f"expected: {text}", "warning", "fix the value or the schema")
    last = next((message for message in reversed(row.messages) if message.role == "assistant"), None)
    if last is not None and (fault := _differs_from_turn(gold, last)):
        yield Finding(row.where, "expected", f"expected: {fault}", "warning", "fix the turn, or what is expected")


def _differs_from_turn(gold: Gold, turn: Message) -> str:
    names = sorted(call.name for call in turn.tool_calls)
    wanted = sorted(call.name for call in gold.calls)
    if gold.status == "none" and names:
        return f"no call, but the last assistant turn calls {', '.join(names)}"
    if gold.status == "calls" and names != wanted:
        return f"calls of {', '.join(wanted)}, but the last assistant turn has {', '.join(names) or 'none'}"
    return ""


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


def invented_values(row: Conversation, vocabulary: Vocabulary) -> Iterator[Finding]:
    """Values of arguments that nothing before the call holds."""
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
    def _numbers(self) -> set[float]:
        return numbers_in(self.text)

    def holds(self, value: str | int | float) -> bool:
        if isinstance(value, str):
            return value in self.text or self._holds_text(value)
        return str(value) in self.text or self._holds_number(float(value))

    def _holds_text(self, value: str) -> bool:
        bare = letters_and_digits(value)
        if bare in self._letters:  # a value without any letter or digit is, too
            return True
        digits = [float(found) for found in _DIGITS.findall(value)]
        if _DATE.fullmatch(value.strip()):
            return bool(_WHEN.search(self.text)) or any(map(self._holds_number, digits[-3:]))
        words = _WORD.findall(value.casefold())
        if len(words) > 1 and " " in value.strip():
            found = sum(word in self._letters for word in words)
            return found >= _SHARE * len(words) or _initials(words) in self._letters
        if not digits:
            return self._is_of_another_script(value) or self._looks_abbreviated(bare)
        # A code: "order 204" gives "ORD-204", but nothing gives "ORD-771".
        return all(map(self._holds_number, digits[:8]))

    def _holds_number(self, value: float) -> bool:
        # 5% is 0.05, and 5 million is written with six zeros fewer.
        return any(round(abs(value) * unit, 6) in self._numbers for unit in (1, 100, 1e-3, 1e-4, 1e-6, 1e-8, 1e-9))

    def _is_of_another_script(self, value: str) -> bool:
        if _HAN.search(value):
            return bool(_LATIN.search(self.text))
        return bool(_HAN.search(self.text))

    def _looks_abbreviated(self, bare: str) -> bool:
        """NYC of New York City: the letters begin the words of the text, one after the other."""
        return 1 < len(bare) <= 5 and bare in _initials(_WORD.findall(self.text.casefold()))


def _initials(words: list[str]) -> str:
    return "".join(word[0] for word in words)


def _shown(value: Any) -> str:
    text = f'"{value}"' if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:57] + '..."'
