"""The cascade: the small model answers first, and the policy says whether its answer stands or the large one is asked.

In: an example, and how the small model is asked. Out: whose answer it is, and a line in the decision log. Where the
large model gives no answer the small one's stands, so that every request is answered.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from toolhone.data.escalation import ESCALATE
from toolhone.records import Example, Prediction, Tool
from toolhone.route.confidence import signals
from toolhone.route.decision_log import Decision, DecisionLog, Route
from toolhone.route.large import LargeAnswer, LargeModel
from toolhone.route.policy import Policy


@dataclass(frozen=True, slots=True)
class Cascade:
    """What a cascade is made of. `escalate` is the reserved tool, where the small model was trained with it: it is
    offered beside the tools of each request. `log_texts`: what was asked and said goes into the log."""

    policy: Policy
    large: LargeModel
    log: DecisionLog
    escalate: Tool | None = None
    log_texts: bool = False


@dataclass(frozen=True, slots=True)
class Routed:
    """Whose answer a request gets. `small` was always made; `completion` is the large model's answer in OpenAI's shape,
    where the route is large. `fallback` says why the large one, though asked for, did not answer."""

    route: Route
    confidence: float
    fallback: str | None
    small: Prediction
    completion: dict[str, Any] | None


async def answer(
    cascade: Cascade,
    example: Example,
    ask_small: Callable[[Example], Awaitable[Prediction]],
    *,
    max_tokens: int | None = None,
    may_call: bool = True,
) -> Routed:
    """Answer one request, and write one line into the log.

    Args:
        example: the request; its id is the decision's.
        ask_small: gives the small model's answer.
        max_tokens: the limit of an answer, where the request sets one.
        may_call: False where the request says that no tool is to be called.

    Raises:
        UserError: where a called tool's `parameters` are no usable JSON Schema.
    """
    started = time.perf_counter()
    offered = _with_reserved(example, cascade.escalate)
    small = await ask_small(offered)
    found = signals(small, offered, cascade.policy.format)
    confidence = cascade.policy.confidence(found)
    keeps = cascade.policy.keeps(found)
    large = LargeAnswer(failure=None)
    try:
        if not keeps:
            large.failure = "interrupted"
            await cascade.large.ask(example, large, max_tokens=max_tokens, may_call=may_call)
    finally:
        # The reserved call is for us: who did not offer it could do nothing with it.
        handed_over = found.escalated and not any(tool.name == ESCALATE for tool in example.tools)
        route: Route = "large" if large.completion is not None else "none" if handed_over else "small"
        decision = Decision(
            id=example.id,
            time=datetime.now(UTC).isoformat(timespec="milliseconds"),
            route=route,
            confidence=round(confidence, 6),
            gate=found.gate,
            escalated=found.escalated,
            fallback=large.failure,
            asked_large=large.calls,
            latency_ms=round((time.perf_counter() - started) * 1000, 3),
            small_ms=round(small.latency_ms, 3),
            large_ms=round(large.latency_ms, 3),
            prompt_tokens=small.prompt_tokens,
            completion_tokens=small.completion_tokens,
            large_prompt_tokens=large.prompt_tokens,
            large_completion_tokens=large.completion_tokens,
            cost_usd=large.cost_usd if cascade.large.priced else None,
            texts=_texts(example, small, large) if cascade.log_texts else None,
        )
        try:
            cascade.log.write(decision)
        except OSError as error:
            # The client has its answer all the same.
            print(f"{cascade.log.path}: the decision {example.id} is not logged: {error}", file=sys.stderr)
    return Routed(route, confidence, large.failure, small, large.completion)


def _with_reserved(example: Example, reserved: Tool | None) -> Example:
    """The example with the reserved tool beside its own, where it has any and not that one."""
    if reserved is None or not example.tools or any(tool.name == reserved.name for tool in example.tools):
        return example
    return replace(example, tools=(*example.tools, reserved))


def _texts(example: Example, small: Prediction, large: LargeAnswer) -> dict[str, Any]:
    return {
        "messages": [message.to_json() for message in example.prompt],
        "tools": [tool.to_json() for tool in example.tools],
        "small": small.text,
        "large": large.completion and large.completion["choices"][0]["message"],
    }
