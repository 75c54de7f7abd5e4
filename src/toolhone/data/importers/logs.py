"""Application logs: a line has a request and its response, of chat completions or of the Responses API.

An application resends the conversation at every step, so one conversation spans many lines. `Fold` joins a line to the
earlier line whose response it continues. Training learns the turns that a logged response produced. Assistant turns
that appear only in a request are context (weight 0). `gold_source` is the model that answered, so a score on such rows
measures agreement with that model.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from toolhone.data.importers import openai, thinking
from toolhone.data.importers.bodies import (
    REQUEST_KEYS,
    RESPONSE_KEYS,
    STREAM_KEYS,
    TIME_KEYS,
    body_of,
    is_failed,
    refuse_failed,
)
from toolhone.data.importers.importer import Row, RowFault, json_text, short, unexpected
from toolhone.data.importers.responses import is_response, is_stream, request_messages, response_message, whole_response
from toolhone.errors import RowError
from toolhone.records import Conversation, Tool, tools_text

_ALL_RESPONSE_KEYS = frozenset((*RESPONSE_KEYS, *STREAM_KEYS, "choices"))
# Where other loggers keep a request's tools if they log only its messages.
_TOOL_HOLDERS = ("invocation_params", "invocationParams", "parameters", "params", "extra")
# Faults in what a model wrote, not in the log.
_BROKEN_CALL = frozenset({"bad-arguments", "duplicate-key", "nan", "surrogate"})
_CREATED_KEYS = ("created", "created_at")  # of a response
_ISO_DAY = re.compile(r"\d{4}-\d\d-\d\d(?!\d)")
_LAST_SECOND = datetime(9999, 12, 31, tzinfo=UTC).timestamp()
_KEPT = ("role", "content", "tool_calls", "function_call", "tool_call_id", "name", thinking.KEY)


def looks_like(row: Row) -> bool:
    """Whether the row has a request to a chat model, and its response or its error."""
    if not row.keys() & _ALL_RESPONSE_KEYS:
        return False
    request, response = _request(row), _response(row)
    if request is None:
        return False
    return _is_body(response) or is_stream(response) or is_failed(row)


def read(row: Row, where: str, default_tools: tuple[Tool, ...] = ()) -> Conversation:
    """The conversation of one line. Only the response is learned; the request's messages are context."""
    fold = Fold(default_tools)
    list(fold.add(row, where))  # its advice is not asked for
    (found,) = fold.conversations()
    return found


@dataclass(slots=True)
class _Partial:
    """A conversation so far, with the indexes of the messages that a logged response produced. `date` is the day of its
    first line, such as "2026-11-30"; "" if unknown."""

    conversation: Conversation
    learned: set[int]
    date: str


