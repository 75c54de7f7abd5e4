"""The scoring policies, and whether an argument's value is right under one.

`strict` compares values by JSON Schema type and excuses nothing. `bfcl` scores as the checker of the Berkeley Function
Calling Leaderboard does, which is laxer about texts and stricter about numbers. If a policy accepts what `strict` does
not, `Score.rules` has the name of the rule. Under `bfcl` an argument that the schema requires must be given even if the
gold lists it as optional.

JSON values: no value is of two types; numbers are compared as numbers; strings by Unicode's canonical form
without outer white space; arrays in order; objects by key; all at any depth.

BFCL compares by Python's types. An argument has the one type that its schema states, else that of the first accepted
value; a whole number passes for a float, and an array's items are checked one level deep. Texts are compared without
case and some punctuation if they are the argument or directly inside its list or object; all else by Python's `==`.
If an argument may be left out, an empty text or list is right too. One difference is deliberate: BFCL drops the sign
and the decimal point of a number in a text, and here "-5" is not "5".
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from toolhone.records import GoldCall, ScoringPolicy
from toolhone.tool_schema import Subschemas

Rule = Literal["spelling", "python-equality", "empty-as-left-out", "unreadable-as-none", "any-call"]

# What each rule excuses.
RULES: dict[Rule, str] = {
    "spelling": "a text differs from the expected in case, spaces, the kind of quotes or the signs , . / - _ * ^ only",
    "python-equality": "a value inside a list or an object equals the expected one to Python, where true is 1",
    "empty-as-left-out": "an empty text or list is given for an argument that may be left out",
    "unreadable-as-none": "a turn that cannot be read as calls counts as one without calls",
    "any-call": "if some call is expected, any call is right, whatever its tool and arguments",
}

STRICT: ScoringPolicy = "strict"
BFCL: ScoringPolicy = "bfcl"

RELATIVE_TOLERANCE = 1e-6
"""For numbers that are not whole; whole numbers are compared exactly."""

NO_RULES: frozenset[Rule] = frozenset()


def values_match(
    gold: GoldCall, name: str, found: Any, schema: Subschemas, policy: ScoringPolicy
) -> tuple[bool, frozenset[Rule]]:
    """Whether a value is right for the argument `name` of `gold`, and the rules that fired. `schema` is the tool's."""
    accepted, stated = gold.arguments.get(name, []), schema.property(name)
    if policy == STRICT:
        return any(same_value(value, found, stated) for value in accepted), NO_RULES
    if not any(name in one.get("properties", {}) for one in schema.alternatives):
        return False, NO_RULES
    optional = name in gold.optional or name in gold.blank
    # The keys of an object that may be left out, for which BFCL accepts an empty text too.
    blank_keys = frozenset(path.removeprefix(f"{name}/") for path in gold.blank if path.startswith(f"{name}/"))
    kind = _kind(stated) or str
    objects = kind is list and _item_kind(stated) is dict
    alike = [value for value in accepted if _alike(value, found, blank_keys, objects=objects)]
    if not _bfcl_accepts(accepted, alike, found, kind, stated, optional=optional):
        return False, NO_RULES
    if any(same_value(value, found, stated) for value in accepted):
        return True, NO_RULES
    return True, frozenset(_rules(alike[0], found, stated)) if alike else frozenset({"empty-as-left-out"})


def same_value(expected: Any, found: Any, schema: Subschemas) -> bool:
    """Whether two values are the same in JSON. If the schema states no type, `expected` does."""
    if isinstance(expected, bool) or isinstance(found, bool) or expected is None or found is None:
        # In Python True == 1; in JSON true has a type of its own.
        return type(expected) is type(found) and bool(expected == found)
    if isinstance(expected, str):
        return isinstance(found, str) and (expected == found or _canonical(expected) == _canonical(found))
    if isinstance(expected, int | float):
        return isinstance(found, int | float) and _same_number(expected, found, schema.types())
    if isinstance(expected, list):
        return (
            isinstance(found, list)
            and len(expected) == len(found)
            and all(same_value(*pair, schema.item(i)) for i, pair in enumerate(zip(expected, found, strict=True)))
        )
    return (
        isinstance(expected, dict)
        and isinstance(found, dict)
        and expected.keys() == found.keys()
        and all(same_value(expected[key], found[key], schema.property(key)) for key in expected)
    )


def _canonical(text: str) -> str:
    return unicodedata.normalize("NFC", text).strip()


def _same_number(expected: float, found: float, types: set[str]) -> bool:
    """Python compares int and float exactly, however large; the tolerance is for what has no exact decimal."""
    if expected % 1 == 0 or found % 1 == 0:
        return expected == found
    if "integer" in types and "number" not in types:
        return False
    return math.isclose(expected, found, rel_tol=RELATIVE_TOLERANCE, abs_tol=0.0)


