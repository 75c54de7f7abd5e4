"""Parse the text of a model's turn into calls and prose, or say why its calls cannot be read.

In: the text, the name of its chat format, why generation stopped, and the names of the declared tools. Out: a
`ParsedTurn`. Parsing never raises, takes time linear in the text, and repairs nothing. `parse_repaired` parses the text
a second time with repairs, so that both results can be shown side by side.

The reader of each format (`formats/`) gives the pieces of a turn: prose, calls and faults. In every format:

- `<think>` blocks are skipped with their content, and so is the text before a `</think>` whose opening is in the
  prompt; but calls before it count if none follows;
- end-of-turn tokens at the end are dropped.

A turn is malformed if it tries to call and the call cannot be read:

- a block or object that opens like a call is not strict JSON, is not closed, or is not a call (`call_json.read_call`);
- prose contains a clear call outside the tags, inside a line or in a code fence (`call_json.call_in_prose`);
- it calls in another syntax than the format's, such as that of another model family, or a declared tool's name with
  arguments after it (`foreign_syntax`). The failure names the syntax. Only the repaired reading credits such a call.

In formats without tags, an object at the start of a line opens like a call if its first key is a key of calls. If it
has no arguments and is not only a declared tool's name, it is data, and therefore prose. An example is
`{"name": "Ada"}`.

With `finish_reason` "length", a call that lacks only its end is truncated, not malformed. An unclosed `<think>` is
truncated too, because the turn was cut before its answer. Prose that is cut is prose. With "stop", an unclosed
`<think>` is prose, unless it contains a call. A call in another syntax is malformed even if it was cut: more tokens
would not make it readable. A turn with both calls and faults is partial.

An endpoint may give prose and calls separately. Its prose is at the start of the text (`Prediction.prose_end`) and is
never read for calls, whatever it quotes. Only thoughts are skipped in it.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from toolhone.formats import FORMATS
from toolhone.formats.call_json import CallSpans, call_in_prose, call_spans, unfit
from toolhone.formats.chat_format import ChatFormat, RawCall
from toolhone.formats.foreign_syntax import call_syntax, may_open, opens_with_marker, tagged_syntax
from toolhone.formats.pieces import THINK, THINK_END, Fault, PlacedCall, Thought, other_format
from toolhone.formats.repair import REPAIRS, Repairer
from toolhone.records import FinishReason, FormatName, Repair, Status, ToolCall

# The text after this many faults is not read: it changes no status, and the limit bounds the time.
_MAX_FAULTS = 100


@dataclass(frozen=True, slots=True)
class ParsedTurn:
    """A parsed turn.

    Attributes:
        content: the text outside thoughts and calls, stripped.
        failure: why a call could not be read; None if the status is calls or none.
        places: for each call its start and end in the text.
        thinking: the text of its thoughts, stripped.
        spans: for each call the spans of its name and values, if its syntax is not JSON; None for JSON.

    Places, thinking and spans are ignored when turns are compared: no score depends on them.
    """

    status: Status
    calls: tuple[ToolCall, ...]
    content: str
    failure: str | None
    places: tuple[tuple[int, int], ...] = field(default=(), repr=False, compare=False)
    thinking: str = field(default="", repr=False, compare=False)
    spans: tuple[CallSpans | None, ...] = field(default=(), repr=False, compare=False)

    def call_spans(self, text: str) -> list[CallSpans]:
        """Return for each call the spans of its name and values in the text that was parsed."""
        return [given or call_spans(text, place) for given, place in zip(self.spans, self.places, strict=True)]


@dataclass(frozen=True, slots=True)
class RepairedTurn:
    """A turn parsed strictly and with repairs. `repairs` counts the repairs that its calls needed; if it is empty, both
    results are the same."""

    strict: ParsedTurn
    turn: ParsedTurn
    repairs: Counter[Repair]


def parse_turn(
    text: str,
    format: FormatName,
    finish_reason: FinishReason = "stop",
    *,
    tools: Collection[str] | None = None,
    prose_end: int = 0,
) -> ParsedTurn:
    """Parse a turn.

    Args:
        text: the model's text; end-of-turn tokens at its end are dropped.
        format: the chat format that its calls should have.
        finish_reason: "length" if generation was cut at the token limit.
        tools: the declared tools by name, or only their names. None: they are unknown. Then a bare name in JSON may be
            a call of any tool, and no call is detected by the name of its tool.
        prose_end: the number of characters at the start that are prose, given by an endpoint separately from its calls.
    """
    return _read(text, format, finish_reason, Repairer((), 0, tools), prose_end)


def parse_repaired(
    text: str,
    format: FormatName,
    finish_reason: FinishReason = "stop",
    allowed: Collection[Repair] = REPAIRS,
    *,
    tools: Collection[str] | None = None,
    prose_end: int = 0,
) -> RepairedTurn:
    """Parse a turn, and repair what cannot be read strictly, with the `allowed` repairs.

    A turn without a fault is never repaired. The repaired result is used only if it has more calls than the strict
    one. If there is none, the text is read in the syntaxes of other chat formats, with the same repairs. The other
    arguments are the same as for `parse_turn`.
    """
    strict = parse_turn(text, format, finish_reason, tools=tools, prose_end=prose_end)
    if strict.failure is not None:
        repairer = Repairer(allowed, len(text), tools)
        repaired = _read(text, format, finish_reason, repairer, prose_end)
        if repairer.fired and len(repaired.calls) > len(strict.calls):
            return RepairedTurn(strict, repaired, repairer.fired)
        if "other_syntax" in allowed:
            for other in _other_formats(text, format):
                repairer = Repairer(allowed, len(text), tools)
                turn = _read(text, other, finish_reason, repairer, prose_end)
                if turn.status == "calls" and len(turn.calls) > len(strict.calls):
                    repairer.fired["other_syntax"] += len(turn.calls)
                    return RepairedTurn(strict, turn, repairer.fired)
    return RepairedTurn(strict, strict, Counter())


def _other_formats(text: str, format: FormatName) -> Iterator[FormatName]:
    """Yield the formats that may read the text's first call: those that own its marker, or those that write none."""
    syntax = tagged_syntax(text)
    for name, other in FORMATS.items():
        if name != format and (syntax in other.syntaxes if syntax else _writes_no_marker(name)):
            yield name


