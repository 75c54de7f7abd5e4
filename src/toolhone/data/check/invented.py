"""Argument values that the conversation does not hold: a model that is taught them learns to make values up.

In: a conversation and its tools. Out: warnings, for what is likely and not for what is sure. A value counts as given
where the messages before the call hold it, however spaced or capitalised; a number also in words, English or Chinese; a
text of several words where half of them stand there; a date where its day does, or a word such as tomorrow. Values that
the tool itself names (enum, default, const, examples, its descriptions), truth values, nulls, 0 and 1 need no source.
A text in letters of another script than the conversation's may be a translation, and is left alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from toolhone.data.check.finding import Finding
from toolhone.data.check.numbers import numbers_in
from toolhone.records import Conversation, Tool

_NOT_WORD = re.compile(r"[\W_]+")
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


class Vocabulary:
    """What the tools themselves name: `values` of their schemas, and the `words` of their descriptions."""

    __slots__ = ("values", "words")

    def __init__(self, tools: tuple[Tool, ...]) -> None:
        self.values: set[str] = set()
        texts: list[str] = []
        for tool in tools:
            texts += [tool.description]
            for key, value in _keywords(tool.parameters):
                if key in ("enum", "default", "const", "examples", "example"):
                    self.values.update(_flat(value))
                elif isinstance(value, str):
                    texts.append(value)
        self.words = squeezed("\n".join(texts))

    def names(self, value: Any) -> bool:
        return (str(value) in self.values) or (isinstance(value, str) and squeezed(value) in self.words)


def squeezed(text: str) -> str:
    """Letters and digits alone, in one case."""
    return _NOT_WORD.sub("", text).casefold()


def invented_values(row: Conversation, vocabulary: Vocabulary) -> Iterator[Finding]:
    """Values of arguments that nothing before the call holds."""
    for number, turn in enumerate(row.messages):
        if not turn.tool_calls:
            continue
        text = "\n".join([message.content for message in row.messages[:number]])
        source: _Source | None = None
        for call in turn.tool_calls:
            for path, value in _doubtful(call.arguments, text):
                source = source or _Source(text)
                if source.holds(value) or vocabulary.names(value):
                    continue
                told = f'argument {path} of "{call.name}" is {_shown(value)}, which no message before it holds'
                remedy = "let the user or a tool result say it, or leave the argument out"
                yield Finding(row.where, "invented", f"message {number}: {told}", "warning", remedy)


def _doubtful(arguments: dict[str, Any], text: str) -> Iterator[tuple[str, Any]]:
    """The values that do not stand in the text as they are, with their paths. Nearly all do."""
    for name, value in arguments.items():
        if type(value) is str:
            if value not in text and value.strip():
                yield name, value
        elif value is not None and type(value) is not bool:
            yield from _leaves(value, name)


class _Source:
    """What stands before a call: as it is, squeezed, and its numbers, each made when it is first asked for."""

    __slots__ = ("_numbers", "_squeezed", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self._squeezed: str | None = None
        self._numbers: set[float] | None = None

    def holds(self, value: Any) -> bool:
        if isinstance(value, str):
            return value in self.text or self._holds_text(value)
        return str(value) in self.text or self._holds_number(float(value))

    def _holds_text(self, value: str) -> bool:
        if self._squeezed is None:
            self._squeezed = squeezed(self.text)
        bare = squeezed(value)
        if bare in self._squeezed:  # so is a value without any letter or digit
            return True
        if _DATE.fullmatch(value.strip()):
            return bool(_WHEN.search(self.text)) or self._holds_day(value)
        words = _WORD.findall(value.casefold())
        if len(words) > 1 and " " in value.strip():
            found = sum(word in self._squeezed for word in words)
            return found >= _SHARE * len(words) or _initials(words) in self._squeezed
        if not _DIGITS.search(value):
            return self._is_of_another_script(value) or self._looks_abbreviated(bare)
        # A code: "order 204" gives "ORD-204", but nothing gives "ORD-771".
        return all(self._holds_number(float(digits)) for digits in _DIGITS.findall(value)[:8])

    def _holds_day(self, value: str) -> bool:
        return any(self._holds_number(float(digits)) for digits in _DIGITS.findall(value)[-3:])

    def _holds_number(self, value: float) -> bool:
        if self._numbers is None:
            self._numbers = numbers_in(self.text)
        value = abs(value)
        # 5% is 0.05, and 5 million is written with six noughts fewer.
        return any(round(value * unit, 6) in self._numbers for unit in (1, 100, 1e-3, 1e-4, 1e-6, 1e-8, 1e-9))

    def _is_of_another_script(self, value: str) -> bool:
        if _HAN.search(value):
            return bool(_LATIN.search(self.text))
        return bool(_HAN.search(self.text))

    def _looks_abbreviated(self, bare: str) -> bool:
        """NYC of New York City: the letters begin the words of the text, one after the other."""
        return 1 < len(bare) <= 5 and bare in _initials(_WORD.findall(self.text.casefold()))


def _initials(words: list[str]) -> str:
    return "".join(word[0] for word in words)


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """The texts and numbers inside arguments that need a source, with their paths."""
    if isinstance(value, str):
        if value.strip():
            yield path, value
    elif isinstance(value, dict):
        for name, entry in value.items():
            yield from _leaves(entry, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for n, entry in enumerate(value):
            yield from _leaves(entry, f"{path}[{n}]")
    elif isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300 and value not in (0, 1):
        yield path, value


def _keywords(schema: Any) -> Iterator[tuple[str, Any]]:
    """Keywords with their values, at any depth; a property's name counts as one, which does no harm."""
    stack = [schema]
    while stack:
        found = stack.pop()
        if isinstance(found, dict):
            for key, value in found.items():
                yield key, value
                stack.append(value)
        elif isinstance(found, list):
            stack.extend(found)


def _flat(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for entry in value:
            yield from _flat(entry)
    elif isinstance(value, dict):
        for entry in value.values():
            yield from _flat(entry)
    elif value is not None:
        yield str(value)


def _shown(value: Any) -> str:
    text = f'"{value}"' if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:57] + '..."'
