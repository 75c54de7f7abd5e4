"""The wire to a running engine: sends requests, yields the JSON of the replies, and builds tokens from ids.

In: what the gateway asks (`Asked`) and the run's renderer. Out: events of a stream, and `Generated` tokens. Each
engine's module (`llama_cpp_api.py`, `vllm_api.py`, `sglang_api.py`) says what to send and how to read the reply. Bytes
of tokens come from the run's tokenizer: engines show half a character in different ways.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import httpx2

from toolhone.chat.grammar import Grammar
from toolhone.chat.render import ChatRenderer
from toolhone.chat.token_bytes import token_bytes
from toolhone.engines.facts import EngineFacts
from toolhone.engines.generate import EngineUnavailableError, Finish, Generated, Sampling
from toolhone.engines.http import error_text, http_settings
from toolhone.records import FinishReason, Token

Events = AsyncGenerator[dict[str, Any], None]
Row = tuple[int, float, list[tuple[int, float]]]
"""A token's id, its log-probability, and the likeliest ids of its place with theirs."""
Answer = AsyncGenerator[Generated | Finish, None]

_READY_S = 5.0
_SPARE = 8
"""Tokens of the context that engines keep for themselves."""
_KEEP_ALIVE_S = 2.0
"""Time to keep an idle connection. The engines close theirs after 5 s."""
_TRIES = 3
_DATA = "data: "
_END = "[DONE]"


@dataclass(frozen=True, slots=True)
class Asked:
    """What the gateway asks of an engine. The names are those of `Generator.generate`."""

    ids: list[int]
    max_tokens: int
    sampling: Sampling
    grammar: Grammar | None
    top_logprobs: int
    at_once: bool


class Wire:
    """Connections to an engine, and the tokenizer of the run that it serves. `facts` says which engine it is."""

    def __init__(
        self, base_url: str, facts: EngineFacts, renderer: ChatRenderer, *, key: str | None = None, flag: str = ""
    ) -> None:
        """Raises UserError, naming `flag`, if the address is invalid or its key is missing."""
        self.facts = facts
        self.renderer = renderer
        self.stop_ids = renderer.stop_ids()
        self.bytes = token_bytes(renderer.tokenizer)
        # The engine decides how many requests it runs at a time.
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=_KEEP_ALIVE_S)
        self.client = httpx2.AsyncClient(**http_settings(base_url, flag, key), limits=limits)

    async def is_ready(self) -> bool:
        """Return whether the engine answers now."""
        try:
            return (await self.client.get("/health", timeout=_READY_S)).status_code == 200
        except httpx2.HTTPError:
            return False

    async def events(self, path: str, body: Mapping[str, Any]) -> Events:
        """Yield the JSON of each event of a stream, or of the one reply if `body` asks for no stream.

        Raises:
            EngineUnavailableError: if the engine refuses the request or reports an error.
        """
        if not body["stream"]:
            yield await self.post(path, body)
            return
        async with self._reply(path, body) as reply:
            if reply.status_code != 200:
                await reply.aread()
                raise self.error(error_text(reply), reply.status_code)
            async for line in reply.aiter_lines():
                if not line.startswith(_DATA) or line == _DATA + _END:
                    continue
                event = json.loads(line.removeprefix(_DATA))
                if error := event.get("error"):
                    raise self.error(error["message"], error.get("code"))
                yield event

    async def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Return the JSON of the reply.

        Raises:
            EngineUnavailableError: if the engine refuses the request.
        """
        async with self._reply(path, body) as reply:
            await reply.aread()
            if reply.status_code != 200:
                raise self.error(error_text(reply), reply.status_code)
            return reply.json()

    def error(self, message: str, status: int | None = None) -> EngineUnavailableError:
        """Return an error that names the engine."""
        return EngineUnavailableError(f"{self.facts.kind}: {message}", status)

    def generated(
        self, id_: int, logprob: float, listed: Iterable[tuple[int, float]], before: int, top_logprobs: int
    ) -> Generated:
        """Return a token with its bytes. `listed` are the likeliest ids of its place; `before` is the id before it."""
        ranked = sorted(listed, key=lambda pair: -pair[1])
        runner_up = next((other for other_id, other in ranked if other_id != id_), None)
        top = tuple((self.bytes.of([other], before)[0], value) for other, value in ranked[:top_logprobs])
        return Generated(Token(id_, self.bytes.of([id_], before)[0], logprob, runner_up), top)

    def finish(self, reason: FinishReason, made: Sequence[int], cached: int | None) -> Finish:
        """Return why an answer of these ids ended."""
        return Finish(reason, bool(made) and made[-1] in self.stop_ids, cached)

    def stopping_lark(self, grammar: Grammar) -> str:
        """Return a Lark grammar whose answers end with a stop token. llguidance itself would allow only the tokenizer's
        end of text there, which many chat formats do not use."""
        ids = ",".join(map(str, sorted(self.stop_ids)))
        return re.sub(r"(?m)^start(?=\s*:)", "whole_answer", grammar.lark) + f"\nstart: whole_answer <[{ids}]>\n"

    def can_read_again(self, asked: Asked, made: Sequence[int]) -> bool:
        """Return whether the answer is in one piece, and the context has room for it as a part of a prompt. An engine
        that gives log-probabilities after a grammar gives raw ones for a prompt."""
        context = self.facts.context
        return asked.at_once and (context is None or len(asked.ids) + len(made) + _SPARE <= context)

    @cached_property
    def parts_of_characters(self) -> list[int]:
        """The ids of all tokens that are only parts of characters."""
        ids = range(len(self.renderer.tokenizer))
        return [id_ for id_, piece in zip(ids, self.bytes.of(ids), strict=True) if is_part(piece)]

    @asynccontextmanager
    async def _reply(self, path: str, body: Mapping[str, Any]) -> AsyncGenerator[httpx2.Response, None]:
        """Yield the reply to a request once it begins. An engine may close a connection that was idle just as the
        request is sent on it, so the request is sent again: it changes nothing in the engine."""
        async with AsyncExitStack() as stack:
            for left in reversed(range(_TRIES)):
                try:
                    reply = await stack.enter_async_context(self.client.stream("POST", path, json=body))
                    break
                except (httpx2.RemoteProtocolError, httpx2.ReadError, httpx2.WriteError):
                    if not left:
                        raise
            yield reply


def is_part(piece: bytes) -> bool:
    """Return whether bytes are only parts of characters."""
    return bool(piece) and piece.decode(errors="replace").endswith("\ufffd")
