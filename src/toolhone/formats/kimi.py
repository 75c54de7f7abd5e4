"""The kimi format: calls of Kimi K2 in one `<|tool_calls_section_begin|>` block, each with an id that has its name."""

from __future__ import annotations

import re
from functools import partial

from toolhone.formats.call_syntax import CallSyntax
from toolhone.formats.chat_format import ChatFormat
from toolhone.formats.marked_json import MarkedSyntax, Marker, read_marked
from toolhone.formats.named_json import NamedCall, named_call_template, named_call_writer, read_named_block

_SECTION = Marker(("<|tool_calls_section_begin|>",), closing="<|tool_calls_section_end|>")
_BEGIN, _ARGUMENTS, _END = "<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"
_NAME = re.compile(r"(?P<name>[^\s:\[\]{}<>|｜]{1,200})")
_ID_END = (":", re.compile(r"\d{1,9}"), _ARGUMENTS)

_CALL = NamedCall(
    before_name=f"{_BEGIN}functions.",
    after_name=f":{{index}}{_ARGUMENTS}",
    after_arguments=_END,
    between="",
    headers=((f"{_BEGIN}functions.", _NAME, *_ID_END), (_BEGIN, _NAME, *_ID_END)),
)

KIMI = ChatFormat(
    name="kimi",
    read=partial(read_marked, syntax=MarkedSyntax((_SECTION,), partial(read_named_block, form=_CALL))),
    write=named_call_writer(_CALL, _SECTION),
    calls=named_call_template(_CALL, _SECTION),
    instructions=(
        "To call functions, respond with one section that contains every call, numbered from 0:\n"
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.<function-name>:<number><|tool_call_argument_begin|>"
        "<args-json-object><|tool_call_end|><|tool_calls_section_end|>"
    ),
    call_tokens=(*_SECTION.opening, _SECTION.closing, _BEGIN, _ARGUMENTS, _END),
    syntaxes=("Kimi K2 <|tool_calls_section_begin|>",),
    serving_parsers={"vllm": "kimi_k2", "sglang": "kimi_k2"},
    call_syntax=CallSyntax(
        "named",
        first=f"{_SECTION.opening[0]}{_CALL.before_name}",
        between=_CALL.before_name,
        last=_SECTION.closing,
        opens=(r"<\|tool_calls_section_(?:begin|end)\|>", r"<\|tool_call_(?:begin|argument_begin|end)\|>"),
        name=_NAME.pattern,
        after_name=_CALL.after_name,
        after_arguments=_END,
    ),
)
