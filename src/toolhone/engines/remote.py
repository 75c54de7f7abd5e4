"""An engine behind HTTP as a `Generator`: llama.cpp's server, vLLM or SGLang, on this machine or another.

In: token ids. They go to the engine as they are, so the prompt is the one of training. Out: the answer's tokens, as the
engine streams them. Many requests run at once, because batching is the engine's job. A request ends in the engine if
its stream is closed.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing

import httpx2

from toolhone.chat.grammar import Grammar
from toolhone.chat.render import ChatRenderer
from toolhone.endpoint import UNREADABLE_REPLY
from toolhone.engines.client import APIS
from toolhone.engines.facts import EngineFacts
from toolhone.engines.generate import EngineUnavailableError, Sampling
from toolhone.engines.wire import Answer, Asked, Wire
from toolhone.errors import UserError


class RemoteGenerator:
    """A running engine, asked over HTTP. `kind` names it, such as "vllm".

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
        if facts.kind not in APIS:
            raise UserError(
                f"{flag} {base_url}: the engine there takes no token ids; start llama.cpp's server, vLLM or SGLang"
            )
        self.kind: str = facts.kind
        self.context = facts.context
        self._answer = APIS[facts.kind].answer
        self.wire = Wire(base_url, facts, renderer, key=key, flag=flag)

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
        asked = Asked(list(ids), max_tokens, sampling, grammar, top_logprobs, at_once)
        try:
            async with aclosing(self._answer(self.wire, asked)) as answer:
                async for part in answer:
                    yield part
        except httpx2.HTTPError as error:
            raise EngineUnavailableError(f"{self.kind} does not answer: {str(error) or type(error).__name__}") from None
        except UNREADABLE_REPLY as error:
            raise EngineUnavailableError(f"{self.kind} sent an answer that cannot be read ({error!r})") from None

    async def is_ready(self) -> bool:
        """Return whether the engine answers now."""
        return await self.wire.is_ready()

    async def close(self) -> None:
        """Close the connections. The engine goes on."""
        await self.wire.client.aclose()
