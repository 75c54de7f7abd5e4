"""Reads and writes the turns of formats whose calls are tags around a name and texts: qwen_xml, minicpm5 and glm45.

A format describes its tags as a `TaggedSyntax`. Its `read_block` finds the parts of one call. This module does the rest
of the turn: prose, thoughts, stray tags and calls in other syntaxes, and gives the values their types.

A text that contains the syntax's own tags cannot be carried. The reader never guesses where such a text ends, and the
writer writes the call so that it is read as malformed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toolhone.formats.call_json import SURROGATE, CallSpans, Span, Undecodable, decode, short
from toolhone.formats.chat_format import RawCall, Writer
from toolhone.formats.foreign_syntax import openings
from toolhone.formats.pieces import (
    THINK,
    THINK_END,
    Fault,
    Piece,
    PlacedCall,
    Thought,
    foreign_block,
    read_thought,
)
from toolhone.formats.repair import Repairer
from toolhone.records import FinishReason, ToolCall
from toolhone.tool_schema import Schema

_SHORTEST_BEGUN = 5
"""The shortest beginning of a tag, such as `<tool` or `<func`, that may become a call if the text stops there."""


@dataclass(frozen=True, slots=True)
class WrittenValue:
    """An argument as it is written: its name, the text of its value, and the span of that text."""

    name: str
    text: str
    span: Span


@dataclass(frozen=True, slots=True)
class WrittenCall:
    """A call as it is written, before its values have types. `start` and `end` are its place in the text."""

    name: str
    name_span: Span
    values: tuple[WrittenValue, ...]
    start: int
    end: int


BlockReader = Callable[[str, int], tuple[WrittenCall | Fault | None, int]]
"""Reads the call whose opening tag is at an index. Returns the call, its fault, or None if it is a call in another
syntax; and the index where reading continues. Never raises, and takes time linear in what it reads."""


@dataclass(frozen=True, slots=True)
class TaggedSyntax:
    """How a format writes calls.

    Attributes:
        marks: finds everything that is not prose; see `marks_of`.
        tags: the opening tags, to detect one that is only begun.
        name: the names that can be written.
        read_block: reads one call.
        typed: gives a value its type: text, the tool's JSON Schema, the argument's name.
        written: writes a value that is not a string, given as JSON; and a string.
        opening, value, closing: a call as format strings with {name}, or {name} and {text}.
        before: the text between prose and the first call.
        between: the text between two calls.
    """

    marks: re.Pattern[str]
    tags: tuple[str, ...]
    name: re.Pattern[str]
    read_block: BlockReader
    typed: Callable[[str, Schema | None, str], Any]
    opening: str
    value: str
    closing: str
    before: str = "\n"
    between: str = "\n"
    write_string: Callable[[str], str] = str
    write_json: Callable[[str], str] = str


def marks_of(opening: str, stray: str, *own: str) -> re.Pattern[str]:
    """Return the pattern of everything in a turn that is not prose.

    Args:
        opening: the pattern of an opening tag.
        stray: the pattern of a closing tag, which is a fault outside a call.
        own: the names of the format's syntaxes in `foreign_syntax.TAGGED`.
    """
    return re.compile(rf"</?think>|(?P<foreign>{openings(*own)})|{opening}|(?P<stray>{stray})", re.MULTILINE)


def read_tagged(text: str, repairer: Repairer, *, syntax: TaggedSyntax) -> Iterator[Piece]:
    """Yield the prose, thoughts, calls and faults of a turn, in order."""
    prose = at = 0
    while mark := syntax.marks.search(text, at):
        token, at = mark.group(), mark.end()
        pieces: list[Piece] = []
        if mark["foreign"] is not None:
            pieces, at = foreign_block(text, mark.start())
        elif token == THINK:
            pieces, at = read_thought(text, mark.start(), repairer.tools)
        elif token == THINK_END:
            pieces = [Thought(0, mark.start(), opened=False)]
        elif mark["stray"] is not None:
            pieces = [Fault(f"a {token} outside a call")]
        else:
            found, at = syntax.read_block(text, mark.start())
            if found is None:
                pieces, at = foreign_block(text, mark.start())
            else:
                pieces = [found if isinstance(found, Fault) else _call(text, found, syntax, repairer)]
        yield text[prose : mark.start()]
        yield from pieces
        prose = at
    begun = _begun_tag(text[prose:], syntax.tags)
    yield text[prose : len(text) - len(begun)]
    if begun:
        yield Fault(f"the tag {begun} is not finished", "begun", begun)


def _begun_tag(text: str, tags: Sequence[str]) -> str:
    """Return the beginning of a tag at the end of the text; "" if there is none."""
    begun = (tag[:size] for tag in tags for size in range(len(tag) - 1, _SHORTEST_BEGUN - 1, -1))
    return next((each for each in begun if text.endswith(each)), "")


def _call(text: str, found: WrittenCall, syntax: TaggedSyntax, repairer: Repairer) -> PlacedCall | Fault:
    """Return the call with typed values, or why it is not one."""
    if SURROGATE.search(text, found.start, found.end):
        return Fault("half of a surrogate pair, which is not a character")
    parameters = repairer.parameters_of(found.name)
    arguments: dict[str, Any] = {}
    for value in found.values:
        if value.name in arguments:
            return Fault(f'the argument "{short(value.name)}" is given twice')
        arguments[value.name] = syntax.typed(value.text, parameters, value.name)
    spans = CallSpans(found.name_span, {value.name: value.span for value in found.values})
    return PlacedCall(ToolCall(found.name, arguments), found.start, found.end, spans)


def begins(tag: str, text: str, at: int) -> bool:
    """Whether the text stops at this index inside the tag, or right before it."""
    return len(text) - at < len(tag) and tag.startswith(text[at:])


def tagged_writer(syntax: TaggedSyntax) -> Writer:
    """Return the writer of a format."""

    def write(content: str, calls: Sequence[RawCall], finish_reason: FinishReason) -> str:
        cut = len(calls) if finish_reason == "length" else 0
        written = [_written(call, syntax, may_be_cut=number == cut) for number, call in enumerate(calls, 1)]
        return content + (syntax.before if content and written else "") + syntax.between.join(written)

    return write


def _written(call: RawCall, syntax: TaggedSyntax, *, may_be_cut: bool) -> str:
    raw = call.arguments.strip() or "{}"  # some endpoints send an empty text if there are no arguments
    has_name = syntax.name.fullmatch(call.name) is not None
    opening = syntax.opening.format(name=call.name if has_name else _escaped(call.name))
    found = decode(raw, 0)
    if isinstance(found, Undecodable):
        if may_be_cut and found.cut and raw.startswith("{"):
            return opening.rstrip("\n")
    elif found.fault is None and isinstance(found.value, dict) and found.end == len(raw) and has_name:
        texts = {name: _text_of(value, syntax) for name, value in found.value.items()}
        whole = opening + "".join(syntax.value.format(name=name, text=text) for name, text in texts.items())
        whole += syntax.closing
        if _reads_back(whole, call.name, found.value, syntax):
            return whole
    # Without tags, the arguments are read as a fault, and cannot end this call and begin another one.
    return f"{opening}{_escaped(call.arguments)}\n{syntax.closing}"


def _text_of(value: Any, syntax: TaggedSyntax) -> str:
    if isinstance(value, str):
        return syntax.write_string(value)
    return syntax.write_json(json.dumps(value, ensure_ascii=False))


def _reads_back(written: str, name: str, arguments: Mapping[str, Any], syntax: TaggedSyntax) -> bool:
    """Whether a written call has this name and these arguments. Types are not compared: they need the tool's schema."""
    found, end = syntax.read_block(written, 0)
    if not isinstance(found, WrittenCall) or end != len(written) or found.name != name:
        return False
    read = [(value.name, value.text) for value in found.values]
    return read == [
        (key, value if isinstance(value, str) else syntax.write_json(json.dumps(value, ensure_ascii=False)))
        for key, value in arguments.items()
    ]


def _escaped(text: str) -> str:
    """Return the text as a JSON string without tags."""
    return json.dumps(text).replace("<", "\\u003c").replace(">", "\\u003e")


def tagged_template(syntax: TaggedSyntax, string: str = "value", other: str = "value | tojson") -> str:
    """Return the body of the Jinja macro `write_calls`, which writes what the writer does.

    Args:
        string, other: Jinja expressions for a `value` that is a string, and for any other.
    """
    opening = json.dumps(syntax.opening).replace("{name}", '" + call.function.name + "')
    argument = json.dumps(syntax.value).replace("{name}", '" + name + "').replace("{text}", '" + text + "')
    return f"""{{{{- content }}}}
{{%- for call in calls %}}
    {{{{- {json.dumps(syntax.between)} if not loop.first else {json.dumps(syntax.before)} if content else "" }}}}
    {{{{- {opening} }}}}
    {{%- for name, value in call.function.arguments.items() %}}
        {{%- set text = ({string}) if value is string else ({other}) %}}
        {{{{- {argument} }}}}
    {{%- endfor %}}
    {{{{- {json.dumps(syntax.closing)} }}}}
{{%- endfor %}}"""
