"""Read the text of a model's turn: its calls and its prose, or why its calls cannot be read.

In: the text, the chat format it should be in, and why generation stopped. Out: a `ParsedTurn`. Reading never raises,
takes time linear in the text, and mends nothing; `parse_repaired` reads it a second time and mends what it may, so that
both results can stand side by side.

The formats:

hermes: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, any number of times, white space free, prose
    anywhere outside.
llama3: `{"name": ..., "parameters": {...}}` at the start of a line or after `<|python_tag|>`; more of them after `;`
    or white space; or a JSON list of them. `arguments` is read as `parameters` is, but not both in one call. Prose may
    stand before and after.
json: `{"name": ..., "arguments": {...}}` at the start of a line, more of them after white space, or a JSON list of
    them; bare or in a code fence that holds nothing else. `parameters` is read as `arguments` is. Prose as in llama3.
gemma: as json; it is written with `parameters`.

In all, `<think>` blocks are passed over with all that they hold (as is what stands before a `</think>` that was
opened by the prompt), and end-of-turn tokens at the end are dropped.

A turn tried to call, and is malformed, where
- a block or object that opens as a call is not strict JSON, is not closed, or is no call (see `call_json.read_call`);
- prose holds what is plainly a call, outside the tags, inside a line or in a code fence (`call_json.call_in_prose`);
- it has the markers of another format.
In llama3, gemma and json an object at the start of a line opens as a call if its first key is a call's; if it then
decodes and has neither arguments nor is a name alone, it is data, and prose.

With `finish_reason` "length" a call that only ends too early is truncated, not malformed. So is a `<think>` that never
closes: the turn was cut before it said anything. Prose that is cut is prose. With "stop" an unclosed `<think>` is
prose, unless a call stands in it. Calls beside anything that is malformed or truncated make the turn partial.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field

from toolhone.formats.bare_json import read_json, read_llama3
from toolhone.formats.call_json import call_in_prose
from toolhone.formats.hermes import read_hermes
from toolhone.formats.pieces import Fault, Piece, PlacedCall
from toolhone.formats.repair import REPAIRS, Mender
from toolhone.records import FinishReason, FormatName, Repair, Status, ToolCall

END_TOKENS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<end_of_turn>", "<eos>")

# All that follows so many faults is left unread: it changes nothing, and bounds the time.
_MAX_FAULTS = 100


@dataclass(frozen=True, slots=True)
class ParsedTurn:
    """A turn as read. `content` is the text outside thoughts and calls, stripped; `failure` says in a sentence why a
    call could not be read, and is None where the status is calls or none. `places` says for each call where its JSON
    stands in the text, from its first brace to behind its last; turns that say the same are equal wherever it does."""

    status: Status
    calls: tuple[ToolCall, ...]
    content: str
    failure: str | None
    places: tuple[tuple[int, int], ...] = field(default=(), repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class RepairedTurn:
    """A turn as read strictly and with repairs. `repairs` counts those that its calls owe their reading to; where it
    is empty, both readings are one."""

    strict: ParsedTurn
    turn: ParsedTurn
    repairs: Counter[Repair]


def parse_turn(text: str, format: FormatName, finish_reason: FinishReason = "stop") -> ParsedTurn:
    """Read a turn.

    Args:
        text: what the model wrote; end-of-turn tokens at its end are dropped.
        format: how its calls should be written.
        finish_reason: "length" where generation was cut at the token limit.
    """
    return _read(text, format, finish_reason, Mender((), 0))


def parse_repaired(
    text: str, format: FormatName, finish_reason: FinishReason = "stop", allowed: Collection[Repair] = REPAIRS
) -> RepairedTurn:
    """Read a turn, mending what cannot be read strictly with the repairs that are `allowed`.

    A turn that strict reading finds nothing wrong with is never read otherwise, and a mended reading is taken only
    where it has more calls than the strict one. The other arguments are those of `parse_turn`.
    """
    strict = parse_turn(text, format, finish_reason)
    if strict.failure is not None:
        mender = Mender(allowed, len(text))
        mended = _read(text, format, finish_reason, mender)
        if mender.fired and len(mended.calls) > len(strict.calls):
            return RepairedTurn(strict, mended, mender.fired)
    return RepairedTurn(strict, strict, Counter())


def _read(text: str, format: FormatName, finish_reason: FinishReason, mender: Mender) -> ParsedTurn:
    cut = finish_reason == "length"
    calls: list[PlacedCall] = []
    prose: list[str] = []
    faults: list[Fault] = []
    fault_count = 0
    for piece in _READERS[format](_without_end_tokens(text), mender):
        if piece is None:
            calls, prose, faults = [], [], []
            mender.fired.clear()
            continue
        if isinstance(piece, PlacedCall):
            calls.append(piece)
            continue
        if isinstance(piece, str) or (piece.kind == "begun" and not cut):
            written = piece if isinstance(piece, str) else piece.text
            # White space between calls is theirs.
            prose += [written] if written.strip() else []
            if not call_in_prose(written):
                continue
            piece = Fault(_OUTSIDE[format])
        faults.append(piece)
        fault_count += 1
        if fault_count == _MAX_FAULTS:
            break
    content = "".join(prose).strip()
    read, places = tuple(placed.call for placed in calls), tuple((placed.start, placed.end) for placed in calls)
    if not faults:
        return ParsedTurn("calls" if calls else "none", read, content, None, places)
    truncated = cut and faults[0].kind != "broken"
    failure = f"cut off at the token limit: {faults[0].reason}" if truncated else faults[0].reason
    status: Status = "partial" if calls else "truncated" if truncated else "malformed"
    return ParsedTurn(status, read, content, failure, places)


def _without_end_tokens(text: str) -> str:
    end = len(text)
    while True:
        while end and text[end - 1].isspace():
            end -= 1
        token = next((token for token in END_TOKENS if text.endswith(token, 0, end)), None)
        if token is None:
            return text[:end]
        end -= len(token)


_READERS: dict[FormatName, Callable[[str, Mender], Iterator[Piece]]] = {
    "hermes": read_hermes,
    "llama3": read_llama3,
    "gemma": read_json,
    "json": read_json,
}
_OUTSIDE: dict[FormatName, str] = {
    "hermes": "a call outside <tool_call> tags",
    "llama3": "a call inside a line of text or in a code fence",
    "gemma": "a call inside a line of text",
    "json": "a call inside a line of text",
}
