"""An engine for tests that answers what a script says, token by token."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

from toolhone.chat.render import ChatRenderer
from toolhone.chat.token_bytes import token_bytes
from toolhone.engines.generate import EngineUnavailableError, Finish, Generated, Grammar, Sampling
from toolhone.records import Token


class ScriptedGenerator:
    """Answers each prompt with what `script` returns for its text, and then the stop token.

    Attributes:
        asked: the arguments of each call.
        ended_early: how many answers were closed before their end.
        is_down: whether it refuses to answer.
        down_status: the HTTP status with which it refuses.
        fails_after: after how many tokens it fails; None: never.
    """

    kind = "scripted"

    def __init__(
        self, renderer: ChatRenderer, script: Callable[[str], str], *, context: int | None = None, pause_s: float = 0.0
    ) -> None:
        self.context = context
        self.asked: list[dict[str, Any]] = []
        self.ended_early = 0
        self.is_down = False
        self.down_status = 503
        self.fails_after: int | None = None
        self._renderer, self._script, self._pause_s = renderer, script, pause_s

    async def generate(
        self,
        ids: Sequence[int],
        max_tokens: int,
        sampling: Sampling,
        *,
        grammar: Grammar | None = None,
        top_logprobs: int = 0,
        at_once: bool = False,
    ) -> AsyncGenerator[Generated | Finish, None]:
        self.asked.append({"ids": ids, "max_tokens": max_tokens, "sampling": sampling, "grammar": grammar})
        if self.is_down:
            raise EngineUnavailableError("the scripted engine is down", self.down_status)
        answer = self._renderer.encode(self._script(self._renderer.decode(list(ids))))
        answer.append(min(self._renderer.stop_ids()))
        pieces = token_bytes(self._renderer.tokenizer).of(answer)
        is_whole = False
        try:
            for place, (id_, piece) in enumerate(zip(answer, pieces, strict=True)):
                if place == max_tokens:
                    break
                if place == self.fails_after:
                    raise EngineUnavailableError("the scripted engine broke down")
                await asyncio.sleep(self._pause_s)
                token = Token(id_, piece, -0.1 * (place + 1), -3.0)
                yield Generated(token, ((piece, token.logprob),) * min(1, top_logprobs))
            stopped = len(answer) <= max_tokens
            is_whole = True
            yield Finish("stop" if stopped else "length", has_stop_token=stopped, cached_tokens=0)
        finally:
            self.ended_early += not is_whole

    async def is_ready(self) -> bool:
        return not self.is_down

    async def close(self) -> None:
        pass
