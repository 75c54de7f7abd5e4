"""What the gateway asks of a running engine: the answer to token ids, one token after the other.

In: token ids, how to sample, and a grammar if the answer must follow one. Out: the tokens, then why generation ended.
An engine is llama.cpp, vLLM, SGLang or transformers; each has a class with the methods of `Generator`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol

from toolhone.chat.grammar import Grammar
from toolhone.records import FinishReason, Token


class EngineUnavailableError(Exception):
    """The engine does not answer, or refuses the request for now. `status` is its HTTP status, if there is one."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen. Temperature 0 is greedy. `top_k` 0 and `min_p` 0 keep every token. `seed` makes the answer
    repeatable, if the engine is."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Generated:
    """A token of an answer. `token` has its id, bytes and raw log-probability; `top` the likeliest tokens at its place,
    as bytes and log-probability, the likeliest first. There are as many as were asked for. In a stream, some engines
    give log-probabilities after the grammar (`vllm_api.py`, `sglang_api.py`)."""

    token: Token
    top: tuple[tuple[bytes, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Finish:
    """Why generation ended. "stop": at a stop token, which is the last one if `has_stop_token`. `cached_tokens` of the
    prompt were not computed again; None if the engine does not say."""

    reason: FinishReason
    has_stop_token: bool
    cached_tokens: int | None = None


class Generator(Protocol):
    """An engine that serves one model. `context` limits prompt and answer together, in tokens; None: unknown."""

    kind: str
    context: int | None

    def generate(
        self,
        ids: Sequence[int],
        max_tokens: int,
        sampling: Sampling,
        *,
        grammar: Grammar | None = None,
        top_logprobs: int = 0,
        at_once: bool = False,
    ) -> AsyncGenerator[Generated | Finish, None]:
        """Yield the tokens of the answer as they are made, and a `Finish` at the end. Closing the iterator early ends
        the generation in the engine. With `at_once`, the tokens may all come at the end, which costs less.

        Raises:
            EngineUnavailableError: if the engine does not answer.
        """
        ...

    async def is_ready(self) -> bool:
        """Return whether the engine answers now."""
        ...

    async def close(self) -> None:
        """Free what it holds. A server that it did not start goes on."""
        ...
