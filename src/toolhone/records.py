"""The records that stages exchange: conversations, examples, predictions and scores.

`data/read.py` turns foreign rows into `Conversation`s; from there on every field is present and typed. A `Conversation`
gives one `Example` for each assistant turn to learn. A model's answer to an example is a `Prediction`, and a scored
prediction is a `Score`. All records are frozen. `to_json` gives the dictionary on the record's line in a file (see
`tests/fixtures/contracts/`).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from json.encoder import encode_basestring
from typing import Any, Literal, get_args

Role = Literal["system", "user", "assistant", "tool"]

Status = Literal["calls", "none", "malformed", "truncated", "partial"]
"""What a model's text contains. calls: only readable calls. none: well-formed text without a call. malformed: an
attempted call that cannot be read. truncated: a call cut off at the token limit. partial: some calls can be read, but
not all."""

FormatName = str
"""The name of a chat format, a key of `formats.FORMATS`."""

Repair = Literal["python_literals", "arguments_as_text", "code_fence", "other_syntax"]
"""What the repaired reading of a model's text fixes (`formats/repair.py`). python_literals: single quotes, True, False,
None, a comma before a closing bracket. arguments_as_text: arguments given as a JSON text instead of an object.
code_fence: a call in a code fence, if the format has no code fences. other_syntax: calls in the syntax of another chat
format that toolhone reads."""


ScoringPolicy = Literal["strict", "bfcl"]
"""The rules of scoring: strict, or those of the Berkeley leaderboard's own checker (`evaluate/values.py`)."""
POLICIES: tuple[ScoringPolicy, ...] = get_args(ScoringPolicy)


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call. `parameters` is a JSON Schema of type object."""

    name: str
    description: str
    parameters: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        function = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": function}


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call with decoded arguments. `id` links it to the tool message with its result."""

    name: str
    arguments: dict[str, Any]
    id: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the call in OpenAI's format, where `arguments` is a JSON text."""
        call = {"type": "function", "function": {"name": self.name, "arguments": _encode(self.arguments)}}
        return call if self.id is None else {"id": self.id, **call}

    def to_text(self) -> str:
        """`to_json` as JSON text."""
        id = "" if self.id is None else f'"id": {_quoted(self.id)}, '
        function = f'{{"name": {_quoted(self.name)}, "arguments": {_quoted(_encode(self.arguments))}}}'
        return f'{{{id}"type": "function", "function": {function}}}'


@dataclass(frozen=True, slots=True)
class Message:
    """One message. `content` is "" if an assistant message has only calls. Only an assistant message has `tool_calls`,
    `weight` (0: not learned) and `thinking`, the reasoning before its answer. Only a tool message has `tool_call_id`.
    """

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    weight: float = 1.0
    thinking: str = ""

    def to_json(self) -> dict[str, Any]:
        row: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.tool_calls:
            row["content"] = self.content or None
            row["tool_calls"] = [call.to_json() for call in self.tool_calls]
        if self.tool_call_id is not None:
            row["tool_call_id"] = self.tool_call_id
        if self.weight != 1.0:
            row["weight"] = self.weight
        if self.thinking:
            row["reasoning_content"] = self.thinking
        return row

    def to_text(self) -> str:
        """`to_json` as JSON text."""
        text = f'{{"role": "{self.role}", "content": '
        if self.tool_calls:
            text += _quoted(self.content) if self.content else "null"
            text += f', "tool_calls": [{", ".join([call.to_text() for call in self.tool_calls])}]'
        else:
            text += _quoted(self.content)
        if self.tool_call_id is not None:
            text += f', "tool_call_id": {_quoted(self.tool_call_id)}'
        if self.weight != 1.0:
            text += f', "weight": {self.weight!r}'
        if self.thinking:
            text += f', "reasoning_content": {_quoted(self.thinking)}'
        return text + "}"


@dataclass(frozen=True, slots=True)
class GoldCall:
    """An expected call. `arguments` has the accepted values of each argument, the canonical value first. The arguments
    in `optional` may be left out. So may those in `blank`, or keys of an object inside one ("body/unit"): BFCL writes
    an empty text for them."""

    name: str
    arguments: dict[str, list[Any]]
    optional: frozenset[str] = frozenset()
    blank: frozenset[str] = frozenset()

    def to_json(self) -> dict[str, Any]:
        row: dict[str, Any] = {"name": self.name, "arguments": self.arguments}
        row |= {"optional": sorted(self.optional)} if self.optional else {}
        return row | ({"blank": sorted(self.blank)} if self.blank else {})

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> GoldCall:
        return cls(row["name"], row["arguments"], frozenset(row.get("optional", ())), frozenset(row.get("blank", ())))


