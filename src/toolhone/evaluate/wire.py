"""An example as a chat-completions request, and the answer to it as a `Prediction`.

Endpoints take tool names of letters, digits, "_" and "-" alone: other names are mapped for the way there and back. An
answer's calls are written in a chat format, so that the scorer that judges a local model's text judges them too.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from toolhone.chat.parse import parse_turn
from toolhone.formats import FORMATS
from toolhone.formats.chat_format import RawCall
from toolhone.records import Example, FinishReason, FormatName, Prediction, Token

_UNFIT = re.compile(r"[^A-Za-z0-9_-]")
_LONGEST_NAME = 64

NO_TOKEN_ID = -1
"""The id of a token whose endpoint tells its bytes alone."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent. `names` gives for each tool's name on the wire the tool's own."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    names: dict[str, str]


def request_of(example: Example) -> Request:
    """The request that asks for the example's turn."""
    sent = _wire_names([tool.name for tool in example.tools])
    tools = [tool.to_json() for tool in example.tools]
    for tool in tools:
        tool["function"]["name"] = sent[tool["function"]["name"]]
    messages = [message.to_json() for message in example.prompt]
    waiting: list[str] = []
    for place, message in enumerate(messages):
        message.pop("weight", None)  # says what is to be learned, and is no key of a request
        for number, call in enumerate(message.get("tool_calls", ())):
            call.setdefault("id", f"call_{place}_{number}")
            name = call["function"]["name"]
            call["function"]["name"] = sent.get(name) or _fit(name)
            waiting.append(call["id"])
        if message["role"] == "tool" and waiting:
            answered = message.setdefault("tool_call_id", waiting[0])
            waiting = [id_ for id_ in waiting if id_ != answered]
    return Request(messages, tools, {wire: own for own, wire in sent.items()})


def _fit(name: str) -> str:
    return _UNFIT.sub("_", name)[:_LONGEST_NAME] or "_"


def _wire_names(names: list[str]) -> dict[str, str]:
    """A name for the wire for each name, no two the same; one that is fit stays as it is."""
    sent = {name: name for name in names if _fit(name) == name}
    for name in names:
        if name not in sent:
            taken, number, made = set(sent.values()), 1, _fit(name)
            while made in taken:
                number += 1
                made = f"{_fit(name)[: _LONGEST_NAME - 1 - len(str(number))]}_{number}"
            sent[name] = made
    return sent


@dataclass(frozen=True, slots=True)
class Answer:
    """What the endpoint said. `tokens` is empty where it tells no log-probabilities, or those of another text."""

    text: str
    finish_reason: FinishReason
    tokens: tuple[Token, ...]

    def prediction(
        self, example: Example, label: str, prompt_tokens: int, completion_tokens: int, latency_ms: float
    ) -> Prediction:
        usage = (prompt_tokens, completion_tokens, latency_ms)
        return Prediction(example.id, label, self.text, self.finish_reason, *usage, self.tokens)


def read_choice(choice: Any, names: dict[str, str], format: FormatName) -> Answer | None:
    """Read one of the `choices` of a response; None where the endpoint withheld the answer (content filter).

    Nothing about the choice is taken for granted but that it has a message: endpoints differ, and what cannot be read
    as a call must come out as malformed.
    """
    row = choice.to_dict(warnings=False)
    message, reason = row["message"], row.get("finish_reason")
    if reason == "content_filter":
        return None
    finish: FinishReason = "length" if reason == "length" else "stop"
    content = _content(message)
    calls = _calls(message, names)
    if finish == "length" and not content and not calls:
        # The limit was reached before the model said anything: the turn was cut in its thoughts, and abstained not.
        thought = message.get("reasoning_content") or message.get("reasoning")
        return Answer(f"<think>{thought if isinstance(thought, str) else ''}", finish, ())
    text = FORMATS[format].write(content, calls, finish)
    tokens = _tokens(row.get("logprobs"))
    raw = b"".join(token.bytes for token in tokens).decode(errors="replace")
    # A server that reads the calls out of the model's text may give the text's tokens. Where they say just the same,
    # the text is kept as the model wrote it; else they belong to something else, and would be misleading.
    same = bool(tokens) and repr(parse_turn(raw, format, finish)) == repr(parse_turn(text, format, finish))
    return Answer(raw, finish, tokens) if same else Answer(text, finish, ())


def _content(message: dict[str, Any]) -> str:
    """The text of a message: a text, a list of parts, or why the model refuses."""
    content = message.get("content")
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        content = "".join(part for part in parts if isinstance(part, str))
    if isinstance(content, str) and content:
        return content
    refusal = message.get("refusal")
    return refusal if isinstance(refusal, str) else ""


def _calls(message: dict[str, Any], names: dict[str, str]) -> list[RawCall]:
    found = message.get("tool_calls") or []
    if message.get("function_call"):  # the older form, of one call
        found = [{"function": message["function_call"]}]
    return [_call(call, names) for call in (found if isinstance(found, list) else [found])]


def _call(call: Any, names: dict[str, str]) -> RawCall:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        return RawCall("", json.dumps(call))  # a call without a name is malformed
    arguments = function.get("arguments")
    if arguments is None:
        arguments = ""
    elif not isinstance(arguments, str):  # some give the object itself
        arguments = json.dumps(arguments, ensure_ascii=False)
    name: str = function["name"]
    return RawCall(names.get(name, name), arguments)


def _tokens(logprobs: Any) -> tuple[Token, ...]:
    """The answer's tokens with their bytes; none where anything about them is not as it should be."""
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    tokens = []
    for row in content if isinstance(content, list) else []:
        try:
            said = row["token"].encode() if row.get("bytes") is None else bytes(row["bytes"])
            tokens.append(Token(NO_TOKEN_ID, said, float(row["logprob"]), _runner_up(row)))
        except (AttributeError, KeyError, TypeError, ValueError):
            return ()
    return tuple(tokens)


def _runner_up(row: dict[str, Any]) -> float | None:
    """The log-probability of the likeliest token but the chosen one; None where the endpoint does not tell it."""
    try:
        others = [other for other in row.get("top_logprobs") or () if _differ(other, row)]
        return max((float(other["logprob"]) for other in others), default=None)
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def _differ(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether these are two tokens. Parts of a character may look alike and differ in their bytes."""
    if one["token"] != other["token"]:
        return True
    bytes_told = one.get("bytes") is not None and other.get("bytes") is not None
    return bytes_told and one["bytes"] != other["bytes"]
