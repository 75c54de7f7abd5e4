"""Reads what tracers log as the input and the output of a model: LangSmith's, Langfuse's and OpenTelemetry's importers.

A tracer logs whatever the application passed to the client. So the input may be a request body, a list of messages or a
text; the output may be a response body, a message, LangChain's generations or a text. `log_line` reads all of them, as
objects or as JSON strings. Bodies of other providers stay as they are, for the provider's importer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from toolhone.data.importers import langchain
from toolhone.data.importers.importer import Row, RowFault, short
from toolhone.data.importers.responses import is_response, is_stream, whole_response
from toolhone.errors import RowError
from toolhone.strict_json import StrictJsonError, parse_strict

BROKEN = "log-broken-json"
NO_REQUEST = "log-no-request"
_REQUEST_NAMES = ("tools", "functions", "tool_choice", "function_call", "parallel_tool_calls")
_RESPONSE_MARKS = ('"choices"', '"output"', '"tool_calls"', '"generations"', '"role"', '"parts"')
_OUTPUT_KEYS = ("message", "output", "response", "completion", "content", "text", "answer", "result")


def log_line(
    found_input: Any,
    found_output: Any,
    where: str,
    holders: Sequence[Any] = (),
    model: Any = None,
    created: Any = None,
    id: Any = None,
) -> Row:
    """The log line of a request and its response.

    Args:
        holders: objects that may have the request's tools if the input has none, in the order of preference.
        model, created, id: used if the response has none.

    Raises:
        RowError: `log-no-request` if the input has no messages, `log-empty` without an output, `log-unknown` if the
            output has none of the known shapes, `log-broken-json` for JSON that was cut off.
    """
    request, response = json_or_text(found_input, where), json_or_text(found_output, where)
    if is_stream(response):
        response = whole_response(response, where)
    if not _is_native(request, response):
        request = _request(request, where, is_response(response))
        response = _response(response, where, request)
    return completed(request, response, where, holders, model, created, id)


def completed(
    request: Row,
    response: Row,
    where: str,
    holders: Sequence[Any] = (),
    model: Any = None,
    created: Any = None,
    id: Any = None,
) -> Row:
    """The log line of a request and a response that are already in OpenAI's or a provider's shape. The arguments are
    those of `log_line`."""
    request = _with_tools(request, holders, where)
    defaults = {"model": model, "created": created, "id": id}
    if not is_response(response) and _other_provider(response) is None:
        has_date = response.get("created") or response.get("created_at")
        missing = {key for key in defaults if not response.get(key) and not (key == "created" and has_date)}
        response = {**response, **{key: defaults[key] for key in missing if defaults[key] is not None}}
    return {"request": request, "response": response}


class PostedJoin:
    """Joins the pieces of a record that an SDK posted one after the other: its start, and later its end.

    `pieces` gives the records of a row, each with its id, or with None if it is complete. `is_whole` says whether the
    pieces so far have a request and its response. `lines` gives the log lines of a record, or raises RowError.
    """

    def __init__(
        self,
        pieces: Callable[[Row], Iterator[tuple[str | None, Row]]],
        is_whole: Callable[[Row], bool],
        lines: Callable[[Row, str], Iterator[Row]],
    ) -> None:
        self._pieces, self._is_whole, self._lines = pieces, is_whole, lines
        self._open: dict[str, tuple[Row, str]] = {}  # the pieces so far and their last place, by id
        self._closed: set[str] = set()

    def rewrite(self, row: Row, where: str) -> Iterator[Row | RowFault]:
        """Yield the log lines of the row's records that are complete, and a fault for each that is left out."""
        for id, record in self._pieces(row):
            if id is None:
                yield from self._found(record, where)
            elif id not in self._closed:
                before, _ = self._open.pop(id, ({}, ""))
                record = {**before, **record}
                if self._is_whole(record):
                    self._closed.add(id)
                    yield from self._found(record, where)
                else:
                    self._open[id] = (record, where)

    def unpaired(self) -> Iterator[RowFault]:
        """Yield a fault for each record that stays incomplete, or is no request to a model."""
        for record, where in self._open.values():
            yield from (fault for fault in self._found(record, where) if isinstance(fault, RowFault))

    def _found(self, record: Row, where: str) -> Iterator[Row | RowFault]:
        try:
            yield from self._lines(record, where)
        except RowError as error:
            yield RowFault.of_error(where, error)


