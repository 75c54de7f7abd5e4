"""llama.cpp's HTTP: how it is detected, its prompt ids, and its answers to token ids through `/completion`.

llama.cpp sends no row for a token that is only a part of a character. Such a row is asked for with a second request.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from toolhone.endpoint import UNREADABLE_REPLY
from toolhone.engines.facts import Cards, EngineFacts, Generation
from toolhone.engines.generate import Finish, Generated
from toolhone.engines.http import EngineError, Http, tokens_of
from toolhone.engines.wire import Answer, Asked, Wire, is_part
from toolhone.records import FinishReason

_LISTED = 200
"""Tokens to list where llama.cpp hides one. A token below them is very unlikely."""
_SAMPLERS = ("penalties", "temperature", "top_k", "top_p", "min_p")
"""llama.cpp's samplers, in the order in which vLLM and transformers apply theirs. Its default has the temperature last,
and others before it."""
_SEEDS = 2**32 - 1
"""Number of llama.cpp's seeds. The next number means a random one."""


def detect(http: Http, cards: Cards, model: str | None) -> EngineFacts | None:
    """Return the engine's facts if it is llama.cpp."""
    props = http.get("/props")
    if not isinstance(props, dict) or "chat_template" not in props:
        return None
    adapters = tuple(str(one.get("path", one.get("id"))) for one in http.get("/lora-adapters") or ())
    return EngineFacts(
        "llama.cpp",
        version=_text(props.get("build_info")),
        model=model or next(iter(cards)),
        weights=weights_name(_text(props.get("model_ftype"))),
        template=props["chat_template"],
        model_path=_text(props.get("model_path")),
        adapters=adapters,
        serves_base=bool(adapters),
        context=(props.get("default_generation_settings") or {}).get("n_ctx"),
    )


def weights_name(ftype: str | None) -> str | None:
    """Return the short name of llama.cpp's name for the number type of a model: "q8_0" for "Q8_0", "f32" for "all
    F32". None if it is unknown."""
    if ftype is None:
        return None
    return ftype.removeprefix("(guessed) ").removeprefix("all ").split(" ")[0].lower()


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def prompt_ids(http: Http, facts: EngineFacts, chat: Mapping[str, Any]) -> list[int]:
    """Return the ids that llama.cpp makes from messages with its own template, as its chat endpoint does."""
    text = http.post("/apply-template", chat).get("prompt")
    # The template's text lacks only the first special token of some models.
    return tokens_of(http.post("/tokenize", {"content": text, "add_special": True, "parse_special": True}))


def complete(http: Http, facts: EngineFacts, ids: Sequence[int], max_tokens: int, *, base: bool) -> Generation:
    """Return the greedy answer to token ids."""
    body: dict[str, Any] = {
        "prompt": list(ids),
        "n_predict": max_tokens,
        "n_probs": 2,
        "temperature": 0.0,
        "top_k": 1,
        "cache_prompt": not base,  # what llama.cpp reuses may have been computed with the adapter
        "return_tokens": True,
    }
    if base:
        body["lora"] = [{"id": number, "scale": 0.0} for number in range(len(facts.adapters))]
    started = time.perf_counter()
    reply = http.post("/completion", body)
    latency_ms = (time.perf_counter() - started) * 1000
    try:
        made = [int(id_) for id_ in reply["tokens"]]
        rows = _rows_of(made, reply.get("completion_probabilities", []))
        pairs = [
            _hidden_pair(http, body, made[:place], made[place]) if row is None else _pair(row)
            for place, row in enumerate(rows)
        ]
        finish: FinishReason = "length" if reply["stop_type"] == "limit" else "stop"
        logprobs, runner_ups = tuple(one for one, _ in pairs), tuple(other for _, other in pairs)
        return Generation(tuple(made), logprobs, runner_ups, str(reply["content"]), finish, latency_ms)
    except UNREADABLE_REPLY as error:
        raise EngineError(f"an answer without tokens or log-probabilities ({error!r})") from None


