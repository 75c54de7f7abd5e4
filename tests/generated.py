"""Reads the answers of engines in tests, and checks their log-probabilities with one pass of the model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

import pytest
import torch
from served import example

from toolhone.chat.token_bytes import token_bytes
from toolhone.engines.client import connect
from toolhone.engines.generate import Finish, Generated, Sampling
from toolhone.engines.remote import RemoteGenerator
from toolhone.tuned import TunedModel

GREEDY = Sampling()
T = TypeVar("T")


async def collect(answer: AsyncIterator[Generated | Finish]) -> tuple[list[Generated], Finish]:
    parts = [part async for part in answer]
    assert isinstance(parts[-1], Finish)
    return [part for part in parts if isinstance(part, Generated)], parts[-1]


def prompt(tuned: TunedModel, question: str = "A person, now.") -> list[int]:
    asked = example(question)
    return tuned.renderer.prompt(asked.prompt, asked.tools)[1]


def text(found: Sequence[Generated]) -> str:
    return b"".join(one.token.bytes for one in found).decode()


def raw_logprobs(tuned: TunedModel, ids: Sequence[int], made: Sequence[int]) -> list[float]:
    """The log-probabilities of an answer, from one pass of the model over prompt and answer."""
    with torch.inference_mode():
        logits = tuned.model(input_ids=torch.tensor([[*ids, *made]])).logits[0, len(ids) - 1 : -1]
    logprobs = logits.float().log_softmax(-1)  # [answer, vocabulary]
    found: list[float] = logprobs.gather(1, torch.tensor(made)[:, None])[:, 0].tolist()
    return found


def assert_raw(tuned: TunedModel, ids: Sequence[int], found: Sequence[Generated]) -> None:
    made = [one.token.id for one in found]
    assert [one.token.logprob for one in found] == pytest.approx(raw_logprobs(tuned, ids, made), abs=2e-2)


def endless(tuned: TunedModel, **more: Any) -> Sampling:
    """Sampling that never stops, and writes only ASCII."""
    ids = range(len(tuned.renderer.tokenizer))
    pieces = token_bytes(tuned.renderer.tokenizer).of(ids)
    banned = {id_ for id_, piece in zip(ids, pieces, strict=True) if not piece.isascii()} | tuned.renderer.stop_ids()
    return Sampling(logit_bias=tuple((id_, -100.0) for id_ in sorted(banned)), **more)


def ask(url: str, tuned: TunedModel, use: Callable[[RemoteGenerator], Awaitable[T]]) -> T:
    """Return what `use` makes of the engine at this address."""
    with connect(url) as client:
        facts = client.facts

    async def run() -> T:
        generator = RemoteGenerator(url, facts, tuned.renderer)
        try:
            return await use(generator)
        finally:
            await generator.close()

    return asyncio.run(run())
