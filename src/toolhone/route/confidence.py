"""How sure a model's answer looks, from the one greedy pass that made it.

In: a prediction, and the example that it answers, of which the prompt and the tools are looked at and the gold never.
Out: a hard gate, where there is a reason to hand over whatever the probabilities say; whether the model itself called
`escalate`; and the features, numbers that a calibrator makes a probability of.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from toolhone.chat.parse import ParsedTurn, parse_turn
from toolhone.evaluate.schema import arguments_valid
from toolhone.records import Example, FormatName, Prediction, Tool

Gate = Literal["malformed", "truncated", "partial", "unknown_tool", "schema_invalid"]

ESCALATE = "escalate"
"""The name of the reserved call by which a model hands over."""

FEATURES: tuple[str, ...] = (
    "decision",
    "name_product",
    "name_minimum",
    "value_minimum",
    "value_mean",
    "value_quantile",
    "value_margin",
    "arguments",
    "called",
    "values_in_prompt",
    "escalated",
)
"""The names of `Signals.features`, in their order."""


@dataclass(frozen=True, slots=True)
class Signals:
    """What an answer says of itself. `gate` is a reason to hand over, whatever the confidence; `escalated`: the model
    itself called `escalate`; `features` stand in the order of FEATURES, and are None where the prediction has no
    log-probabilities."""

    gate: Gate | None
    escalated: bool
    features: tuple[float, ...] | None


def escalate_tool() -> Tool:
    """The reserved tool, as it is offered to a model that has learned to hand over."""
    description = "Hand the request over to a larger model: it is too complex, or out of scope."
    return Tool(ESCALATE, description, {"type": "object", "properties": {}, "required": []})


def signals(prediction: Prediction, example: Example, format: FormatName) -> Signals:
    """The signals of an answer.

    Raises:
        UserError: where a called tool's `parameters` are no usable JSON Schema.
    """
    turn = parse_turn(prediction.text, format, prediction.finish_reason)
    escalated = any(call.name == ESCALATE for call in turn.calls)
    return Signals(_gate(turn, example), escalated, None)


def _gate(turn: ParsedTurn, example: Example) -> Gate | None:
    if turn.status in ("malformed", "truncated", "partial"):
        return turn.status
    offered = {tool.name: tool for tool in example.tools}
    for call in turn.calls:
        if call.name not in offered:
            return "unknown_tool"
    for call in turn.calls:
        if not arguments_valid(call.arguments, offered[call.name], example.where):
            return "schema_invalid"
    return None
