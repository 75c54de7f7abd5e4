"""Whether BFCL's checker takes a value for an argument, and by which leniency: the values of the policy `bfcl`.

In: the accepted values, whether the argument may be left out, the value found and the schema's word on it. Out: yes or
no, and the rules that fired. BFCL compares by Python's types: an argument has the one type that its schema states, or
else that of the first accepted value, exactly, but that a whole number is taken for a float; an array's items are
looked at one level deep. Texts are compared without case and some punctuation, where they are the argument or stand
right inside its list or object; all else by Python's `==`. `""` among BFCL's accepted values says "may be left out",
and its checker then takes an empty text, or an empty list, as well.

One thing is told apart that BFCL confuses: the sign and the decimal point of a number in a text. "-5" is not "5".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from toolhone.evaluate.policy import EMPTY_AS_LEFT_OUT, PYTHON_EQUALITY, SPELLING
from toolhone.evaluate.schema import Subschemas
from toolhone.evaluate.values import same_value

_TYPES: dict[str, type] = {
    "string": str,
    "integer": int,
    "number": float,
    "boolean": bool,
    "array": list,
    "object": dict,
    "null": type(None),
}
_DROPPED = frozenset(" ,./-_*^")
_SIGN = re.compile(r"(?<![\w.])-(?=\.?\d)")
_POINT = re.compile(r"(?:(?<![\d.])\d+|(?<![\w.]))(\.)\d+(?!\d|\.\d)")


@dataclass(frozen=True, slots=True)
class Accepted:
    """What gold accepts for one argument. `blank_keys` are the keys of an object for which BFCL takes an empty text,
    since they may be left out."""

    values: Sequence[Any]
    optional: bool
    blank_keys: frozenset[str]


def taken(gold: Accepted, found: Any, schema: Subschemas) -> tuple[bool, frozenset[str]]:
    """Whether BFCL takes `found`, and the names of the leniencies that it needs to."""
    kind = _kind(schema) or str
    objects = kind is list and _item_kind(schema) is dict
    if not _fits(gold, found, kind, schema, objects=objects):
        return False, frozenset()
    if any(same_value(value, found, schema) for value in gold.values):
        return True, frozenset()
    alike = [value for value in gold.values if _alike(value, found, gold.blank_keys, objects=objects)]
    return True, frozenset(_rules(alike[0], found, schema) if alike else [EMPTY_AS_LEFT_OUT])


def _fits(gold: Accepted, found: Any, kind: type, schema: Subschemas, *, objects: bool) -> bool:
    stated = type(gold.values[0]) if gold.values else None
    if kind is float and type(found) is int:
        try:
            found = float(found)
        except OverflowError:
            return False
    if type(found) is kind:
        if isinstance(found, list) and not _items_fit(gold, found, _item_kind(schema)):
            return False
    elif stated is None or type(found) is not stated:
        return False
    # Gold of another type than the schema's is a variable's name, or the like, to BFCL, and compared literally.
    literally = kind not in (str, list, dict) or type(found) is not kind or (stated is not None and stated is not kind)
    if literally:
        return found in gold.values or (gold.optional and found == "")
    if gold.optional and (found == [] or (isinstance(found, str) and respelt(found) == "")):
        return True
    return any(_alike(value, found, gold.blank_keys, objects=objects) for value in gold.values)


def _kind(schema: Subschemas) -> type | None:
    """The Python type that BFCL reads in the first type stated, null aside; None where none is."""
    stated = [one["type"] for one in schema.alternatives if "type" in one]
    names = [name for each in stated for name in ([each] if isinstance(each, str) else each)]
    named = next((name for name in names if name != "null"), names[0] if names else None)
    return None if named is None else _TYPES.get(named)


def _item_kind(schema: Subschemas) -> type | None:
    """The Python type of an array's items; None where nothing is said of them. BFCL's type "any" is a text's to it."""
    items = schema.item(0)
    return (_kind(items) or str) if items.alternatives else None


def _items_fit(gold: Accepted, found: list[Any], kind: type | None) -> bool:
    """Whether each item is of the stated type, or of that of an accepted list's first item. An accepted value that is
    no list, as `""` is not, lets any item pass."""
    if kind is None or gold.optional:
        return True
    return any(
        not isinstance(value, list) or all(type(item) in (kind, _first_type(value)) for item in found)
        for value in gold.values
    )


def _first_type(values: list[Any]) -> type | None:
    return next((type(value) for value in values if value != ""), None)


def _alike(expected: Any, found: Any, blank_keys: frozenset[str], *, objects: bool) -> bool:
    """Whether BFCL takes one value of the stated type for the other. `objects`: for arrays of objects."""
    if isinstance(expected, dict) and isinstance(found, dict):
        return _same_object(expected, found, blank_keys)
    if isinstance(expected, list) and isinstance(found, list):
        same = _same_objects if objects else _same_item
        return len(expected) == len(found) and all(map(same, expected, found))
    return _same_item(expected, found)


def _same_objects(expected: Any, found: Any) -> bool:
    return isinstance(expected, dict) and isinstance(found, dict) and _same_object(expected, found, frozenset())


def _same_object(expected: dict[str, Any], found: dict[str, Any], blank_keys: frozenset[str]) -> bool:
    given = {key: found[key] for key in found if key in expected or not _is_blank(key, found[key], blank_keys)}
    return expected.keys() == given.keys() and all(_same_item(expected[key], given[key]) for key in expected)


def _is_blank(key: str, value: Any, blank_keys: frozenset[str]) -> bool:
    return key in blank_keys and isinstance(value, str) and respelt(value) == ""


def _same_item(expected: Any, found: Any) -> bool:
    if isinstance(expected, str) and isinstance(found, str):
        return respelt(expected) == respelt(found)
    return bool(expected == found)


def _rules(expected: Any, found: Any, schema: Subschemas) -> Iterator[str]:
    """The leniencies by which one value is taken for the other, one level deep as BFCL looks."""
    if isinstance(expected, list) and isinstance(found, list):
        pairs = [(*pair, schema.item(n)) for n, pair in enumerate(zip(expected, found, strict=True))]
    elif isinstance(expected, dict) and isinstance(found, dict):
        if found.keys() - expected.keys():
            yield EMPTY_AS_LEFT_OUT
        pairs = [(expected[key], found[key], schema.property(key)) for key in expected]
    else:
        yield SPELLING if isinstance(found, str) else PYTHON_EQUALITY
        return
    for one, other, said in pairs:
        if not same_value(one, other, said):
            if isinstance(one, dict | list):
                yield from _rules(one, other, said)
            else:
                yield SPELLING if isinstance(other, str) else PYTHON_EQUALITY


def respelt(text: str) -> str:
    """The text as BFCL compares it: without spaces and the signs , . / - _ * ^, in lower case, with one kind of quotes;
    but the sign and the decimal point of a number stay."""
    kept: set[int] = set()
    if "-" in text:
        kept.update(match.start() for match in _SIGN.finditer(text))
    if "." in text:
        kept.update(match.start(1) for match in _POINT.finditer(text))
    left = "".join(sign for n, sign in enumerate(text) if sign not in _DROPPED or n in kept)
    return left.lower().replace("'", '"')
