"""The large model of a cascade, behind an OpenAI-compatible endpoint, with a time limit a call and a budget a day.

In: an example. Out: its answer in OpenAI's shape, or a word for why there is none. A temporary failure is retried once,
after a short wait. A call starts only if its highest cost fits the day's budget.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import openai

from toolhone.economics.cost import Price, call_cost_usd
from toolhone.endpoint import (
    UNREADABLE_BODY,
    UNREADABLE_REPLY,
    ChatOptions,
    endpoint_key,
    is_temporary,
    most_prompt_tokens,
    reported_usage,
    retry_after_seconds,
    was_answered,
)
from toolhone.evaluate.openai_wire import Request, calls_of, read_choice, request_of
from toolhone.jsonl import json_line
from toolhone.records import Example

_LONGEST_WAIT_S = 1.0


def utc_day() -> str:
    return datetime.now(UTC).date().isoformat()


class DayBudget:
    """The dollars spent in a day, from midnight to midnight UTC. A call counts for the day on which it ends, as its
    line in the decision log does. It belongs to one thread."""

    def __init__(
        self, max_usd: float | None, price: Price | None, spent_usd: float = 0.0, today: Callable[[], str] = utc_day
    ) -> None:
        """`spent_usd` was spent today already; without `price` nothing is counted."""
        self.spent_usd, self.priced = spent_usd, price is not None
        self._max_usd, self._price, self._today = max_usd, price, today
        self._day = today()
        self._reserved: list[float] = []

    def cost(self, prompt_tokens: int, completion_tokens: int, cached_tokens: int = 0) -> float:
        """Return dollars; 0 if no price is known."""
        if self._price is None:
            return 0.0
        return call_cost_usd(self._price, prompt_tokens, completion_tokens, cached_tokens)

    def reserve(self, bound_usd: float) -> bool:
        """Reserve the highest cost of a call; False if it does not fit."""
        self._roll()
        if self._max_usd is not None and self.spent_usd + sum(self._reserved) + bound_usd > self._max_usd:
            return False
        self._reserved.append(bound_usd)
        return True

    def settle(self, bound_usd: float, usd: float) -> None:
        """Replace what was reserved for a call by its cost."""
        self._roll()
        self._reserved.remove(bound_usd)
        self.spent_usd += usd

    def _roll(self) -> None:
        if (day := self._today()) != self._day:
            self._day, self.spent_usd = day, 0.0


@dataclass(frozen=True, slots=True)
class LargeSettings:
    """How the large model is asked. `timeout_s` is for a call, and a request has at most two; `max_tokens` is the limit
    of an answer if the request sets none."""

    model: str
    base_url: str
    max_tokens: int = 1024
    timeout_s: float = 30.0
    first_wait_s: float = 0.3


@dataclass(slots=True)
class LargeAnswer:
    """The large model's answer so far. `completion` is None if there is none, and `failure` says why: timeout,
    no-connection, status-N, malformed, withheld (by a content filter), empty, budget, interrupted. Calls, tokens and
    cost are those of all attempts so far, if they may be charged."""

    completion: dict[str, Any] | None = None
    failure: str | None = "interrupted"
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0
    latency_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One call. It may be retried after `wait_s`, if that is given, and at once if an option was `refused`."""

    completion: dict[str, Any] | None
    failure: str | None
    tokens: tuple[int, int, int] = (0, 0, 0)  # prompt, completion, cached
    wait_s: float | None = None
    refused: bool = False


