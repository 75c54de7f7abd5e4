"""Engines behind HTTP: llama.cpp itself on a tiny model, and a server on this machine that streams as vLLM does."""

from __future__ import annotations

import asyncio
import copy
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse
from generated import GREEDY, ask, assert_raw, collect, endless, prompt, raw_logprobs, text
from served import LEARNED, example, make_run, serving_app
from tiny_gguf import write_model

from toolhone.engines.client import connect
from toolhone.engines.facts import EngineFacts
from toolhone.engines.generate import EngineUnavailableError, Finish, Generated, Grammar, Sampling
from toolhone.engines.llama_cpp import llama_cpp_server
from toolhone.engines.remote import RemoteGenerator
from toolhone.errors import UserError
from toolhone.evaluate.decode import Completion, Prefix, decode_greedily
from toolhone.evaluate.predict import answer_one
from toolhone.serve.local import LocalGenerator
from toolhone.tuned import TunedModel


@pytest.fixture(scope="module")
def tuned(learned: Path, tmp_path_factory: pytest.TempPathFactory) -> TunedModel:
    return TunedModel.load(make_run(tmp_path_factory.mktemp("remote") / "run", learned))


@pytest.fixture(scope="module")
def llama_cpp(tuned: TunedModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    pytest.importorskip("xllamacpp", reason="llama.cpp needs the package xllamacpp")
    pytest.importorskip("gguf", reason="writing GGUF files needs the package gguf")
    merged = copy.deepcopy(tuned.model).merge_and_unload()
    gguf = write_model(tmp_path_factory.mktemp("gguf") / "m.gguf", merged, tuned.renderer)
    with llama_cpp_server(gguf, parallel=4, ctx=512, threads=1) as url:
        yield url


@pytest.mark.parametrize("at_once", [False, True], ids=["streamed", "at once"])
@pytest.mark.parametrize("question", LEARNED)
def test_llama_cpp_gives_the_tokens_of_transformers_also_those_of_split_characters(
    llama_cpp: str, tuned: TunedModel, question: str, at_once: bool
) -> None:
    own = answer_one(tuned.model, tuned.renderer, example(question), 100)
    ids = prompt(tuned, question)
    found, finish = ask(
        llama_cpp,
        tuned,
        lambda engine: collect(engine.generate(ids, 100, GREEDY, top_logprobs=3, at_once=at_once)),
    )
    assert [one.token.id for one in found] == [token.id for token in own.tokens]
    assert [one.token.bytes for one in found] == [token.bytes for token in own.tokens]
    for ours, theirs in zip(found, own.tokens, strict=True):
        assert ours.token.logprob == pytest.approx(theirs.logprob, abs=2e-2)
        assert ours.token.runner_up == pytest.approx(theirs.runner_up, abs=2e-2)
        assert [value for _, value in ours.top] == sorted((value for _, value in ours.top), reverse=True)
        assert len(ours.top) == 3
        assert ours.top[0] == (ours.token.bytes, ours.token.logprob)
    assert (finish.reason, finish.has_stop_token) == ("stop", True)


def test_many_requests_at_once_get_their_own_answers(llama_cpp: str, tuned: TunedModel) -> None:
    questions = [*LEARNED] * 4

    async def all_at_once(engine: RemoteGenerator) -> list[tuple[list[Generated], Finish]]:
        asked = [collect(engine.generate(prompt(tuned, one), 100, GREEDY)) for one in questions]
        return await asyncio.gather(*asked)

    answers = [text(found[:-1]) for found, _ in ask(llama_cpp, tuned, all_at_once)]
    expected = {one: answer_one(tuned.model, tuned.renderer, example(one), 100).text for one in LEARNED}
    assert answers == [expected[one] for one in questions]


def test_a_limit_inside_a_character_leaves_the_character_out_of_a_stream(llama_cpp: str, tuned: TunedModel) -> None:
    ids = prompt(tuned)  # the answer begins with a character of three tokens
    assert ask(llama_cpp, tuned, lambda engine: collect(engine.generate(ids, 2, GREEDY))) == (
        [],
        Finish("length", has_stop_token=False, cached_tokens=len(ids) - 1),
    )


def test_a_seed_repeats_an_answer_and_log_probabilities_stay_raw(llama_cpp: str, tuned: TunedModel) -> None:
    ids = prompt(tuned, "谢谢")

    async def sample(engine: RemoteGenerator) -> list[list[Generated]]:
        seeds = (7, 7, 2**40 + 8)
        answers = [engine.generate(ids, 30, endless(tuned, temperature=3.0, top_k=50, seed=seed)) for seed in seeds]
        return [(await collect(answer))[0] for answer in answers]

    first, again, other = ask(llama_cpp, tuned, sample)
    ids_of = [[one.token.id for one in found] for found in (first, again, other)]
    assert ids_of[0] == ids_of[1] != ids_of[2]
    assert_raw(tuned, ids, first)


@pytest.mark.parametrize("penalty", [0.7, -0.5])
def test_the_frequency_penalty_of_llama_cpp_counts_the_answer_only(
    llama_cpp: str, tuned: TunedModel, penalty: float
) -> None:
    """A penalty that counts the prompt's tokens too changes both answers, the second one from its first token on."""
    ids, sampling = prompt(tuned, "谢谢"), endless(tuned, frequency_penalty=penalty)

    async def own() -> list[int]:
        engine = LocalGenerator(tuned.model, tuned.renderer)
        found, _ = await collect(engine.generate(ids, 60, sampling))
        await engine.close()
        return [one.token.id for one in found]

    found, _ = ask(llama_cpp, tuned, lambda engine: collect(engine.generate(ids, 60, sampling, at_once=True)))
    assert [one.token.id for one in found] == asyncio.run(own())


def test_a_grammar_decides_the_text_and_log_probabilities_stay_raw(llama_cpp: str, tuned: TunedModel) -> None:
    ids, grammar = prompt(tuned), Grammar(gbnf='root ::= "yes" | "no"', lark="")
    found, finish = ask(llama_cpp, tuned, lambda engine: collect(engine.generate(ids, 30, GREEDY, grammar=grammar)))
    assert text(found[:-1]) in ("yes", "no")
    assert finish.has_stop_token
    assert_raw(tuned, ids, found)


def test_all_tokens_at_once_also_have_those_of_a_character_that_the_limit_cuts(
    llama_cpp: str, tuned: TunedModel
) -> None:
    own = answer_one(tuned.model, tuned.renderer, example(next(iter(LEARNED))), 2)
    ids = prompt(tuned, next(iter(LEARNED)))
    found, finish = ask(llama_cpp, tuned, lambda engine: collect(engine.generate(ids, 2, GREEDY, at_once=True)))
    assert [one.token.id for one in found] == [token.id for token in own.tokens]
    assert [one.token.logprob for one in found] == pytest.approx([token.logprob for token in own.tokens], abs=2e-2)
    assert finish.reason == "length"


def test_sampled_parts_of_characters_keep_their_log_probabilities(llama_cpp: str, tuned: TunedModel) -> None:
    ids = prompt(tuned, "谢谢")

    async def sample(engine: RemoteGenerator) -> list[Generated]:
        answer = engine.generate(ids, 40, Sampling(temperature=50.0, top_k=150, seed=3), top_logprobs=1, at_once=True)
        return (await collect(answer))[0]

    found = ask(llama_cpp, tuned, sample)
    assert len([one for one in found if not one.token.bytes.decode(errors="ignore")]) > 2
    assert_raw(tuned, ids, found)


async def _hang_up_at_once(engine: RemoteGenerator, tuned: TunedModel) -> None:
    answer = asyncio.create_task(collect(engine.generate(prompt(tuned), 400, endless(tuned), at_once=True)))
    await asyncio.sleep(0.05)
    answer.cancel()
    with suppress(asyncio.CancelledError):
        await answer


def test_cancelling_an_answer_at_once_ends_it_in_llama_cpp(llama_cpp: str, tuned: TunedModel) -> None:
    ask(llama_cpp, tuned, lambda engine: _hang_up_at_once(engine, tuned))
    assert_idle(llama_cpp)


def assert_idle(llama_cpp: str) -> None:
    deadline = time.monotonic() + 5
    while any(slot["is_processing"] for slot in httpx2.get(f"{llama_cpp}/slots").json()):
        assert time.monotonic() < deadline, "llama.cpp goes on"
        time.sleep(0.02)


def test_closing_the_answer_ends_it_in_llama_cpp(llama_cpp: str, tuned: TunedModel) -> None:
    async def hang_up(engine: RemoteGenerator) -> None:
        answer = engine.generate(prompt(tuned), 400, endless(tuned))
        async for _ in answer:
            break
        await answer.aclose()

    ask(llama_cpp, tuned, hang_up)
    assert_idle(llama_cpp)


def test_refused_requests_name_the_reason_and_the_status(llama_cpp: str, tuned: TunedModel) -> None:
    async def refused(engine: RemoteGenerator) -> EngineUnavailableError:
        with pytest.raises(EngineUnavailableError, match="failed to parse grammar") as error:
            await collect(engine.generate(prompt(tuned), 5, GREEDY, grammar=Grammar("root ::= (", "")))
        assert await engine.is_ready()
        return error.value

    assert ask(llama_cpp, tuned, refused).status == 400


def test_the_context_is_that_of_one_request(llama_cpp: str) -> None:
    with connect(llama_cpp) as client:
        assert client.facts.context == 512


def test_an_engine_that_does_not_answer_is_unavailable(tuned: TunedModel) -> None:
    async def ask_nobody() -> None:
        engine = RemoteGenerator("http://127.0.0.1:9", EngineFacts("vllm", model="m"), tuned.renderer)
        with pytest.raises(EngineUnavailableError, match="vllm does not answer"):
            await collect(engine.generate([1], 5, GREEDY))
        assert not await engine.is_ready()
        await engine.close()

    asyncio.run(ask_nobody())


def test_a_connection_that_the_engine_closed_is_replaced(vllm: Vllm, tuned: TunedModel) -> None:
    """A server that ends every connection after its first reply, but says that it stays open."""
    connections = 0
    events: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        with suppress(asyncio.IncompleteReadError):  # the client has closed the connection
            for number in range(2):
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                await reader.readexactly(length)
                if number:
                    break
                body = "".join(events).encode()
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
                await writer.drain()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    async def twice() -> list[list[int]]:
        vllm.bodies.append({"prompt": []})
        events.extend([event async for event in vllm.events()])
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        engine = RemoteGenerator(url, EngineFacts("vllm", model="m"), tuned.renderer)
        answers = [await collect(engine.generate([1], 100, GREEDY)) for _ in range(2)]
        await engine.close()
        server.close()
        await server.wait_closed()
        await asyncio.sleep(0.05)  # the connections end
        return [[one.token.id for one in found] for found, _ in answers]

    assert asyncio.run(twice()) == [vllm.completion.ids] * 2
    assert connections == 2


def test_an_engine_without_token_ids_is_refused(tuned: TunedModel) -> None:
    with pytest.raises(UserError, match="the engine there takes no token ids"):
        RemoteGenerator("http://127.0.0.1:9", EngineFacts("openai"), tuned.renderer)


@dataclass
class Vllm:
    """What the server that speaks vLLM's HTTP streams: `completion`, in events of `at_once` tokens. As in vLLM, an
    answer with a grammar has log-probabilities after the grammar, and those of a prompt are raw."""

    tuned: TunedModel
    completion: Completion
    at_once: int = 1
    finish: str | None = None
    error: dict[str, Any] | None = None
    status: int = 200
    bodies: list[dict[str, Any]] = field(default_factory=list)
    sent: int = 0
    hung_up: bool = False

    def app(self) -> FastAPI:
        app = FastAPI()
        models = [{"id": "base", "max_model_len": 512}, {"id": "tuned", "parent": "base", "max_model_len": None}]
        app.get("/v1/models")(lambda: {"data": models})
        app.get("/version")(lambda: {"version": "0.32.0"})

        @app.post("/v1/completions")
        async def completions(request: Request) -> Any:
            body = await request.json()
            self.bodies.append(body)
            if self.status != 200:
                return JSONResponse({"error": {"message": "loading", "type": "x", "code": self.status}}, self.status)
            if body.get("prompt_logprobs"):
                return {"choices": [{"index": 0, "prompt_logprobs": self.scored(body)}]}
            if not body["stream"]:
                count = len(self.completion.ids)
                return {"choices": [self.choice(range(count))], "usage": self.usage()}
            return StreamingResponse(self.events(), media_type="text/event-stream")

        return app

    def scored(self, body: dict[str, Any]) -> list[dict[str, Any] | None]:
        """The log-probabilities of a prompt's tokens by id, and of the likeliest. The first token has none."""
        prompt_ids = body["prompt"]
        values = raw_logprobs(self.tuned, prompt_ids[:1], prompt_ids[1:])
        likeliest = {"499": {"logprob": -0.5, "rank": 1, "decoded_token": "x"}}
        pairs = zip(prompt_ids[1:], values, strict=True)
        return [None, *({str(id_): {"logprob": value, "rank": 2}, **likeliest} for id_, value in pairs)]

    def choice(self, part: range) -> dict[str, Any]:
        made, ids = self.completion, self.completion.ids
        scale = 0.1 if "structured_outputs" in self.bodies[-1] else 1.0
        # The runner-up has an id of its own. vLLM lists the chosen token too, if it is not among the likeliest.
        top = [
            {f"token_id:{ids[n]}": made.logprobs[n] * scale, f"token_id:{(ids[n] + 1) % 500}": made.runner_ups[n]}
            for n in part
        ]
        return {
            "index": 0,
            "text": "",
            "logprobs": {
                "text_offset": [0] * len(part),
                "token_logprobs": [made.logprobs[n] * scale for n in part],
                "tokens": [f"token_id:{ids[n]}" for n in part],
                "top_logprobs": top,
            },
            "finish_reason": (self.finish or "stop") if part[-1] == len(ids) - 1 else None,
            "stop_reason": None,
            "token_ids": [ids[n] for n in part],
            **({"prompt_token_ids": self.bodies[-1]["prompt"]} if part[0] == 0 else {}),
        }

    def usage(self) -> dict[str, Any]:
        count = len(self.completion.ids)
        return {"prompt_tokens": 9, "completion_tokens": count, "prompt_tokens_details": {"cached_tokens": 4}}

    async def events(self) -> AsyncIterator[str]:
        count = len(self.completion.ids)
        try:
            for start in range(0, count, self.at_once):
                if start and self.error is not None:
                    yield f"data: {json.dumps({'error': self.error})}\n\n"
                    break
                choice = self.choice(range(start, min(start + self.at_once, count)))
                yield f"data: {json.dumps({'id': 'cmpl-1', 'object': 'text_completion', 'choices': [choice]})}\n\n"
                self.sent += 1
                await asyncio.sleep(0.001)
            yield f"data: {json.dumps({'choices': [], 'usage': self.usage()})}\n\n"
            yield "data: [DONE]\n\n"
        except asyncio.CancelledError:
            self.hung_up = True
            raise


@pytest.fixture
def vllm(tuned: TunedModel) -> Vllm:
    made = decode_greedily(tuned.model, [prompt(tuned)], Prefix([], None), tuned.renderer.stop_ids(), 100)
    return Vllm(tuned, made[0])


@contextmanager
def serving_vllm(vllm: Vllm) -> Iterator[str]:
    with serving_app(vllm.app()) as url:
        yield url.removesuffix("/v1")


@pytest.mark.parametrize("at_once", [1, 3])
def test_vllm_streams_tokens_however_many_an_event_has(vllm: Vllm, tuned: TunedModel, at_once: int) -> None:
    vllm.at_once = at_once
    own = answer_one(tuned.model, tuned.renderer, example("A person, now."), 100)
    sampling = Sampling(temperature=0.5, top_p=0.9, top_k=7, min_p=0.1, seed=3, logit_bias=((5, -1.0),))
    with serving_vllm(vllm) as url:
        found, finish = ask(
            url, tuned, lambda engine: collect(engine.generate(prompt(tuned), 100, sampling, top_logprobs=2))
        )
    assert [one.token for one in found] == list(own.tokens)
    assert all(one.top[0] == (one.token.bytes, one.token.logprob) for one in found)
    assert all(one.top[1][1] == one.token.runner_up for one in found)
    assert finish == Finish("stop", has_stop_token=True, cached_tokens=4)
    body = vllm.bodies[0]
    assert body["prompt"] == prompt(tuned)
    assert body["model"] == "tuned"
    assert body["stop_token_ids"] == sorted(tuned.renderer.stop_ids())
    assert "structured_outputs" not in body
    assert (body["temperature"], body["top_p"], body["top_k"], body["min_p"], body["seed"]) == (0.5, 0.9, 7, 0.1, 3)
    assert body["logit_bias"] == {"5": -1.0}


def test_an_answer_of_vllm_in_one_piece_is_one_request_and_has_the_same_tokens(vllm: Vllm, tuned: TunedModel) -> None:
    with serving_vllm(vllm) as url:
        found, finish = ask(url, tuned, lambda engine: collect(engine.generate(prompt(tuned), 9, GREEDY, at_once=True)))
    assert [one.token.id for one in found] == vllm.completion.ids
    assert finish == Finish("stop", has_stop_token=True, cached_tokens=4)
    assert [body["stream"] for body in vllm.bodies] == [False]
    assert "stream_options" not in vllm.bodies[0]


@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "streamed"])
def test_an_answer_of_vllm_with_a_grammar_has_raw_log_probabilities_if_it_is_in_one_piece(
    vllm: Vllm, tuned: TunedModel, at_once: bool
) -> None:
    grammar = Grammar("", "start: /a/")
    with serving_vllm(vllm) as url:
        found, _ = ask(
            url,
            tuned,
            lambda engine: collect(engine.generate(prompt(tuned), 99, GREEDY, grammar=grammar, at_once=at_once)),
        )
    assert [one.token.id for one in found] == vllm.completion.ids
    assert vllm.bodies[0]["structured_outputs"]["grammar"].startswith("whole_answer: /a/\nstart: whole_answer <[")
    if at_once:
        assert_raw(tuned, prompt(tuned), found)
        assert vllm.bodies[1]["prompt"] == [*prompt(tuned), *vllm.completion.ids]
    else:
        assert [one.token.logprob for one in found] == pytest.approx([0.1 * one for one in vllm.completion.logprobs])


