"""An engine behind HTTP as a `Generator`: llama.cpp's server or vLLM, on this machine or another.

In: token ids. They go to the engine as they are, so the prompt is the one of training. Out: the answer's tokens, as the
engine streams them. Many requests run at once, because batching is the engine's job. A request ends in the engine if
its stream is closed. Bytes of tokens come from the run's tokenizer: engines show half a character in different ways.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from functools import cached_property
from typing import Any

import httpx2

from toolhone.chat.grammar import Grammar
from toolhone.chat.render import ChatRenderer
from toolhone.chat.token_bytes import token_bytes
from toolhone.endpoint import UNREADABLE_REPLY
from toolhone.engines.client import EngineFacts
from toolhone.engines.generate import EngineUnavailableError, Finish, Generated, Sampling
from toolhone.engines.http import error_text, http_settings
from toolhone.errors import UserError
from toolhone.records import FinishReason, Token

Events = AsyncGenerator[dict[str, Any], None]
Answer = AsyncGenerator[Generated | Finish, None]
Ask = Callable[[list[int], int, Sampling, Grammar | None, int, bool], Answer]

_READY_S = 5.0
_KEEP_ALIVE_S = 2.0
"""Time to keep an idle connection. The engines close theirs after 5 s."""
_TRIES = 3
_DATA = "data: "
_END = "[DONE]"
_LISTED = 200
"""Tokens to list where llama.cpp hides one. A token below them is very unlikely."""
_SAMPLERS = ("penalties", "temperature", "top_k", "top_p", "min_p")
"""llama.cpp's samplers, in the order in which vLLM and transformers apply theirs. Its default has the temperature last,
and others before it."""
_SEEDS = 2**32 - 1
"""Number of llama.cpp's seeds. The next number means a random one."""


