"""Texts of a grammar: numbers between two bounds, the texts that a regular expression finds, and dates.

In: bounds, or a regular expression as in JSON Schema. Out: a node of `grammar_rules.py` for the number as JSON writes
it, or for the text itself, without quotes and escapes.
"""

from __future__ import annotations

import math
import re
import re._constants as sre  # type: ignore[import-not-found]
import re._parser as sre_parser  # type: ignore[import-not-found]
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

from toolhone.chat.grammar_rules import (
    ALL,
    ANY,
    DIGIT,
    EMPTY,
    NOTHING,
    Alt,
    Chars,
    Node,
    Repeat,
    Seq,
    Text,
    alt,
    both,
    chars,
    optional,
    repeat,
    seq,
    union,
    without,
)

_MAX_COPIES = 1_000
MAX_DIGITS = 30
"""Maximum digits of a number without bounds."""
_MAX_FRACTION = 17
"""Maximum digits after the point below an excluded bound. More of them would round up to it."""

_ONE_TO_NINE = Chars(((49, 57),))
_WORD = union(DIGIT, Chars(((65, 90), (95, 95), (97, 122))))
_SPACE = chars(" \t\n\r\f\v")
_ASCII = Chars(((1, 127),))
_UNSURE = Chars(((28, 31), (128, 0x10FFFF)))
"""Characters that Python and ECMAScript put into different classes, such as spaces, digits and letters of Unicode."""


class UnsupportedPatternError(ValueError):
    """A regular expression with something that no grammar has."""


# Numbers


def integer(least: int | None, most: int | None) -> Node:
    """Return the integers between two bounds, in decimal."""
    if least is not None and most is not None and least > most:
        return NOTHING
    positive = _natural(max(0, least or 0), most) if most is None or most >= 0 else NOTHING
    negative: Node = NOTHING
    if least is None or least < 0:
        negative = seq("-", _natural(max(1, -most if most is not None else 1), None if least is None else -least))
    return alt(positive, negative)


def _natural(least: int, most: int | None) -> Node:
    """Return the integers from 0 on between two bounds."""
    if most is None or len(str(most)) > MAX_DIGITS:
        size = len(str(least))
        if size > MAX_DIGITS:
            return NOTHING
        longer = seq(_ONE_TO_NINE, repeat(DIGIT, size, MAX_DIGITS - 1))
        return alt(_natural(least, 10**size - 1), longer)
    if least > most:
        return NOTHING
    found = []
    for size in range(len(str(least)), len(str(most)) + 1):
        low, high = max(least, 10 ** (size - 1) if size > 1 else 0), min(most, 10**size - 1)
        found.append(_same_length(str(low), str(high)))
    return alt(*found)


def _same_length(low: str, high: str) -> Node:
    """Return the numbers between two with equally many digits."""
    if not low:
        return EMPTY
    size = len(low) - 1
    if low[0] == high[0]:
        return seq(low[0], _same_length(low[1:], high[1:]))
    first, last = int(low[0]), int(high[0])
    found = []
    if low[1:] != "0" * size:
        found.append(seq(low[0], _same_length(low[1:], "9" * size)))
        first += 1
    if high[1:] != "9" * size:
        found.append(seq(high[0], _same_length("0" * size, high[1:])))
        last -= 1
    if first <= last:
        found.append(seq(Chars(((48 + first, 48 + last),)), repeat(DIGIT, size, size)))
    return alt(*found)


def number(least: Decimal | None, most: Decimal | None, *, above: bool = False, below: bool = False) -> Node:
    """Return the numbers between two bounds as JSON writes them. `above` and `below`: the bound itself is excluded."""
    tiny = seq(_ONE_TO_NINE, _fraction(0, MAX_DIGITS), chars("eE"), "-")
    if least is None and most is None:
        exponent = alt(repeat(DIGIT, 1, 2), seq(chars("12"), DIGIT, DIGIT))
        large = seq(_ONE_TO_NINE, _fraction(0, MAX_DIGITS), chars("eE"), optional("+"), exponent)
        plain = seq(_natural(0, None), _fraction(0, MAX_DIGITS))
        return seq(optional("-"), alt(plain, large, seq(tiny, repeat(DIGIT, 1, 3))))
    found = [
        _decimal(
            max(least or Decimal(0), Decimal(0)), most, above=above and least is not None and least >= 0, below=below
        )
    ]
    negated = None if least is None else -least
    below_zero = max(-most, Decimal(0)) if most is not None else Decimal(0)
    is_excluded = below and most is not None and most <= 0
    found.append(seq("-", _decimal(below_zero, negated, above=is_excluded or below_zero == 0, below=above)))
    # Numbers closer to zero than 0.0001 have an exponent.
    exponent = alt(seq(optional("0"), Chars(((53, 57),))), seq(_ONE_TO_NINE, DIGIT), seq(chars("12"), DIGIT, DIGIT))
    small = Decimal("0.0001")
    if (least is None or least <= 0) and (most is None or most >= small):
        found.append(seq(tiny, exponent))
    if (most is None or most >= 0) and (least is None or least <= -small):
        found.append(seq("-", tiny, exponent))
    return alt(*found)


