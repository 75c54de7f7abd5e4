"""Convert an example to an OpenAI chat-completions request, and the reply to an answer in a chat format.

Endpoints accept only tool names of letters, digits, "_" and "-": other names are replaced in the request and restored
in the answer. An endpoint returns calls separately from the text. They are written after the text in a chat format, so
that one scorer reads endpoints and local models. The text itself is prose and is not parsed for calls.

There are two exceptions, both for replies without separate calls: the text opens with the marker of a call, which the
server failed to parse; or the server is declared to leave calls in the text (`calls_in_text`). Then the text is parsed
like a local model's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from toolhone.chat.parse import ParsedTurn, parse_turn
from toolhone.formats import FORMATS
from toolhone.formats.chat_format import RawCall
from toolhone.formats.foreign_syntax import opens_with_marker
from toolhone.records import Example, FinishReason, FormatName, Token

_NOT_ALLOWED = re.compile(r"[^A-Za-z0-9_-]")
_LONGEST_NAME = 64

_NO_TOKEN_ID = -1  # an endpoint returns a token's bytes but no id


@dataclass(frozen=True, slots=True)
class Request:
    """The messages and tools to send. `names` maps each tool's name in the request to its real name."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    names: dict[str, str]


def request_of(example: Example) -> Request:
    """Return the request for the example's turn, without the thinking of earlier turns."""
    allowed = _allowed_names([tool.name for tool in example.tools])
    tools = [tool.to_json() for tool in example.tools]
    for tool in tools:
        tool["function"]["name"] = allowed[tool["function"]["name"]]
    messages = [message.to_json() for message in example.prompt]
    open_calls: list[str] = []
    for place, message in enumerate(messages):
        message.pop("weight", None)  # a training weight, which requests do not have
        message.pop("reasoning_content", None)  # many endpoints refuse the key in a request
        for number, call in enumerate(message.get("tool_calls", ())):
            call.setdefault("id", f"call_{place}_{number}")
            name = call["function"]["name"]
            call["function"]["name"] = allowed.get(name) or _allowed(name)
            open_calls.append(call["id"])
        if message["role"] == "tool" and open_calls:
            answered = message.setdefault("tool_call_id", open_calls[0])
            open_calls = [id_ for id_ in open_calls if id_ != answered]
    return Request(messages, tools, {sent: own for own, sent in allowed.items()})


def _allowed(name: str) -> str:
    return _NOT_ALLOWED.sub("_", name)[:_LONGEST_NAME] or "_"


def _allowed_names(names: list[str]) -> dict[str, str]:
    """Return a distinct allowed name for each name. Allowed names stay the same."""
    allowed = {name: name for name in names if _allowed(name) == name}
    for name in names:
        if name not in allowed:
            number, made = 1, _allowed(name)
            while made in allowed.values():
                number += 1
                made = f"{_allowed(name)[: _LONGEST_NAME - 1 - len(str(number))]}_{number}"
            allowed[name] = made
    return allowed


@dataclass(frozen=True, slots=True)
class Answer:
    """The endpoint's answer. `tokens` is empty if the endpoint returns no log-probabilities, or those of another text.
    `prose_end` is as in `Prediction`."""

    text: str
    finish_reason: FinishReason
    tokens: tuple[Token, ...] = ()
    prose_end: int = 0

    def read(self, format: FormatName, tools: Collection[str]) -> ParsedTurn:
        """Return the answer's calls and prose. `tools` are the names of the declared tools."""
        return parse_turn(self.text, format, self.finish_reason, tools=tools, prose_end=self.prose_end)


def read_choice(
    choice: Any, names: Mapping[str, str], format: FormatName, *, calls_in_text: bool = False
) -> Answer | None:
    """Read one of the `choices` of a response; None if the endpoint withheld the answer (content filter).

    The choice must have a message. Anything else may be missing or malformed, because endpoints differ. A call that
    cannot be read becomes malformed.

    Args:
        names: maps each tool's name in the request to its real name.
        format: the chat format to write the calls in.
        calls_in_text: whether the server leaves calls in the text, in that format. It has no effect on messages with
            separate calls.
    """
    row = choice.to_dict(warnings=False)
    message, reason = row["message"], row.get("finish_reason")
    if reason == "content_filter":
        return None
    finish: FinishReason = "length" if reason == "length" else "stop"
    content = _content(message)
    calls = _calls(message, names)
    if finish == "length" and not content and not calls:
        # The turn was cut off during reasoning: that is not a decision against calling.
        thought = message.get("reasoning_content") or message.get("reasoning")
        return Answer(f"<think>{thought if isinstance(thought, str) else ''}", finish)
    is_own_text = not calls and (calls_in_text or opens_with_marker(content))
    prose_end = 0 if is_own_text else len(content)
    answer = Answer(FORMATS[format].write(content, calls, finish), finish, (), prose_end)
    tools, tokens = tuple(names.values()), _tokens(row.get("logprobs"))
    if not tokens:
        return answer
    # If a server parses calls from the model's text, the tokens may be those of the text. Use them if they parse alike.
    raw = b"".join(token.bytes for token in tokens).decode(errors="replace")
    starts_alike = raw.startswith(content)
    spelt = Answer(raw, finish, tokens, prose_end if starts_alike else 0)
    return spelt if repr(spelt.read(format, tools)) == repr(answer.read(format, tools)) else answer


def _content(message: dict[str, Any]) -> str:
    """Return the text of a message, whose content may be a text, a list of parts, or a refusal."""
    content, refusal = message.get("content"), message.get("refusal")
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        content = "".join(part for part in parts if isinstance(part, str))
    return next((text for text in (content, refusal) if isinstance(text, str) and text), "")


def calls_of(message: dict[str, Any]) -> Any:
    """Return the calls of a message unchanged: `tool_calls`, or the older `function_call` as a list of one."""
    older = message.get("function_call")
    return message.get("tool_calls") or ([{"function": older}] if older else [])


def _calls(message: dict[str, Any], names: Mapping[str, str]) -> list[RawCall]:
    found = calls_of(message)
    return [_call(call, names) for call in (found if isinstance(found, list) else [found])]


def _call(call: Any, names: Mapping[str, str]) -> RawCall:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        return RawCall("", json.dumps(call))  # a call without a name is malformed
    name: str = function["name"]
    arguments = function.get("arguments")
    if arguments is not None and not isinstance(arguments, str):  # some endpoints return the object itself
        arguments = json.dumps(arguments, ensure_ascii=False)
    return RawCall(names.get(name, name), arguments or "")


def _tokens(logprobs: Any) -> tuple[Token, ...]:
    """Return the answer's tokens with their bytes; none if any token does not follow the API's specification."""
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    tokens = []
    for row in content if isinstance(content, list) else []:
        try:
            text = row["token"].encode() if row.get("bytes") is None else bytes(row["bytes"])
            tokens.append(Token(_NO_TOKEN_ID, text, float(row["logprob"]), _runner_up(row)))
        except (AttributeError, KeyError, TypeError, ValueError):
            return ()
    return tuple(tokens)


def _runner_up(row: dict[str, Any]) -> float | None:
    """Return the log-probability of the likeliest token except the chosen one; None if the endpoint does not return
    it."""

    def differs(other: dict[str, Any]) -> bool:
        # Tokens that are parts of a character may have the same text and different bytes.
        has_bytes = row.get("bytes") is not None and other.get("bytes") is not None
        return bool(other["token"] != row["token"] or (has_bytes and other["bytes"] != row["bytes"]))

    try:
        return max((float(one["logprob"]) for one in row.get("top_logprobs") or () if differs(one)), default=None)
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