class RemoteGenerator:
    """A running engine, asked over HTTP. `kind` is "llama.cpp" or "vllm".

    Attributes:
        context: limits prompt and answer together, in tokens; None: the engine does not say.
    """

    def __init__(
        self,
        base_url: str,
        facts: EngineFacts,
        renderer: ChatRenderer,
        *,
        key: str | None = None,
        flag: str = "--small-base-url",
    ) -> None:
        """
        Args:
            facts: what the engine says about itself (`engines.client.connect`).
            renderer: that of the run, for its tokenizer and its stop tokens.
            key: the key to send.
            flag: the flag that named the address, for errors.

        Raises:
            UserError: if the engine takes no token ids, or the address is invalid.
        """
        asks: dict[str, Ask] = {"llama.cpp": self._llama_cpp, "vllm": self._vllm}
        if facts.kind not in asks:
            raise UserError(f"{flag} {base_url}: the engine there takes no token ids; start llama.cpp's server or vLLM")
        self.kind: str = facts.kind
        self.context = facts.context
        self._ask = asks[facts.kind]
        self._model = facts.model
        self._renderer = renderer
        self._stop_ids = renderer.stop_ids()
        self._bytes = token_bytes(renderer.tokenizer)
        # The engine decides how many requests it runs at a time.
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=_KEEP_ALIVE_S)
        self._client = httpx2.AsyncClient(**http_settings(base_url, flag, key), limits=limits)

    async def generate(
        self,
        ids: Sequence[int],
        max_tokens: int,
        sampling: Sampling,
        *,
        grammar: Grammar | None = None,
        top_logprobs: int = 0,
        at_once: bool = False,
    ) -> Answer:
        """Yield the tokens of the answer as the engine streams them, and a `Finish` at the end.

        Raises:
            EngineUnavailableError: if the engine does not answer, refuses the request, or its answer cannot be read.
        """
        try:
            async with aclosing(self._ask(list(ids), max_tokens, sampling, grammar, top_logprobs, at_once)) as answer:
                async for part in answer:
                    yield part
        except httpx2.HTTPError as error:
            raise EngineUnavailableError(f"{self.kind} does not answer: {str(error) or type(error).__name__}") from None
        except UNREADABLE_REPLY as error:
            raise EngineUnavailableError(f"{self.kind} sent an answer that cannot be read ({error!r})") from None

    async def is_ready(self) -> bool:
        """Return whether the engine answers now."""
        try:
            return (await self._client.get("/health", timeout=_READY_S)).status_code == 200
        except httpx2.HTTPError:
            return False

    async def close(self) -> None:
        """Close the connections. The engine goes on."""
        await self._client.aclose()

    async def _llama_cpp(
        self,
        ids: list[int],
        max_tokens: int,
        sampling: Sampling,
        grammar: Grammar | None,
        top_logprobs: int,
        at_once: bool,
    ) -> Answer:
        body: dict[str, Any] = {
            "prompt": ids,
            "n_predict": max_tokens,
            "n_probs": max(2, top_logprobs),  # the log-probabilities before any sampler and grammar
            "cache_prompt": True,
            "return_tokens": True,
            "stream": not at_once,
            "samplers": _SAMPLERS,
            "temperature": sampling.temperature,
            "top_k": sampling.top_k if sampling.temperature else 1,
            "top_p": sampling.top_p,
            "min_p": sampling.min_p,
            "presence_penalty": sampling.presence_penalty,
            "frequency_penalty": sampling.frequency_penalty,
            "logit_bias": list(map(list, sampling.logit_bias)),
            **({} if sampling.seed is None else {"seed": sampling.seed % _SEEDS}),
            **({} if grammar is None else {"grammar": grammar.gbnf}),
        }
        if at_once:
            reply = await self._post("/completion", body)
            made: list[int] = reply["tokens"]
            for place, row in enumerate(_rows_of(made, reply["completion_probabilities"])):
                if row is None:
                    row = await self._row_of(made[place], [*ids, *made[:place]], top_logprobs)
                yield self._listed(row, made[place - 1] if place else ids[-1], top_logprobs)
            yield self._ended(reply, made)
            return
        made = []
        async with aclosing(self._events("/completion", body)) as events:
            async for event in events:
                if event["stop"]:
                    # Tokens of a character that the limit cuts are not among those sent.
                    yield self._ended(event, made)
                    continue  # to the end of the stream, so that the connection can be used again
                for id_ in event["tokens"]:
                    if hidden := event["tokens_predicted"] - len(made) - 1:
                        async for generated in self._hidden([*ids, *made], hidden, event["content"], id_, top_logprobs):
                            made.append(generated.token.id)
                            yield generated
                    (row,) = event["completion_probabilities"]
                    before = (made or ids)[-1]
                    made.append(id_)
                    yield self._listed(row, before, top_logprobs)

    def _ended(self, event: Mapping[str, Any], made: Sequence[int]) -> Finish:
        reason: FinishReason = "length" if event["stop_type"] == "limit" else "stop"
        return self._finish(reason, made, event["timings"].get("cache_n"))

    def _listed(self, row: Mapping[str, Any], before: int, top_logprobs: int) -> Generated:
        listed = [(one["id"], one["logprob"]) for one in row["top_logprobs"]]
        return self._generated(row["id"], row["logprob"], listed, before, top_logprobs)

    async def _row_of(self, id_: int, before: list[int], top_logprobs: int) -> dict[str, Any]:
        """Return the log-probabilities at the place of a token, which llama.cpp does not send if it is only a part of
        a character."""
        row = await self._likeliest(before, top_logprobs)
        known = {one["id"]: one["logprob"] for one in row["top_logprobs"]}
        return {"id": id_, "logprob": known.get(id_, min(known.values())), "top_logprobs": row["top_logprobs"]}

    async def _hidden(
        self, before: list[int], count: int, text: str, last: int, top_logprobs: int
    ) -> AsyncGenerator[Generated, None]:
        """Yield the tokens before `last` that llama.cpp does not send, because they are only parts of a character.

        It sends their text with that of the last one, and counts them. So we ask for the likeliest tokens in their
        places, and take those that spell the text.
        """
        ending = self._bytes.of([last], before[-1])[0]
        # Bytes that are no characters come as U+FFFD. Then the likeliest parts of characters are taken.
        rest = None if "\ufffd" in text else text.encode().removesuffix(ending)
        for left in reversed(range(count)):
            row = await self._likeliest(before, top_logprobs)
            listed = [(one["id"], float(one["logprob"])) for one in row["top_logprobs"]]
            known = dict(listed)
            likeliest = [*known, *self._parts_of_characters]
            pieces = zip(likeliest, self._bytes.of(likeliest), strict=True)
            fitting = (id_ for id_, piece in pieces if _fits(piece, rest, left))
            id_ = next(fitting, None)
            if id_ is None:
                raise EngineUnavailableError(f"{self.kind} sent the text {text!r}, which no {count + 1} tokens spell")
            piece = self._bytes.of([id_], before[-1])[0]
            yield self._generated(id_, known.get(id_, min(known.values())), listed, before[-1], top_logprobs)
            before = [*before, id_]
            rest = None if rest is None else rest.removeprefix(piece)

    async def _likeliest(self, ids: Sequence[int], top_logprobs: int) -> Any:
        """Return llama.cpp's row of the likeliest tokens after these ids. Another token is forced there, because it
        sends no row for a token that is only a part of a character."""
        body = {
            "prompt": ids,
            "n_predict": 1,
            "n_probs": max(_LISTED, top_logprobs),
            "temperature": 0.0,
            "top_k": 1,
            "cache_prompt": True,
            "logit_bias": [[self._renderer.encode("a")[0], 1000.0]],
        }
        return (await self._post("/completion", body))["completion_probabilities"][0]

    @cached_property
    def _parts_of_characters(self) -> list[int]:
        """The ids of all tokens that are only parts of characters."""
        ids = range(len(self._renderer.tokenizer))
        return [id_ for id_, piece in zip(ids, self._bytes.of(ids), strict=True) if _is_part(piece)]

    async def _vllm(
        self,
        ids: list[int],
        max_tokens: int,
        sampling: Sampling,
        grammar: Grammar | None,
        top_logprobs: int,
        at_once: bool,
    ) -> Answer:
        body: dict[str, Any] = {
            "model": self._model,
            "prompt": ids,
            "max_tokens": max_tokens,
            "logprobs": max(2, top_logprobs),  # raw, unless the server was started with another --logprobs-mode
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
            "stop_token_ids": sorted(self._stop_ids),
            "stream": True,
            "stream_options": {"include_usage": True},
            "repetition_penalty": 1.0,  # otherwise that of the model's generation_config.json
            "temperature": sampling.temperature,
            "top_k": sampling.top_k,
            "top_p": sampling.top_p,
            "min_p": sampling.min_p,
            "presence_penalty": sampling.presence_penalty,
            "frequency_penalty": sampling.frequency_penalty,
            "logit_bias": {str(id_): bias for id_, bias in sampling.logit_bias},
            "seed": sampling.seed,
            **({} if grammar is None else {"structured_outputs": {"grammar": _stopping(grammar.lark, self._stop_ids)}}),
        }
        last, finish, cached = ids[-1], None, None
        made: list[int] = []
        async with aclosing(self._events("/v1/completions", body)) as events:
            async for event in events:
                if usage := event.get("usage"):
                    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
                for choice in event["choices"]:
                    rows = choice["logprobs"]
                    columns = zip(choice["token_ids"], rows["token_logprobs"], rows["top_logprobs"], strict=True)
                    for id_, logprob, others in columns:
                        listed = [(int(token.removeprefix("token_id:")), float(one)) for token, one in others.items()]
                        yield self._generated(id_, float(logprob), listed, last, top_logprobs)
                        made.append(id_)
                        last = id_
                    finish = choice["finish_reason"] or finish
        if finish not in ("stop", "length"):
            raise EngineUnavailableError(f"{self.kind} ended the answer early ({finish or 'without a reason'})")
        yield self._finish(finish, made, cached)

    def _finish(self, reason: FinishReason, made: Sequence[int], cached: int | None) -> Finish:
        return Finish(reason, bool(made) and made[-1] in self._stop_ids, cached)

    def _generated(
        self, id_: int, logprob: float, listed: Iterable[tuple[int, float]], before: int, top_logprobs: int
    ) -> Generated:
        """Return a token with its bytes. `listed` are the likeliest ids of its place; `before` is the id before it."""
        ranked = sorted(listed, key=lambda pair: -pair[1])
        runner_up = next((other for other_id, other in ranked if other_id != id_), None)
        top = tuple((self._bytes.of([other], before)[0], value) for other, value in ranked[:top_logprobs])
        return Generated(Token(id_, self._bytes.of([id_], before)[0], logprob, runner_up), top)

    async def _events(self, path: str, body: Mapping[str, Any]) -> Events:
        """Yield the JSON of each event of a stream."""
        async with self._reply(path, body) as reply:
            if reply.status_code != 200:
                await reply.aread()
                raise EngineUnavailableError(f"{self.kind}: {error_text(reply)}", reply.status_code)
            async for line in reply.aiter_lines():
                if not line.startswith(_DATA) or line == _DATA + _END:
                    continue
                event = json.loads(line.removeprefix(_DATA))
                if error := event.get("error"):
                    raise EngineUnavailableError(f"{self.kind}: {error['message']}", error.get("code"))
                yield event

    @asynccontextmanager
    async def _reply(self, path: str, body: Mapping[str, Any]) -> AsyncGenerator[httpx2.Response, None]:
        """Yield the reply to a request once it begins. An engine may close a connection that was idle just as the
        request is sent on it, so the request is sent again: it changes nothing in the engine."""
        async with AsyncExitStack() as stack:
            for left in reversed(range(_TRIES)):
                try:
                    reply = await stack.enter_async_context(self._client.stream("POST", path, json=body))
                    break
                except (httpx2.RemoteProtocolError, httpx2.ReadError, httpx2.WriteError):
                    if not left:
                        raise
            yield reply

    async def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        async with self._reply(path, body) as reply:
            await reply.aread()
            if reply.status_code != 200:
                raise EngineUnavailableError(f"{self.kind}: {error_text(reply)}", reply.status_code)
            return reply.json()