def _fraction(least: int, most: int) -> Node:
    return optional(seq(".", repeat(DIGIT, max(1, least), most)))


def _decimal(least: Decimal, most: Decimal | None, *, above: bool, below: bool) -> Node:
    """Return the numbers between two bounds that are not negative, without an exponent."""
    if most is not None and (most < least or most < 0):
        return NOTHING
    low, after_low = int(least), _digits_after_point(least)
    if most is None:
        room = _MAX_FRACTION if above else MAX_DIGITS
        return alt(
            seq(str(low), _at_least(after_low, room, above)), seq(_natural(low + 1, None), _fraction(1, MAX_DIGITS))
        )
    high, after_high = int(most), _digits_after_point(most)
    room = _MAX_FRACTION if above or below else MAX_DIGITS
    from_low, to_high = _at_least(after_low, room, above), _at_most(after_high, room, below)
    if low == high:
        return seq(str(low), both(from_low, to_high))
    return alt(seq(str(low), from_low), seq(_natural(low + 1, high - 1), _fraction(1, room)), seq(str(high), to_high))


def _digits_after_point(value: Decimal) -> str:
    return format(value, "f").partition(".")[2].rstrip("0")


def _at_least(digits: str, room: int, excluded: bool) -> Node:
    """Return the fractions of at least 0.`digits`, with their point."""
    room = max(room, len(digits) + 1)
    if not digits:
        zeros = repeat(Text("0"), 0, room - 1)
        more = seq(".", zeros, _ONE_TO_NINE, repeat(DIGIT, 0, room))
        return more if excluded else _fraction(1, room)
    found = [
        seq(digits[:at], Chars(((ord(each) + 1, 57),)), repeat(DIGIT, 0, room - at))
        for at, each in enumerate(digits)
        if each != "9"
    ]
    rest = room - len(digits)
    more = seq(repeat(Text("0"), 0, rest), _ONE_TO_NINE, repeat(DIGIT, 0, rest))
    return seq(".", alt(*found, seq(digits, more if excluded else repeat(DIGIT, 0, rest))))


def _at_most(digits: str, room: int, excluded: bool) -> Node:
    """Return the fractions of at most 0.`digits`, with their point; also none."""
    room = max(room, len(digits) + 1)
    zeros = repeat(Text("0"), 0, room - len(digits))
    found: list[Node] = [] if excluded else [seq(digits, zeros if digits else repeat(Text("0"), 1, room))]
    for at, each in enumerate(digits):
        if each != "0":
            found.append(seq(digits[:at], Chars(((48, ord(each) - 1),)), repeat(DIGIT, 0, room - at)))
        if at:
            found.append(seq(digits[:at], repeat(Text("0"), 0, room - at)))
    no_fraction = EMPTY if digits or not excluded else NOTHING
    return alt(no_fraction, seq(".", alt(*found)))


# Regular expressions


def pattern(expression: str, *, is_search: bool = True) -> Node:
    """Return the texts in which a regular expression is found. With `is_search` false, it matches the whole text.

    Classes such as \\d have only their ASCII characters.

    Raises:
        UnsupportedPatternError: if it contains a lookaround, a reference or an anchor in the middle.
    """
    try:
        parsed = sre_parser.parse(expression)
    except (re.error, OverflowError, RecursionError) as error:
        raise UnsupportedPatternError(str(error)) from None
    if parsed.state.flags & ~(re.UNICODE | re.DOTALL):
        raise UnsupportedPatternError("flags")
    dot = ANY if parsed.state.flags & re.DOTALL else without(ANY, [(10, 10)])
    branches = [list(parsed)]
    if len(parsed) == 1 and parsed[0][0] is sre.BRANCH:
        branches = [list(each) for each in parsed[0][1][1]]
    found = []
    for branch in branches:
        starts = bool(branch) and branch[0] in ((sre.AT, sre.AT_BEGINNING), (sre.AT, sre.AT_BEGINNING_STRING))
        ends = bool(branch) and branch[-1] in ((sre.AT, sre.AT_END), (sre.AT, sre.AT_END_STRING))
        inner = branch[1 if starts else 0 : len(branch) - 1 if ends and len(branch) > int(starts) else len(branch)]
        open_start, open_end = is_search and not starts, is_search and not ends
        if _copies(items := _items(inner, dot)) > _MAX_COPIES:
            raise UnsupportedPatternError("too many repetitions")
        found.append(seq(ALL if open_start else EMPTY, items, ALL if open_end else EMPTY))
    return alt(*found)


