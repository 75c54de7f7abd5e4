"""Validates a chat-completions request. In: its JSON. Out: an example and the answer's options.

Unsupported options are refused by name, never ignored, so a client never gets another answer than it asked for.
Refusals are `ApiError`, in OpenAI's shape.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from toolhone.data.check.one_row import tie_faults
from toolhone.data.importers.openai import read, read_tool_list
from toolhone.errors import RowError, UserError
from toolhone.records import Example, Gold, Message
from toolhone.strict_json import StrictJsonError, parse_strict
from toolhone.tool_schema import arguments_valid

_FIXED: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "stream": ((False,), "streaming is not supported; leave it out"),
    "n": ((1,), "each request gets one answer"),
    "temperature": ((0,), "answers are greedy; set it to 0 or leave it out"),
    "presence_penalty": ((0,), "answers are greedy; leave it out"),
    "frequency_penalty": ((0,), "answers are greedy; leave it out"),
    "logit_bias": (({},), "answers are greedy; leave it out"),
    "stop": (([],), "stop sequences are not supported; leave it out"),
    "response_format": (({"type": "text"},), "answers are text and calls; leave it out"),
    "tool_choice": (("auto", "none"), "the model decides whether to call"),
    "parallel_tool_calls": ((True,), "the model decides how many calls to make; leave it out"),
    "modalities": ((["text"],), "answers are text and calls; leave it out"),
}
"""Keys that accept only these values, and why. Null counts as absent, for these and all other keys."""

_READ = ("model", "messages", "tools", "max_tokens", "max_completion_tokens", "logprobs", "top_logprobs")
_NO_EFFECT = {"top_p", "seed", "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"}
"""Keys that are accepted, because they change no greedy answer."""

_ONLY_IN_ANSWERS = ("annotations",)
"""Keys that servers add to an answer and that clients send back with it; they are dropped. Thinking is not among them:
the prompt has it if the run's `chat.thinking` says so."""


class ApiError(Exception):
    """A refused request; OpenAI's client raises its own exception for it. `param` is the key at fault, `code` a short
    name of the fault."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    def to_json(self) -> dict[str, Any]:
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def no_such_model(name: str, served: str) -> ApiError:
    return ApiError(404, f"The model {name!r} does not exist; this server has {served!r}", code="model_not_found")


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A valid request. `example` has its messages and tools, and no gold. If `may_call` is false, the answer must be
    text. `max_tokens` is None if the request sets no limit."""

    example: Example
    may_call: bool
    max_tokens: int | None
    logprobs: bool
    top_logprobs: int


def read_request(body: bytes, id_: str, model: str) -> ChatRequest:
    """Return the request in a JSON body, validated.

    Args:
        id_: the id of the answer, and of its example.
        model: the only model name that is accepted.

    Raises:
        ApiError: if the body is invalid; it names the key at fault.
    """
    row = _object(body)
    known = {*_READ, *_FIXED, *_NO_EFFECT}
    for key in row:
        if key not in known:
            raise ApiError(400, f"Unrecognized request argument supplied: {key}", param=key, code="unknown_parameter")
    for key, (values, why) in _FIXED.items():
        if key in row and not any(_same(row[key], value) for value in values):
            accepted = " or ".join(map(json.dumps, values))
            found = f"{key}: expected {accepted}, found {json.dumps(row[key])}: {why}"
            raise ApiError(400, found, param=key, code="unsupported")
    if "model" not in row:
        raise ApiError(400, f"model: is missing; this server has {model!r}", param="model")
    if row["model"] != model:
        raise no_such_model(row["model"], model)
    example = _example(row, id_)
    top = _count(row, "top_logprobs", 0)
    logprobs = row.get("logprobs", False)
    if not isinstance(logprobs, bool):
        raise ApiError(400, f"logprobs: expected true or false, found {logprobs!r}", param="logprobs")
    if top is not None and top > 1:
        found = f"top_logprobs: expected 0 or 1, found {top}: only the chosen tokens' log-probabilities are known"
        raise ApiError(400, found, param="top_logprobs", code="unsupported")
    if top is not None and not logprobs:
        raise ApiError(400, "top_logprobs: set logprobs to true as well", param="top_logprobs")
    limit = _count(row, "max_completion_tokens", 1)
    return ChatRequest(
        example=example,
        may_call=row.get("tool_choice") != "none" and bool(example.tools),
        max_tokens=_count(row, "max_tokens", 1) if limit is None else limit,
        logprobs=logprobs,
        top_logprobs=top or 0,
    )


def _object(body: bytes) -> dict[str, Any]:
    """Return the body's JSON object, without keys whose value is null."""
    try:
        row = parse_strict(body.decode())
    except (UnicodeDecodeError, StrictJsonError) as error:
        raise ApiError(400, f"the body is not JSON: {error}", code="invalid_json") from None
    if not isinstance(row, dict):
        raise ApiError(400, f"the body: expected a JSON object, found {type(row).__name__}", code="invalid_json")
    return {key: value for key, value in row.items() if value is not None}


def _same(found: Any, value: Any) -> bool:
    return isinstance(found, bool) == isinstance(value, bool) and bool(found == value)


def _count(row: dict[str, Any], key: str, least: int) -> int | None:
    value = row.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ApiError(400, f"{key}: expected a whole number of {least} or more, found {value!r}", param=key)
    return value


def _example(row: dict[str, Any], id_: str) -> Example:
    try:
        tools = read_tool_list(row.get("tools", []), "tools")
        for tool in tools:
            arguments_valid({}, tool, "tools")  # raises if the schema is invalid
    except UserError as error:
        raise ApiError(400, str(error), param="tools", code="invalid_tools") from None
    try:
        found = read({"id": id_, "messages": _messages(row.get("messages"))}, "messages", tools)
    except RowError as error:
        raise ApiError(400, str(error), param="messages", code=error.rule) from None
    for fault in tie_faults(found):
        raise ApiError(400, f"messages: {fault.message}", param="messages", code=fault.rule)
    no_turn, no_gold = Message("assistant", ""), Gold("any")
    return Example(id_, id_, found.messages, no_turn, no_gold, found.tools, "the request", None, {})


def _messages(found: Any) -> Any:
    if not isinstance(found, list):
        return found
    return [
        {key: value for key, value in message.items() if key not in _ONLY_IN_ANSWERS}
        if isinstance(message, dict) and message.get("role") == "assistant"
        else message
        for message in found
    ]
