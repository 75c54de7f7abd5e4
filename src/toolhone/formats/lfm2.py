"""The lfm2 format: calls in a Python list between `<|tool_call_start|>` and `<|tool_call_end|>`, for LFM2 and LFM2.5.

They are written as LFM2's newer templates write them: texts in single quotes, lists and dicts as JSON. The templates of
LFM2.5 write texts without escapes, so a text with a quote or a backslash does not read back. A prompt may ask LFM2 for
JSON in the same tokens. That is read too, but vLLM's parser `lfm2` reads only Python, and only the first block.
"""

from __future__ import annotations

import json
import re
from functools import partial
from typing import Any

from toolhone.formats.call_syntax import CallSyntax, StringSyntax
from toolhone.formats.chat_format import ChatFormat
from toolhone.formats.foreign_syntax import syntax_at
from toolhone.formats.marked_json import MarkedSyntax, Marker, cut_within, read_json_block, read_marked
from toolhone.formats.pieces import Fault, Piece, foreign_block
from toolhone.formats.python_calls import SPACE, PythonCallStyle, read_python_calls, skip_python_space
from toolhone.formats.python_writing import PythonCallForm
from toolhone.formats.repair import Repairer

_START, _END = "<|tool_call_start|>", "<|tool_call_end|>"
_SYNTAX = "LFM2 <|tool_call_start|>"
_STYLE = PythonCallStyle(
    dotted=True,
    ascii_first=False,
    # vLLM's parser repairs these two before it reads.
    keyword_arguments=True,
    control_characters=True,
    refused=re.compile(re.escape(_END)),
)
_COMMA = re.compile(rf"{SPACE},")
_JSON = re.compile(r"\s*+\[?\s*+\{")


def _read_block(text: str, at: int, marker: Marker, repairer: Repairer) -> tuple[list[Piece], int]:
    """Return the calls of the block whose opening ends here, and where it ends."""
    start = at - len(_START)
    if syntax_at(text, start) != _SYNTAX:  # MiniCPM3 writes a code fence in the same tokens
        return foreign_block(text, start)
    if _JSON.match(text, at):
        return read_json_block(text, at, marker, repairer, argument_keys=("arguments", "parameters"))
    at = skip_python_space(text, at)
    if not text.startswith("[", at):
        return [Fault(f"expected [ after {_START}", "unfinished" if at == len(text) else "broken")], at
    pieces, at = read_python_calls(text, at + 1, _STYLE, separator=_COMMA, closing="]")
    if isinstance(pieces[-1], Fault):
        return pieces, at
    end = skip_python_space(text, at)
    if text.startswith(_END, end):
        return pieces, end + len(_END)
    is_cut = cut_within(text, end, _END)
    return [*pieces, Fault(f"expected {_END} after the calls", "unfinished" if is_cut else "broken")], end


def _literal(value: Any) -> str:
    if isinstance(value, str):
        for character, escape in (("\\", "\\\\"), ("'", "\\'"), ("\n", "\\n"), ("\r", "\\r")):
            value = value.replace(character, escape)
        return f"'{value}'"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value)


_LITERAL = r"""
{%- macro write_value(value) -%}
    {%- if value is string -%}
        {%- set text = value | replace("\\", "\\\\") | replace("'", "\\'") -%}
        {{- "'" + (text | replace("\n", "\\n") | replace("\r", "\\r")) + "'" }}
    {%- elif value is mapping or value is iterable -%}{{- value | tojson }}
    {%- else -%}{{- value | string }}
    {%- endif -%}
{%- endmacro -%}
"""

_FORM = PythonCallForm(f"{_START}[", f"]{_END}", ", ", literal=_literal, macro=_LITERAL)

LFM2 = ChatFormat(
    name="lfm2",
    read=partial(read_marked, syntax=MarkedSyntax((Marker((_START,), closing=_END),), _read_block)),
    write=_FORM.write,
    calls=_FORM.calls,
    instructions=f"To call functions, write a Python list of calls: {_START}[name(argument='text'), other()]{_END}.",
    call_tokens=(_START, _END),
    syntaxes=(_SYNTAX,),
    stray_call=f"a call outside {_START} and {_END}",
    serving_parsers={"vllm": "lfm2", "sglang": "lfm2"},
    call_syntax=CallSyntax(
        "python",
        first=f"{_START}[",
        between=", ",
        last=f"]{_END}",
        opens=(re.escape(_START), re.escape(_END)),
        python=_STYLE,
        strings=StringSyntax(refused=(_END,)),
    ),
)
