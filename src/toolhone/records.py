"""The nouns of toolhone: what every stage takes and makes.

Foreign rows become a `Conversation` once, in `data/read.py`; past that border every field is present and
typed. A `Conversation` gives one `Example` for each assistant turn that is to be learned; a model's answer
to an example is a `Prediction` (once it is scored, a `Score`). All are frozen, and `to_json` gives the
dictionary that a line of the file holds (see `tests/fixtures/contracts/`).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from json.encoder import encode_basestring
from typing import Any, Literal, get_args

Role = Literal["system", "user", "assistant", "tool"]

Status = Literal["calls", "none", "malformed", "truncated", "partial"]
"""How a model's text reads: calls; none (well-formed text, no call); malformed (it tried to call and cannot be
read); truncated (cut at the token limit inside a call); partial (some calls read, one not)."""

FormatName = str
"""The name of a chat format, a key of `formats.FORMATS`."""

Repair = Literal["python_literals", "arguments_as_text", "code_fence"]
"""What the repaired reading of a model's text fixes (`formats/repair.py`). python_literals: single quotes, True, False,
None, a comma before a closing bracket. arguments_as_text: the arguments as a JSON text instead of an object.
code_fence: a call in a code fence, if the format has none."""


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
    """A call, with decoded arguments; `id` ties it to the tool message that answers it."""

    name: str
    arguments: dict[str, Any]
    id: str | None = None

    def to_json(self) -> dict[str, Any]:
        """OpenAI's shape, in which `arguments` is a JSON text."""
        call = {"type": "function", "function": {"name": self.name, "arguments": _encode(self.arguments)}}
        return call if self.id is None else {"id": self.id, **call}

    def to_text(self) -> str:
        """`to_json` as JSON text."""
        id = "" if self.id is None else f'"id": {_quoted(self.id)}, '
        function = f'{{"name": {_quoted(self.name)}, "arguments": {_quoted(_encode(self.arguments))}}}'
        return f'{{{id}"type": "function", "function": {function}}}'


@dataclass(frozen=True, slots=True)
class Message:
    """One message. Only an assistant's has `tool_calls` and `weight` (0: not to be learned); only a tool's has
    `tool_call_id`. `content` is "" if an assistant only calls."""

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    weight: float = 1.0

    def to_json(self) -> dict[str, Any]:
        row: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.tool_calls:
            row["content"] = self.content or None
            row["tool_calls"] = [call.to_json() for call in self.tool_calls]
        if self.tool_call_id is not None:
            row["tool_call_id"] = self.tool_call_id
        if self.weight != 1.0:
            row["weight"] = self.weight
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
        return text + "}"


@dataclass(frozen=True, slots=True)
class GoldCall:
    """A call that is expected. `arguments` maps a name to its accepted values, the first being the canonical one;
    arguments named in `optional` may be left out. `blank` names other arguments, and keys of an object inside one
    ("body/unit"), for which BFCL takes an empty text to say that they are left out."""

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
    """What an example expects. `status`: exactly `calls`; no call; or any call, whichever."""

    status: Literal["calls", "none", "any"]
    calls: tuple[GoldCall, ...] = ()

    @classmethod
    def of_message(cls, message: Message) -> Gold:
        """The gold that an assistant turn states: exactly its calls, each argument with its one value."""
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
    """One row of JSONL. `where` is its `file:line`. `expected`, if given, is the gold of the last assistant turn,
    with accepted alternatives; `gold_source` names the model whose answers the gold is, if it was one."""

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
        """The row as JSON text, in a third of the time that an encoder takes: all rows have one shape, and tools that
        rows share are encoded once."""
        messages = ", ".join([message.to_text() for message in self.messages])
        text = f'{{"id": {_quoted(self.id)}, "messages": [{messages}]'
        if self.tools:
            text += f', "tools": {_tools_text(self.tools)}'
        more: dict[str, Any] = {} if self.parallel_tool_calls else {"parallel_tool_calls": False}
        if self.expected is not None:
            more["expected"] = self.expected.to_json()
        if self.gold_source is not None:
            more["gold_source"] = self.gold_source
        if self.meta:
            more["meta"] = self.meta
        return f"{text}, {_encode(more)[1:]}" if more else text + "}"

    def content_hash(self) -> str:
        """A hash of messages and tools alone (16 hex digits): the same whatever the row's id, meta or place."""
        messages = _encode_sorted([message.to_json() for message in self.messages])
        text = f'{{"messages": {messages}, "tools": {_tools_text(self.tools, sort_keys=True)}}}'
        return hashlib.sha256(text.encode()).hexdigest()[:16]


