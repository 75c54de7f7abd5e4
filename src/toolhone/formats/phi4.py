"""The phi4 format: calls of Phi-4-mini, a JSON list behind `functools` or in `<|tool_call|>` tokens."""

from __future__ import annotations

from functools import partial

from toolhone.formats.chat_format import ChatFormat
from toolhone.formats.marked_json import (
    MarkedSyntax,
    Marker,
    list_call_template,
    list_call_writer,
    read_json_block,
    read_marked,
)

_SYNTAX = MarkedSyntax(
    (Marker(("functools",), ahead=("[", "{")), Marker(("<|tool_call|>",), closing="<|/tool_call|>")),
    partial(read_json_block, argument_keys=("arguments", "parameters")),
)

PHI4 = ChatFormat(
    name="phi4",
    read=partial(read_marked, syntax=_SYNTAX),
    write=list_call_writer("functools", space="\n"),
    calls=list_call_template("functools", space="\n"),
    instructions=(
        'To call functions, respond with functools[{"name": <function-name>, "arguments": <args-json-object>}], '
        "several calls in one list."
    ),
    call_tokens=("<|tool_call|>", "<|/tool_call|>"),
    syntaxes=("Phi-4-mini functools", "Phi-4-mini and Granite 3 <|tool_call|>"),
    # Its parser stops at the first "]", so it cannot read arguments with lists.
    serving_parsers={"vllm": "phi4_mini_json"},
)
