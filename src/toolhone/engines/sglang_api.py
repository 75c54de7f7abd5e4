"""SGLang's HTTP: how it is detected, and its answers to token ids through its own `/generate`.

SGLang runs on GPUs only. This module was tested with the shapes that its documentation and source give, not with a
running SGLang.

- **Stream.** An event has all tokens so far, or with `--incremental-streaming-output` the new ones.
- **Log-probabilities.** SGLang gives those after temperature, bias, penalties and grammar. If these change something,
  an answer in one piece is read once more as a prompt, whose log-probabilities are raw. A stream keeps SGLang's.
- **Grammars.** Only llguidance knows every stop token of the run, because the grammar names them. xgrammar knows those
  of the model's configuration, and lets the others end an answer inside a call.
- **Seeds** count only with `--enable-deterministic-inference`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Any

from toolhone.endpoint import UNREADABLE_REPLY
from toolhone.engines.facts import Cards, EngineFacts, Generation, facts_of_cards
from toolhone.engines.generate import Finish
from toolhone.engines.http import EngineError, Http
from toolhone.engines.wire import Answer, Asked, Row, Wire
from toolhone.records import FinishReason

_BACKEND = "llguidance"
_PATH = "/generate"
_SEEDS = 2**31


def detect(http: Http, cards: Cards, model: str | None) -> EngineFacts | None:
    """Return the engine's facts if it is SGLang."""
    if next(iter(cards.values())).get("owned_by") != "sglang":
        return None
    found = http.get("/server_info") or http.get("/get_server_info")  # the older name
    info = found if isinstance(found, dict) else {}
    return facts_of_cards("sglang", info.get("version"), cards, model, info.get("grammar_backend"))


def prompt_ids(http: Http, facts: EngineFacts, chat: Mapping[str, Any]) -> None:
    """Return None: SGLang does not say which ids it makes from messages."""


def complete(http: Http, facts: EngineFacts, ids: Sequence[int], max_tokens: int, *, base: bool) -> Generation:
    """Return the greedy answer to token ids."""
    sampling = {"max_new_tokens": max_tokens, "temperature": 0.0, "repetition_penalty": 1.0}
    started = time.perf_counter()
    reply = http.post(_PATH, _body(facts, ids, sampling, 2, base=base))
    latency_ms = (time.perf_counter() - started) * 1000
    try:
        rows = _rows(reply["meta_info"], "output")
        return Generation(
            ids=tuple(id_ for id_, _, _ in rows),
            logprobs=tuple(logprob for _, logprob, _ in rows),
            runner_ups=tuple(
                max((other for other_id, other in listed if other_id != id_), default=None) for id_, _, listed in rows
            ),
            text=str(reply["text"]),
            finish_reason="length" if reply["meta_info"]["finish_reason"]["type"] == "length" else "stop",
            latency_ms=latency_ms,
        )
    except UNREADABLE_REPLY as error:
        raise EngineError(f"an answer without token ids or log-probabilities ({error!r})") from None


async def answer(wire: Wire, asked: Asked) -> Answer:
    """Yield the tokens of an answer, and a `Finish` at the end."""
    is_raw = _is_raw(asked)
    body = _body(wire.facts, asked.ids, _sampling(wire, asked), max(2, asked.top_logprobs))
    body["stream"] = not asked.at_once
    last, meta = asked.ids[-1], {}
    made: list[int] = []
    async with aclosing(wire.events(_PATH, body)) as events:
        async for event in events:
            meta = event["meta_info"]
            _refuse_abort(wire, meta)
            new = meta["completion_tokens"] - len(made)
            rows = _rows(meta, "output")
            rows = rows[len(rows) - new :]
            made += [id_ for id_, _, _ in rows]
            if not is_raw and wire.can_read_again(asked, made):
                rows = await _raw_rows(wire, asked, made)
            for id_, logprob, listed in rows:
                yield wire.generated(id_, logprob, listed, last, asked.top_logprobs)
                last = id_
    if not meta.get("finish_reason"):
        raise wire.error("ended the answer early, without a reason")
    yield _finish(wire, meta, made)


