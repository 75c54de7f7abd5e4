"""The server's routes: `/v1/chat/completions`, `/v1/models` and `/health`, as OpenAI's client expects them.

One model answers one request at a time, in a thread of its own, so that the event loop stays free: for `/health`, for
requests that wait their turn, and for those that wait for the large model.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from toolhone.chat.parse import parse_turn
from toolhone.errors import UserError
from toolhone.jsonl import json_line
from toolhone.records import Example, Prediction
from toolhone.route.cascade import Cascade, Routed, answer
from toolhone.serve.engine import Engine
from toolhone.serve.errors import ApiError
from toolhone.serve.request import ChatRequest, read_request
from toolhone.serve.response import completion_id, large_completion, small_completion

MOST_WAITING = 64
"""Requests that wait for their turn; those beyond it are told to come back."""

MOST_BYTES = 8 * 2**20
"""Of a request's body."""

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Names of this machine that no other can reach it by."""

_ROUTES = "this server has POST /v1/chat/completions, GET /v1/models and GET /health"


class ClientGone(Exception):  # noqa: N818  # a state of the connection, not an accident
    """The client closed its connection while it waited for its turn."""


class Turn:
    """Lets requests ask the engine one after the other, in the order in which they came."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._waiting = 0

    async def ask(self, request: Request, example: Example, max_tokens: int | None) -> tuple[Prediction, int]:
        """The model's answer, and how many tokens of its prompt were computed before.

        Raises:
            ApiError: where too many wait already, or the engine refuses the request.
            ClientGone: where nobody waits for the answer any more.
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
    """The server's application.

    Args:
        cascade: where given, what the small model is not sure of goes to the large one.
        key: what clients have to send as their API key; None lets everyone in.
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
        asked = read_request(await _body(request), completion_id(), engine.name)
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
            raise ApiError(
                404, f"The model {name!r} does not exist; this server has {engine.name}", code="model_not_found"
            )
        return _json(_model(engine.name, created))

    @app.get("/health")
    async def health() -> Response:
        return _json({"status": "ok", "model": engine.name})

    app.add_exception_handler(ApiError, _refused)
    app.add_exception_handler(HTTPException, _no_route)
    app.add_exception_handler(ClientGone, _gone)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(UserError, _unusable_tool)
    app.add_exception_handler(Exception, _failed)
    return app


def _routed(
    asked: ChatRequest, routed: Routed, reused_tokens: int, engine: Engine, headers: dict[str, str]
) -> Response:
    """The answer that a cascade gives; its headers say whose it is."""
    headers |= {"x-toolhone-route": routed.route, "x-toolhone-confidence": f"{routed.confidence:.4f}"}
    if routed.fallback is not None:
        headers["x-toolhone-fallback"] = routed.fallback
    if routed.completion is not None:
        return _json(large_completion(asked, routed.completion), headers)
    if routed.route == "none":
        found = f"the small model hands this request over, and the large one gives no answer ({routed.fallback})"
        return _json(ApiError(503, found, code="large_model_unavailable").to_json(), headers, 503)
    return _small(asked, routed.small, reused_tokens, engine, headers)


def _small(
    asked: ChatRequest, prediction: Prediction, reused_tokens: int, engine: Engine, headers: dict[str, str]
) -> Response:
    """The small model's answer; a header says how its text was read."""
    turn = parse_turn(prediction.text, engine.renderer.format.name, prediction.finish_reason)
    headers |= {"x-toolhone-status": turn.status}
    return _json(small_completion(asked, prediction, turn, reused_tokens), headers)


def _check_access(request: Request, key: str | None) -> None:
    if key is None:
        # A page in a browser may have its own name lead to this machine, and would then be let in as if it were here.
        if request.url.hostname not in LOOPBACK:
            found = f"the host {request.url.hostname} is not this machine; a server for others needs TOOLHONE_API_KEY"
            raise ApiError(403, found, code="unknown_host")
        return
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    # As the bytes that were sent: the comparison of texts is for ASCII alone.
    if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode("latin-1"), key.encode()):
        raise ApiError(401, "Incorrect API key provided; send the server's TOOLHONE_API_KEY", code="invalid_api_key")


async def _body(request: Request) -> bytes:
    # A page in a browser may send text/plain to this machine without being asked whether it may, JSON not.
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


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return _json(error.to_json(), status=error.status)


async def _unusable_tool(_: Request, error: Exception) -> Response:
    # A schema may be at fault where nothing but an argument of the answer comes to look.
    return await _refused(_, ApiError(400, str(error), param="tools", code="invalid_tools"))


async def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    found = f"Invalid URL ({request.method} {request.url.path}): {error.detail}; {_ROUTES}"
    return _json(ApiError(error.status_code, found, code="unknown_url").to_json(), status=error.status_code)


async def _gone(_: Request, __: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it


async def _failed(_: Request, __: Exception) -> Response:
    return _json(ApiError(500, "the server failed; its own output says why").to_json(), status=500)
