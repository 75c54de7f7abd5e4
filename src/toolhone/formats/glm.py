"""The formats of GLM: glm45 (GLM-4.5 to 4.7), tags around each key and value; glm4 (GLM-4-0414), JSON under the name.

    <tool_call>query_order                     query_order
    <arg_key>order_id</arg_key>                {"order_id": "A1"}
    <arg_value>A1</arg_value>
    </tool_call>

GLM-4.7 writes the same tags without new lines. A text in <arg_value> is read exactly, with its white space.

GLM-4-0414 has no tags, so a call is a declared name alone on a line, with a JSON object on the next. At the start of a
turn any single word may be the name. The model begins further calls with <|assistant|>; new lines are read too, and
written. Its own template writes calls only from `metadata` of a message. No serving engine has a parser for it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from toolhone.formats.call_json import CallSpans, Span, Undecodable, decode, member_spans, skip_space
from toolhone.formats.call_syntax import CallSyntax, TextForm
from toolhone.formats.chat_format import ChatFormat, RawCall
from toolhone.formats.foreign_syntax import HERMES_SYNTAX, openings
from toolhone.formats.pieces import (
    THINK,
    THINK_END,
    TOOL_CALL,
    TOOL_CALL_END,
    Fault,
    Piece,
    PlacedCall,
    Thought,
    foreign_block,
    read_thought,
)
from toolhone.formats.repair import Repairer
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
from toolhone.records import FinishReason, ToolCall

_SYNTAXES = ("GLM-4.5 <tool_call> with a name and <arg_key>",)
_KEY, _KEY_END, _VALUE, _VALUE_END = "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"
_NAME = re.compile(r"[^\s<>\"'`({\[]++(?: [^\s<>\"'`({\[]++)*+")
_BLOCK_END = re.compile(r"</?tool_call>")
# vLLM ends the call at the first </tool_call>.
_STOPS = {tag: re.compile(f"{tag}|{TOOL_CALL_END}") for tag in (_KEY_END, _VALUE_END)}


def _read_block(text: str, start: int) -> tuple[WrittenCall | Fault | None, int]:
    """Return the call whose `<tool_call>` is here, and where it ends."""
    first = skip_space(text, start + len(TOOL_CALL))
    name = _NAME.match(text, first)
    if name is None:
        if first == len(text):
            return Fault("the text ends after <tool_call>", "unfinished"), first
        return (None, start) if text[first] in "{[" else _broken(text, first, f"expected a name after {TOOL_CALL}")
    values: list[WrittenValue] = []
    at = name.end()
    while True:
        at = skip_space(text, at)
        if text.startswith(TOOL_CALL_END, at):
            return WrittenCall(name.group(), name.span(), tuple(values), first, at), at + len(TOOL_CALL_END)
        key, key_end = _between(text, at, _KEY, _KEY_END)
        if isinstance(key, Fault):
            if key.kind == "unfinished" or begins(TOOL_CALL_END, text, at):
                return Fault(key.reason, "unfinished"), len(text)
            return _broken(text, key_end, key.reason)
        written, at = _between(text, skip_space(text, key_end), _VALUE, _VALUE_END)
        if isinstance(written, Fault):
            return (written, at) if written.kind == "unfinished" else _broken(text, at, written.reason)
        key_text = text[slice(*key)].strip()
        if not key_text or "<" in key_text or ">" in key_text:
            return _broken(text, key[0], f"expected a name in {_KEY}")
        values.append(WrittenValue(key_text, text[slice(*written)], written))


def _between(text: str, at: int, opening: str, closing: str) -> tuple[Span | Fault, int]:
    """Return the span of the text between two tags, the first of which is here, and the index after the second."""
    if not text.startswith(opening, at):
        if begins(opening, text, at):
            return Fault(f"expected {opening} in a call", "unfinished"), len(text)
        return Fault(f"expected {opening} in a call"), at
    first = at + len(opening)
    stop = _STOPS[closing].search(text, first)
    if stop is None:
        return Fault(f"expected {closing} in a call", "unfinished"), len(text)
    if stop.group() != closing:
        return Fault(f"expected {closing} in a call"), first
    return (first, stop.start()), stop.end()


def _broken(text: str, at: int, reason: str) -> tuple[Fault, int]:
    """Return the fault, and where the broken call ends: after its end tag, or before the next call."""
    tag = _BLOCK_END.search(text, at)
    if tag is None:
        return Fault(reason), len(text)
    return Fault(reason), tag.end() if tag.group() == TOOL_CALL_END else tag.start()


_SYNTAX = TaggedSyntax(
    marks=marks_of(TOOL_CALL, rf"{TOOL_CALL_END}|</?arg_key>|</?arg_value>", *_SYNTAXES, HERMES_SYNTAX),
    tags=(TOOL_CALL,),
    name=_NAME,
    read_block=_read_block,
    typed=typed_value,
    opening="<tool_call>{name}\n",
    value="<arg_key>{name}</arg_key>\n<arg_value>{text}</arg_value>\n",
    closing="</tool_call>",
)

_STOP_TOKENS = ("<|user|>", "<|observation|>", "<|endoftext|>")
"""A turn has no end token: the model begins the next turn, or asks for the results."""

GLM45 = ChatFormat(
    name="glm45",
    read=partial(read_tagged, syntax=_SYNTAX),
    write=tagged_writer(_SYNTAX),
    calls=tagged_template(_SYNTAX),
    instructions=(
        "To call a function, respond in this format, with a pair of tags for each argument. Write numbers, true, "
        "false, null, lists and objects as JSON, and texts as they are. To call several functions, write one "
        "<tool_call> block after another.\n\n"
        "<tool_call>function_name\n<arg_key>argument_name</arg_key>\n<arg_value>value</arg_value>\n</tool_call>"
    ),
    syntaxes=_SYNTAXES,
    other_stops=_STOP_TOKENS,
    stray_call="a call outside <tool_call> tags",
    serving_parsers={"vllm": "glm45", "sglang": "glm45"},
    call_syntax=CallSyntax(
        "tags",
        first=TOOL_CALL,
        between=f"\n{TOOL_CALL}",
        opens=("</?tool_call>", "</?arg_key>", "</?arg_value>"),
        after_name="\n",
        after_arguments=TOOL_CALL_END,
        argument=_SYNTAX.value,
        texts=(TextForm(_STOPS[_VALUE_END].pattern),),
        name=_NAME.pattern,
        key=r"[^\s<>](?:[^<>]*[^\s<>])?",
    ),
)


_NEXT_CALL = "<|assistant|>"
_WORDS = r"[^\s<>{}\[\]()\"'`,;]++(?: [^\s<>{}\[\]()\"'`,;]++)*+"
_LINE_START = rf"(?:^|(?<={re.escape(_NEXT_CALL)})|(?<={THINK_END}))[ \t]*+"
_MARK = re.compile(
    rf"</?think>|(?P<foreign>{openings()})|{re.escape(_NEXT_CALL)}"
    rf"|{_LINE_START}(?P<name>{_WORDS})[ \t]*+\r?\n[ \t]*+(?P<arguments>\{{)",
    re.MULTILINE,
)
_BEGUN = re.compile(rf"{_LINE_START}(?P<name>{_WORDS})\Z", re.MULTILINE)
_IDENTIFIER = re.compile(r"[^\W\d][\w.-]*+")
_OBJECT = re.compile(r"\{\s*+(?:[\"}]|\Z)")
_OVER_OBJECT = r"[\w.\x80-\U0010FFFF-][ \t]*\r?\n[ \t]*\{"
"""What opens a call: a line that ends with a word, which may be a tool's name, above the brace of an object."""


