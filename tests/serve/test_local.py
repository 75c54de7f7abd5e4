"""The model in this process as an engine: a tiny model that has memorised three turns."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from generated import GREEDY, assert_raw, collect, endless, prompt, text
from served import LEARNED, example, make_run

from toolhone.engines.generate import EngineUnavailableError, Finish, Generated, Grammar, Sampling
from toolhone.evaluate.predict import answer_one
from toolhone.serve.local import LocalGenerator
from toolhone.tuned import TunedModel

T = TypeVar("T")
Answered = tuple[list[Generated], Finish]


@pytest.fixture(scope="module")
def tuned(learned: Path, tmp_path_factory: pytest.TempPathFactory) -> TunedModel:
    return TunedModel.load(make_run(tmp_path_factory.mktemp("local") / "run", learned))


def ask(tuned: TunedModel, use: Callable[[LocalGenerator], Awaitable[T]]) -> T:
    """Return what `use` makes of the model."""

    async def run() -> T:
        generator = LocalGenerator(tuned.model, tuned.renderer)
        assert await generator.is_ready()
        try:
            return await use(generator)
        finally:
            await generator.close()
            assert not await generator.is_ready()

    return asyncio.run(run())


def ask_once(tuned: TunedModel, ids: list[int], max_tokens: int, sampling: Sampling, **more: Any) -> Answered:
    return ask(tuned, lambda engine: collect(engine.generate(ids, max_tokens, sampling, **more)))


def test_greedy_answers_equal_those_of_evaluation_also_after_a_cached_prefix(tuned: TunedModel) -> None:
    async def twice(engine: LocalGenerator) -> list[Answered]:
        return [await collect(engine.generate(prompt(tuned, one), 100, GREEDY, top_logprobs=3)) for one in questions]

    questions = [*LEARNED, *LEARNED]
    answers = ask(tuned, twice)
    for question, (found, finish) in zip(questions, answers, strict=True):
        own = answer_one(tuned.model, tuned.renderer, example(question), 100)
        assert [(one.token.id, one.token.bytes) for one in found] == [(one.id, one.bytes) for one in own.tokens]
        for ours, theirs in zip(found, own.tokens, strict=True):
            assert ours.token.logprob == pytest.approx(theirs.logprob, abs=1e-4)
            assert ours.token.runner_up == pytest.approx(theirs.runner_up, abs=1e-3)
            assert ours.top[0] == (ours.token.bytes, ours.token.logprob)
            assert ours.top[1][1] == ours.token.runner_up
            assert len(ours.top) == 3
        assert (finish.reason, finish.has_stop_token) == ("stop", True)
    assert answers[0][1].cached_tokens == 0
    assert (answers[-1][1].cached_tokens or 0) > 50


def test_requests_at_once_get_their_own_answers_and_a_long_one_holds_up_nobody(tuned: TunedModel) -> None:
    questions = [*LEARNED] * 4
    finished: list[str] = []

    async def all_at_once(engine: LocalGenerator) -> list[str]:
        async def answer(name: str, ids: list[int], max_tokens: int, sampling: Sampling) -> str:
            found, _ = await collect(engine.generate(ids, max_tokens, sampling))
            finished.append(name)
            return text(found[:-1])

        long = answer("long", prompt(tuned), 300, endless(tuned))
        short = [answer("short", prompt(tuned, one), 100, GREEDY) for one in questions[:3]]
        return (await asyncio.gather(long, *short))[1:]

    expected = [answer_one(tuned.model, tuned.renderer, example(one), 100).text for one in questions[:3]]
    assert ask(tuned, all_at_once) == expected
    assert finished == ["short"] * 3 + ["long"]


def test_closing_an_answer_ends_it_within_one_token(tuned: TunedModel) -> None:
    passes = 0

    def count(*_: Any) -> None:
        nonlocal passes
        passes += 1

    async def hang_up(engine: LocalGenerator) -> int:
        answer = engine.generate(prompt(tuned), 400, endless(tuned))
        async for _ in answer:
            break
        await answer.aclose()
        at_the_end = passes
        await collect(engine.generate(prompt(tuned), 1, GREEDY))  # the thread goes on with the next request
        return at_the_end

    hook = tuned.model.register_forward_hook(count)
    try:
        at_the_end = ask(tuned, hang_up)
    finally:
        hook.remove()
    assert passes - at_the_end <= 3  # at most one token more, then the prefix and the prompt of the next request


def test_a_limit_ends_an_answer_without_a_stop_token(tuned: TunedModel) -> None:
    found, finish = ask_once(tuned, prompt(tuned), 5, GREEDY)
    assert len(found) == 5
    assert finish == Finish("length", has_stop_token=False, cached_tokens=0)


def test_a_seed_repeats_an_answer_and_log_probabilities_stay_raw(tuned: TunedModel) -> None:
    ids = prompt(tuned)

    async def sample(engine: LocalGenerator) -> list[list[Generated]]:
        seeds = (7, 7, -8)
        answers = [engine.generate(ids, 30, endless(tuned, temperature=3.0, seed=seed)) for seed in seeds]
        return [(await collect(answer))[0] for answer in answers]

    first, again, other = ask(tuned, sample)
    assert [one.token.id for one in first] == [one.token.id for one in again]
    assert [one.token.id for one in first] != [one.token.id for one in other]
    assert_raw(tuned, ids, first)


@pytest.mark.parametrize(
    "limits", [Sampling(top_k=1), Sampling(top_p=0.01), Sampling(min_p=0.99), Sampling(temperature=0.01)]
)
def test_narrow_sampling_is_greedy(tuned: TunedModel, limits: Sampling) -> None:
    sampling = replace(limits, temperature=limits.temperature or 2.0, seed=1)
    found, _ = ask_once(tuned, prompt(tuned), 60, sampling)
    greedy, _ = ask_once(tuned, prompt(tuned), 60, GREEDY)
    assert [one.token.id for one in found] == [one.token.id for one in greedy]


def test_tokens_come_as_often_as_temperature_and_top_k_say(tuned: TunedModel) -> None:
    async def many(engine: LocalGenerator) -> list[Generated]:
        sampling = [Sampling(temperature=4.0, top_k=2, seed=seed) for seed in range(300)]
        answers = [await collect(engine.generate(prompt(tuned), 1, one, top_logprobs=2)) for one in sampling]
        return [found[0] for found, _ in answers]

    found = ask(tuned, many)
    (likeliest, first), (_, second) = found[0].top
    probability = 1 / (1 + math.exp((second - first) / 4.0))
    assert 0.6 < probability < 0.95
    share = sum(one.token.bytes == likeliest for one in found) / len(found)
    assert share == pytest.approx(probability, abs=0.07)


@pytest.mark.parametrize("penalty", [Sampling(presence_penalty=80.0), Sampling(frequency_penalty=80.0)])
def test_a_high_penalty_repeats_no_token(tuned: TunedModel, penalty: Sampling) -> None:
    sampling = replace(penalty, logit_bias=endless(tuned).logit_bias)
    found, _ = ask_once(tuned, prompt(tuned), 60, sampling)
    made = [one.token.id for one in found]
    assert len(set(made)) == len(made) == 60


def test_a_bias_keeps_a_token_out(tuned: TunedModel) -> None:
    greedy, _ = ask_once(tuned, prompt(tuned), 5, GREEDY)
    banned = greedy[0].token.id
    found, _ = ask_once(tuned, prompt(tuned), 5, Sampling(logit_bias=((banned, -100.0),)))
    assert found[0].token.id != banned


def test_a_grammar_decides_the_text_and_log_probabilities_stay_raw(tuned: TunedModel) -> None:
    pytest.importorskip("llguidance")
    grammar = Grammar(gbnf="", lark='start: "yes" | "no"')
    found, finish = ask_once(tuned, prompt(tuned), 30, GREEDY, grammar=grammar)
    assert text(found[:-1]) in ("yes", "no")
    assert finish.has_stop_token
    assert_raw(tuned, prompt(tuned), found)


def test_a_broken_grammar_is_refused_and_the_next_request_answered(tuned: TunedModel) -> None:
    pytest.importorskip("llguidance")

    async def refused(engine: LocalGenerator) -> tuple[EngineUnavailableError, Answered]:
        with pytest.raises(EngineUnavailableError, match="llguidance: ") as error:
            await collect(engine.generate(prompt(tuned), 5, GREEDY, grammar=Grammar("", "start: (")))
        return error.value, await collect(engine.generate(prompt(tuned), 1, GREEDY))

    error, (found, _) = ask(tuned, refused)
    assert error.status == 400
    assert len(found) == 1


def test_closing_the_engine_ends_answers_with_an_error(tuned: TunedModel) -> None:
    async def close_early() -> None:
        engine = LocalGenerator(tuned.model, tuned.renderer)
        answer = engine.generate(prompt(tuned), 400, endless(tuned))
        assert isinstance(await anext(answer), Generated)
        await engine.close()
        with pytest.raises(EngineUnavailableError, match="being closed"):
            await collect(answer)
        with pytest.raises(EngineUnavailableError, match="being closed"):
            await anext(engine.generate(prompt(tuned), 4, GREEDY))

    asyncio.run(close_early())
