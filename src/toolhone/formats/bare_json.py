"""Reads calls in JSON without tags, as in the formats llama3, gemma and json."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from toolhone.formats.call_json import CALL_START, PYTHON_CALL_START, Undecodable, looks_like_call, skip_space
from toolhone.formats.foreign_syntax import PYTHON_TAG_SYNTAX, openings
from toolhone.formats.pieces import FENCE, PYTHON_TAG, Fault, Piece, PlacedCall, Thought, foreign_block, read_thought
from toolhone.formats.repair import Repairer


@dataclass(frozen=True, slots=True)
class JsonCallStyle:
    """How a format writes calls as bare JSON.

    Attributes:
        argument_keys: the keys that may have the arguments, the usual one first.
        separator: the text that may separate two calls.
        python_tag: whether `<|python_tag|>` announces a call.
        may_be_fenced: whether calls may be in a code fence that contains nothing else.
        only_lists: whether calls are always in a list.
    """

    argument_keys: tuple[str, ...]
    separator: re.Pattern[str] = re.compile(r"\s*")
    python_tag: bool = False
    may_be_fenced: bool = False
    only_lists: bool = False


LINES_OF_JSON = JsonCallStyle(("arguments", "parameters"), may_be_fenced=True)

_MARK = re.compile(
    rf"</?think>|{re.escape(PYTHON_TAG)}|(?P<foreign>{openings(PYTHON_TAG_SYNTAX)})|^[ \t]*```[\w+-]*"
    r"|(?:^[ \t]*|(?<=</think>)\s*)[\[{]",
    re.MULTILINE,
)
_BEGUN_CALL = re.compile(
    r'\{\s*(?:"(?:id|type)"\s*:\s*"[^"\n]*"\s*,\s*)*(?:"(?:n(?:a(?:m(?:e"?)?)?)?)?)?\s*\Z',
)


def read_bare_json(text: str, repairer: Repairer, *, style: JsonCallStyle) -> Iterator[Piece]:
    """Yield the prose, thoughts, calls and faults of a turn, in order."""
    prose = at = 0
    while mark := _MARK.search(text, at):
        token = mark.group().strip()
        pieces: list[Piece] = []
        if mark["foreign"] is not None or (token == PYTHON_TAG and not style.python_tag):
            pieces, at = foreign_block(text, mark.start())
        elif token.startswith(FENCE):
            if style.may_be_fenced or "code_fence" in repairer.allowed:
                pieces, at = read_fence(text, mark.end(), style, repairer)
            if not pieces:
                # The content of any other code fence is prose, even if it looks like a call.
                at = _after(text, FENCE, mark.end())
                continue
        elif token in ("{", "["):
            pieces, at = _read_run(text, mark.end() - 1, style, repairer, announced=False)
            if not pieces:
                continue
        elif token == PYTHON_TAG:
            pieces, at = _read_run(text, skip_space(text, mark.end()), style, repairer, announced=True)
        elif token == "<think>":
            pieces, at = read_thought(text, mark.start(), repairer.tools)
        else:  # </think>
            pieces, at = [Thought(0, mark.start(), opened=False)], mark.end()
        yield text[prose : mark.start()]
        yield from pieces
        prose = at
    yield text[prose:]


def _after(text: str, closing: str, at: int) -> int:
    """Return the index after the next `closing`, or the end of the text if there is none."""
    close = text.find(closing, at)
    return len(text) if close < 0 else close + len(closing)


def read_fence(text: str, at: int, style: JsonCallStyle, repairer: Repairer) -> tuple[list[Piece], int]:
    """Return the calls in the code fence whose opening line ends here, if any, and where the fence ends."""
    pieces, end = _read_run(text, skip_space(text, at), style, repairer, announced=False)
    if not pieces:
        return [], end
    if not style.may_be_fenced and any(isinstance(piece, PlacedCall) for piece in pieces):
        repairer.fired["code_fence"] += 1
    if isinstance(pieces[-1], Fault):
        return pieces, _after(text, FENCE, end)
    close = skip_space(text, end)
    if text.startswith(FENCE, close):
        return pieces, close + len(FENCE)
    if FENCE.startswith(text[close : close + len(FENCE)]):
        # The text ends here. The call is complete, but another call might have followed.
        return [*pieces, Fault("the code fence is not closed", "begun")], len(text)
    return [*pieces, Fault("expected the end of the code fence after the call")], _after(text, FENCE, close)


def _read_run(
    text: str, at: int, style: JsonCallStyle, repairer: Repairer, *, announced: bool
) -> tuple[list[Piece], int]:
    """Return the run of calls that starts here, and where it ends. There are no calls if the first object is data.

    Args:
        announced: `<|python_tag|>` or `;` came before, so the text must be a call.
    """
    pieces: list[Piece] = []
    while True:
        read = read_list if text.startswith("[", at) else read_object
        found, end = read(text, at, style, repairer, announced)
        if not found:
            return pieces, at if pieces else end
        if style.only_lists and isinstance(found[-1], PlacedCall) and not text.startswith("[", at):
            return [*pieces, Fault("expected the call in a list")], end
        pieces += found
        if isinstance(found[-1], Fault):
            return pieces, end
        separator = style.separator.match(text, end)
        at = separator.end() if separator else end
        announced = ";" in text[end:at]
        if at == len(text):
            # A ";" means that another call should follow.
            return [*pieces, Fault('the text ends after ";"', "begun")] if announced else pieces, at
        if text[at] not in "{[":
            return pieces, end


def read_list(text: str, at: int, style: JsonCallStyle, repairer: Repairer, announced: bool) -> tuple[list[Piece], int]:
    """Return the calls of a JSON list. They are read one by one, so that a broken call does not hide the others."""
    start, at = at, skip_space(text, at + 1)
    if text.startswith("]", at):
        return [], at + 1
    if not announced and not text.startswith("{", at):
        begun = Fault("the list of calls is not finished", "begun", "[")
        return ([begun], at) if at == len(text) else ([], at)
    pieces: list[Piece] = []
    while True:
        found, end = read_object(text, at, style, repairer, announced)
        if not pieces and found and isinstance(found[0], Fault) and found[0].kind == "begun":
            return [replace(found[0], text=text[start:])], end  # it may be prose, with its bracket
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


def read_object(
    text: str, at: int, style: JsonCallStyle, repairer: Repairer, announced: bool
) -> tuple[list[Piece], int]:
    """Return the call that starts here, or its fault, and where it ends; an empty list if it is data."""
    starts = PYTHON_CALL_START if "python_literals" in repairer.allowed else CALL_START
    if not announced and not starts.match(text, at):
        if _BEGUN_CALL.match(text, at):
            return [Fault("the call is not finished", "begun", text[at:])], len(text)
        return [], at + 1
    found = repairer.decode(text, at)
    if isinstance(found, Undecodable):
        return [Fault(found.reason, "unfinished" if found.cut else "broken")], max(found.end, at)
    if found.fault is not None:
        return [Fault(found.fault)], found.end
    if not announced and not looks_like_call(found.value, repairer.tools):
        return [], found.end
    call = repairer.read_call(found, style.argument_keys)
    return [Fault(call) if isinstance(call, str) else PlacedCall(call, at, found.end)], found.end
