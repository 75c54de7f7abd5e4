"""What toolhone asks of a running engine over HTTP: its prompt ids, greedy answers from ids, and parsed chat answers.

In: the address of llama.cpp's llama-server, vLLM, SGLang, or any other server with OpenAI's API. The kind is found by
asking. Out: a client with the same methods for each kind. A method returns None if this kind of server cannot do what
it is for. An engine that takes token ids is one module and one line in `APIS`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from toolhone.endpoint import UNREADABLE_REPLY
from toolhone.engines import llama_cpp_api, sglang_api, vllm_api
from toolhone.engines.facts import Cards, EngineFacts, EngineKind, Generation
from toolhone.engines.http import EngineError, Http
from toolhone.engines.wire import Answer, Asked, Wire
from toolhone.errors import UserError
from toolhone.formats.chat_format import RawCall

Messages = Sequence[Mapping[str, Any]]


class EngineApi(Protocol):
    """A module that speaks the HTTP of one engine."""

    def detect(self, http: Http, cards: Cards, model: str | None) -> EngineFacts | None:
        """Return the facts of the engine if it is this one. `model` is the name to ask for; None: the engine's last."""

    def prompt_ids(self, http: Http, facts: EngineFacts, chat: Mapping[str, Any]) -> list[int] | None:
        """Return the ids that the engine makes from messages and tools; None if it cannot say."""

    def complete(
        self, http: Http, facts: EngineFacts, ids: Sequence[int], max_tokens: int, *, base: bool
    ) -> Generation:
        """Return the greedy answer to token ids, of the base model with `base`."""

    def answer(self, wire: Wire, asked: Asked) -> Answer:
        """Yield the tokens of an answer, and a `Finish` at the end."""


APIS: dict[EngineKind, EngineApi] = {"llama.cpp": llama_cpp_api, "sglang": sglang_api, "vllm": vllm_api}
"""The engines that take token ids, in the order in which they are detected. SGLang also has vLLM's `/version`."""


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
class EngineClient:
    """A running engine. `facts` says which kind it is."""

    http: Http
    facts: EngineFacts

    @property
    def kind(self) -> EngineKind:
        return self.facts.kind

    def prompt_ids(self, messages: Messages, tools: Messages) -> list[int] | None:
        """Return the token ids that the engine makes from messages with its own template; None if it cannot say.

        Raises:
            EngineError: if the engine refuses the messages.
        """
        chat: dict[str, Any] = {"messages": messages, **({"tools": tools} if tools else {})}
        api = APIS.get(self.kind)
        return None if api is None else api.prompt_ids(self.http, self.facts, chat)

    def complete(self, ids: Sequence[int], max_tokens: int, *, base: bool = False) -> Generation | None:
        """Return the greedy answer to token ids; None if the engine takes or returns none.

        Generation ends where the engine itself stops: no stop token is sent. `base` asks the base model, without the
        adapter, of an engine that has both.

        Raises:
            EngineError: if the engine refuses the request.
        """
        api = APIS.get(self.kind)
        return None if api is None else api.complete(self.http, self.facts, ids, max_tokens, base=base)

    def chat(self, messages: Messages, tools: Messages, max_tokens: int, *, raw: bool) -> ChatAnswer:
        """Return the engine's greedy chat answer, with calls as its own parser reads them. `raw` asks for the text
        before parsing too, which takes llama.cpp twice as long.

        Raises:
            EngineError: if the engine refuses the request, or its answer is not a chat completion.
        """
        body: dict[str, Any] = {
            "model": self.facts.model,
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
    cards = {str(one["id"]): one for one in listed["data"]} if _has_models(listed) else {}
    if not cards:
        raise UserError(f"{flag} {base_url}: `/v1/models` lists no model; check that an engine with OpenAI's API runs")
    if model is not None and model not in cards:
        raise UserError(f"{flag} {base_url}: serves {', '.join(cards)}, and not {model}; name one of these models")
    for api in APIS.values():
        if (facts := api.detect(http, cards, model)) is not None:
            return EngineClient(http, facts)
    return EngineClient(http, EngineFacts("openai", model=model or list(cards)[-1]))


def _has_models(listed: Any) -> bool:
    return isinstance(listed, dict) and isinstance(listed.get("data"), list) and bool(listed["data"])


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
