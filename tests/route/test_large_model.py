"""Every reply of the large model is read or rejected, and no order of requests exceeds the daily budget."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion

from toolhone.economics.cost import Price
from toolhone.endpoint import reported_usage
from toolhone.evaluate.openai_wire import Request
from toolhone.route.large_model import DayBudget, _read

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


_BOTH = {"tool_calls": [{"function": {"name": "f", "arguments": True}}], "function_call": {"name": "f"}}


@settings(max_examples=400)
@given(_REPLY)
@example({"choices": [{"message": _BOTH, "finish_reason": None}]})
def test_a_reply_becomes_a_readable_answer_or_a_failure(body: dict[str, Any]) -> None:
    reply = ChatCompletion.construct(**body)
    # As in the caller: a reply of the wrong shape is malformed.
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


def test_the_charged_tokens_come_from_the_usage() -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 2}
    assert reported_usage({**usage, "prompt_tokens_details": {"cached_tokens": 4}}) == (9, 2, 4)
    assert reported_usage({**usage, "prompt_tokens_details": None}) == (9, 2, 0)
    assert reported_usage({**usage, "prompt_tokens_details": {"cached_tokens": 10}}) == (9, 2, 0)
    for unusable in (
        None,
        {},
        {"prompt_tokens": 9},
        {"prompt_tokens": "9", "completion_tokens": 2},
        {**usage, "prompt_tokens": -1},
    ):
        assert reported_usage(unusable) is None


@given(
    cap=st.floats(0.001, 1.0),
    steps=st.lists(st.tuples(st.booleans(), st.floats(0.0, 0.5), st.floats(0.0, 1.0)), max_size=60),
)
def test_spending_never_exceeds_the_cap(cap: float, steps: list[tuple[bool, float, float]]) -> None:
    budget = DayBudget(cap, Price(1, 1, 1), 0.0, lambda: "2026-11-25")
    running: list[tuple[float, float]] = []
    for starts, bound, share in steps:
        if starts:
            if budget.reserve(bound):
                running.append((bound, bound * share))
        elif running:
            budget.settle(*running.pop(0))
        assert budget.spent_usd <= cap + 1e-9
    for bound, usd in running:
        budget.settle(bound, usd)
    assert budget.spent_usd <= cap + 1e-9
    assert budget.reserve(max(0.0, cap - budget.spent_usd - 1e-9))


def test_a_new_day_starts_with_nothing_spent() -> None:
    day = ["2026-11-25"]
    budget = DayBudget(1.0, Price(1, 1, 1), 0.9, lambda: day[0])
    assert not budget.reserve(0.2)
    day[0] = "2026-11-26"
    assert budget.reserve(0.2)
    budget.settle(0.2, 0.15)
    assert budget.spent_usd == pytest.approx(0.15)


def test_a_request_over_midnight_counts_for_the_day_on_which_it_ends() -> None:
    day = ["2026-11-25"]
    budget = DayBudget(1.0, Price(1, 1, 1), 0.0, lambda: day[0])
    assert budget.reserve(0.8)
    day[0] = "2026-11-26"
    assert not budget.reserve(0.8)
    budget.settle(0.8, 0.5)
    assert budget.spent_usd == 0.5
