"""Translates OpenAI's Responses API to chat completions: `/v1/responses` as a request and an answer of
`/v1/chat/completions`.

In: the body of a request; then the chat completion. Out: the body for `request.read_request`; then the response.
Nothing is stored, so a request must bring its whole conversation as items. `response_events.py` has streamed answers.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from toolhone.data.importers.importer import short
from toolhone.serve.request import ApiError
from toolhone.strict_json import StrictJsonError, parse_strict

_SAME = (
    *(
        "model",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "temperature",
        "top_p",
        "top_logprobs",
        "stream",
        "metadata",
    ),
    *("user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "service_tier", "store"),
)
"""Keys that a chat request has, too."""

_NEED_STORE = {
    "previous_response_id": "this server stores no responses; send the items of the conversation in input",
    "conversation": "this server stores no conversations; send the items of the conversation in input",
    "prompt": "this server stores no prompts; send instructions and input",
    "background": "this server answers at once; leave it out, or set it to false",
}
"""Keys that need something stored, and how to do without."""

_NO_EFFECT = frozenset({"truncation", "max_tool_calls", "include", "stream_options", "context_management"})
"""Keys that change no answer here. `include` is read for log-probabilities only."""

_OF_CHAT = ("messages", "n", "response_format", "functions", "function_call", "max_tokens", "max_completion_tokens")
"""Keys of a chat request that another key of this API stands for."""

_LOGPROBS = "message.output_text.logprobs"


@dataclass(frozen=True, slots=True)
class ResponsesRequest:
    """A request of the Responses API. `chat` is the body of the same request as a chat completion; `echo` are the keys
    that the response repeats."""

    id: str
    chat: Mapping[str, Any]
    echo: Mapping[str, Any]

    @property
    def chat_body(self) -> bytes:
        return json.dumps(self.chat).encode()

    def response(
        self,
        status: str,
        output: Sequence[Mapping[str, Any]] = (),
        *,
        model: str,
        created: int,
        finish_reason: str | None = None,
        usage: Mapping[str, Any] | None = None,
        error: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Return the response object with these output items."""
        cut = _INCOMPLETE.get(finish_reason or "")
        return {
            "id": self.id,
            "object": "response",
            "created_at": created,
            "status": "incomplete" if cut and status == "completed" else status,
            "background": False,
            "error": error,
            "incomplete_details": {"reason": cut} if cut else None,
            "model": model,
            "output": list(output),
            "usage": None if usage is None else _usage(usage),
            **self.echo,
        }


_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}


def read_responses_request(body: bytes, id_: str) -> ResponsesRequest:
    """Return the request in a JSON body.

    Args:
        id_: the id of the response.

    Raises:
        ApiError: if the body is not a request of this API, or needs something stored. The chat request is not checked.
    """
    row = _object(body)
    for key, fix in _NEED_STORE.items():
        if row.get(key):
            raise ApiError(400, f"{key}: {fix}", param=key, code="unsupported_parameter")
    if found := next((key for key in _OF_CHAT if key in row), None):
        raise ApiError(400, f"Unrecognized request argument supplied: {found}", param=found, code="unknown_parameter")
    text, reasoning = _typed(row, "text", dict, {}), _typed(row, "reasoning", dict, {})
    include = _typed(row, "include", list, [])
    known = {*_SAME, *_NEED_STORE, *_NO_EFFECT, "input", "instructions", "text", "reasoning", "max_output_tokens"}
    translated = {
        "messages": [*_instructions(row), *_messages(row.get("input"))],
        "max_completion_tokens": row.get("max_output_tokens"),
        "response_format": _response_format(text.get("format")),
        "verbosity": text.get("verbosity"),
        "reasoning_effort": reasoning.get("effort"),
        "logprobs": True if _LOGPROBS in include or row.get("top_logprobs") else None,
    }
    # Unknown keys are left to the reader of chat requests, which lists or refuses them.
    rest = {key: value for key, value in row.items() if key in _SAME or key not in known}
    chat = rest | {key: value for key, value in translated.items() if value is not None}
    return ResponsesRequest(id_, chat, _echo(row, text, reasoning))


