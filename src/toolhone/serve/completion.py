"""Answers a request, whole or as a stream: by the small model, or in a cascade by whichever model the policy chooses.

In: a request. Out: a completion in OpenAI's shape, or the events of a stream, with the headers that say whose answer it
is. A cascade decides on the whole small answer, so its stream begins after the decision.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from toolhone.chat.parse import parse_turn
from toolhone.engines.generate import Generated
from toolhone.records import Example, Prediction
from toolhone.route.cascade import Cascade, Routed, answer
from toolhone.serve.answer import Answer, Piece, Prompt, SmallModel
from toolhone.serve.details import answer_details
from toolhone.serve.metrics import Metrics
from toolhone.serve.reply import Reply, read_reply
from toolhone.serve.request import ApiError, ChatRequest
from toolhone.serve.stream import DeltaReader, Event, Finished, Usage, message_deltas


@dataclass(slots=True)
class Answerer:
    """What answers the requests for one model's name: the small model, and the large one behind it in a cascade."""

    small: SmallModel
    metrics: Metrics
    cascade: Cascade | None = None

    async def complete(self, asked: ChatRequest) -> tuple[dict[str, Any], dict[str, str]]:
        """Return the completion without its id, and the headers.

        Raises:
            ApiError: if the request cannot be answered.
        """
        if self.cascade is None:
            prompt = self.small.prompt(asked.example)
            answers = await self._all(asked, prompt)
            self.metrics.count_route("small", None)
            return self._completion(asked, answers)
        routed, found = await self._route(self.cascade, asked)
        if routed.completion is not None:
            return routed.completion, _route_headers(routed)
        completion, headers = self._completion(asked, [found], routed.confidence)
        return completion, headers | _route_headers(routed)

    async def stream(self, asked: ChatRequest) -> tuple[AsyncGenerator[Event, None], dict[str, str], str]:
        """Return the events of the answer, the headers, and the name of the model that answers."""
        if self.cascade is None:
            self.metrics.count_route("small", None)
            return self._small_events(asked), {}, self.small.name
        completion, headers = await self.complete(asked)
        return _events_of(completion), headers, completion["model"]

    async def _all(self, asked: ChatRequest, prompt: Prompt) -> list[Answer]:
        """Return the request's answers, which are generated side by side. The first that fails ends the others."""
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._whole(asked, prompt, number)) for number in range(asked.n)]
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _whole(self, asked: ChatRequest, prompt: Prompt, number: int = 0) -> Answer:
        found = None
        async with aclosing(self.small.answer(asked, prompt, number, at_once=not asked.stop)) as parts:
            async for part in parts:
                if isinstance(part, Answer):
                    found = part
        assert found is not None
        self._count(found)
        return found

    def _count(self, found: Answer) -> None:
        made = found.prediction
        self.metrics.count_tokens(made.prompt_tokens, found.cached_tokens, made.completion_tokens)

    async def _route(self, cascade: Cascade, asked: ChatRequest) -> tuple[Routed, Answer]:
        if asked.n > 1:
            raise ApiError(400, "n: a cascade gives one answer; leave it out", param="n", code="unsupported")
        found: list[Answer] = []
        prompts: list[Prompt] = []

        async def ask_small(example: Example) -> Prediction:
            prompts.append(self.small.prompt(example))
            found.append(await self._whole(asked, prompts[0]))
            return found[0].prediction

        routed = await answer(
            cascade,
            asked.example,
            ask_small,
            max_tokens=asked.max_tokens,
            may_call=asked.tool_choice.mode != "none",
            options=asked.large_options,
        )
        self.metrics.count_route(routed.route, routed.confidence)
        if routed.route == "none":
            reason = f"the small model escalated this request, and the large model did not answer ({routed.fallback})"
            raise ApiError(503, reason, code="large_model_unavailable", headers=_route_headers(routed))
        return routed, found[0]

    def _completion(
        self, asked: ChatRequest, answers: Sequence[Answer], confidence: float | None = None
    ) -> tuple[dict[str, Any], dict[str, str]]:
        choices, statuses = [], []
        for index, found in enumerate(answers):
            reply = self._reply(asked, found)
            statuses.append(reply.status)
            logprobs = {"content": logprob_rows(found.tokens), "refusal": None} if asked.logprobs else None
            message, finish = reply.message(), reply.finish_reason
            if asked.legacy_functions:
                message, finish = _legacy(message, finish)
            choices.append({"index": index, "message": message, "logprobs": logprobs, "finish_reason": finish})
        completion = {"model": self.small.name, "choices": choices, "usage": usage(answers)}
        if asked.details:
            completion["toolhone"] = self._details(asked, answers[0], confidence)
        return completion, {"x-toolhone-status": statuses[0]}

    def _reply(self, asked: ChatRequest, found: Answer) -> Reply:
        made = found.prediction
        return read_reply(
            made.text,
            made.finish_reason,
            self.small.renderer.format.name,
            asked.example.tools_by_name,
            callable_names=asked.tool_choice.names,
            parallel=asked.parallel,
            in_thought=found.in_thought,
        )

    def _details(self, asked: ChatRequest, found: Answer, confidence: float | None) -> dict[str, Any]:
        made = found.prediction
        turn = parse_turn(
            made.text, self.small.renderer.format.name, made.finish_reason, tools=asked.example.tools_by_name
        )
        return answer_details(made, turn, confidence=confidence)

    async def _small_events(self, asked: ChatRequest) -> AsyncGenerator[Event, None]:
        """Yield the events of the small model's answers, side by side if there are several."""
        found: list[Answer] = []
        prompt = self.small.prompt(asked.example)
        choices = [self._choice_events(asked, prompt, number, found) for number in range(asked.n)]
        async with aclosing(choices[0] if asked.n == 1 else merged(choices)) as events:
            async for event in events:
                yield event
        yield Usage(usage(found), self._details(asked, found[0], None) if asked.details else None)

    async def _choice_events(
        self, asked: ChatRequest, prompt: Prompt, number: int, found: list[Answer]
    ) -> AsyncGenerator[Event, None]:
        started = time.perf_counter()
        reader = self._reader(asked, prompt.opens_thought)
        async with aclosing(self.small.answer(asked, prompt, number)) as parts:
            async for part in parts:
                if started:
                    self.metrics.first_text(time.perf_counter() - started)
                    started = 0.0
                if isinstance(part, Piece):
                    rows = logprob_rows(part.tokens) if asked.logprobs else []
                    for row in rows[:-1]:  # of a character of several tokens, whose text comes with the last one
                        reader.feed("", row)
                    for delta in reader.feed(part.text, rows[-1] if rows else None):
                        yield number, delta
                    continue
                for delta in reader.finish(part.prediction.finish_reason):
                    yield number, delta
                found.append(part)
                self._count(part)
                yield number, Finished(reader.reply.finish_reason)

    def _reader(self, asked: ChatRequest, in_thought: bool) -> DeltaReader:
        return DeltaReader(
            self.small.renderer.format.name,
            asked.example.tools_by_name,
            callable_names=asked.tool_choice.names,
            parallel=asked.parallel,
            in_thought=in_thought,
        )