class LargeModel:
    """A model behind `/chat/completions`. It belongs to one event loop."""

    def __init__(self, settings: LargeSettings, budget: DayBudget) -> None:
        """Open a client for the address; this makes no call.

        Raises:
            UserError: for an invalid address, or a missing key.
        """
        key = endpoint_key(settings.base_url, "--large-base-url")
        self.model, self.priced = settings.model, budget.priced
        self._settings, self._budget = settings, budget
        self._options = ChatOptions({"temperature": 0})
        # The retry is ours, so that it is counted and its wait is short.
        self._client = openai.AsyncOpenAI(
            api_key=key, base_url=settings.base_url, timeout=settings.timeout_s, max_retries=0
        )

    async def close(self) -> None:
        await self._client.close()

    async def ask(self, example: Example, answer: LargeAnswer, *, max_tokens: int | None, may_call: bool) -> None:
        """Ask for the example's turn, and write the result into `answer`; see `cascade.answer` for the arguments."""
        request = request_of(example)
        limit = max_tokens or self._settings.max_tokens
        most = most_prompt_tokens(request.messages, request.tools)
        bound = self._budget.cost(most, limit)
        started = time.perf_counter()
        retries = 1
        while True:
            if not self._budget.reserve(bound):
                answer.failure = "budget" if not answer.calls else answer.failure
                return
            attempt = _Attempt(None, "interrupted", (most, limit, 0))
            try:
                attempt = await self._attempt(request, most, limit, may_call)
            finally:
                cost = self._budget.cost(*attempt.tokens)
                self._budget.settle(bound, cost)
                answer.completion, answer.failure = attempt.completion, attempt.failure
                answer.calls += 1
                answer.prompt_tokens += attempt.tokens[0]
                answer.completion_tokens += attempt.tokens[1]
                answer.cost_usd += cost
                answer.latency_ms = (time.perf_counter() - started) * 1000
            if not attempt.refused:
                if attempt.wait_s is None or not retries:
                    return
                retries -= 1
                await asyncio.sleep(attempt.wait_s)

    async def _attempt(self, request: Request, most: int, limit: int, may_call: bool) -> _Attempt:
        options = self._options.of_call(limit, request.tools)
        if request.tools and not may_call:
            options["tool_choice"] = "none"
        create: Any = self._client.chat.completions.create
        wait_s = random.uniform(0.5, 1.0) * self._settings.first_wait_s
        try:
            # The client's own limit is for each read, so an answer that trickles in would never time out.
            async with asyncio.timeout(self._settings.timeout_s):
                reply = await create(model=self._settings.model, messages=request.messages, **options)
        except (openai.APITimeoutError, TimeoutError):
            # The endpoint may have answered and charged for it.
            return _Attempt(None, "timeout", (most, limit, 0), wait_s)
        except openai.APIConnectionError as error:
            if was_answered(error):
                return _Attempt(None, "malformed", (most, limit, 0), wait_s)
            return _Attempt(None, "no-connection", wait_s=wait_s)
        except openai.APIStatusError as error:
            return self._refusal(error, options, wait_s)
        except (openai.APIError, *UNREADABLE_BODY):
            return _Attempt(None, "malformed", (most, limit, 0), wait_s)
        try:
            tokens = reported_usage(reply.to_dict(warnings=False).get("usage")) or (most, limit, 0)
            completion, failure = _read(reply, request)
            json_line({"answer": completion})  # an answer nested too deeply to write cannot be served
        except UNREADABLE_REPLY:
            return _Attempt(None, "malformed", (most, limit, 0), wait_s)
        return _Attempt(completion, failure, tokens)

    def _refusal(self, error: openai.APIStatusError, options: dict[str, Any], wait_s: float) -> _Attempt:
        status, message = error.status_code, str(error)
        failure = f"status-{status}"
        if is_temporary(status):
            asked = retry_after_seconds(error.response.headers.get("retry-after")) or 0.0
            # A client is waiting, so an endpoint that asks for a longer pause counts as down.
            return _Attempt(None, failure, wait_s=max(asked, wait_s) if asked <= _LONGEST_WAIT_S else None)
        return _Attempt(None, failure, refused=self._options.learn(options, message) is not None)


def _read(reply: Any, request: Request) -> tuple[dict[str, Any] | None, str | None]:
    """Return the reply in OpenAI's shape, its tools under their own names, or what is wrong with it."""
    choice = reply.choices[0]
    # Calls are written in a chat format and read again, as in scoring; any format works.
    answer = read_choice(choice, request.names, "hermes")
    if answer is None:
        return None, "withheld"
    turn = answer.read("hermes", tuple(request.names.values()))
    row, said = reply.to_dict(warnings=False), choice.to_dict(warnings=False)
    message = said["message"]
    # A call that the server left in the text is of no use to a client, even if it could be read.
    if turn.failure is not None or (turn.calls and not calls_of(message)):
        return None, "malformed"
    if not turn.calls and not turn.content:
        return None, "empty"
    content = message.get("content")
    result: dict[str, Any] = {
        "role": "assistant",
        "content": content if isinstance(content, str) else turn.content or None,
        "refusal": message.get("refusal"),
    }
    if turn.calls:
        result["tool_calls"] = [_call(call, request.names) for call in calls_of(message)]
    finish = "tool_calls" if turn.calls else answer.finish_reason
    return {
        "model": row.get("model"),
        "choices": [{"index": 0, "message": result, "logprobs": said.get("logprobs"), "finish_reason": finish}],
        "usage": row.get("usage"),
    }, None


def _call(call: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    name, arguments = call["function"]["name"], call["function"].get("arguments")
    if not isinstance(arguments, str):  # some endpoints give the object itself
        arguments = json.dumps(arguments or {}, ensure_ascii=False)
    function = {"name": names.get(name, name), "arguments": arguments or "{}"}
    return {"id": call.get("id") or f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function}
