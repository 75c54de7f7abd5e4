"""Finds where a call or a thought may begin in a turn that is still being written.

In: the text as it is generated, in any pieces. Out: its prose, as soon as no later text can make it a part of a call or
of a thought. `ProseScanner` stops at the first place that may begin one; the rest of the turn is read when it is whole
(`chat/parse.py`). It may stop too early, because some data looks like a call at first, but never too late.

Where calls may begin is known from the format itself: its tokens, the openings of its syntaxes, and what its own reader
reads of the calls that the formats write. Time is linear in the text.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from toolhone.chat.parse import parse_turn
from toolhone.formats import FORMATS
from toolhone.formats.chat_format import ChatFormat, RawCall
from toolhone.formats.foreign_syntax import TAGGED
from toolhone.formats.pieces import FENCE, THINK, THINK_END
from toolhone.records import FormatName

_MAX_UNDECIDED = 4096
"""After this many characters that may begin a call, the scanner waits for the whole turn. It bounds the time."""

_THOUGHT_TAGS = (THINK, THINK_END, "[THINK]", "[/THINK]")
_SPECIAL_TOKEN = r"<[|｜]|<\w+\|>"
_BEGUN_TOKEN = re.compile(r"<\w*\|?\Z")

# A regular expression of `TAGGED` up to its first part that is not plain text.
_PLAIN_OPENING = re.compile(r"(?:\(\?<!\S*?\)|\^\[ \\t\]\*|\\b)?((?:\\[^\w\s]|[^\\()\[\]{}*+?.|^$])++)(?![*+?{])")

_CALL_KEYS = ("id", "type", "name", "function", "arguments", "parameters")
"""The keys with which the object of a call may begin; see `call_json.CALL_START`."""

_HEADERS = ("assistant", "to=")
"""How the header of a message may begin in harmony, besides a special token."""


@dataclass(frozen=True, slots=True)
class _Openings:
    """How calls and thoughts may begin in a format.

    Attributes:
        marks: finds what may begin one.
        begun: every beginning of the texts that `marks` finds; a longer one may follow.
        python_lists: whether a list of Python calls is read, and not only JSON.
        only_first: whether calls without a marker are only read if no prose comes before them.
        has_headers: whether the turn may begin with the header of a message.
    """

    marks: re.Pattern[str]
    begun: frozenset[str]
    python_lists: bool
    only_first: bool
    has_headers: bool


class ProseScanner:
    """Gives the prose of a turn, until a call or a thought may begin. Then `is_open` is true.

    `undecided` is the text that was not given, white space at the end included.
    """

    def __init__(self, format: FormatName, tools: Collection[str], *, may_call: bool) -> None:
        """`tools` are the declared names. If the turn may not call, the text of a call is prose."""
        self._openings = _openings(format, may_call=may_call)
        self._tools = tuple(tools)
        self._at = 0  # in `undecided`: nothing before it begins a call
        self._in_fence = False
        self._is_first = True
        self.undecided = ""
        self.is_open = False

    @property
    def has_headers(self) -> bool:
        """Whether the turn may begin with the header of a message, so that a thought is one, too."""
        return self._openings.has_headers

    def feed(self, text: str) -> str:
        """Return the prose that is certain now."""
        self.undecided += text
        if self.is_open:
            return ""
        prose = self.undecided[: self._scan()].rstrip()
        self._at = max(0, self._at - len(prose))
        self.undecided = self.undecided[len(prose) :]
        self._is_first = self._is_first and not prose
        self.is_open = self.is_open or len(self.undecided) > _MAX_UNDECIDED
        return prose

    def _scan(self) -> int:
        """Return where the prose ends that is certain. Sets `_at` and `is_open`."""
        # The text before was prose that does not end with white space, so no line starts at 0.
        shift = 0 if self._is_first else 1
        text = "x" * shift + self.undecided
        if self._openings.has_headers and self._is_first:
            opening = text.lstrip()[: max(map(len, _HEADERS))]
            if any(header.startswith(opening) or opening.startswith(header) for header in _HEADERS):
                self.is_open = opening.startswith(_HEADERS)
                return 0
        at = self._at + shift
        while True:
            if self._in_fence:
                close = text.find(FENCE, at)
                if close < 0:
                    break
                self._in_fence, at = False, close + len(FENCE)
            mark = self._openings.marks.search(text, at)
            if mark is None:
                break
            found = self._judge(text, mark)
            if found in ("opens", "may open"):
                self.is_open = found == "opens"
                self._at = mark.start() - shift
                return mark.start() - shift
            self._in_fence = found == "fence"
            at = mark.end()
            if mark.lastgroup == "line":  # a tag may stand in the line
                at = mark.start("line") + (mark.start("line") == mark.start())
        end = len(text) - self._begun(text)
        self._at = max(0, min(at, end) - shift) if self._in_fence else end - shift
        return end - shift

    def _begun(self, text: str) -> int:
        """Return the length of the longest end of the text that may begin a mark."""
        token = _BEGUN_TOKEN.search(text, max(0, len(text) - 64))
        longest = len(token.group()) if token else 0
        for size in range(min(len(text), _longest(self._openings.begun)), longest, -1):
            if text[-size:] in self._openings.begun:
                return size
        return longest

    def _judge(self, text: str, mark: re.Match[str]) -> Literal["opens", "may open", "prose", "fence"]:
        """Return what a mark is, by the text after it."""
        kind = mark.lastgroup
        if kind == "line":
            return self._judge_line(text, mark)
        if kind is None or (self._openings.only_first and not self._is_first):
            return "opens" if kind is None else "prose"
        if kind == "fence":
            after = text[mark.end() : mark.end() + 256].lstrip()
            if not after:
                return "may open"
            judged = self._judge_json(after) if after[0] in "{[" else "prose"
            return "fence" if judged == "prose" else judged
        return self._judge_json(text[mark.start("bracket") : mark.start("bracket") + 256])

    def _judge_json(self, text: str) -> Literal["opens", "may open", "prose"]:
        """Return whether a text that begins with a bracket may be a call. Only its first key counts."""
        inner = text
        if text[0] == "[":
            inner = text[1:].lstrip()
            if inner and inner[0] != "{":
                is_name = inner[0].isalpha() or inner[0] == "_"
                return "opens" if is_name and self._openings.python_lists else "prose"
        key = inner[1:].lstrip()
        if not key:
            return "may open" if len(text) < 256 else "opens"
        name, closing, _ = key[1:].partition('"')
        if key[0] != '"':
            return "prose"
        if closing:
            return "opens" if name in _CALL_KEYS else "prose"
        return "may open" if any(each.startswith(name) for each in _CALL_KEYS) else "prose"

    def _judge_line(self, text: str, mark: re.Match[str]) -> Literal["opens", "may open", "prose"]:
        """Return whether a line may be the name of a call, with JSON under it."""
        line, is_whole = mark["line"].strip(), mark.end() < len(text)
        may_be_any = self._is_first and re.fullmatch(r"[\w.-]*", line) is not None
        if not is_whole:
            may_be = may_be_any or any(tool.startswith(line) for tool in self._tools)
            return "may open" if may_be else "prose"
        if not line or not (may_be_any or line in self._tools):
            return "prose"
        after = text[mark.end() :].lstrip()
        return "may open" if not after else "opens" if after[0] == "{" else "prose"


@functools.cache
def _openings(format: FormatName, *, may_call: bool) -> _Openings:
    chat_format = FORMATS[format]
    ends = {stop for each in FORMATS.values() for stop in each.stops}
    plain = {*_THOUGHT_TAGS, *ends}
    if may_call:
        plain |= {*chat_format.call_tokens, *_plain_openings(chat_format)}
    brackets, python_lists, only_first = (
        _without_marker(chat_format, frozenset(plain)) if may_call else ("", False, True)
    )
    patterns = [*map(re.escape, sorted(plain, key=len, reverse=True)), _SPECIAL_TOKEN]
    if square_or_curly := "".join(re.escape(each) for each in brackets if each != "`"):
        patterns.append(rf"^[ \t]*(?P<bracket>[{square_or_curly}])")
    if "`" in brackets:
        patterns.append(r"^[ \t]*(?P<fence>```)[\w+-]*(?![\w+-])")
    if may_call and chat_format.begins_with_name:
        patterns.append(r"^[ \t]*(?P<line>[^\n]*)")
    begun = {text[:size] for text in (*plain, *([FENCE] if "`" in brackets else [])) for size in range(1, len(text))}
    return _Openings(
        re.compile("|".join(patterns), re.MULTILINE),
        frozenset(begun),
        python_lists,
        only_first,
        has_headers="<|message|>" in chat_format.call_tokens,
    )


@functools.cache
def _longest(texts: frozenset[str]) -> int:
    return max(map(len, texts))


def _plain_openings(chat_format: ChatFormat) -> set[str]:
    """Return the plain texts with which the tagged syntaxes of a format begin."""
    found = (_PLAIN_OPENING.match(TAGGED[name]) for name in chat_format.syntaxes)
    texts = (re.sub(r"\\(.)", r"\1", match[1]).rstrip("[") for match in found if match)
    return {text for text in texts if len(text) > 1}


def _without_marker(chat_format: ChatFormat, markers: frozenset[str]) -> tuple[str, bool, bool]:
    """Return the characters with which a line of calls without a marker may begin, whether a list may have Python
    calls, and whether prose may not come first. The format's reader is tried on the calls that each format writes."""
    characters, python_lists, only_first = "", False, True
    for other in FORMATS.values():
        for prose in ("", "x"):
            text = other.write(prose, [RawCall("f", '{"a": "b"}')], "stop")
            calls = text.removeprefix(prose).lstrip()
            if calls[0] not in "{[`" or calls.startswith(tuple(markers)):
                continue
            if parse_turn(text, chat_format.name, tools=("f",)).status != "calls":
                continue
            characters += calls[0] if calls[0] not in characters else ""
            python_lists = python_lists or calls.startswith("[f")
            only_first = only_first and not prose
    return characters, python_lists, only_first
