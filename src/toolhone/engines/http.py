"""HTTP to an engine: where it is, which key it takes, and what it says if it refuses.

In: the address of an engine's server. Out: its JSON replies, or why there are none.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx2

from toolhone.endpoint import UNREADABLE_BODY, UNREADABLE_REPLY, endpoint_key
from toolhone.errors import UserError

_TIMEOUT_S = 600.0  # a long prompt on a busy CPU takes minutes
_BUSY = (429, 503)
_BUSY_TRIES = 30
_BUSY_WAIT_S = 1.0


class EngineError(Exception):
    """A request that the engine refused, with its status and the text of its answer."""


def http_settings(base_url: str, flag: str, key: str | None = None) -> dict[str, Any]:
    """Return the settings of an HTTP client for an engine. Without `key`, OPENAI_API_KEY is sent.

    Raises:
        UserError: naming `flag`, if the address is invalid or its key is missing.
    """
    key = endpoint_key(base_url, flag, key)
    is_local = urlsplit(base_url).hostname in ("localhost", "127.0.0.1", "::1")
    return {
        "base_url": base_url.rstrip("/").removesuffix("/v1"),
        "headers": {"Authorization": f"Bearer {key}"},
        "timeout": _TIMEOUT_S,
        "trust_env": not is_local,  # a proxy of the environment does not reach this machine's own servers
    }


class Http:
    """Sends JSON to a server, and waits while it is busy or still loading."""

    def __init__(self, base_url: str, flag: str = "--endpoint", key: str | None = None) -> None:
        """Raises UserError, naming `flag`, if the address is invalid or its key is missing."""
        settings = http_settings(base_url, flag, key)
        self.url = settings["base_url"]
        self._client = httpx2.Client(**settings)

    def close(self) -> None:
        self._client.close()

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the JSON object of the reply.

        Raises:
            EngineError: for any other reply.
        """
        found = self._read("POST", path, body)
        if not isinstance(found, dict):
            raise EngineError(f"an answer that is not a JSON object: {str(found)[:200]}")
        return found

    def get(self, path: str) -> Any:
        """Return the JSON of the reply; None if the server has no such path."""
        try:
            return self._read("GET", path, None)
        except EngineError:
            return None

    def _read(self, method: str, path: str, body: Mapping[str, Any] | None) -> Any:
        for left in reversed(range(_BUSY_TRIES)):
            try:
                reply = self._client.request(method, path, json=body)
            except httpx2.HTTPError as error:
                raise UserError(
                    f"{self.url}{path}: no answer ({str(error) or type(error).__name__}); start the engine there"
                ) from None
            if reply.status_code not in _BUSY or not left:
                break
            time.sleep(_BUSY_WAIT_S)
        if reply.status_code != 200:
            raise EngineError(f"HTTP {reply.status_code}: {error_text(reply)}")
        try:
            return reply.json()
        except UNREADABLE_BODY:
            raise EngineError(f"an answer that is not JSON: {reply.text[:200]}") from None


def error_text(reply: httpx2.Response) -> str:
    """Return what a server says is wrong, shortened."""
    try:
        found = reply.json()
        error = found["error"] if isinstance(found, dict) and "error" in found else found
        return str(error["message"] if isinstance(error, dict) and "message" in error else error)[:500]
    except UNREADABLE_BODY:
        return reply.text[:500]


def tokens_of(reply: Mapping[str, Any]) -> list[int]:
    """Return the ids of a reply of `/tokenize`."""
    try:
        return [int(id_) for id_ in reply["tokens"]]
    except UNREADABLE_REPLY as error:
        raise EngineError(f"`/tokenize` answered without tokens ({error!r})") from None
