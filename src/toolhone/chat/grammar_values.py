"""Texts and punctuation of values in a grammar: strings with their quotes and escapes, words, brackets, any JSON.

In: a node of `grammar_rules.py` for the characters of a string. Out: the node of the string as JSON or Python writes
it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from toolhone.chat.grammar_rules import (
    ALL,
    ANY,
    EMPTY,
    Alt,
    Both,
    Chars,
    Minus,
    Node,
    Repeat,
    Seq,
    Text,
    alt,
    both,
    chars,
    minus,
    optional,
    repeat,
    seq,
    without,
)
from toolhone.chat.grammar_texts import integer, number
from toolhone.chat.grammar_writing import Rules

SPACE = alt(optional(" "), seq("\n", repeat(chars(" \t"), 0, 20)))
"""White space between two signs. It is short, so that no answer is nothing but white space."""

_HEX = Chars(((48, 57), (65, 70), (97, 102)))
_BMP = alt(
    seq(chars("0123456789abcefABCEF"), repeat(_HEX, 3, 3)),
    seq(chars("dD"), chars("01234567"), repeat(_HEX, 2, 2)),
)
_PAIR = seq("u", chars("dD"), chars("89abAB"), _HEX, _HEX, "\\u", chars("dD"), chars("cdefCDEF"), _HEX, _HEX)


@dataclass(frozen=True, slots=True)
class Literals:
    """How values are written: the words for true, false and null, the quotes of strings, and what may follow the
    backslash of an escape."""

    true: tuple[str, ...]
    false: tuple[str, ...]
    null: tuple[str, ...]
    quotes: str
    escapes: Node


JSON = Literals(("true",), ("false",), ("null",), '"', alt(chars('"\\/bfnrt'), seq("u", _BMP), _PAIR))
PYTHON = Literals(
    ("True", "true"),
    ("False", "false"),
    ("None", "null"),
    "\"'",
    alt(chars("\"'\\abfnrtv"), seq("u", _BMP), seq("x", _HEX, _HEX)),
)


def quoted(node: Node, literals: Literals) -> Node:
    """Return a string with these characters, in each kind of quotes."""
    return alt(*(seq(quote, _escaped(node, quote, literals, is_free=True), quote) for quote in literals.quotes))


def _escaped(node: Node, quote: str, literals: Literals, *, is_free: bool) -> Node:
    """Return the node with escapes. Only a free character may be written as an escape that it does not need: so two
    texts differ if their characters do, and can be subtracted."""
    match node:
        case Chars(ranges):
            needed = [ord(quote), 92, *range(1, 32)]
            plain = without(node, ((code, code) for code in needed))
            if node == ANY and is_free:
                return alt(plain, seq("\\", literals.escapes))
            escapes = [_escape(code, quote) for code in needed if any(low <= code <= high for low, high in ranges)]
            return alt(plain, *escapes)
        case Text(text):
            special = {quote, "\\"}
            return Text("".join(_escape(ord(c), quote) if c in special or ord(c) < 32 else c for c in text))
        case Seq(parts):
            return seq(*(_escaped(part, quote, literals, is_free=is_free) for part in parts))
        case Alt(parts):
            return alt(*(_escaped(part, quote, literals, is_free=is_free) for part in parts))
        case Repeat(part, least, most):
            return repeat(_escaped(part, quote, literals, is_free=is_free), least, most)
        case Both(first, second):
            return both(*(_escaped(part, quote, literals, is_free=False) for part in (first, second)))
        case Minus(first, second):
            return minus(*(_escaped(part, quote, literals, is_free=False) for part in (first, second)))
    raise TypeError(node)


def _escape(code: int, quote: str) -> str:
    if chr(code) in (quote, "\\"):
        return "\\" + chr(code)
    return json.dumps(chr(code))[1:-1]


class ValueRules:
    """The rules of punctuation and of values without a schema, made on first use."""

    def __init__(self, rules: Rules, literals: Literals) -> None:
        self.rules, self.literals = rules, literals
        self._any: Node | None = None

    def sign(self, text: str) -> Node:
        """Return a sign with white space around it, except after the end of a list or an object."""
        if text in "[{":
            return self.rules.token(seq(text, SPACE), "open")
        if text in "]}":
            return self.rules.token(seq(SPACE, text), "close")
        return self.rules.token(seq(SPACE, text, SPACE), "sign")

    def words(self, *values: bool | None) -> Node:
        """Return the words for some of true, false and null."""
        own = self.literals
        found = {True: own.true, False: own.false, None: own.null}
        return self.rules.token(alt(*(word for value in values for word in found[value])), "word")

    def string(self, node: Node = ALL) -> Node:
        return self.rules.token(quoted(node, self.literals), "string")

    def key(self, node: Node) -> Node:
        """Return a key of an object, with its colon."""
        return self.rules.token(seq(quoted(node, self.literals), SPACE, ":", SPACE), "key")

    def any(self) -> Node:
        """Return any value."""
        if self._any is None:
            self._any = ref = self.rules.open("any")
            numbers = self.rules.token(alt(integer(None, None), number(None, None)), "number")
            self.rules.close(
                ref,
                alt(self.string(), numbers, self.words(True, False, None), self.any_object(), self.listed(ref)),
            )
        return self._any

    def any_object(self) -> Node:
        entry = seq(self.key(ALL), self.any())
        entries = seq(entry, repeat(seq(self.sign(","), entry)))
        return self.rules.rule(seq(self.sign("{"), optional(entries), self.sign("}")), "object")

    def listed(self, item: Node) -> Node:
        return seq(self.sign("["), optional(seq(item, repeat(seq(self.sign(","), item)))), self.sign("]"))

    def values(self, values: Iterable[Any]) -> Node:
        """Return one of some values."""
        found = list(values)
        plain = [value for value in found if not isinstance(value, list | dict)]
        texts = [self._scalar(value) for value in plain]
        inside = [self._inside(value) for value in found if isinstance(value, list | dict)]
        return alt(self.rules.token(alt(*texts), "one"), *inside)

    def _scalar(self, value: Any) -> Node:
        if isinstance(value, str):
            return quoted(Text(value) if value else EMPTY, self.literals)
        if value is None or isinstance(value, bool):
            own = self.literals
            return alt(*(own.null if value is None else own.true if value else own.false))
        return Text(json.dumps(value))

    def _inside(self, value: Any) -> Node:
        if isinstance(value, list):
            parts = [self.values([item]) for item in value]
        elif isinstance(value, dict):
            parts = [seq(self.key(Text(key) if key else EMPTY), self.values([item])) for key, item in value.items()]
        first, *others = parts or [EMPTY]
        inner = seq(first, *(seq(self.sign(","), each) for each in others))
        opening, closing = "[]" if isinstance(value, list) else "{}"
        return seq(self.sign(opening), inner, self.sign(closing))
