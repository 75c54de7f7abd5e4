"""LiteLLM's logs: standard logging payloads, the proxy's spend logs, and the arguments of a custom logger.

A standard logging payload is what callbacks get and what the proxy writes to S3, GCS and others: `messages`,
`model_parameters` and `response`. A spend log has the client's body in `proxy_server_request`, as a JSON string. The
proxy's settings decide whether texts are stored; if not, they are "{}". A custom logger gets `kwargs` and
`response_obj`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from toolhone.data.importers.importer import Row, RowFault, decoded, short
from toolhone.errors import RowError

_BODY_KEYS = ("messages", "input", "contents")
_PARAMETER_KEYS = ("model_parameters", "modelParameters", "optional_params")
_RESPONSE_KEYS = (
    *("response_obj", "response", "complete_streaming_response", "async_complete_streaming_response"),
    "original_response",
)
_MARKS = frozenset(
    {"litellm_call_id", "model_parameters", "modelParameters", "proxy_server_request", "custom_llm_provider"}
    | {"spend", "response_cost"}
)
_REQUEST_MARKS = frozenset({"proxy_server_request", "model_parameters", "optional_params"})
_TIMES = ("startTime", "start_time")
_CHAT_TYPES = ("completion", "responses", "anthropic_messages", "generate_content", "pass_through", "realtime")
# What LiteLLM writes instead of a text that must not be logged, and inside a text that is too long for its database.
_ALTERED = re.compile(r"""["']redacted-by-litellm["']|\.\.\. \(litellm_truncated skipped \d+ chars""")


def looks_like(row: Row) -> bool:
    """Whether the row is a payload, a spend log or a custom logger's arguments."""
    if "call_type" in row and row.keys() & _MARKS:
        return True
    if "response" in row and row.keys() & _REQUEST_MARKS:
        return True
    arguments = row.get("kwargs", row)
    if not isinstance(arguments, dict):
        return False
    return "standard_logging_object" in arguments or (
        "optional_params" in arguments and ("litellm_params" in arguments or "litellm_call_id" in arguments)
    )


def rewrite(row: Row, where: str) -> Iterator[Row | RowFault]:
    """Yield the request and the response of the row as a log line. Raises RowError if the row has none, because the
    request failed, was for no chat model, or was not stored."""
    payload = _payload(row, where)
    _refuse_other_types(payload, where)
    _refuse_failed(payload, where)
    request = _request(payload, where)
    response = _response(payload, where)
    missing = "the request" if not request else "the response" if not response else ""
    if missing:
        text = f"{where}: LiteLLM did not store {missing}; set store_prompts_in_spend_logs in its general_settings"
        raise RowError(text, rule="log-not-stored")
    texts = f"{request}{_without_ids(response)}"
    if ("litellm_truncated" in texts or "redacted" in texts) and (altered := _ALTERED.search(texts)):
        text = f"{where}: LiteLLM redacted or shortened the texts ({altered[0]}), so the row is not what was said"
        raise RowError(text, rule="log-not-stored")
    line: Row = {"request": request, "response": response}
    line |= {key: payload[key] for key in ("model", *_TIMES) if payload.get(key) is not None}
    yield line


def _payload(row: Row, where: str) -> Row:
    """The values of the request: the payload inside a custom logger's arguments, or the row or arguments themselves."""
    arguments = row.get("kwargs")
    if isinstance(arguments, dict):
        row = {**arguments, **{key: value for key, value in row.items() if key != "kwargs" and value is not None}}
    inner = decoded(row.get("standard_logging_object"), f"{where}: standard_logging_object")
    return inner if isinstance(inner, dict) else row


def _refuse_other_types(payload: Row, where: str) -> None:
    kind = payload.get("call_type")
    if not isinstance(kind, str) or not kind:
        return
    if "text_completion" in kind or not any(name in kind for name in _CHAT_TYPES):
        raise RowError(f"{where}: a call of type {kind}, not a request to a chat model", rule="log-other")


def _refuse_failed(payload: Row, where: str) -> None:
    metadata = payload.get("metadata")
    if isinstance(metadata, str) and '"error_information"' in metadata:
        metadata = decoded(metadata, f"{where}: metadata")
    holders = [payload, metadata if isinstance(metadata, dict) else {}]
    errors = [holder["error_information"] for holder in holders if isinstance(holder.get("error_information"), dict)]
    texts = [payload.get("error_str"), payload.get("exception"), *(error.get("error_message") for error in errors)]
    text = next((text for text in texts if text), None)
    if text or any(holder.get("status") == "failure" for holder in holders):
        message = text if isinstance(text, str) else short(text) if text else "status failure"
        raise RowError(f"{where}: the request failed: {message[:200]}", rule="log-error")


def _request(payload: Row, where: str) -> Row | None:
    """The client's own body if it is stored, otherwise the messages with the parameters; None if neither is."""
    parameters: Row = {}
    for holder in (payload, decoded(payload.get("litellm_params"), f"{where}: litellm_params")):
        stored = holder.get("proxy_server_request") if isinstance(holder, dict) else None
        body = decoded(stored, f"{where}: proxy_server_request")
        if isinstance(body, dict) and isinstance(body.get("body"), dict | str):
            body = decoded(body["body"], f"{where}: proxy_server_request: body")
        if isinstance(body, dict) and any(body.get(key) for key in _BODY_KEYS):
            return body
        parameters |= body if isinstance(body, dict) else {}
    messages = decoded(payload.get("messages"), f"{where}: messages")
    messages = messages["messages"] if isinstance(messages, dict) and "messages" in messages else messages
    if not messages:
        return None
    if body := _passed_through(messages, payload, where):
        return body
    for key in _PARAMETER_KEYS:
        found = decoded(payload.get(key), f"{where}: {key}")
        parameters |= found if isinstance(found, dict) else {}
    named = {key: payload[key] for key in ("tools", "functions") if payload.get(key) is not None}
    is_input = "responses" in str(payload.get("call_type"))
    return {**named, **parameters, "model": payload.get("model"), "input" if is_input else "messages": messages}


def _passed_through(messages: Any, payload: Row, where: str) -> Row | None:
    """The body of a request that the proxy passed through: the JSON text of the only message."""
    is_passed = "pass_through" in str(payload.get("call_type"))
    message = messages[0] if is_passed and isinstance(messages, list) and len(messages) == 1 else None
    text = message.get("content") if isinstance(message, dict) else None
    body = decoded(text, f"{where}: messages")
    return body if isinstance(body, dict) else None


def _response(payload: Row, where: str) -> Any:
    """The response, decoded; None if it is not stored."""
    for key in _RESPONSE_KEYS:
        if payload.get(key) in (None, "", {}, "{}", "None"):
            continue
        found = decoded(payload[key], f"{where}: {key}")
        # A request that the proxy passed through has its response as a text under "response".
        inner = found.get("response") if isinstance(found, dict) and len(found) == 1 else None
        return found if inner is None else decoded(inner, f"{where}: {key}: response")
    return None


def _without_ids(response: Any) -> Any:
    """The response without `system_fingerprint`, which spend logs always redact."""
    if not isinstance(response, dict) or "system_fingerprint" not in response:
        return response
    return {key: value for key, value in response.items() if key != "system_fingerprint"}