def _pair(row: Mapping[str, Any]) -> tuple[float, float | None]:
    """Return the log-probabilities of a row's token and of its runner-up."""
    by_id = {one["id"]: float(one["logprob"]) for one in row["top_logprobs"]}
    chosen = by_id.pop(row["id"])  # the likeliest token, which is always listed
    return chosen, max(by_id.values(), default=None)


def _hidden_pair(http: Http, body: dict[str, Any], before: Sequence[int], id_: int) -> tuple[float, float | None]:
    """Return the log-probabilities of a token that is only part of a character, and of its runner-up.

    The likeliest tokens of any place are listed beside the token generated there, so another token is forced in this
    place. They are raw: no bias counts.
    """
    forced = tokens_of(http.post("/tokenize", {"content": "a"}))[0]
    asked = {**body, "prompt": [*body["prompt"], *before], "n_predict": 1, "logit_bias": [[forced, 1000.0]]}
    listed = http.post("/completion", asked)["completion_probabilities"][0]["top_logprobs"]
    return _pair({"id": id_, "top_logprobs": listed})


async def answer(wire: Wire, asked: Asked) -> Answer:
    """Yield the tokens of an answer, and a `Finish` at the end."""
    ids, sampling, top_logprobs = asked.ids, asked.sampling, asked.top_logprobs
    body: dict[str, Any] = {
        "prompt": ids,
        "n_predict": asked.max_tokens,
        "n_probs": max(2, top_logprobs),  # the log-probabilities before any sampler and grammar
        "cache_prompt": True,
        "return_tokens": True,
        "stream": not asked.at_once,
        "samplers": _SAMPLERS,
        "temperature": sampling.temperature,
        "top_k": sampling.top_k if sampling.temperature else 1,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        **_penalties(asked),
        **({} if sampling.seed is None else {"seed": sampling.seed % _SEEDS}),
        **({} if asked.grammar is None else {"grammar": asked.grammar.gbnf}),
    }
    if asked.at_once:
        reply = await wire.post("/completion", body)
        made: list[int] = reply["tokens"]
        for place, row in enumerate(_rows_of(made, reply["completion_probabilities"])):
            if row is None:
                row = await _row_of(wire, made[place], [*ids, *made[:place]], top_logprobs)
            yield _listed(wire, row, made[place - 1] if place else ids[-1], top_logprobs)
        yield _ended(wire, reply, made)
        return
    made = []
    async with aclosing(wire.events("/completion", body)) as events:
        async for event in events:
            if event["stop"]:
                # Tokens of a character that the limit cuts are not among those sent.
                yield _ended(wire, event, made)
                continue  # to the end of the stream, so that the connection can be used again
            for id_ in event["tokens"]:
                if hidden := event["tokens_predicted"] - len(made) - 1:
                    before = [*ids, *made]
                    async for generated in _hidden(wire, before, hidden, event["content"], id_, top_logprobs):
                        made.append(generated.token.id)
                        yield generated
                (row,) = event["completion_probabilities"]
                last = (made or ids)[-1]
                made.append(id_)
                yield _listed(wire, row, last, top_logprobs)


def _penalties(asked: Asked) -> dict[str, Any]:
    """Return the settings with which the penalties count the answer only.

    llama.cpp counts the last 64 tokens, and the prompt is among them. Here it counts all tokens, and a bias takes back
    what it takes for those of the prompt. So the frequency penalty is exact. A token of the prompt gets no presence
    penalty.
    """
    sampling = asked.sampling
    biases: defaultdict[int, float] = defaultdict(float)
    for id_, bias in sampling.logit_bias:
        biases[id_] += bias
    if not sampling.presence_penalty and not sampling.frequency_penalty:
        return {"logit_bias": list(map(list, biases.items()))}
    for id_, count in Counter(asked.ids).items():
        biases[id_] += sampling.presence_penalty + sampling.frequency_penalty * count
    return {
        "logit_bias": list(map(list, biases.items())),
        "repeat_last_n": len(asked.ids) + asked.max_tokens,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
    }