def _is_raw(asked: Asked) -> bool:
    """Whether SGLang's log-probabilities of this answer are the model's own."""
    sampling = asked.sampling
    changed = sampling.logit_bias or sampling.presence_penalty or sampling.frequency_penalty
    return sampling.temperature in (0, 1) and not changed and asked.grammar is None


def _sampling(wire: Wire, asked: Asked) -> dict[str, Any]:
    """Return all sampling parameters, because the server may have other defaults."""
    sampling = asked.sampling
    found: dict[str, Any] = {
        "max_new_tokens": asked.max_tokens,
        "stop_token_ids": sorted(wire.stop_ids),
        "temperature": sampling.temperature,
        "top_k": sampling.top_k or -1,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "repetition_penalty": 1.0,
        "min_new_tokens": 0,
        "logit_bias": {str(id_): bias for id_, bias in sampling.logit_bias} or None,
    }
    if sampling.seed is not None:
        found["sampling_seed"] = sampling.seed % _SEEDS
    if asked.grammar is not None:
        if wire.facts.grammar_backend != _BACKEND:
            used = wire.facts.grammar_backend or "an unknown library"
            raise wire.error(f"follows grammars with {used}; start it with --grammar-backend {_BACKEND}", 501)
        found["ebnf"] = wire.stopping_lark(asked.grammar)  # llguidance takes Lark there too
    return found


def _body(
    facts: EngineFacts, ids: Sequence[int], sampling: Mapping[str, Any], top_logprobs: int, *, base: bool = False
) -> dict[str, Any]:
    adapter = {"lora_path": facts.model} if facts.adapters and not base else {}
    return {
        "input_ids": list(ids),
        "sampling_params": sampling,
        "return_logprob": True,
        "top_logprobs_num": top_logprobs,
        "stream": False,
        **adapter,
    }


async def _raw_rows(wire: Wire, asked: Asked, made: Sequence[int]) -> list[Row]:
    """Return the rows of the answer's tokens with raw log-probabilities. SGLang reads the answer as a prompt."""
    body = _body(wire.facts, [*asked.ids, *made], {"max_new_tokens": 0, "temperature": 0.0}, max(2, asked.top_logprobs))
    # The first row has no log-probability: it is that of the last token of the prompt.
    reply = await wire.post(_PATH, {**body, "logprob_start_len": len(asked.ids) - 1})
    rows = _rows(reply["meta_info"], "input", skip=1)
    if [id_ for id_, _, _ in rows] != list(made):
        raise wire.error("sent log-probabilities of other tokens")
    return rows


def _rows(meta: Mapping[str, Any], side: str, skip: int = 0) -> list[Row]:
    chosen, top = meta[f"{side}_token_logprobs"][skip:], meta[f"{side}_top_logprobs"][skip:]
    return [
        (int(id_), float(logprob), [(int(other), float(value)) for value, other, *_ in listed or ()])
        for (logprob, id_, *_), listed in zip(chosen, top, strict=True)
    ]


def _refuse_abort(wire: Wire, meta: Mapping[str, Any]) -> None:
    reason = meta.get("finish_reason") or {}
    if reason.get("type") == "abort":
        raise wire.error(reason.get("message") or "ended the answer early (abort)", reason.get("status_code"))


def _finish(wire: Wire, meta: Mapping[str, Any], made: Sequence[int]) -> Finish:
    ended = meta["finish_reason"]
    reason: FinishReason = "length" if ended["type"] == "length" else "stop"
    found = wire.finish(reason, made, meta.get("cached_tokens"))
    # The model's configuration may have stop tokens that the run's format does not have.
    is_stop_token = bool(made) and ended.get("matched") == made[-1]
    return Finish(reason, found.has_stop_token or is_stop_token, found.cached_tokens)
