"""vLLM's HTTP: how it is detected, its prompt ids, and its answers to token ids through `/v1/completions`.

With a grammar, vLLM gives the log-probabilities after the grammar. So an answer in one piece is read once more as a
prompt, whose log-probabilities are raw. A stream keeps those after the grammar.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Any

from toolhone.endpoint import UNREADABLE_REPLY
from toolhone.engines.facts import Cards, EngineFacts, Generation, facts_of_cards
from toolhone.engines.generate import EngineUnavailableError
from toolhone.engines.http import EngineError, Http, tokens_of
from toolhone.engines.wire import Answer, Asked, Row, Wire


def detect(http: Http, cards: Cards, model: str | None) -> EngineFacts | None:
    """Return the engine's facts if it is vLLM."""
    found = http.get("/version")
    if not isinstance(found, dict) or "version" not in found:
        return None
    return facts_of_cards("vllm", str(found["version"]), cards, model)


def prompt_ids(http: Http, facts: EngineFacts, chat: Mapping[str, Any]) -> list[int]:
    """Return the ids that vLLM makes from messages with its own template."""
    asked = {"model": facts.model, **chat, "add_generation_prompt": True, "add_special_tokens": False}
    return tokens_of(http.post("/tokenize", asked))


def complete(http: Http, facts: EngineFacts, ids: Sequence[int], max_tokens: int, *, base: bool) -> Generation:
    """Return the greedy answer to token ids."""
    body = {
        "model": facts.base_model if base else facts.model,
        "prompt": list(ids),
        "max_tokens": max_tokens,
        "temperature": 0.0,
        "logprobs": 2,
        "return_token_ids": True,
    }
    started = time.perf_counter()
    reply = http.post("/v1/completions", body)
    latency_ms = (time.perf_counter() - started) * 1000
    try:
        choice = reply["choices"][0]
        logprobs = choice["logprobs"]
        runner_ups = tuple(
            max((float(value) for token, value in row.items() if token != chosen), default=None)
            for chosen, row in zip(logprobs["tokens"], logprobs["top_logprobs"], strict=True)
        )
        return Generation(
            ids=tuple(map(int, choice["token_ids"])),
            logprobs=tuple(map(float, logprobs["token_logprobs"])),
            runner_ups=runner_ups,
            text=str(choice["text"]),
            finish_reason="length" if choice["finish_reason"] == "length" else "stop",
            latency_ms=latency_ms,
        )
    except UNREADABLE_REPLY as error:
        raise EngineError(f"an answer without token ids or log-probabilities ({error!r})") from None


async def answer(wire: Wire, asked: Asked) -> Answer:
    """Yield the tokens of an answer, and a `Finish` at the end."""
    sampling = asked.sampling
    body: dict[str, Any] = {
        "model": wire.facts.model,
        "prompt": asked.ids,
        "max_tokens": asked.max_tokens,
        "logprobs": max(2, asked.top_logprobs),  # raw, unless the server was started with another --logprobs-mode
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
        "stop_token_ids": sorted(wire.stop_ids),
        "stream": not asked.at_once,
        **({} if asked.at_once else {"stream_options": {"include_usage": True}}),
        "repetition_penalty": 1.0,  # otherwise that of the model's generation_config.json
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "logit_bias": {str(id_): bias for id_, bias in sampling.logit_bias},
        "seed": sampling.seed,
    }
    if asked.grammar is not None:
        body["structured_outputs"] = {"grammar": wire.stopping_lark(asked.grammar)}
    last, finish, cached = asked.ids[-1], None, None
    made: list[int] = []
    async with aclosing(wire.events("/v1/completions", body)) as events:
        async for event in events:
            if usage := event.get("usage"):
                cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
            for choice in event["choices"]:
                rows = _rows(choice)
                made += [id_ for id_, _, _ in rows]
                if asked.grammar is not None and wire.can_read_again(asked, made):
                    rows = await _raw_rows(wire, asked, made)
                for id_, logprob, listed in rows:
                    yield wire.generated(id_, logprob, listed, last, asked.top_logprobs)
                    last = id_
                finish = choice["finish_reason"] or finish
    if finish not in ("stop", "length"):
        raise EngineUnavailableError(f"vllm ended the answer early ({finish or 'without a reason'})")
    yield wire.finish(finish, made, cached)


def _rows(choice: Mapping[str, Any]) -> list[Row]:
    found = choice["logprobs"]
    columns = zip(choice["token_ids"], found["token_logprobs"], found["top_logprobs"], strict=True)
    return [
        (id_, float(logprob), [(int(token.removeprefix("token_id:")), float(one)) for token, one in others.items()])
        for id_, logprob, others in columns
    ]


async def _raw_rows(wire: Wire, asked: Asked, made: Sequence[int]) -> list[Row]:
    """Return the rows of the answer's tokens with raw log-probabilities. vLLM reads the answer as a prompt."""
    prompt = [*asked.ids, *made]
    body = {
        "model": wire.facts.model,
        "prompt": prompt,
        "max_tokens": 1,
        "temperature": 0.0,
        "prompt_logprobs": max(2, asked.top_logprobs),
    }
    places = (await wire.post("/v1/completions", body))["choices"][0]["prompt_logprobs"][len(asked.ids) :]
    rows = []
    for id_, place in zip(made, places, strict=True):
        listed = {int(other): float(one["logprob"]) for other, one in place.items()}
        rows.append((id_, listed[id_], list(listed.items())))
    return rows
