"""Requests and responses in separate files: batches of OpenAI, Azure, Anthropic and Gemini, and stored completions.

A batch's input file has a request on each line and its output file a response, in any order; both have the same
`custom_id` (Gemini: `key`). A stored completion of OpenAI has a response with its tools. Its messages are in another
answer of the API, whose ids begin with that of the completion. `Pairs` waits for the other half of each row.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from toolhone.data.importers.bodies import status
from toolhone.data.importers.importer import Row, RowFault, decoded, short
from toolhone.errors import RowError

_ID_KEYS = ("custom_id", "key")
_REQUEST_KEYS = ("body", "params", "request")
_RESPONSE_KEYS = ("response", "result", "error")
_OTHER_ENDPOINTS = ("/embeddings", "/moderations", "/images", "/audio", "/videos")
_ERROR_STATUS = 400
_FAILED_RESULTS = ("errored", "canceled", "expired")  # of Anthropic
_MISSING = {
    "request": "a batch request without its response; give the batch's output file too",
    "response": "a batch response without its request; give the batch's input file too",
    "messages": "the messages of a stored completion without the completion; give the list of completions too",
    "completion": "a stored completion without its messages; give the answers of its /messages endpoint too",
}


def looks_like(row: Row) -> bool:
    """Whether the row is one half of a request and its response. A row with both is for other importers."""
    return _kind(row) is not None


class _Half(NamedTuple):
    kind: Literal["request", "response", "messages", "completion"]
    body: Any
    where: str


class Pairs:
    """Pairs the halves of a source, by id."""

    def __init__(self) -> None:
        self._requests: dict[str, _Half] = {}
        self._responses: dict[str, _Half] = {}
        self._paired: set[str] = set()
        self._failed: set[str] = set()
        self._others: set[str] = set()

    def rewrite(self, row: Row, where: str) -> Iterator[Row | RowFault]:
        """Yield the log line of the row's request and response once both are known."""
        id, half = _half(row, where)
        if half.kind in ("request", "messages"):
            self._refuse_other(id, row, where)
            _keep(self._requests, id, half)
        else:
            self._refuse_failed(id, row, half, where)
            if id in self._others:
                raise RowError(f"{where}: the response of a request to no chat model", rule="log-other")
            _keep(self._responses, id, half)
        if id in self._requests and id in self._responses and id not in self._paired:
            self._paired.add(id)
            yield _line(self._requests[id], self._responses[id])

    def unpaired(self) -> Iterator[RowFault]:
        """Yield a fault for each request without a response, and for each response without a request."""
        known = self._paired | self._failed | self._others
        for halves, rule in ((self._requests, "log-no-response"), (self._responses, "log-no-request")):
            for id, half in halves.items():
                if id not in known:
                    yield RowFault(half.where, rule, f"{_MISSING[half.kind]} ({short(id)})")

    def _refuse_other(self, id: str, row: Row, where: str) -> None:
        url = str(row.get("url") or "")
        if url.endswith(_OTHER_ENDPOINTS) or url.endswith("/v1/completions"):
            self._others.add(id)
            raise RowError(f"{where}: a request to {url}, not to a chat model", rule="log-other")

    def _refuse_failed(self, id: str, row: Row, half: _Half, where: str) -> None:
        """Raise RowError for a failed response. The request may succeed in a later batch."""
        body = half.body if isinstance(half.body, dict) else {}
        error = row.get("error") or body.get("error")
        kind = body.get("type") if half.kind == "response" else None
        code = status(row)
        if error or kind in _FAILED_RESULTS or code >= _ERROR_STATUS:
            self._failed.add(id)
            message = error.get("message") if isinstance(error, dict) else error
            text = str(message or error or kind or f"status {code}")[:200]
            raise RowError(f"{where}: the request failed: {text}", rule="log-error")


def _kind(row: Row) -> Literal["request", "response", "messages", "completion"] | None:
    if any(isinstance(row.get(key), str | int) and row[key] != "" for key in _ID_KEYS):
        is_request = any(row.get(key) is not None for key in _REQUEST_KEYS)
        is_response = any(row.get(key) is not None for key in _RESPONSE_KEYS)
        if is_request == is_response or ("key" in row and "custom_id" not in row and not _is_gemini(row)):
            return None
        return "request" if is_request else "response"
    if row.get("object") == "chat.completion" and isinstance(row.get("id"), str):
        return "completion" if not row.keys() & {"messages", "input", "request", "prompt"} else None
    is_list = row.get("object") == "list" and isinstance(row.get("data"), list) and bool(row["data"])
    is_messages = is_list and all(isinstance(m, dict) and "role" in m and "id" in m for m in row["data"])
    return "messages" if is_messages else None


def _is_gemini(row: Row) -> bool:
    body = row.get("request") or row.get("response")
    return bool(row.get("error")) or (isinstance(body, dict) and bool(body.keys() & {"contents", "candidates"}))


def _half(row: Row, where: str) -> tuple[str, _Half]:
    kind = _kind(row)
    if kind is None:
        text = f'{where}: expected "custom_id" with a "body" or a "response", found {short(sorted(row))}'
        raise RowError(text, rule="log-unknown")
    if kind == "completion":
        return row["id"], _Half(kind, row, where)
    if kind == "messages":
        completion, _, number = str(row["data"][0]["id"]).rpartition("-")
        id = completion if number.isdecimal() and completion else str(row["data"][0]["id"])
        return id, _Half(kind, row["data"], where)
    id = next(str(row[key]) for key in _ID_KEYS if row.get(key) is not None)
    keys = _REQUEST_KEYS if kind == "request" else _RESPONSE_KEYS
    key = next(key for key in keys if row.get(key) is not None)
    body = decoded(row[key], f"{where}: {key}")
    if key == "response" and isinstance(body, dict) and body.get("body") is not None:  # beside its status
        body = decoded(body["body"], f"{where}: response: body")
    return id, _Half(kind, body, where)


def _keep(halves: dict[str, _Half], id: str, half: _Half) -> None:
    first = halves.setdefault(id, half)
    if first is half:
        return
    if first.body == half.body:
        text = f"{half.where}: the {half.kind} {short(id)} is also at {first.where}"
        raise RowError(text, rule="log-repeated")
    text = f"{half.where}: another {half.kind} has the id {short(id)} at {first.where}"
    raise RowError(f"{text}, so they cannot be paired; read each batch on its own", rule="batch-id-reused")


def _line(request: _Half, response: _Half) -> Row:
    if response.kind != "completion":
        return {"request": request.body, "response": response.body}
    offered = ("tools", "functions", "tool_choice", "parallel_tool_calls", "model")
    settings = {key: response.body[key] for key in offered if response.body.get(key) is not None}
    messages = request.body if request.kind == "messages" else request.body.get("messages")
    return {"request": {**settings, "messages": messages}, "response": response.body}
