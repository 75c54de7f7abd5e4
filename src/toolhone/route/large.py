"""The large model of a cascade, behind an OpenAI-compatible endpoint: asked within bounded time and a day's budget.

In: an example. Out: its answer in OpenAI's shape, or in a word why there is none. A call has a time limit for the whole
of it; what fails in passing is asked once more, after a short wait.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
import uuid
from dataclasses import dataclass
from typing import Any

import openai

from toolhone.chat.parse import parse_turn
from toolhone.endpoint import endpoint_key, most_prompt_tokens, retry_after_seconds
from toolhone.evaluate.openai_wire import Request, read_choice, request_of
from toolhone.records import Example
from toolhone.route.day_budget import DayBudget

_LONGEST_WAIT_S = 1.0
_PASSING_STATUS = (408, 409, 429)


@dataclass(frozen=True, slots=True)
class LargeSettings:
    """How the large model is asked. `timeout_s` is for a call, of which a request has at most two; `max_tokens` is what
    an answer may have where the request sets no limit."""

    model: str
    base_url: str
    max_tokens: int = 1024
    timeout_s: float = 30.0
    first_wait_s: float = 0.3


@dataclass(slots=True)
class LargeAnswer:
    """What came of asking. `completion` is None where there is no answer, and `failure` says why: timeout,
    no-connection, status-N, malformed (it cannot be read), withheld (by a content filter), empty, budget, interrupted.
    Calls, tokens and cost are those of all attempts, as far as they may be charged; they grow while it is asked."""

    completion: dict[str, Any] | None = None
    failure: str | None = "interrupted"
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0
    latency_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One call. With `wait_s` it may be made again after so long; `refused` names an option that the endpoint does not
    take."""

    completion: dict[str, Any] | None
    failure: str | None
    tokens: tuple[int, int, int] = (0, 0, 0)  # prompt, completion, cached
    wait_s: float | None = None
    refused: str | None = None


class LargeModel:
    """A model behind `/chat/completions`, asked by the official client. It learns which options the endpoint refuses.

    It belongs to one event loop."""

    def __init__(self, settings: LargeSettings, budget: DayBudget) -> None:
        """The key comes from the environment variable OPENAI_API_KEY; an endpoint on this machine needs none.

        Raises:
            UserError: for an address that is none, or a missing key.
        """
        key = endpoint_key(settings.base_url, "--large-base-url")
        self.priced = budget.priced
        self._settings, self._budget = settings, budget
        self._limit_key = "max_tokens"
        self._wishes: dict[str, Any] = {"temperature": 0}
        # The retry is ours, so that it is counted, and its wait short.
        self._client = openai.AsyncOpenAI(
            api_key=key, base_url=settings.base_url, timeout=settings.timeout_s, max_retries=0
        )

    async def close(self) -> None:
        await self._client.close()

    async def ask(self, example: Example, answer: LargeAnswer, *, max_tokens: int | None, may_call: bool) -> None:
        """Ask for the example's turn, and put into `answer` what came of it.

        Args:
            max_tokens: the limit of the answer, where the request sets one.
            may_call: False where the request says that no tool is to be called.
        """
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
            if attempt.refused is None:  # else the call was not well put; without the option it is another
                if attempt.wait_s is None or not retries:
                    return
                retries -= 1
                await asyncio.sleep(attempt.wait_s)

    async def _attempt(self, request: Request, most: int, limit: int, may_call: bool) -> _Attempt:
        options: dict[str, Any] = {self._limit_key: limit, **self._wishes}
        if request.tools:
            options |= {"tools": request.tools, **({} if may_call else {"tool_choice": "none"})}
        create: Any = self._client.chat.completions.create
        wait_s = random.uniform(0.5, 1.0) * self._settings.first_wait_s
        try:
            # The client's own limit is for each read, so an answer that trickles in would never end.
            async with asyncio.timeout(self._settings.timeout_s):
                reply = await create(model=self._settings.model, messages=request.messages, **options)
        except (openai.APITimeoutError, TimeoutError):
            # It may have been answered, and charged, all the same.
            return _Attempt(None, "timeout", (most, limit, 0), wait_s)
        except openai.APIConnectionError:
            return _Attempt(None, "no-connection", wait_s=wait_s)
        except openai.APIStatusError as error:
            return self._refusal(error, options, wait_s)
        except (openai.APIError, json.JSONDecodeError):
            return _Attempt(None, "malformed", (most, limit, 0), wait_s)
        try:
            tokens = _charged(reply.to_dict(warnings=False).get("usage")) or (most, limit, 0)
            completion, failure = _read(reply, request)
        except (AttributeError, IndexError, KeyError, TypeError):
            # Some endpoints answer 200 with a page or an error inside.
            return _Attempt(None, "malformed", (most, limit, 0), wait_s)
        return _Attempt(completion, failure, tokens)

    def _refusal(self, error: openai.APIStatusError, options: dict[str, Any], wait_s: float) -> _Attempt:
        status, message = error.status_code, str(error)
        failure = f"status-{status}"
        if status in _PASSING_STATUS or status >= 500:
            asked = retry_after_seconds(error.response.headers.get("retry-after")) or 0.0
            # A client waits meanwhile: an endpoint that wants more time than that is as good as down.
            return _Attempt(None, failure, wait_s=max(asked, wait_s) if asked <= _LONGEST_WAIT_S else None)
        if "max_tokens" in options and "max_completion_tokens" in message:
            self._limit_key = "max_completion_tokens"  # the newer name, which newer models insist on
            return _Attempt(None, failure, refused="max_tokens")
        refused = next((key for key in self._wishes if key in options and key in message), None)
        self._wishes = {key: value for key, value in self._wishes.items() if key != refused}
        return _Attempt(None, failure, refused=refused)


