"""Make the log of an invented application: requests and responses of /v1/chat/completions, one pair on each line.

The conversations are those of data/customer_service, as an agent would have them with gpt-4o. Every request has the
tools, an id, usage and times, and sends the whole conversation so far. Conversations overlap in time, some responses
are streamed, and a few requests fail and are repeated. No model was asked: the answers of "gpt-4o" are the gold of the
rows. The same seed gives the same log.

    .venv/bin/python scripts/make_log.py --out agent.log.jsonl              # 800 pairs
    .venv/bin/python scripts/make_log.py --out agent.log.jsonl --pairs 100 --seed 7
"""

from __future__ import annotations

import argparse
import json
import random
import re
import string
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from toolhone.data.read import read_conversations, read_tools
from toolhone.errors import UserError
from toolhone.jsonl import write_jsonl
from toolhone.records import Conversation, Message, ToolCall

SOURCE = Path(__file__).parent.parent / "data" / "customer_service"
MODEL = "gpt-4o-2024-08-06"
STREAMED_SHARE = 0.08
FAILED_SHARE = 0.025
ERRORS = (
    (429, {"message": "Too many requests; wait a moment.", "type": "requests", "code": "rate_limit_exceeded"}),
    (500, {"message": "The server failed to answer.", "type": "server_error", "code": None}),
    (503, {"message": "The engine is overloaded; try again later.", "type": "server_error", "code": None}),
)
_STARTED = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)
_LETTERS = string.ascii_letters + string.digits
_NUMBER = re.compile(r"\d{3,}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSONL file to write")
    parser.add_argument(
        "--pairs", type=int, default=800, help="number of requests with their responses (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the random choices, a whole number (default: %(default)s)"
    )
    options = parser.parse_args()
    try:
        pairs = make_log(options.pairs, options.seed)
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    write_jsonl(options.out, pairs)
    failed = sum("error" in pair["response"] for pair in pairs)
    streamed = sum("chunks" in pair["response"] for pair in pairs)
    print(f"{options.out}: {len(pairs)} pairs, {failed} of them failed, {streamed} streamed")
    return 0


def make_log(pairs: int, seed: int = 0, source: Path = SOURCE) -> list[dict[str, Any]]:
    """The lines of the log, by time.

    A conversation is in it from its first step to its last, but where the log ends. The training rows are taken in
    random order, and where they are used up, once more with other numbers in them.

    Raises:
        UserError: where the data cannot be read.
    """
    chance = random.Random(seed)
    tools = [tool.to_json() for tool in read_tools(source / "tools.json")]
    shipped = read_conversations(source / "train.jsonl", read_tools(source / "tools.json"))
    rows = [request for row in shipped for request in requests_of(row)]
    made: list[dict[str, Any]] = []
    started = _STARTED
    for row in _endless(rows, chance):
        made.extend(_steps(row, tools, started, chance))
        started += timedelta(seconds=chance.expovariate(1 / 20))
        if len(made) >= pairs:
            break
    made.sort(key=lambda pair: pair["time"])
    return made[:pairs]


def requests_of(row: Conversation) -> Iterator[Conversation]:
    """The row cut at each answer that is not to be learned (weight 0), which only leads on to the next request."""
    system = [message for message in row.messages[:1] if message.role == "system"]
    part: list[Message] = []
    for message in row.messages[len(system) :]:
        if message.role == "assistant" and message.weight == 0:
            while part[-1].role == "tool":  # the results that it speaks of
                part.pop()
            yield replace(row, messages=(*system, *part))
            part = []
        else:
            part.append(message)
    yield replace(row, messages=(*system, *part))


def _endless(rows: Sequence[Conversation], chance: random.Random) -> Iterator[Conversation]:
    """All rows in random order, then all again with other numbers, and so on."""
    order = list(rows)
    chance.shuffle(order)
    yield from order
    while True:
        chance.shuffle(order)
        yield from (_renumbered(row, chance) for row in order)


def _renumbered(row: Conversation, chance: random.Random) -> Conversation:
    """The row with other digits in its order numbers, tracking numbers and the like: the same ones in every message."""
    others: dict[str, str] = {}

    def other(found: re.Match[str]) -> str:
        number = found[0]
        fresh = str(chance.randrange(1, 10)) + "".join(str(chance.randrange(10)) for _ in number[1:])
        return others.setdefault(number, fresh)

    def changed(message: Message) -> Message:
        calls = (
            ToolCall(call.name, json.loads(_NUMBER.sub(other, json.dumps(call.arguments, ensure_ascii=False))), call.id)
            for call in message.tool_calls
        )
        return replace(message, content=_NUMBER.sub(other, message.content), tool_calls=tuple(calls))

    return replace(row, messages=tuple(map(changed, row.messages)))