class Fold:
    """Folds the lines of a log, in any order, into conversations. Each line that `add` accepts is one learned turn."""

    def __init__(self, default_tools: tuple[Tool, ...] = ()) -> None:
        self._default_tools = default_tools
        self._partials: list[_Partial] = []
        self._ends: dict[bytes, _Partial] = {}  # by the hash of all messages
        self._places: dict[bytes, tuple[_Partial, int]] = {}  # by the hash of the messages up to an assistant turn
        self._ids: dict[str, str] = {}  # the first place of each response id
        self._lines: dict[tuple[str, bytes], str] = {}  # the first place of each response id and hash of all messages
        self._threads: dict[str, list[Row]] = {}  # the messages up to a response, by its id

    def add(self, row: Row, where: str) -> Iterator[RowFault]:
        """Add a line, and yield warnings and advice about it. Raises RowError if it has no turn to learn: a failed
        request, a truncated or refused response, a call that cannot be read, or a line logged twice."""
        request, response = _request_and_response(row, where)
        try:
            found = self._conversation(request, response, where)
        except RowError as error:
            if error.rule in _BROKEN_CALL:
                raise RowError(str(error), rule="log-broken-call") from None
            raise
        hashes = _prefix_hashes(found)
        # Session ids, short ids and Azure's empty ids repeat, so responses with the same id may be different ones.
        line = self._lines.setdefault((found.id, hashes[-1]), where) if found.id else where
        if line != where:
            raise RowError(f"{where}: the response {found.id} was already logged at {line}", rule="log-repeated")
        first = self._ids.setdefault(found.id, where) if found.id else where
        is_new = self._fold(found if first == where else replace(found, id=""), hashes, _date(response))
        if first != where and is_new:
            text = f"the response id {found.id} is also at {first}, with different content; both rows are kept"
            yield RowFault(where, "log-id-reused", text)
        yield from _advice(request, response, where)

    def conversations(self) -> Iterator[Conversation]:
        """The folded conversations, in the order of their first lines."""
        for partial in self._partials:
            messages = tuple(
                replace(message, weight=float(n in partial.learned))
                if message.role == "assistant" and message.weight != (n in partial.learned)
                else message
                for n, message in enumerate(partial.conversation.messages)
            )
            dated = {"date": partial.date} if partial.date else {}
            found = replace(partial.conversation, messages=messages, meta={**partial.conversation.meta, **dated})
            yield found if found.id else replace(found, id=found.content_hash())

    def _conversation(self, request: Row, response: Row, where: str) -> Conversation:
        if is_response(response):
            answer = response_message(response, f"{where}: output")
            thread = [*self._thread(request, where), *request_messages(request, f"{where}: input")]
            instructions = request.get("instructions") or response.get("instructions")
            prompt = [{"role": "system", "content": instructions}, *thread] if instructions else thread
            if isinstance(response.get("id"), str) and response["id"]:
                self._threads[response["id"]] = [*thread, answer]
            request = {**{key: response.get(key) for key in ("tools", "parallel_tool_calls", "model")}, **request}
        else:
            answer = _chat_answer(response, where)
            prompt = request.get("messages")  # type: ignore[assignment]  # checked next
            if not isinstance(prompt, list) or not prompt:
                raise unexpected(where, '"messages" in the request', prompt, "no-messages")
        _refuse_empty(answer, where)
        messages = [_plain(message, f"{where}: message {n}") for n, message in enumerate([*prompt, answer])]
        model = response.get("model") or request.get("model")
        id = response["id"] if isinstance(response.get("id"), str) else ""
        row = {
            "id": id or None,
            "messages": messages,
            **_offered_tools(request, where),
            "parallel_tool_calls": request.get("parallel_tool_calls"),
            "gold_source": model if isinstance(model, str) else "unknown",
        }
        found = openai.read(row, where, self._default_tools)
        return found if id else replace(found, id="")

    def _thread(self, request: Row, where: str) -> list[Row]:
        """The earlier messages of the request, which the server stored."""
        previous = request.get("previous_response_id")
        if previous is None and request.get("conversation") is None:
            return []
        if not isinstance(previous, str) or previous not in self._threads:
            text = f"{where}: continues {short(previous or request.get('conversation'))}, which the log does not have"
            raise RowError(f"{text} before this line, so the prompt is unknown", rule="log-no-history")
        return self._threads[previous]

    def _fold(self, found: Conversation, hashes: list[bytes], date: str) -> bool:
        """Join a line to the conversation that it continues, or begin a new one. Returns whether it begins one.
        `hashes` are those of its prefixes."""
        last = len(found.messages) - 1
        known = self._places.get(hashes[last])
        if known is not None and known[1] not in known[0].learned:  # a longer line came first
            known[0].learned.add(known[1])
            known[0].conversation = thinking.with_thoughts_of(known[0].conversation, found)
            return False
        earlier = (hashes[n] for n in range(last - 1, -1, -1) if found.messages[n].role == "assistant")
        end = next((prefix for prefix in earlier if prefix in self._ends), None)
        if end is None:
            partial = _Partial(found, {last}, date)
            self._partials.append(partial)
        else:
            partial = self._ends.pop(end)
            found = thinking.with_thoughts_of(found, partial.conversation)
            partial.conversation = replace(found, id=found.id or partial.conversation.id)
            partial.learned.add(last)
            partial.date = min(partial.date, date) or date
        self._ends[hashes[last]] = partial
        for n, message in enumerate(found.messages):
            if message.role == "assistant":
                self._places.setdefault(hashes[n], (partial, n))
        return end is None


def _date(response: Row) -> str:
    """The day of the response: `created` in seconds since 1970 (`created_at` in the Responses API), or an ISO text."""
    found = next((response[key] for key in _CREATED_KEYS if response.get(key)), None)
    if isinstance(found, str):
        return found[:10] if _ISO_DAY.match(found) else ""
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 < found < _LAST_SECOND:
        return ""
    return datetime.fromtimestamp(found, UTC).date().isoformat()


