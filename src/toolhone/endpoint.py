"""Send requests to an OpenAI-compatible endpoint, within a budget of calls and dollars.

In: a model, its address, and the messages of a request. Out: the text of the answer, or why there is none. The caller
records every attempt and its cost before the next attempt starts.
"""

from __future__ import annotations

import json
import os
import random
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from toolhone.errors import UserError

_MAX_WAIT_S = 60.0

UNREADABLE_BODY = (ValueError, RecursionError)
"""Raised by reading the body of a reply with status 200, if it is not JSON, not UTF-8, or nested too deeply."""

UNREADABLE_REPLY = (*UNREADABLE_BODY, AttributeError, IndexError, KeyError, TypeError)
"""Raised by reading a reply that is JSON but not a chat completion, such as an error object."""


class OutOfBudget(Exception):  # noqa: N818 (a reason to stop, not an error)
    """The next call would not fit into the budget."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request to the endpoint. If it failed, `text` is None and `failure` says why. The token counts are those that
    may be charged: the endpoint's own count if `usage_reported`, otherwise the upper bound. `choice` is the answer as
    the endpoint sent it. `latency_ms` is the time from the request to the complete answer."""

    text: str | None
    failure: str | None
    prompt_tokens: int
    completion_tokens: int
    retry: bool = False
    wait_s: float | None = None
    choice: Any = None
    latency_ms: float = 0.0
    usage_reported: bool = False


class Budget:
    """Counts calls and dollars over all threads. A call starts only if its highest possible cost fits the budget."""

    def __init__(self, max_calls: int | None, max_usd: float | None, price_in: float, price_out: float) -> None:
        """Prices are in dollars per million tokens."""
        self.calls = 0
        self.usd = 0.0
        self._max_calls, self._max_usd = max_calls, max_usd
        self._prices = price_in, price_out
        self._reserved = 0.0
        self._running = 0
        self._changed = threading.Condition()

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        return (prompt_tokens * self._prices[0] + completion_tokens * self._prices[1]) / 1e6

    def spend(self, prompt_tokens: int, completion_tokens: int) -> None:
        """Count a call of an earlier run."""
        self.usd += self.cost(prompt_tokens, completion_tokens)
        self.calls += 1

    def reserve(self, bound_usd: float) -> None:
        """Reserve money for a call. If it does not fit while other calls are running, wait for them to finish.

        Raises:
            OutOfBudget: if the call does not fit.
        """
        with self._changed:
            while True:
                # A running call is already counted. Its reservation is released when its cost is known.
                if self._max_calls is not None and self.calls >= self._max_calls:
                    raise OutOfBudget
                if self._max_usd is None or self.usd + self._reserved + bound_usd <= self._max_usd:
                    break
                if not self._running:
                    raise OutOfBudget
                self._changed.wait()
            self.calls += 1
            self._reserved += bound_usd
            self._running += 1

    def settle(self, bound_usd: float, usd: float) -> None:
        """Replace the reservation of a call by its cost."""
        with self._changed:
            self._running -= 1
            # Reset to zero, because rounding may leave a remainder that no call releases.
            self._reserved = self._reserved - bound_usd if self._running else 0.0
            self.usd += usd
            self._changed.notify_all()


class Pace:
    """Starts calls at even intervals over all threads, at most `calls_a_minute` of them per minute."""

    def __init__(self, calls_a_minute: float | None) -> None:
        self._interval_s = 60.0 / calls_a_minute if calls_a_minute else 0.0
        self._next = time.monotonic()
        self._lock = threading.Lock()

    def wait(self, stop: threading.Event) -> None:
        """Return when the next call may start, or when `stop` is set."""
        if not self._interval_s:
            return
        with self._lock:
            start = max(self._next, time.monotonic())
            self._next = start + self._interval_s
        stop.wait(max(0.0, start - time.monotonic()))