# As BFCL's checker compares

_PYTHON_TYPES = {"string": str, "integer": int, "number": float, "boolean": bool, "array": list, "object": dict}
_DROPPED = frozenset(" ,./-_*^")
_SIGN = re.compile(r"(?<![\w.])-(?=\.?\d)")
_POINT = re.compile(r"(?:(?<![\d.])\d+|(?<![\w.]))(\.)\d+(?!\d|\.\d)")


def _bfcl_accepts(
    accepted: Sequence[Any], alike: Sequence[Any], found: Any, kind: type, schema: Subschemas, *, optional: bool
) -> bool:
    """Whether BFCL accepts a value. `alike` are the accepted values that are the same to it if types fit; `kind` is the
    Python type that the schema states."""
    gold_kind = type(accepted[0]) if accepted else None
    if kind is float and type(found) is int:
        try:
            found = float(found)
        except OverflowError:
            return False
    if type(found) is kind:
        if isinstance(found, list) and not optional and not _items_fit(accepted, found, _item_kind(schema)):
            return False
    elif gold_kind is None or type(found) is not gold_kind:
        return False
    # BFCL takes gold of another type than the schema's for a variable's name, or the like, and compares it literally.
    if kind not in (str, list, dict) or type(found) is not kind or gold_kind not in (None, kind):
        return found in accepted or (optional and found == "")
    return bool(alike) or (optional and (found == [] or _same_item("", found)))


def _kind(schema: Subschemas) -> type | None:
    """The Python type that BFCL reads in the first type stated, null aside; None if none is stated."""
    stated = [one["type"] for one in schema.alternatives if "type" in one]
    names = [name for each in stated for name in ([each] if isinstance(each, str) else each)]
    named = next((name for name in names if name != "null"), names[0] if names else None)
    return type(None) if named == "null" else _PYTHON_TYPES.get(named or "")


def _item_kind(schema: Subschemas) -> type | None:
    """The Python type of an array's items; None if nothing is said of them. BFCL reads its type "any" as a text's."""
    items = schema.item(0)
    return (_kind(items) or str) if items.alternatives else None


def _items_fit(accepted: Sequence[Any], found: list[Any], kind: type | None) -> bool:
    """Whether each item is of the stated type, or of that of an accepted list's first item; True if an accepted value
    is no list."""
    return kind is None or any(
        not isinstance(value, list)
        or {type(item) for item in found} <= {kind, next((type(first) for first in value if first != ""), None)}
        for value in accepted
    )


def _alike(expected: Any, found: Any, blank_keys: frozenset[str], *, objects: bool) -> bool:
    """Whether two values of the stated type are the same to BFCL. `objects`: for arrays of objects."""
    if isinstance(expected, dict):
        return _same_object(expected, found, blank_keys)
    if isinstance(expected, list) and isinstance(found, list):
        same = _same_object if objects else _same_item
        return len(expected) == len(found) and all(map(same, expected, found))
    return _same_item(expected, found)


def _same_object(expected: Any, found: Any, blank_keys: frozenset[str] = frozenset()) -> bool:
    if not isinstance(expected, dict) or not isinstance(found, dict):
        return False
    blank = {key for key in blank_keys & found.keys() - expected.keys() if _same_item("", found[key])}
    return expected.keys() == found.keys() - blank and all(_same_item(expected[key], found[key]) for key in expected)


def _same_item(expected: Any, found: Any) -> bool:
    if isinstance(expected, str) and isinstance(found, str):
        return respelt(expected) == respelt(found)
    return bool(expected == found)


def _rules(expected: Any, found: Any, schema: Subschemas) -> Iterator[Rule]:
    """The leniencies by which one value passes for the other."""
    if isinstance(expected, list) and isinstance(found, list):
        pairs = [(*pair, schema.item(n)) for n, pair in enumerate(zip(expected, found, strict=True))]
    elif isinstance(expected, dict) and isinstance(found, dict):
        if found.keys() - expected.keys():
            yield "empty-as-left-out"
        pairs = [(expected[key], found[key], schema.property(key)) for key in expected]
    else:
        yield "spelling" if isinstance(found, str) else "python-equality"
        return
    for one, other, stated in pairs:
        if not same_value(one, other, stated):
            yield from _rules(one, other, stated)


def respelt(text: str) -> str:
    """The text as BFCL compares it: in lower case, with one kind of quotes, without spaces and the signs , . / - _ * ^
    except the sign and the decimal point of a number."""
    kept: set[int] = set()
    if "-" in text:
        kept.update(match.start() for match in _SIGN.finditer(text))
    if "." in text:
        kept.update(match.start(1) for match in _POINT.finditer(text))
    left = "".join(sign for n, sign in enumerate(text) if sign not in _DROPPED or n in kept)
    return left.lower().replace("'", '"')
