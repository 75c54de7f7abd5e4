"""SGLang behind HTTP: a server on this machine that speaks the shapes which SGLang's documentation and source give. It
stands for SGLang, which needs a GPU."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse
from generated import GREEDY, ask, assert_raw, collect, prompt, raw_logprobs, text
from served import example, make_run, serving_app

from toolhone.engines.client import connect
from toolhone.engines.generate import EngineUnavailableError, Finish, Grammar, Sampling
from toolhone.engines.remote import RemoteGenerator
from toolhone.evaluate.decode import Completion, Prefix, decode_greedily
from toolhone.evaluate.predict import answer_one
from toolhone.tuned import TunedModel


@pytest.fixture(scope="module")
def tuned(learned: Path, tmp_path_factory: pytest.TempPathFactory) -> TunedModel:
    return TunedModel.load(make_run(tmp_path_factory.mktemp("sglang") / "run", learned))


@dataclass
class SGLang:
    """What the server streams: `completion`, in events of `step` tokens. Log-probabilities of the output are halved
    where SGLang would give those after the temperature."""

    tuned: TunedModel
    completion: Completion
    step: int = 1
    incremental: bool = False
    ended: dict[str, Any] = field(default_factory=dict)
    error: dict[str, Any] | None = None
    status: int = 200
    backend: str = "llguidance"
    has_adapter: bool = True
    bodies: list[dict[str, Any]] = field(default_factory=list)
    sent: int = 0
    hung_up: bool = False

    def app(self) -> FastAPI:
        app = FastAPI()
        base = {"id": "base", "object": "model", "owned_by": "sglang", "root": "base", "max_model_len": 512}
        adapter = {**base, "id": "shop", "root": "/adapters/shop", "parent": "base", "max_model_len": None}
        app.get("/v1/models")(lambda: {"data": [{**base, "parent": None}, *([adapter] if self.has_adapter else [])]})
        app.get("/version")(lambda: {"version": "0.5.12"})
        app.get("/server_info")(lambda: {"version": "0.5.12", "grammar_backend": self.backend})

        @app.post("/generate")
        async def generate(request: Request) -> Any:
            body = await request.json()
            self.bodies.append(body)
            if self.status != 200:
                return JSONResponse({"object": "error", "message": "loading", "code": self.status}, self.status)
            if body["sampling_params"]["max_new_tokens"] == 0:
                return self.scored(body)
            if not body["stream"]:
                return self.event(body, 0, len(self.completion.ids))
            return StreamingResponse(self.events(body), media_type="text/event-stream")

        return app

    def event(self, body: dict[str, Any], start: int, end: int) -> dict[str, Any]:
        """The event after the token `end`, with the tokens from the first one or, if incremental, from `start`."""
        made = self.completion
        shown = range(start if self.incremental else 0, end)
        scale = 1.0 if body["sampling_params"]["temperature"] in (0, 1) else 0.5
        chosen = [[made.logprobs[n] * scale, made.ids[n], None] for n in shown]
        top = [
            [row, [made.runner_ups[n] * scale, (made.ids[n] + 1) % 500, None]]
            for n, row in zip(shown, chosen, strict=True)
        ]  # type: ignore[operator]
        finished = self.ended or {"type": "stop", "matched": made.ids[-1]}
        meta = {
            "id": "1",
            "finish_reason": finished if end == len(made.ids) else None,
            "prompt_tokens": len(body["input_ids"]),
            "completion_tokens": end,
            "cached_tokens": 4,
            "input_token_logprobs": [],
            "input_top_logprobs": [],
            "output_token_logprobs": chosen,
            "output_top_logprobs": top,
        }
        return {"text": "", "output_ids": [made.ids[n] for n in shown], "meta_info": meta}

    def scored(self, body: dict[str, Any]) -> dict[str, Any]:
        """A prompt's own log-probabilities. The first has none, because nothing predicts it."""
        start, ids = body["logprob_start_len"], body["input_ids"]
        values = raw_logprobs(self.tuned, ids[: start + 1], ids[start + 1 :])
        chosen = [
            [None, ids[start], None],
            *([value, id_, None] for value, id_ in zip(values, ids[start + 1 :], strict=True)),
        ]
        top = [None, *([row, [row[0] - 1, 0, None]] for row in chosen[1:])]
        meta = {
            "finish_reason": {"type": "length", "length": 0},
            "completion_tokens": 0,
            "input_token_logprobs": chosen,
            "input_top_logprobs": top,
            "output_token_logprobs": [],
            "output_top_logprobs": [],
        }
        return {"text": "", "output_ids": [], "meta_info": meta}

    async def events(self, body: dict[str, Any]) -> AsyncIterator[str]:
        count = len(self.completion.ids)
        try:
            for start in range(0, count, self.step):
                if start and self.error is not None:
                    yield f"data: {json.dumps({'error': self.error})}\n\n"
                    break
                yield f"data: {json.dumps(self.event(body, start, min(start + self.step, count)))}\n\n"
                self.sent += 1
                await asyncio.sleep(0.001)
            yield "data: [DONE]\n\n"
        except asyncio.CancelledError:
            self.hung_up = True
            raise