class ChatOptions:
    """The request options for one model. It learns which of them the endpoint refuses."""

    def __init__(self, optional: Mapping[str, Any]) -> None:
        """`optional` are the options to leave out once the endpoint has refused them by name."""
        self.optional = dict(optional)
        self._names = tuple(optional)
        self._limit_key = "max_tokens"

    def of_call(self, max_tokens: int, tools: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {self._limit_key: max_tokens, **self.optional, **({"tools": tools} if tools else {})}

    def learn(self, sent: Mapping[str, Any], message: str) -> str | None:
        """Adapt to an endpoint that refused the options `sent` with this message. Returns what it wants instead, so
        that the caller can retry; None if the message names none of the options."""
        # Compare with what was sent, because another thread may have learned the same in the meantime.
        if "max_tokens" in sent and "max_completion_tokens" in message:
            self._limit_key = "max_completion_tokens"  # the newer name, which newer models require
            return "wants max_completion_tokens"
        # Match whole words: an endpoint that refuses top_logprobs may still accept logprobs.
        refused = [key for key in self._names if key in sent and re.search(rf"\b{key}\b", message)]
        self.optional = {key: value for key, value in self.optional.items() if key not in refused}
        return f"does not accept {', '.join(refused)}" if refused else None


class Endpoint:
    """A model behind `/chat/completions`."""

    def __init__(
        self,
        model: str,
        base_url: str,
        *,
        max_tokens: int,
        timeout_s: float,
        retries: int,
        first_wait_s: float = 1.0,
        calls_a_minute: float | None = None,
        optional: Mapping[str, Any] | None = None,
    ) -> None:
        """`optional` are further request options, for `ChatOptions`.

        Raises:
            UserError: if the address is invalid, or the key or the package openai is missing.
        """
        try:
            from openai import OpenAI
        except ImportError:
            raise UserError("the package openai is not installed; install it with `pip install openai`") from None
        key = endpoint_key(base_url, "--base-url")
        self._model, self._max_tokens, self._retries, self._first_wait_s = model, max_tokens, retries, first_wait_s
        self._pace = Pace(calls_a_minute)
        self.options = ChatOptions(optional or {})
        # Retries are made here, so that each one is counted.
        self._client = OpenAI(api_key=key, base_url=base_url, timeout=timeout_s, max_retries=0)

    def ask(
        self,
        messages: Sequence[Mapping[str, Any]],
        budget: Budget,
        record: Callable[[Attempt], None],
        stop: threading.Event,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> Attempt | None:
        """Send the request until there is an answer or no retry is left. Returns None if `stop` is set. `record` is
        called with each attempt.

        Raises:
            OutOfBudget: before a call that does not fit the budget.
            UserError: if no call can succeed, because the key, the model or the address is wrong.
        """
        most = most_prompt_tokens(messages, tools)
        bound = budget.cost(most, self._max_tokens)
        number = 0
        while not stop.is_set():
            self._pace.wait(stop)
            budget.reserve(bound)
            attempt = Attempt(None, "interrupted", most, self._max_tokens)
            try:
                attempt = self._attempt(messages, tools, most)
            finally:
                budget.settle(bound, budget.cost(attempt.prompt_tokens, attempt.completion_tokens))
            record(attempt)
            if not attempt.retry or number == self._retries:
                return attempt
            # Full jitter, so that threads that failed together do not retry together.
            longest = min(_MAX_WAIT_S, self._first_wait_s * 2**number)
            asked = 0.0 if attempt.wait_s is None else min(attempt.wait_s, _MAX_WAIT_S)
            stop.wait(asked + random.uniform(0, longest))
            number += 1
        return None

    def _attempt(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]], most: int) -> Attempt:
        import openai

        options = self.options.of_call(self._max_tokens, tools)
        try:
            create: Any = self._client.chat.completions.create
            started = time.perf_counter()
            reply = create(model=self._model, messages=messages, **options)
            latency_ms = (time.perf_counter() - started) * 1000
        except openai.APITimeoutError:
            # The endpoint may have answered, and charged, anyway.
            return Attempt(None, "timeout", most, self._max_tokens, retry=True)
        except openai.APIConnectionError as error:
            if was_answered(error):
                return Attempt(None, "malformed answer", most, self._max_tokens, retry=True)
            return Attempt(None, f"no connection: {error.__cause__ or error}", 0, 0, retry=True)
        except openai.APIStatusError as error:
            return self._status(error.status_code, str(error), error.response.headers.get("retry-after"), options)
        except (openai.APIError, *UNREADABLE_BODY):
            return Attempt(None, "malformed answer", most, self._max_tokens, retry=True)
        try:
            choice = reply.choices[0]
            text = choice.message.content
            usage = reported_usage(reply.to_dict(warnings=False).get("usage"))
        except UNREADABLE_REPLY:
            return Attempt(None, "malformed answer", most, self._max_tokens, retry=True)
        text = text if isinstance(text, str) else ""
        charged = (most, self._max_tokens) if usage is None else usage[:2]
        return Attempt(text, None, *charged, choice=choice, latency_ms=latency_ms, usage_reported=usage is not None)

    def _status(self, status: int, message: str, retry_after: str | None, sent: Mapping[str, Any]) -> Attempt:
        if is_temporary(status):
            return Attempt(None, f"status {status}", 0, 0, retry=True, wait_s=retry_after_seconds(retry_after))
        if status in (401, 403, 404):
            remedy = "check --endpoint-model and --base-url" if status == 404 else "check OPENAI_API_KEY"
            raise UserError(f"the endpoint answered {status}: {message[:300]}; {remedy}")
        if wanted := self.options.learn(sent, message):
            return Attempt(None, wanted, 0, 0, retry=True, wait_s=0.0)
        return Attempt(None, f"refused with status {status}: {message[:300]}", 0, 0)


