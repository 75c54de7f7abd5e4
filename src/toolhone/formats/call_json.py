"""The JSON of a call: decodes a value inside a text, decides whether it is a call, and finds its parts.

In: a text and an index in it. Out: the decoded value and its end, or why there is none. Decoding is strict: NaN,
Infinity, duplicate keys, lone surrogates, numbers too large for a float and very deep nesting are faults. The chat
formats read tags and separators.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from toolhone.records import Repair, ToolCall
from toolhone.strict_json import StrictJsonError, parse_strict

MAX_NESTING = 64
"""Maximum levels of lists and objects in a call. A fixed limit does not depend on the interpreter's stack."""

_MAX_CANDIDATES = 100

# Finds the end of a value without converting its numbers. `parse_strict` then decodes the value.
_SPANS = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=str)

# The text left where decoding stopped, if the text was only cut off: nothing, or part of a literal, a number or an
# escape.
_CUT_TAIL = re.compile(r"\s*|t|tr|tru|f|fa|fal|fals|n|nu|nul|-|\.|[eE][+-]?|\\?u[0-9a-fA-F]{0,4}")

CALL_START = re.compile(
    r'\{\s*(?:"(?:id|type)"\s*:\s*"[^"\n]*"\s*,\s*)*"(?:name|function|arguments|parameters)"\s*:',
)
"""An object that opens like a call. OpenAI's `id` and `type` may come first."""

PYTHON_CALL_START = re.compile(CALL_START.pattern.replace('"', "['\"]").replace("[^['\"]\\n]", "[^'\"\\n]"))
"""The same, with single or double quotes as in Python."""

