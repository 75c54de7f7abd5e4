"""The phi4 format: calls of Phi-4-mini, a JSON list in `<|tool_call|>` tokens or behind `functools`.

The list is written in the tokens. vLLM reads them with its parser for Granite. Its parser for `functools`,
phi4_mini_json, ends the list at the first "]", so it loses every turn whose arguments contain one.
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

_OPENING, _CLOSING = "<|tool_call|>", "<|/tool_call|>"
_SYNTAX = MarkedSyntax(
    (Marker((_OPENING,), closing=_CLOSING), Marker(("functools",), ahead=("[", "{"))),
    partial(read_json_block, argument_keys=("arguments", "parameters")),
)

PHI4 = ChatFormat(
    name="phi4",
    read=partial(read_marked, syntax=_SYNTAX),
    write=list_call_writer(_OPENING, _CLOSING),
    calls=list_call_template(_OPENING, _CLOSING),
    instructions=(
        "To call functions, respond with "
        '<|tool_call|>[{"name": <function-name>, "arguments": <args-json-object>}]<|/tool_call|>, '
        "several calls in one list."
    ),
    call_tokens=(_OPENING, _CLOSING),
    syntaxes=("Phi-4-mini functools", "Phi-4-mini and Granite 3 <|tool_call|>"),
    serving_parsers={"vllm": "granite"},
    call_syntax=CallSyntax(
        "object",
        first=f"{_OPENING}[",
        between=", ",
        last=f"]{_CLOSING}",
        opens=(r"<\|/?tool_call\|>", r"functools\s*\["),
        argument_keys=("arguments", "parameters"),
    ),
)
