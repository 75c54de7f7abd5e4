"""Reads the gemma format: a list of calls as Python writes them, `[name(key=value, ...), ...]`, at the start of a line.

Values are Python's literals (`python_literals.py`). An argument whose key is no identifier stands in a dictionary that
is spread: `**{"a key": value}`. Tool names may hold dots and dashes. No argument goes without a key.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Literal

from toolhone.chat.call_json import Decoded, Undecodable, call_in_prose, short
from toolhone.chat.pieces import (
    FENCE,
    OTHER_FORMATS,
    TOOL_CALL,
    TOOL_CALL_END,
    Fault,
    Piece,
    PlacedCall,
    after,
    other_format,
    read_thought,
    skip_space,
)
from toolhone.chat.python_literals import decode_python
from toolhone.chat.repair import Mender
from toolhone.records import ToolCall

Argument = tuple[str, Any, int, int]
"""An argument's key and value, and where the value starts and ends."""

TOOL_NAME = re.compile(r"[\w.-]+")
"""The names that can be written; any other tool needs another format."""

_KEY = re.compile(r"""[^\s=(),\[\]{}"'*:]+""")
_LIST = r"\[\s*[\w.-]+\("
_MARK = re.compile(
    rf"</?think>|<\|python_tag\|>|<tool_call>|{OTHER_FORMATS}|^[ \t]*```[\w+-]*"
    rf"|(?:^[ \t]*|(?<=</think>)\s*){_LIST}",
    re.MULTILINE,
)
_FENCED_LIST = re.compile(rf"\s*(?={_LIST})")
_BEGUN_LIST = re.compile(r"(?:^[ \t]*|(?<=</think>)\s*)(\[\s*(?:[\w.-]+)?)\Z", re.MULTILINE)
_CALL = re.compile(r"(?<![\w.-])[\w.-]++\(\s*+(?:[^\W\d]\w*+\s*+=(?!=)|\*\*\s*+\{)")
_OPENS_AS_CALL = re.compile(rf"\s*+(?:```\w*+\s*+)?(?:{_LIST}|[\w.-]++\(\s*+\)\s*+\]?\s*+(?:```)?\s*\Z)")


def read_pythonic(text: str, mender: Mender) -> Iterator[Piece]:
    """The pieces of a turn, in order."""
    prose = at = 0
    while mark := _MARK.search(text, at):
        token = mark.group().strip()
        pieces: list[Piece] = []
        if token.startswith(FENCE):
            if "code_fence" in mender.allowed and (opening := _FENCED_LIST.match(text, mark.end())):
                pieces, at = _read_fence(text, opening.end(), mender)
            if not pieces:
                # What any other code fence holds is prose, whatever it looks like.
                at = after(text, FENCE, mark.end())
                continue
        elif token.startswith("[") and token != "[TOOL_CALLS]":
            pieces, at = _read_list(text, text.index("[", mark.start()))
        elif token == "<think>":
            pieces, at = read_thought(text, mark.start(), pythonic_call_in_prose)
        elif token == "</think>":
            pieces, at = [None], mark.end()
        elif token == TOOL_CALL:
            pieces, at = [other_format(token)], after(text, TOOL_CALL_END, mark.end())
        else:
            pieces, at = [other_format(token)], mark.end()
        yield text[prose : mark.start()]
        yield from pieces
        prose = at
    begun = _BEGUN_LIST.search(text, prose)
    yield text[prose : begun.start(1) if begun else len(text)]
    if begun:
        yield Fault("the list of calls is not finished", "begun", begun[1])


def pythonic_call_in_prose(prose: str) -> bool:
    """Whether prose holds what was meant as a call, though it stands inside a line, in a code fence or without its
    brackets: a name and, in parentheses, a key with its "="; or prose that is a call without arguments and no more. A
    call in JSON is one too."""
    found = _CALL.search(prose) is not None or _OPENS_AS_CALL.match(prose) is not None
    return found or call_in_prose(prose)


def arguments_of(text: str, start: int) -> Iterator[Argument]:
    """The arguments of the call that was read at `start`, in the order of the text."""
    found, _ = _read_arguments(text, text.index("(", start) + 1)
    if not isinstance(found, Fault):
        yield from found