def json_or_text(found: Any, where: str) -> Any:
    """The value of a JSON string that is a list or an object; anything else unchanged. Raises RowError for JSON of a
    message or a body that was cut off, as a tracer's limit on the length of an attribute does."""
    if not isinstance(found, str) or not found.lstrip().startswith(("{", "[")):
        return found
    try:
        return parse_strict(found)
    except StrictJsonError as error:
        if any(mark in found for mark in _RESPONSE_MARKS):
            raise RowError(f"{where}: {error}: {short(found)}", rule=BROKEN) from None
        return found


def completion(message: Row, finish_reason: Any = None) -> Row:
    """The chat completion of an assistant message, in OpenAI's shape."""
    return {"choices": [{"index": 0, "message": message, "finish_reason": langchain.finish_reason(finish_reason)}]}


def messages_of(found: Any, where: str) -> list[Row] | None:
    """The messages of a list, in OpenAI's shape; None if it is not a list of messages. LangChain logs one list for each
    prompt; a list of one prompt is read."""
    found = json_or_text(found, where)
    if isinstance(found, list) and len(found) == 1 and isinstance(found[0], list) and not langchain.is_pair(found[0]):
        found = found[0]
    if not isinstance(found, list) or not found:
        return None
    found = [json_or_text(each, where) for each in found]
    if not all(map(langchain.is_message, found)):
        return None
    return [langchain.message(each, f"{where}: message {n}") for n, each in enumerate(found)]


def _request(found: Any, where: str, of_responses: bool) -> Row:
    """The request body in OpenAI's shape."""
    if isinstance(found, dict):
        if of_responses and "input" in found:
            return found
        messages = messages_of(found.get("messages"), f"{where}: input")
        if messages is not None:
            return {**found, "messages": messages}
        if langchain.is_message(found):
            return {"messages": [langchain.message(found, where)]}
        for key in ("kwargs", "input", "prompt", "request", "body", "query", "question"):
            inner = json_or_text(found.get(key), where)
            if isinstance(inner, str) or (isinstance(inner, dict | list) and inner):
                shared = {name: found[name] for name in (*_REQUEST_NAMES, "model") if found.get(name) is not None}
                return {**shared, **_request(inner, where, of_responses)}
    if isinstance(found, str) and found.strip():
        return {"messages": [{"role": "user", "content": found}]}
    messages = messages_of(found, f"{where}: input")
    if messages is None:
        raise RowError(f"{where}: the input has no messages: {short(found)}", rule=NO_REQUEST)
    return {"messages": messages}


def _response(found: Any, where: str, request: Row) -> Row:
    """The response body in OpenAI's shape."""
    if isinstance(found, str):
        return completion({"role": "assistant", "content": found})
    if isinstance(found, list):
        return _response_of_list(found, where, request)
    if not isinstance(found, dict) or not found:
        raise RowError(f"{where}: no response", rule="log-empty")
    if is_response(found) or found.get("error"):
        return found
    if isinstance(found.get("choices"), list):
        return {**found, "choices": [_choice(each, where) for each in found["choices"]]}
    if isinstance(found.get("generations"), list):
        return _generations(found, where)
    if langchain.is_message(found):
        return _of_message(found, where)
    if isinstance(found.get("messages"), list):
        return _response_of_list(found["messages"], where, request)
    if found.get("tool_calls"):  # a message without its role
        return completion(langchain.message({"role": "assistant", **found}, where), langchain.stop_reason(found))
    for key in _OUTPUT_KEYS:
        inner = json_or_text(found.get(key), where)
        if isinstance(inner, str) or (isinstance(inner, dict | list) and inner):
            return whole_response(inner, where) if is_stream(inner) else _response(inner, where, request)
    raise RowError(f"{where}: an output in an unknown shape: {short(found)}", rule="log-unknown")