def _read(reply: Any, request: Request) -> tuple[dict[str, Any] | None, str | None]:
    """The reply in OpenAI's shape, its tools under their own names, or what is wrong with it."""
    choice = reply.choices[0]
    # Written in a chat format and read again, as the scorer does it; which format makes no difference.
    answer = read_choice(choice, request.names, "hermes")
    if answer is None:
        return None, "withheld"
    turn = parse_turn(answer.text, "hermes", answer.finish_reason)
    if turn.failure is not None:
        return None, "malformed"
    if not turn.calls and not turn.content:
        return None, "empty"
    row, said = reply.to_dict(warnings=False), choice.to_dict(warnings=False)
    message = said["message"]
    content = message.get("content")
    told: dict[str, Any] = {
        "role": "assistant",
        "content": content if isinstance(content, str) else turn.content or None,
        "refusal": message.get("refusal"),
    }
    if turn.calls:
        told["tool_calls"] = [_call(call, request.names) for call in _calls_of(message)]
    finish = "tool_calls" if turn.calls else answer.finish_reason
    return {
        "model": row.get("model"),
        "choices": [{"index": 0, "message": told, "logprobs": said.get("logprobs"), "finish_reason": finish}],
        "usage": row.get("usage"),
    }, None


def _calls_of(message: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = message.get("tool_calls") or [{"function": message["function_call"]}]
    return found


def _call(call: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    name, arguments = call["function"]["name"], call["function"].get("arguments")
    if not isinstance(arguments, str):  # some give the object itself
        arguments = json.dumps(arguments or {}, ensure_ascii=False)
    function = {"name": names.get(name, name), "arguments": arguments or "{}"}
    return {"id": call.get("id") or f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function}


def _charged(usage: Any) -> tuple[int, int, int] | None:
    """Prompt, completion and cached tokens, where the endpoint tells them."""
    if not isinstance(usage, dict):
        return None
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if not isinstance(prompt, int) or not isinstance(completion, int) or min(prompt, completion) < 0:
        return None
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    return prompt, completion, cached if isinstance(cached, int) and 0 <= cached <= prompt else 0