def _steps(
    row: Conversation, tools: list[dict[str, Any]], at: datetime, chance: random.Random
) -> Iterator[dict[str, Any]]:
    """A pair for every assistant turn, and one before it where the first attempt failed."""
    messages = [message.to_json() for message in _with_server_ids(row.messages, chance)]
    for number, message in enumerate(messages):
        if message["role"] == "user":
            at += timedelta(seconds=chance.uniform(8, 60))  # a person types
        if message["role"] != "assistant":
            continue
        request: dict[str, Any] = {"model": MODEL, "messages": messages[:number], "tools": tools, "temperature": 0.2}
        if chance.random() < FAILED_SHARE:
            status, error = chance.choice(ERRORS)
            yield _pair(request, {"error": error}, status, at, chance)
            at += timedelta(seconds=chance.uniform(1, 4))
        response = _response(request, message, at, chance)
        if chance.random() < STREAMED_SHARE:
            request |= {"stream": True, "stream_options": {"include_usage": True}}
            response = {"chunks": list(_chunks(response, chance))}
        yield _pair(request, response, 200, at, chance)
        at += timedelta(seconds=chance.uniform(0.6, 3))


def _with_server_ids(messages: Sequence[Message], chance: random.Random) -> Iterator[Message]:
    """The messages with call ids as the server gives them."""
    ids: dict[str | None, str] = {}
    for message in messages:
        ids |= {call.id: f"call_{_token(24, chance)}" for call in message.tool_calls}
        calls = tuple(replace(call, id=ids[call.id]) for call in message.tool_calls)
        answered = message.tool_call_id
        yield replace(message, tool_calls=calls, tool_call_id=None if answered is None else ids[answered])


def _pair(
    request: dict[str, Any], response: dict[str, Any], status: int, at: datetime, chance: random.Random
) -> dict[str, Any]:
    return {
        "time": at.isoformat(timespec="milliseconds"),
        "path": "/v1/chat/completions",
        "status": status,
        "latency_ms": round(chance.uniform(480, 2600) if status == 200 else chance.uniform(20, 90)),
        "request": dict(request),
        "response": response,
    }


def _response(request: dict[str, Any], message: dict[str, Any], at: datetime, chance: random.Random) -> dict[str, Any]:
    # Some four bytes a token: no tokenizer is at hand, and only the shape of the usage is read.
    asked, answered = (len(json.dumps(part).encode()) // 4 for part in (request, message))
    finish_reason = "tool_calls" if message.get("tool_calls") else "stop"
    choice = {"index": 0, "message": {**message, "refusal": None}, "logprobs": None, "finish_reason": finish_reason}
    return {
        "id": f"chatcmpl-{_token(29, chance)}",
        "object": "chat.completion",
        "created": int(at.timestamp()),
        "model": MODEL,
        "choices": [choice],
        "usage": {"prompt_tokens": asked, "completion_tokens": answered, "total_tokens": asked + answered},
        "service_tier": "default",
        "system_fingerprint": "fp_0123456789",
    }


def _chunks(response: dict[str, Any], chance: random.Random) -> Iterator[dict[str, Any]]:
    """The response as it would have been streamed: role, pieces of text, pieces of each call, the end, the usage."""
    message = response["choices"][0]["message"]
    shared = {key: response[key] for key in ("id", "created", "model", "system_fingerprint")}

    def chunk(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return {**shared, "object": "chat.completion.chunk", "choices": [choice], "usage": None}

    yield chunk({"role": "assistant", "content": None if message.get("tool_calls") else ""})
    for piece in _pieces(message["content"] or "", chance):
        yield chunk({"content": piece})
    for index, call in enumerate(message.get("tool_calls", [])):
        name = {"name": call["function"]["name"], "arguments": ""}
        yield chunk({"tool_calls": [{"index": index, "id": call["id"], "type": "function", "function": name}]})
        for piece in _pieces(call["function"]["arguments"], chance):
            yield chunk({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
    yield chunk({}, response["choices"][0]["finish_reason"])
    yield {**shared, "object": "chat.completion.chunk", "choices": [], "usage": response["usage"]}


def _pieces(text: str, chance: random.Random) -> Iterator[str]:
    start = 0
    while start < len(text):
        end = start + chance.randint(1, 6)
        yield text[start:end]
        start = end


def _token(length: int, chance: random.Random) -> str:
    return "".join(chance.choices(_LETTERS, k=length))


if __name__ == "__main__":
    sys.exit(main())
