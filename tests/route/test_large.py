"""Reading a large model's reply: whatever comes is an answer in OpenAI's shape, or why there is none."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion

from toolhone.evaluate.openai_wire import Request
from toolhone.route.large import _charged, _read

REQUEST = Request([], [], {"order_query": "order.query"})
_LEAVES = st.none() | st.booleans() | st.integers(-3, 9) | st.text(max_size=6) | st.just("{}")
_KEYS = st.sampled_from(["name", "arguments", "function", "id", "type", "text", "content"])
_VALUES = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(_KEYS, inner, max_size=3), max_leaves=8
)
_CALL = st.fixed_dictionaries(
    {
        "function": st.fixed_dictionaries(
            {"name": st.sampled_from(["order_query", "f"]), "arguments": st.just("{}") | _VALUES}
        )
    },
    optional={"id": _LEAVES},
)
_MESSAGE = st.fixed_dictionaries(
    {},
    optional={
        "content": st.text("ab ", max_size=4) | _VALUES,
        "refusal": _VALUES,
        "tool_calls": st.lists(_CALL, max_size=2) | _VALUES,
        "function_call": _VALUES,
    },
)
_REPLY = st.fixed_dictionaries(
    {
        "choices": st.lists(
            st.fixed_dictionaries({"message": _MESSAGE, "finish_reason": _LEAVES}), min_size=1, max_size=1
        )
    },
    optional={"usage": _VALUES, "model": _LEAVES},
)


@settings(max_examples=400)
@given(_REPLY)
def test_a_reply_is_an_answer_that_a_client_can_read_or_none(body: dict[str, Any]) -> None:
    reply = ChatCompletion.construct(**body)
    # As the caller does it: a reply without the shape of one is malformed.
    with suppress(AttributeError, IndexError, KeyError, TypeError):
        completion, failure = _read(reply, REQUEST)
        assert (completion is None) == (failure is not None)
        if completion is None:
            return
        [choice] = completion["choices"]
        message = choice["message"]
        assert message["content"] or message.get("tool_calls") or message["refusal"]
        for call in message.get("tool_calls", ()):
            assert isinstance(json.loads(call["function"]["arguments"]), dict)
            assert call["id"]
            assert call["function"]["name"] != "order_query"


def test_what_is_charged_is_what_the_usage_says() -> None:
    told = {"prompt_tokens": 9, "completion_tokens": 2}
    assert _charged({**told, "prompt_tokens_details": {"cached_tokens": 4}}) == (9, 2, 4)
    assert _charged({**told, "prompt_tokens_details": None}) == (9, 2, 0)
    assert _charged({**told, "prompt_tokens_details": {"cached_tokens": 10}}) == (9, 2, 0)
    for unusable in (
        None,
        {},
        {"prompt_tokens": 9},
        {"prompt_tokens": "9", "completion_tokens": 2},
        {**told, "prompt_tokens": -1},
    ):
        assert _charged(unusable) is None
