"""Mutated bodies through the whole gateway: each gets an answer or a refusal, never status 500, and none hangs."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

import httpx2
import pytest
from mutated_bodies import mutant
from scripted import ScriptedGenerator
from served import CHAT, LEARNED, app_of

from toolhone.chat.probe import make_renderer
from toolhone.formats import FORMATS
from toolhone.formats.chat_format import RawCall
from toolhone.serve.answer import SmallModel

_TIMEOUT_S = 20.0


def answer_to(prompt: str) -> str:
    """Return a call, a text or a broken call, by the length of the prompt."""
    call = RawCall("query_order", '{"order_id": "ORD-1"}')
    texts = (FORMATS["hermes"].write("", [call], "stop"), LEARNED["谢谢"].content, '<tool_call>\n{"name": 7}')
    return texts[len(prompt) % len(texts)]


def statuses(tokenizer: Any, count: int, seed: int) -> Counter[int]:
    """Send mutated bodies to both routes, and return how often each status came."""
    renderer = make_renderer(tokenizer, CHAT, "tiny")
    app = app_of(SmallModel("small", renderer, ScriptedGenerator(renderer, answer_to), 60))
    draw, found = random.Random(seed), Counter[int]()

    async def run() -> None:
        transport = httpx2.ASGITransport(app=app, raise_app_exceptions=True)
        async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            for number in range(count):
                body = mutant(draw)
                path = "/v1/responses" if number % 4 == 3 else "/v1/chat/completions"
                sent = client.post(path, content=body, headers={"content-type": "application/json"})
                reply = await asyncio.wait_for(sent, _TIMEOUT_S)
                assert reply.status_code != 500, body
                found[reply.status_code] += 1

    asyncio.run(run())
    return found


def test_mutated_bodies_are_answered_or_refused(tiny_tokenizer: Any) -> None:
    found = statuses(tiny_tokenizer, 400, seed=1)
    assert found[200] > 40
    assert found.keys() <= {200, 400, 404}


@pytest.mark.slow
def test_20000_mutated_bodies_are_answered_or_refused(tiny_tokenizer: Any) -> None:
    found = statuses(tiny_tokenizer, 20_000, seed=2)
    assert found.keys() <= {200, 400, 404}
