"""The signals of how likely an answer is right, from the greedy pass that made it; no model is asked again.

In: a prediction and its example, of which the prompt and the tools are read, never the gold. Out: a hard gate, if there
is a reason to escalate at any probability; whether the model itself called `escalate`; and the features, numbers that a
calibrator turns into a probability.

A token's probability is under the model's raw distribution. The tokens of a span of text are those that share a byte
with it. A string includes its closing quote, and a number the character after it, because that token ends the value.
The features, in their order; all except the four counts are from 0 to 1:

decision: probability that a call is made rather than text written, the product over the tokens that open the first
    call. For a plain answer, the probability that no call opens, as far as its first token shows: that token's own
    probability, or 1 minus that of its runner-up if that is more, since an opening is no likelier than the runner-up.
name_product, name_minimum: over the tokens of the names of all calls.
value_minimum, value_mean, value_quantile (a tenth, linear), value_margin: over the tokens of the values of all
    arguments. The margin is the least difference to the runner-up. If the runner-up is unknown, it is the least
    possible, 2p - 1 or 0.
frame_minimum: over all other tokens from the first call on: keys, brackets, what opens a further call, the end of turn.
arguments, called: number of arguments given and of calls made (counts).
values_in_prompt: share of the texts among argument values that appear in the messages before the turn.
codes_left: number of numbers, codes and addresses in the user's last message that appear in no argument (a count, at
    most 3, so that a pasted list does not outweigh all else).
escalated: 1 if the model called `escalate`.

What is absent is neutral: 1 for a probability and for values_in_prompt, 0 for a count. So a plain answer has 1 for
names, values and frame, whatever its wording, and 0 for codes_left: only its first token can be wrong.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Literal

import numpy as np

from toolhone.chat.parse import ParsedTurn, parse_turn
from toolhone.data.escalation import ESCALATE
from toolhone.data.values import codes, leaves, occurs_in
from toolhone.formats.call_json import Span, skip_space
from toolhone.records import Example, FormatName, Prediction, Token, ToolCall
from toolhone.tool_schema import arguments_valid

Gate = Literal["malformed", "truncated", "partial", "unknown_tool", "schema_invalid"]

GROUPS: dict[str, tuple[str, ...]] = {
    "decision": ("decision",),
    "names": ("name_product", "name_minimum"),
    "values": ("value_minimum", "value_mean", "value_quantile", "value_margin"),
    "frame": ("frame_minimum",),
    "counts": ("arguments", "called"),
    "prompt": ("values_in_prompt", "codes_left"),
}
"""The features by what they measure, all except `escalated`."""

FEATURES: tuple[str, ...] = (*chain.from_iterable(GROUPS.values()), "escalated")
"""The names of `Signals.features`, in their order."""

_MAX_CODES_LEFT = 3

# What may open a call before its first character, white space before it included: tags and markers of all chat formats.
_OPENING = re.compile(r"\s*(?:<(?!/?think>)[^<>\s]{1,40}>\s*|\[[A-Z_]+\]|functools|call:|```[\w+-]*)*[\s\[]*\Z")
_LONGEST_OPENING = 64


@dataclass(frozen=True, slots=True)
class Signals:
    """What an answer shows about itself. `gate` is a reason to escalate, whatever the confidence; `escalated`: the
    model itself called `escalate`; `features` are in the order of FEATURES, None without log-probabilities."""

    gate: Gate | None
    escalated: bool
    features: tuple[float, ...] | None

    @property
    def keepable(self) -> bool:
        """Whether a policy may keep the answer at all."""
        return self.gate is None and not self.escalated


def signals(prediction: Prediction, example: Example, format: FormatName) -> Signals:
    """Return the signals of an answer, without reading the example's gold.

    Raises:
        UserError: if a called tool's `parameters` are not a usable JSON Schema.
    """
    turn = parse_turn(
        prediction.text,
        prediction.format or format,
        prediction.finish_reason,
        tools=example.tools_by_name,
        prose_end=prediction.prose_end,
    )
    alignment = align(prediction)
    escalated = any(call.name == ESCALATE for call in turn.calls)
    features = None if alignment is None else (*_features(prediction.text, turn, alignment, example), float(escalated))
    return Signals(_gate(turn, example), escalated, features)


def _gate(turn: ParsedTurn, example: Example) -> Gate | None:
    if turn.status in ("malformed", "truncated", "partial"):
        return turn.status
    offered = {tool.name: tool for tool in example.tools}
    if any(call.name not in offered for call in turn.calls):
        return "unknown_tool"
    if not all(arguments_valid(call.arguments, offered[call.name], example.where) for call in turn.calls):
        return "schema_invalid"
    return None


def _features(text: str, turn: ParsedTurn, alignment: Alignment, example: Example) -> tuple[float, ...]:
    """The features of GROUPS, in their order."""
    tokens = alignment.tokens
    names: list[int] = []
    values: list[int] = []
    for spans in turn.call_spans(text):
        names += alignment.of(_decided(text, spans.name))
        values += chain.from_iterable(alignment.of(_decided(text, span)) for span in spans.values.values())
    opened = _opened(text, turn, alignment)
    frame = set() if opened is None else set(range(opened.stop, len(tokens))).difference(names, values)
    name_tokens, value_tokens = [tokens[n] for n in names], [tokens[n] for n in values]
    chances = [math.exp(token.logprob) for token in value_tokens] or [1.0]
    return (
        _decision(text, opened, alignment),
        _product(name_tokens),
        _minimum(name_tokens),
        min(chances),
        sum(chances) / len(chances),
        float(np.quantile(chances, 0.1)),
        min((_margin(token) for token in value_tokens), default=1.0),
        _minimum(tokens[n] for n in frame),
        float(sum(len(call.arguments) for call in turn.calls)),
        float(len(turn.calls)),
        _share_in_prompt(turn.calls, example),
        float(_codes_left(turn.calls, example)),
    )


def _opened(text: str, turn: ParsedTurn, alignment: Alignment) -> range | None:
    """The places of the tokens that open the first call; None for a plain answer."""
    if not turn.places:
        return None
    start = turn.places[0][0]
    opening = _OPENING.search(text, max(0, start - _LONGEST_OPENING), start)
    return alignment.of((opening.start() if opening else start, start + 1))


def _decision(text: str, opened: range | None, alignment: Alignment) -> float:
    return _no_call(text, alignment) if opened is None else _product(alignment.tokens[n] for n in opened)


@dataclass(frozen=True, slots=True)
class CallChances:
    """The probability of a call's name, and of each argument's value: the product over its tokens, so that of this very
    text."""

    name: float
    values: dict[str, float]


@dataclass(frozen=True, slots=True)
class AnswerChances:
    """How sure the model was of the parts of an answer: of calling or not (the feature `decision`), and of each
    call."""

    decision: float
    calls: tuple[CallChances, ...]


def answer_chances(prediction: Prediction, turn: ParsedTurn) -> AnswerChances | None:
    """Return the probabilities of an answer's parts. None if the prediction has no tokens that spell its text.

    Args:
        turn: the prediction's text, parsed.
    """
    alignment, text = align(prediction), prediction.text
    if alignment is None:
        return None

    def chance(span: Span) -> float:
        return _product(alignment.tokens[n] for n in alignment.of(_decided(text, span)))

    calls = (
        CallChances(chance(spans.name), {name: chance(span) for name, span in spans.values.items()})
        for spans in turn.call_spans(text)
    )
    return AnswerChances(_decision(text, _opened(text, turn, alignment), alignment), tuple(calls))


def _decided(text: str, span: Span) -> Span:
    """The characters whose tokens decide a value: a string up to its closing quote, a number or a word with the
    character after it."""
    start, end = span
    if text[start] == '"':
        return start + 1, end
    return (start, end) if text[start] in "{[" else (start, end + 1)


def _no_call(text: str, alignment: Alignment) -> float:
    """Return the probability that no call opens where a plain answer begins, after any thought."""
    thought = text.rfind("</think>")
    start = skip_space(text, 0 if thought < 0 else thought + len("</think>"))
    first = alignment.of((start, start + 1)).start if start < len(text) else alignment.after(start)
    if first == len(alignment.tokens):
        return 1.0
    token = alignment.tokens[first]
    chance = math.exp(token.logprob)
    return chance if token.runner_up is None else max(chance, -math.expm1(token.runner_up))


def _product(tokens: Iterable[Token]) -> float:
    return math.exp(sum(token.logprob for token in tokens))


def _minimum(tokens: Iterable[Token]) -> float:
    return math.exp(min((token.logprob for token in tokens), default=0.0))


def _margin(token: Token) -> float:
    chance = math.exp(token.logprob)
    return max(0.0, 2 * chance - 1) if token.runner_up is None else chance - math.exp(token.runner_up)


def _share_in_prompt(calls: Sequence[ToolCall], example: Example) -> float:
    texts = [value for call in calls for _, value in leaves(call.arguments) if isinstance(value, str)]
    if not texts:
        return 1.0
    said = "\n".join(message.content for message in example.prompt)
    earlier = "\n".join(_argument_texts(call for message in example.prompt for call in message.tool_calls))
    prompt = f"{said}\n{earlier}"
    return sum(occurs_in(value, prompt, ignore_case=True) for value in texts) / len(texts)


def _codes_left(calls: Sequence[ToolCall], example: Example) -> int:
    if not calls or not example.prompt or example.prompt[-1].role != "user":
        return 0
    held = "\n".join(_argument_texts(calls))
    left = sum(not occurs_in(code, held, ignore_case=True) for code in codes(example.prompt[-1].content))
    return min(left, _MAX_CODES_LEFT)


def _argument_texts(calls: Iterable[ToolCall]) -> list[str]:
    return [str(value) for call in calls for _, value in leaves(call.arguments)]


@dataclass(frozen=True, slots=True)
class Alignment:
    """The tokens that have bytes, the byte at which each begins and ends, and the byte at which each character of the
    text begins, with the text's end as one more.

    A Chinese character is often several tokens, and a token may hold the end of a value with the quote and the brace
    after it. So the tokens of some characters are those that share a byte with them."""

    tokens: tuple[Token, ...]
    begins: Sequence[int]
    ends: Sequence[int]
    characters: Sequence[int]

    def of(self, span: Span) -> range:
        """The places in `tokens` of those that share a byte with a stretch of the text's characters."""
        first, last = self.characters[span[0]], self.characters[span[1]]
        if first == last:
            return range(0)
        return range(bisect_right(self.ends, first), bisect_left(self.begins, last))

    def after(self, character: int) -> int:
        """The place of the first token that begins at or after a character; len(tokens) if none does."""
        return bisect_left(self.begins, self.characters[character])


