"""The granite3 format: calls of Granite 3 and Falcon 3, a JSON list behind `<|tool_call|>` or `<tool_call>`.

Granite 4 writes an object in each `<tool_call>` block: that is the hermes format.
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
from toolhone.formats.pieces import TOOL_CALL, TOOL_CALL_END

_TOKEN = "<|tool_call|>"
_SYNTAX = MarkedSyntax(
    (Marker((_TOKEN,)), Marker((TOOL_CALL,), ahead=("[", "{"), closing=TOOL_CALL_END, may_stay_open=True)),
    read_json_block,
)

GRANITE3 = ChatFormat(
    name="granite3",
    read=partial(read_marked, syntax=_SYNTAX),
    write=list_call_writer(_TOKEN),
    calls=list_call_template(_TOKEN),
    instructions=(
        'To call functions, respond with <|tool_call|>[{"name": <function-name>, "arguments": <args-json-object>}], '
        "several calls in one list."
    ),
    call_tokens=(_TOKEN,),
    syntaxes=("Phi-4-mini and Granite 3 <|tool_call|>", "Granite 3 and Falcon 3, a list in <tool_call>"),
    serving_parsers={"vllm": "granite"},
    call_syntax=CallSyntax(
        "object", first=f"{_TOKEN}[", between=", ", last="]", opens=(r"<\|tool_call\|>", "</?tool_call>")
    ),
)
