"""The small model's answers, piece by piece, from an engine that follows a script."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import ScriptedGenerator
from served import CHAT, WIRE_TOOLS, messages
from transformers import AutoTokenizer

from toolhone.chat.probe import make_renderer
from toolhone.chat.render import ChatRenderer
from toolhone.serve.answer import Answer, Piece, SmallModel
from toolhone.serve.request import ApiError, ChatRequest, read_request


@pytest.fixture(scope="module")
def renderer(tiny_llama: Path) -> ChatRenderer:
    return make_renderer(AutoTokenizer.from_pretrained(tiny_llama), CHAT, "tiny")


def request(**options: Any) -> ChatRequest:
    body = {"model": "small", "messages": messages("Where is ORD-1?"), "tools": WIRE_TOOLS, **options}
    return read_request(json.dumps(body).encode(), "r1", ["small"])


def ask(renderer: ChatRenderer, text: str, **options: Any) -> tuple[list[Piece], Answer, ScriptedGenerator]:
    engine = ScriptedGenerator(renderer, lambda _: text, context=options.pop("context", None))
    model = SmallModel("small", renderer, engine, options.pop("limit", 100))
    asked = request(**options)

    async def collect() -> list[Piece | Answer]:
        return [piece async for piece in model.answer(asked, model.prompt(asked.example))]

    *pieces, answer = asyncio.run(collect())
    assert isinstance(answer, Answer)
    return [piece for piece in pieces if isinstance(piece, Piece)], answer, engine


@given(text=st.text(alphabet="ab<>é发货\n", max_size=20))
def test_the_pieces_are_the_text_and_each_has_its_tokens(renderer: ChatRenderer, text: str) -> None:
    pieces, answer, _ = ask(renderer, text)
    assert "".join(piece.text for piece in pieces) == answer.prediction.text == text
    for piece in pieces:
        assert b"".join(step.token.bytes for step in piece.tokens).decode() == piece.text
    assert answer.prediction.finish_reason == "stop"
    assert len(answer.prediction.tokens) == len(answer.tokens) + 1  # the stop token


@given(
    text=st.text(alphabet="abc发", max_size=20),
    stops=st.lists(st.text(alphabet="abc发", min_size=1, max_size=4), min_size=1, max_size=3),
)
def test_a_stop_string_ends_the_text_before_it(renderer: ChatRenderer, text: str, stops: list[str]) -> None:
    pieces, answer, _ = ask(renderer, text, stop=stops)
    ends = [place for place in map(text.find, stops) if place >= 0]
    shown = "".join(piece.text for piece in pieces)
    assert shown == answer.prediction.text
    assert not any(stop in shown for stop in stops)
    if not ends:
        assert shown == text
    else:
        assert text.startswith(shown)
        assert any(text[len(shown) :].startswith(stop) for stop in stops)


def test_a_stop_string_ends_the_generation(renderer: ChatRenderer) -> None:
    _, answer, engine = ask(renderer, "one two three four", stop=[" two"])
    assert (answer.prediction.text, answer.prediction.finish_reason, engine.ended_early) == ("one", "stop", 1)


def test_an_answer_is_cut_at_the_limit_and_at_the_end_of_the_context(renderer: ChatRenderer) -> None:
    _, answer, _ = ask(renderer, "a b c d e f g h", max_tokens=2)
    assert (answer.prediction.finish_reason, answer.prediction.completion_tokens) == ("length", 2)
    prompt = answer.prediction.prompt_tokens
    _, answer, _ = ask(renderer, "a b c d e f g h", context=prompt + 3)
    assert (answer.prediction.finish_reason, answer.prediction.completion_tokens) == ("length", 3)
    with pytest.raises(ApiError, match=f"the prompt has {prompt} tokens, the model's context {prompt}") as caught:
        ask(renderer, "a", context=prompt)
    assert caught.value.code == "context_length_exceeded"


def test_each_of_several_answers_has_its_own_seed(renderer: ChatRenderer) -> None:
    engine = ScriptedGenerator(renderer, lambda _: "a")
    model = SmallModel("small", renderer, engine, 10)
    asked = request(seed=7, n=2, temperature=1)

    async def run() -> None:
        for number in range(2):
            async for _ in model.answer(asked, model.prompt(asked.example), number):
                pass

    asyncio.run(run())
    assert [call["sampling"].seed for call in engine.asked] == [7, 8]


def test_closing_the_answer_ends_the_generation(renderer: ChatRenderer) -> None:
    engine = ScriptedGenerator(renderer, lambda _: "a b c d e f")
    asked = request()

    async def run() -> None:
        model = SmallModel("small", renderer, engine, 10)
        answer = model.answer(asked, model.prompt(asked.example))
        async for _ in answer:
            break
        await answer.aclose()

    asyncio.run(run())
    assert engine.ended_early == 1