def align(prediction: Prediction) -> Alignment | None:
    """Align a prediction's tokens with its text. None if it has no tokens, or they spell another text."""
    tokens = tuple(token for token in prediction.tokens if token.bytes)
    said, places = _characters(b"".join(token.bytes for token in tokens))
    # Some engines list the space that a SentencePiece tokenizer adds, but drop it from the text.
    skipped = next((n for n in (0, 1) if said[:n].strip(" ") == "" and said.startswith(prediction.text, n)), None)
    if not tokens or skipped is None:
        return None
    ends = list(accumulate(len(token.bytes) for token in tokens))
    return Alignment(tokens, [0, *ends[:-1]], ends, places[skipped : skipped + len(prediction.text) + 1])


def _characters(raw: bytes) -> tuple[str, list[int]]:
    """Return the text that the bytes decode to, with U+FFFD for invalid UTF-8, and the byte at which each character
    begins, with the end of the bytes as one more."""
    text, widths, at = "", [], 0
    while at < len(raw):
        try:
            good, faulty = raw[at:].decode(), 0
        except UnicodeDecodeError as error:
            good, faulty = raw[at : at + error.start].decode(), error.end - error.start
        text += good + "\ufffd" * bool(faulty)
        widths += [len(character.encode()) for character in good] + [faulty] * bool(faulty)
        at = sum(widths)
    return text, list(accumulate(widths, initial=0))
