"""The server's routes, as OpenAI's client expects them: `/v1/chat/completions`, `/v1/models` and `/health`.

One model answers one request at a time, in a thread of its own. So the event loop stays free for `/health`, for
requests that wait their turn, and for those that wait for the large model.
"""

from __future__ import annotations

import asyncio
import hmac
import time
import uuid
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import jinja2
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from toolhone.chat.parse import parse_turn
from toolhone.chat.render import ChatRenderer
from toolhone.errors import UserError
from toolhone.evaluate.predict import PrefixCache, answer_one
from toolhone.jsonl import json_line
from toolhone.records import Example, Prediction, Token
from toolhone.route.cascade import Cascade, Routed, answer
from toolhone.serve.request import ApiError, ChatRequest, no_such_model, read_request

MOST_WAITING = 64
"""Maximum number of requests that wait for their turn; further ones are refused."""

MOST_BYTES = 8 * 2**20  # of a request's body

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Names by which only this machine can reach itself."""

_ROUTES = "this server has POST /v1/chat/completions, GET /v1/models and GET /health"


class ClientGone(Exception):  # noqa: N818  # a state of the connection, not an error
    """The client closed its connection while it waited for its turn."""


@dataclass(frozen=True, slots=True)
class Engine:
    """A model that is ready to answer, for one thread at a time. `name` is the run's; `max_new_tokens` limits an
    answer, and `context` prompt and answer together."""

    name: str
    model: Any
    renderer: ChatRenderer
    prefixes: PrefixCache
    max_new_tokens: int
    context: int

    def answer(self, example: Example, max_tokens: int | None) -> tuple[Prediction, int]:
        """Return the model's answer, and how many tokens of its prompt came from the cache.

        Raises:
            ApiError: if the chat template refuses the messages, or they exceed the context.
        """
        try:
            _, ids = self.renderer.prompt(example.prompt, example.tools)
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise ApiError(400, f"messages: the chat template refuses them: {error}", param="messages") from None
        if (room := self.context - len(ids)) < 1:
            found = f"messages: the prompt has {len(ids)} tokens and the model's context is {self.context}"
            raise ApiError(400, found, param="messages", code="context_length_exceeded")
        limit = min(max_tokens or self.max_new_tokens, self.max_new_tokens, room)
        made = answer_one(self.model, self.renderer, example, limit, label=self.name, prefixes=self.prefixes)
        return made, self.prefixes.reused_tokens


class Turn:
    """Lets requests ask the engine one at a time, in their order of arrival."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._waiting = 0

    async def ask(self, request: Request, example: Example, max_tokens: int | None) -> tuple[Prediction, int]:
        """Return the model's answer, and how many tokens of its prompt came from the cache.

        Raises:
            ApiError: if too many wait already, or the engine refuses the request.
            ClientGone: if nobody waits for the answer any more.
        """
        if self._waiting >= MOST_WAITING:
            raise ApiError(503, f"{MOST_WAITING} requests wait already; try again later", code="overloaded")
        self._waiting += 1
        try:
            async with self._lock:
                if await request.is_disconnected():
                    raise ClientGone
                loop = asyncio.get_running_loop()
                return await loop.run_in_executor(self._thread, self._engine.answer, example, max_tokens)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)