def _copies(node: Node) -> int:
    """Return how many nodes remain if each repetition is written out, as llama.cpp does."""
    match node:
        case Seq(parts) | Alt(parts):
            return sum(map(_copies, parts))
        case Repeat(part, least, most):
            return _copies(part) * max(1, least if most is None else most)
    return 1


def _items(items: Sequence[tuple[Any, Any]], dot: Chars) -> Node:
    return seq(*(_item(kind, value, dot) for kind, value in items))


def _item(kind: Any, value: Any, dot: Chars) -> Node:
    if kind is sre.LITERAL:
        return Text(chr(value)) if value and not 0xD800 <= value <= 0xDFFF else NOTHING
    if kind is sre.NOT_LITERAL:
        return without(ANY, [(value, value)])
    if kind is sre.ANY:
        return dot
    if kind is sre.IN:
        return _class(value)
    if kind in (sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT):
        least, most, inner = value
        if kind is sre.POSSESSIVE_REPEAT:
            raise UnsupportedPatternError("a possessive repetition")
        return repeat(_items(list(inner), dot), int(least), None if most is sre.MAXREPEAT else int(most))
    if kind is sre.SUBPATTERN:
        _, add, remove, inner = value
        if add or remove:
            raise UnsupportedPatternError("flags of a group")
        return _items(list(inner), dot)
    if kind is sre.BRANCH:
        return alt(*(_items(list(inner), dot) for inner in value[1]))
    raise UnsupportedPatternError(str(kind).lower())


_CATEGORIES = {
    sre.CATEGORY_DIGIT: DIGIT,
    sre.CATEGORY_WORD: _WORD,
    sre.CATEGORY_SPACE: _SPACE,
    sre.CATEGORY_NOT_DIGIT: without(_ASCII, DIGIT.ranges),
    sre.CATEGORY_NOT_WORD: without(_ASCII, _WORD.ranges),
    sre.CATEGORY_NOT_SPACE: without(_ASCII, (*_SPACE.ranges, *_UNSURE.ranges)),
}


def _class(items: Sequence[tuple[Any, Any]]) -> Chars:
    is_negated = bool(items) and items[0][0] is sre.NEGATE
    found = Chars(())
    for kind, value in items[1:] if is_negated else items:
        if kind is sre.LITERAL:
            found = union(found, Chars(((value, value),)))
        elif kind is sre.RANGE:
            found = union(found, Chars((value,)))
        elif kind is sre.CATEGORY and value in _CATEGORIES:
            # What is unsure is left out of the class, and of its opposite.
            found = union(found, _CATEGORIES[value], *([_UNSURE] if is_negated else []))
        else:
            raise UnsupportedPatternError(str(kind).lower())
    if is_negated:
        return without(ANY, found.ranges)
    return without(found, [(0, 0), (0xD800, 0xDFFF)])


_DATE = (
    r"[1-9][0-9]{3}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    r"|02-(?:0[1-9]|1[0-9]|2[0-8]))"
)
_TIME = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
_BYTE = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
FORMATS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}[T ]{_TIME}",
    "uuid": r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}",
    "email": r"[A-Za-z0-9_+-]+(?:\.[A-Za-z0-9_+-]+)*@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+",
    "ipv4": rf"{_BYTE}\.{_BYTE}\.{_BYTE}\.{_BYTE}",
}
"""The formats of JSON Schema that a grammar enforces, as regular expressions."""


def bound(value: Any, *, round_up: bool) -> int:
    """Return the integer at a bound: the next higher or the next lower one."""
    exact = Fraction(value)
    return math.ceil(exact) if round_up else math.floor(exact)