@dataclass(frozen=True, slots=True)
class Gold:
    """What an example expects. `status`: "calls" is exactly these `calls`, "none" is no call, "any" is any call."""

    status: Literal["calls", "none", "any"]
    calls: tuple[GoldCall, ...] = ()

    @classmethod
    def of_message(cls, message: Message) -> Gold:
        """Return the gold of an assistant turn: exactly its calls, with one accepted value per argument."""
        if not message.tool_calls:
            return cls("none")
        calls = (GoldCall(c.name, {k: [v] for k, v in c.arguments.items()}) for c in message.tool_calls)
        return cls("calls", tuple(calls))

    def to_json(self) -> dict[str, Any]:
        return {"status": self.status, "calls": [call.to_json() for call in self.calls]}

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Gold:
        return cls(row["status"], tuple(map(GoldCall.from_json, row["calls"])))


@dataclass(frozen=True, slots=True)
class Conversation:
    """One row of a JSONL file. `where` is its `file:line`. `expected` is the gold of the last assistant turn with its
    accepted alternatives; None: the turn is the gold. `gold_source` names the model that wrote the gold, if any."""

    id: str
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...]
    where: str
    parallel_tool_calls: bool = True
    expected: Gold | None = None
    gold_source: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        row: dict[str, Any] = json.loads(self.to_text())
        return row

    def to_text(self) -> str:
        """Return the row as JSON text, three times as fast as an encoder: all rows have the same keys, and shared tools
        are encoded once."""
        messages = ", ".join([message.to_text() for message in self.messages])
        text = f'{{"id": {_quoted(self.id)}, "messages": [{messages}]'
        if self.tools:
            text += f', "tools": {tools_text(self.tools)}'
        more: dict[str, Any] = {} if self.parallel_tool_calls else {"parallel_tool_calls": False}
        if self.expected is not None:
            more["expected"] = self.expected.to_json()
        if self.gold_source is not None:
            more["gold_source"] = self.gold_source
        if self.meta:
            more["meta"] = self.meta
        return f"{text}, {_encode(more)[1:]}" if more else text + "}"

    def content_hash(self) -> str:
        """Return a hash of messages and tools (16 hex digits). The row's id, meta and place do not change it."""
        messages = _encode_sorted([message.to_json() for message in self.messages])
        text = f'{{"messages": {messages}, "tools": {tools_text(self.tools, sort_keys=True)}}}'
        return hashlib.sha256(text.encode()).hexdigest()[:16]


_encode = json.JSONEncoder(ensure_ascii=False).encode
_quoted = encode_basestring
_encode_sorted = json.JSONEncoder(ensure_ascii=False, sort_keys=True).encode

_TOOL_LISTS = 256
_tool_texts: dict[tuple[int, bool], tuple[tuple[Tool, ...], str]] = {}


def tools_text(tools: tuple[Tool, ...], sort_keys: bool = False) -> str:
    """Return the tools as JSON text, cached by identity: rows with equal tools share one tuple (`read_tool_list`). The
    cache holds the tuple, so that no other tuple gets its identity."""
    key = (id(tools), sort_keys)
    known = _tool_texts.get(key)
    if known is None:
        if len(_tool_texts) >= _TOOL_LISTS:
            _tool_texts.clear()
        rows = [tool.to_json() for tool in tools]
        known = _tool_texts[key] = (tools, _encode_sorted(rows) if sort_keys else _encode(rows))
    return known[1]


@dataclass(frozen=True, slots=True)
class Example:
    """One assistant turn with the messages before it. `id` is the conversation's id, "/" and the index of the turn
    among the conversation's messages."""

    id: str
    conversation_id: str
    prompt: tuple[Message, ...]
    turn: Message
    gold: Gold
    tools: tuple[Tool, ...]
    where: str
    gold_source: str | None
    meta: dict[str, Any]

    @property
    def tools_by_name(self) -> dict[str, Tool]:
        """The declared tools. Their names decide which parts of an answer are calls; in some chat formats their schemas
        decide the types of arguments."""
        return {tool.name: tool for tool in self.tools}

    def asked(self) -> list[Any]:
        """Return the id, the messages and the tools as JSON. A prediction depends on nothing else in the example."""
        return [self.id, [message.to_json() for message in self.prompt], [tool.to_json() for tool in self.tools]]


@dataclass(frozen=True, slots=True)
class Token:
    """A completion token with its bytes; one character may span several tokens. `logprob` is its log-probability under
    the model's raw distribution (natural logarithm, before any mask). `runner_up` is that of the most likely other
    token; None if unknown, as in files of older versions."""

    id: int
    bytes: bytes
    logprob: float
    runner_up: float | None = None

    def to_json(self) -> dict[str, Any]:
        row: dict[str, Any] = {"id": self.id, "bytes": list(self.bytes), "logprob": round(self.logprob, 6)}
        return row if self.runner_up is None else {**row, "runner_up": round(self.runner_up, 6)}


FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Prediction:
    """A model's answer to an example. `text` is the answer up to the end-of-turn token. `latency_ms` is the wall-clock
    time of its batch, divided by the batch size. The first `prose_end` characters of the text are prose that an
    endpoint gave separately from the calls, and are never read as calls; 0 if the whole text is the model's own.
    `format` is the chat format that the model was asked in, which decides what counts as a call; None in files of older
    versions: the format of the run."""

    id: str
    model: str
    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    latency_ms: float
    tokens: tuple[Token, ...] = ()
    prose_end: int = 0
    format: FormatName | None = None

    def to_json(self) -> dict[str, Any]:
        row = {column.name: getattr(self, column.name) for column in fields(self)}
        if not self.prose_end:
            del row["prose_end"]
        if self.format is None:
            del row["format"]
        return row | {"latency_ms": round(self.latency_ms, 3), "tokens": [token.to_json() for token in self.tokens]}

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Prediction:
        tokens = tuple(Token(t["id"], bytes(t["bytes"]), t["logprob"], t.get("runner_up")) for t in row["tokens"])
        return cls(**{**row, "tokens": tokens})


@dataclass(frozen=True, slots=True)
class ArgumentError:
    """One wrong argument. For "missing" there is no `found` value; for "invented" there is no `expected` value."""

    call: str
    argument: str
    fault: Literal["missing", "invented", "wrong"]
    expected: list[Any]
    found: Any


@dataclass(frozen=True, slots=True)
class CallMatch:
    """A gold call and its matching predicted call, as indices into the two lists of calls."""

    gold: int
    predicted: int
    arguments_right: int
    errors: tuple[ArgumentError, ...]

    @property
    def right(self) -> bool:
        return not self.errors

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> CallMatch:
        return cls(**{**row, "errors": tuple(ArgumentError(**error) for error in row["errors"])})


@dataclass(frozen=True, slots=True)
class Repaired:
    """The repaired reading of a text in which strict reading found a fault, with its score. `repairs` counts the used
    repairs; if there are none, the other fields equal those of the strict reading."""

    repairs: dict[Repair, int]
    status: Status
    names_right: bool
    exact: bool


@dataclass(frozen=True, slots=True)
class Score:
    """A scored prediction, with everything that a report shows: a report needs neither model nor data.

    `tools` are the names of the declared tools. `matches` pairs gold calls with predicted calls of the same name;
    `missing_calls` and `extra_calls` are the indices of the others. `schema_valid` is None if there is no call. `rules`
    names every lenient rule that was used. `question` is the last message before the turn. All fields except `repaired`
    describe the strict reading; `repaired` is None if that found no fault, and in files of older versions.
    `sampled_from` is the number of scored rows if the model answered only a sample of them; None if it answered all.
    """

    id: str
    conversation_id: str
    model: str
    status: Status
    failure: str | None
    calls: tuple[ToolCall, ...]
    gold: Gold
    tools: tuple[str, ...]
    matches: tuple[CallMatch, ...]
    missing_calls: tuple[int, ...]
    extra_calls: tuple[int, ...]
    names_right: bool
    exact: bool
    schema_valid: bool | None
    rules: tuple[str, ...]
    question: str
    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    latency_ms: float
    gold_source: str | None
    meta: dict[str, Any]
    repaired: Repaired | None = None
    sampled_from: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return all fields, `sampled_from` only if it is set. Arguments are a JSON object. Calls have no id, because a
        model's text has none."""
        row = {column.name: getattr(self, column.name) for column in fields(self)}
        if self.sampled_from is None:
            del row["sampled_from"]
        row |= {key: list(value) for key, value in row.items() if isinstance(value, tuple)}
        row["calls"] = [{"name": call.name, "arguments": call.arguments} for call in self.calls]
        row["gold"] = self.gold.to_json()
        row["matches"] = [{**asdict(match), "errors": [asdict(e) for e in match.errors]} for match in self.matches]
        row["repaired"] = None if self.repaired is None else asdict(self.repaired)
        return row

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Score:
        read: dict[str, Any] = {key: tuple(row[key]) for key in ("tools", "missing_calls", "extra_calls", "rules")}
        read["calls"] = tuple(ToolCall(call["name"], call["arguments"]) for call in row["calls"])
        read["matches"] = tuple(map(CallMatch.from_json, row["matches"]))
        read["repaired"] = Repaired(**row["repaired"]) if row.get("repaired") else None
        return cls(**{**row, **read, "gold": Gold.from_json(row["gold"])})
