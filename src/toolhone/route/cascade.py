"""The cascade: the small model answers first, and the policy keeps its answer or escalates to the large model.

In: an example, and a function that asks the small model. Out: whose answer the request gets, and a line in the decision
log. If the large model gives no answer, the small model's is used, so every request is answered.

The log is a JSON line for each request. The present day's dollars are summed from it, so a cap outlives a restart. One
process writes it, and the next process that opens it removes a line that a crash cut short.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from toolhone.data.escalation import ESCALATE
from toolhone.errors import UserError
from toolhone.jsonl import json_line
from toolhone.records import Example, Prediction, Tool
from toolhone.route.confidence import signals
from toolhone.route.large_model import LargeAnswer, LargeModel
from toolhone.route.policy import Policy

Route = Literal["small", "large", "none"]
"""Whose answer was given. none: the small model escalated and the large one gave no answer."""


class DecisionLog:
    """An open log, for one writer. `spent_usd` is the cost of the lines of `day` (UTC, as 2026-11-25) at opening.

    A line's `time` is when the request was answered (UTC). `asked_large` counts the calls of the large model;
    `large_model` is its name, in its answer if there is one; null if it was not asked. Its tokens and `cost_usd` (null
    without a price) are those that it may have charged, failed calls included. `fallback` says why the large model was
    needed but did not answer. `latency_ms` is the whole request's, with its wait; `small_ms` and `large_ms` are the
    models' own."""

    def __init__(self, path: Path, day: str) -> None:
        """Open the log, and create it if missing.

        Raises:
            UserError: if it cannot be written, another process writes it, or a line is not a decision.
        """
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror}); name another file with --log") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.spent_usd = self._spent(day)
        except BlockingIOError:
            os.close(self._file)
            raise UserError(
                f"{path}: another server writes this log; name another with --log (a daily cap counts only the lines "
                "of its own log)"
            ) from None
        except BaseException:
            os.close(self._file)
            raise

    def write(self, decision: dict[str, Any]) -> None:
        """Append a line, whole or not at all; raises OSError if the disk is full or fails."""
        line, size = json_line(decision), os.fstat(self._file).st_size
        try:
            written = os.write(self._file, line)
            if written < len(line):
                raise OSError(f"{self.path}: the disk took {written} of {len(line)} bytes")
        except OSError:
            os.ftruncate(self._file, size)
            raise

    def close(self) -> None:
        """Close the file, if it is open."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def _spent(self, day: str) -> float:
        """Sum the day's dollars, and cut off an unfinished last line."""
        spent, end = 0.0, 0
        with self.path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.endswith(b"\n"):
                    break
                end += len(line)
                if day.encode() not in line:  # most lines of an old log are of other days
                    continue
                try:
                    row = json.loads(line)
                    spent += float(row["cost_usd"] or 0.0) if row["time"].startswith(day) else 0.0
                except (ValueError, KeyError, TypeError, AttributeError):
                    raise UserError(
                        f"{self.path}:{number}: is not a decision, so the day's cost is unknown; fix the line, or name "
                        "another file with --log"
                    ) from None
        os.ftruncate(self._file, end)
        return spent


@dataclass(frozen=True, slots=True)
class Cascade:
    """The parts of a cascade. `escalate` is the reserved tool, offered beside each request's own if the small model was
    trained with it. `log_texts` writes prompts and answers into the log, of which `route/decisions.py` makes rows."""

    policy: Policy
    large: LargeModel
    log: DecisionLog
    escalate: Tool | None = None
    log_texts: bool = False


@dataclass(frozen=True, slots=True)
class Routed:
    """Whose answer a request gets. `completion` is the large model's in OpenAI's shape, if the route is large."""

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
    options: Mapping[str, Any] | None = None,
) -> Routed:
    """Answer one request, and write one line into the log.

    Args:
        example: the request; its id is the decision's.
        ask_small: gives the small model's answer.
        max_tokens: the request's limit of an answer, if it sets one.
        may_call: False if the request forbids tool calls.
        options: the client's options for the large model, as keys of OpenAI's API. `strict` is the names of tools.

    Raises:
        UserError: if a called tool's `parameters` are not a usable JSON Schema.
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
            await cascade.large.ask(example, large, max_tokens=max_tokens, may_call=may_call, options=options or {})
    finally:
        # The reserved call is for us: a client that did not offer it cannot use it.
        unusable = found.escalated and not any(tool.name == ESCALATE for tool in example.tools)
        route: Route = "large" if large.completion is not None else "none" if unusable else "small"
        decision: dict[str, Any] = {
            "id": example.id,
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "route": route,
            "confidence": round(confidence, 6),
            "gate": found.gate,
            "escalated": found.escalated,
            "fallback": large.failure,
            "asked_large": large.calls,
            "large_model": (large.completion or {}).get("model") or (cascade.large.model if large.calls else None),
            "latency_ms": round((time.perf_counter() - started) * 1000, 3),
            "small_ms": round(small.latency_ms, 3),
            "large_ms": round(large.latency_ms, 3),
            "prompt_tokens": small.prompt_tokens,
            "completion_tokens": small.completion_tokens,
            "large_prompt_tokens": large.prompt_tokens,
            "large_completion_tokens": large.completion_tokens,
            "cost_usd": large.cost_usd if cascade.large.priced else None,
        }
        if cascade.log_texts:
            decision["texts"] = {
                "messages": [message.to_json() for message in example.prompt],
                "tools": [tool.to_json() for tool in example.tools],
                "tool_choice": "auto" if may_call else "none",
                "small": small.text,
                "format": cascade.policy.format,
                "large": large.completion and large.completion["choices"][0]["message"],
                "finish_reason": large.completion and large.completion["choices"][0]["finish_reason"],
            }
        try:
            cascade.log.write(decision)
        except OSError as error:
            # The client gets its answer nevertheless.
            print(f"{cascade.log.path}: the decision {example.id} is not logged: {error}", file=sys.stderr)
    return Routed(route, confidence, large.failure, small, large.completion)


def _with_reserved(example: Example, reserved: Tool | None) -> Example:
    """Add the reserved tool to the example's own, if it has others."""
    if reserved is None or not example.tools or any(tool.name == reserved.name for tool in example.tools):
        return example
    return replace(example, tools=(*example.tools, reserved))