def _response_of_list(found: list[Any], where: str, request: Row) -> Row:
    if len(found) == 1 and isinstance(found[0], list) and not langchain.is_pair(found[0]):
        found = found[0]
    if not found:
        raise RowError(f"{where}: no response", rule="log-empty")
    if all(isinstance(each, dict) and ("finish_reason" in each or "generation_info" in each) for each in found):
        generations = any("generation_info" in each for each in found)
        return (
            _generations({"generations": [found]}, where) if generations else _response({"choices": found}, where, {})
        )
    if all(map(langchain.is_message, found)):
        said = [langchain.message(each, f"{where}: output {n}") for n, each in enumerate(found)]
        if all(each["role"] == "assistant" for each in said):  # the choices of one response
            choices = [choice for each in found for choice in _of_message(each, where)["choices"]]
            return {**_of_message(found[0], where), "choices": choices}
        known = request.get("messages")
        before = len(known) if isinstance(known, list) and said[: len(known)] == known else 0
        if isinstance(known, list):
            known += said[before:-1]  # a whole conversation as output: all but its end is context
        return _of_message(found[-1], where)
    if all(isinstance(each, dict) and ("function" in each or ("name" in each and "args" in each)) for each in found):
        return completion(langchain.message({"role": "assistant", "content": None, "tool_calls": found}, where))
    if all(isinstance(each, str) or (isinstance(each, dict) and isinstance(each.get("type"), str)) for each in found):
        return completion(langchain.message({"role": "assistant", "content": found}, where))
    raise RowError(f"{where}: an output in an unknown shape: {short(found)}", rule="log-unknown")


def _choice(found: Any, where: str) -> Any:
    if not isinstance(found, dict) or not isinstance(found.get("message"), dict):
        return found
    message = found["message"]
    if not langchain.is_message(message):  # OpenInference's streams have no role
        message = {"role": "assistant", **message}
    reason = langchain.finish_reason(found.get("finish_reason"))
    return {**found, "message": langchain.message(message, where), "finish_reason": reason}


def _generations(found: Row, where: str) -> Row:
    """LangChain's LLMResult: one list of generations for each prompt, or only the first one's list."""
    first: Any = found["generations"]
    while isinstance(first, list) and first and isinstance(first[0], list):
        first = first[0]
    choices = []
    for generation in first:
        message = generation.get("message") if isinstance(generation, dict) else None
        if isinstance(generation, dict) and message is None and isinstance(generation.get("text"), str):
            message = {"role": "assistant", "content": generation["text"]}
        if message is None or not langchain.is_message(message):
            raise RowError(f"{where}: a generation without a message: {short(generation)}", rule="log-unknown")
        info = generation.get("generation_info") or generation.get("generationInfo")
        reason = langchain.stop_reason(message) or (langchain.stop_reason(info) if isinstance(info, dict) else None)
        choices += completion(langchain.message(message, where), reason)["choices"]
    if not choices:
        raise RowError(f"{where}: the response has no generation", rule="log-empty")
    result = found.get("llm_output") or found.get("llmOutput")
    result = result if isinstance(result, dict) else {}
    origin = langchain.origin(first[0].get("message"))
    named = {"id": origin.get("id") or result.get("id"), "model": origin.get("model") or result.get("model_name")}
    return {"choices": choices, **{key: value for key, value in named.items() if value is not None}}


def _of_message(found: Any, where: str) -> Row:
    reason = langchain.stop_reason(found) if isinstance(found, dict) else None
    return {**langchain.origin(found), **completion(langchain.message(found, where), reason)}


def _with_tools(request: Row, holders: Sequence[Any], where: str) -> Row:
    """The request with the tools of the first holder that has any, if it has none itself."""
    if request.get("tools") or request.get("functions"):
        return request
    for holder in holders:
        found = json_or_text(holder, where)
        if isinstance(found, dict) and (found.get("tools") or found.get("functions")):
            named = {name: json_or_text(found[name], where) for name in _REQUEST_NAMES if found.get(name) is not None}
            return {**request, **named}
    return request


def _other_provider(response: Any) -> str | None:
    """The provider whose response body this is, if it is not OpenAI's."""
    if not isinstance(response, dict):
        return None
    if isinstance(response.get("content"), list) and ("stop_reason" in response or response.get("type") == "message"):
        return None if langchain.is_langchain(response) else "anthropic"
    if isinstance(response.get("candidates"), list):
        return "gemini"
    return "bedrock" if "stopReason" in response and isinstance(response.get("output"), dict) else None


def _is_native(request: Any, response: Any) -> bool:
    return isinstance(request, dict) and _other_provider(response) is not None
