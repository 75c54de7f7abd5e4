"""OpenPipe's request logs: `reqPayload` and `respPayload` beside a status. Its data sets are OpenAI's rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from toolhone.data.importers.importer import Row, RowFault, decoded
from toolhone.errors import RowError

_REQUEST_KEYS = ("reqPayload", "req_payload")
_RESPONSE_KEYS = ("respPayload", "resp_payload")
_STATUS_KEYS = ("statusCode", "status_code")
_ERROR_KEYS = ("errorMessage", "error_message")
_TIME_KEYS = ("requestedAt", "requested_at")
_ERROR_STATUS = 400
_MILLISECONDS_FROM = 1e11
"""Times above this are in milliseconds: in seconds it is the year 5138."""


def looks_like(row: Row) -> bool:
    """Whether the row is a logged request."""
    return any(key in row for key in _REQUEST_KEYS)


def rewrite(row: Row, where: str) -> Iterator[Row | RowFault]:
    """Yield the request and the response of the row as a log line. Raises RowError if the request failed or one of the
    two is missing."""
    request, response = (decoded(_first(row, keys), where) for keys in (_REQUEST_KEYS, _RESPONSE_KEYS))
    status, error = _first(row, _STATUS_KEYS), _first(row, _ERROR_KEYS)
    if error or (isinstance(status, int) and status >= _ERROR_STATUS):
        text = str(error or f"status {status}")[:200]
        raise RowError(f"{where}: the request failed: {text}", rule="log-error")
    if not isinstance(request, dict) or not request:
        raise RowError(f"{where}: a log without its request", rule="log-no-request")
    if not response:
        raise RowError(f"{where}: a log without its response", rule="log-no-response")
    time = _first(row, _TIME_KEYS)
    if isinstance(time, int | float) and time > _MILLISECONDS_FROM:
        time /= 1000
    yield {"created_at": time, "request": request, "response": response}


def _first(row: Row, keys: tuple[str, ...]) -> Any:
    return next((row[key] for key in keys if row.get(key) is not None), None)
