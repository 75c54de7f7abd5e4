"""Reads the formats in which a call is JSON without tags: llama3, and json and gemma, whose calls may stand in a code
fence."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from toolhone.formats.call_json import CALL_START, PYTHON_CALL_START, Undecodable, looks_like_call
from toolhone.formats.pieces import (
    FENCE,
    OTHER_FORMATS,
    PYTHON_TAG,
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


@dataclass(frozen=True, slots=True)
class Style:
    """How a format writes calls: the keys of their arguments, the usual one first; what may stand between calls;
    whether `<|python_tag|>` announces them; whether a code fence may hold them."""

    argument_keys: tuple[str, ...]
    separator: re.Pattern[str]
    python_tag: bool
    fences: bool


LLAMA3 = Style(("parameters", "arguments"), re.compile(r"[\s;]*"), python_tag=True, fences=False)
JSON = Style(("arguments", "parameters"), re.compile(r"\s*"), python_tag=False, fences=True)
FENCED_HERMES = Style(("arguments",), re.compile(r"\s*"), python_tag=False, fences=False)

_MARK = re.compile(
    rf"</?think>|<\|python_tag\|>|<tool_call>|{OTHER_FORMATS}|^[ \t]*```[\w+-]*"
    r"|(?:^[ \t]*|(?<=</think>)\s*)[\[{]",
    re.MULTILINE,
)
_BEGUN_CALL = re.compile(
    r'\{\s*(?:"(?:id|type)"\s*:\s*"[^"\n]*"\s*,\s*)*(?:"(?:n(?:a(?:m(?:e"?)?)?)?)?)?\s*\Z',
)


def read_llama3(text: str, mender: Mender) -> Iterator[Piece]:
    """The pieces of a turn in the llama3 format, in order."""
    return _read(text, LLAMA3, mender)


def read_json(text: str, mender: Mender) -> Iterator[Piece]:
    """The pieces of a turn in the json format, in order."""
    return _read(text, JSON, mender)


def _read(text: str, style: Style, mender: Mender) -> Iterator[Piece]:
    prose = at = 0
    while mark := _MARK.search(text, at):
        token = mark.group().strip()
        pieces: list[Piece] = []
        if token.startswith(FENCE):
            if style.fences or "code_fence" in mender.allowed:
                pieces, at = read_fence(text, mark.end(), style, mender)
            if not pieces:
                # What any other code fence holds is prose, whatever it looks like.
                at = _after(text, FENCE, mark.end())
                continue
        elif token in ("{", "["):
            pieces, at = _read_run(text, mark.end() - 1, style, mender, announced=False)
            if not pieces:
                continue
        elif token == PYTHON_TAG and style.python_tag:
            pieces, at = _read_run(text, skip_space(text, mark.end()), style, mender, announced=True)
        elif token == "<think>":
            pieces, at = read_thought(text, mark.start())
        elif token == "</think>":
            pieces, at = [None], mark.end()
        elif token == TOOL_CALL:
            pieces, at = [other_format(token)], _after(text, TOOL_CALL_END, mark.end())
        else:
            pieces, at = [other_format(token)], mark.end()
        yield text[prose : mark.start()]
        yield from pieces
        prose = at
    yield text[prose:]


def _after(text: str, closing: str, at: int) -> int:
    """Where the next `closing` ends; the text's end where there is none."""
    close = text.find(closing, at)
    return len(text) if close < 0 else close + len(closing)


def read_fence(text: str, at: int, style: Style, mender: Mender) -> tuple[list[Piece], int]:
    """The calls in the code fence whose opening ends here, and where the fence ends; nothing where it holds no call."""
    pieces, end = _read_run(text, skip_space(text, at), style, mender, announced=False)
    if not pieces:
        return [], end
    if not style.fences and any(isinstance(piece, PlacedCall) for piece in pieces):
        mender.fired["code_fence"] += 1
    if isinstance(pieces[-1], Fault):
        return pieces, _after(text, FENCE, end)
    close = skip_space(text, end)
    if text.startswith(FENCE, close):
        return pieces, close + len(FENCE)
    if FENCE.startswith(text[close : close + len(FENCE)]):
        # The text ends here. The fence's end says nothing that the call's did not, but another call might have come.
        return [*pieces, Fault("the code fence is not closed", "begun")], len(text)
    return [*pieces, Fault("expected the end of the code fence after the call")], _after(text, FENCE, close)


def _read_run(text: str, at: int, style: Style, mender: Mender, *, announced: bool) -> tuple[list[Piece], int]:
    """The calls, one after another, that start here, and where they end; nothing where the first is data. What is
    `announced`, by `<|python_tag|>` or `;`, must be a call."""
    pieces: list[Piece] = []
    while True:
        read = _read_list if text.startswith("[", at) else _read_object
        found, end = read(text, at, style, mender, announced)
        if not found:
            return pieces, at if pieces else end
        pieces += found
        if isinstance(found[-1], Fault):
            return pieces, end
        separator = style.separator.match(text, end)
        at = separator.end() if separator else end
        announced = ";" in text[end:at]
        if at == len(text):
            # A ";" says that another call was to come.
            return [*pieces, Fault('the text ends after ";"', "begun")] if announced else pieces, at
        if text[at] not in "{[":
            return pieces, end


def _read_list(text: str, at: int, style: Style, mender: Mender, announced: bool) -> tuple[list[Piece], int]:
    """The calls of a JSON list, read one by one, so that a broken one does not take the others with it."""
    at = skip_space(text, at + 1)
    if text.startswith("]", at):
        return [], at + 1
    if not announced and not text.startswith("{", at):
        begun = Fault("the list of calls is not finished", "begun", "[")
        return ([begun], at) if at == len(text) else ([], at)
    pieces: list[Piece] = []
    while True:
        found, end = _read_object(text, at, style, mender, announced)
        pieces += found
        if not found or isinstance(found[-1], Fault):
            return pieces, end
        at = skip_space(text, end)
        if text.startswith("]", at):
            return pieces, at + 1
        if not text.startswith(",", at):
            kind: Literal["unfinished", "broken"] = "unfinished" if at == len(text) else "broken"
            return [*pieces, Fault("the list of calls is not closed", kind)], at
        at, announced = skip_space(text, at + 1), True


def _read_object(text: str, at: int, style: Style, mender: Mender, announced: bool) -> tuple[list[Piece], int]:
    """The call that starts here, or its fault, and where it ends; nothing where it is data."""
    starts = PYTHON_CALL_START if "python_literals" in mender.allowed else CALL_START
    if not announced and not starts.match(text, at):
        if _BEGUN_CALL.match(text, at):
            return [Fault("the call is not finished", "begun", text[at:])], len(text)
        return [], at + 1
    found = mender.decode(text, at)
    if isinstance(found, Undecodable):
        return [Fault(found.reason, "unfinished" if found.cut else "broken")], max(found.end, at)
    if found.fault is not None:
        return [Fault(found.fault)], found.end
    if not announced and not looks_like_call(found.value, name_alone=True):
        return [], found.end
    call = mender.read_call(found, style.argument_keys)
    return [Fault(call) if isinstance(call, str) else PlacedCall(call, at, found.end)], found.end
