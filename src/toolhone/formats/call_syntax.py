"""How a format writes the calls of a turn, for the grammar of an answer (`chat/grammar.py`).

A format declares only what is its own: the texts around the calls, how a call writes its arguments, and what prose may
not contain because it opens a call.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from toolhone.formats.pieces import FENCE, PYTHON_TAG, THINK, THINK_END
from toolhone.formats.python_calls import PythonCallStyle
from toolhone.formats.typed_values import typed_value
from toolhone.tool_schema import Schema

ArgumentStyle = Literal["object", "named", "python", "tags"]
"""object: a JSON object with the name and the arguments. named: the name, then the arguments as an object. python:
`name(argument=value)`. tags: a tag for each argument, with texts as they are."""


@dataclass(frozen=True, slots=True)
class StringSyntax:
    """What is special about the strings in the arguments of a format.

    Attributes:
        quote: the text around a string without escapes, whose keys have no quotes; "" for the strings of JSON or
            Python.
        escaped: characters that a string only contains as escapes.
        refused: texts that no string contains as it is written.
    """

    quote: str = ""
    escaped: str = ""
    refused: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TextForm:
    """A way to write a text in "tags".

    Attributes:
        opening, closing: the texts around it.
        refused: a regular expression of what it may not contain.
        guards: characters that it does not contain either if it has a limited length or a pattern. What is refused
            begins with one of them.
    """

    refused: str
    opening: str = ""
    closing: str = ""
    guards: str = "<"


@dataclass(frozen=True, slots=True)
class CallSyntax:
    """How the calls of a turn are written.

    Attributes:
        style: how a call is written.
        first, between, last: the texts before the first call, between two calls and after the last one. White space in
            them may be longer, shorter or missing, unless the syntax `is_exact`.
        opens: regular expressions of what opens or closes a call. Prose contains none of them.
        line_opens: the same at the start of a line, after any white space.
        argument_keys: the keys of the arguments of an "object", the usual one first.
        after_name, after_arguments: the texts around the arguments of a "named" call or one in "tags". `{index}` is any
            number.
        argument: an argument in "tags", with {name} and {text}.
        texts: how a text may be written in "tags", the usual way first.
        typed: what a text in "tags" is read as; see `TaggedSyntax`.
        python: what the calls of style "python" may contain.
        strings: what is special about strings that are not in "tags".
        name, key: regular expressions of the names of functions and arguments that can be written.
        begins_with_name: whether a text opens a call only once the name of a function follows `first`.
        on_own_line: whether the first call must start a line.
        is_exact: whether the texts of the syntax are written exactly as they are here.
        is_stopped: whether `last` is a token at which generation stops, so that it may be missing.
        prose_before, prose_after: whether prose may be before and after the calls.
        preamble: the texts around prose before calls.
        headers: the texts before an answer without calls. Only the last of them follows a thought.
        thought: the texts around a thought.
        in_thought: a regular expression of what a thought may not contain, besides its end.
    """

    style: ArgumentStyle
    first: str = ""
    between: str = "\n"
    last: str = ""
    opens: tuple[str, ...] = ()
    line_opens: tuple[str, ...] = ()
    argument_keys: tuple[str, ...] = ("arguments",)
    after_name: str = ""
    after_arguments: str = ""
    argument: str = ""
    texts: tuple[TextForm, ...] = ()
    typed: Callable[[str, Schema | None, str], Any] = typed_value
    python: PythonCallStyle | None = None
    strings: StringSyntax = StringSyntax()
    name: str = r"[\s\S]+"
    key: str = r"[\s\S]+"
    begins_with_name: bool = False
    on_own_line: bool = False
    is_exact: bool = False
    is_stopped: bool = False
    prose_before: bool = True
    prose_after: bool = False
    preamble: tuple[str, str] = ("", "")
    headers: tuple[str, ...] = ("",)
    thought: tuple[str, str] = (THINK, THINK_END)
    in_thought: str = ""

    def contains(self, token: str) -> bool:
        """Whether a token is a part of the syntax."""
        around_calls = (self.first, self.between, self.last, *self.preamble, *self.headers, *self.thought)
        inside = (self.after_name, self.after_arguments, self.argument, self.strings.quote)
        return any(token in text for text in (*around_calls, *inside))


_FIRST_KEY = r'\{\s*"(?:name|function|arguments|parameters|id|type)"\s*:'
"""Roughly what `call_json.CALL_START` finds: an "id" or a "type" may come before the name of a call."""

BARE_OBJECTS = CallSyntax(
    "object",
    opens=(re.escape(PYTHON_TAG),),
    line_opens=(rf"(?:{FENCE}[\w+-]*\s*)?[\[\s]*{_FIRST_KEY}",),
    argument_keys=("arguments", "parameters"),
    on_own_line=True,
)
"""Calls as JSON objects without a marker, each on a line of its own."""
