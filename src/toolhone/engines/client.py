"""What toolhone asks of a running engine over HTTP: its prompt ids, greedy answers from ids, and parsed chat answers.

In: the address of llama.cpp's llama-server, vLLM, or any other server with OpenAI's API. The kind is found by asking:
llama.cpp has `/props`, vLLM has `/version`. Out: a client with the same methods for each kind. A method returns None if
this kind of server cannot do what it is for.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from toolhone.endpoint import UNREADABLE_REPLY
from toolhone.engines.http import EngineError, Http
from toolhone.errors import UserError
from toolhone.formats.chat_format import RawCall
from toolhone.records import FinishReason

EngineKind = Literal["llama.cpp", "vllm", "openai"]
Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Generation:
    """A greedy answer to token ids. `ids` may or may not end with the stop token, by engine. `logprobs` are natural
    logarithms of raw probabilities, and `runner_ups` those of the second likeliest tokens. `text` is the engine's own
    text of the answer."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    runner_ups: tuple[float | None, ...]
    text: str
    finish_reason: FinishReason
    latency_ms: float


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """An answer of the chat endpoint, with the calls that the engine's own parser read. `raw_text` is the model's text
    before parsing, from the log-probabilities' bytes; None if the engine gives none. The numbers of tokens are None if
    the engine reports no usage."""

    content: str
    calls: tuple[RawCall, ...]
    finish_reason: str
    raw_text: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    latency_ms: float


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What an engine says about itself. None: it does not say. `weights` is the number type of the served weights, such
    as "q8_0"; `model_path` the file of llama.cpp's model; `adapters` the names or files of the adapters; `context`
    limits prompt and answer together, in tokens."""

    kind: EngineKind
    version: str | None = None
    model: str = ""
    weights: str | None = None
    template: str | None = None
    model_path: str | None = None
    adapters: tuple[str, ...] = ()
    serves_base: bool = False
    context: int | None = None


@dataclass(frozen=True, slots=True)
class EngineClient:
    """A running engine. `facts` says which kind it is; `model` is the name that requests ask for, and `base_model` the
    one that reaches the base model without the adapter, if the engine serves it under a name."""

    http: Http
    facts: EngineFacts
    model: str
    base_model: str | None = None

    @property
    def kind(self) -> EngineKind:
        return self.facts.kind

    def prompt_ids(self, messages: Messages, tools: Messages) -> list[int] | None:
        """Return the token ids that the engine makes from messages with its own template; None if it cannot say.

        Raises:
            EngineError: if the engine refuses the messages.
        """
        chat: dict[str, Any] = {"messages": messages, **({"tools": tools} if tools else {})}
        if self.kind == "llama.cpp":
            text = self.http.post("/apply-template", chat).get("prompt")
            # As the chat endpoint does. The template's text lacks only the first special token of some models.
            asked = {"content": text, "add_special": True, "parse_special": True}
            return _tokens(self.http.post("/tokenize", asked))
        if self.kind == "vllm":
            asked = {"model": self.model, **chat, "add_generation_prompt": True, "add_special_tokens": False}
            return _tokens(self.http.post("/tokenize", asked))
        return None

    def complete(self, ids: Sequence[int], max_tokens: int, *, base: bool = False) -> Generation | None:
        """Return the greedy answer to token ids; None if the engine takes or returns none.

        Generation ends where the engine itself stops: no stop token is sent. `base` asks the base model, without the
        adapter, of an engine that has both.

        Raises:
            EngineError: if the engine refuses the request.
        """
        if self.kind == "llama.cpp":
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
                body["lora"] = [{"id": number, "scale": 0.0} for number in range(len(self.facts.adapters))]
            return self._llama_cpp_generation(body)
        if self.kind == "vllm":
            body = {
                "model": self.base_model if base else self.model,
                "prompt": list(ids),
                "max_tokens": max_tokens,
                "temperature": 0.0,
                "logprobs": 2,
                "return_token_ids": True,
            }
            started = time.perf_counter()
            return _vllm_generation(self.http.post("/v1/completions", body), started)
        return None

    def _llama_cpp_generation(self, body: dict[str, Any]) -> Generation:
        started = time.perf_counter()
        reply = self.http.post("/completion", body)
        latency_ms = (time.perf_counter() - started) * 1000
        try:
            ids = [int(id_) for id_ in reply["tokens"]]
            rows = reply.get("completion_probabilities", [])
            known = dict(zip(_places(ids, rows), map(_chosen_and_runner_up, rows), strict=True))
            for place in (place for place in range(len(ids)) if place not in known):
                known[place] = self._hidden_logprobs(body, ids[:place], ids[place])
            finish: FinishReason = "length" if reply["stop_type"] == "limit" else "stop"
            pairs = [known[place] for place in range(len(ids))]
            logprobs, runner_ups = tuple(one for one, _ in pairs), tuple(other for _, other in pairs)
            return Generation(tuple(ids), logprobs, runner_ups, str(reply["content"]), finish, latency_ms)
        except UNREADABLE_REPLY as error:
            raise EngineError(f"an answer without tokens or log-probabilities ({error!r})") from None

    def _hidden_logprobs(self, body: dict[str, Any], before: Sequence[int], id_: int) -> tuple[float, float | None]:
        """Return the log-probabilities of a token and of its runner-up, if the token is only part of a character.

        llama.cpp lists a character of several tokens once, with the last of them. The likeliest tokens of any place are
        listed beside the token generated there, so another token is forced in this place. They are raw: no bias counts.
        """
        forced = _tokens(self.http.post("/tokenize", {"content": "a"}))[0]
        asked = {**body, "prompt": [*body["prompt"], *before], "n_predict": 1, "logit_bias": [[forced, 1000.0]]}
        listed = self.http.post("/completion", asked)["completion_probabilities"][0]["top_logprobs"]
        return _chosen_and_runner_up({"id": id_, "top_logprobs": listed})

    def chat(self, messages: Messages, tools: Messages, max_tokens: int, *, raw: bool) -> ChatAnswer:
        """Return the engine's greedy chat answer, with calls as its own parser reads them. `raw` asks for the text
        before parsing too, which takes llama.cpp twice as long.

        Raises:
            EngineError: if the engine refuses the request, or its answer is not a chat completion.
        """
        body: dict[str, Any] = {
            "model": self.model,
            "messages": messages,
            "max_tokens": max_tokens,
            "temperature": 0.0,
            **({"tools": tools} if tools else {}),
            **({"logprobs": True} if raw else {}),
        }
        started = time.perf_counter()
        return _chat_answer(self.http.post("/v1/chat/completions", body), started)


@contextmanager
def connect(
    base_url: str, model: str | None = None, flag: str = "--endpoint", key: str | None = None
) -> Iterator[EngineClient]:
    """Yield a client of the engine at this address. `model` is the name to ask for, by default the engine's last one,
    which is the adapter where the base model is served too. `key` is sent instead of OPENAI_API_KEY.

    Raises:
        UserError: if nothing answers there, or the engine has no such model.
    """
    http = Http(base_url, flag, key)
    try:
        yield _detect(http, base_url, model, flag)
    finally:
        http.close()


def _detect(http: Http, base_url: str, model: str | None, flag: str) -> EngineClient:
    listed = http.get("/v1/models")
    names = [str(one["id"]) for one in listed["data"]] if _has_models(listed) else []
    if not names:
        raise UserError(f"{flag} {base_url}: `/v1/models` lists no model; check that an engine with OpenAI's API runs")
    if model is not None and model not in names:
        raise UserError(f"{flag} {base_url}: serves {', '.join(names)}, and not {model}; name one of these models")
    props = http.get("/props")
    if isinstance(props, dict) and "chat_template" in props:
        adapters = tuple(str(one.get("path", one.get("id"))) for one in http.get("/lora-adapters") or ())
        facts = EngineFacts(
            "llama.cpp",
            version=_text(props.get("build_info")),
            model=model or names[0],
            weights=weights_name(_text(props.get("model_ftype"))),
            template=props["chat_template"],
            model_path=_text(props.get("model_path")),
            adapters=adapters,
            serves_base=bool(adapters),
            context=(props.get("default_generation_settings") or {}).get("n_ctx"),
        )
        return EngineClient(http, facts, facts.model)
    version = http.get("/version")
    chosen = model or names[-1]
    if isinstance(version, dict) and "version" in version and _owner(listed) != "sglang":
        parents = {str(one["id"]): one.get("parent") for one in listed["data"]}
        base = parents[chosen] if parents[chosen] in parents else None
        adapters = (chosen,) if base is not None else ()
        facts = EngineFacts(
            "vllm",
            str(version["version"]),
            model=chosen,
            adapters=adapters,
            serves_base=base is not None,
            context=next(one.get("max_model_len") for one in listed["data"] if str(one["id"]) == chosen),
        )
        return EngineClient(http, facts, chosen, base)
    return EngineClient(http, EngineFacts("openai", model=chosen), chosen)


def weights_name(ftype: str | None) -> str | None:
    """Return the short name of llama.cpp's name for the number type of a model: "q8_0" for "Q8_0", "f32" for "all
    F32". None if it is unknown."""
    if ftype is None:
        return None
    return ftype.removeprefix("(guessed) ").removeprefix("all ").split(" ")[0].lower()