async def _events_of(completion: Mapping[str, Any]) -> AsyncGenerator[Event, None]:
    """Yield the events of a whole completion."""
    for choice in completion["choices"]:
        index, rows = choice["index"], (choice.get("logprobs") or {}).get("content") or ()
        for number, delta in enumerate(message_deltas(choice["message"])):
            yield index, replace(delta, tokens=tuple(rows)) if number == 0 else delta
        yield index, Finished(choice["finish_reason"])
    yield Usage(completion["usage"] or {}, completion.get("toolhone"))


async def merged(iterators: Sequence[AsyncGenerator[Event, None]]) -> AsyncGenerator[Event, None]:
    """Yield the events of several iterators as they come. If one fails, or this one is closed, all are closed."""
    queue: asyncio.Queue[Event | BaseException | None] = asyncio.Queue()

    async def read(iterator: AsyncGenerator[Event, None]) -> None:
        try:
            async with aclosing(iterator):
                async for event in iterator:
                    queue.put_nowait(event)
            queue.put_nowait(None)
        except Exception as error:  # noqa: BLE001  # it is raised again in the task that reads the queue
            queue.put_nowait(error)

    tasks = [asyncio.create_task(read(iterator)) for iterator in iterators]
    try:
        left = len(tasks)
        while left:
            event = await queue.get()
            if isinstance(event, BaseException):
                raise event
            if event is None:
                left -= 1
            else:
                yield event
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _legacy(message: dict[str, Any], finish: str) -> tuple[dict[str, Any], str]:
    """Return a message and its finish reason as clients expect them that sent `functions`."""
    calls = message.pop("tool_calls", None)
    return (message | {"function_call": calls[0]["function"]}, "function_call") if calls else (message, finish)


def usage(answers: Sequence[Answer]) -> dict[str, Any]:
    """Return the numbers of tokens of the answers to one prompt, in OpenAI's shape."""
    prompt = answers[0].prediction.prompt_tokens
    completion = sum(found.prediction.completion_tokens for found in answers)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": answers[0].cached_tokens or 0},
    }


def logprob_rows(tokens: Iterable[Generated]) -> list[dict[str, Any]]:
    """Return the tokens as OpenAI lists them, each with the likeliest ones at its place."""
    return [
        {**_row(step.token.bytes, step.token.logprob), "top_logprobs": [_row(*found) for found in step.top]}
        for step in tokens
    ]


def _row(token: bytes, logprob: float) -> dict[str, Any]:
    return {"token": token.decode(errors="replace"), "logprob": logprob, "bytes": list(token)}


def _route_headers(routed: Routed) -> dict[str, str]:
    headers = {"x-toolhone-route": routed.route, "x-toolhone-confidence": f"{routed.confidence:.4f}"}
    return headers if routed.fallback is None else headers | {"x-toolhone-fallback": routed.fallback}
