"""An OpenAI-compatible endpoint on this machine, for tests of code that sends requests to one."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

Answer = Callable[[dict[str, Any]], tuple[int, Any]]
"""Maps the JSON body of a request to a status and a body. The body is JSON, bytes, or bytes with headers."""


class Server(ThreadingHTTPServer):
    """Each request consumes one of `answers`; the last answer is repeated. `most_at_once` is the largest number of
    requests in progress at the same time."""

    daemon_threads = True

    def __init__(self, answer: Answer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: list[Answer] = [answer]
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.most_at_once = self.at_once = 0
        self.closing = threading.Event()
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


def hangs(_: dict[str, Any]) -> tuple[int, Any]:
    """Never answer; the request waits until the server closes."""
    raise AssertionError("never called: the handler waits instead")


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.server.lock:
            self.server.requests.append(body)
            self.server.keys.append(self.headers["authorization"])
            answer = self.server.answers.pop(0) if len(self.server.answers) > 1 else self.server.answers[0]
            self.server.at_once += 1
            self.server.most_at_once = max(self.server.most_at_once, self.server.at_once)
        if answer is hangs:
            self.server.closing.wait()
            return
        status, content = answer(body)
        content, headers = content if isinstance(content, tuple) else (content, {})
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        with self.server.lock:
            self.server.at_once -= 1
        try:
            self.send_response(status)
            for key, value in {"content-type": "application/json", **headers}.items():
                self.send_header(key, value)
            self.send_header("content-length", str(len(data)))
            if status == 429:
                self.send_header("retry-after", "0")
            self.end_headers()
            self.wfile.write(data)
        except OSError:  # the client closed the connection
            pass

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def serving(answer: Answer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Run a server that gives this answer. The environment has no real OPENAI_API_KEY meanwhile."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    made = Server(answer)
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.closing.set()
    made.shutdown()
    thread.join()
    made.server_close()
