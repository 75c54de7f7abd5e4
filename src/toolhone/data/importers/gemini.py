"""Gemini's generateContent: requests with responses, streams, and rows for tuning.

A content has parts: text, thoughts, `functionCall`, `functionResponse`. They become OpenAI's messages. Keys may be in
camel case (REST, Vertex AI, the JavaScript SDK) or in snake case (the Python SDK), and absent keys may be null. Calls
without ids get ids, and each result goes to the first unanswered call of its name. Tool schemas with Gemini's types
(`STRING`, `nullable`) become JSON Schema.
"""

from __future__ import annotations

import marshal
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from toolhone.data.importers.bodies import find_request, find_response, refuse_failed
from toolhone.data.importers.functions import schema_key
from toolhone.data.importers.importer import Row, RowFault, short, unexpected
from toolhone.data.importers.responses import stream_events
from toolhone.data.importers.rewrite import tool_rows
from toolhone.data.importers.schemas import gemini_schema
from toolhone.data.importers.turns import (
    add_call,
    add_reasoning,
    add_text,
    assistant_turn,
    data_row,
    hosted_tool,
    log_line,
    not_text,
    objects,
    result_text,
)
from toolhone.errors import RowError

_CONFIGS = ("config", "generationConfig", "generation_config")
_OWN_KEYS = ("contents", "systemInstruction", "system_instruction", "toolConfig", "tool_config")
_FINISH_REASONS = {
    **dict.fromkeys(("STOP", "1"), "stop"),
    **dict.fromkeys(("MAX_TOKENS", "2", "CONTINUATION"), "length"),
    **dict.fromkeys(
        ("SAFETY", "3", "RECITATION", "4", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT"), "content_filter"
    ),
    **dict.fromkeys(("SPII", "IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "MODEL_ARMOR"), "content_filter"),
    **dict.fromkeys(("FINISH_REASON_UNSPECIFIED", "0", "None"), None),
}
"""OpenAI's finish_reason by Gemini's finishReason, or by its number in the API's binary form. Any other is an error."""
_BROKEN_CALLS = ("MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS", "MALFORMED_RESPONSE")
_CHOICES = {"AUTO": "auto", "1": "auto", "VALIDATED": "auto", "ANY": "required", "2": "required", "NONE": "none"} | {
    "3": "none"
}
_CODE = ("executableCode", "codeExecutionResult", "toolCall", "toolResponse")
_MEDIA = ("inlineData", "fileData", "audioTranscription")
_SNAKE = {
    name: re.sub("[A-Z]", lambda found: f"_{found[0].lower()}", name)
    for name in (
        *("functionCall", "functionResponse", "functionDeclarations", "systemInstruction", "toolConfig"),
        *("functionCallingConfig", "allowedFunctionNames", "finishReason", "promptFeedback", "blockReason"),
        *("modelVersion", "responseId", "createTime", "cachedContent", "partialArgs", "willContinue"),
        *("automaticFunctionCallingHistory", *_CODE, *_MEDIA),
    )
}


def looks_like(row: Row) -> bool:
    """Whether the row has a request of generateContent, with a response or without one."""
    request = find_request(row, _is_request)
    return request is not None and (_has_parts(request["contents"]) or _response(row) is not None)


def rewrite(row: Row, where: str) -> Iterator[Row | RowFault]:
    """Yield the log line of a request with its response, or the row of a data set."""
    request = find_request(row, _is_request)
    if request is None:
        raise RowError(f'{where}: no request with "contents"', rule="log-no-request")
    response = _response(row)
    any_response = find_response(row, lambda found: found not in (None, {})) if response is None else response
    refuse_failed(row, any_response[0] if _is_error_list(any_response) else any_response, where)
    if request is row and any_response is None:
        thread, made = _openai_request(request, row["contents"], where)
        yield data_row(row, thread.messages, *_tools_of(request, where), _OWN_KEYS)
        return
    if response is None:
        status = row.get("status")
        if isinstance(status, str) and status:  # of Vertex AI's batches
            raise RowError(f"{where}: the request failed: {short(status)}", rule="log-error")
        raise RowError(f"{where}: a request without a response", rule="log-no-response")
    whole = _whole(response, f"{where}: response")
    thread, made = _openai_request(request, request["contents"], where)
    history = _value(whole, "automaticFunctionCallingHistory")  # with the calls that the SDK itself answered
    if history:
        asked = len(thread.messages)
        thread, made = _openai_request(request, history, where)
        yield from _answered_by_sdk(row, made, asked, _value(whole, "modelVersion"))
    yield log_line(row, made, _chat_completion(whole, thread, f"{where}: response"))


def _answered_by_sdk(row: Row, request: Row, asked: int, model: Any) -> Iterator[Row]:
    """The log line of each turn that the model wrote between the request and its last answer."""
    for number, message in enumerate(request["messages"]):
        if number >= asked and message["role"] == "assistant":
            so_far = {**request, "messages": request["messages"][:number]}
            yield log_line({**row, "id": None}, so_far, {"model": model, "choices": [{"message": message}]})


def _is_request(body: Any) -> bool:
    return isinstance(body, dict) and isinstance(body.get("contents"), list | str | dict)


def _has_parts(contents: Any) -> bool:
    listed = contents if isinstance(contents, list) else [contents]
    return any(isinstance(content, dict) and isinstance(content.get("parts"), list) for content in listed)


def _is_own_response(found: Any) -> bool:
    if isinstance(found, str):
        return found.lstrip().startswith("data:") and '"candidates"' in found
    if isinstance(found, list):
        return bool(found) and _is_own_response(found[0])
    return isinstance(found, dict) and (
        isinstance(found.get("candidates"), list) or isinstance(_value(found, "promptFeedback"), dict)
    )


def _is_error_list(found: Any) -> bool:
    """Whether a stream failed at once: REST then answers with a list of one error."""
    return isinstance(found, list) and len(found) == 1 and isinstance(found[0], dict) and "error" in found[0]


def _response(row: Row) -> Any:
    found = find_response(row, _is_own_response)
    return row if found is None and isinstance(row.get("candidates"), list) else found


def _value(holder: Row, key: str) -> Any:
    """The value of a key in camel case or snake case."""
    found = holder.get(key)
    return holder.get(_SNAKE[key]) if found is None else found


# Contents


class _Thread:
    """The messages so far, and the calls that no result has answered yet, as name and id."""

    def __init__(self) -> None:
        self.messages: list[Row] = []
        self._unanswered: list[tuple[str, str]] = []
        self._count = 0

    def add(self, content: Row, where: str) -> None:
        """Add the messages of a content."""
        parts = content.get("parts")
        parts = [parts] if isinstance(parts, str | dict) else parts or []
        if not isinstance(parts, list):
            raise unexpected(where, '"parts", a list', parts, "bad-content")
        role = content.get("role")
        if role not in ("user", "model", "assistant", "function", "tool", "system", "", None):
            raise unexpected(where, 'a "role" of user, model, function', role, "bad-role")
        if role in ("model", "assistant"):
            self._add_turn(assistant_turn(self.messages), parts, where)
            return
        texts: list[str] = []
        for number, part in enumerate(parts):
            place = f"{where}: part {number}"
            result = _value(part, "functionResponse") if isinstance(part, dict) else None
            if result is not None:
                self.messages.append(self._result(result, place))
            else:
                texts.append(_text(part, place))
        if texts or not parts:
            self.messages.append({"role": "system" if role == "system" else "user", "content": "".join(texts)})

    def _add_turn(self, turn: Row, parts: list[Any], where: str) -> None:
        self._unanswered = [] if not turn.get("tool_calls") else self._unanswered
        for number, part in enumerate(parts):
            place = f"{where}: part {number}"
            call = _value(part, "functionCall") if isinstance(part, dict) else None
            if call is not None:
                self._call(turn, call, place)
            elif isinstance(part, dict) and part.get("thought") is True:
                add_reasoning(turn, _text(part, place), place)
            else:
                add_text(turn, _text(part, place), place)

    def _call(self, turn: Row, call: Any, where: str) -> None:
        if not isinstance(call, dict):
            raise unexpected(where, "a functionCall with a name", call, "bad-call")
        if _value(call, "partialArgs") or _value(call, "willContinue"):
            text = f"{where}: a call with streamed arguments; log the whole response"
            raise RowError(text, rule="log-broken-call")
        id_ = call["id"] if isinstance(call.get("id"), str) and call["id"] else f"call_{self._count}"
        self._count += 1
        add_call(turn, id_, call.get("name"), call.get("args"), where)
        self._unanswered.append((call["name"], id_))

    def _result(self, result: Any, where: str) -> Row:
        """The message of a result, with the id of its call: its own, or that of the first unanswered call of its name.
        A result of no call gets no id; the check reports it."""
        if not isinstance(result, dict):
            raise unexpected(where, "a functionResponse with a name", result, "bad-content")
        if result.get("parts"):
            raise not_text("functionResponse with parts", where)
        id_ = result.get("id") or next((id for name, id in self._unanswered if name == result.get("name")), None)
        self._unanswered = [each for each in self._unanswered if each[1] != id_]
        return {"role": "tool", "tool_call_id": id_, "content": result_text(result.get("response"))}


def _text(part: Any, where: str) -> str:
    """The text of a part. Raises RowError if the part is something else."""
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        raise unexpected(where, "a part", part, "bad-content")
    for kind in _CODE:
        if _value(part, kind) is not None:
            raise hosted_tool(kind, where)
    if isinstance(part.get("text"), str):
        return str(part["text"])
    if not any(value for key, value in part.items() if key not in ("thought", "thoughtSignature", "thought_signature")):
        return ""  # only the signature of the thoughts before it
    kind = next((kind for kind in _MEDIA if _value(part, kind) is not None), next(iter(part)))
    raise not_text(kind, where)


def _contents(found: Any, where: str) -> Iterator[tuple[str, Row]]:
    """Each content with its place. The SDKs also take a text, a part, and lists of those, as one content of the
    user."""
    listed = found if isinstance(found, list) else [found]
    loose: list[Any] = []
    for number, each in enumerate(listed):
        if isinstance(each, dict) and ("parts" in each or "role" in each):
            if loose:
                yield f"{where}: contents", {"role": "user", "parts": loose}
                loose = []
            yield f"{where}: content {number}", each
        else:
            loose.append(each)
    if loose:
        yield f"{where}: contents", {"role": "user", "parts": loose}


# Requests


def _settings(request: Row) -> Iterator[Row]:
    """The request, and its config: the SDKs keep the system instruction and the tools there."""
    yield request
    yield from (request[key] for key in _CONFIGS if isinstance(request.get(key), dict))


def _setting(request: Row, key: str) -> Any:
    return next((found for holder in _settings(request) if (found := _value(holder, key)) is not None), None)


def _openai_request(request: Row, contents: Any, where: str) -> tuple[_Thread, Row]:
    """The thread of a request, and the request in OpenAI's format with that thread's messages."""
    if _setting(request, "cachedContent"):
        text = f"{where}: the prompt continues a cached content, which the log does not have"
        raise RowError(text, rule="log-no-history")
    thread = _Thread()
    system = _setting(request, "systemInstruction")
    for place, content in _contents(system, f"{where}: systemInstruction") if system else ():
        thread.add({**content, "role": "system"}, place)
    for place, content in _contents(contents, where):
        thread.add(content, place)
    functions, hosted = _tools_of(request, where)
    made: Row = {"messages": thread.messages, "tools": [*functions, *({"type": name} for name in hosted)] or None}
    if request.get("model"):
        made["model"] = request["model"]
    if choice := _tool_choice(_setting(request, "toolConfig")):
        made["tool_choice"] = choice
    return thread, made


def _tool_choice(config: Any) -> Any:
    calling = _value(config, "functionCallingConfig") if isinstance(config, dict) else None
    if not isinstance(calling, dict):
        return None
    choice = _CHOICES.get(_enum_name(calling.get("mode")))
    names = _value(calling, "allowedFunctionNames")
    if choice == "required" and isinstance(names, list) and len(names) == 1:
        return {"type": "function", "function": {"name": names[0]}}
    return choice


def _enum_name(value: Any) -> str:
    """The name of an enum's value: `FinishReason.STOP` and `stop` are `STOP`."""
    return str(value).rpartition(".")[2].upper() if isinstance(value, str) else str(value)


# Responses


def _whole(response: Any, where: str) -> Row:
    """The whole response of a stream: the parts of all chunks, and the last value of each other key."""
    if isinstance(response, str):
        response = stream_events(response, where)
    if not isinstance(response, list):
        return dict(response)
    whole: Row = {}
    first: Row = {}
    parts: list[Any] = []
    for chunk in objects(response, where, "chunks"):
        if chunk.get("error"):
            raise RowError(f"{where}: the stream ends with an error: {short(chunk['error'])}", rule="log-error")
        whole |= {key: value for key, value in chunk.items() if value is not None}
        for candidate in objects(chunk.get("candidates") or [], where, "candidates"):
            if candidate.get("index") not in (0, None):
                raise RowError(f"{where}: the stream has several candidates; log only one", rule="log-choices")
            first |= {key: value for key, value in candidate.items() if value is not None}
            content = candidate.get("content")
            of_chunk = content.get("parts") if isinstance(content, dict) else None
            parts += of_chunk if isinstance(of_chunk, list) else []
    if first and _value(first, "finishReason") is None:
        raise RowError(f"{where}: the stream ends before its finishReason", rule="log-truncated")
    return {**whole, "candidates": [{**first, "content": {"role": "model", "parts": parts}}] if first else []}


def _chat_completion(response: Row, thread: _Thread, where: str) -> Row:
    """The response as a chat completion, with only the first candidate's message. Calls without ids get the ids that
    the next request's history gives them."""
    candidates = objects(response.get("candidates") or [], where, "candidates")
    feedback = _value(response, "promptFeedback")
    if not candidates:
        reason = _value(feedback, "blockReason") if isinstance(feedback, dict) else None
        rule = "log-filtered" if reason else "log-empty"
        raise RowError(f"{where}: the response has no candidate (blockReason {short(reason)})", rule=rule)
    reason = _enum_name(_value(candidates[0], "finishReason"))
    if reason in _BROKEN_CALLS:
        raise RowError(f"{where}: the response ended with finishReason {reason}", rule="log-broken-call")
    content = candidates[0].get("content")
    prompt, thread.messages = thread.messages, []
    if isinstance(content, dict):
        thread.add({**content, "role": "model"}, f"{where}: content")
    turn = thread.messages[0] if thread.messages else {"role": "assistant", "content": None}
    thread.messages = prompt
    choice = {"index": 0, "message": turn, "finish_reason": _FINISH_REASONS.get(reason, "error")}
    return {
        "id": _value(response, "responseId"),
        "model": _value(response, "modelVersion"),
        "created": _value(response, "createTime"),
        "choices": [choice, *({"index": n} for n in range(1, len(candidates)))],
    }


# Tools


def _tools_of(request: Row, where: str) -> tuple[list[Row], list[str]]:
    """The functions that the request declares, with JSON Schema, and the names of the provider's tools."""
    holder = next((holder for holder in _settings(request) if holder.get("tools")), request)
    if isinstance(holder.get("tools"), dict):
        holder = {"tools": [holder["tools"]]}
    # The cache key: most rows of a file have the same tools.
    functions, hosted = _read_tools(marshal.dumps(tool_rows(holder, where) or [], 2))
    return list(functions), list(hosted)


@lru_cache(maxsize=256)
def _read_tools(tools: bytes) -> tuple[tuple[Any, ...], tuple[str, ...]]:
    functions: list[Any] = []
    hosted: list[str] = []
    for tool in marshal.loads(tools):
        if not isinstance(tool, dict) or "name" in tool or "function" in tool:
            functions.append(_with_json_schema(tool))
            continue
        for key, value in tool.items():
            if key in ("functionDeclarations", "function_declarations") and isinstance(value, list):
                functions += map(_with_json_schema, value)
            elif value is not None:
                hosted.append(key)
    return tuple(functions), tuple(hosted)


def _with_json_schema(tool: Any) -> Any:
    """The declaration with its parameters as JSON Schema. A value that is not an object is refused later."""
    if not isinstance(tool, dict):
        return tool
    key = schema_key(tool)
    return {**tool, key: gemini_schema(tool[key])} if tool.get(key) is not None else tool