@pytest.fixture
def sglang(tuned: TunedModel) -> SGLang:
    made = decode_greedily(tuned.model, [prompt(tuned)], Prefix([], None), tuned.renderer.stop_ids(), 100)
    return SGLang(tuned, made[0])


@contextmanager
def serving_sglang(sglang: SGLang) -> Iterator[str]:
    with serving_app(sglang.app()) as url:
        yield url.removesuffix("/v1")


@pytest.mark.parametrize("incremental", [False, True], ids=["all tokens so far", "new tokens"])
@pytest.mark.parametrize("step", [1, 3])
def test_sglang_streams_tokens_however_its_events_show_them(
    sglang: SGLang, tuned: TunedModel, step: int, incremental: bool
) -> None:
    sglang.step, sglang.incremental = step, incremental
    own = answer_one(tuned.model, tuned.renderer, example("A person, now."), 100)
    with serving_sglang(sglang) as url:
        found, finish = ask(
            url, tuned, lambda engine: collect(engine.generate(prompt(tuned), 100, GREEDY, top_logprobs=2))
        )
    assert [one.token for one in found] == list(own.tokens)
    assert all(one.top == ((one.token.bytes, one.token.logprob), one.top[1]) for one in found)
    assert finish == Finish("stop", has_stop_token=True, cached_tokens=4)
    (body,) = sglang.bodies
    assert (body["input_ids"], body["lora_path"], body["stream"]) == (prompt(tuned), "shop", True)
    assert body["sampling_params"]["stop_token_ids"] == sorted(tuned.renderer.stop_ids())
    assert sglang.sent == -(-len(own.tokens) // step)


def test_an_answer_in_one_piece_is_one_request(sglang: SGLang, tuned: TunedModel) -> None:
    with serving_sglang(sglang) as url:
        found, _ = ask(url, tuned, lambda engine: collect(engine.generate(prompt(tuned), 100, GREEDY, at_once=True)))
    assert [one.token.id for one in found] == sglang.completion.ids
    assert [body["stream"] for body in sglang.bodies] == [False]


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=0.5, top_p=0.9, top_k=7, min_p=0.1, seed=2**40),
        Sampling(presence_penalty=1.0),
        Sampling(logit_bias=((5, -1.0),)),
    ],
    ids=["temperature", "penalty", "bias"],
)
def test_log_probabilities_that_sampling_changes_are_read_again_from_the_model(
    sglang: SGLang, tuned: TunedModel, sampling: Sampling
) -> None:
    with serving_sglang(sglang) as url:
        found, finish = ask(
            url, tuned, lambda engine: collect(engine.generate(prompt(tuned), 100, sampling, at_once=True))
        )
    assert_raw(tuned, prompt(tuned), found)
    assert finish.has_stop_token
    asked, scored = sglang.bodies
    assert asked["stream"] is False
    assert scored["input_ids"] == [*prompt(tuned), *sglang.completion.ids]
    assert scored["lora_path"] == "shop"
    sent = asked["sampling_params"]
    assert (sent["temperature"], sent["top_p"], sent["min_p"]) == (sampling.temperature, sampling.top_p, sampling.min_p)
    assert sent["top_k"] == (sampling.top_k or -1)
    assert sent["logit_bias"] == ({"5": -1.0} if sampling.logit_bias else None)
    assert sent.get("sampling_seed") == (None if sampling.seed is None else 2**40 % 2**31)


def test_a_grammar_for_sglang_ends_with_any_stop_token_of_the_run(sglang: SGLang, tuned: TunedModel) -> None:
    llguidance = pytest.importorskip("llguidance")
    from llguidance.hf import from_tokenizer

    grammar = Grammar("", 'start: "yes" | "no"')
    with serving_sglang(sglang) as url:
        found, _ = ask(
            url,
            tuned,
            lambda engine: collect(engine.generate(prompt(tuned), 100, GREEDY, grammar=grammar, at_once=True)),
        )
    assert_raw(tuned, prompt(tuned), found)
    # As SGLang's backend reads it.
    read = llguidance.grammar_from("ebnf", sglang.bodies[0]["sampling_params"]["ebnf"])
    matcher = llguidance.LLMatcher(from_tokenizer(tuned.renderer.tokenizer), read)
    assert matcher.consume_tokens(tuned.renderer.encode("yes"))
    assert {id_ for id_, mark in enumerate(matcher.compute_logit_bias()) if mark} == tuned.renderer.stop_ids()


