"""Finds argument values that no earlier message contains.

A value that is not in the conversation teaches a model to invent values. The messages before the call must contain it,
in any case and spacing. A number may also be in words, English or Chinese. Of a string of several words, half must be
there. Of a date, the day must be there, or a word such as tomorrow. Values that the tool itself names (enum, default,
const, examples, descriptions), booleans, nulls, 0 and 1 need no source. A string in another script than the
conversation may be a translation, and is accepted. The rule can be wrong, so these findings are only warnings.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from typing import Any

from toolhone.data.check.finding import Finding
from toolhone.data.check.schema import Vocabulary
from toolhone.data.values import leaves, letters_and_digits, numbers_in
from toolhone.records import Conversation

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
_MIN_SHARE_OF_WORDS = 0.5
_LONG = 6
"""A number with this many digits is an id, a code or a telephone number."""
_SEPARATOR = re.compile(r"(?<=[^\W_])[\s._-]+(?=\d)")
_COUNTRY_CODE = re.compile(r"(?:\+|\b00)\d{1,3}$")
_LARGEST_SCALED = 10**15
"""Up to this number a float holds every integer, so a scaled number can be compared. Larger numbers are ids."""


def invented_values(row: Conversation, vocabulary: Vocabulary) -> Iterator[Finding]:
    """Warnings on argument values that no message before the call contains."""
    for number, turn in enumerate(row.messages):
        if not turn.tool_calls:
            continue
        source = _Source("\n".join([message.content for message in row.messages[:number]]))
        for call in turn.tool_calls:
            for path, value in _values_to_find(call.arguments, source.text):
                if source.holds(value) or vocabulary.names(value):
                    continue
                text = f'argument {path} of "{call.name}" is {_shown(value)}, which no earlier message contains'
                remedy = "add the value to a user message or a tool result, or remove the argument"
                yield Finding(row.where, "invented", f"message {number}: {text}", "warning", remedy)


def _values_to_find(arguments: dict[str, Any], text: str) -> Iterator[tuple[str, Any]]:
    """The values that need a source, with their paths. Strings that `text` contains, as most do, are skipped."""
    for name, value in arguments.items():
        if type(value) is str and _has(text, value):
            continue
        for path, leaf in leaves(value, name):
            if leaf.strip() if isinstance(leaf, str) else abs(leaf) < 1e300 and leaf not in (0, 1):
                yield path, leaf


class _Source:
    """The text before a call. Its letters and numbers are extracted when they are first needed."""

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def _letters(self) -> str:
        return letters_and_digits(self.text)

    @cached_property
    def _joined_numbers(self) -> str:
        """The text without what separates the groups of one number, such as 2512 2920 4212."""
        return _SEPARATOR.sub("", self.text.casefold())

    @cached_property
    def _numbers(self) -> set[int | float]:
        return numbers_in(self.text)

    def holds(self, value: str | int | float) -> bool:
        if isinstance(value, str):
            return _has(self.text, value) or self._holds_text(value)
        return _has(self.text, str(value)) or self._holds_number(value)

    def _holds_text(self, value: str) -> bool:
        bare = letters_and_digits(value)
        if bare in self._letters and (not _is_long_number(bare) or _has(self._joined_numbers, bare)):
            return True  # also for a value without letters and digits
        digits = [int(found) for found in _DIGITS.findall(value) if len(found) < 300]
        if _DATE.fullmatch(value.strip()):
            return bool(_WHEN.search(self.text)) or any(map(self._holds_number, digits[-3:]))
        words = _WORD.findall(value.casefold())
        if len(words) > 1 and " " in value.strip():
            found = sum(word in self._letters for word in words)
            return found >= _MIN_SHARE_OF_WORDS * len(words) or _initials(words) in self._letters
        if not digits:
            other_script = _LATIN if _HAN.search(value) else _HAN
            # It may be a translation, or the initials of consecutive words, such as NYC for New York City.
            words = _WORD.findall(self.text.casefold()) if 1 < len(bare) <= 5 else []
            return bool(other_script.search(self.text)) or bare in _initials(words)
        # A code: "order 204" is a source of "ORD-204", but not of "ORD-771".
        return all(map(self._holds_number, digits[:8]))

    def _holds_number(self, value: int | float) -> bool:
        # Python compares integers exactly, however many digits an id has.
        if abs(value) in self._numbers:
            return True
        if abs(value) >= _LARGEST_SCALED:
            return False
        # 5% is 0.05, and 5 million is written with six zeros fewer.
        return any(round(abs(value) * unit, 6) in self._numbers for unit in (1, 100, 1e-3, 1e-4, 1e-6, 1e-8, 1e-9))


def _is_long_number(value: str) -> bool:
    return len(value) >= _LONG and (value[-1].isdigit() or value[0].isdigit()) and sum(map(str.isdigit, value)) >= _LONG


def _has(text: str, value: str) -> bool:
    """Whether the text contains the value. A long number must be there with all of its digits: an id that lost one
    belongs to another thing. A country code may precede it."""
    if not value:
        return True
    at = text.find(value)
    while at >= 0:
        end = at + len(value)
        goes_on = text[end : end + 1].isdigit() and value[-1].isdigit()
        if not goes_on and text[at - 1 : at].isdigit() and value[0].isdigit():
            goes_on = not _COUNTRY_CODE.search(text[max(at - 6, 0) : at])
        if not goes_on or not _is_long_number(value):
            return True
        at = text.find(value, at + 1)
    return False


def _initials(words: list[str]) -> str:
    return "".join(word[0] for word in words)


def _shown(value: Any) -> str:
    text = f'"{value}"' if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:57] + '..."'
