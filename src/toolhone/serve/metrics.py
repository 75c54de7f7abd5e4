"""The gateway's counters, in the text format of Prometheus, and its access log. Neither has the text of a message."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

ACCESS = logging.getLogger("toolhone.access")
"""Gets a line for each request, at level INFO."""

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_SHARES = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]


class Metrics:
    """The counters of one gateway. The names follow Prometheus: units in the name, totals end in `_total`."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        make: dict[str, Any] = {"registry": self._registry, "namespace": "toolhone"}
        self._requests = Counter("http_requests", "Requests.", ("path", "status"), **make)
        self._seconds = Histogram(
            "http_request_seconds", "Time to the end of the answer.", ("path",), buckets=_SECONDS, **make
        )
        self._in_flight = Gauge("http_requests_in_flight", "Requests without a whole answer yet.", **make)
        self._first = Histogram(
            "first_token_seconds", "Time to the first text of a streamed answer.", buckets=_SECONDS, **make
        )
        self._tokens = Counter("tokens", "The small model's tokens.", ("kind",), **make)
        self._routes = Counter("routes", "Whose answer was given.", ("route",), **make)
        self._confidence = Histogram("confidence", "The policy's confidence.", buckets=_SHARES, **make)

    def text(self) -> bytes:
        """Return all counters in the format that Prometheus reads."""
        return generate_latest(self._registry)

    def count_tokens(self, prompt: int, cached: int | None, completion: int) -> None:
        self._tokens.labels("prompt").inc(prompt)
        self._tokens.labels("prompt_cached").inc(cached or 0)
        self._tokens.labels("completion").inc(completion)

    def count_route(self, route: str, confidence: float | None) -> None:
        """Count an answer of the model "small" or "large", or "none" if there is none."""
        self._routes.labels(route).inc()
        if confidence is not None:
            self._confidence.observe(confidence)

    def first_text(self, seconds: float) -> None:
        self._first.observe(seconds)

    def watch(self, app: AsgiApp, paths: frozenset[str]) -> AsgiApp:
        """Return an application that counts and logs each request of another one. Other paths than these count as one,
        so that a scanner of addresses does not fill the memory."""

        async def watched(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            started, status, request_id = time.perf_counter(), 499, "-"

            async def send_and_note(message: MutableMapping[str, Any]) -> None:
                nonlocal status, request_id
                if message["type"] == "http.response.start":
                    status = message["status"]
                    found = (value for key, value in message["headers"] if key == b"x-request-id")
                    request_id = next(found, b"-").decode("latin-1")
                await send(message)

            path = scope["path"] if scope["path"] in paths else "other"
            self._in_flight.inc()
            try:
                await app(scope, receive, send_and_note)
            finally:
                seconds = time.perf_counter() - started
                self._in_flight.dec()
                self._requests.labels(path, status).inc()
                self._seconds.labels(path).observe(seconds)
                if path != "/health":
                    ACCESS.info("%s %s %s %.0f ms %s", scope["method"], path, status, seconds * 1000, request_id)

        return watched
