"""Read the text of a model's turn: its calls and its prose, or why its calls cannot be read.

In: the text, the name of its chat format, and why generation stopped. Out: a `ParsedTurn`. Reading never raises, takes
time linear in the text, and repairs nothing. `parse_repaired` reads the text a second time with repairs, so that both
results can be shown side by side.

The reader of each format (`formats/`) gives the pieces of a turn: prose, calls and faults. In every format

- `<think>` blocks are skipped with all that they hold, and so is the text before a `</think>` that the prompt opened;
- end-of-turn tokens at the end are dropped.

A turn is malformed if it tried to call and the call cannot be read:

- a block or object that opens as a call is not strict JSON, is not closed, or is no call (`call_json.read_call`);
- prose holds what is clearly a call, outside the tags, inside a line or in a code fence (`call_json.call_in_prose`);
- it has the markers of another format.

In the formats without tags an object at the start of a line opens as a call if its first key is a call's. If it then
decodes and has neither arguments nor only a name, it is data, and prose.

With `finish_reason` "length", a call that only lacks its end is truncated, not malformed. So is a `<think>` that never
closes: the turn was cut before it said anything. Prose that is cut is prose. With "stop", an unclosed `<think>` is
prose, unless it holds a call. A turn with both calls and faults is partial.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

from toolhone.formats import FORMATS
from toolhone.formats.call_json import call_in_prose
from toolhone.formats.pieces import Fault, PlacedCall
from toolhone.formats.repair import REPAIRS, Repairer
from toolhone.records import FinishReason, FormatName, Repair, Status, ToolCall

# What follows this many faults is not read: it changes nothing, and the limit bounds the time.
_MAX_FAULTS = 100


@dataclass(frozen=True, slots=True)
class ParsedTurn:
    """A turn as read.

    Attributes:
        content: the text outside thoughts and calls, stripped.
        failure: a sentence that says why a call could not be read; None if the status is calls or none.
        places: for each call the start and end of its JSON in the text. Two turns that say the same are equal whatever
            their places.
    """

    status: Status
    calls: tuple[ToolCall, ...]
    content: str
    failure: str | None
    places: tuple[tuple[int, int], ...] = field(default=(), repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class RepairedTurn:
    """A turn as read strictly and as read with repairs. `repairs` counts the repairs that its calls needed; if it is
    empty, the two readings are the same."""

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
    return _read(text, format, finish_reason, Repairer((), 0))


def parse_repaired(
    text: str, format: FormatName, finish_reason: FinishReason = "stop", allowed: Collection[Repair] = REPAIRS
) -> RepairedTurn:
    """Read a turn, and repair what cannot be read strictly with the repairs that are `allowed`.

    A turn without a fault is never repaired, and a repaired reading is used only if it has more calls than the strict
    one. The other arguments are those of `parse_turn`.
    """
    strict = parse_turn(text, format, finish_reason)
    if strict.failure is not None:
        repairer = Repairer(allowed, len(text))
        repaired = _read(text, format, finish_reason, repairer)
        if repairer.fired and len(repaired.calls) > len(strict.calls):
            return RepairedTurn(strict, repaired, repairer.fired)
    return RepairedTurn(strict, strict, Counter())


def _read(text: str, format: FormatName, finish_reason: FinishReason, repairer: Repairer) -> ParsedTurn:
    cut = finish_reason == "length"
    calls: list[PlacedCall] = []
    prose: list[str] = []
    faults: list[Fault] = []
    fault_count = 0
    chat_format = FORMATS[format]
    for piece in chat_format.read(_without_end_tokens(text), repairer):
        if piece is None:
            calls, prose, faults = [], [], []
            repairer.fired.clear()
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
            piece = Fault(chat_format.stray_call)
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
    end_tokens = tuple(token for chat_format in FORMATS.values() for token in chat_format.stops)
    end = len(text)
    while True:
        while end and text[end - 1].isspace():
            end -= 1
        token = next((token for token in end_tokens if text.endswith(token, 0, end)), None)
        if token is None:
            return text[:end]
        end -= len(token)
