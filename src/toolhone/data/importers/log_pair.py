"""The request and the response in one line of an application's log, wherever the line keeps them."""

from __future__ import annotations

from typing import Any

from toolhone.data.importers.fields import short
from toolhone.data.importers.responses_api import is_response
from toolhone.data.importers.streams import is_stream, whole_response
from toolhone.errors import RowError
from toolhone.strict_json import StrictJsonError, parse_strict

_REQUEST_KEYS = ("request", "req", "request_body", "input", "inputs", "kwargs", "body")
_RESPONSE_KEYS = ("response", "resp", "res", "response_body", "output", "outputs", "completion", "result")
_STREAM_KEYS = ("chunks", "response_chunks", "stream_chunks", "events")
_ALL_RESPONSE_KEYS = frozenset((*_RESPONSE_KEYS, *_STREAM_KEYS, "choices"))
_BODY_KEYS = frozenset({"messages", "input", "choices", "output", "body", "error", "role", "object"})
_ERROR_STATUS = 400


def looks_like(row: dict[str, Any]) -> bool:
    """Whether the row has a request to a chat model, and its response or its error."""
    if not row.keys() & _ALL_RESPONSE_KEYS:
        return False
    request, response = _request(row), _response(row)
    if request is None:
        return False
    return _is_body(response) or is_stream(response) or bool(row.get("error")) or _status(row) >= _ERROR_STATUS


def request_and_response(row: dict[str, Any], where: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both bodies. A response that is a message alone, or its text, is put into the shape of a chat completion.

    Raises:
        RowError: where one is missing, or the response is an error.
    """
    request, response = _request(row), _response(row)
    if request is None:
        raise RowError(f"{where}: no request with messages or input", rule="log-unknown")
    error = row.get("error") or (response.get("error") if isinstance(response, dict) else None)
    if error or _status(row) >= _ERROR_STATUS:
        text = _error_text(error) or f"status {_status(row)}"
        raise RowError(f"{where}: the request failed: {text}", rule="log-error")
    if is_stream(response):
        response = whole_response(response, where)
    if isinstance(response, dict) and response.get("role") == "assistant":
        response = {"id": row.get("id"), "choices": [{"message": response}]}
    if isinstance(response, str):
        if response.lstrip().startswith("{") and ('"choices"' in response or '"output"' in response):
            raise RowError(
                f"{where}: the response's JSON text cannot be decoded: {short(response)}", rule="broken-json"
            )
        response = {"id": row.get("id"), "choices": [{"message": {"role": "assistant", "content": response}}]}
    if not isinstance(response, dict):
        raise RowError(f"{where}: no response", rule="log-empty")
    if response.get("model") is None and row.get("model") is not None:
        response = {**response, "model": row["model"]}
    return request, response


def _request(row: dict[str, Any]) -> dict[str, Any] | None:
    if isinstance(row.get("messages"), list) or ("input" in row and _is_items(row.get("output"))):
        return row
    for key in _REQUEST_KEYS:
        found = _body(row.get(key))
        if isinstance(found, dict) and (isinstance(found.get("messages"), list) or "input" in found):
            return found
        if isinstance(found, list) and found and all(isinstance(m, dict) and "role" in m for m in found):
            shared = {name: row[name] for name in ("tools", "functions", "model") if row.get(name) is not None}
            return {**shared, "messages": found}
        if key == "input" and isinstance(found, str) and is_response(_response(row)):
            return {"input": found}
    return None


def _response(row: dict[str, Any]) -> Any:
    if isinstance(row.get("choices"), list) or ("input" in row and _is_items(row.get("output"))):
        return row
    for key in (*_STREAM_KEYS, *_RESPONSE_KEYS):
        if row.get(key) is not None:
            found = _body(row[key])
            inner = next((found[k] for k in _STREAM_KEYS if found.get(k)), None) if isinstance(found, dict) else None
            return inner if is_stream(inner) else found
    return None


def _body(value: Any) -> Any:
    """A body may be a JSON text, and stand under "body" beside headers and status."""
    if isinstance(value, str) and value.lstrip().startswith(("{", "[")):
        try:
            decoded = parse_strict(value)
        except StrictJsonError:
            return value
        # A text that is JSON may be an answer of its own: a model told to answer so.
        value = decoded if isinstance(decoded, list) or decoded.keys() & _BODY_KEYS else value
    if isinstance(value, dict) and value.get("body") is not None and "messages" not in value:
        return _body(value["body"])
    return value


def _is_body(response: Any) -> bool:
    if isinstance(response, str):
        return bool(response.strip())
    if not isinstance(response, dict):
        return False
    has_choices = isinstance(response.get("choices"), list)
    return has_choices or is_response(response) or response.get("role") == "assistant" or bool(response.get("error"))


def _is_items(output: Any) -> bool:
    return isinstance(output, list) and bool(output) and all(isinstance(i, dict) and "type" in i for i in output)


def _status(row: dict[str, Any]) -> int:
    for holder in (row, row.get("response")):
        found = holder.get("status_code", holder.get("status")) if isinstance(holder, dict) else None
        if isinstance(found, int) and not isinstance(found, bool):
            return found
    return 0


def _error_text(error: Any) -> str:
    message = error.get("message") if isinstance(error, dict) else error
    return str(message or "")[:200]
