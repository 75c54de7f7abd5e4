"""Finds the request and the response in a line of a log, whichever provider's format they have.

Tools log the two under many names. A body may be a JSON string, or be under "body" beside headers and a status.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from toolhone.data.importers.importer import Row, short
from toolhone.errors import RowError
from toolhone.strict_json import StrictJsonError, parse_strict

REQUEST_KEYS = (
    *("request", "req", "request_body", "requestBody", "RequestBody", "input", "inputs"),
    *("kwargs", "body", "params"),
)
RESPONSE_KEYS = (
    *("response", "resp", "res", "response_body", "responseBody", "ResponseBody"),
    *("output", "outputs", "completion", "result"),
)
STREAM_KEYS = ("chunks", "response_chunks", "stream_chunks", "events")
TIME_KEYS = ("timestamp", "time", "created_at", "start_time", "startTime", "date")  # of a line
_WRAPPERS = ("body", "inputBodyJson", "outputBodyJson")  # the last two: Bedrock's logs of model invocations
_BODY_KEYS = frozenset(
    {"messages", "input", "choices", "output", "body", "error", "role", "object"}
    | {"contents", "candidates", "promptFeedback"}  # Gemini's
)
_ERROR_STATUS = 400


def body_of(value: Any) -> Any:
    """The body itself, decoded if it is a JSON string, and taken from under "body" if it is beside headers and
    status."""
    if isinstance(value, str) and value.lstrip().startswith(("{", "[")):
        try:
            decoded = parse_strict(value)
        except StrictJsonError:
            return value
        # A JSON string may be the answer itself, if the model was asked for JSON.
        value = decoded if isinstance(decoded, list) or decoded.keys() & _BODY_KEYS else value
    if isinstance(value, dict) and "messages" not in value:
        for key in _WRAPPERS:
            if value.get(key) is not None:
                return body_of(value[key])
    return value


def find_request(row: Row, is_request: Callable[[Any], bool]) -> Row | None:
    """The first request in the row: the row itself, or a value under a known key."""
    if is_request(row):
        return row
    for key in REQUEST_KEYS:
        if key in row:
            found = body_of(row[key])
            if isinstance(found, dict) and is_request(found):
                return found
    return None


def find_messages(row: Row) -> list[Any] | None:
    """The messages of a request that is logged as its messages alone, under a request's name."""
    for key in REQUEST_KEYS:
        found = body_of(row[key]) if key in row else None
        if isinstance(found, list) and found and all(isinstance(each, dict) and "role" in each for each in found):
            return found
    return None


def find_response(row: Row, is_response: Callable[[Any], bool]) -> Any:
    """The first response in the row, whole or as a stream: a value under a known key, or under a key of a stream in
    it."""
    for key in (*STREAM_KEYS, *RESPONSE_KEYS):
        if row.get(key) is None:
            continue
        found = body_of(row[key])
        if is_response(found):
            return found
        if isinstance(found, dict):
            inner = next((found[name] for name in STREAM_KEYS if found.get(name)), None)
            if is_response(inner):
                return inner
    return None


def is_failed(row: Row) -> bool:
    """Whether the line says that its request failed."""
    return bool(row.get("error")) or status(row) >= _ERROR_STATUS


def refuse_failed(row: Row, response: Any, where: str) -> None:
    """Raise RowError with the rule "log-error" if the line or its response says that the request failed."""
    error = row.get("error") or (response.get("error") if isinstance(response, dict) else None)
    if error or status(row) >= _ERROR_STATUS:
        message = error.get("message", error.get("Message")) if isinstance(error, dict) else error
        text = str(message)[:200] if message else short(error) if error else f"status {status(row)}"
        raise RowError(f"{where}: the request failed: {text}", rule="log-error")


def status(row: Row) -> int:
    """The HTTP status of the line or its response; 0 if it has none."""
    for holder in (row, row.get("response")):
        found = holder.get("status_code", holder.get("status")) if isinstance(holder, dict) else None
        if isinstance(found, int) and not isinstance(found, bool):
            return found
    return 0
