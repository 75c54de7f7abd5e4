"""The hunyuan format: calls of Hunyuan, Jamba and Apriel, a JSON list in `<tool_calls>` tags.

MiniMax M1 writes several JSON objects in the same tags. They are read too.
"""

from __future__ import annotations

from functools import partial

from toolhone.formats.call_syntax import CallSyntax
from toolhone.formats.chat_format import ChatFormat
from toolhone.formats.marked_json import (
    MarkedSyntax,
    Marker,
    list_call_template,
    list_call_writer,
    read_json_block,
    read_marked,
)

_OPENING, _CLOSING = "<tool_calls>", "</tool_calls>"
_SYNTAX = MarkedSyntax((Marker((_OPENING,), closing=_CLOSING),), read_json_block)

HUNYUAN = ChatFormat(
    name="hunyuan",
    read=partial(read_marked, syntax=_SYNTAX),
    write=list_call_writer(_OPENING, _CLOSING, space="\n"),
    calls=list_call_template(_OPENING, _CLOSING, space="\n"),
    instructions=(
        "To call functions, respond with "
        '<tool_calls>[{"name": <function-name>, "arguments": <args-json-object>}]</tool_calls>, '
        "several calls in one list."
    ),
    call_tokens=(_OPENING, _CLOSING),
    syntaxes=("Hunyuan, Jamba and MiniMax <tool_calls>",),
    serving_parsers={"vllm": "hunyuan_a13b"},
    call_syntax=CallSyntax(
        "object", first=f"{_OPENING}[", between=", ", last=f"]{_CLOSING}", opens=("</?tool_calls>",)
    ),
)
