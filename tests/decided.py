"""Decision logs for tests: the real cascade routes given answers of a small model, with an endpoint on loopback."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toolhone.records import Example, Prediction, Token
from toolhone.route.calibrate import Calibrator
from toolhone.route.cascade import Cascade, DecisionLog, Routed, answer
from toolhone.route.confidence import FEATURES
from toolhone.route.large_model import DayBudget, LargeModel, LargeSettings, utc_day
from toolhone.route.policy import Goal, Identity, Policy


def half_sure(*, keeps: bool) -> Policy:
    """Return a policy that gives 0.5 to every answer that passes the gates, and keeps it or not."""
    none = (0.0,) * len(FEATURES)
    return Policy(
        identity=Identity("tiny"),
        format="hermes",
        features=FEATURES,
        calibrator=Calibrator(none, (1.0,) * len(FEATURES), none, 0.0, ()),
        threshold=0.4 if keeps else 0.6,
        goal=Goal(kind="escalation", escalation=0.5),
        rows={"calibration": 10},
        toolhone="0.1.0",
    )


def small_answer(id_: str, text: str, logprob: float = -0.01) -> Prediction:
    """Return an answer of one token for each byte."""
    tokens = tuple(Token(byte, bytes([byte]), logprob) for byte in text.encode())
    return Prediction(id_, "small", text, "stop", 100, len(tokens), 40.0, tokens)


def decide(
    log: Path,
    url: str,
    asked: Sequence[tuple[Example, Prediction]],
    policy: Policy,
    *,
    log_texts: bool = True,
    may_call: bool = True,
) -> list[Routed]:
    """Route each request with its small answer, one after the other, and append the decisions to the log."""

    async def all_of_them() -> list[Routed]:
        settings = LargeSettings("big", url, timeout_s=5.0, first_wait_s=0.0)
        model, opened = LargeModel(settings, DayBudget(None, None)), DecisionLog(log, utc_day())
        cascade = Cascade(policy, model, opened, log_texts=log_texts)
        found = []
        for example, small in asked:

            async def ask_small(_: Example, small: Prediction = small) -> Prediction:
                return small

            found.append(await answer(cascade, example, ask_small, may_call=may_call))
        await model.close()
        opened.close()
        return found

    return asyncio.run(all_of_them())


def completion(calls: Sequence[tuple[str, dict[str, Any]]] = (), text: str = "", finish: str | None = None) -> Any:
    """Return an endpoint's answer with these calls."""
    written = [
        {"id": f"call_{n}", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
        for n, (name, arguments) in enumerate(calls)
    ]
    message = {"role": "assistant", "content": text or None, **({"tool_calls": written} if written else {})}
    choice = {"index": 0, "message": message, "finish_reason": finish or ("tool_calls" if calls else "stop")}
    usage = {"prompt_tokens": 50, "completion_tokens": 10, "total_tokens": 60}
    return {"id": "x", "object": "chat.completion", "created": 1, "model": "big-1", "choices": [choice], "usage": usage}
