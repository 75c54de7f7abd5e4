"""The server's routes, as OpenAI's client expects them: `/v1/chat/completions`, `/v1/models` and `/health`.

The model answers one request at a time, in its own thread. The event loop stays free for `/health`, for requests in the
queue, and for requests that wait for the large model.
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
from toolhone.data.importers.thinking import split_thought
from toolhone.errors import UserError
from toolhone.evaluate.predict import PrefixCache, answer_one
from toolhone.formats.pieces import THINK
from toolhone.jsonl import json_line
from toolhone.records import Example, Prediction, Token
from toolhone.route.cascade import Cascade, Routed, answer
from toolhone.serve.request import ApiError, ChatRequest, no_such_model, read_request

MAX_QUEUED = 64
"""Maximum number of requests in the queue, the one being answered included; further ones are refused."""

MAX_BODY_BYTES = 8 * 2**20

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Names by which only this machine can reach itself."""

_ROUTES = "this server has POST /v1/chat/completions, GET /v1/models and GET /health"


class ClientGone(Exception):  # noqa: N818  # a state of the connection, not an error
    """The client closed its connection while its request was in the queue."""


@dataclass(frozen=True, slots=True)
class Engine:
    """A loaded model; only one thread at a time may use it. `name` is the run's. `max_new_tokens` limits the answer,
    and `context` limits prompt and answer together, in tokens."""

    name: str
    model: Any
    renderer: ChatRenderer
    prefixes: PrefixCache
    max_new_tokens: int
    context: int

    def answer(self, example: Example, max_tokens: int | None) -> tuple[Prediction, int]:
        """Return the model's answer, and how many prompt tokens came from the cache.

        Raises:
            ApiError: if the chat template refuses the messages, or they exceed the context.
        """
        try:
            _, ids = self.renderer.prompt(example.prompt, example.tools)
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise ApiError(400, f"messages: the chat template refuses them: {error}", param="messages") from None
        if (room := self.context - len(ids)) < 1:
            found = (
                f"messages: the prompt has {len(ids)} tokens, the model's context {self.context}; shorten the messages"
            )
            raise ApiError(400, found, param="messages", code="context_length_exceeded")
        limit = min(max_tokens or self.max_new_tokens, self.max_new_tokens, room)
        prediction = answer_one(self.model, self.renderer, example, limit, label=self.name, prefixes=self.prefixes)
        return prediction, self.prefixes.reused_tokens


class EngineQueue:
    """Passes requests to the engine one at a time, in order of arrival."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._queued = 0

    async def ask(self, request: Request, example: Example, max_tokens: int | None) -> tuple[Prediction, int]:
        """Return the model's answer, and how many prompt tokens came from the cache.

        Raises:
            ApiError: if the queue is full, or the engine refuses the request.
            ClientGone: if the client has disconnected.
        """
        if self._queued >= MAX_QUEUED:
            raise ApiError(503, f"{MAX_QUEUED} requests are already in the queue; try again later", code="overloaded")
        self._queued += 1
        try:
            async with self._lock:
                if await request.is_disconnected():
                    raise ClientGone
                loop = asyncio.get_running_loop()
                return await loop.run_in_executor(self._thread, self._engine.answer, example, max_tokens)
        finally:
            self._queued -= 1

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)


def make_app(engine: Engine, *, cascade: Cascade | None = None, key: str | None = None) -> FastAPI:
    """Return the FastAPI application.

    Args:
        cascade: if given, requests that the small model is unsure of go to the large one.
        key: the API key that clients must send; with None, no key is needed and only local requests are answered.
    """
    queue = EngineQueue(engine)
    created = int(time.time())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        queue.close()
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
            prediction, reused_tokens = await queue.ask(request, example, asked.max_tokens)
            return prediction

        headers = {"x-request-id": asked.example.id}
        if cascade is None:
            small = await ask_small(asked.example)
            return _small(asked, small, reused_tokens, engine, headers)
        routed = await answer(
            cascade,
            asked.example,
            ask_small,
            max_tokens=asked.max_tokens,
            may_call=(asked.tool_choice.mode != "none" and bool(asked.example.tools)),
        )
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
    """Return the response for a cascade's answer; headers say which model gave it."""
    headers |= {"x-toolhone-route": routed.route, "x-toolhone-confidence": f"{routed.confidence:.4f}"}
    if routed.fallback is not None:
        headers["x-toolhone-fallback"] = routed.fallback
    if routed.completion is not None:
        return _completion(asked, routed.completion, headers)
    if routed.route == "none":
        found = f"the small model escalated this request, and the large model did not answer ({routed.fallback})"
        return _json(ApiError(503, found, code="large_model_unavailable").to_json(), headers, 503)
    return _small(asked, routed.small, reused_tokens, engine, headers)