def make_app(engine: Engine, *, cascade: Cascade | None = None, key: str | None = None) -> FastAPI:
    """Return the server's application.

    Args:
        cascade: if given, what the small model is not sure of goes to the large one.
        key: the API key that clients have to send; None lets everyone in.
    """
    turn = Turn(engine)
    created = int(time.time())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        turn.close()
        if cascade is not None:
            await cascade.large.close()
            cascade.log.close()

    app = FastAPI(title="toolhone", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        _check_access(request, key)
        asked = read_request(await _body(request), f"chatcmpl-{uuid.uuid4().hex}", engine.name)
        reused_tokens = 0

        async def ask_small(example: Example) -> Prediction:
            nonlocal reused_tokens
            prediction, reused_tokens = await turn.ask(request, example, asked.max_tokens)
            return prediction

        headers = {"x-request-id": asked.example.id}
        if cascade is None:
            small = await ask_small(asked.example)
            return _small(asked, small, reused_tokens, engine, headers)
        routed = await answer(cascade, asked.example, ask_small, max_tokens=asked.max_tokens, may_call=asked.may_call)
        return _routed(asked, routed, reused_tokens, engine, headers)

    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        _check_access(request, key)
        return _json({"object": "list", "data": [_model(engine.name, created)]})

    @app.get("/v1/models/{name}")
    async def model(request: Request, name: str) -> Response:
        _check_access(request, key)
        if name != engine.name:
            raise no_such_model(name, engine.name)
        return _json(_model(engine.name, created))

    @app.get("/health")
    async def health() -> Response:
        return _json({"status": "ok", "model": engine.name})

    for kind in (ApiError, UserError, HTTPException, ClientGone, ClientDisconnect, Exception):
        app.add_exception_handler(kind, _error)
    return app


def _routed(
    asked: ChatRequest, routed: Routed, reused_tokens: int, engine: Engine, headers: dict[str, str]
) -> Response:
    """Answer with what a cascade gives; headers say whose answer it is."""
    headers |= {"x-toolhone-route": routed.route, "x-toolhone-confidence": f"{routed.confidence:.4f}"}
    if routed.fallback is not None:
        headers["x-toolhone-fallback"] = routed.fallback
    if routed.completion is not None:
        return _completion(asked, routed.completion, headers)
    if routed.route == "none":
        found = f"the small model escalates this request, and the large one gives no answer ({routed.fallback})"
        return _json(ApiError(503, found, code="large_model_unavailable").to_json(), headers, 503)
    return _small(asked, routed.small, reused_tokens, engine, headers)


def _small(
    asked: ChatRequest, prediction: Prediction, reused_tokens: int, engine: Engine, headers: dict[str, str]
) -> Response:
    """Answer with the small model's text; a header says how it was read. Calls that could not be read, or only in part,
    are given as the text that the model wrote: half of the calls is never given."""
    tools, format = asked.example.tool_names, engine.renderer.format.name
    turn = parse_turn(prediction.text, format, prediction.finish_reason, tools=tools)
    message: dict[str, Any] = {"role": "assistant", "content": prediction.text, "refusal": None}
    finish: str = prediction.finish_reason
    if turn.status == "none":
        message["content"] = turn.content
    elif turn.status == "calls" and asked.may_call:
        message["content"] = turn.content or None
        message["tool_calls"] = [{"id": f"call_{uuid.uuid4().hex[:24]}", **call.to_json()} for call in turn.calls]
        finish = "tool_calls"
    # As with OpenAI, the end-of-turn token is not part of the answer.
    said = prediction.tokens[:-1] if prediction.finish_reason == "stop" else prediction.tokens
    logprobs = {"content": [_token(token, asked.top_logprobs) for token in said], "refusal": None}
    usage = {
        "prompt_tokens": prediction.prompt_tokens,
        "completion_tokens": prediction.completion_tokens,
        "total_tokens": prediction.prompt_tokens + prediction.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": reused_tokens},
    }
    logged = logprobs if asked.logprobs else None
    choice = {"index": 0, "message": message, "logprobs": logged, "finish_reason": finish}
    completion = {"model": prediction.model, "choices": [choice], "usage": usage}
    return _completion(asked, completion, headers | {"x-toolhone-status": turn.status})


def _completion(asked: ChatRequest, completion: dict[str, Any], headers: dict[str, str]) -> Response:
    # Under the id that the decision has in the log.
    row = {"id": asked.example.id, "object": "chat.completion", "created": int(time.time()), **completion}
    return _json(row, headers)


def _token(token: Token, top: int) -> dict[str, Any]:
    row = {"token": token.bytes.decode(errors="replace"), "logprob": token.logprob, "bytes": list(token.bytes)}
    # The answer is greedy, so the likeliest token is the one that was chosen.
    return {**row, "top_logprobs": [row] if top else []}


def _check_access(request: Request, key: str | None) -> None:
    if key is None:
        # A web page may point its own host name at this machine (DNS rebinding), and would then be let in as local.
        if request.url.hostname not in LOOPBACK:
            found = f"the host {request.url.hostname} is not this machine; a server for others needs TOOLHONE_API_KEY"
            raise ApiError(403, found, code="unknown_host")
        return
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    # Compared as the bytes that were sent, since compare_digest takes only ASCII texts.
    if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode("latin-1"), key.encode()):
        raise ApiError(401, "Incorrect API key provided; send the server's TOOLHONE_API_KEY", code="invalid_api_key")


async def _body(request: Request) -> bytes:
    # A web page may send text/plain to this machine without a CORS preflight, but not JSON.
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ApiError(415, "the body: expected the content type application/json", code="unsupported_media_type")
    parts = bytearray()
    async for part in request.stream():
        parts += part
        if len(parts) > MOST_BYTES:
            raise ApiError(413, f"the body: expected at most {MOST_BYTES} bytes", code="request_too_large")
    return bytes(parts)


def _model(name: str, created: int) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": "toolhone"}


def _json(content: dict[str, Any], headers: dict[str, str] | None = None, status: int = 200) -> Response:
    return Response(json_line(content), status, headers, media_type="application/json")


async def _error(request: Request, error: Exception) -> Response:
    """Answer an error in OpenAI's shape."""
    if isinstance(error, ClientGone | ClientDisconnect):
        return Response(status_code=499)  # nobody reads it
    if isinstance(error, UserError):  # a tool's schema that fails only on an argument of the answer
        error = ApiError(400, str(error), param="tools", code="invalid_tools")
    elif isinstance(error, HTTPException):
        found = f"Invalid URL ({request.method} {request.url.path}): {error.detail}; {_ROUTES}"
        error = ApiError(error.status_code, found, code="unknown_url")
    elif not isinstance(error, ApiError):
        error = ApiError(500, "the server failed; its own output says why")
    return _json(error.to_json(), status=error.status)
