"""Writes calls as Python writes them, for the formats that `python_calls.py` reads, from structures and in Jinja.

In: a turn's prose, and its calls with the JSON text of their arguments. Out: the text of the turn, or the body of the
Jinja macro that writes it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from toolhone.formats.call_json import Decoded, Undecodable, decode, skip_space
from toolhone.formats.chat_format import RawCall
from toolhone.formats.python_calls import ARGUMENT_NAME, NAME
from toolhone.records import FinishReason

_PLAIN_NAME = re.compile(NAME)
_PLAIN_ARGUMENT = re.compile(ARGUMENT_NAME)


def python_literal(value: Any) -> str:
    """Return a JSON value as a Python literal, with double quotes."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_quoted(key)}: {python_literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(python_literal, value)) + "]"
    return _quoted(value) if isinstance(value, str) else str(value)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


PYTHON_LITERAL = r"""
{%- macro write_value(value) -%}
    {%- if value is mapping -%}
        {{- "{" }}
        {%- for key, item in value.items() -%}
            {{- (", " if not loop.first else "") + (key | tojson) + ": " + write_value(item) }}
        {%- endfor -%}
        {{- "}" }}
    {%- elif value is string -%}{{- value | tojson }}
    {%- elif value is sequence -%}
        {{- "[" }}
        {%- for item in value -%}{{- (", " if not loop.first else "") + write_value(item) }}{%- endfor -%}
        {{- "]" }}
    {%- elif value is boolean -%}{{- "True" if value else "False" }}
    {%- elif value is none -%}{{- "None" }}
    {%- else -%}{{- value | tojson }}
    {%- endif -%}
{%- endmacro -%}
"""
"""The Jinja macro `write_value(value)`, which writes what `python_literal` returns."""

_CALLS = r"""
{{- content }}
{%- for call in calls -%}
    {{- (SPACE if content else "") + OPENING if loop.first else BETWEEN }}
    {{- call.function.name + "(" }}
    {%- for name, value in call.function.arguments.items() -%}
        {{- (", " if not loop.first else "") + name + "=" + write_value(value) }}
    {%- endfor -%}
    {{- ")" }}
{%- endfor -%}
{{- CLOSING if calls else "" }}"""


@dataclass(frozen=True, slots=True)
class PythonCallForm:
    """How a format writes the calls of a turn.

    Attributes:
        opening, closing: the text before the first call and after the last.
        between: the text between two calls.
        space: the text between prose and calls.
        literal: writes a value.
        macro: the Jinja macro `write_value(value)`, which writes the same.
    """

    opening: str
    closing: str
    between: str
    space: str = ""
    literal: Callable[[Any], str] = python_literal
    macro: str = PYTHON_LITERAL

    @property
    def calls(self) -> str:
        """The body of the Jinja macro `write_calls(content, calls)`."""
        body = _CALLS
        for key in ("opening", "closing", "between", "space"):
            body = body.replace(key.upper(), _quoted(getattr(self, key)))
        return self.macro + body

    def write(self, content: str, calls: Sequence[RawCall], finish_reason: FinishReason) -> str:
        """Return the text of a turn. With "length" the last call may be cut off; it is written without its end."""
        written, is_whole = [], True
        for number, call in enumerate(calls, 1):
            may_be_cut = finish_reason == "length" and number == len(calls)
            body, is_whole = self._written(call, may_be_cut=may_be_cut)
            written.append(body)
        if not written:
            return content
        before = content + self.space if content else ""
        return before + self.opening + self.between.join(written) + (self.closing if is_whole else "")

    def _written(self, call: RawCall, *, may_be_cut: bool) -> tuple[str, bool]:
        """Return the text of a call, and whether it is complete. A name with punctuation, and arguments that are not a
        JSON object, are written as strings without a name. So they are not read, and cannot become another call."""
        raw = call.arguments.strip() or "{}"  # some endpoints send an empty text if there are no arguments
        opening = f"{call.name}(" if _PLAIN_NAME.fullmatch(call.name) else f"call({_quoted(call.name)}, "
        found = decode(raw, 0)
        if isinstance(found, Undecodable):
            if may_be_cut and found.cut and raw.startswith("{"):
                return opening + self._cut_arguments(raw), False
        elif isinstance(found.value, dict) and found.end == len(raw):
            return opening + ", ".join(self._argument(*member) for member in found.value.items()) + ")", True
        return f"{opening}{_quoted(call.arguments)})", True

    def _argument(self, name: str, value: Any) -> str:
        return self._before_value(name) + self.literal(value)

    @staticmethod
    def _before_value(name: str) -> str:
        return f"{name if _PLAIN_ARGUMENT.fullmatch(name) else _quoted(name)}="

    def _cut_arguments(self, raw: str) -> str:
        """Write arguments whose JSON is cut off, up to the cut. A value that is cut off stays JSON."""
        written: list[str] = []
        at = skip_space(raw, 1)
        while isinstance(key := decode(raw, at), Decoded) and isinstance(key.value, str):
            colon = skip_space(raw, key.end)
            if not raw.startswith(":", colon):
                break
            first = skip_space(raw, colon + 1)
            found = decode(raw, first)
            if isinstance(found, Undecodable) or found.fault is not None or found.end == len(raw):
                written.append(self._before_value(key.value) + raw[first:])
                break
            written.append(self._argument(key.value, found.value))
            at = skip_space(raw, found.end)
            if not raw.startswith(",", at):
                break
            at = skip_space(raw, at + 1)
        return ", ".join(written)
