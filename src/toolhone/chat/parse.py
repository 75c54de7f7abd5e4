"""Read the text of a model's turn: its calls and its prose, or why its calls cannot be read.

In: the text, the chat format it should be in, and why generation stopped. Out: a `ParsedTurn`. Reading never raises,
takes time linear in the text, and mends nothing.

The formats:

hermes: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, any number of times, white space free, prose
    anywhere outside.
llama3: `{"name": ..., "parameters": {...}}` at the start of a line or after `<|python_tag|>`; more of them after `;`
    or white space; or a JSON list of them. `arguments` is read as `parameters` is, but not both in one call. Prose may
    stand before and after.

In both, `<think>` blocks are passed over with all that they hold (as is what stands before a `</think>` that was
opened by the prompt), and end-of-turn tokens at the end are dropped.

A turn tried to call, and is malformed, where
- a block or object that opens as a call is not strict JSON, is not closed, or is no call (see `call_json.read_call`);
- prose holds what is plainly a call, outside the tags, inside a line or in a code fence (`call_json.call_in_prose`);
- it has the markers of another format.
In llama3 an object at the start of a line opens as a call if its first key is a call's; if it then decodes and has
neither arguments nor is a name alone, it is data, and prose.

With `finish_reason` "length" a call that only ends too early is truncated, not malformed. So is a `<think>` that never
closes: the turn was cut before it said anything. Prose that is cut is prose. With "stop" an unclosed `<think>` is
prose, unless a call stands in it. Calls beside anything that is malformed or truncated make the turn partial.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from toolhone.chat.call_json import CALL_START, Undecodable, call_in_prose, decode, looks_like_call, read_call
from toolhone.records import FinishReason, FormatName, Status, ToolCall

END_TOKENS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>")

# All that follows so many faults is left unread: it changes nothing, and bounds the time.
_MAX_FAULTS = 100


@dataclass(frozen=True, slots=True)
class ParsedTurn:
    """A turn as read. `content` is the text outside thoughts and calls, stripped; `failure` says in a sentence why a
    call could not be read, and is None where the status is calls or none."""

    status: Status
    calls: tuple[ToolCall, ...]
    content: str
    failure: str | None


@dataclass(frozen=True, slots=True)
class _Fault:
    """What cannot be read. "broken" is so for good; "unfinished" only lacks its end; "begun" may be the start of a
    call, and is the prose `text` unless the turn was cut there."""

    reason: str
    kind: Literal["broken", "unfinished", "begun"] = "broken"
    text: str = ""


# A piece of a turn: prose, a call or a fault. None says that everything before it was thought.
_Piece = str | ToolCall | _Fault | None


def parse_turn(text: str, format: FormatName, finish_reason: FinishReason = "stop") -> ParsedTurn:
    """Read a turn.

    Args:
        text: what the model wrote; end-of-turn tokens at its end are dropped.
        format: how its calls should be written.
        finish_reason: "length" where generation was cut at the token limit.
    """
    cut = finish_reason == "length"
    calls: list[ToolCall] = []
    prose: list[str] = []
    faults: list[_Fault] = []
    fault_count = 0
    for piece in _READERS[format](_without_end_tokens(text)):
        if piece is None:
            calls, prose, faults = [], [], []
            continue
        if isinstance(piece, ToolCall):
            calls.append(piece)
            continue
        if isinstance(piece, str) or (piece.kind == "begun" and not cut):
            written = piece if isinstance(piece, str) else piece.text
            # White space between calls is theirs.
            prose += [written] if written.strip() else []
            if not call_in_prose(written):
                continue
            piece = _Fault(_OUTSIDE[format])
        faults.append(piece)
        fault_count += 1
        if fault_count == _MAX_FAULTS:
            break
    content = "".join(prose).strip()
    if not faults:
        return ParsedTurn("calls" if calls else "none", tuple(calls), content, None)
    truncated = cut and faults[0].kind != "broken"
    failure = f"cut off at the token limit: {faults[0].reason}" if truncated else faults[0].reason
    status: Status = "partial" if calls else "truncated" if truncated else "malformed"
    return ParsedTurn(status, tuple(calls), content, failure)


def _without_end_tokens(text: str) -> str:
    end = len(text)
    while True:
        while end and text[end - 1].isspace():
            end -= 1
        token = next((token for token in END_TOKENS if text.endswith(token, 0, end)), None)
        if token is None:
            return text[:end]
        end -= len(token)


_OTHER_FORMATS = r"<function=|\[TOOL_CALLS\]"
_ANY_CALL = re.compile(rf"<tool_call>|<\|python_tag\|>|{_OTHER_FORMATS}")


def _read_thought(text: str, start: int) -> tuple[list[_Piece], int]:
    """Pass over the `<think>` block that starts here."""
    close = text.find("</think>", start)
    if close >= 0:
        return [], close + len("</think>")
    calls = _ANY_CALL.search(text, start) or call_in_prose(text[start:])
    fault = _Fault("the <think> block is not closed", "unfinished" if calls else "begun", text[start:])
    return [fault], len(text)


def _other_format(marker: str) -> str:
    return f"a call in another format ({marker})"


def _skip_space(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at


# hermes

_TAG = re.compile(r"</?tool_call>")
_HERMES_MARK = re.compile(rf"</?think>|</?tool_call>|<\|python_tag\|>|{_OTHER_FORMATS}")
_BEGUN_TAG = re.compile(r"<tool(?:_(?:c(?:a(?:l(?:l)?)?)?)?)?\Z")
_CLOSE = "</tool_call>"


def _read_hermes(text: str) -> Iterator[_Piece]:
    at = 0
    while mark := _HERMES_MARK.search(text, at):
        yield text[at : mark.start()]
        at = mark.end()
        if mark.group() == "<think>":
            pieces, at = _read_thought(text, mark.start())
            yield from pieces
        elif mark.group() == "</think>":
            yield None
        elif mark.group() == "<tool_call>":
            piece, at = _read_block(text, at)
            yield piece
        elif mark.group() == _CLOSE:
            yield _Fault("a </tool_call> without a <tool_call> before it")
        else:
            yield _Fault(_other_format(mark.group()))
    begun = _BEGUN_TAG.search(text, at)
    yield text[at : begun.start() if begun else len(text)]
    if begun:
        yield _Fault("the <tool_call> tag is not finished", "begun", begun.group())


def _read_block(text: str, start: int) -> tuple[ToolCall | _Fault, int]:
    """The call whose opening tag ends at `start`, and where the block ends."""
    found = decode(text, _skip_space(text, start))
    if isinstance(found, Undecodable):
        return _Fault(found.reason, "unfinished" if found.cut else "broken"), _block_end(text, found.end)
    close = _skip_space(text, found.end)
    if text.startswith(_CLOSE, close):
        call = found.fault or read_call(found.value, ("arguments",))
        return (_Fault(call) if isinstance(call, str) else call), close + len(_CLOSE)
    unfinished = len(text) - close < len(_CLOSE) and _CLOSE.startswith(text[close:])
    fault = _Fault("expected </tool_call> after the call's JSON", "unfinished" if unfinished else "broken")
    return fault, len(text) if unfinished else _block_end(text, close)


def _block_end(text: str, at: int) -> int:
    """Where a broken block ends: with its closing tag, or before the next call if that comes first."""
    tag = _TAG.search(text, at)
    if tag is None:
        return len(text)
    return tag.end() if tag.group() == _CLOSE else tag.start()


# llama3

_LLAMA3_MARK = re.compile(
    rf"</?think>|<\|python_tag\|>|<tool_call>|{_OTHER_FORMATS}|^[ \t]*```|(?:^[ \t]*|(?<=</think>)\s*)[\[{{]",
    re.MULTILINE,
)
_SEPARATOR = re.compile(r"[\s;]*")
_BEGUN_CALL = re.compile(
    r'\{\s*(?:"(?:id|type)"\s*:\s*"[^"\n]*"\s*,\s*)*(?:"(?:n(?:a(?:m(?:e"?)?)?)?)?)?\s*\Z',
)


def _read_llama3(text: str) -> Iterator[_Piece]:
    prose = at = 0
    while mark := _LLAMA3_MARK.search(text, at):
        token = mark.group().strip()
        if token == "```":
            # What a code fence holds is prose, whatever it looks like.
            close = text.find("```", mark.end())
            at = len(text) if close < 0 else close + len("```")
            continue
        pieces: list[_Piece] = []
        if token in ("{", "["):
            pieces, at = _read_run(text, mark.end() - 1, announced=False)
            if not pieces:
                continue
        elif token == "<|python_tag|>":
            pieces, at = _read_run(text, _skip_space(text, mark.end()), announced=True)
        elif token == "<think>":
            pieces, at = _read_thought(text, mark.start())
        elif token == "</think>":
            pieces, at = [None], mark.end()
        elif token == "<tool_call>":
            close = text.find(_CLOSE, mark.end())
            pieces, at = [_Fault(_other_format(token))], len(text) if close < 0 else close + len(_CLOSE)
        else:
            pieces, at = [_Fault(_other_format(token))], mark.end()
        yield text[prose : mark.start()]
        yield from pieces
        prose = at
    yield text[prose:]


def _read_run(text: str, at: int, *, announced: bool) -> tuple[list[_Piece], int]:
    """The calls, one after another, that start here, and where they end; nothing where the first is data. What is
    `announced`, by `<|python_tag|>` or `;`, must be a call."""
    pieces: list[_Piece] = []
    while True:
        read = _read_list if text.startswith("[", at) else _read_object
        found, end = read(text, at, announced)
        if not found:
            return pieces, at if pieces else end
        pieces += found
        if isinstance(found[-1], _Fault):
            return pieces, end
        separator = _SEPARATOR.match(text, end)
        at = separator.end() if separator else end
        announced = ";" in text[end:at]
        if at == len(text):
            # A ";" says that another call was to come.
            return [*pieces, _Fault('the text ends after ";"', "begun")] if announced else pieces, at
        if text[at] not in "{[":
            return pieces, end


def _read_list(text: str, at: int, announced: bool) -> tuple[list[_Piece], int]:
    """The calls of a JSON list, read one by one, so that a broken one does not take the others with it."""
    at = _skip_space(text, at + 1)
    if text.startswith("]", at):
        return [], at + 1
    if not announced and not text.startswith("{", at):
        begun = _Fault("the list of calls is not finished", "begun", "[")
        return ([begun], at) if at == len(text) else ([], at)
    pieces: list[_Piece] = []
    while True:
        found, end = _read_object(text, at, announced)
        pieces += found
        if not found or isinstance(found[-1], _Fault):
            return pieces, end
        at = _skip_space(text, end)
        if text.startswith("]", at):
            return pieces, at + 1
        if not text.startswith(",", at):
            kind: Literal["unfinished", "broken"] = "unfinished" if at == len(text) else "broken"
            return [*pieces, _Fault("the list of calls is not closed", kind)], at
        at, announced = _skip_space(text, at + 1), True


def _read_object(text: str, at: int, announced: bool) -> tuple[list[_Piece], int]:
    """The call that starts here, or its fault, and where it ends; nothing where it is data."""
    if not announced and not CALL_START.match(text, at):
        if _BEGUN_CALL.match(text, at):
            return [_Fault("the call is not finished", "begun", text[at:])], len(text)
        return [], at + 1
    found = decode(text, at)
    if isinstance(found, Undecodable):
        return [_Fault(found.reason, "unfinished" if found.cut else "broken")], max(found.end, at)
    if found.fault is not None:
        return [_Fault(found.fault)], found.end
    if not announced and not looks_like_call(found.value, name_alone=True):
        return [], found.end
    call = read_call(found.value, ("parameters", "arguments"))
    return [_Fault(call) if isinstance(call, str) else call], found.end


_READERS: dict[FormatName, Callable[[str], Iterator[_Piece]]] = {"hermes": _read_hermes, "llama3": _read_llama3}
_OUTSIDE: dict[FormatName, str] = {
    "hermes": "a call outside <tool_call> tags",
    "llama3": "a call inside a line of text or in a code fence",
}
