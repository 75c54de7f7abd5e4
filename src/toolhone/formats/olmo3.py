"""The olmo3 format: Python calls, each on a line, in `<function_calls>` tags, as OLMo 3 Instruct writes them.

Values are JSON. vLLM's parser `olmo3` drops the text beside the calls. It splits a block at every line end that Unicode
knows, so a text must write these characters as escapes.
"""

from __future__ import annotations

import json
import re
from functools import partial
from typing import Any

from toolhone.formats.call_syntax import CallSyntax, StringSyntax
from toolhone.formats.chat_format import ChatFormat
from toolhone.formats.foreign_syntax import syntax_at
from toolhone.formats.marked_json import MarkedSyntax, Marker, read_marked
from toolhone.formats.pieces import Piece, foreign_block
from toolhone.formats.python_calls import PythonCallStyle, read_python_calls
from toolhone.formats.python_writing import PythonCallForm
from toolhone.formats.repair import Repairer

_START, _END = "<function_calls>", "</function_calls>"
_SYNTAX = "OLMo-3 <function_calls>"
_LINE_ENDS = "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
_STYLE = PythonCallStyle(refused=re.compile(rf"[{_LINE_ENDS}]|{_END}"))
_LINE_END = re.compile(r"[ \t]*+(?:\r?\n|,)")

_UNESCAPED_LINE_ENDS = {"\x85": "\\u0085", "\u2028": "\\u2028", "\u2029": "\\u2029"}
"""The line ends that JSON writes without an escape."""


def _read_block(text: str, at: int, marker: Marker, _: Repairer) -> tuple[list[Piece], int]:
    """Return the calls of the block whose opening ends here, and where it ends."""
    start = at - len(_START)
    if syntax_at(text, start) != _SYNTAX:
        return foreign_block(text, start)
    return read_python_calls(text, at, _STYLE, separator=_LINE_END, closing=marker.closing)


def _literal(value: Any) -> str:
    written = json.dumps(value, ensure_ascii=False)
    for character, escape in _UNESCAPED_LINE_ENDS.items():
        written = written.replace(character, escape)
    return written


_LITERAL = r"""
{%- macro write_value(value) -%}
    {{- value | tojson | replace("\u0085", "\\u0085") | replace("\u2028", "\\u2028") | replace("\u2029", "\\u2029") }}
{%- endmacro -%}
"""

_FORM = PythonCallForm(_START, _END, "\n", literal=_literal, macro=_LITERAL)

OLMO3 = ChatFormat(
    name="olmo3",
    read=partial(read_marked, syntax=MarkedSyntax((Marker((_START,), closing=_END),), _read_block)),
    write=_FORM.write,
    calls=_FORM.calls,
    instructions=(
        f'To call functions, write {_START}name(argument="text"){_END}. Write several calls each on a line of its own.'
    ),
    call_tokens=(_START, _END),
    syntaxes=(_SYNTAX,),
    stray_call=f"a call outside {_START} tags",
    serving_parsers={"vllm": "olmo3"},
    call_syntax=CallSyntax(
        "python",
        first=_START,
        between="\n",
        last=_END,
        opens=("<function_calls", _END),
        python=_STYLE,
        strings=StringSyntax(escaped=_LINE_ENDS, refused=(_END,)),
        is_exact=True,
    ),
)
