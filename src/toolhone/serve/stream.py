"""Streams an answer: the small model's text as deltas while it is generated, and deltas as OpenAI's chunks.

In: the text of a turn in any pieces, with its tokens. Out: `Delta`s that add up to the message of `reply.read_reply`
for the whole text, whatever the pieces are. Prose and the thought at the start are given at once. From the place where
a call may begin, the text waits for the end of the turn: a turn with a call that cannot be read is text as a whole.

One text differs: a `</think>` that neither the text nor the prompt opened makes a thought of the prose before it. That
prose was already given, so it stays content.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from toolhone.chat.call_openings import ProseScanner
from toolhone.formats.pieces import THINK, THINK_END
from toolhone.jsonl import json_line
from toolhone.records import FinishReason, FormatName
from toolhone.serve.reply import Reply, new_call_id, read_reply
from toolhone.serve.request import ApiError

_MAX_UNDECIDED = 4096
_PIECE_CHARACTERS = 400
"""The arguments of a call are sent in pieces of this size."""


@dataclass(frozen=True, slots=True)
class CallDelta:
    """A part of a call. The first one of a call has its id and name, further ones a piece of its arguments, as JSON."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""

    def to_json(self) -> dict[str, Any]:
        if self.name is None:
            return {"index": self.index, "function": {"arguments": self.arguments}}
        function = {"name": self.name, "arguments": self.arguments}
        return {"index": self.index, "id": self.id, "type": "function", "function": function}