def _read_glm4(text: str, repairer: Repairer) -> Iterator[Piece]:
    """Yield the prose, thoughts, calls and faults of a turn, in order."""
    prose = at = 0
    at_start = True
    while mark := _MARK.search(text, at):
        token, at = mark.group(), mark.end()
        before, start = text[prose : mark.start()], mark.start()
        at_start = at_start and not before.strip()
        pieces: list[Piece] = []
        if mark["foreign"] is not None:
            pieces, at = foreign_block(text, start)
        elif token == THINK:
            pieces, at = read_thought(text, start, repairer.tools)
        elif token == THINK_END:
            pieces, at_start = [Thought(0, start, opened=False)], True
        elif mark["name"] is not None:
            if not _is_name(mark["name"], repairer, at_start=at_start and _OBJECT.match(text, mark.start("arguments"))):
                at = mark.start("arguments")
                continue
            piece, at = _read_arguments(text, mark)
            pieces, at_start = [piece], True
        else:
            at_start = True
        yield before
        yield from pieces
        prose = at
    begun = _BEGUN.search(text, prose)
    begun = begun if begun and _may_be_name(begun["name"], repairer) else None
    yield text[prose : begun.start() if begun else len(text)]
    if begun:
        yield Fault("the call is not finished", "begun", begun.group())


