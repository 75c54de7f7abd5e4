"""The grammar of calls like `call:f{text:<escape>x<escape>,count:2}`, which FunctionGemma and Gemma 4 write.

Strings stand between two quote tokens and have no escapes. Numbers, `true`, `false`, `null`, lists and objects are as
in JSON, except that keys have no quotes. What the grammar cannot carry is malformed, so that a row with it fails its
round trip: a string with one of the call's tokens, and a name or a key that is empty or has punctuation such as `:`,
`{` or `"`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from toolhone.formats.call_json import MAX_NESTING, CallSpans, Span, Undecodable, decode, short
from toolhone.formats.chat_format import RawCall
from toolhone.formats.foreign_syntax import openings
from toolhone.formats.pieces import Fault, PlacedCall
from toolhone.formats.repair import Repairer
from toolhone.records import ToolCall

NAME = re.compile(r"[^\s{}()\[\]<>:,\"'](?:[^\n{}()<>\"]*[^\s{}()<>\"])?")
KEY = re.compile(r"[^\s{}\[\]<>:,\"'](?:[^\n{}\[\]<>:,\"]*[^\s{}\[\]<>:,\"])?")
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*+)(?:\.\d++)?(?:[eE][+-]?\d++)?(?![\w.+-])", re.ASCII)
_WORD = re.compile(r"\w+")
_WORDS = {"true": True, "false": False, "null": None}
_PYTHON_WORDS = {"True": True, "False": False, "None": None}
_BEGUN_VALUE = re.compile(r"-?[\d.eE+-]*|t(?:r(?:ue?)?)?|f(?:a(?:l(?:se?)?)?)?|n(?:u(?:ll?)?)?")
_SPACE = re.compile(r"\s*")
_JSON_PART = re.compile(
    r'"((?:[^"\\]++|\\u[0-9a-fA-F]{4}|\\[^u])*+)(?:\\(?:u[0-9a-fA-F]{0,3})?\Z)?("?)|[{}\[\],:]|[^"\s{}\[\],:]++'
)


@dataclass(frozen=True)
class GemmaTokens:
    """The special tokens of a family: before and after a call, around a string, and around a thought ("" if it has
    none)."""

    syntax: str
    opening: str
    closing: str
    quote: str
    thought: str = ""
    thought_end: str = ""

    @property
    def call_tokens(self) -> tuple[str, ...]:
        tokens = (self.opening, self.closing, self.quote, self.thought, self.thought_end)
        return tuple(token for token in tokens if token)

    @cached_property
    def marks(self) -> re.Pattern[str]:
        """What the reader stops at in prose."""
        own = (self.opening, self.closing, self.thought, self.thought_end)
        return re.compile(f"</?think>|{_any_of(*own)}|{openings(self.syntax)}", re.MULTILINE)

    @cached_property
    def block_ends(self) -> re.Pattern[str]:
        return re.compile(_any_of(self.opening, self.closing))

    @cached_property
    def thought_ends(self) -> re.Pattern[str]:
        return re.compile(_any_of(self.opening, self.thought_end))


def _any_of(*tokens: str) -> str:
    return "|".join(re.escape(token) for token in tokens if token)


class UnreadableError(Exception):
    """Why a call cannot be read. `cut` is true if the text may only be cut off."""

    def __init__(self, reason: str, *, cut: bool = False) -> None:
        super().__init__(reason)
        self.cut = cut


class _CallReader:
    """Reads the text of one call, from `at` to `end`. `closed` is true if the closing token follows."""

    def __init__(self, text: str, at: int, end: int, quote: str, repairer: Repairer, *, closed: bool) -> None:
        self.text, self.at, self.end, self.quote, self.closed = text, at, end, quote, closed
        self.python_literals = "python_literals" in repairer.allowed
        self.repairs = 0

    def call(self) -> tuple[ToolCall, CallSpans]:
        """Return the call and its spans.

        Raises:
            UnreadableError: if it is not a call.
        """
        self._expect("call:")
        name = self._match(NAME)
        if name is None:
            raise self._fault("expected the name of a function")
        self._expect("{")
        values: dict[str, Span] = {}
        arguments = self._members(1, values)
        # The limits of JSON: the size of numbers, and halves of surrogate pairs.
        checked = decode(json.dumps({"name": name.group(), "arguments": arguments}), 0)
        if isinstance(checked, Undecodable) or checked.fault is not None:
            raise UnreadableError(checked.reason if isinstance(checked, Undecodable) else str(checked.fault))
        return ToolCall(name.group(), arguments), CallSpans(name.span(), values)

    def _members(self, depth: int, spans: dict[str, Span] | None = None) -> dict[str, Any]:
        """Return the object whose `{` was read. Adds the spans of its values."""
        found: dict[str, Any] = {}
        while not self._take("}"):
            if found:
                self._expect(",")
            key = self._key()
            self._expect(":")
            if key in found:
                raise UnreadableError(f'the key "{short(key)}" appears twice in one object')
            self._space()
            start = self.at
            found[key] = self._value(depth)
            if spans is not None:
                spans[key] = (start, self.at)
            self._space()
        return found

    def _key(self) -> str:
        self._space()
        if self.text.startswith(self.quote, self.at):
            quoted = self._string()
            if not KEY.fullmatch(quoted):
                raise UnreadableError("a key with punctuation")
            return quoted
        key = self._match(KEY)
        if key is None:
            raise self._fault("expected a key", self.quote)
        return key.group()

    def _value(self, depth: int) -> Any:
        if depth > MAX_NESTING:
            raise UnreadableError(f"values nested deeper than {MAX_NESTING} levels")
        if self.text.startswith(self.quote, self.at):
            return self._string()
        if self._take("{"):
            return self._members(depth + 1)
        if self._take("["):
            return self._items(depth + 1)
        if number := self._match(_NUMBER):
            return self._number(number.group())
        start = self.at
        word = self._match(_WORD)
        known = {**_WORDS, **_PYTHON_WORDS} if self.python_literals else _WORDS
        if word is None or word.group() not in known:
            self.at = start
            rest = self.text[start : self.end]
            begun = self.quote.startswith(rest) or _BEGUN_VALUE.fullmatch(rest) is not None
            raise UnreadableError("expected a value", cut=begun and not self.closed)
        self.repairs += word.group() in _PYTHON_WORDS
        return known[word.group()]

    def _items(self, depth: int) -> list[Any]:
        """Return the list whose `[` was read."""
        found: list[Any] = []
        self._space()
        while not self._take("]"):
            if found:
                self._expect(",")
            self._space()
            found.append(self._value(depth))
            self._space()
        return found

    def _string(self) -> str:
        """Return the string whose opening quote is next."""
        start = self.at + len(self.quote)
        close = self.text.find(self.quote, start, self.end)
        if close < 0:
            raise UnreadableError("a string that is not closed", cut=not self.closed)
        self.at = close + len(self.quote)
        return self.text[start:close]

    @staticmethod
    def _number(written: str) -> Any:
        found = decode(written, 0)
        if isinstance(found, Undecodable) or found.fault is not None:
            raise UnreadableError(found.reason if isinstance(found, Undecodable) else str(found.fault))
        return found.value

    def _match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        found = pattern.match(self.text, self.at, self.end)
        if found is not None:
            self.at = found.end()
        return found

    def _space(self) -> None:
        self._match(_SPACE)

    def _take(self, sign: str) -> bool:
        """Whether the sign is next; reads it if it is."""
        self._space()
        if not self.text.startswith(sign, self.at, self.end):
            return False
        self.at += len(sign)
        return True

    def _expect(self, sign: str) -> None:
        if not self._take(sign):
            raise self._fault(f"expected {sign}", sign)

    def _fault(self, reason: str, expected: str = "") -> UnreadableError:
        """Return the fault here. The text may only be cut off if just the start of the `expected` token is left."""
        rest = self.text[self.at : min(self.end, self.at + len(expected) + 1)]
        return UnreadableError(reason, cut=expected.startswith(rest) and not self.closed)


def read_gemma_call(text: str, start: int, tokens: GemmaTokens, repairer: Repairer) -> tuple[PlacedCall | Fault, int]:
    """Return the call whose opening token starts here, or its fault, and where the block ends: after its closing token,
    or before the next call if that comes first."""
    at = start + len(tokens.opening)
    stop = tokens.block_ends.search(text, at)
    end = len(text) if stop is None else stop.start()
    closed = stop is not None and stop.group() == tokens.closing
    block_end = end + len(tokens.closing) if closed else end
    reader = _CallReader(text, at, end, tokens.quote, repairer, closed=stop is not None)
    try:
        call, spans = reader.call()
    except UnreadableError as fault:
        return Fault(str(fault), "unfinished" if fault.cut else "broken"), block_end
    rest = text[reader.at : end].strip()
    if not closed or rest:
        cut = stop is None and tokens.closing.startswith(rest)
        return Fault(f"expected {tokens.closing} after the call", "unfinished" if cut else "broken"), block_end
    if reader.repairs:
        repairer.fired["python_literals"] += 1
    return PlacedCall(call, start, block_end, spans), block_end


def write_gemma_call(call: RawCall, tokens: GemmaTokens, *, may_be_cut: bool) -> str:
    """Return the text of a call. What the grammar cannot carry is written so that it cannot be read as a call.

    Args:
        may_be_cut: whether arguments that lack only their end are written without the call's end.
    """
    raw = call.arguments.strip() or "{}"  # some endpoints send an empty text if there are no arguments
    found = decode(raw, 0)
    opening = f"{tokens.opening}call:"
    if isinstance(found, Undecodable):
        if may_be_cut and found.cut and raw.startswith("{"):
            return opening + call.name + _cut_arguments(raw, tokens)
    elif (
        isinstance(found.value, dict)
        and found.end == len(raw)
        and NAME.fullmatch(call.name)
        and _fits(found.value, tokens)
    ):
        return opening + call.name + _written(found.value, tokens) + tokens.closing
    unread = json.dumps({"name": call.name, "arguments": call.arguments}, ensure_ascii=False).replace("<", "\\u003c")
    return opening + unread + tokens.closing


def _fits(value: Any, tokens: GemmaTokens) -> bool:
    """Whether a value can be written so that it is read back."""
    if isinstance(value, str):
        return not any(token in value for token in (tokens.quote, tokens.opening, tokens.closing))
    if isinstance(value, Mapping):
        return all(KEY.fullmatch(key) and _fits(item, tokens) for key, item in value.items())
    return not isinstance(value, list) or all(_fits(item, tokens) for item in value)


def _written(value: Any, tokens: GemmaTokens) -> str:
    if isinstance(value, str):
        return tokens.quote + value + tokens.quote
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_written(item, tokens)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_written(item, tokens) for item in value) + "]"
    return json.dumps(value)


def _cut_arguments(raw: str, tokens: GemmaTokens) -> str:
    """Write arguments whose JSON is cut off, up to the cut."""
    written: list[str] = []
    levels: list[str] = []
    for part in _JSON_PART.finditer(raw):
        sign = part.group()
        if sign in "{[":
            levels.append(sign)
        elif sign in "}]":
            levels.pop()
        elif part[1] is not None:
            text = json.loads(f'"{part[1]}"').encode(errors="ignore").decode()  # half of a pair may be cut off
            is_key = levels[-1] == "{" and written[-1] in "{,"
            sign = text if is_key else tokens.quote + text + (tokens.quote if part[2] else "")
        written.append(sign)
    return "".join(written)