def test_the_context_of_an_adapter_in_vllm_is_that_of_its_base_model(vllm: Vllm) -> None:
    with serving_vllm(vllm) as url, connect(url) as client:
        assert (client.facts.model, client.facts.context) == ("tuned", 512)


def test_a_grammar_for_vllm_ends_with_any_stop_token_of_the_run(vllm: Vllm, tuned: TunedModel) -> None:
    """As in vLLM, the tokenizer knows one token that ends a text."""
    llguidance = pytest.importorskip("llguidance")
    from llguidance.hf import from_tokenizer

    with serving_vllm(vllm) as url:
        grammar = Grammar("", 'start: "yes" | "no"')
        ask(url, tuned, lambda engine: collect(engine.generate(prompt(tuned), 100, GREEDY, grammar=grammar)))
    sent = vllm.bodies[0]["structured_outputs"]["grammar"]
    matcher = llguidance.LLMatcher(from_tokenizer(tuned.renderer.tokenizer), sent)
    assert matcher.consume_tokens(tuned.renderer.encode("yes"))
    allowed = {id_ for id_, mark in enumerate(matcher.compute_logit_bias()) if mark}
    assert allowed == tuned.renderer.stop_ids()
    assert len(allowed) == 2


def test_closing_the_answer_hangs_up_on_vllm(vllm: Vllm, tuned: TunedModel) -> None:
    async def hang_up(engine: RemoteGenerator) -> None:
        answer = engine.generate(prompt(tuned), 100, GREEDY)
        async for _ in answer:
            break
        await answer.aclose()

    with serving_vllm(vllm) as url:
        ask(url, tuned, hang_up)
    assert vllm.hung_up
    assert vllm.sent < len(vllm.completion.ids)


@pytest.mark.parametrize(
    ("changes", "message", "status"),
    [
        ({"status": 503}, "vllm: loading", 503),
        ({"error": {"message": "worker died", "code": 500}}, "vllm: worker died", 500),
        ({"finish": "abort"}, r"vllm ended the answer early \(abort\)", None),
    ],
)
def test_an_answer_that_vllm_breaks_off_is_no_answer(
    vllm: Vllm, tuned: TunedModel, changes: dict[str, Any], message: str, status: int | None
) -> None:
    for name, value in changes.items():
        setattr(vllm, name, value)

    async def broken_off(engine: RemoteGenerator) -> int | None:
        with pytest.raises(EngineUnavailableError, match=message) as error:
            await collect(engine.generate(prompt(tuned), 100, GREEDY))
        return error.value.status

    with serving_vllm(vllm) as url:
        assert ask(url, tuned, broken_off) == status