def _is_name(name: str, repairer: Repairer, *, at_start: Any) -> bool:
    """Whether a line above a JSON object is the name of a call: a declared name, or any word if the names are unknown
    or the turn starts with it."""
    if repairer.tools is not None and name in repairer.tools:
        return True
    return bool(at_start or repairer.tools is None) and _IDENTIFIER.fullmatch(name) is not None


def _may_be_name(begun: str, repairer: Repairer) -> bool:
    """Whether the last line of the text may become the name of a call, with a JSON object after it."""
    if repairer.tools is None:
        return _IDENTIFIER.fullmatch(begun) is not None
    return any(tool.startswith(begun) for tool in repairer.tools)


def _read_arguments(text: str, mark: re.Match[str]) -> tuple[PlacedCall | Fault, int]:
    """Return the call whose name and opening brace were found, and where it ends."""
    start = mark.start("arguments")
    found = decode(text, start)
    if isinstance(found, Undecodable):
        return Fault(found.reason, "unfinished" if found.cut else "broken"), max(found.end, start + 1)
    if found.fault is not None:
        return Fault(found.fault), found.end
    spans = CallSpans(mark.span("name"), dict(member_spans(text, start)))
    return PlacedCall(ToolCall(mark["name"], found.value), mark.start("name"), found.end, spans), found.end


def _write_glm4(content: str, calls: Sequence[RawCall], finish_reason: FinishReason) -> str:
    """Write a turn. A call that cannot be read back is written so that it is malformed."""
    written = []
    for number, call in enumerate(calls, 1):
        raw = call.arguments.strip() or "{}"
        found = decode(raw, 0)
        if isinstance(found, Undecodable):
            is_object = found.cut and raw.startswith("{") and finish_reason == "length" and number == len(calls)
        else:
            is_object = found.fault is None and isinstance(found.value, dict) and found.end == len(raw)
        if not _IDENTIFIER.fullmatch(call.name):
            written.append(TOOL_CALL + json.dumps(f"{call.name}\n{call.arguments}"))
        else:
            written.append(f"{call.name}\n{raw if is_object else '{' + json.dumps(call.arguments) + '}'}")
    return content + ("\n" if content and written else "") + "\n".join(written)


GLM4 = ChatFormat(
    name="glm4",
    read=_read_glm4,
    write=_write_glm4,
    calls="""{{- content }}
{%- for call in calls %}
    {{- "\\n" if content or not loop.first }}
    {{- call.function.name + "\\n" + (call.function.arguments | tojson) }}
{%- endfor %}""",
    instructions=(
        "To call a function, write its name alone on a line, and its arguments as a JSON object on the next line. To "
        "call several functions, write one after another."
    ),
    other_stops=_STOP_TOKENS,
    stray_call="a call inside a line of text",
    begins_with_name=True,
    call_syntax=CallSyntax(
        "named",
        opens=(re.escape(_NEXT_CALL), _OVER_OBJECT),
        after_name="\n",
        name=_IDENTIFIER.pattern,
        begins_with_name=True,
        on_own_line=True,
        is_exact=True,
    ),
)