_encode = json.JSONEncoder(ensure_ascii=False).encode
_quoted = encode_basestring
_encode_sorted = json.JSONEncoder(ensure_ascii=False, sort_keys=True).encode

_TOOL_LISTS = 256
_tool_texts: dict[tuple[int, bool], tuple[tuple[Tool, ...], str]] = {}


def _tools_text(tools: tuple[Tool, ...], sort_keys: bool = False) -> str:
    """The tools as JSON text. Rows read with equal tools share one tuple (`read_tool_list`), whose identity finds the
    text again; the tuple is stored with the text, so that no other tuple can get its identity."""
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
    """One assistant turn: the messages before it, and the turn itself. `id` is the conversation's id, "/" and the
    turn's index among the conversation's messages."""

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
    def tool_names(self) -> tuple[str, ...]:
        """The names of the declared tools, which decide what in an answer is a call."""
        return tuple(tool.name for tool in self.tools)

    def asked(self) -> list[Any]:
        """What a model is asked, as JSON: the id, the messages and the tools. A prediction depends on nothing else of
        the example."""
        return [self.id, [message.to_json() for message in self.prompt], [tool.to_json() for tool in self.tools]]


@dataclass(frozen=True, slots=True)
class Token:
    """A completion token: its id, its bytes (a character may span several tokens), and its log-probability under the
    model's raw distribution (natural logarithm, before any mask). `runner_up` is the log-probability of the likeliest
    other token in its place; None if it is unknown, as in files from before it was recorded."""

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
    """A model's answer to an example. `text` is what comes before the end-of-turn token; `latency_ms` is the
    wall-clock time of the batch that it was generated in, divided by the batch's size. The first `prose_end` characters
    of the text are prose that an endpoint gave apart from its calls, and are never read for calls; 0 if the text is the
    model's own."""

    id: str
    model: str
    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    latency_ms: float
    tokens: tuple[Token, ...] = ()
    prose_end: int = 0

    def to_json(self) -> dict[str, Any]:
        row = {column.name: getattr(self, column.name) for column in fields(self)}
        if not self.prose_end:
            del row["prose_end"]
        return row | {"latency_ms": round(self.latency_ms, 3), "tokens": [token.to_json() for token in self.tokens]}

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Prediction:
        tokens = tuple(Token(t["id"], bytes(t["bytes"]), t["logprob"], t.get("runner_up")) for t in row["tokens"])
        return cls(**{**row, "tokens": tokens})


@dataclass(frozen=True, slots=True)
class ArgumentError:
    """One argument that is not right. `found` is absent ("missing") or `expected` is ("invented")."""

    call: str
    argument: str
    fault: Literal["missing", "invented", "wrong"]
    expected: list[Any]
    found: Any


@dataclass(frozen=True, slots=True)
class CallMatch:
    """A gold call and the predicted call that it was matched with, as indices into either's calls."""

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
    """The reading with repairs of a text in which strict reading found a fault, and its score. `repairs` counts those
    that fired; if none did, the rest is as in the strict reading."""

    repairs: dict[Repair, int]
    status: Status
    names_right: bool
    exact: bool


@dataclass(frozen=True, slots=True)
class Score:
    """A scored prediction, with all that a report shows of it: a report needs neither model nor data.

    `matches` pairs gold calls with predicted calls of the same name; `missing_calls` and `extra_calls` are the indices
    left over. `tools` are the names that were offered. `schema_valid` is None if nothing was called. `rules` names
    every leniency that fired. `question` is the last message before the turn. All but `repaired` is of the strict
    reading; `repaired` is None if that found no fault, and in files that were written before repairs were recorded.
    `sampled_from` is the number of scored rows that the model answered a sample of; None if it answered all.
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
        """All fields; `sampled_from` only if it is set. A call has its arguments as a JSON object, and no id: a model's
        text gives none."""
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
