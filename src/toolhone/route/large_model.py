"""The large model of a cascade, behind an OpenAI-compatible endpoint, with a time limit a call and a budget a day.

In: an example. Out: its answer in OpenAI's shape, or a word for why there is none. A temporary failure is retried once,
after a short wait. A call starts only if its highest cost fits the day's budget.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import openai

from toolhone.chat.parse import parse_repaired
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
from toolhone.formats.foreign_syntax import opens_with_marker
from toolhone.jsonl import json_line
from toolhone.records import Example, Repair

_LONGEST_WAIT_S = 1.0
_FORMAT = "hermes"
_NO_OPTIONS: Mapping[str, Any] = {}

_BINDING = ("tool_choice", "response_format")
"""Options that a request never goes without. An answer that ignores them is of no use to the client; the small model's
follows them."""

_OF_TOOLS = ("strict", "tool_choice", "parallel_tool_calls")
"""Options that endpoints refuse without tools."""

_OTHER_FORMATS: tuple[Repair, ...] = ("other_syntax",)
_NAME = re.compile(r'"name"\s*:\s*"([^"]*)"')
_UNSUPPORTED = re.compile(r"(?i)unsupported|not support|unrecogni[sz]ed|unknown|unexpected|not permitted|extra input")


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
    no-connection, status-N, malformed, withheld (by a content filter), empty, undeclared-tool (it called a tool that
    was not offered), budget, interrupted. Calls, tokens and cost are those of all attempts so far, if they may be
    charged."""

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
        self._unsupported: set[str] = set()  # options of clients
        # The retry is ours, so that it is counted and its wait is short.
        self._client = openai.AsyncOpenAI(
            api_key=key, base_url=settings.base_url, timeout=settings.timeout_s, max_retries=0
        )

    async def close(self) -> None:
        await self._client.close()

    async def ask(
        self,
        example: Example,
        answer: LargeAnswer,
        *,
        max_tokens: int | None,
        may_call: bool,
        options: Mapping[str, Any] = _NO_OPTIONS,
    ) -> None:
        """Ask for the example's turn, and write the result into `answer`; see `cascade.answer` for the arguments."""
        request, client = _with_options(request_of(example), options)
        if request.tools and not may_call:
            client["tool_choice"] = "none"
        limit = max_tokens or self._settings.max_tokens
        # A schema for the answer is part of the prompt.
        most = most_prompt_tokens(request.messages, request.tools) + (len(json_line(client)) if client else 0)
        bound = self._budget.cost(most, limit)
        started = time.perf_counter()
        retries = 1
        while True:
            if not self._budget.reserve(bound):
                answer.failure = "budget" if not answer.calls else answer.failure
                return
            attempt = _Attempt(None, "interrupted", (most, limit, 0))
            try:
                attempt = await self._attempt(request, most, limit, client)
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

    async def _attempt(self, request: Request, most: int, limit: int, client: dict[str, Any]) -> _Attempt:
        """Send the request once. An option that is refused is taken out of `client`."""
        own = self._options.of_call(limit, request.tools)
        known = {"temperature"} - own.keys()  # if the endpoint refuses it, a client's is refused too
        options = {**own, **{key: client[key] for key in client.keys() - self._unsupported - known}}
        if "strict" in options:
            options["tools"] = [_strict_tool(tool, options["strict"]) for tool in request.tools]
            del options["strict"]
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
            return self._refusal(error, options, wait_s, client)
        except (openai.APIError, *UNREADABLE_BODY):
            return _Attempt(None, "malformed", (most, limit, 0), wait_s)
        try:
            tokens = reported_usage(reply.to_dict(warnings=False).get("usage")) or (most, limit, 0)
            completion, failure = _read(reply, request)
            json_line({"answer": completion})  # an answer nested too deeply to write cannot be served
        except UNREADABLE_REPLY:
            return _Attempt(None, "malformed", (most, limit, 0), wait_s)
        return _Attempt(completion, failure, tokens)

    def _refusal(
        self, error: openai.APIStatusError, options: dict[str, Any], wait_s: float, client: dict[str, Any]
    ) -> _Attempt:
        status, message = error.status_code, str(error)
        failure = f"status-{status}"
        if is_temporary(status):
            asked = retry_after_seconds(error.response.headers.get("retry-after")) or 0.0
            # A client is waiting, so an endpoint that asks for a longer pause counts as down.
            return _Attempt(None, failure, wait_s=max(asked, wait_s) if asked <= _LONGEST_WAIT_S else None)
        named = {key for key in client if key not in _BINDING and re.search(rf"\b{key}\b", message)}
        # A value that is out of range says nothing about other clients' values.
        if _UNSUPPORTED.search(message):
            self._unsupported |= named
        for key in named:
            del client[key]
        learned = self._options.learn(options, message) is not None
        return _Attempt(None, failure, refused=learned or bool(named))


