"""The llama3_ipython format: the calls that Llama 3.1 writes in the environment "ipython", besides the JSON of llama3.

- `<function=f>{"a": 1}</function>`, of Llama 3.1's prompt for custom functions and of Functionary 3.1. It is written.
- `<|python_tag|>brave_search.call(query="x")`, of the built-in tools. Llama's own template writes it for the tools that
  its variable `builtin_tools` names.
- JSON with or without `<|python_tag|>`, as in llama3.

Other code after `<|python_tag|>` is for a code interpreter and no call. This is a format of its own, because the parser
of vLLM that llama3 names reads only JSON. No parser of vLLM reads the other two.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from toolhone.formats.call_json import CallSpans
from toolhone.formats.call_syntax import BARE_OBJECTS, CallSyntax
from toolhone.formats.chat_format import ChatFormat
from toolhone.formats.foreign_syntax import PYTHON_TAG_SYNTAX
from toolhone.formats.llama3 import LLAMA3
from toolhone.formats.marked_json import MarkedSyntax, Marker, read_json_block, read_marked
from toolhone.formats.named_json import NAME, NamedCall, named_call_template, named_call_writer, read_named_block
from toolhone.formats.pieces import PYTHON_TAG, Fault, Piece, foreign_block
from toolhone.formats.python_calls import PythonCallStyle, read_python_call, skip_python_space
from toolhone.formats.repair import Repairer
from toolhone.records import ToolCall

_STYLE = PythonCallStyle(dotted=True, ascii_first=False)
_FUNCTION = Marker(("<function=",))
_TAG = Marker((PYTHON_TAG,))
_NAMED = NamedCall("<function=", ">", "</function>", "", headers=((NAME, ">"),))
_OWN = re.compile(rf"<function=|{re.escape(PYTHON_TAG)}\s*+[^\s\[{{]")
_QWEN_CODER = re.compile(r"[^<>\n]*+>\s*+<")  # arguments in tags
_CALL = ".call"


def _read(text: str, repairer: Repairer) -> Iterator[Piece]:
    """Yield the prose, thoughts, calls and faults of a turn, in order."""
    if _OWN.search(text):
        yield from read_marked(text, repairer, syntax=_SYNTAX)
    else:
        yield from LLAMA3.read(text, repairer)


def _read_block(text: str, at: int, marker: Marker, repairer: Repairer) -> tuple[list[Piece], int]:
    """Return the call behind a marker, and where it ends."""
    if marker is _FUNCTION and _QWEN_CODER.match(text, at):
        return foreign_block(text, at - len(_FUNCTION.opening[0]))
    if marker is _FUNCTION:
        return read_named_block(text, at, marker, repairer, form=_NAMED)
    at = skip_python_space(text, at)
    if text[at : at + 1] in ("{", "["):
        return read_json_block(text, at, marker, repairer, argument_keys=("parameters", "arguments"))
    piece, end = read_python_call(text, at, _STYLE)
    if isinstance(piece, Fault) or piece.spans is None:
        return [piece], end
    if not piece.call.name.endswith(_CALL):
        return [Fault(f"expected name{_CALL}(...) after {PYTHON_TAG}, found other Python code")], end
    name = (piece.spans.name[0], piece.spans.name[1] - len(_CALL))
    call = ToolCall(text[slice(*name)], piece.call.arguments)
    return [replace(piece, call=call, spans=CallSpans(name, piece.spans.values))], end


_SYNTAX = MarkedSyntax((_FUNCTION, _TAG), _read_block)

LLAMA3_IPYTHON = ChatFormat(
    name="llama3_ipython",
    read=_read,
    write=named_call_writer(_NAMED, _FUNCTION),
    calls=named_call_template(_NAMED, _FUNCTION),
    instructions=(
        'To call a function, write <function=name>{"argument": value}</function> with its arguments as a JSON object. '
        "Several calls follow each other."
    ),
    call_tokens=(PYTHON_TAG,),
    syntaxes=(PYTHON_TAG_SYNTAX, "Llama 3.1 <function=> with JSON"),
    other_stops=LLAMA3.other_stops,
    stray_call="a call outside <function=> tags",
    call_syntax=CallSyntax(
        "named",
        first="<function=",
        between="<function=",
        opens=("</?function[=>]", r"<\|python_tag\|>"),
        line_opens=BARE_OBJECTS.line_opens,
        name=NAME.pattern,
        after_name=">",
        after_arguments="</function>",
    ),
)