def _prefix_hashes(found: Conversation) -> list[bytes]:
    """For each message, a hash of the messages up to it, and of what lines of one conversation share: tools, model and
    meta. Thinking is not included."""
    shared = json.dumps([found.parallel_tool_calls, found.gold_source, found.meta], sort_keys=True)
    state = hashlib.sha256(f"{tools_text(found.tools)}\n{shared}\n".encode())
    hashes = []
    for message in found.messages:
        said = replace(message, thinking="") if message.thinking else message
        state.update(said.to_text().encode() + b"\n")
        hashes.append(state.digest())
    return hashes


def _chat_answer(response: Row, where: str) -> Row:
    choices = response.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict) or not isinstance(choice.get("message"), dict):
        raise RowError(f"{where}: the response has no choice with a message", rule="log-empty")
    reason = choice.get("finish_reason")
    if reason == "length":
        raise RowError(f"{where}: the response was cut off at the token limit", rule="log-truncated")
    if rule := {"content_filter": "log-filtered", "error": "log-error"}.get(str(reason)):
        raise RowError(f'{where}: the response ended with finish_reason "{reason}"', rule=rule)
    message = thinking.with_thinking(choice["message"], f"{where}: the response")
    return {
        "role": "assistant",
        **{key: message[key] for key in (*_KEPT[1:], "refusal") if key in message},
    }


def _refuse_empty(answer: Row, where: str) -> None:
    if answer.get("content") or answer.get("tool_calls") or answer.get("function_call"):
        return
    if answer.get("refusal"):
        raise RowError(f"{where}: the model refused: {short(answer['refusal'])}", rule="log-refusal")
    raise RowError(f"{where}: the response has no text and no call", rule="log-empty")


def _plain(message: Any, where: str) -> Any:
    """The message without keys that only a server needs. A value that is not an object is returned for `openai` to
    refuse."""
    if not isinstance(message, dict):
        return message
    message = thinking.with_thinking(message, where) if message.get("role") == "assistant" else message
    kept = {key: message[key] for key in _KEPT if message.get(key) is not None}
    if message.get("role") == "assistant":
        content = openai.text_of(message.get("content"), where)
        kept["content"] = content if content or not isinstance(message.get("refusal"), str) else message["refusal"]
        if kept["content"] is None and not (kept.get("tool_calls") or kept.get("function_call")):
            kept["content"] = ""
    return kept


def _offered_tools(request: Row, where: str) -> Row:
    """The row's `tools` or `functions`; none if the request forbids calls. `meta` names OpenAI's hosted tools, which a
    row cannot hold. The flat tools of the Responses API become nested ones."""
    if request.get("tool_choice") == "none" or request.get("function_call") == "none":
        return {"tools": []}
    tools = request.get("tools")
    if isinstance(tools, str):
        tools = json_text(tools, f"{where}: tools")
    if not isinstance(tools, list):
        return {key: request[key] for key in ("tools", "functions") if request.get(key) is not None}
    hosted: list[str] = []
    functions: list[Any] = []
    for tool in tools:
        if not isinstance(tool, dict) or "function" in tool or not isinstance(tool.get("type"), str):
            functions.append(tool)
        elif tool["type"] == "function":
            functions.append({"type": "function", "function": {k: v for k, v in tool.items() if k != "type"}})
        else:
            hosted.append(tool["type"])
    return {"tools": functions, "meta": {"hosted_tools": hosted}} if hosted else {"tools": functions}


def _advice(request: Row, response: Row, where: str) -> Iterator[RowFault]:
    choices = response.get("choices")
    if isinstance(choices, list) and len(choices) > 1:
        yield RowFault(where, "log-choices", f"the response has {len(choices)} choices; only the first is read")
    choice = request.get("tool_choice") or request.get("function_call")
    if choice == "required" or (isinstance(choice, dict) and choice.get("type") != "allowed_tools"):
        yield RowFault(where, "log-forced", f"the request forced a call (tool_choice {short(choice)})")


# Finding the request and the response in a line