def _with_options(request: Request, options: Mapping[str, Any]) -> tuple[Request, dict[str, Any]]:
    """Return the request, and a client's options with tools under the names that are sent."""
    sent = {own: name for name, own in request.names.items()}
    client = {key: value for key, value in options.items() if key not in _OF_TOOLS or request.tools}
    if isinstance(choice := client.get("tool_choice"), dict):
        client["tool_choice"] = _renamed(choice, sent)
    if "strict" in client:
        client["strict"] = tuple(sent.get(name, name) for name in client["strict"])
    return request, client


def _renamed(choice: Any, sent: Mapping[str, str]) -> Any:
    """Return a choice of tools with the names that are sent."""
    if isinstance(choice, dict):
        return {
            key: sent.get(value, value) if key == "name" else _renamed(value, sent) for key, value in choice.items()
        }
    return [_renamed(each, sent) for each in choice] if isinstance(choice, list) else choice


def _strict_tool(tool: dict[str, Any], strict: Sequence[str]) -> dict[str, Any]:
    is_strict = tool["function"]["name"] in strict
    return {**tool, "function": {**tool["function"], "strict": True}} if is_strict else tool


def _read(reply: Any, request: Request) -> tuple[dict[str, Any] | None, str | None]:
    """Return the reply in OpenAI's shape, its tools under their own names, or what is wrong with it."""
    choice = reply.choices[0]
    # Calls are written in a chat format and read again, as in scoring; any format works.
    answer = read_choice(choice, request.names, _FORMAT)
    if answer is None:
        return None, "withheld"
    row, said = reply.to_dict(warnings=False), choice.to_dict(warnings=False)
    message = said["message"]
    given = calls_of(message)
    if not given and not _is_call_left_in_text(answer.text, request):
        # A text that quotes a call or a tag is prose.
        answer = replace(answer, prose_end=len(answer.text))
    turn = answer.read(_FORMAT, tuple(request.names.values()))
    if turn.failure is not None or (turn.calls and not given):
        return None, "malformed"
    if any(call.name not in request.names.values() for call in turn.calls):
        return None, "undeclared-tool"
    if not turn.calls and not turn.content:
        return None, "empty"
    content = message.get("content")
    result: dict[str, Any] = {
        "role": "assistant",
        "content": content if isinstance(content, str) else turn.content or None,
        "refusal": message.get("refusal"),
    }
    if turn.calls:
        result["tool_calls"] = [_call(call, request.names) for call in given]
    finish = "tool_calls" if turn.calls else answer.finish_reason
    return {
        "model": row.get("model"),
        "choices": [{"index": 0, "message": result, "logprobs": said.get("logprobs"), "finish_reason": finish}],
        "usage": row.get("usage"),
    }, None


def _is_call_left_in_text(text: str, request: Request) -> bool:
    """Whether a text is nothing but calls of the request's tools, which the server failed to parse; the last one may be
    cut. A client cannot use them."""
    names = {*request.names, *request.names.values()}
    if not names or not opens_with_marker(text):
        return False
    # Read as if cut, because then a call that only lacks its end is not malformed.
    turn = parse_repaired(text, _FORMAT, "length", _OTHER_FORMATS, tools=names).turn
    called = {call.name for call in turn.calls} or set(_NAME.findall(text))
    return turn.status in ("calls", "truncated", "partial") and not turn.content and bool(called & names)


def _call(call: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    name, arguments = call["function"]["name"], call["function"].get("arguments")
    if not isinstance(arguments, str):  # some endpoints give the object itself
        arguments = json.dumps(arguments or {}, ensure_ascii=False)
    function = {"name": names.get(name, name), "arguments": arguments or "{}"}
    return {"id": call.get("id") or f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function}
