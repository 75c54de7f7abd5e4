"""The gateway's routes: OpenAI's chat completions, responses and models, and what its operator and a browser need.

In: HTTP requests. Out: the answer of the small model, or in a cascade that of the large one. The engine batches, so
requests run side by side. When a client closes its connection, its generation ends.
"""

from __future__ import annotations

import asyncio
import functools
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect

from toolhone.engines.generate import EngineUnavailableError
from toolhone.errors import UserError
from toolhone.jsonl import json_line
from toolhone.serve import openapi
from toolhone.serve.access import ClientGone, check_access, read_body, unless_gone
from toolhone.serve.completion import Answerer
from toolhone.serve.metrics import AsgiApp, Metrics
from toolhone.serve.playground import playground_routes
from toolhone.serve.request import ApiError, ChatRequest, no_such_model, read_request
from toolhone.serve.response_events import response_events
from toolhone.serve.responses import read_responses_request, to_response
from toolhone.serve.start import ChatStart
from toolhone.serve.stream import ChunkWriter, Event, sse_chunks

Check = Callable[[Request], None]
"""Raises `ApiError` if a request may not be answered."""

MAX_IN_FLIGHT = 512
"""Maximum number of requests that are answered at a time; further ones get status 503."""

_LONG_BODY = 64 * 1024
"""Reading a longer body, in bytes, takes long enough to hold up other requests, so a thread does it."""
_RETRY_AFTER_S = "1"
_PATHS = frozenset(
    {"/v1/chat/completions", "/v1/responses", "/v1/models", "/health", "/ready", "/metrics", "/playground"}
    | {"/openapi.json"}
)
_ROUTES = (
    "this server has POST /v1/chat/completions and /v1/responses, and GET /v1/models, /playground, /health, /ready, "
    "/metrics and /openapi.json"
)
_EXPOSED = (
    *("x-request-id", "x-toolhone-route", "x-toolhone-confidence", "x-toolhone-fallback", "x-toolhone-status"),
    *("x-toolhone-ignored", "x-toolhone-repaired", "retry-after"),
)


@dataclass(slots=True)
class Gateway:
    """Everything behind the routes.

    Attributes:
        models: what answers, by the name in requests; the first is the run's tuned model.
        metrics: the counters of all models.
        key: the API key that clients must send; with None, no key is needed and only local requests are answered.
        strict: whether unknown keys are refused.
        allowed_origins: web pages that may ask.
        start: what the playground shows at first.
        closes_engines: whether the connections to the engines end with the application.
    """

    models: Mapping[str, Answerer]
    metrics: Metrics = field(default_factory=Metrics)
    key: str | None = None
    strict: bool = False
    allowed_origins: tuple[str, ...] = ()
    start: ChatStart = field(default_factory=lambda: ChatStart("", (), ()))
    closes_engines: bool = False
    in_flight: int = 0

    async def close(self) -> None:
        """Close the connections to large models, their logs and, if asked to, the connections to engines."""
        for answerer in self.models.values():
            if self.closes_engines:
                await answerer.small.generator.close()
            if answerer.cascade is not None:
                await answerer.cascade.large.close()
                answerer.cascade.log.close()


@dataclass(frozen=True, slots=True)
class Stream:
    """A streamed answer: its events, its headers and the name of the model. `end` must be called after the events."""

    events: AsyncGenerator[Event, None]
    headers: dict[str, str]
    model: str
    end: Callable[[], Awaitable[None]]