@functools.cache
def _writes_no_marker(format: FormatName) -> bool:
    return not opens_with_marker(FORMATS[format].write("", [RawCall("f", "{}")], "stop"))


def _read(text: str, format: FormatName, finish_reason: FinishReason, repairer: Repairer, prose_end: int) -> ParsedTurn:
    cut = finish_reason == "length"
    chat_format = FORMATS[format]
    text = _without_end_tokens(text)
    calls: list[PlacedCall] = []
    before: list[PlacedCall] = []
    fired_before: Mapping[Repair, int] = {}
    thoughts: list[Thought] = []
    prose, faults = _endpoint_prose(text[:prose_end], cut=cut)
    fault_count = len(faults)
    own = text[prose_end:]
    # A turn without any sign of a call or a thought is one piece of prose.
    may_call = chat_format.begins_with_name or "{" in own or may_open(own)
    for piece in chat_format.read(own, repairer) if may_call else [own]:
        if isinstance(piece, Thought):
            if not piece.opened:
                # Everything before is a thought, opened in the prompt. But if no call follows, the calls in it count.
                if calls:
                    before, fired_before = calls, dict(repairer.fired)
                repairer.fired.clear()
                calls, prose, faults, thoughts = [], [], [], []
            thoughts.append(piece)
            continue
        if isinstance(piece, PlacedCall):
            name = piece.call.name
            reason = None if name.isascii() else unfit(name)
            if reason is None:
                calls.append(piece)
                continue
            piece = Fault(reason)
        if isinstance(piece, str) or (piece.kind == "begun" and not cut):
            written = piece if isinstance(piece, str) else piece.text
            # White space between calls is not content.
            prose += [written] if written.strip() else []
            stray = _stray_call(written, chat_format, repairer.tools)
            if stray is None:
                continue
            piece = stray
        faults.append(piece)
        fault_count += 1
        if fault_count == _MAX_FAULTS:
            break
    if not calls and not faults:
        calls = before
        if fired_before:
            repairer.fired.update(fired_before)
    content = "".join(prose).strip()
    read = tuple(placed.call for placed in calls)
    places = tuple((placed.start + prose_end, placed.end + prose_end) for placed in calls)
    spans = tuple(placed.spans and placed.spans.moved(prose_end) for placed in calls)
    thinking = _thinking(own, thoughts)
    if not faults:
        return ParsedTurn("calls" if calls else "none", read, content, None, places, thinking, spans)
    truncated = cut and faults[0].kind != "broken"
    failure = f"cut off at the token limit: {faults[0].reason}" if truncated else faults[0].reason
    status: Status = "partial" if calls else "truncated" if truncated else "malformed"
    return ParsedTurn(status, read, content, failure, places, thinking, spans)


def _thinking(text: str, thoughts: Sequence[Thought]) -> str:
    """Return the text of the thoughts. One that was not opened may contain the opening tag of an earlier thought."""
    texts = [text[thought.start : thought.end].strip().removeprefix(THINK).strip() for thought in thoughts]
    return "\n\n".join(thought for thought in texts if thought)


def _endpoint_prose(text: str, *, cut: bool) -> tuple[list[str], list[Fault]]:
    """Return prose that an endpoint gave separately, without its thoughts, and a fault if it was cut in a thought."""
    answer = text.rpartition(THINK_END)[2]
    said, thought, _ = answer.partition(THINK)
    if thought and cut:
        return [said], [Fault("the <think> block is not closed", "unfinished")]
    return [answer], []


def _stray_call(prose: str, chat_format: ChatFormat, tools: Collection[str] | None) -> Fault | None:
    """Return the fault of prose that contains a call, in the format's syntax or another; None if there is no call."""
    if call_in_prose(prose, tools):
        return Fault(chat_format.stray_call)
    syntax = call_syntax(prose, tools)
    return None if syntax is None else other_format(syntax)


def _without_end_tokens(text: str) -> str:
    tokens = _end_tokens(tuple(FORMATS))
    end = len(text)
    while True:
        while end and text[end - 1].isspace():
            end -= 1
        if not text.endswith(tokens, 0, end):
            return text[:end]
        end -= next(len(token) for token in tokens if text.endswith(token, 0, end))


@functools.cache
def _end_tokens(formats: tuple[FormatName, ...]) -> tuple[str, ...]:
    """Return the tokens at which generation stops in any of the formats."""
    return tuple(dict.fromkeys(token for name in formats for token in FORMATS[name].stops))