def _read_fence(text: str, at: int, mender: Mender) -> tuple[list[Piece], int]:
    """The calls in the code fence whose list starts here, and where the fence ends."""
    pieces, end = _read_list(text, at)
    if any(isinstance(piece, PlacedCall) for piece in pieces):
        mender.fired["code_fence"] += 1
    if isinstance(pieces[-1], Fault):
        return pieces, after(text, FENCE, end)
    close = skip_space(text, end)
    if text.startswith(FENCE, close):
        return pieces, close + len(FENCE)
    if FENCE.startswith(text[close : close + len(FENCE)]):
        return [*pieces, Fault("the code fence is not closed", "begun")], len(text)
    return [*pieces, Fault("expected the end of the code fence after the calls")], after(text, FENCE, close)


def _read_list(text: str, at: int) -> tuple[list[Piece], int]:
    """The calls of the list that opens here, and where it ends; the last piece is a fault where it is broken."""
    pieces: list[Piece] = []
    at = skip_space(text, at + 1)
    while True:
        name = TOOL_NAME.match(text, at)
        opening = name.end() if name else at
        if not name or not text.startswith("(", opening):
            return [*pieces, _expected("a call, name(key=value)", text, opening)], opening
        found, end = _read_arguments(text, opening + 1)
        if isinstance(found, Fault):
            return [*pieces, found], end
        pieces.append(PlacedCall(ToolCall(name.group(), {key: value for key, value, *_ in found}), at, end))
        at = skip_space(text, end)
        if text.startswith(",", at):
            at = skip_space(text, at + 1)
        elif not text.startswith("]", at):
            return [*pieces, _expected('"," or "]" after a call', text, at)], at
        if text.startswith("]", at):
            return pieces, at + 1


def _read_arguments(text: str, at: int) -> tuple[list[Argument] | Fault, int]:
    """The arguments whose parenthesis opened before `at`, or what is wrong with them; and where reading ended."""
    arguments: list[Argument] = []
    given: set[str] = set()
    at = skip_space(text, at)
    while not text.startswith(")", at):
        found, at = _read_spread(text, at + 2) if text.startswith("**", at) else _read_argument(text, at)
        if isinstance(found, Fault):
            return found, at
        for argument in found:
            if argument[0] in given:
                return Fault(f'the argument "{short(argument[0])}" twice'), at
            given.add(argument[0])
        arguments += found
        at = skip_space(text, at)
        if text.startswith(",", at):
            at = skip_space(text, at + 1)
        elif not text.startswith(")", at):
            return _expected('"," or ")" after an argument', text, at), at
    return arguments, at + 1


def _read_argument(text: str, at: int) -> tuple[list[Argument] | Fault, int]:
    key = _KEY.match(text, at)
    equals = skip_space(text, key.end() if key else at)
    if not key or not text.startswith("=", equals):
        return _expected("key=value", text, equals), equals
    if not key.group().isidentifier():
        return Fault(f'"{short(key.group())}" is no key of an argument'), equals
    start = skip_space(text, equals + 1)
    found = decode_python(text, start)
    if fault := _fault_of(found):
        return fault, found.end
    assert isinstance(found, Decoded)
    return [(key.group(), found.value, start, found.end)], found.end


def _read_spread(text: str, at: int) -> tuple[list[Argument] | Fault, int]:
    """The arguments of a dictionary that is spread; the whole is read first, then each value's place."""
    start = skip_space(text, at)
    found = decode_python(text, start)
    if fault := _fault_of(found):
        return fault, found.end
    assert isinstance(found, Decoded)
    if not isinstance(found.value, dict):
        return Fault("expected a dictionary after **"), found.end
    arguments: list[Argument] = []
    at = skip_space(text, start + 1)
    for key, value in found.value.items():
        key_end = decode_python(text, at).end
        first = skip_space(text, skip_space(text, key_end) + 1)  # behind the colon
        last = decode_python(text, first).end
        arguments.append((key, value, first, last))
        at = skip_space(text, skip_space(text, last) + 1)  # behind the comma
    return arguments, found.end


def _fault_of(found: Decoded | Undecodable) -> Fault | None:
    if isinstance(found, Undecodable):
        return Fault(found.reason, "unfinished" if found.cut else "broken")
    return Fault(found.fault) if found.fault is not None else None


def _expected(what: str, text: str, at: int) -> Fault:
    kind: Literal["unfinished", "broken"] = "unfinished" if at == len(text) else "broken"
    return Fault(f"expected {what}", kind)