def _request_and_response(row: Row, where: str) -> tuple[Row, Row]:
    """The request and the response of a line. A response that is only a message, or a string, becomes a chat
    completion."""
    request, response = _request(row), _response(row)
    if request is None:
        raise RowError(f'{where}: no request with "messages" or "input"', rule="log-unknown")
    _refuse_anthropic(request, response, where)
    request = _with_tools(request, row, where)
    refuse_failed(row, response, where)
    if is_stream(response):
        response = whole_response(response, where)
    if isinstance(response, dict) and response.get("role") == "assistant":
        response = {"id": row.get("id"), "choices": [{"message": response}]}
    if _is_ollama(response):
        response = {**response, "choices": [{**response, "finish_reason": response.get("done_reason")}]}
    if isinstance(response, str):
        if response.lstrip().startswith("{") and ('"choices"' in response or '"output"' in response):
            text = f"{where}: the response is a JSON string that cannot be decoded: {short(response)}"
            raise RowError(text, rule="broken-json")
        response = {"id": row.get("id"), "choices": [{"message": {"role": "assistant", "content": response}}]}
    if not isinstance(response, dict):
        raise RowError(f"{where}: no response", rule="log-empty")
    if response.get("model") is None and row.get("model") is not None:
        response = {**response, "model": row["model"]}
    if not any(response.get(key) for key in _CREATED_KEYS):
        response = {**response, "created": next((row[key] for key in TIME_KEYS if row.get(key)), None)}
    return request, response


def _refuse_anthropic(request: Row, response: Any, where: str) -> None:
    """Raise RowError for a body in Anthropic's format, which this reader would read without its system message or stop
    reason. If the format is auto, the row is then read by its own importer."""
    system = "system" if "messages" in request and request.get("system") else ""
    key = system or ("stop_reason" if isinstance(response, dict) and "stop_reason" in response else "")
    if key:
        text = f'{where}: found "{key}", as in Anthropic\'s format; set data.format to "anthropic" or "auto"'
        raise RowError(text, rule="other-format")


def _with_tools(request: Row, row: Row, where: str) -> Row:
    """The request with its tools, wherever the line keeps them."""
    messages = request.get("messages")
    if request.get("tools") is not None or request.get("functions") is not None or not isinstance(messages, list):
        return request
    for key in _TOOL_HOLDERS:
        holder = row.get(key)
        text = holder if isinstance(holder, str) and holder[:1] == "{" else ""
        holder = body_of(json_text(text, f"{where}: {key}") if text else holder)
        for found in (holder, holder.get("invocation_params") if isinstance(holder, dict) else None):
            if isinstance(found, dict) and (found.get("tools") or found.get("functions")):
                names = ("tools", "functions", "tool_choice", "function_call", "parallel_tool_calls")
                return {**request, **{name: found[name] for name in names if found.get(name) is not None}}
    return request


def _request(row: Row) -> Row | None:
    messages = body_of(row.get("messages"))
    if isinstance(messages, list):
        return {**row, "messages": messages}
    if "input" in row and _is_items(row.get("output")):
        return row
    for key in REQUEST_KEYS:
        found = body_of(row.get(key))
        if isinstance(found, dict) and (isinstance(found.get("messages"), list) or "input" in found):
            return found
        if isinstance(found, list) and found and all(isinstance(m, dict) and "role" in m for m in found):
            shared = {name: row[name] for name in ("tools", "functions", "model") if row.get(name) is not None}
            return {**shared, "messages": found}
        if key == "input" and isinstance(found, str) and is_response(_response(row)):
            return {"input": found}
    return None


def _response(row: Row) -> Any:
    if isinstance(row.get("choices"), list) or ("input" in row and _is_items(row.get("output"))):
        return row
    for key in (*STREAM_KEYS, *RESPONSE_KEYS):
        if row.get(key) is not None:
            found = body_of(row[key])
            inner = next((found[k] for k in STREAM_KEYS if found.get(k)), None) if isinstance(found, dict) else None
            return inner if is_stream(inner) else found
    return None


def _is_body(response: Any) -> bool:
    if isinstance(response, str):
        return bool(response.strip())
    if not isinstance(response, dict):
        return False
    has_choices = isinstance(response.get("choices"), list)
    return (
        has_choices
        or _is_ollama(response)
        or is_response(response)
        or response.get("role") == "assistant"
        or bool(response.get("error"))
    )


def _is_ollama(response: Any) -> bool:
    """Whether this is a response of Ollama's own API: one message beside `done`."""
    return isinstance(response, dict) and "done" in response and isinstance(response.get("message"), dict)


def _is_items(output: Any) -> bool:
    return isinstance(output, list) and bool(output) and all(isinstance(i, dict) and "type" in i for i in output)