def _stopping(lark: str, stop_ids: Iterable[int]) -> str:
    """Return a Lark grammar whose answers end with a stop token. vLLM itself would allow only the tokenizer's end of
    text there, which many chat formats do not use."""
    ids = ",".join(map(str, sorted(stop_ids)))
    return re.sub(r"(?m)^start(?=\s*:)", "whole_answer", lark) + f"\nstart: whole_answer <[{ids}]>\n"


def _is_part(piece: bytes) -> bool:
    """Whether bytes are only parts of characters."""
    return bool(piece) and piece.decode(errors="replace").endswith("\ufffd")


def _fits(piece: bytes, rest: bytes | None, left: int) -> bool:
    """Whether a token may be the next one of `rest`, if this many tokens spell what is then left of it."""
    if rest is None:
        return _is_part(piece)
    return piece == rest if left == 0 else bool(piece) and rest.startswith(piece) and len(rest) - len(piece) >= left


def _rows_of(made: Sequence[int], rows: Sequence[dict[str, Any]]) -> list[dict[str, Any] | None]:
    """Return the row of each token; None for a token without one. Only the last token of a character has a row."""
    left = list(rows)
    found: list[dict[str, Any] | None] = []
    for id_ in reversed(made):
        found.append(left.pop() if left and left[-1]["id"] == id_ else None)
    return found[::-1]
