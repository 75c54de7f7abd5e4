"""How a format writes the calls of a turn, for the grammar of an answer (`chat/grammar.py`).

A format declares only what is its own: the texts around the calls, how a call writes its arguments, and what prose may
not contain because it opens a call.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from toolhone.formats.pieces import FENCE, PYTHON_TAG
from toolhone.formats.python_calls import PythonCallStyle

ArgumentStyle = Literal["object", "named", "python", "tags"]
"""object: a JSON object with the name and the arguments. named: the name, then the arguments as a JSON object. python:
`name(argument=value)`. tags: a tag for each argument, with texts as they are."""


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
        after_name, after_arguments: the texts around the arguments of a "named" call. `{index}` is any number.
        python: what the calls of style "python" may contain.
        name, key: regular expressions of the names of functions and arguments that can be written.
        begins_with_name: whether a text opens a call only once the name of a function follows `first`.
        on_own_line: whether the first call must start a line.
        is_exact: whether the texts of the syntax are written exactly as they are here.
        prose_before, prose_after: whether prose may be before and after the calls.
        refused: a regular expression of what no text in "tags" may contain.
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
    python: PythonCallStyle | None = None
    name: str = r"[\s\S]+"
    key: str = r"[\s\S]+"
    begins_with_name: bool = False
    on_own_line: bool = False
    is_exact: bool = False
    prose_before: bool = True
    prose_after: bool = False
    refused: str = ""


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