def was_answered(error: Exception) -> bool:
    """Whether the failed connection delivered an answer that cannot be decompressed. It may be charged."""
    return type(error.__cause__).__name__ == "DecodingError"


def endpoint_key(base_url: str, flag: str, key: str | None = None) -> str:
    """Return the key: the given one, or that of the environment variable OPENAI_API_KEY. An endpoint on this machine
    needs none.

    Raises:
        UserError: naming `flag`, if the address is invalid or the key is missing.
    """
    address = urlsplit(base_url)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise UserError(f"{flag} {base_url}: expected an address such as http://127.0.0.1:8000/v1")
    key = key or os.environ.get("OPENAI_API_KEY")
    if not key and address.hostname not in ("localhost", "127.0.0.1", "::1"):
        raise UserError(f"OPENAI_API_KEY is not set; set it to the key for {address.hostname}")
    return key or "none"


def most_prompt_tokens(messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> int:
    """An upper bound on the tokens of a request."""
    # A token is at least one byte. The role and the markup of a message add a few tokens.
    texts = [message["content"] or "" for message in messages]
    values = [*(call for message in messages for call in message.get("tool_calls", ())), *tools]
    return sum(len(text.encode()) + 16 for text in texts) + sum(len(json.dumps(value).encode()) for value in values)


def reported_usage(usage: Any) -> tuple[int, int, int] | None:
    """Return the prompt, completion and cached tokens of a reply's `usage`; None if they are not reported."""
    if not isinstance(usage, dict):
        return None
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if not isinstance(prompt, int) or not isinstance(completion, int) or min(prompt, completion) < 0:
        return None
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    return prompt, completion, cached if isinstance(cached, int) and 0 <= cached <= prompt else 0


def is_temporary(status: int) -> bool:
    """Whether a call that failed with this HTTP status may succeed later."""
    return status in (408, 409, 429) or status >= 500


def retry_after_seconds(retry_after: str | None) -> float | None:
    """Return the seconds of a Retry-After header; None if it is absent or a date."""
    try:
        return None if retry_after is None else max(0.0, float(retry_after))
    except ValueError:  # a date: the caller uses its own waiting time
        return None