def _echo(row: Mapping[str, Any], text: Mapping[str, Any], reasoning: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of a request that its response repeats, with OpenAI's defaults."""
    tools = [
        {"parameters": None, "strict": None, **tool} if isinstance(tool, dict) else tool
        for tool in _typed(row, "tools", list, [])
    ]
    return {
        "instructions": row.get("instructions"),
        "max_output_tokens": row.get("max_output_tokens"),
        "max_tool_calls": row.get("max_tool_calls"),
        "metadata": row.get("metadata", {}),
        "parallel_tool_calls": row.get("parallel_tool_calls", True),
        "previous_response_id": None,
        "prompt_cache_key": row.get("prompt_cache_key"),
        "reasoning": {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")},
        "safety_identifier": row.get("safety_identifier"),
        "service_tier": "default",
        "store": False,
        "temperature": row.get("temperature"),
        "text": {"format": {"type": "text"}, **text},
        "tool_choice": row.get("tool_choice", "auto"),
        "tools": tools,
        "top_logprobs": row.get("top_logprobs", 0),
        "top_p": row.get("top_p"),
        "truncation": row.get("truncation", "disabled"),
        "user": row.get("user"),
    }


def _object(body: bytes) -> dict[str, Any]:
    try:
        row = parse_strict(body.decode())
    except (UnicodeDecodeError, StrictJsonError) as error:
        raise ApiError(400, f"the body is not JSON: {error}", code="invalid_json") from None
    except RecursionError:
        raise ApiError(400, "the body is not JSON: it is nested too deeply", code="invalid_json") from None
    if not isinstance(row, dict):
        raise ApiError(400, f"the body: expected a JSON object, found {type(row).__name__}", code="invalid_json")
    return {key: value for key, value in row.items() if value is not None}


def _typed(row: Mapping[str, Any], key: str, kind: type, default: Any) -> Any:
    value = row.get(key, default)
    if not isinstance(value, kind):
        _refuse(key, "an object" if kind is dict else "a list", value)
    return value


def _refuse(where: str, expected: str, found: Any) -> NoReturn:
    param = where.partition("[")[0]
    raise ApiError(400, f"{where}: expected {expected}, found {short(found)}", param=param, code="invalid_value")


def _response_format(format: Any) -> dict[str, Any] | None:
    """Return `text.format` as the `response_format` of a chat request, which has its schema one level deeper."""
    if not isinstance(format, dict):
        return None if format is None else _refuse("text.format", "an object", format)
    if format.get("type") != "json_schema":
        return format
    return {"type": "json_schema", "json_schema": {key: value for key, value in format.items() if key != "type"}}


# The conversation


def _instructions(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = row.get("instructions")
    if found is None or isinstance(found, str):
        return [{"role": "system", "content": found}] if found else []
    return _messages(found, "instructions")


def _messages(items: Any, where: str = "input") -> list[dict[str, Any]]:
    """Return the items of a conversation as messages. The reasoning, text and calls of one answer become one message.

    Raises:
        ApiError: for an item that cannot be a part of a chat.
    """
    if isinstance(items, str):
        return [{"role": "user", "content": items}]
    if not isinstance(items, list) or not items:
        _refuse(where, "a text or a list of items", items)
    messages: list[dict[str, Any]] = []
    for number, item in enumerate(items):
        place = f"{where}[{number}]"
        if not isinstance(item, dict):
            _refuse(place, "an item, which is an object", item)
        kind = item.get("type", "message" if "role" in item else None)
        if kind == "message":
            _add_message(messages, item)
        elif kind == "function_call":
            function = {key: item[key] for key in ("name", "arguments") if key in item}
            call = {"id": item.get("call_id") or item.get("id"), "type": "function", "function": function}
            _answer(messages).setdefault("tool_calls", []).append(call)
        elif kind == "function_call_output":
            output = item.get("output")
            messages.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": output})
        elif kind == "reasoning":
            answer = _answer(messages, begins=True)
            thoughts = [answer["reasoning_content"]] if "reasoning_content" in answer else []
            thoughts += [text for text in (_thought(item.get(key)) for key in ("content", "summary")) if text][:1]
            answer |= {"reasoning_content": "\n\n".join(thoughts)} if thoughts else {}
        elif kind == "item_reference":
            raise ApiError(400, f"{place}: {_NEED_STORE['previous_response_id']}", param=where)
        else:
            raise ApiError(400, f"{place}: an item of type {short(kind)}; {_ITEMS}", param=where)
    return [message for message in messages if message.keys() != {"role", "content"} or message["content"] is not None]


_ITEMS = "this server reads items of type message, function_call, function_call_output and reasoning"


def _add_message(messages: list[dict[str, Any]], item: Mapping[str, Any]) -> None:
    role, content = item.get("role"), item.get("content")
    last = messages[-1] if messages else {}
    if role == last.get("role") == "assistant" and last["content"] is None and "tool_calls" not in last:
        last["content"] = content  # only its reasoning was there
    else:
        messages.append({"role": role, "content": content})


def _answer(messages: list[dict[str, Any]], *, begins: bool = False) -> dict[str, Any]:
    """Return the last message if the next item belongs to its answer; otherwise a new message of the assistant. With
    `begins`, the item is the first of an answer, so only reasoning may stand before it."""
    last = messages[-1] if messages else {}
    is_same = last.get("role") == "assistant" and not (begins and (last["content"] is not None or "tool_calls" in last))
    if not is_same:
        messages.append({"role": "assistant", "content": None})
    return messages[-1]


def _thought(parts: Any) -> str:
    texts = [part.get("text") for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
    return "\n\n".join(text for text in texts if isinstance(text, str) and text)


# The answer


def to_response(request: ResponsesRequest, completion: Mapping[str, Any]) -> dict[str, Any]:
    """Return a chat completion as a response."""
    choice = completion["choices"][0]
    message, finish_reason = choice["message"], choice["finish_reason"]
    status = "incomplete" if finish_reason in _INCOMPLETE else "completed"
    calls = message.get("tool_calls") or ()
    output: list[dict[str, Any]] = []
    if thinking := message.get("reasoning_content"):
        output.append(reasoning_item(thinking))
    if message.get("content") or message.get("refusal") or not (calls or thinking):
        parts = [refusal_part(message["refusal"])] if message.get("refusal") else []
        if message.get("content") or not parts:
            logprobs = (choice.get("logprobs") or {}).get("content") or ()
            parts.insert(0, text_part(message.get("content") or "", logprobs))
        output.append(message_item(parts, status))
    for call in calls:
        function = call["function"]
        output.append(call_item(call["id"], function["name"], function["arguments"]))
    return request.response(
        "completed",
        output,
        model=completion["model"],
        created=completion["created"],
        finish_reason=finish_reason,
        usage=completion.get("usage"),
    )


def _usage(usage: Mapping[str, Any]) -> dict[str, Any]:
    """Return the usage of a chat completion with this API's names."""
    before, after = usage.get("prompt_tokens_details") or {}, usage.get("completion_tokens_details") or {}
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": before.get("cached_tokens") or 0, "cache_write_tokens": 0},
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": after.get("reasoning_tokens") or 0},
        "total_tokens": usage["total_tokens"],
    }


def reasoning_item(text: str | None, id_: str | None = None, status: str = "completed") -> dict[str, Any]:
    """Return the item of a thought; without its text while it begins."""
    content = [] if text is None else [{"type": "reasoning_text", "text": text}]
    return {"id": id_ or new_id("rs"), "type": "reasoning", "summary": [], "content": content, "status": status}


def message_item(parts: Sequence[Mapping[str, Any]], status: str, id_: str | None = None) -> dict[str, Any]:
    return {
        "id": id_ or new_id("msg"),
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": list(parts),
    }


def text_part(text: str, tokens: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    return {
        "type": "output_text",
        "text": text,
        "annotations": [],
        "logprobs": [response_token(each) for each in tokens],
    }


def refusal_part(text: str) -> dict[str, Any]:
    return {"type": "refusal", "refusal": text}


def response_token(token: Mapping[str, Any]) -> dict[str, Any]:
    """Return a token of a chat completion as a response has it, whose bytes are always a list."""
    top = [{**each, "bytes": each.get("bytes") or []} for each in token.get("top_logprobs") or ()]
    return {**token, "bytes": token.get("bytes") or [], "top_logprobs": top}


def call_item(
    call_id: str, name: str, arguments: str, id_: str | None = None, status: str = "completed"
) -> dict[str, Any]:
    return {
        "id": id_ or new_id("fc"),
        "type": "function_call",
        "call_id": call_id,
        "name": name,
        "arguments": arguments,
        "status": status,
    }


def new_id(kind: str) -> str:
    return f"{kind}_{uuid.uuid4().hex}"
