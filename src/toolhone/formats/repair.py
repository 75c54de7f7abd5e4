"""Repairs calls that strict reading refuses. Each repair has a name, must be allowed, and is counted when it is needed.

In: a text and an index in it, as for `call_json.decode`. Out: the same result, or the repaired one if that gives a
call. Nothing is evaluated: Python literals are rewritten as JSON, which is then read strictly.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any, get_args

from toolhone.formats.call_json import Decoded, Undecodable, decode, read_call
from toolhone.records import Repair, Tool, ToolCall

REPAIRS: tuple[Repair, ...] = get_args(Repair)

# The tokens of Python literals. Any other word or bracket ends the search.
_STRING = r"'(?:[^'\\\n]++|\\.)*+'|" + r'"(?:[^"\\\n]++|\\.)*+"'
_TOKEN = re.compile(rf"\s++|[\[\]{{}}:,]|-?\d[\d.eE+-]*+|{_STRING}|(?:True|False|None|true|false|null)\b")
_WORDS = {"True": "true", "False": "false", "None": "null"}
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U000[0-9a-fA-F]{5}|U0010[0-9a-fA-F]{4}|.)")
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "a": "\a", "v": "\v", "0": "\0"}


class Repairer:
    """Reads values and calls with the `allowed` repairs. Without any, it reads strictly. `tools` are the declared tools
    by name, or only their names; None if they are unknown.

    `fired` counts the repairs that calls needed. A repairer reads at most four times the length of the text, so the
    time stays linear.
    """

    def __init__(self, allowed: Iterable[Repair], length: int, tools: Collection[str] | None = None) -> None:
        self.allowed = frozenset(allowed)
        self.tools = tools
        self.fired: Counter[Repair] = Counter()
        self._budget = 4 * length

    def parameters_of(self, name: str) -> dict[str, Any] | None:
        """Return the JSON Schema of a tool's arguments; None if it is unknown."""
        tool = self.tools.get(name) if isinstance(self.tools, Mapping) else None
        return tool.parameters if isinstance(tool, Tool) else None

    def decode(self, text: str, at: int) -> Decoded | Undecodable:
        """Return the value that starts here, as JSON or, if allowed, as a Python literal. Never raises."""
        found = decode(text, at)
        if isinstance(found, Decoded) or found.cut or "python_literals" not in self.allowed or self._budget <= 0:
            return found
        written, end = literal_as_json(text, at)
        self._budget -= end - at
        if written is None:
            return found
        repaired = decode(written, 0)
        if isinstance(repaired, Undecodable) or repaired.fault is not None or repaired.end < len(written):
            return found
        return replace(repaired, end=end, repairs=("python_literals",))

    def read_call(self, found: Decoded, argument_keys: tuple[str, ...]) -> ToolCall | str:
        """Return a decoded value as a call, or why it is not a call. Counts the repairs that it needed."""
        call = found.fault or read_call(found.value, argument_keys)
        repairs = found.repairs
        if isinstance(call, str) and "arguments_as_text" in self.allowed:
            inner = self._arguments(found.value, argument_keys)
            if inner is not None:
                call = read_call(inner.value, argument_keys)
                repairs += (*inner.repairs, "arguments_as_text")
        if isinstance(call, ToolCall):
            self.fired.update(repairs)
        return call

    def _arguments(self, value: Any, argument_keys: tuple[str, ...]) -> Decoded | None:
        """Return the call with decoded arguments, if they are exactly the JSON text of an object; otherwise None."""
        key = next((key for key in argument_keys if isinstance(value, dict) and isinstance(value.get(key), str)), None)
        if key is None:
            return None
        text = value[key].strip()
        inner = self.decode(text, 0)
        if isinstance(inner, Undecodable) or not isinstance(inner.value, dict) or inner.end < len(text):
            return None
        return replace(inner, value={**value, key: inner.value})


def literal_as_json(text: str, start: int) -> tuple[str | None, int]:
    """Return the Python literal that starts here as JSON text, or None if it has no end, and where the search ended."""
    written: list[str] = []
    depth, at = 0, start
    while token := _TOKEN.match(text, at):
        at, part = token.end(), token.group()
        if part.isspace():
            continue
        if part in ("]", "}"):
            if written[-1:] == [","] and written[-2:-1] not in ([], [","], ["["], ["{"], [":"]):
                written.pop()
            depth -= 1
        elif part in ("[", "{"):
            depth += 1
        written.append(_string(part) if part[0] in "'\"" else _WORDS.get(part, part))
        if depth <= 0:
            return " ".join(written), at  # with spaces, so that 1 and 2 do not become 12
    return None, at


def _string(literal: str) -> str:
    """Return a Python string literal as a JSON string. In double quotes it may already be JSON, with other escapes."""
    if literal[0] == '"':
        try:
            json.loads(literal)
        except json.JSONDecodeError:
            pass
        else:
            return literal
    return json.dumps(_ESCAPE.sub(_unescaped, literal[1:-1]))


def _unescaped(escape: re.Match[str]) -> str:
    code = escape[1]
    if len(code) > 1:
        return chr(int(code[1:], 16))
    # Python keeps the backslash of an unknown escape.
    return code if code in "'\"\\" else _ESCAPED.get(code, escape[0])
