"""The qwen_xml format: calls of Qwen3-Coder, Qwen3.5 and Nemotron 3, as `<function=...>` with `<parameter=...>` inside.

    <tool_call>
    <function=query_order>
    <parameter=order_id>
    A1
    </parameter>
    </function>
    </tool_call>

The outer tag may be missing. One new line after `<parameter=...>` and one before `</parameter>` belong to the syntax.
"""

from __future__ import annotations

import re
from functools import partial

from toolhone.formats.call_json import skip_space
from toolhone.formats.call_syntax import CallSyntax, TextForm
from toolhone.formats.chat_format import ChatFormat
from toolhone.formats.foreign_syntax import HERMES_SYNTAX
from toolhone.formats.pieces import TOOL_CALL, TOOL_CALL_END, Fault
from toolhone.formats.tagged_calls import (
    TaggedSyntax,
    WrittenCall,
    WrittenValue,
    begins,
    marks_of,
    read_tagged,
    tagged_template,
    tagged_writer,
)
from toolhone.formats.typed_values import typed_value

_SYNTAXES = ("Qwen3-Coder <tool_call><function=>", "Qwen3-Coder <function=>")
_FUNCTION, _FUNCTION_END, _PARAMETER, _PARAMETER_END = "<function=", "</function>", "<parameter=", "</parameter>"
_NAME = re.compile(r"[^\s<>\"]++(?: [^\s<>\"]++)*+")
_KEY = re.compile(r"[^<>\n]++")
# vLLM ends a value at any of these, also with spaces inside a tag. So a value cannot contain them.
_VALUE_STOP = re.compile(r"<\s*+parameter\s*+=|<\s*+/\s*+parameter\s*+>|</?function[=>]")
_BLOCK_END = re.compile(r"</?tool_call>")
_BARE_END = re.compile(r"</function>|<function=|</?tool_call>")


def _read_block(text: str, start: int) -> tuple[WrittenCall | Fault | None, int]:
    """Return the call that opens here, with or without the outer tag, and where reading continues."""
    wrapped = text.startswith(TOOL_CALL, start)
    opening = skip_space(text, start + len(TOOL_CALL)) if wrapped else start
    if not text.startswith(_FUNCTION, opening):
        if begins(_FUNCTION, text, opening):
            return Fault("the text ends after <tool_call>", "unfinished"), len(text)
        if text[opening] in "{[":
            return None, start
        return _broken(text, opening, f"expected {_FUNCTION}name> after {TOOL_CALL}", wrapped=wrapped)
    call, at = _read_function(text, opening, wrapped=wrapped)
    if isinstance(call, Fault):
        return call, at
    close = skip_space(text, at)
    if text.startswith(TOOL_CALL_END, close):
        return call, close + len(TOOL_CALL_END)
    if not wrapped:
        return call, at
    if begins(TOOL_CALL_END, text, close):
        return Fault(f"expected {TOOL_CALL_END} after {_FUNCTION_END}", "unfinished"), len(text)
    return _broken(text, close, f"expected {TOOL_CALL_END} after {_FUNCTION_END}", wrapped=True)


def _read_function(text: str, start: int, *, wrapped: bool) -> tuple[WrittenCall | Fault, int]:
    """Return the call whose `<function=` is here, or its fault, and where it ends."""
    name, at = _tag_text(text, start + len(_FUNCTION), _NAME)
    if isinstance(name, Fault):
        return (name, at) if name.kind == "unfinished" else _broken(text, at, name.reason, wrapped=wrapped)
    values: list[WrittenValue] = []
    while True:
        at = skip_space(text, at)
        if text.startswith(_FUNCTION_END, at):
            end = at + len(_FUNCTION_END)
            return WrittenCall(name.group(), name.span(), tuple(values), start, end), end
        if not text.startswith(_PARAMETER, at):
            reason = f"expected {_PARAMETER}name> or {_FUNCTION_END} in a call"
            if begins(_PARAMETER, text, at) or begins(_FUNCTION_END, text, at):
                return Fault(reason, "unfinished"), len(text)
            return _broken(text, at, reason, wrapped=wrapped)
        key, first = _tag_text(text, at + len(_PARAMETER), _KEY)
        if isinstance(key, Fault):
            return (key, first) if key.kind == "unfinished" else _broken(text, first, key.reason, wrapped=wrapped)
        stop = _VALUE_STOP.search(text, first)
        if stop is None:
            return Fault(f"expected {_PARAMETER_END} after a value", "unfinished"), len(text)
        if stop.group() != _PARAMETER_END:
            return _broken(text, stop.start(), f"expected {_PARAMETER_END} after a value", wrapped=wrapped)
        last = stop.start()
        first += text.startswith("\n", first, last)
        last -= text.endswith("\n", first, last)
        values.append(WrittenValue(key.group(), text[first:last], (first, last)))
        at = stop.end()


def _tag_text(text: str, start: int, pattern: re.Pattern[str]) -> tuple[re.Match[str] | Fault, int]:
    """Return the name in a tag such as `<function=name>`, and the index after the tag."""
    name = pattern.match(text, start)
    end = name.end() if name else start
    if name and text.startswith(">", end):
        return name, end + 1
    return Fault("expected a name and > in a tag of a call", "unfinished" if end == len(text) else "broken"), end


def _broken(text: str, at: int, reason: str, *, wrapped: bool) -> tuple[Fault, int]:
    """Return the fault, and where the broken call ends: after its last tag, or before the next call."""
    tag = (_BLOCK_END if wrapped else _BARE_END).search(text, at)
    if tag is None:
        return Fault(reason), len(text)
    return Fault(reason), tag.end() if tag.group().startswith("</") else tag.start()


_SYNTAX = TaggedSyntax(
    marks=marks_of(rf"{TOOL_CALL}|{_FUNCTION}", rf"{TOOL_CALL_END}|{_PARAMETER_END}", *_SYNTAXES, HERMES_SYNTAX),
    tags=(TOOL_CALL, _FUNCTION),
    name=_NAME,
    read_block=_read_block,
    typed=typed_value,
    opening="<tool_call>\n<function={name}>\n",
    value="<parameter={name}>\n{text}\n</parameter>\n",
    closing="</function>\n</tool_call>",
    before="\n\n",
)

QWEN_XML = ChatFormat(
    name="qwen_xml",
    read=partial(read_tagged, syntax=_SYNTAX),
    write=tagged_writer(_SYNTAX),
    calls=tagged_template(_SYNTAX),
    instructions=(
        "To call a function, respond in this format. Write numbers, true, false, null, lists and objects as JSON, and "
        "texts as they are. To call several functions, write one <tool_call> block after another.\n\n"
        "<tool_call>\n<function=function_name>\n<parameter=parameter_name>\nvalue\n</parameter>\n</function>\n</tool_call>"
    ),
    syntaxes=_SYNTAXES,
    stray_call="a call outside <tool_call> tags",
    serving_parsers={"vllm": "qwen3_xml", "sglang": "qwen3_coder"},
    call_syntax=CallSyntax(
        "tags",
        first=f"{TOOL_CALL}\n{_FUNCTION}",
        between=f"\n{TOOL_CALL_END}\n{TOOL_CALL}\n{_FUNCTION}",
        last=f"\n{TOOL_CALL_END}",
        opens=("</?tool_call>", "<function=", "</?parameter[=>]"),
        after_name=">\n",
        after_arguments=_FUNCTION_END,
        argument=_SYNTAX.value,
        texts=(TextForm(_VALUE_STOP.pattern.replace("*+", "*")),),
        name=_NAME.pattern,
        key=_KEY.pattern,
    ),
)