def test_a_stream_stays_a_stream_whatever_sampling_changes(sglang: SGLang, tuned: TunedModel) -> None:
    with serving_sglang(sglang) as url:
        found, _ = ask(
            url, tuned, lambda engine: collect(engine.generate(prompt(tuned), 100, Sampling(temperature=0.5)))
        )
    assert [one.token.id for one in found] == sglang.completion.ids
    assert [body["stream"] for body in sglang.bodies] == [True]


@pytest.mark.parametrize("backend", ["xgrammar", "outlines", "none"])
def test_a_grammar_is_refused_where_the_library_may_end_an_answer_inside_a_call(
    sglang: SGLang, tuned: TunedModel, backend: str
) -> None:
    sglang.backend = backend

    async def refused(engine: RemoteGenerator) -> EngineUnavailableError:
        with pytest.raises(EngineUnavailableError, match=f"follows grammars with {backend}; .*llguidance") as error:
            await collect(engine.generate(prompt(tuned), 9, GREEDY, grammar=Grammar("", "start: /a/")))
        return error.value

    with serving_sglang(sglang) as url:
        assert ask(url, tuned, refused).status == 501
    assert not sglang.bodies


def test_closing_the_answer_hangs_up_on_sglang(sglang: SGLang, tuned: TunedModel) -> None:
    async def hang_up(engine: RemoteGenerator) -> None:
        answer = engine.generate(prompt(tuned), 100, GREEDY)
        async for _ in answer:
            break
        await answer.aclose()

    with serving_sglang(sglang) as url:
        ask(url, tuned, hang_up)
    assert sglang.hung_up
    assert sglang.sent < len(sglang.completion.ids)


@pytest.mark.parametrize(
    ("changes", "message", "status"),
    [
        ({"status": 503}, "sglang: loading", 503),
        ({"error": {"message": "invalid top_k"}}, "sglang: invalid top_k", None),
        (
            {"ended": {"type": "abort", "message": "Failed to compile", "status_code": 400}},
            "sglang: Failed to compile",
            400,
        ),
    ],
)
def test_an_answer_that_sglang_breaks_off_is_no_answer(
    sglang: SGLang, tuned: TunedModel, changes: dict[str, Any], message: str, status: int | None
) -> None:
    for name, value in changes.items():
        setattr(sglang, name, value)

    async def broken_off(engine: RemoteGenerator) -> int | None:
        with pytest.raises(EngineUnavailableError, match=message) as error:
            await collect(engine.generate(prompt(tuned), 100, GREEDY))
        return error.value.status

    with serving_sglang(sglang) as url:
        assert ask(url, tuned, broken_off) == status


def test_a_limit_and_a_stop_token_of_the_model_alone_are_told_apart(sglang: SGLang, tuned: TunedModel) -> None:
    other = Completion([7, 8], (-0.1, -0.2), (-2.0, -2.0), stopped=False)
    sglang.completion = other

    def finish(url: str) -> Finish:
        return ask(url, tuned, lambda engine: collect(engine.generate(prompt(tuned), 2, GREEDY)))[1]

    with serving_sglang(sglang) as url:
        sglang.ended = {"type": "length", "length": 2}
        assert finish(url) == Finish("length", has_stop_token=False, cached_tokens=4)
        sglang.ended = {"type": "stop", "matched": 8}
        assert finish(url) == Finish("stop", has_stop_token=True, cached_tokens=4)


def test_sglang_is_detected_with_its_adapter_and_gives_greedy_answers(sglang: SGLang, tuned: TunedModel) -> None:
    with serving_sglang(sglang) as url, connect(url) as client:
        assert (client.kind, client.facts.model, client.facts.base_model) == ("sglang", "shop", "base")
        assert (client.facts.version, client.facts.context) == ("0.5.12", 512)
        assert client.prompt_ids([{"role": "user", "content": "hi"}], []) is None
        made = client.complete(prompt(tuned), 100)
        client.complete(prompt(tuned), 1, base=True)
    assert made is not None
    assert made.ids == tuple(sglang.completion.ids)
    assert made.runner_ups == tuple(sglang.completion.runner_ups)
    tuned_body, base_body = sglang.bodies
    assert tuned_body["lora_path"] == "shop"
    assert "lora_path" not in base_body
    assert "stop_token_ids" not in tuned_body["sampling_params"]


def test_a_merged_model_in_sglang_has_no_adapter(sglang: SGLang, tuned: TunedModel) -> None:
    sglang.has_adapter = False
    with serving_sglang(sglang) as url:
        found, _ = ask(url, tuned, lambda engine: collect(engine.generate(prompt(tuned), 100, GREEDY)))
    assert text(found[:-1]).startswith("好")
    assert "lora_path" not in sglang.bodies[0]