def make_app(gateway: Gateway) -> AsgiApp:
    """Return the application. Its OpenAPI document is at /openapi.json."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await gateway.close()

    def check(request: Request) -> None:
        check_access(request, gateway.key)

    app = FastAPI(title="toolhone", docs_url=None, redoc_url=None, lifespan=lifespan)
    app.include_router(_answers(gateway, check))
    app.include_router(_models(gateway, check))
    app.include_router(_operation(gateway, check))
    app.include_router(playground_routes(gateway.start, check))
    for kind in (ApiError, UserError, EngineUnavailableError, HTTPException, ClientGone, ClientDisconnect, Exception):
        app.add_exception_handler(kind, _error)
    if gateway.allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=gateway.allowed_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=_EXPOSED,
        )
    return gateway.metrics.watch(app, _PATHS)


def _answers(gateway: Gateway, check: Check) -> APIRouter:
    """Return the routes that answer requests."""
    routes = APIRouter()

    @routes.post("/v1/chat/completions", **openapi.CHAT)
    async def chat_completions(request: Request) -> Response:
        check(request)
        id_ = f"chatcmpl-{uuid.uuid4().hex}"
        asked = await _read(gateway, await read_body(request), id_)
        if not asked.stream:
            completion, headers = await _complete(gateway, request, asked)
            # The decision log has the same id.
            row = {"id": id_, "object": "chat.completion", "created": int(time.time()), **completion}
            return _json(row, headers)
        stream = await _stream(gateway, request, asked)
        writer = ChunkWriter(
            id_,
            stream.model,
            include_usage=asked.include_usage,
            logprobs=asked.logprobs,
            legacy_functions=asked.legacy_functions,
        )
        return _EventResponse(stream, sse_chunks(stream.events, writer))

    @routes.post("/v1/responses", **openapi.RESPONSES)
    async def responses(request: Request) -> Response:
        check(request)
        sent = read_responses_request(await read_body(request), f"resp_{uuid.uuid4().hex}")
        asked = await _read(gateway, sent.chat_body, sent.id)
        if not asked.stream:
            completion, headers = await _complete(gateway, request, asked)
            return _json(to_response(sent, {"created": int(time.time()), **completion}), headers)
        stream = await _stream(gateway, request, asked)
        return _EventResponse(stream, response_events(stream.events, sent, stream.model))

    return routes


def _models(gateway: Gateway, check: Check) -> APIRouter:
    """Return the routes that list the models."""
    routes, created = APIRouter(), int(time.time())

    def row(name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": created, "owned_by": "toolhone"}

    @routes.get("/v1/models", **openapi.MODELS)
    async def models(request: Request) -> Response:
        check(request)
        return _json({"object": "list", "data": [row(name) for name in gateway.models]})

    @routes.get("/v1/models/{name}", **openapi.MODEL)
    async def model(request: Request, name: str) -> Response:
        check(request)
        if name not in gateway.models:
            raise no_such_model(name, tuple(gateway.models))
        return _json(row(name))

    return routes


def _operation(gateway: Gateway, check: Check) -> APIRouter:
    """Return the routes for whoever runs the gateway."""
    routes = APIRouter()

    @routes.get("/health", **openapi.HEALTH)
    async def health() -> Response:
        return _json({"status": "ok", "model": next(iter(gateway.models))})

    @routes.get("/ready", **openapi.READY)
    async def ready() -> Response:
        for name, answerer in gateway.models.items():
            if not await answerer.small.generator.is_ready():
                raise ApiError(503, f"the engine of {name} does not answer", code="engine_unavailable")
        return _json({"status": "ready"})

    @routes.get("/metrics", **openapi.METRICS)
    async def metrics(request: Request) -> Response:
        check(request)
        return Response(gateway.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return routes


async def _read(gateway: Gateway, body: bytes, id_: str) -> ChatRequest:
    if gateway.in_flight >= MAX_IN_FLIGHT:
        raise ApiError(503, f"{MAX_IN_FLIGHT} requests are being answered; try again later", code="overloaded")
    read = functools.partial(read_request, body, id_, tuple(gateway.models), strict=gateway.strict)
    return await asyncio.to_thread(read) if len(body) > _LONG_BODY else read()


async def _complete(gateway: Gateway, request: Request, asked: ChatRequest) -> tuple[dict[str, Any], dict[str, str]]:
    gateway.in_flight += 1
    try:
        completion, headers = await unless_gone(request, gateway.models[asked.model].complete(asked))
    finally:
        gateway.in_flight -= 1
    return completion, _headers(asked) | headers


async def _stream(gateway: Gateway, request: Request, asked: ChatRequest) -> Stream:
    """Return the events of an answer. The first one is made here, so that a request which fails before it has a status
    of its own."""
    gateway.in_flight += 1
    events = None
    try:
        events, headers, model = await unless_gone(request, gateway.models[asked.model].stream(asked))
        first = await unless_gone(request, anext(events))
    except BaseException:
        gateway.in_flight -= 1
        if events is not None:
            await events.aclose()
        raise

    async def all_events() -> AsyncGenerator[Event, None]:
        yield first
        try:
            async for event in events:
                yield event
        except EngineUnavailableError as error:
            raise _unavailable(error) from None

    async def end() -> None:
        gateway.in_flight -= 1
        await events.aclose()

    return Stream(all_events(), _headers(asked) | headers, model, end)


def _headers(asked: ChatRequest) -> dict[str, str]:
    headers = {"x-request-id": asked.example.id}
    for name, found in (("ignored", asked.ignored), ("repaired", asked.repaired)):
        if found:
            headers[f"x-toolhone-{name}"] = "; ".join(found)
    return headers


class _EventResponse(StreamingResponse):
    """The body of a stream. When it ends, also because the client has gone, the generation ends."""

    def __init__(self, stream: Stream, body: AsyncIterator[bytes]) -> None:
        # A proxy must not collect the events.
        headers = stream.headers | {"cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(body, headers=headers, media_type="text/event-stream")
        self._end = stream.end

    async def __call__(self, *connection: Any) -> None:
        try:
            await super().__call__(*connection)
        finally:
            await self._end()


def _json(content: dict[str, Any], headers: Mapping[str, str] | None = None, status: int = 200) -> Response:
    return Response(json_line(content), status, headers, media_type="application/json")


def _unavailable(error: EngineUnavailableError) -> ApiError:
    if error.status in (400, 501):
        return ApiError(error.status, f"the engine refuses the request: {error}", code="engine_refuses")
    return ApiError(503, f"the engine does not answer: {error}; try again later", code="engine_unavailable")


async def _error(request: Request, error: Exception) -> Response:
    """Return an error response in OpenAI's shape."""
    if isinstance(error, ClientGone | ClientDisconnect):
        return Response(status_code=499)  # the client has gone and does not read it
    if isinstance(error, UserError):  # a tool's schema that is invalid only for an argument of the answer
        error = ApiError(400, str(error), param="tools", code="invalid_tools")
    elif isinstance(error, EngineUnavailableError):
        error = _unavailable(error)
    elif isinstance(error, HTTPException):
        found = f"Invalid URL ({request.method} {request.url.path}): {error.detail}; {_ROUTES}"
        error = ApiError(error.status_code, found, code="unknown_url")
    elif not isinstance(error, ApiError):
        error = ApiError(500, "internal error; the server's output has the traceback")
    headers = {**error.headers, **({"retry-after": _RETRY_AFTER_S} if error.status == 503 else {})}
    return _json(error.to_json(), headers, error.status)
