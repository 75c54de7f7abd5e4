"""Reads the hermes format: calls as JSON in `<tool_call>` tags, prose anywhere outside."""

from __future__ import annotations

import re
from collections.abc import Iterator

from toolhone.formats.bare_json import FENCED_HERMES, read_fence
from toolhone.formats.call_json import Undecodable
from toolhone.formats.pieces import (
    FENCE,
    OTHER_FORMATS,
    TOOL_CALL,
    TOOL_CALL_END,
    Fault,
    Piece,
    PlacedCall,
    other_format,
    read_thought,
    skip_space,
)
from toolhone.formats.repair import Mender
from toolhone.records import ToolCall

_TAG = re.compile(r"</?tool_call>")
_MARK = re.compile(rf"</?think>|</?tool_call>|<\|python_tag\|>|{OTHER_FORMATS}")
_MARK_OR_FENCE = re.compile(rf"{_MARK.pattern}|^[ \t]*```[\w+-]*", re.MULTILINE)
_BEGUN_TAG = re.compile(r"<tool(?:_(?:c(?:a(?:l(?:l)?)?)?)?)?\Z")
_FENCE_OPENING = re.compile(r"```[\w+-]*\s*")


def read_hermes(text: str, mender: Mender) -> Iterator[Piece]:
    """The pieces of a turn, in order."""
    marks = _MARK_OR_FENCE if "code_fence" in mender.allowed else _MARK
    prose = at = 0
    while mark := marks.search(text, at):
        token = mark.group().lstrip()
        pieces: list[Piece] = []
        at = mark.end()
        if token.startswith(FENCE):
            pieces, end = read_fence(text, at, FENCED_HERMES, mender)
            if not pieces:
                continue
            at = end
        elif token == "<think>":
            pieces, at = read_thought(text, mark.start())
        elif token == "</think>":
            pieces = [None]
        elif token == TOOL_CALL:
            piece, at = _read_block(text, at, mender)
            pieces = [piece]
        elif token == TOOL_CALL_END:
            pieces = [Fault("a </tool_call> without a <tool_call> before it")]
        else:
            pieces = [other_format(token)]
        yield text[prose : mark.start()]
        yield from pieces
        prose = at
    begun = _BEGUN_TAG.search(text, prose)
    yield text[prose : begun.start() if begun else len(text)]
    if begun:
        yield Fault("the <tool_call> tag is not finished", "begun", begun.group())


def _read_block(text: str, start: int, mender: Mender) -> tuple[PlacedCall | Fault, int]:
    """The call whose opening tag ends at `start`, and where the block ends."""
    at = skip_space(text, start)
    fence = _FENCE_OPENING.match(text, at) if "code_fence" in mender.allowed else None
    at = fence.end() if fence else at
    found = mender.decode(text, at)
    if isinstance(found, Undecodable):
        return Fault(found.reason, "unfinished" if found.cut else "broken"), _block_end(text, found.end)
    close = skip_space(text, found.end)
    if fence and text.startswith(FENCE, close):
        close = skip_space(text, close + len(FENCE))
    if text.startswith(TOOL_CALL_END, close):
        call = mender.read_call(found, ("arguments",))
        if fence and isinstance(call, ToolCall):
            mender.fired["code_fence"] += 1
        piece = Fault(call) if isinstance(call, str) else PlacedCall(call, at, found.end)
        return piece, close + len(TOOL_CALL_END)
    unfinished = len(text) - close < len(TOOL_CALL_END) and TOOL_CALL_END.startswith(text[close:])
    fault = Fault("expected </tool_call> after the call's JSON", "unfinished" if unfinished else "broken")
    return fault, len(text) if unfinished else _block_end(text, close)


def _block_end(text: str, at: int) -> int:
    """Where a broken block ends: with its closing tag, or before the next call if that comes first."""
    tag = _TAG.search(text, at)
    if tag is None:
        return len(text)
    return tag.end() if tag.group() == TOOL_CALL_END else tag.start()