def _small(
    asked: ChatRequest, prediction: Prediction, reused_tokens: int, engine: Engine, headers: dict[str, str]
) -> Response:
    """Return the response for the small model's answer; a header says how its text was parsed. If a call cannot be
    parsed, the client gets the whole answer as text, never some of the calls. Thinking is never in the text; it is in
    `reasoning_content`, as other servers write it."""
    tools, format = asked.example.tools_by_name, engine.renderer.format.name
    turn = parse_turn(prediction.text, format, prediction.finish_reason, tools=tools)
    thinking, said = split_thought(prediction.text)
    message: dict[str, Any] = {"role": "assistant", "content": said, "refusal": None}
    finish: str = prediction.finish_reason
    if turn.status == "none":
        message["content"] = turn.content
        thinking = turn.thinking
    elif turn.status == "calls" and (asked.tool_choice.mode != "none" and bool(asked.example.tools)):
        message["content"] = turn.content or None
        message["tool_calls"] = [{"id": f"call_{uuid.uuid4().hex[:24]}", **call.to_json()} for call in turn.calls]
        finish = "tool_calls"
        thinking = turn.thinking
    elif turn.status == "truncated" and said.lstrip().startswith(THINK):
        thinking, message["content"] = said.lstrip().removeprefix(THINK).strip(), None
    if thinking:
        message["reasoning_content"] = thinking
    # OpenAI does not count the end-of-turn token as part of the answer either.
    shown_tokens = prediction.tokens[:-1] if prediction.finish_reason == "stop" else prediction.tokens
    logprobs = {"content": [_token(token, asked.top_logprobs) for token in shown_tokens], "refusal": None}
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
    # The decision log has the same id.
    row = {"id": asked.example.id, "object": "chat.completion", "created": int(time.time()), **completion}
    return _json(row, headers)


def _token(token: Token, top: int) -> dict[str, Any]:
    row = {"token": token.bytes.decode(errors="replace"), "logprob": token.logprob, "bytes": list(token.bytes)}
    # Decoding is greedy, so the chosen token is the most likely one.
    return {**row, "top_logprobs": [row] if top else []}


def _check_access(request: Request, key: str | None) -> None:
    if key is None:
        # A web page can point its own host name at this machine (DNS rebinding) and so look like a local client.
        if request.url.hostname not in LOOPBACK:
            found = (
                f"the request is for the host {request.url.hostname}, expected one of {', '.join(LOOPBACK)}; "
                "set TOOLHONE_API_KEY on the server to allow other hosts"
            )
            raise ApiError(403, found, code="unknown_host")
        return
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    # Compares bytes, because compare_digest accepts only ASCII strings.
    if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode("latin-1"), key.encode()):
        raise ApiError(401, "Incorrect API key provided; send the server's TOOLHONE_API_KEY", code="invalid_api_key")


async def _body(request: Request) -> bytes:
    # A web page can send text/plain to this machine without a CORS preflight, but not JSON.
    content_type = request.headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() != "application/json":
        found = f"content-type: expected application/json, found {content_type or 'none'}"
        raise ApiError(415, found, code="unsupported_media_type")
    parts = bytearray()
    async for part in request.stream():
        parts += part
        if len(parts) > MAX_BODY_BYTES:
            raise ApiError(413, f"the body: expected at most {MAX_BODY_BYTES} bytes", code="request_too_large")
    return bytes(parts)


def _model(name: str, created: int) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": "toolhone"}


def _json(content: dict[str, Any], headers: dict[str, str] | None = None, status: int = 200) -> Response:
    return Response(json_line(content), status, headers, media_type="application/json")


async def _error(request: Request, error: Exception) -> Response:
    """Return an error response in OpenAI's shape."""
    if isinstance(error, ClientGone | ClientDisconnect):
        return Response(status_code=499)  # the client has gone and does not read it
    if isinstance(error, UserError):  # a tool's schema that is invalid only for an argument of the answer
        error = ApiError(400, str(error), param="tools", code="invalid_tools")
    elif isinstance(error, HTTPException):
        found = f"Invalid URL ({request.method} {request.url.path}): {error.detail}; {_ROUTES}"
        error = ApiError(error.status_code, found, code="unknown_url")
    elif not isinstance(error, ApiError):
        error = ApiError(500, "internal error; the server's output has the traceback")
    return _json(error.to_json(), status=error.status)
