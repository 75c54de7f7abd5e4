"""Reads calls as Python writes them: `f(a=1, b="x")`, with literals as arguments. Nothing is evaluated.

In: a text, an index in it and the style of a format. Out: the calls with the spans of their names and values, or why
they cannot be read. Literals are strings, numbers, lists, dicts with strings as keys, and True, False, None or their
JSON spellings. Everything else that Python would accept is a fault: positional arguments, `**`, tuples, sets, string
prefixes, expressions. Time is linear in the text.

A style also refuses what the parsers of serving engines cannot read: they use Python's own parser, so no argument can
be named `order-id`. A row that needs such a name fails its round trip, and the failure names it.
"""

from __future__ import annotations

import keyword
import re
import unicodedata
from dataclasses import dataclass
from math import isinf
from string import ascii_letters
from typing import Any

from toolhone.formats.call_json import MAX_NESTING, SURROGATE, CallSpans, Span, short
from toolhone.formats.pieces import Fault, Piece, PlacedCall
from toolhone.records import ToolCall

_MAX_DEPTH = MAX_NESTING - 2  # in JSON, the call and its arguments are two levels more
_MAX_BITS = 14_000  # Python writes integers of at most 4,300 digits

SPACE = r"[ \t\r\n\f]*+"
NAME = r"[^\W\d][\w.-]*+"
"""The name of a function, also one that Python does not accept."""
ARGUMENT_NAME = r"[^\s=(){}\[\],\"']++"

_SPACE = re.compile(SPACE)
_NAME = re.compile(NAME)
_ARGUMENT = re.compile(rf"({ARGUMENT_NAME}){SPACE}=(?!=)")
_BEGUN_ARGUMENT = re.compile(rf"(?:{ARGUMENT_NAME})?{SPACE}\Z")
_NUMBER = re.compile(r"[+-]?(?:[0-9]|\.[0-9])(?:[0-9A-Za-z_.]|(?<=[eE])[+-])*+")
_FLOAT = re.compile(r"\A[+-]?[0-9_]*+[.eE]")
_WORD = re.compile(r"[^\W\d]\w*+")
_WORDS = {"True": True, "true": True, "False": False, "false": False, "None": None, "null": None}
_BEGUN_WORDS = {word[:end] for word in _WORDS for end in range(1, len(word))}
_SIGN = re.compile(r"[+-]?\.?\Z")