@dataclass(frozen=True, slots=True)
class Delta:
    """A part of an answer: text, thinking, a large model's refusal, or a part of a call. `tokens` are what `feed` got
    with the text."""

    content: str = ""
    reasoning: str = ""
    refusal: str = ""
    call: CallDelta | None = None
    tokens: tuple[Any, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the `delta` of a chunk."""
        row: dict[str, Any] = {}
        if self.reasoning:
            row["reasoning_content"] = self.reasoning
        if self.refusal:
            row["refusal"] = self.refusal
        if self.call is not None:
            row["tool_calls"] = [self.call.to_json()]
        return row | ({"content": self.content} if self.content or not row else {})


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of a choice: OpenAI's finish reason."""

    reason: str


@dataclass(frozen=True, slots=True)
class Usage:
    """The numbers of tokens of a request, as OpenAI's `usage`; and the details that the playground asks for."""

    usage: Mapping[str, Any]
    details: Mapping[str, Any] | None = None


class DeltaReader:
    """Reads the text of one choice as deltas. After `finish`, `reply` is the whole answer.

    Args as in `read_reply`. The text must end before a stop string.
    """

    def __init__(
        self,
        format: FormatName,
        tools: Mapping[str, Any],
        *,
        callable_names: Collection[str],
        parallel: bool = True,
        in_thought: bool = False,
    ) -> None:
        self._format, self._tools = format, tools
        self._callable, self._parallel, self._in_thought = callable_names, parallel, in_thought
        self._scanner = ProseScanner(format, tools, may_call=bool(callable_names))
        self._text: list[str] = []
        self._size = 0
        self._place = "answer" if self._scanner.has_headers and not in_thought else "start"
        self._undecided = ""
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._tokens: deque[tuple[int, Any]] = deque()  # each with the index where its text begins
        self._reply: Reply | None = None

    @property
    def reply(self) -> Reply:
        """The whole answer."""
        if self._reply is None:
            raise RuntimeError("the turn is not finished; call finish first")
        return self._reply

    def feed(self, text: str, token: Any = None) -> list[Delta]:
        """Return what a piece of the text adds to the answer. `token` describes it, for example with its
        log-probability; it comes back with the delta that has the text, or with the next one."""
        if token is not None:
            self._tokens.append((self._size, token))
        return self._read(text)

    def finish(self, reason: FinishReason) -> list[Delta]:
        """Return the rest of the answer. `reason` says why generation ended."""
        self._reply = reply = read_reply(
            "".join(self._text),
            reason,
            self._format,
            self._tools,
            callable_names=self._callable,
            parallel=self._parallel,
            in_thought=self._in_thought,
        )
        deltas: list[Delta] = []
        content, given = reply.content or "", "".join(self._content)
        if content.startswith(given) and (reasoning := reply.thinking.removeprefix("".join(self._reasoning))):
            deltas.append(Delta(reasoning=reasoning))
        if content := content.removeprefix(given):
            deltas.append(Delta(content=content))
        for index, call in enumerate(reply.calls):
            written = call.to_json()["function"]
            deltas.extend(call_deltas(index, new_call_id(), written["name"], written["arguments"]))
        tokens = tuple(token for _, token in self._tokens)
        self._tokens.clear()
        if tokens:
            first, *others = deltas or [Delta()]
            deltas = [replace(first, tokens=tokens), *others]
        return deltas

    def _read(self, text: str) -> list[Delta]:
        if not text:
            return []
        self._text.append(text)
        self._size += len(text)
        deltas: list[Delta] = []
        if self._place in ("start", "thought"):
            self._undecided += text
            text = ""
            if self._place == "start":
                self._read_start()
            if self._place == "thought" and (reasoning := self._read_thought()):
                deltas.append(Delta(reasoning=reasoning, tokens=self._take_tokens(len(self._undecided))))
                self._reasoning.append(reasoning)
            if self._place == "answer":
                text, self._undecided = self._undecided, ""
        if self._place == "answer" and text and (content := self._scanner.feed(text)):
            content = content if self._content else content.lstrip()
            deltas.append(Delta(content=content, tokens=self._take_tokens(len(self._scanner.undecided))))
            self._content.append(content)
        return deltas

    def _read_start(self) -> None:
        """Find whether the text begins with a thought."""
        text = self._undecided.lstrip()
        is_open = self._in_thought
        if text.startswith(THINK):
            text, is_open = text.removeprefix(THINK).lstrip(), True
        if len(self._undecided) > _MAX_UNDECIDED or text.startswith(THINK):
            self._place = "rest"
        elif not THINK.startswith(text):
            self._place = "thought" if is_open else "answer"
        if self._place == "thought":
            self._undecided = text

    def _read_thought(self) -> str:
        """Return the part of the thought that is certain."""
        text, closing, after = self._undecided.partition(THINK_END)
        if closing:
            self._place, self._undecided = "answer", after
            return text.rstrip()
        size = next((size for size in range(len(THINK_END) - 1, 0, -1) if text.endswith(THINK_END[:size])), 0)
        certain = text[: len(text) - size].rstrip()
        self._undecided = text[len(certain) :]
        if len(self._undecided) > _MAX_UNDECIDED:
            self._place = "rest"
        return certain

    def _take_tokens(self, undecided: int) -> tuple[Any, ...]:
        """Return the tokens whose whole text was given, all but so many characters."""
        given, taken = self._size - undecided, []
        while self._tokens and (self._tokens[1][0] if len(self._tokens) > 1 else self._size) <= given:
            taken.append(self._tokens.popleft()[1])
        return tuple(taken)


def call_deltas(index: int, id_: str, name: str, arguments: str) -> Iterator[Delta]:
    """Yield a call as OpenAI streams it: first its id and name, then its arguments in pieces."""
    yield Delta(call=CallDelta(index, id_, name))
    for start in range(0, len(arguments), _PIECE_CHARACTERS):
        yield Delta(call=CallDelta(index, arguments=arguments[start : start + _PIECE_CHARACTERS]))


def message_deltas(message: Mapping[str, Any]) -> Iterator[Delta]:
    """Yield the deltas of a whole message, such as one of a large model that was not streamed."""
    if reasoning := message.get("reasoning_content"):
        yield Delta(reasoning=reasoning)
    if content := message.get("content"):
        yield Delta(content=content)
    if refusal := message.get("refusal"):
        yield Delta(refusal=refusal)
    for index, call in enumerate(message.get("tool_calls") or ()):
        function = call["function"]
        yield from call_deltas(index, call["id"], function["name"], function["arguments"])


Event = tuple[int, Delta | Finished] | Usage
"""What a stream carries: for each choice by its index its deltas and its end; and the usage."""


@dataclass(slots=True)
class ChunkWriter:
    """Writes the events of one answer as server-sent events with OpenAI's chunks.

    Attributes:
        include_usage: whether the client asked for a last chunk with the usage.
        logprobs: whether the chunks have the tokens of their text.
        legacy_functions: write the first call as `function_call`, as clients that send `functions` expect it.
    """

    id: str
    model: str
    include_usage: bool = False
    logprobs: bool = False
    legacy_functions: bool = False
    created: int = field(default_factory=lambda: int(time.time()))
    _begun: set[int] = field(default_factory=set)

    def chunks(self, event: Event) -> Iterator[bytes]:
        """Yield the chunks of an event. The role comes first in each choice."""
        if isinstance(event, Usage):
            if event.details is not None:
                yield self._chunk([], more={"toolhone": event.details})
            if self.include_usage:
                yield self._chunk([], event.usage)
            return
        index, part = event
        if index not in self._begun:
            self._begun.add(index)
            yield self._choice(index, {"role": "assistant", "content": "", "refusal": None})
        if isinstance(part, Finished):
            is_call = self.legacy_functions and part.reason == "tool_calls"
            yield self._choice(index, {}, finish_reason="function_call" if is_call else part.reason)
        elif self.legacy_functions and part.call is not None:
            function = part.call.to_json()["function"]
            yield self._choice(index, {"function_call": function} if part.call.index == 0 else {}, part.tokens)
        else:
            yield self._choice(index, part.to_json(), part.tokens)

    def _choice(
        self, index: int, delta: dict[str, Any], tokens: Sequence[Any] = (), finish_reason: str | None = None
    ) -> bytes:
        logprobs = {"content": list(tokens), "refusal": None} if self.logprobs and tokens else None
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        return self._chunk([choice])

    def _chunk(
        self,
        choices: list[dict[str, Any]],
        usage: Mapping[str, Any] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> bytes:
        chunk: dict[str, Any] = {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }
        # With `include_usage`, OpenAI writes null in every chunk but the last.
        return sse(chunk | ({"usage": usage} if self.include_usage else {}) | dict(more or {}))


def sse(data: dict[str, Any], event: str | None = None) -> bytes:
    """Return a server-sent event."""
    name = b"" if event is None else f"event: {event}\n".encode()
    return name + b"data: " + json_line(dict(data)).rstrip(b"\n") + b"\n\n"


async def sse_chunks(events: AsyncIterator[Event], writer: ChunkWriter) -> AsyncGenerator[bytes, None]:
    """Yield the body of a streamed answer. An `ApiError` becomes an event with the error, which ends the stream."""
    try:
        async for event in events:
            for chunk in writer.chunks(event):
                yield chunk
    except ApiError as error:
        yield sse(error.to_json())
        return
    yield b"data: [DONE]\n\n"
