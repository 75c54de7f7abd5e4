"""Bodies of chat requests with random changes."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

from served import WIRE_TOOLS

NAMED = {"type": "function", "function": {"name": "help"}}
ALLOWED = {"mode": "auto", "tools": [NAMED]}

FULL: dict[str, Any] = {
    "model": "small",
    "messages": [
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": "Where is ORD-1?", "name": "ada"},
        {
            "role": "assistant",
            "content": None,
            "reasoning_details": [{"type": "reasoning.text", "text": "look it up"}],
            "tool_calls": [
                {"id": "a", "index": 0, "type": "function", "function": {"name": "query_order", "arguments": "{}"}},
                {"id": "b", "type": "function", "function": {"name": "help", "arguments": '{"x": [1, {"y": 2}]}'}},
            ],
        },
        {"role": "tool", "tool_call_id": "b", "content": "none"},
        {"role": "tool", "tool_call_id": "a", "content": [{"type": "text", "text": "on its way"}]},
        {"role": "user", "content": "Thanks"},
    ],
    "tools": [
        *WIRE_TOOLS,
        {"name": "find", "inputSchema": {"type": "object", "properties": {"at": {"$ref": "#/$defs/at"}}, "$defs": {}}},
        {"type": "custom", "name": "book", "input_schema": {"type": "object"}, "cache_control": {"type": "ephemeral"}},
    ],
    "tool_choice": {"type": "allowed_tools", "allowed_tools": ALLOWED},
    "parallel_tool_calls": False,
    "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}},
    "temperature": 0.7,
    "top_p": 0.9,
    "top_k": 40,
    "min_p": 0.05,
    "seed": 7,
    "presence_penalty": 0.5,
    "frequency_penalty": -0.5,
    "logit_bias": {"12": -100},
    "stop": ["\n\n"],
    "n": 2,
    "max_tokens": 9,
    "max_completion_tokens": 8,
    "logprobs": True,
    "top_logprobs": 20,
    "stream": True,
    "stream_options": {"include_usage": True},
    "modalities": ["text"],
    "reasoning_effort": "low",
    "metadata": {"a": "b"},
    "user": "me",
}


def deep(levels: int) -> Any:
    value: Any = {}
    for _ in range(levels):
        value = {"properties": {"a": [value]}}
    return value


_ODD: list[Any] = [
    *(None, True, False, 0, -1, 1, 2**31, 2**64, -(2**64), 10**400, 0.5, 1e308, -0.0),
    *("", " ", "x", "\x00", "\u2028", "user", "assistant", "tool", "function", "auto", "{", '"{}"', "[1]", "9" * 5000),
    *([], {}, [[]], [None], [{}], {"": None}, {"type": "image_url"}, {"name": "x"}, {"$ref": "#/x"}, {"text": 1}),
    *(deep(30), deep(40)),
]
"""Values that no key expects, or that only some do."""


def _spots(value: Any) -> list[tuple[Any, Any]]:
    """All places inside a value: a container, and a key or an index of it."""
    entries = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    return [spot for key, inner in entries for spot in [(value, key), *_spots(inner)]]


def mutant(draw: random.Random) -> bytes:
    """Return the full body with one to three changes."""
    row = copy.deepcopy(FULL)
    for _ in range(draw.randint(1, 3)):
        spots = _spots(row)
        (holder, key), (other, its_key) = draw.choice(spots), draw.choice(spots)
        action = draw.random()
        if action < 0.15:
            del holder[key]
        elif action < 0.3:
            holder[key] = copy.deepcopy(other[its_key])
        else:
            holder[key] = copy.deepcopy(draw.choice(_ODD))
    text = json.dumps(row)
    if draw.random() < 0.1:
        at = draw.randrange(len(text))
        text = text[:at] + draw.choice(["NaN", "1e999", '"\\ud83d"', ",", "{", "}", "-"]) + text[at + 1 :]
    return text.encode()
