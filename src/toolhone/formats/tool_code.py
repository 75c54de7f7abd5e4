"""The tool_code format: Python calls in a code fence, as Gemma 3 answers if a prompt asks for nothing else.

It reads ```` ```tool_code ```` fences with one call in each line, also inside `print()` and with Gemini's prefix
`default_api.`. No serving engine has a parser for it. So it is there to read the answers of base models, and is never
chosen for training.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial

from toolhone.formats.call_json import CallSpans
from toolhone.formats.call_syntax import CallSyntax
from toolhone.formats.chat_format import ChatFormat
from toolhone.formats.marked_json import MarkedSyntax, Marker, cut_within, read_marked
from toolhone.formats.pieces import FENCE, Fault, Piece, PlacedCall
from toolhone.formats.python_calls import PythonCallStyle, read_python_call, skip_python_space
from toolhone.formats.python_writing import PythonCallForm
from toolhone.formats.repair import Repairer
from toolhone.records import ToolCall

_START = f"{FENCE}tool_code"
_STYLE = PythonCallStyle(dotted=True, ascii_first=False)
_FORM = PythonCallForm(f"{_START}\n", f"\n{FENCE}", "\n", space="\n")
_PRINT = "print("
_PREFIX = "default_api."
_LINE_END = re.compile(r"[ \t]*+(?:\r?\n|;)")


def _read_block(text: str, at: int, _: Marker, repairer: Repairer) -> tuple[list[Piece], int]:
    """Return the calls of the fence whose opening ends here, and where it ends."""
    pieces: list[Piece] = []
    at = skip_python_space(text, at)
    while not text.startswith(FENCE, at):
        if pieces and cut_within(text, at, FENCE):
            return [*pieces, Fault("the code fence is not closed", "unfinished")], len(text)
        piece, at = _read_line(text, at)
        pieces.append(piece)
        if isinstance(piece, Fault):
            return pieces, at
        end = skip_python_space(text, at)
        if line_end := _LINE_END.match(text, at):
            end = skip_python_space(text, line_end.end())
        elif not text.startswith(FENCE, end) and not cut_within(text, end, FENCE):
            return [*pieces, Fault("expected the end of the line after a call")], end
        at = end
    return pieces or [Fault("a code fence for calls without a call")], at + len(FENCE)


def _read_line(text: str, start: int) -> tuple[PlacedCall | Fault, int]:
    """Return the call that starts here, or its fault, and where its line ends."""
    is_printed = text.startswith(_PRINT, start)
    first = skip_python_space(text, start + len(_PRINT)) if is_printed else start
    piece, at = read_python_call(text, first, _STYLE)
    if isinstance(piece, Fault):
        return piece, at
    if is_printed:
        at = skip_python_space(text, at)
        if not text.startswith(")", at):
            return Fault("expected ) after the call", "unfinished" if at == len(text) else "broken"), at
        at += 1
    if piece.spans and piece.call.name.startswith(_PREFIX):
        name = (piece.spans.name[0] + len(_PREFIX), piece.spans.name[1])
        call = ToolCall(text[slice(*name)], piece.call.arguments)
        piece = replace(piece, call=call, spans=CallSpans(name, piece.spans.values))
    return piece, at


TOOL_CODE = ChatFormat(
    name="tool_code",
    read=partial(read_marked, syntax=MarkedSyntax((Marker((_START,)),), _read_block)),
    write=_FORM.write,
    calls=_FORM.calls,
    instructions=(
        "To call functions, write them in a code fence, each on a line of its own:\n"
        f'{_FORM.opening}name(argument="text"){_FORM.closing}'
    ),
    syntaxes=("Gemma 3 tool_code",),
    stray_call="a call outside a tool_code fence",
    is_detected=False,
    call_syntax=CallSyntax(
        "python",
        first=_FORM.opening,
        between=_FORM.between,
        last=_FORM.closing,
        opens=(_START,),
        python=_STYLE,
        on_own_line=True,
        is_exact=True,
    ),
)
