"""How sure a model's answer looks, from the one greedy pass that made it.

In: a prediction, and the example that it answers, of which the prompt and the tools are looked at and never the gold.
Out: a hard gate, where there is a reason to hand over whatever the probabilities say; whether the model itself called
`escalate`; and the features, numbers that a calibrator makes a probability of. No model is asked again.

A token's probability is that under the model's raw distribution. The tokens of a name, of a value or of what opens a
call are those that share a byte with it (`alignment.py`, `chat/spans.py`). A string is taken with its closing quote and
a number with the character after it, since the token there says that it goes on no further.

The features, in their order; all but the four counts are shares or probabilities, from 0 to 1:

decision: that a call is made rather than text written, the product over the tokens that open the first call. Of a plain
    answer that no call is opened, as far as its first token tells: that token's own probability, or 1 less that of its
    runner-up if that is more, since what opens a call can be no likelier than the runner-up.
name_product, name_minimum: over the tokens of the names of all calls.
value_minimum, value_mean, value_quantile (a tenth, linear), value_margin: over the tokens of the values of all
    arguments. The margin is the least difference to the runner-up; where that was not told, the least that it can be,
    2p - 1 or 0, since the runner-up has at most what is left.
frame_minimum: over all other tokens from the first call on: keys and brackets, what opens a further call, and the end
    of the turn, by which no further call is made.
arguments, called: how many arguments are given, and calls made (counts).
values_in_prompt: the share of the texts among argument values that stand in the messages before the turn.
codes_left: how many numbers, codes and addresses in the user's last message stand in no argument (a count, at most 3,
    so that a pasted list does not outweigh all else).
escalated: 1 where the model called `escalate`.

What there is none of is neutral: 1 for a probability and for the share of values, 0 for a count. So a call without
arguments has 1 as its four value features, and a plain answer has 1 for names, values and frame, whatever its wording,
and 0 for codes_left: only its first token can be wrong.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal

import numpy as np

from toolhone.chat.parse import ParsedTurn, parse_turn
from toolhone.data.escalation import ESCALATE
from toolhone.data.values import codes, leaves, stands_in
from toolhone.evaluate.schema import arguments_valid
from toolhone.formats.call_json import Span, call_spans, skip_space
from toolhone.records import Example, FormatName, Prediction, Token, ToolCall
from toolhone.route.alignment import Alignment, align

Gate = Literal["malformed", "truncated", "partial", "unknown_tool", "schema_invalid"]

FEATURES: tuple[str, ...] = (
    "decision",
    "name_product",
    "name_minimum",
    "value_minimum",
    "value_mean",
    "value_quantile",
    "value_margin",
    "frame_minimum",
    "arguments",
    "called",
    "values_in_prompt",
    "codes_left",
    "escalated",
)
"""The names of `Signals.features`, in their order."""

_MOST_CODES_LEFT = 3

# What may open a call before its first brace, white space before it included.
_OPENING = re.compile(r"\s*(?:<tool_call>|<\|python_tag\|>|```[\w+-]*)?[\s\[]*\Z")
_LONGEST_OPENING = 64


@dataclass(frozen=True, slots=True)
class Signals:
    """What an answer says of itself. `gate` is a reason to hand over, whatever the confidence; `escalated`: the model
    itself called `escalate`; `features` stand in the order of FEATURES, and are None where the prediction has no
    log-probabilities, as with an endpoint that tells none: then there are the gates alone."""

    gate: Gate | None
    escalated: bool
    features: tuple[float, ...] | None


def signals(prediction: Prediction, example: Example, format: FormatName) -> Signals:
    """The signals of an answer. The example's gold is not looked at.

    Raises:
        UserError: where a called tool's `parameters` are no usable JSON Schema.
    """
    turn = parse_turn(prediction.text, format, prediction.finish_reason)
    alignment = align(prediction)
    features = None if alignment is None else _features(prediction.text, turn, alignment, example)
    return Signals(_gate(turn, example), _escalated(turn.calls), features)


def _escalated(calls: Iterable[ToolCall]) -> bool:
    return any(call.name == ESCALATE for call in calls)


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
    tokens = alignment.tokens
    names: list[int] = []
    values: list[int] = []
    for place in turn.places:
        spans = call_spans(text, place)
        names += alignment.of(_decided(text, spans.name))
        values += chain.from_iterable(alignment.of(_decided(text, span)) for span in spans.values.values())
    if turn.places:
        start = turn.places[0][0]
        opening = _OPENING.search(text, max(0, start - _LONGEST_OPENING), start)
        opened = alignment.of((opening.start() if opening else start, start + 1))
        decision = _product(tokens[n] for n in opened)
        frame = set(range(opened.stop, len(tokens))).difference(names, values)
    else:
        decision = _no_call(text, alignment)
        frame = set()
    name_tokens, value_tokens = [tokens[n] for n in names], [tokens[n] for n in values]
    chances = [math.exp(token.logprob) for token in value_tokens] or [1.0]
    return (
        decision,
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
        float(_escalated(turn.calls)),
    )


def _decided(text: str, span: Span) -> Span:
    """The characters whose tokens decide a value: a string's up to its closing quote, and of a number or a word the one
    behind it too."""
    start, end = span
    if text[start] == '"':
        return start + 1, end
    return (start, end) if text[start] in "{[" else (start, end + 1)


def _no_call(text: str, alignment: Alignment) -> float:
    """The probability that no call is opened where a plain answer begins, behind any thought."""
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
    return sum(stands_in(value, prompt, ignore_case=True) for value in texts) / len(texts)


def _codes_left(calls: Sequence[ToolCall], example: Example) -> int:
    if not calls or not example.prompt or example.prompt[-1].role != "user":
        return 0
    held = "\n".join(_argument_texts(calls))
    left = sum(not stands_in(code, held, ignore_case=True) for code in codes(example.prompt[-1].content))
    return min(left, _MOST_CODES_LEFT)


def _argument_texts(calls: Iterable[ToolCall]) -> list[str]:
    return [str(value) for call in calls for _, value in leaves(call.arguments)]
