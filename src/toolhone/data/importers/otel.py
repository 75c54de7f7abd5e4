"""OpenTelemetry spans of requests to a model: flat spans as JSON, and OTLP/JSON as exporters and collectors write it.

`genai.py` reads the attributes of a span. Spans that are no request to a model (tools, agents, HTTP, ...) are counted
as `log-other`, spans without recorded messages as `log-no-request`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from toolhone.data.importers import genai, langfuse
from toolhone.data.importers.importer import Row, RowFault, short
from toolhone.data.importers.traces import json_or_text
from toolhone.errors import RowError

_NESTED = (
    *("resourceSpans", "resource_spans", "batches", "scopeSpans", "scope_spans", "instrumentationLibrarySpans"),
    *("spans", "trace"),
)
_SPAN_KEYS = frozenset(
    {
        "span_id",
        "spanId",
        "spanID",
        "SpanId",
        "TraceId",
        "trace_id",
        "traceId",
        "traceID",
        "context",
        "context.span_id",
        "kind",
        "span_kind",
    }
    | {"parent_id", "parentSpanId", "status", "status_code", "events", "start_time", "startTimeUnixNano", "event_name"}
)
_ATTRIBUTES = ("attributes", "tags", "span_attributes", "SpanAttributes", "otel_attributes")
_OWN = ("gen_ai.", "llm.", "ai.", "openinference.", "langfuse.", "traceloop.", "langsmith.")
_STATUS_KEYS = ("status_code", "otel_status_code", "StatusCode")
_START_KEYS = ("start_time", "start_timestamp", "startTime", "timestamp", "Timestamp")
_VALUES = ("string", "int", "double", "bool", "bytes")


def looks_like(row: Row) -> bool:
    """Whether the row is a span, a log record of a span, or an export of spans."""
    if any(key in row for key in _NESTED[:6]) or (isinstance(row.get("spans"), list) and "messages" not in row):
        return True
    if any(key in row for key in _ATTRIBUTES):
        return bool(row.keys() & _SPAN_KEYS)
    return any(key.startswith(("attributes.", "gen_ai.", "llm.input_messages")) for key in row)


def rewrite(row: Row, where: str) -> Iterator[Row | RowFault]:
    """Yield a log line for each request to a model, and a fault for each other span."""
    seen: set[str] = set()
    for span in _spans(row):
        try:
            line = _line(span, where)
        except RowError as error:
            yield RowFault.of_error(where, error)
            continue
        id = line["response"].get("id")
        if isinstance(id, str) and id.startswith(("chatcmpl-", "resp_", "msg_")):
            # Two instrumentations that are active at once each record the request.
            if id in seen:
                yield RowFault(where, "log-repeated", f"the response {id} is in two spans of this row")
                continue
            seen.add(id)
        yield line


def _spans(row: Any) -> Iterator[Row]:
    """The spans of an export, or the row itself."""
    key = next((key for key in _NESTED if isinstance(row.get(key), dict | list)), None)
    if key is None:
        yield row
        return
    for each in row[key] if isinstance(row[key], list) else [row[key]]:
        if isinstance(each, dict):
            yield from _spans(each)
        else:
            yield {"name": each}


def _line(span: Row, where: str) -> Row:
    attributes = _attributes(span, where)
    named = f"the span {short(span.get('name') or span.get('span_name') or span.get('operationName'))}"
    if not genai.is_request(attributes, span.get("span_kind")):
        if str(span.get("event_name", "")).startswith("gen_ai."):
            text = f"{where}: a log record of a span; record the messages in the span's attributes instead"
            raise RowError(text, rule="log-no-request")
        raise RowError(f"{where}: {named} is not a request to a model", rule="log-other")
    if failure := _failure(span, attributes):
        raise RowError(f"{where}: {named} failed: {failure}", rule="log-error")
    if attributes.get("langfuse.observation.type"):
        return langfuse.line(_of_langfuse(attributes, span), f"{where}: {named}")
    line = genai.log_line_of(attributes, _events(span, attributes, where), f"{where}: {named}")
    response = line["response"]
    if not response.get("created") and not response.get("created_at"):
        response["created"] = _start(span)
    return line


def _of_langfuse(attributes: Row, span: Row) -> Row:
    """The observation that Langfuse's SDK keeps in the attributes of its span."""
    prefix = "langfuse.observation."
    fields = {key.removeprefix(prefix): value for key, value in attributes.items() if key.startswith(prefix)}
    context = span.get("context")
    return {
        "id": _first(span, ("spanId", "span_id")) or (context.get("span_id") if isinstance(context, dict) else None),
        "type": fields.get("type"),
        "input": fields.get("input"),
        "output": fields.get("output"),
        "modelParameters": fields.get("model.parameters"),
        "model": fields.get("model.name"),
        "usageDetails": fields.get("usage_details"),
        "startTime": _start(span),
    }


