"""Reading a request: every body is read or refused with an ApiError."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from served import SYSTEM, TOOLS, WIRE_TOOLS, messages

from toolhone.records import Message
from toolhone.serve.request import ApiError, read_request

_LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
_KEYS = st.sampled_from(
    ["role", "content", "tool_calls", "function", "name", "arguments", "parameters", "type", "id", "text", "properties"]
)
_VALUES = st.recursive(
    _LEAVES | st.sampled_from(["user", "assistant", "tool", "object", "function", "{}"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=12,
)
_BODY_KEYS = st.sampled_from(
    ["messages", "tools", "tool_choice", "n", "temperature", "max_tokens", "logprobs", "top_logprobs", "stop", "other"]
)


def body(**keys: Any) -> bytes:
    return json.dumps({"model": "small", "messages": messages("hi"), "tools": WIRE_TOOLS, **keys}).encode()


@settings(max_examples=300)
@given(st.dictionaries(_BODY_KEYS, _VALUES, max_size=4))
def test_any_json_is_read_or_refused(keys: dict[str, Any]) -> None:
    with suppress(ApiError):
        assert read_request(body(**keys), "id", "small").example.prompt


@given(st.binary(max_size=40))
def test_random_bytes_are_refused(sent: bytes) -> None:
    with pytest.raises(ApiError):
        read_request(sent, "id", "small")


@pytest.mark.parametrize(
    "sent",
    [
        body(user="Grüße").decode().replace("\\u00fc", "ü").encode("latin-1"),
        b"\xff",
        b"",
        body()[:-3],
        b"\xef\xbb\xbf" + body(),
        body().decode().encode("utf-16"),
        b"\x1f\x8b no gzip",
        b"[" * 100_000,
        body(user="\ud83d"),
    ],
)
def test_a_body_that_is_not_utf_8_or_not_json_is_refused_with_400(sent: bytes) -> None:
    with pytest.raises(ApiError, match=r"^the body is not JSON: ") as refused:
        read_request(sent, "id", "small")
    assert (refused.value.status, refused.value.code) == (400, "invalid_json")


def test_a_request_becomes_an_example() -> None:
    asked = read_request(body(max_tokens=5, logprobs=True, temperature=0.0, stop=None), "chatcmpl-1", "small")
    assert asked.example.prompt == (SYSTEM, Message("user", "hi"))
    assert asked.example.tools == TOOLS
    assert asked.example.id == "chatcmpl-1"
    assert (asked.max_tokens, asked.logprobs, asked.top_logprobs, asked.may_call) == (5, True, 0, True)


def test_a_refusal_says_what_was_expected_and_what_was_found() -> None:
    with pytest.raises(ApiError, match='tool_choice: expected "auto" or "none", found "required"') as refused:
        read_request(body(tool_choice="required"), "id", "small")
    assert refused.value.to_json()["error"]["param"] == "tool_choice"


def _called(*results: dict[str, Any]) -> list[dict[str, Any]]:
    calls = [{"id": id_, "type": "function", "function": {"name": "query_order", "arguments": "{}"}} for id_ in "ab"]
    return [*messages("hi"), {"role": "assistant", "content": None, "tool_calls": calls}, *results]


def _result(id_: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": id_, "content": f"of {id_}"}


def test_results_are_ordered_like_the_calls_with_their_ids() -> None:
    asked = read_request(body(messages=_called(_result("b"), _result("a"))), "id", "small")
    assert [message.content for message in asked.example.prompt[-2:]] == ["of a", "of b"]


@pytest.mark.parametrize(
    ("results", "code"),
    [("ax", "orphan-result"), ("aa", "double-result"), ("abc", "orphan-result")],
)
def test_a_result_without_a_call_or_a_second_result_is_refused(results: str, code: str) -> None:
    with pytest.raises(ApiError) as refused:
        read_request(body(messages=_called(*map(_result, results))), "id", "small")
    assert (refused.value.status, refused.value.code, refused.value.param) == (400, code, "messages")


def test_tools_are_read_in_the_same_shapes_as_in_rows() -> None:
    tool = {"name": "find", "inputSchema": {"type": "object", "properties": {"city": {"type": "string"}}}}
    (read,) = read_request(body(tools=[tool]), "id", "small").example.tools
    assert read.parameters == tool["inputSchema"]
    with pytest.raises(ApiError, match='unknown key "schema"'):
        read_request(body(tools=[{"name": "find", "schema": {}}]), "id", "small")
