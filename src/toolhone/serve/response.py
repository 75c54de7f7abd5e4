"""Answers in OpenAI's shape: of the small model, from its text, and of the large one, as it came."""

from __future__ import annotations

import time
import uuid
from typing import Any

from toolhone.chat.parse import ParsedTurn
from toolhone.records import Prediction, Token
from toolhone.serve.request import ChatRequest


def completion_id() -> str:
    """A new id of an answer, which its decision has in the log too."""
    return f"chatcmpl-{uuid.uuid4().hex}"


def small_completion(
    asked: ChatRequest, prediction: Prediction, turn: ParsedTurn, reused_tokens: int
) -> dict[str, Any]:
    """The small model's answer, whose text was read as `turn`. What cannot be read as calls is given as text, as the
    model wrote it: of a turn whose calls were read but in part, none is given, since nobody asked for half of it."""
    message: dict[str, Any] = {"role": "assistant", "content": prediction.text, "refusal": None}
    finish: str = prediction.finish_reason
    if turn.status == "none":
        message["content"] = turn.content
    elif turn.status == "calls" and asked.may_call:
        message["content"] = turn.content or None
        message["tool_calls"] = [{"id": f"call_{uuid.uuid4().hex[:24]}", **call.to_json()} for call in turn.calls]
        finish = "tool_calls"
    # The end-of-turn token is none of the answer's, here as with OpenAI.
    said = prediction.tokens[:-1] if prediction.finish_reason == "stop" else prediction.tokens
    logprobs = {"content": [_token(token, asked.top_logprobs) for token in said], "refusal": None}
    usage = {
        "prompt_tokens": prediction.prompt_tokens,
        "completion_tokens": prediction.completion_tokens,
        "total_tokens": prediction.prompt_tokens + prediction.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": reused_tokens},
    }
    choice = {
        "index": 0,
        "message": message,
        "logprobs": logprobs if asked.logprobs else None,
        "finish_reason": finish,
    }
    return _completion(asked, prediction.model, [choice], usage)


def large_completion(asked: ChatRequest, completion: dict[str, Any]) -> dict[str, Any]:
    """The large model's answer, under the id that its decision has in the log."""
    return _completion(asked, completion["model"], completion["choices"], completion["usage"])


def _completion(asked: ChatRequest, model: Any, choices: Any, usage: Any) -> dict[str, Any]:
    return {
        "id": asked.example.id,
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": choices,
        "usage": usage,
    }


def _token(token: Token, top: int) -> dict[str, Any]:
    row = {
        "token": token.bytes.decode(errors="replace"),
        "logprob": token.logprob,
        "bytes": list(token.bytes),
    }
    # The answer is greedy, so the likeliest token is the one that was said.
    return {**row, "top_logprobs": [row] if top else []}
