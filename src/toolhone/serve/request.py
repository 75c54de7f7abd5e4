"""The validation of a chat-completions request: its JSON in, an example and the answer's options out.

What the server does not support is refused by name, never ignored: an answer that only looks like what was asked for is
worse than none. Refusals are `ApiError`, in OpenAI's shape.
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
    "stream": ((False,), "answers are given whole; leave it out"),
    "n": ((1,), "a request has one answer"),
    "temperature": ((0,), "answers are greedy; set it to 0 or leave it out"),
    "presence_penalty": ((0,), "answers are greedy; leave it out"),
    "frequency_penalty": ((0,), "answers are greedy; leave it out"),
    "logit_bias": (({},), "answers are greedy; leave it out"),
    "stop": (([],), "an answer ends where the model ends it; leave it out"),
    "response_format": (({"type": "text"},), "answers are text and calls; leave it out"),
    "tool_choice": (("auto", "none"), "the model decides whether to call"),
    "parallel_tool_calls": ((True,), "the model decides how many calls it makes; leave it out"),
    "modalities": ((["text"],), "answers are text and calls; leave it out"),
}
"""Keys that accept only these values, and why. For every key, null counts as absent."""

_READ = ("model", "messages", "tools", "max_tokens", "max_completion_tokens", "logprobs", "top_logprobs")
_NO_EFFECT = {"top_p", "seed", "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"}
"""Keys that change no greedy answer."""

_ONLY_IN_ANSWERS = ("annotations", "reasoning_content")
"""Keys that servers add to an answer, and clients send back with it."""


class ApiError(Exception):
    """A refused request, which OpenAI's client turns into its own exception. `param` names the key at fault, `code` the
    kind of fault in a word."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    def to_json(self) -> dict[str, Any]:
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def no_such_model(name: str, served: str) -> ApiError:
    return ApiError(404, f"The model {name!r} does not exist; this server has {served}", code="model_not_found")


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A valid request. `example` holds its messages and tools, and no gold. Without `may_call` the answer has to be
    text. `max_tokens` is None if the request sets no limit."""

    example: Example
    may_call: bool
    max_tokens: int | None
    logprobs: bool
    top_logprobs: int


def read_request(body: bytes, id_: str, model: str) -> ChatRequest:
    """Read and validate a request's body.

    Args:
        id_: the id of the answer, and of its example.
        model: the only model name that is accepted.

    Raises:
        ApiError: naming the key at fault.
    """
    row = _object(body)
    known = {*_READ, *_FIXED, *_NO_EFFECT}
    for key in row:
        if key not in known:
            raise ApiError(400, f"Unrecognized request argument supplied: {key}", param=key, code="unknown_parameter")
    for key, (values, why) in _FIXED.items():
        if key in row and not any(_same(row[key], value) for value in values):
            accepted = " or ".join(map(json.dumps, values))
            raise ApiError(400, f"{key}: this server takes {accepted} only: {why}", param=key, code="unsupported")
    if "model" not in row:
        raise ApiError(400, f"you must provide a model parameter; this server has {model}", param="model")
    if row["model"] != model:
        raise no_such_model(row["model"], model)
    example = _example(row, id_)
    top = _count(row, "top_logprobs", 0)
    logprobs = row.get("logprobs", False)
    if not isinstance(logprobs, bool):
        raise ApiError(400, f"logprobs: expected true or false, found {logprobs!r}", param="logprobs")
    if top is not None and top > 1:
        found = f"top_logprobs: a greedy answer knows its own tokens alone, so 0 or 1 are possible, found {top}"
        raise ApiError(400, found, param="top_logprobs", code="unsupported")
    if top is not None and not logprobs:
        raise ApiError(400, "top_logprobs: needs logprobs: true", param="top_logprobs")
    limit = _count(row, "max_completion_tokens", 1)
    return ChatRequest(
        example=example,
        may_call=row.get("tool_choice") != "none" and bool(example.tools),
        max_tokens=_count(row, "max_tokens", 1) if limit is None else limit,
        logprobs=logprobs,
        top_logprobs=top or 0,
    )


def _object(body: bytes) -> dict[str, Any]:
    """Return the body's keys, without those that are null."""
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
