"""Compare an argument's value with the gold under a scoring policy.

`strict` compares values by JSON Schema type, without exceptions. `bfcl` scores like the checker of the Berkeley
Function Calling Leaderboard, which is less strict about texts and stricter about numbers. If a policy accepts a value
that `strict` refuses, `Score.rules` has the name of the rule. Under `bfcl` an argument that the schema requires must be
given even if the gold lists it as optional.

`strict`: values of different JSON types differ. Numbers are compared as numbers, strings in Unicode's canonical form
without outer white space, arrays in order, and objects by key, at any depth.

`bfcl`: values are compared by Python type. The type is the one in the schema, or else that of the first accepted value.
A whole number is accepted for a float, and an array's items are checked one level deep. Texts are compared without case
and some punctuation if they are the argument or directly inside its list or object; all else by Python's `==`. For an
optional argument, an empty text or list is right too. One difference is deliberate: BFCL drops the sign and the decimal
point of a number in a text, but here "-5" is not "5".
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

# What each rule accepts.
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
"""For fractions. Whole numbers are compared exactly."""

NO_RULES: frozenset[Rule] = frozenset()


def values_match(
    gold: GoldCall, name: str, found: Any, schema: Subschemas, policy: ScoringPolicy
) -> tuple[bool, frozenset[Rule]]:
    """Return whether a value is right for the argument `name` of `gold`, and the rules that fired. `schema` is the
    tool's."""
    accepted, stated = gold.arguments.get(name, []), schema.property(name)
    if policy == STRICT:
        return any(same_value(value, found, stated) for value in accepted), NO_RULES
    if not any(name in one.get("properties", {}) for one in schema.alternatives):
        return False, NO_RULES
    optional = name in gold.optional or name in gold.blank
    # Optional keys of an object. BFCL accepts an empty text for them too.
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
    """Return whether two values are the same in JSON. If the schema has no type, the type of `expected` counts."""
    if isinstance(expected, bool) or isinstance(found, bool) or expected is None or found is None:
        # In Python True == 1, but in JSON true and 1 have different types.
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
    """Compare whole numbers exactly, as Python does at any size, and fractions with a tolerance."""
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
    """Return whether BFCL accepts a value. `alike` are the accepted values that BFCL treats as equal if the types
    match; `kind` is the Python type of the schema."""
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
    # If gold has another type than the schema, BFCL treats it as a variable's name or similar, and compares literally.
    if kind not in (str, list, dict) or type(found) is not kind or gold_kind not in (None, kind):
        return found in accepted or (optional and found == "")
    return bool(alike) or (optional and (found == [] or _same_item("", found)))


def _kind(schema: Subschemas) -> type | None:
    """Return the Python type that BFCL uses for the schema's first type, ignoring null; None if the schema has no
    type."""
    stated = [one["type"] for one in schema.alternatives if "type" in one]
    names = [name for each in stated for name in ([each] if isinstance(each, str) else each)]
    named = next((name for name in names if name != "null"), names[0] if names else None)
    return type(None) if named == "null" else _PYTHON_TYPES.get(named or "")


def _item_kind(schema: Subschemas) -> type | None:
    """Return the Python type of an array's items; None if the schema does not describe them. BFCL treats "any" as
    text."""
    items = schema.item(0)
    return (_kind(items) or str) if items.alternatives else None


def _items_fit(accepted: Sequence[Any], found: list[Any], kind: type | None) -> bool:
    """Return whether each item has the schema's type, or the type of an accepted list's first item. True if an accepted
    value is not a list."""
    return kind is None or any(
        not isinstance(value, list)
        or {type(item) for item in found} <= {kind, next((type(first) for first in value if first != ""), None)}
        for value in accepted
    )


def _alike(expected: Any, found: Any, blank_keys: frozenset[str], *, objects: bool) -> bool:
    """Return whether BFCL treats two values of the schema's type as equal. `objects`: for arrays of objects."""
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
    """Yield the rules by which BFCL accepts one value for the other."""
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
    """Return the text as BFCL compares it: in lower case, with one kind of quotes, without spaces and the signs , . / -
    _ * ^ except the sign and the decimal point of a number."""
    kept: set[int] = set()
    if "-" in text:
        kept.update(match.start() for match in _SIGN.finditer(text))
    if "." in text:
        kept.update(match.start(1) for match in _POINT.finditer(text))
    left = "".join(sign for n, sign in enumerate(text) if sign not in _DROPPED or n in kept)
    return left.lower().replace("'", '"')
