"""Reads and writes calls in JSON behind a marker, for example `[TOOL_CALLS][{"name": "f", "arguments": {}}]`.

`read_marked` finds the markers of a syntax, its thoughts and the calls of other families. The block behind a marker is
read by `read_json_block` here, or by `named_json.read_named_block` if the name of a call is outside its JSON.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from toolhone.formats.bare_json import JsonCallStyle, read_fence, read_list, read_object
from toolhone.formats.call_json import skip_space
from toolhone.formats.chat_format import RawCall, Writer, write_call_object
from toolhone.formats.foreign_syntax import openings
from toolhone.formats.pieces import FENCE, THINK, THINK_END, Fault, Piece, Thought, foreign_block, read_thought
from toolhone.formats.repair import Repairer
from toolhone.records import FinishReason

_MIN_BEGUN = 6
"""A text that ends with this many characters of a marker may begin a call. Fewer are too common in prose."""

_FENCE_OPENING = re.compile(r"```[\w+-]*\s*")


@dataclass(frozen=True, slots=True)
class Marker:
    """What opens and closes a block of calls.

    Attributes:
        opening: the texts that open the block, with optional white space between them.
        ahead: the texts that must follow the opening. They belong to the block.
        closing: the text that closes the block; "" if it ends with its JSON.
        may_stay_open: whether `closing` may be left out.
    """

    opening: tuple[str, ...]
    ahead: tuple[str, ...] = ()
    closing: str = ""
    may_stay_open: bool = False


BlockReader = Callable[[str, int, Marker, Repairer], tuple[list[Piece], int]]
"""Reads the block whose opening ends at the index. Returns its pieces and where it ends. If the last piece is a fault,
reading goes on at the next marker."""


@dataclass(frozen=True, slots=True)
class MarkedSyntax:
    """A syntax whose calls are in blocks behind a marker.

    Attributes:
        markers: the markers, the one that is written first.
        read_block: reads the block of each marker.
        thought_tags: the opening and the closing tag of each kind of thought.
    """

    markers: tuple[Marker, ...]
    read_block: BlockReader
    thought_tags: tuple[tuple[str, str], ...] = ((THINK, THINK_END),)


def read_marked(text: str, repairer: Repairer, *, syntax: MarkedSyntax) -> Iterator[Piece]:
    """Yield the prose, thoughts, calls and faults of a turn, in order."""
    marks = _marks(syntax, fences="code_fence" in repairer.allowed)
    prose = at = 0
    while mark := marks.search(text, at):
        start, at = mark.span()
        kind = mark.lastgroup
        pieces: list[Piece] = []
        if kind == "opening":
            marker = next(m for m in syntax.markers if text.startswith(m.opening[0], start))
            pieces, at = syntax.read_block(text, at, marker, repairer)
            if isinstance(pieces[-1], Fault):
                at = _next_marker(text, at, syntax)
        elif kind == "begun":
            pieces = [Fault("the call is not finished", "begun", mark.group())]
        elif kind == "closing":
            pieces = [Fault(f"{mark.group()} without the start of its call")]
        elif kind == "thought":
            tags = next(tags for tags in syntax.thought_tags if tags[0] == mark.group())
            pieces, at = read_thought(text, start, repairer.tools, tags)
        elif kind == "thought_end":
            pieces = [Thought(0, start, opened=False)]
        elif kind == "foreign":
            pieces, at = foreign_block(text, start)
        else:  # a code fence
            pieces, end = read_fence(text, at, _FENCED, repairer)
            if not pieces:
                continue
            at = end
        yield text[prose:start]
        yield from pieces
        prose = at
    yield text[prose:]


_FENCED = JsonCallStyle(("arguments", "parameters"))


@functools.lru_cache(maxsize=128)
def _marks(syntax: MarkedSyntax, *, fences: bool) -> re.Pattern[str]:
    """Return the pattern of everything in a text that is not prose. The group that matched says what it is."""
    groups = {
        "opening": "|".join(map(_opening, syntax.markers)),
        "begun": "|".join(map(_begun, syntax.markers)),
        "closing": "|".join(re.escape(marker.closing) for marker in syntax.markers if marker.closing),
        "thought": "|".join(re.escape(opening) for opening, _ in syntax.thought_tags),
        "thought_end": "|".join(re.escape(closing) for _, closing in syntax.thought_tags),
        "foreign": openings(),
        "fence": r"^[ \t]*```[\w+-]*" if fences else "",
    }
    return re.compile("|".join(f"(?P<{name}>{pattern})" for name, pattern in groups.items() if pattern), re.MULTILINE)


@functools.lru_cache(maxsize=128)
def _markers(syntax: MarkedSyntax) -> re.Pattern[str]:
    closings = "|".join(re.escape(marker.closing) for marker in syntax.markers if marker.closing)
    return re.compile("|".join(map(_opening, syntax.markers)) + (f"|(?P<closing>{closings})" if closings else ""))


def _next_marker(text: str, at: int, syntax: MarkedSyntax) -> int:
    """Return where a broken block ends: after its closing, or before the next opening if that comes first."""
    mark = _markers(syntax).search(text, at)
    if mark is None:
        return len(text)
    return mark.end() if mark.lastgroup == "closing" else mark.start()


def _opening(marker: Marker) -> str:
    opening = r"\s*+".join(map(re.escape, marker.opening))
    ahead = "".join(rf"\s*+{re.escape(part)}" for part in marker.ahead)
    return _word_start(marker) + opening + (f"(?={ahead})" if ahead else "")


def _begun(marker: Marker) -> str:
    """Return the pattern of a text that ends within the opening of a block."""
    parts = (*marker.opening, *marker.ahead)
    tokens = [re.escape(character) for character in parts[0]]
    for part in parts[1:]:
        tokens += [r"\s*+", *map(re.escape, part)]
    pattern = ""
    for token in reversed(tokens[_MIN_BEGUN:-1]):
        pattern = f"(?:{token}{pattern})?"
    return rf"{_word_start(marker)}{''.join(tokens[:_MIN_BEGUN])}{pattern}\Z"


def _word_start(marker: Marker) -> str:
    return r"(?<![\w.])" if marker.opening[0][0].isalnum() else ""


def read_json_block(
    text: str, at: int, marker: Marker, repairer: Repairer, *, argument_keys: tuple[str, ...] = ("arguments",)
) -> tuple[list[Piece], int]:
    """Return the calls of a block, and where it ends: a list of JSON objects, or one object, or, if the block has a
    closing, several objects."""
    style = JsonCallStyle(argument_keys)
    at = skip_space(text, at)
    fence = _FENCE_OPENING.match(text, at) if "code_fence" in repairer.allowed else None
    at = fence.end() if fence else at
    pieces: list[Piece] = []
    while True:
        read = read_list if text.startswith("[", at) else read_object
        found, at = read(text, at, style, repairer, announced=True)
        pieces += found
        if not found:
            return [Fault("the list of calls is empty")], at
        if isinstance(found[-1], Fault):
            return pieces, at
        end = skip_space(text, at)
        if fence and text.startswith(FENCE, end):
            at, end = end + len(FENCE), skip_space(text, end + len(FENCE))
            repairer.fired["code_fence"] += 1
        if not marker.closing:
            return pieces, at
        if text.startswith(marker.closing, end):
            return pieces, end + len(marker.closing)
        if text.startswith("{", end):
            at = end
            continue
        return _unclosed(text, at, end, marker, pieces)


def _unclosed(text: str, at: int, end: int, marker: Marker, pieces: list[Piece]) -> tuple[list[Piece], int]:
    """Return the pieces of a block whose closing is not at `end`. Its last call ends at `at`."""
    is_cut = cut_within(text, end, marker.closing)
    if not marker.may_stay_open:
        fault = Fault(f"expected {marker.closing} after the calls", "unfinished" if is_cut else "broken")
        return [*pieces, fault], end
    if is_cut and end < len(text):
        return [*pieces, Fault(f"{marker.closing} is not finished", "begun", text[end:])], len(text)
    return pieces, at


def cut_within(text: str, at: int, expected: str) -> bool:
    """Whether the text ends before the whole expected text, which may have followed."""
    return len(text) - at < len(expected) and expected.startswith(text[at : at + len(expected)])


def list_call_writer(opening: str, closing: str = "", *, space: str = "", arguments_key: str = "arguments") -> Writer:
    """Return a writer for formats whose calls are one list of JSON objects behind a marker.

    Args:
        opening, closing: the text before and after the list.
        space: the text between the turn's prose and the marker.
    """

    def write(content: str, calls: Sequence[RawCall], finish_reason: FinishReason) -> str:
        written, is_whole = [], True
        for number, call in enumerate(calls, 1):
            may_be_cut = finish_reason == "length" and number == len(calls)
            body, is_whole = write_call_object(call, arguments_key, may_be_cut=may_be_cut)
            written.append(body)
        if not written:
            return content
        before = content + space if content else ""
        return f"{before}{opening}[{', '.join(written)}" + (f"]{closing}" if is_whole else "")

    return write


def list_call_template(opening: str, closing: str = "", *, space: str = "", arguments_key: str = "arguments") -> str:
    """Return the Jinja text that writes what `list_call_writer` writes."""
    return jinja_constants(opening=opening, closing=closing, space=space, key=arguments_key) + _LIST_OF_CALLS


_LIST_OF_CALLS = """
{{- content }}
{%- for call in calls %}
    {{- (space if content else "") + opening + "[" if loop.first else ", " }}
    {{- '{"name": ' + (call.function.name | tojson) + ', "' + key + '": ' + (call.function.arguments | tojson) + "}" }}
{%- endfor %}
{{- "]" + closing if calls }}"""


def jinja_constants(**texts: str) -> str:
    """Return the Jinja text that sets variables to constant texts."""
    values = ", ".join(json.dumps(text, ensure_ascii=False) for text in texts.values())
    return f"{{%- set {', '.join(texts)} = {values} %}}"
