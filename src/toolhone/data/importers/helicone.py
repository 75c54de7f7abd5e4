"""Helicone's request logs: exports of its API and dashboard, and what its manual logger sends.

An exported row has `request_body` and `response_body` in the provider's own format, beside `response_status` and times.
Without the option to include bodies it only has `signed_body_url`, a link to them. The manual logger sends
`providerRequest` and `providerResponse`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from toolhone.data.importers.importer import Row, RowFault, decoded, short
from toolhone.errors import RowError

_MARKS = frozenset(
    {"signed_body_url", "signed_body_content", "request_created_at", "requestCreatedAt", "response_status"}
    | {"responseStatus", "request_properties", "helicone_user", "llmSchema", "signedBodyUrl", "heliconeMetadata"}
)
_BODIES = (("request_body", "response_body"), ("requestBody", "responseBody"), ("request", "response"))
_HOLDERS = ("signed_body_content", "raw")  # of both bodies
_STATUSES = ("response_status", "responseStatus", "status")
_TIMES = ("request_created_at", "requestCreatedAt", "createdAt")
_MODELS = ("response_model", "responseModel", "request_model", "requestModel", "model")
_PROMPT_KEYS = ("messages", "contents")
_OTHER_KINDS = ("tool", "vector_db", "data")  # `_type` of what the manual logger logs besides requests
_ERROR_STATUS = 400


def looks_like(row: Row) -> bool:
    """Whether the row is an exported request or what the manual logger sends."""
    if "providerRequest" in row and "providerResponse" in row:
        return True
    if not row.keys() & _MARKS:
        return False
    return any(request in row or response in row for request, response in _BODIES) or bool(
        row.keys() & {*_HOLDERS, "signed_body_url", "signedBodyUrl"}
    )


def rewrite(row: Row, where: str) -> Iterator[Row | RowFault]:
    """Yield the request and the response of the row as a log line. Raises RowError if the row has none, because the
    request failed, was for no chat model, or was exported without its bodies."""
    request, response = _bodies(row, where)
    if isinstance(request, dict) and request.get("_type") in _OTHER_KINDS:
        text = f"{where}: a log of type {short(request['_type'])}, not a request to a model"
        raise RowError(text, rule="log-other")
    _refuse_failed(row, response, where)
    missing = next((name for name, body in (("request", request), ("response", response)) if not body), None)
    if missing is not None:
        text = f"{where}: exported without the body of its {missing}; export it again with --include-body"
        raise RowError(text, rule="log-not-stored")
    if not isinstance(request, dict) or not _is_chat(request, response):
        text = f"{where}: no request to a chat model: found {short(request)}"
        raise RowError(text, rule="log-other")
    metadata = row["heliconeMetadata"] if isinstance(row.get("heliconeMetadata"), dict) else {}
    holders = (row, metadata)
    yield {
        "id": row.get("request_id") or row.get("requestId") or metadata.get("requestId"),
        "created_at": _first(holders, _TIMES) or _started(row),
        "model": _first(holders, _MODELS),
        "request": request,
        "response": _whole(response, where),
    }


def _started(row: Row) -> Any:
    """When the manual logger's request started, in seconds."""
    timing = row.get("timing")
    start = timing.get("startTime") if isinstance(timing, dict) else None
    return start.get("seconds") if isinstance(start, dict) else None


def _bodies(row: Row, where: str) -> tuple[Any, Any]:
    """The bodies of the request and the response, decoded; None for one that the row does not have."""
    if "providerRequest" in row:
        request, response = (decoded(row.get(key), where) for key in ("providerRequest", "providerResponse"))
        request = request.get("json") if isinstance(request, dict) else None
        if isinstance(response, dict):
            response = response.get("json") or response.get("textBody")
        return decoded(request, f"{where}: request"), decoded(response, f"{where}: response")
    for holder in (row, *(decoded(row.get(key), f"{where}: {key}") for key in _HOLDERS)):
        for keys in _BODIES:
            if isinstance(holder, dict) and any(holder.get(key) for key in keys):
                request, response = (decoded(holder.get(key), f"{where}: {key}") for key in keys)
                return request, response
    return None, None


def _refuse_failed(row: Row, response: Any, where: str) -> None:
    holders = [row, row.get("providerResponse"), row.get("heliconeMetadata")]
    status = _first([holder for holder in holders if isinstance(holder, dict)], _STATUSES)
    status = status.get("code") if isinstance(status, dict) else status
    error = response.get("error") or response.get("heliconeError") if isinstance(response, dict) else None
    # Helicone writes negative codes for requests that were cancelled, timed out or are still running.
    is_failed = isinstance(status, int) and not isinstance(status, bool) and (status >= _ERROR_STATUS or status < 0)
    if error or is_failed:
        message = error.get("message") if isinstance(error, dict) else error
        text = str(message or error or f"status {status}")[:200]
        raise RowError(f"{where}: the request failed: {text}", rule="log-error")


def _is_chat(request: Row, response: Any) -> bool:
    if any(isinstance(request.get(key), list) for key in _PROMPT_KEYS):
        return True
    is_list = isinstance(response, dict) and response.get("object") == "list"  # the vectors of an embedding
    return "input" in request and not is_list


def _whole(response: Any, where: str) -> Any:
    """The response, or its stream if Helicone kept only that."""
    if not isinstance(response, dict):
        return response
    stream = response.get("streamed_data") or response.get("streamedData")
    has_answer = any(response.get(key) for key in ("choices", "content", "output", "candidates"))
    return decoded(stream, f"{where}: streamed_data") if stream and not has_answer else response


def _first(holders: Any, keys: tuple[str, ...]) -> Any:
    return next((holder[key] for holder in holders for key in keys if holder.get(key) is not None), None)