def _attributes(span: Row, where: str) -> Row:
    found = _first(span, _ATTRIBUTES)
    found = json_or_text(found, where)
    if isinstance(found, list):
        return _key_values(found)
    if isinstance(found, dict):
        return found
    prefix = "attributes."
    return {k.removeprefix(prefix): v for k, v in span.items() if k.startswith((prefix, *_OWN)) and v is not None}


def _key_values(found: list[Any]) -> Row:
    """The values of OTLP's list of keys and values, or of a table's list of pairs."""
    found = [
        {"key": each[0], "value": each[1]} if isinstance(each, list) and len(each) == 2 else each for each in found
    ]
    pairs = [each for each in found if isinstance(each, dict) and isinstance(each.get("key"), str)]
    return {each["key"]: _any_value(each.get("value")) for each in pairs}


def _any_value(found: Any) -> Any:
    """The value of OTLP's AnyValue, such as {"stringValue": "x"}; anything else unchanged."""
    if not isinstance(found, dict) or len(found) != 1:
        return found
    ((key, value),) = found.items()
    kind = key.removesuffix("Value").removesuffix("_value")
    if kind == "int" and isinstance(value, str) and value.lstrip("-").isdecimal():
        return int(value)
    if kind in _VALUES:
        return value
    inner = (value.get("values") or []) if isinstance(value, dict) else None
    if kind == "array" and isinstance(inner, list):
        return [_any_value(each) for each in inner]
    return _key_values(inner) if kind == "kvlist" and isinstance(inner, list) else found


def _events(span: Row, attributes: Row, where: str) -> list[Row]:
    """The events of a span, each as its attributes and its "event.name". Logfire keeps them in an attribute."""
    found = json_or_text(span.get("events") or span.get("logs") or attributes.get("events"), where)
    made = []
    for event in found if isinstance(found, list) else ():
        if not isinstance(event, dict):
            continue
        fields = event.get("attributes", event.get("fields"))
        fields = _key_values(fields) if isinstance(fields, list) else fields if isinstance(fields, dict) else event
        name = fields.get("event.name") or event.get("name") or fields.get("event")
        made.append({**fields, "event.name": name if isinstance(name, str) else ""})
    return made


def _failure(span: Row, attributes: Row) -> str:
    """Why the request failed; "" if it did not."""
    status = span.get("status")
    code, text = (
        (status.get("status_code", status.get("code")), status.get("description") or status.get("message"))
        if isinstance(status, dict)
        else (_first(span, _STATUS_KEYS) or status, span.get("status_message") or span.get("status_description"))
    )
    is_error = str(code).upper().removeprefix("STATUS_CODE_").removeprefix("STATUSCODE.") in ("ERROR", "2")
    is_error = is_error or str(attributes.get("otel.status_code")).upper() == "ERROR"  # Jaeger's tag
    error = attributes.get("error.type") or (attributes.get("langfuse.observation.level") == "ERROR")
    if not is_error and not error:
        return ""
    return short(text or attributes.get("langfuse.observation.status_message") or error or code)


def _first(holder: Row, keys: tuple[str, ...]) -> Any:
    return next((holder[key] for key in keys if holder.get(key)), None)


def _start(span: Row) -> Any:
    """When the span started: an ISO text, or seconds since 1970."""
    found = _first(span, _START_KEYS)
    if found is None:
        found = span.get("startTimeUnixNano") or span.get("start_time_unix_nano")
    if isinstance(found, list) and len(found) == 2 and isinstance(found[0], int):  # JavaScript's [seconds, nanoseconds]
        return found[0]
    if isinstance(found, str) and found.isdecimal():
        found = int(found)
    if isinstance(found, int) and not isinstance(found, bool):
        for _ in range(3):  # nanoseconds, microseconds, milliseconds
            found = found // 1000 if found > 10**11 else found
    return found