_NAME_THEN_ARGUMENTS = re.compile(
    r""""name"\s*:\s*"[^"\n]*"\s*,\s*"(?:arguments|parameters)"\s*:"""
    r"""|'name'\s*:\s*['"][^'"\n]*['"]\s*,\s*'(?:arguments|parameters)'\s*:"""
)
_OPENING = re.compile(r"\s*(?:```\w*\s*)?\[?\s*")
SURROGATE = re.compile(r"[\ud800-\udfff]")
"""Half of a surrogate pair, which is not a character."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """A JSON value, and where it ends. If strict JSON refuses it, `fault` says why and the value is None. `repairs` are
    the repairs needed to read it."""

    value: Any
    end: int
    fault: str | None = None
    repairs: tuple[Repair, ...] = ()


@dataclass(frozen=True, slots=True)
class Undecodable:
    """No JSON value. Reading can continue at `end`. `cut` is true if the text may only be cut off."""

    reason: str
    end: int
    cut: bool


def decode(text: str, start: int) -> Decoded | Undecodable:
    """Decode the JSON value that starts at `start`. Never raises."""
    try:
        end = value_end(text, start)
    except RecursionError:
        return Undecodable("JSON that is nested too deeply", len(text), cut=False)
    except json.JSONDecodeError as error:
        # An unclosed string takes the rest of the text.
        cut = error.msg.startswith("Unterminated string") or _CUT_TAIL.fullmatch(text, error.pos) is not None
        return Undecodable(f"broken JSON: {error.msg}", len(text) if cut else error.pos, cut)
    try:
        value = parse_strict(text[start:end], allow_surrogates=True)
    except StrictJsonError as error:
        return Decoded(None, end, short(str(error)))
    fault = unfit(value)
    return Decoded(value if fault is None else None, end, fault)


def value_end(text: str, start: int) -> int:
    """Return the index after the JSON value that starts at `start`.

    Raises:
        json.JSONDecodeError: if no value starts there, or it has no end.
        RecursionError: if it is nested too deeply.
    """
    _, end = _SPANS.raw_decode(text, start)
    return end


def unfit(value: Any) -> str | None:
    """Return why a decoded value cannot be compared or written; None if it can. It goes level by level, so that the
    stack cannot overflow."""
    level, depth = [value], 0
    while level:
        inside: list[Any] = []
        for item in level:
            if isinstance(item, str):
                if not item.isascii() and SURROGATE.search(item):
                    return "half of a surrogate pair, which is not a character"
            elif isinstance(item, dict | list):
                if depth == MAX_NESTING:
                    return f"JSON nested deeper than {MAX_NESTING} levels"
                inside += item
                inside += item.values() if isinstance(item, dict) else ()
        level, depth = inside, depth + 1
    return None


def read_call(value: Any, argument_keys: tuple[str, ...]) -> ToolCall | str:
    """Return a decoded value as a call, or why it is not a call.

    A call is an object with a `name` and at most one of `argument_keys`, whose value is an object. Without such a key
    the call has no arguments. OpenAI's `id` and `type` are ignored. Any other key is a fault, because its value would
    be lost.
    """
    if not isinstance(value, dict):
        return f"expected the call to be a JSON object, found {_kind(value)}"
    if not isinstance(value.get("name"), str) or not value["name"]:
        return 'expected "name" to be a non-empty string'
    given = [key for key in value if key in argument_keys]
    if len(given) > 1:
        return f'both "{given[0]}" and "{given[1]}" in one call'
    for key in value:
        if key not in ("name", "id", "type", *argument_keys):
            return f'unknown key "{short(key)}" in a call, expected "{argument_keys[0]}"'
    arguments = value[given[0]] if given else {}
    if not isinstance(arguments, dict):
        return f'expected "{given[0]}" to be a JSON object, found {_kind(arguments)}'
    return ToolCall(value["name"], arguments)


def looks_like_call(value: Any, tools: Collection[str] | None) -> bool:
    """Whether a decoded value was meant as a call: it has a name and arguments, or is OpenAI's wrapper around them.

    An object with only a name is a call without arguments if the name is in `tools`, the declared names. Otherwise it
    is data. If `tools` is None, the names are unknown, and any name may be one.
    """
    if not isinstance(value, dict):
        return False
    if isinstance(value.get("function"), dict):
        return "name" in value["function"]
    if "name" not in value:
        return False
    if "arguments" in value or "parameters" in value:
        return True
    if not isinstance(value["name"], str) or not value.keys() <= {"name", "type"}:
        return False
    return value.get("type", "function") == "function" and (tools is None or value["name"] in tools)


def call_in_prose(prose: str, tools: Collection[str] | None) -> bool:
    """Whether prose contains something meant as a call in JSON, in a place where the format does not read calls.

    This is a name directly followed by arguments, in JSON or Python quotes; a complete object that has both, in any
    order; or prose that starts, after an optional code fence, with the name of a call, even if the rest is broken. For
    a complete object with only a name, `looks_like_call` decides. Any other JSON is not a call.
    """
    if "{" not in prose and "name" not in prose:
        return False
    if _NAME_THEN_ARGUMENTS.search(prose):
        return True
    opening = _OPENING.match(prose)
    first = opening.end() if opening else 0
    # The limit on candidates keeps the time linear if objects are nested.
    for candidate in islice(CALL_START.finditer(prose), _MAX_CANDIDATES):
        found = decode(prose, candidate.start())
        opens = candidate.start() == first
        if isinstance(found, Undecodable) or found.fault is not None:
            if opens:
                return True
        elif looks_like_call(found.value, tools if opens else ()):
            return True
    return False


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return kinds.get(type(value), "a number")


def short(text: str, limit: int = 80) -> str:
    """Return the text on one line, cut to at most `limit` characters, for a message."""
    line = " ".join(SURROGATE.sub("�", text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def skip_space(text: str, at: int) -> int:
    """Return the index of the first character at or after `at` that is not white space."""
    while at < len(text) and text[at].isspace():
        at += 1
    return at


Span = tuple[int, int]
"""Start and end of a stretch of text, in characters."""


@dataclass(frozen=True, slots=True)
class CallSpans:
    """The spans of a call's name and of the value of each argument. They include quotes and escapes: in JSON,
    `json.loads` of a span gives the value."""

    name: Span
    values: dict[str, Span]

    def moved(self, by: int) -> CallSpans:
        """Return the spans in a text with this many more characters at the start."""
        if not by:
            return self
        values = {name: (start + by, end + by) for name, (start, end) in self.values.items()}
        return CallSpans((self.name[0] + by, self.name[1] + by), values)


def call_spans(text: str, place: Span) -> CallSpans:
    """Return the spans in a call that was read strictly. `place` is one of its turn's `ParsedTurn.places`.

    Values are not searched by their text, so a value that also occurs elsewhere is found where the parser read it.
    """
    members = dict(member_spans(text, place[0]))
    arguments = members.get("arguments", members.get("parameters"))
    return CallSpans(members["name"], dict(member_spans(text, arguments[0])) if arguments else {})


def member_spans(text: str, start: int) -> Iterator[tuple[str, Span]]:
    """Yield each key of the JSON object that starts here, with the span of its value. It must be strict JSON."""
    at = skip_space(text, start + 1)
    while text[at] != "}":
        key_end = value_end(text, at)
        first = skip_space(text, skip_space(text, key_end) + 1)  # after the colon
        last = value_end(text, first)
        yield json.loads(text[at:key_end]), (first, last)
        at = skip_space(text, last)
        if text[at] == ",":
            at = skip_space(text, at + 1)
