"""Describes the gateway's requests and replies for its OpenAPI document, `/openapi.json`.

Out: the arguments of each route of FastAPI, which puts the document together. The schemas of requests have the keys,
types and limits that `request.py` and `responses.py` read. A test compares their keys. Unknown keys are allowed,
because the gateway ignores and lists them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toolhone.serve.request import MAX_CHOICES, MAX_STOPS, MAX_TOP_LOGPROBS

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_FLAG: Schema = {"type": "boolean"}
_OBJECT: Schema = {"type": "object"}


def _number(least: float, most: float, about: str = "") -> Schema:
    return {"type": "number", "minimum": least, "maximum": most} | ({"description": about} if about else {})


def _whole(least: int, most: int | None = None, about: str = "") -> Schema:
    limits = {"minimum": least} | ({} if most is None else {"maximum": most})
    return {"type": "integer", **limits} | ({"description": about} if about else {})


def _list(items: Schema, most: int | None = None) -> Schema:
    return {"type": "array", "items": items} | ({} if most is None else {"maxItems": most})


def _object(required: tuple[str, ...] = (), **properties: Schema) -> Schema:
    return {"type": "object", "properties": properties} | ({"required": list(required)} if required else {})


def _one_of(*schemas: Schema) -> Schema:
    return {"anyOf": list(schemas)}


def _of(*values: str) -> Schema:
    return {"type": "string", "enum": list(values)}


_FUNCTION = _object(("name",), name=_TEXT | {"minLength": 1}, description=_TEXT, parameters=_OBJECT, strict=_FLAG)
_TOOL = _one_of(
    _object(("type", "function"), type=_of("function"), function=_FUNCTION),
    _object(("name", "input_schema"), name=_TEXT, description=_TEXT, input_schema=_OBJECT),  # Anthropic
    _object(("name", "inputSchema"), name=_TEXT, description=_TEXT, inputSchema=_OBJECT),  # MCP
)
_CONTENT = _one_of(_TEXT, _list(_object(("type", "text"), type=_of("text"), text=_TEXT)))
_CALL = _object(
    ("function",),
    id=_TEXT,
    type=_of("function"),
    function=_object(("name", "arguments"), name=_TEXT, arguments=_one_of(_TEXT, _OBJECT)),
)
_MESSAGE = _one_of(
    _object(("role", "content"), role=_of("system", "developer", "user"), content=_CONTENT),
    _object(("role",), role=_of("assistant"), content=_CONTENT, tool_calls=_list(_CALL)),
    _object(("role", "content"), role=_of("tool"), content=_CONTENT, tool_call_id=_TEXT),
)
_TOOL_CHOICE = _one_of(
    _of("auto", "none", "required"),
    _object(("type", "function"), type=_of("function"), function=_object(("name",), name=_TEXT)),
    _object(("type", "allowed_tools"), type=_of("allowed_tools"), allowed_tools=_OBJECT),
)
_SHARED: Mapping[str, Schema] = {
    "model": _TEXT | {"description": "one of /v1/models, or toolhone"},
    "tools": _list(_TOOL),
    "tool_choice": _TOOL_CHOICE,
    "parallel_tool_calls": _FLAG | {"description": "false: at most one call"},
    "temperature": _number(0, 2, "default 0: the most likely answer"),
    "top_p": _number(0, 1),
    "top_logprobs": _whole(0, MAX_TOP_LOGPROBS, "needs log-probabilities to be asked for"),
    "stream": _FLAG,
    "metadata": _OBJECT,
    "user": _TEXT,
    "safety_identifier": _TEXT,
    "prompt_cache_key": _TEXT,
    "prompt_cache_retention": _TEXT,
    "service_tier": _TEXT,
    "store": _FLAG | {"description": "nothing is stored"},
}
CHAT_BODY = _object(
    ("model", "messages"),
    **_SHARED,
    messages=_list(_MESSAGE) | {"minItems": 1},
    functions=_list(_FUNCTION),
    function_call=_one_of(_of("auto", "none"), _object(("name",), name=_TEXT)),
    response_format=_one_of(
        _object(("type",), type=_of("text", "json_object")),
        _object(
            ("type", "json_schema"),
            type=_of("json_schema"),
            json_schema=_object(name=_TEXT, schema=_OBJECT, strict=_FLAG),
        ),
    ),
    max_tokens=_whole(1),
    max_completion_tokens=_whole(1),
    top_k=_whole(-1, None, "0 or -1: all tokens"),
    min_p=_number(0, 1),
    seed=_whole(-(2**63), 2**63 - 1),
    presence_penalty=_number(-2, 2),
    frequency_penalty=_number(-2, 2),
    logit_bias={"type": "object", "additionalProperties": _number(-100, 100), "propertyNames": {"pattern": "^[0-9]+$"}},
    stop=_one_of(_TEXT, _list(_TEXT, MAX_STOPS)),
    n=_whole(1, MAX_CHOICES),
    logprobs=_FLAG,
    stream_options=_object(include_usage=_FLAG),
    modalities={"type": "array", "items": _of("text"), "minItems": 1, "maxItems": 1},
    web_search_options=_OBJECT | {"description": "refused: this server hosts no tools"},
    prediction=_OBJECT | {"description": "ignored"},
    reasoning_effort=_TEXT | {"description": "ignored by the small model"},
    verbosity=_TEXT | {"description": "ignored by the small model"},
    chat_template_kwargs=_OBJECT | {"description": "ignored"},
    toolhone=_object(details=_FLAG | {"description": "answer with the probability of each argument"}),
)
"""The body of /v1/chat/completions."""

RESPONSES_BODY = _object(
    ("model", "input"),
    **_SHARED,
    input=_one_of(_TEXT, _list(_OBJECT)),
    instructions=_TEXT,
    text=_object(format=_OBJECT, verbosity=_TEXT),
    reasoning=_object(effort=_TEXT, summary=_TEXT),
    max_output_tokens=_whole(1),
    include=_list(_TEXT),
    truncation=_TEXT,
    max_tool_calls=_whole(1, None, "ignored"),
    stream_options=_OBJECT,
    context_management=_list(_OBJECT) | {"description": "ignored"},
    previous_response_id=_TEXT | {"description": "refused: this server stores no responses"},
    conversation=_one_of(_TEXT, _OBJECT) | {"description": "refused: this server stores no conversations"},
    prompt=_OBJECT | {"description": "refused: this server stores no prompts"},
    background=_FLAG | {"description": "true is refused: this server answers at once"},
)
"""The body of /v1/responses."""

_USAGE = _object(
    ("prompt_tokens", "completion_tokens", "total_tokens"),
    prompt_tokens=_whole(0),
    completion_tokens=_whole(0),
    total_tokens=_whole(0),
    prompt_tokens_details=_OBJECT,
)
_CHOICE = _object(
    ("index", "message", "finish_reason"),
    index=_whole(0),
    message=_object(
        ("role", "content"), role=_of("assistant"), content={"type": ["string", "null"]}, tool_calls=_list(_CALL)
    ),
    logprobs={"type": ["object", "null"]},
    finish_reason=_of("stop", "length", "tool_calls", "function_call", "content_filter"),
)
_CHAT_REPLY = _object(
    ("id", "object", "created", "model", "choices", "usage"),
    id=_TEXT,
    object=_of("chat.completion"),
    created=_whole(0),
    model=_TEXT,
    choices=_list(_CHOICE),
    usage=_USAGE,
    toolhone=_OBJECT,
)
_RESPONSES_REPLY = _object(
    ("id", "object", "created_at", "status", "model", "output"),
    id=_TEXT,
    object=_of("response"),
    created_at=_whole(0),
    status=_of("completed", "incomplete", "failed"),
    model=_TEXT,
    output=_list(_object(("type", "id"), type=_TEXT, id=_TEXT)),
)
_MODEL_ROW = _object(
    ("id", "object", "created", "owned_by"), id=_TEXT, object=_of("model"), created=_whole(0), owned_by=_TEXT
)
_ERROR = _object(
    ("error",),
    error=_object(
        ("message", "type", "param", "code"),
        message=_TEXT,
        type=_of("invalid_request_error", "server_error"),
        param={"type": ["string", "null"]},
        code={"type": ["string", "null"]},
    ),
)
_REFUSALS = {
    400: "the request is invalid; the message names the key, and how to fix it",
    401: "the API key is missing or wrong",
    403: "the request is for another host than this machine, and the server has no API key",
    404: "there is no such model",
    413: "the body is too long",
    415: "the body is not declared as JSON",
    503: "the engine or the large model does not answer, or too many requests are being answered; try again later",
}


def asks(body: Schema, reply: Schema) -> dict[str, Any]:
    """Return FastAPI's arguments of a route that answers a request with a whole answer or a stream."""
    event = _object(("data",), event=_TEXT, data=_TEXT)  # of each event of the stream
    answer = {"application/json": {"schema": reply}, "text/event-stream": {"schema": event}}
    return {
        "openapi_extra": {"requestBody": {"required": True, "content": {"application/json": {"schema": body}}}},
        "responses": {200: {"description": "the answer", "content": answer}, **_refused(*_REFUSALS)},
    }


def shows(reply: Schema, *refusals: int, type: str = "application/json") -> dict[str, Any]:
    """Return FastAPI's arguments of a route that is only read."""
    answer = {"description": "found", "content": {type: {"schema": reply}}}
    return {"responses": {200: answer, **_refused(*refusals)}}


def _refused(*statuses: int) -> dict[int | str, Any]:
    content = {"application/json": {"schema": _ERROR}}
    return {status: {"description": _REFUSALS[status], "content": content} for status in statuses}


CHAT = asks(CHAT_BODY, _CHAT_REPLY)
RESPONSES = asks(RESPONSES_BODY, _RESPONSES_REPLY)
MODELS = shows(_object(("object", "data"), object=_of("list"), data=_list(_MODEL_ROW)), 401, 403)
MODEL = shows(_MODEL_ROW, 401, 403, 404)
HEALTH = shows(_object(("status", "model"), status=_of("ok"), model=_TEXT))
READY = shows(_object(("status",), status=_of("ready")), 503)
METRICS = shows(_TEXT, 401, 403, type="text/plain")
