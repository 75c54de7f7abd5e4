"""Whether two argument values are the same, by JSON Schema type.

In: the accepted value, the value found, and what the tool's schema says of it. Out: yes or no. Rule 3 of scoring: no
value is of two types; numbers are compared as numbers; strings by Unicode's canonical form without outer white space;
arrays in order; objects by key; all at any depth.
"""

from __future__ import annotations

import math
import unicodedata
from typing import Any

from toolhone.evaluate.schema import Subschemas

RELATIVE_TOLERANCE = 1e-6
"""For numbers that are not whole; whole numbers are compared exactly."""


def same_value(expected: Any, found: Any, schema: Subschemas) -> bool:
    """Whether `found` is right where `expected` is accepted. Where the schema is silent, `expected` states the type."""
    if isinstance(expected, bool) or isinstance(found, bool) or expected is None or found is None:
        # Python's True == 1; JSON's true is of a type of its own.
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
    if _whole(expected) or _whole(found):
        return expected == found
    if "integer" in types and "number" not in types:
        return False
    return math.isclose(expected, found, rel_tol=RELATIVE_TOLERANCE, abs_tol=0.0)


def _whole(number: float) -> bool:
    return isinstance(number, int) or number.is_integer()