_STRINGS = {quote: re.compile(rf"{quote}((?:[^{quote}\\\r\n]++|\\(?:\r\n|[\s\S]))*+)({quote})?") for quote in "'\""}
_LINES = {quote: re.compile(rf"{quote}((?:[^{quote}\\]++|\\[\s\S])*+)({quote})?") for quote in "'\""}
_LONG = {
    quote * 3: re.compile(rf"{quote * 3}((?:[^{quote}\\]++|\\[\s\S]|{quote}(?!{quote * 2}))*+)({quote * 3})?")
    for quote in "'\""
}
_ESCAPE = re.compile(
    r"\\(\r\n|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|N\{[^{}]*\}|[0-7]{1,3}|[\s\S])",
)
_ESCAPED = {
    "n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "a": "\a", "v": "\v", "\\": "\\", "'": "'", '"': '"',
    "\n": "", "\r": "", "\r\n": "",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class PythonCallStyle:
    """What the calls of a format may contain. The limits are those of the engines' parsers.

    Attributes:
        dotted: whether the name of a function may have dots.
        ascii_first: whether each name must begin with an ASCII letter.
        keyword_arguments: whether an argument may have the name of a Python keyword, such as `from`.
        control_characters: whether strings in one pair of quotes may contain line breaks and NUL.
        refused: what no string may contain as it is written. It may contain its escapes.
    """

    dotted: bool = False
    ascii_first: bool = True
    keyword_arguments: bool = False
    control_characters: bool = False
    refused: re.Pattern[str] | None = None

    def name_fault(self, name: str, *, is_argument: bool) -> str | None:
        """Return why an argument or a function cannot have this name; None if it can."""
        what = f'{"an argument" if is_argument else "a function"} named "{short(name)}"'
        parts = [name] if is_argument else name.split(".")
        if len(parts) > 1 and not self.dotted:
            return f"{what}: the parsers of serving engines take no dot here"
        for part in parts:
            if not part.isidentifier():
                return f"{what}, which is not a name in Python"
            if keyword.iskeyword(part) and not (is_argument and self.keyword_arguments):
                return f"{what}, which is a keyword of Python"
            if unicodedata.normalize("NFKC", part) != part:
                return f"{what}, which Python changes to {unicodedata.normalize('NFKC', part)}"
        if self.ascii_first and name[0] not in ascii_letters:
            return f"{what}: the parsers of serving engines need an ASCII letter first"
        return None


def read_python_call(text: str, start: int, style: PythonCallStyle) -> tuple[PlacedCall | Fault, int]:
    """Return the call that starts here, or its fault, and where it ends. Never raises."""
    reader = _CallReader(text, start, style)
    try:
        return reader.call(), reader.at
    except _UnreadableError as fault:
        return Fault(fault.reason, "unfinished" if fault.cut else "broken"), len(text) if fault.cut else reader.at


def read_python_calls(
    text: str, start: int, style: PythonCallStyle, *, separator: re.Pattern[str], closing: str
) -> tuple[list[Piece], int]:
    """Return the calls from here to `closing`, and where it ends. They are read one by one, so that a broken call does
    not hide the others. If there is a fault, it is the last piece."""
    at = skip_python_space(text, start)
    if text.startswith(closing, at):
        return [Fault("expected at least one call")], at + len(closing)
    pieces: list[Piece] = []
    while True:
        piece, at = read_python_call(text, at, style)
        pieces.append(piece)
        if isinstance(piece, Fault):
            return pieces, at
        end = skip_python_space(text, at)
        if text.startswith(closing, end):
            return pieces, end + len(closing)
        if between := separator.match(text, at):
            at = skip_python_space(text, between.end())
        elif closing.startswith(text[end : end + len(closing)]):  # the text ends here
            return [*pieces, Fault(f"expected {closing} after the calls", "unfinished")], len(text)
        else:
            return [*pieces, Fault(f"expected {closing} or another call")], end


def skip_python_space(text: str, at: int) -> int:
    """Return the index of the first character at or after `at` that Python does not skip between two tokens."""
    found = _SPACE.match(text, at)
    return found.end() if found else at


class _UnreadableError(Exception):
    """Why a call cannot be read. `cut` is true if the text may only be cut off."""

    def __init__(self, reason: str, *, cut: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.cut = cut


class _CallReader:
    """Reads one call. `at` is the index of the next character."""

    def __init__(self, text: str, at: int, style: PythonCallStyle) -> None:
        self.text, self.at, self.style = text, at, style

    def call(self) -> PlacedCall:
        """Return the call that starts here.

        Raises:
            _UnreadableError: if it is not a call.
        """
        start = self.at
        name = _NAME.match(self.text, start)
        if name is None:
            raise self._expected("the name of a function")
        self.at = name.end()
        if not self._take("("):
            raise self._expected(f"( after {short(name.group())}")
        if fault := self.style.name_fault(name.group(), is_argument=False):
            raise _UnreadableError(fault)
        arguments: dict[str, Any] = {}
        spans: dict[str, Span] = {}
        while not self._take(")"):
            if arguments and not self._take(","):
                raise self._expected(", or ) after an argument")
            if arguments and self._take(")"):
                break
            argument = self._argument_name()
            if argument in arguments:
                raise _UnreadableError(f'the argument "{short(argument)}" appears twice')
            first = self.at
            arguments[argument] = self._value(0)
            spans[argument] = (first, self.at)
        return PlacedCall(ToolCall(name.group(), arguments), start, self.at, CallSpans(name.span(), spans))

    def _argument_name(self) -> str:
        """Return the name of the argument that starts here, and go to its value."""
        self._skip_space()
        found = _ARGUMENT.match(self.text, self.at)
        if found is None:
            cut = _BEGUN_ARGUMENT.match(self.text, self.at) is not None
            raise _UnreadableError("expected each argument as name=value", cut=cut)
        if fault := self.style.name_fault(found[1], is_argument=True):
            raise _UnreadableError(fault)
        self.at = found.end()
        self._skip_space()
        return found[1]

    def _value(self, depth: int) -> Any:
        """Return the literal that starts here."""
        first = self.text[self.at : self.at + 1]
        if first in ("'", '"'):
            return self._string(first)
        if first in ("[", "{"):
            if depth == _MAX_DEPTH:
                raise _UnreadableError(f"values nested deeper than {_MAX_DEPTH} levels")
            self.at += 1
            return self._list(depth + 1) if first == "[" else self._dict(depth + 1)
        if number := _NUMBER.match(self.text, self.at):
            return self._number(number)
        word = _WORD.match(self.text, self.at)
        if word and word.group() in _WORDS:
            self.at = word.end()
            return _WORDS[word.group()]
        rest = self.text[self.at : self.at + 6]
        cut = _SIGN.match(self.text, self.at) is not None or rest in _BEGUN_WORDS
        raise _UnreadableError(f'expected a literal, found "{short(rest)}"', cut=cut)

    def _list(self, depth: int) -> list[Any]:
        """Return the list whose [ was read."""
        items: list[Any] = []
        while not self._take("]"):
            if items and not self._take(","):
                raise self._expected(", or ] in a list")
            if items and self._take("]"):
                break
            self._skip_space()
            items.append(self._value(depth))
        return items

    def _dict(self, depth: int) -> dict[str, Any]:
        """Return the dict whose { was read."""
        items: dict[str, Any] = {}
        while not self._take("}"):
            if items and not self._take(","):
                raise self._expected(", or } in a dict")
            if items and self._take("}"):
                break
            self._skip_space()
            quote = self.text[self.at : self.at + 1]
            if quote not in ("'", '"') or not quote:
                raise self._expected("a string as the key of a dict")
            key = self._string(quote)
            if key in items:
                raise _UnreadableError(f'the key "{short(key)}" appears twice in one dict')
            if not self._take(":"):
                raise self._expected(": after the key of a dict")
            self._skip_space()
            items[key] = self._value(depth)
        return items

    def _number(self, found: re.Match[str]) -> int | float:
        written, self.at = found.group(), found.end()
        value: int | float
        try:
            # Without this test, 07 would be a float. Python refuses it.
            value = float(written) if _FLOAT.search(written) else int(written, 0)
        except ValueError:
            raise _UnreadableError(f"not a number: {short(written)}", cut=self.at == len(self.text)) from None
        if isinstance(value, float) and isinf(value):
            raise _UnreadableError("a number that is too large for a float")
        if isinstance(value, int) and value.bit_length() > _MAX_BITS:
            raise _UnreadableError("a number with too many digits")
        return value

    def _string(self, quote: str) -> str:
        """Return the string that starts here with this quote."""
        is_long = self.text.startswith(quote * 3, self.at)
        patterns = _LONG if is_long else _LINES if self.style.control_characters else _STRINGS
        found = patterns[quote * 3 if is_long else quote].match(self.text, self.at)
        if found is None:
            raise self._expected("a string")
        raw, self.at = found[1], found.end()
        if found[2] is None:
            cut = self.text[self.at :] in ("", "\\")
            raise _UnreadableError("a string that is not closed in its line", cut=cut)
        if self.style.refused and (refused := self.style.refused.search(raw)):
            raise _UnreadableError(f"a string that contains {refused.group()!r} without an escape")
        if "\0" in raw and not self.style.control_characters:
            raise _UnreadableError("a string that contains NUL without an escape")
        if is_long:
            raw = raw.replace("\r\n", "\n").replace("\r", "\n")  # as Python reads line breaks
        value = _ESCAPE.sub(_unescaped, raw) if "\\" in raw else raw
        if not value.isascii() and SURROGATE.search(value):
            raise _UnreadableError("half of a surrogate pair, which is not a character")
        return value

    def _skip_space(self) -> None:
        self.at = skip_python_space(self.text, self.at)

    def _take(self, sign: str) -> bool:
        """Whether the sign is next; reads it if it is."""
        at = skip_python_space(self.text, self.at)
        if not self.text.startswith(sign, at):
            return False
        self.at = at + len(sign)
        return True

    def _expected(self, what: str) -> _UnreadableError:
        """Return the fault of a text without `what` here. It may be cut off if it ends here."""
        self._skip_space()
        return _UnreadableError(f"expected {what}", cut=self.at == len(self.text))


def _unescaped(escape: re.Match[str]) -> str:
    """Return the character of an escape. Python keeps the backslash of an unknown escape."""
    code = escape[1]
    if code in _ESCAPED:
        return _ESCAPED[code]
    if code[0] in "01234567":
        return chr(int(code, 8))
    if code[0] not in "xuUN":
        return escape[0]
    try:
        return unicodedata.lookup(code[2:-1]) if code[0] == "N" else chr(int(code[1:], 16))
    except (KeyError, ValueError, OverflowError):
        raise _UnreadableError(f"a broken escape: {short(escape[0])}") from None