def _ended(wire: Wire, event: Mapping[str, Any], made: Sequence[int]) -> Finish:
    reason: FinishReason = "length" if event["stop_type"] == "limit" else "stop"
    return wire.finish(reason, made, event["timings"].get("cache_n"))


def _listed(wire: Wire, row: Mapping[str, Any], before: int, top_logprobs: int) -> Generated:
    listed = [(one["id"], one["logprob"]) for one in row["top_logprobs"]]
    return wire.generated(row["id"], row["logprob"], listed, before, top_logprobs)


async def _row_of(wire: Wire, id_: int, before: list[int], top_logprobs: int) -> dict[str, Any]:
    """Return the log-probabilities at the place of a token that is only a part of a character."""
    row = await _likeliest(wire, before, top_logprobs)
    known = {one["id"]: one["logprob"] for one in row["top_logprobs"]}
    return {"id": id_, "logprob": known.get(id_, min(known.values())), "top_logprobs": row["top_logprobs"]}


async def _hidden(
    wire: Wire, before: list[int], count: int, text: str, last: int, top_logprobs: int
) -> AsyncGenerator[Generated, None]:
    """Yield the tokens before `last` that llama.cpp does not stream, because they are only parts of a character.

    It sends their text with that of the last one, and counts them. So we ask for the likeliest tokens in their places,
    and take those that spell the text.
    """
    ending = wire.bytes.of([last], before[-1])[0]
    # Bytes that are no characters come as U+FFFD. Then the likeliest parts of characters are taken.
    rest = None if "\ufffd" in text else text.encode().removesuffix(ending)
    for left in reversed(range(count)):
        row = await _likeliest(wire, before, top_logprobs)
        listed = [(one["id"], float(one["logprob"])) for one in row["top_logprobs"]]
        known = dict(listed)
        likeliest = [*known, *wire.parts_of_characters]
        pieces = zip(likeliest, wire.bytes.of(likeliest), strict=True)
        fitting = (id_ for id_, piece in pieces if _fits(piece, rest, left))
        id_ = next(fitting, None)
        if id_ is None:
            raise wire.error(f"sent the text {text!r}, which no {count + 1} tokens spell")
        piece = wire.bytes.of([id_], before[-1])[0]
        yield wire.generated(id_, known.get(id_, min(known.values())), listed, before[-1], top_logprobs)
        before = [*before, id_]
        rest = None if rest is None else rest.removeprefix(piece)


async def _likeliest(wire: Wire, ids: Sequence[int], top_logprobs: int) -> Any:
    """Return llama.cpp's row of the likeliest tokens after these ids. Another token is forced there, because it sends
    no row for a token that is only a part of a character."""
    body = {
        "prompt": ids,
        "n_predict": 1,
        "n_probs": max(_LISTED, top_logprobs),
        "temperature": 0.0,
        "top_k": 1,
        "cache_prompt": True,
        "logit_bias": [[wire.renderer.encode("a")[0], 1000.0]],
    }
    return (await wire.post("/completion", body))["completion_probabilities"][0]


def _fits(piece: bytes, rest: bytes | None, left: int) -> bool:
    """Whether a token may be the next one of `rest`, if this many tokens spell what is then left of it."""
    if rest is None:
        return is_part(piece)
    return piece == rest if left == 0 else bool(piece) and rest.startswith(piece) and len(rest) - len(piece) >= left


def _rows_of(made: Sequence[int], rows: Sequence[dict[str, Any]]) -> list[dict[str, Any] | None]:
    """Return the row of each token; None for a token without one. Only the last token of a character has a row."""
    left = list(rows)
    found: list[dict[str, Any] | None] = []
    for id_ in reversed(made):
        found.append(left.pop() if left and left[-1]["id"] == id_ else None)
    return found[::-1]