def _has_models(listed: Any) -> bool:
    return isinstance(listed, dict) and isinstance(listed.get("data"), list) and bool(listed["data"])


def _owner(listed: Any) -> str:
    return str(listed["data"][0].get("owned_by"))


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _tokens(reply: Mapping[str, Any]) -> list[int]:
    try:
        return [int(id_) for id_ in reply["tokens"]]
    except UNREADABLE_REPLY as error:
        raise EngineError(f"`/tokenize` answered without tokens ({error!r})") from None


def _places(ids: Sequence[int], rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return the place among the ids of each row of llama.cpp's `completion_probabilities`."""
    places, start = [], 0
    for row in rows:
        start = list(ids).index(row["id"], start) + 1
        places.append(start - 1)
    return places


def _chosen_and_runner_up(row: Mapping[str, Any]) -> tuple[float, float | None]:
    by_id = {one["id"]: float(one["logprob"]) for one in row["top_logprobs"]}
    chosen = by_id.pop(row["id"])  # the likeliest token, which is always listed
    return chosen, max(by_id.values(), default=None)


def _vllm_generation(reply: Mapping[str, Any], started: float) -> Generation:
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


def _chat_answer(reply: Mapping[str, Any], started: float) -> ChatAnswer:
    latency_ms = (time.perf_counter() - started) * 1000
    try:
        choice = reply["choices"][0]
        message = choice["message"]
        calls = tuple(
            RawCall(str(call["function"]["name"]), str(call["function"]["arguments"]))
            for call in message.get("tool_calls") or ()
        )
        rows = (choice.get("logprobs") or {}).get("content") or ()
        raw = b"".join(bytes(row["bytes"]) for row in rows if row.get("bytes") is not None)
        usage = reply.get("usage") or {}
        return ChatAnswer(
            content=message.get("content") or "",
            calls=calls,
            finish_reason=str(choice.get("finish_reason")),
            raw_text=raw.decode(errors="replace") if rows else None,
            prompt_tokens=usage.get("prompt_tokens"),
            completion_tokens=usage.get("completion_tokens"),
            latency_ms=latency_ms,
        )
    except UNREADABLE_REPLY as error:
        raise EngineError(f"an answer that is not a chat completion ({error!r})") from None
