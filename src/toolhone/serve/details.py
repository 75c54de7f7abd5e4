"""Adds details to an answer if the request has `"toolhone": {"details": true}`: the route, the raw text, and how
sure the model was of each part.

In: the small model's prediction and its parsed turn. Out: JSON, whose `calls` are in the order of the message's
`tool_calls`. The terminal and the playground colour arguments with it.
"""

from __future__ import annotations

from typing import Any

from toolhone.chat.parse import ParsedTurn
from toolhone.records import Prediction
from toolhone.route.cascade import Route
from toolhone.route.confidence import answer_chances

HIGH, MIDDLE = 0.9, 0.6
"""The least probability that is shown as high, and as middle. `playground.html` has the same two numbers."""

_DIGITS = 4


def level(probability: float) -> str:
    """Return how a probability is shown: "high", "middle" or "low"."""
    return "high" if probability >= HIGH else "middle" if probability >= MIDDLE else "low"


def answer_details(
    prediction: Prediction, turn: ParsedTurn, *, route: Route = "small", confidence: float | None = None
) -> dict[str, Any]:
    """Return the details of an answer.

    Args:
        turn: the prediction's text, parsed.
        route: whose answer the client gets.
        confidence: the policy's probability that the small model's answer is right; None without a policy.

    Returns:
        `route` and `confidence` as given; `raw_text`, the small model's; `decision`, the probability that it calls, or
        does not call, as it did; and `calls`, each with `name_confidence` and the probability of each value in
        `arguments`. Probabilities are null if the engine gave none. If the client gets no call of the small model,
        `calls` is empty: the turn is text, cannot be read, or the large model answered.
    """
    chances = answer_chances(prediction, turn)
    calls: list[dict[str, Any]] = []
    if route == "small" and turn.status == "calls":
        for number, call in enumerate(turn.calls):
            found = chances.calls[number] if chances else None
            values = found.values if found else {}
            calls.append(
                {
                    "name_confidence": _rounded(found.name if found else None),
                    "arguments": {name: _rounded(values.get(name)) for name in call.arguments},
                }
            )
    return {
        "route": route,
        "confidence": _rounded(confidence),
        "raw_text": prediction.text,
        "decision": _rounded(chances.decision if chances else None),
        "calls": calls,
    }


def _rounded(probability: float | None) -> float | None:
    return None if probability is None else round(probability, _DIGITS)
