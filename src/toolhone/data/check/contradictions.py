"""Finds prompts that differ only in their values but whose turns decide differently: `track ORD-1` calls `query_order`,
`track ORD-2` calls `track_parcel`. At least one of the two is probably wrong.

Prompts are compared after masking. A code, number or date keeps its leading letters and becomes `ord-#`, because the
kind of a code may decide which tool is right. A text of several words or without digits that a call copied becomes a
slot. Results of tools keep their numbers, because an answer may depend on whether the stock is 0. Rewordings are not
compared: on the shipped rows, three in four near duplicates among prompts need different calls for a good reason.

A decision is the names of the calls and their arguments' names, or no call. The decision of most turns with the same
masked prompt is taken as right; of equally frequent ones, the first.
"""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, pairwise
from typing import Any

from toolhone.data.check.finding import Finding
from toolhone.data.values import leaves
from toolhone.records import Conversation, Message

_SLOT = "\u25af"
_CODE = re.compile(r"([a-z._,/@:+#-]*)\d[a-z0-9._,/@:+-]*")
_IS_CODE = re.compile(r"[^\s\d]*\d\S*")
_MASKED = re.compile(rf"[a-z._,/@:+#-]*#|{_SLOT}")
_LETTER = re.compile(r"[^\W\d_]")
_MIN_LETTERS = 6
"""A user message with a value and at least this many letters beside it is understood without the messages before it.
Chinese says little less with six characters than English with three words."""


class PromptPatterns:
    """The masked prompts so far, as hashes, with the decisions of their turns. About 25 bytes for each turn."""

    def __init__(self) -> None:
        self._prompts = array("q")
        self._decisions = array("L")
        self._places = array("L")
        self._numbers = array("L")
        self._known: dict[str, int] = {}  # decisions in words, with their numbers

    def add(self, row: Conversation, tools: Iterable[bytes], place: int) -> None:
        """Add the learned turns of a row. `tools` are the hashes of its tools, `place` identifies the row."""
        calls = [call for message in row.messages for call in message.tool_calls]
        values = {value for call in calls for value in _copied(call.arguments)}
        by_length = sorted(values, key=lambda value: (-len(value), value))
        masked = [_masked(message, by_length) for message in row.messages]
        frame = [hash(frozenset(tools)), *(text for text in masked if text.startswith("system"))]
        start, so_far = 0, 0  # the message with which the prompt starts, and a hash of the messages before it
        for number, message in enumerate(row.messages):
            if message.role == "user":
                so_far = 0 if _says_what_is_wanted(masked[number]) else hash((so_far, *masked[start:number]))
                start = number
            elif message.role == "assistant" and message.weight and number:
                self._prompts.append(hash((*frame, so_far, *masked[start:number])))
                self._decisions.append(self._known.setdefault(_decision(message), len(self._known)))
                self._places.append(place)
                self._numbers.append(number)

    def findings(self, places: Sequence[str]) -> Iterator[Finding]:
        """A finding for each turn that decides differently from most turns with its masked prompt, in the order of the
        rows."""
        words = list(self._known)
        found: list[tuple[int, int, int]] = []  # turn, a turn of the majority, how many it has
        for _, group in groupby(
            sorted(range(len(self._prompts)), key=self._prompts.__getitem__), self._prompts.__getitem__
        ):
            turns = list(group)
            counts = Counter(self._decisions[turn] for turn in turns)
            if len(counts) > 1:
                usual, count = counts.most_common(1)[0]
                example = next(turn for turn in turns if self._decisions[turn] == usual)
                found += [(turn, example, count) for turn in turns if self._decisions[turn] != usual]
        for turn, example, count in sorted(found):
            where, expected = places[self._places[example]], words[self._decisions[example]]
            others = f"{count:,} turns such as at {where} have" if count > 1 else f"the turn at {where} has"
            text = (
                f"message {self._numbers[turn]}: {words[self._decisions[turn]]}, but after the same words with other "
                f"values {others} {expected}"
            )
            remedy = "correct the wrong turn; if both are right, say in the messages what makes the difference"
            yield Finding(places[self._places[turn]], "contradiction", text, "warning", remedy)


def _decision(turn: Message) -> str:
    calls = sorted(f"{call.name}({', '.join(sorted(call.arguments))})" for call in turn.tool_calls)
    return ", ".join(calls) or "no call"


def _copied(arguments: dict[str, Any]) -> Iterator[str]:
    """The argument values that become a slot where a text contains them."""
    for _, value in leaves(arguments):
        text = " ".join(str(value).split()).casefold()
        if len(text) > 1 and not _IS_CODE.fullmatch(text):
            yield text


def _says_what_is_wanted(masked: str) -> bool:
    """Whether a user message has a value and enough words to be understood without the messages before it."""
    words, values = _MASKED.subn("", masked.removeprefix("user: "))
    return values > 0 and len(_LETTER.findall(words)) >= _MIN_LETTERS


def _masked(message: Message, values: Sequence[str]) -> str:
    text = " ".join(message.content.split()).casefold()
    for value in values:
        if value in text:
            text = _without(text, value)
    if message.role != "tool":
        text = _CODE.sub(r"\1#", text)
    return f"{message.role}: {text} {_decision(message) if message.tool_calls else ''}"


def _without(text: str, value: str) -> str:
    """The text with a slot for each occurrence of the value that is not a part of a longer word."""
    parts = text.split(value)
    kept = parts[0]
    for before, after in pairwise(parts):
        inside = _joined(before[-1:], value[0]) or _joined(value[-1], after[:1])
        kept += (value if inside else _SLOT) + after
    return kept


def _joined(left: str, right: str) -> bool:
    return left.isascii() and right.isascii() and left.isalnum() and right.isalnum()
