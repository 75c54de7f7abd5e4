"""Who may ask the gateway, and how much: the key, the host name, the type and the size of a body."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from fastapi import Request

from toolhone.serve.request import ApiError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Names by which only this machine can reach itself."""

MAX_BODY_BYTES = 8 * 2**20

T = TypeVar("T")


class ClientGone(Exception):  # noqa: N818  # a state of the connection, not an error
    """The client closed its connection before it had its answer."""


def check_access(request: Request, key: str | None) -> None:
    """Raise ApiError if the request has not the key; with None, if it is not for this machine."""
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


async def read_body(request: Request) -> bytes:
    """Return the body of a request. Raises ApiError if it is not declared as JSON, or too long."""
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


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Return what `work` returns, or cancel it when the client closes its connection.

    Raises:
        ClientGone: if the client has gone.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGone
    finally:
        for one in (task, gone):
            if not one.done():
                one.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await one


async def _disconnected(request: Request) -> None:
    """Return when the client has gone. The body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
