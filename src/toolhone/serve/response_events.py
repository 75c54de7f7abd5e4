"""Writes a streamed answer as the events of OpenAI's Responses API.

In: the events of `stream.py`. Out: server-sent events in OpenAI's order. Each output item is opened, gets its deltas
and is closed before the next one. The last event has the whole response.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from toolhone.serve.request import ApiError
from toolhone.serve.responses import (
    ResponsesRequest,
    call_item,
    message_item,
    new_id,
    reasoning_item,
    response_token,
    text_part,
)
from toolhone.serve.stream import Delta, Event, Usage, sse


@dataclass(slots=True)
class _OpenItem:
    """The output item that is being written. `kind` is the type of the item, `id` its id, `text` what it has so far."""

    kind: str
    id: str
    text: list[str] = field(default_factory=list)
    tokens: list[Mapping[str, Any]] = field(default_factory=list)
    call_id: str = ""
    name: str = ""

    def item(self, status: str) -> dict[str, Any]:
        """Return the item; without its text while it is in progress."""
        begins, text = status == "in_progress", "".join(self.text)
        if self.kind == "reasoning":
            return reasoning_item(None if begins else text, self.id, status)
        if self.kind == "message":
            return message_item([] if begins else [text_part(text, self.tokens)], status, self.id)
        return call_item(self.call_id, self.name, "" if begins else text, self.id, status)

    def part(self, text: str) -> dict[str, Any]:
        """Return its only content part."""
        is_thought = self.kind == "reasoning"
        return {"type": "reasoning_text", "text": text} if is_thought else text_part(text, self.tokens)


class _ResponseWriter:
    """Writes the events of one response. They are numbered."""

    def __init__(self, request: ResponsesRequest, model: str) -> None:
        self._request, self._model, self._created = request, model, int(time.time())
        self._number = 0
        self._output: list[dict[str, Any]] = []
        self._open: _OpenItem | None = None
        self._finish_reason: str | None = None
        self._usage: Mapping[str, Any] | None = None

    def begin(self) -> Iterator[bytes]:
        for kind in ("created", "in_progress"):
            yield self._event(f"response.{kind}", response=self._response("in_progress"))

    def write(self, event: Event) -> Iterator[bytes]:
        """Yield what an event adds."""
        if isinstance(event, Usage):
            self._usage = event.usage
        elif isinstance(event[1], Delta):
            yield from self._delta(event[1])
        else:
            self._finish_reason = event[1].reason

    def end(self) -> Iterator[bytes]:
        """Close what is open, and yield the whole response."""
        if self._open is None and not self._output:  # an empty answer is an empty text
            yield from self._begin(_OpenItem("message", new_id("msg")))
        response = self._response("completed")
        yield from self._close("completed" if response["status"] == "completed" else "incomplete")
        response = self._response("completed")
        yield self._event(f"response.{response['status']}", response=response)

    def fail(self, error: ApiError) -> Iterator[bytes]:
        """Yield the failed response. It keeps what is complete."""
        # OpenAI's own codes are a closed list.
        code = "rate_limit_exceeded" if error.status == 429 else "server_error"
        found = {"code": code, "message": error.message}
        yield self._event("response.failed", response=self._response("failed", found))

    def _delta(self, delta: Delta) -> Iterator[bytes]:
        tokens = list(delta.tokens)
        if delta.reasoning:
            yield from self._open_item("reasoning")
            yield self._text_event("response.reasoning_text.delta", delta=delta.reasoning)
            self._add(delta.reasoning)
        if text := delta.content or delta.refusal:  # a refusal is streamed as text
            yield from self._open_item("message")
            logged = [response_token(token) for token in tokens]
            yield self._text_event("response.output_text.delta", delta=text, logprobs=logged)
            self._add(text, tokens)
        if delta.call is not None:
            if delta.call.name is not None:
                yield from self._close("completed")
                item = _OpenItem("function_call", new_id("fc"), call_id=delta.call.id or "", name=delta.call.name)
                yield from self._begin(item)
            if delta.call.arguments:
                yield self._item_event("response.function_call_arguments.delta", delta=delta.call.arguments)
                self._add(delta.call.arguments)

    def _add(self, text: str, tokens: list[Mapping[str, Any]] | None = None) -> None:
        assert self._open is not None
        self._open.text.append(text)
        self._open.tokens += tokens or []

    def _open_item(self, kind: str) -> Iterator[bytes]:
        """Open an item of this kind, unless it is open."""
        if self._open is None or self._open.kind != kind:
            yield from self._close("completed")
            yield from self._begin(_OpenItem(kind, new_id("rs" if kind == "reasoning" else "msg")))

    def _begin(self, item: _OpenItem) -> Iterator[bytes]:
        self._open = item
        added = item.item("in_progress")
        yield self._event("response.output_item.added", output_index=len(self._output), item=added)
        if item.kind != "function_call":
            yield self._text_event("response.content_part.added", part=item.part(""))

    def _close(self, status: str) -> Iterator[bytes]:
        """Close the open item, if there is one."""
        item = self._open
        if item is None:
            return
        text, whole = "".join(item.text), item.item(status)
        if item.kind == "function_call":
            yield self._item_event("response.function_call_arguments.done", name=item.name, arguments=text)
        else:
            part = whole["content"][0]
            if item.kind == "reasoning":
                yield self._text_event("response.reasoning_text.done", text=text)
            else:
                yield self._text_event("response.output_text.done", text=text, logprobs=part["logprobs"])
            yield self._text_event("response.content_part.done", part=part)
        yield self._event("response.output_item.done", output_index=len(self._output), item=whole)
        self._output.append(whole)
        self._open = None

    def _text_event(self, kind: str, **fields: Any) -> bytes:
        return self._item_event(kind, content_index=0, **fields)

    def _item_event(self, kind: str, **fields: Any) -> bytes:
        assert self._open is not None
        return self._event(kind, item_id=self._open.id, output_index=len(self._output), **fields)

    def _event(self, kind: str, **fields: Any) -> bytes:
        number, self._number = self._number, self._number + 1
        return sse({"type": kind, "sequence_number": number, **fields}, kind)

    def _response(self, status: str, error: Mapping[str, Any] | None = None) -> dict[str, Any]:
        return self._request.response(
            status,
            self._output,
            model=self._model,
            created=self._created,
            finish_reason=self._finish_reason,
            usage=self._usage,
            error=error,
        )


async def response_events(
    events: AsyncIterator[Event], request: ResponsesRequest, model: str
) -> AsyncGenerator[bytes, None]:
    """Yield the body of a streamed response of this model. An `ApiError` ends it as failed."""
    writer = _ResponseWriter(request, model)
    for part in writer.begin():
        yield part
    try:
        async for event in events:
            for part in writer.write(event):
                yield part
    except ApiError as error:
        for part in writer.fail(error):
            yield part
        return
    for part in writer.end():
        yield part
