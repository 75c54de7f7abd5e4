"""Texts and punctuation of values in a grammar: strings with their quotes and escapes, words, brackets, any JSON.

In: a node of `grammar_rules.py` for the characters of a string. Out: the node of the string as JSON, Python or a format
with quotes of its own writes it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from toolhone.chat.grammar_rules import (
    ALL,
    ANY,
    EMPTY,
    NOTHING,
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
    is_nothing,
    minus,
    optional,
    repeat,
    seq,
    without,
)
from toolhone.chat.grammar_table import Rules
from toolhone.chat.grammar_texts import integer, number, pattern

SPACE = alt(optional(" "), seq("\n", repeat(chars(" \t"), 0, 20)))
"""White space between two signs. It is short, so that no answer is nothing but white space."""

WHITE = repeat(chars(" \t\n"), 0, 8)
"""White space between two parts of a syntax."""

_WHITE_RUN = re.compile(r"\s+")
_HEX = Chars(((48, 57), (65, 70), (97, 102)))
_BMP = alt(
    seq(chars("0123456789abcefABCEF"), repeat(_HEX, 3, 3)),
    seq(chars("dD"), chars("01234567"), repeat(_HEX, 2, 2)),
)
_PAIR = seq("u", chars("dD"), chars("89abAB"), _HEX, _HEX, "\\u", chars("dD"), chars("cdefCDEF"), _HEX, _HEX)


@dataclass(frozen=True, slots=True)
class Literals:
    """How values are written.

    Attributes:
        true, false, null: the words for these values.
        quotes: the quotes of strings.
        escapes: what may follow the backslash of an escape; NOTHING if strings have no escapes.
        escaped: characters that a string contains as escapes only, besides its quote, backslashes and control
            characters.
        refused: texts that no string contains as it is written.
        bare_key: a regular expression of keys, which have no quotes; "" if keys are strings.
    """

    true: tuple[str, ...]
    false: tuple[str, ...]
    null: tuple[str, ...]
    quotes: tuple[str, ...]
    escapes: Node
    escaped: str = ""
    refused: tuple[str, ...] = ()
    bare_key: str = ""


JSON = Literals(("true",), ("false",), ("null",), ('"',), alt(chars('"\\/bfnrt'), seq("u", _BMP), _PAIR))
PYTHON = Literals(
    ("True", "true"),
    ("False", "false"),
    ("None", "null"),
    ('"', "'"),
    alt(chars("\"'\\abfnrtv"), seq("u", _BMP), seq("x", _HEX, _HEX)),
)


def spaced(text: str, *, is_exact: bool) -> Node:
    """Return a text, with more, less or no white space where it has some, unless it is exact."""
    if is_exact:
        return seq(text)
    first, *others = _WHITE_RUN.split(text)
    return seq(first, *(seq(WHITE, part) for part in others))


def quoted(node: Node, literals: Literals) -> Node:
    """Return a string with these characters, in each kind of quotes."""
    is_any = node == ALL
    if literals.refused and not is_any and not (isinstance(node, Text) and not _has_any(node.text, literals.refused)):
        # Without the first character of each refused text, a string contains none of them.
        guards = "".join({text[0]: None for text in literals.refused})
        literals = replace(literals, escaped=literals.escaped + guards)
    found = []
    for quote in literals.quotes:
        inner = _escaped(node, quote, literals, is_free=True)
        if is_any and literals.refused:
            inner = minus(inner, seq(ALL, alt(*literals.refused), ALL))
        found.append(seq(quote, inner, quote))
    return alt(*found)


def _has_any(text: str, others: Iterable[str]) -> bool:
    return any(other in text for other in others)


def _escaped(node: Node, quote: str, literals: Literals, *, is_free: bool) -> Node:
    """Return the node with escapes. Only a free character may be written as an escape that it does not need: so two
    texts differ if their characters do, and can be subtracted."""
    has_escapes = not is_nothing(literals.escapes)
    needed = [ord(each) for each in literals.escaped]
    needed += [ord(quote), 92, *range(1, 32)] if has_escapes else []
    match node:
        case Chars(ranges):
            plain = without(node, ((code, code) for code in needed))
            if not has_escapes:
                return plain
            if node == ANY and is_free:
                return alt(plain, seq("\\", literals.escapes))
            escapes = [_escape(code, quote) for code in needed if any(low <= code <= high for low, high in ranges)]
            return alt(plain, *escapes)
        case Text(text):
            if not has_escapes:
                return NOTHING if any(ord(each) in needed for each in text) else node
            return Text("".join(_escape(ord(each), quote) if ord(each) in needed else each for each in text))
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
    written = json.dumps(chr(code))[1:-1]
    return written if len(written) > 1 else f"\\u{code:04x}"


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
        return self.rules.piece(quoted(node, self.literals), "string")

    def key(self, node: Node) -> Node:
        """Return a key of an object, with its colon."""
        key = quoted(node, self.literals)
        if self.literals.bare_key and (isinstance(node, Text) or node == EMPTY):
            text = node.text if isinstance(node, Text) else ""
            key = node if re.fullmatch(self.literals.bare_key, text) else NOTHING
        elif self.literals.bare_key:
            key = both(node, pattern(self.literals.bare_key, is_search=False))
        return self.rules.token(seq(key, SPACE, ":", SPACE), "key")

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
        texts = [Text(value) if value else EMPTY for value in found if isinstance(value, str)]
        words = [self._word(value) for value in found if not isinstance(value, str | list | dict)]
        inside = [self._inside(value) for value in found if isinstance(value, list | dict)]
        return alt(self._texts(texts), self.rules.token(alt(*words), "one"), *inside)

    def _texts(self, texts: Iterable[Node]) -> Node:
        """Return one of some strings."""
        own = self.literals
        if is_nothing(own.escapes):  # with one pair of quotes around all of them, which may be special tokens
            (quote,) = own.quotes
            fit = [text for text in texts if not (isinstance(text, Text) and _has_any(text.text, own.refused))]
            return self.rules.piece(seq(quote, alt(*fit), quote), "one") if fit else NOTHING
        return self.rules.token(alt(*(quoted(text, own) for text in texts)), "one")

    def _word(self, value: Any) -> Node:
        own = self.literals
        if value is None or isinstance(value, bool):
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
