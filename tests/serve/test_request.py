"""Reading a request: every body is read, or refused with an ApiError that names the key."""

from __future__ import annotations

import json
import random
from collections import Counter
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mutated_bodies import ALLOWED, FULL, NAMED, deep, mutant
from served import SYSTEM, TOOLS, WIRE_TOOLS, messages

from toolhone.engines.generate import Sampling
from toolhone.records import Message
from toolhone.serve.request import ApiError, ChatRequest, ToolChoice, read_request

_LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
_KEYS = st.sampled_from(
    ["role", "content", "tool_calls", "function", "name", "arguments", "parameters", "type", "id", "text", "properties"]
)
_VALUES = st.recursive(
    _LEAVES | st.sampled_from(["user", "assistant", "tool", "object", "function", "{}"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=12,
)
_BODY_KEYS = st.sampled_from(["messages", "tools", "tool_choice", "response_format", "stop", "stream_options", "other"])

NAMES = ("query_order", "help")


def body(**keys: Any) -> bytes:
    return json.dumps({"model": "small", "messages": messages("hi"), "tools": WIRE_TOOLS, **keys}).encode()


def read(strict: bool = False, **keys: Any) -> ChatRequest:
    return read_request(body(**keys), "id", ["small"], strict=strict)


def refusal(strict: bool = False, **keys: Any) -> ApiError:
    with pytest.raises(ApiError) as refused:
        read(strict, **keys)
    assert "\n" not in refused.value.message
    return refused.value


# Any body


@settings(max_examples=100)
@given(st.dictionaries(_BODY_KEYS, _VALUES, max_size=4))
def test_any_json_is_read_or_refused(keys: dict[str, Any]) -> None:
    with suppress(ApiError):
        assert read(**keys).example.prompt


def test_2000_mutated_bodies_are_read_or_refused() -> None:
    draw = random.Random(26)
    accepted = 0
    refused = Counter[int]()
    for _ in range(2000):
        sent = mutant(draw)
        try:
            asked = read_request(sent, "id", ["small"])
        except ApiError as error:
            refused[error.status] += 1
            continue
        accepted += 1
        json.dumps(asked.large_options).encode()
        for text in (*asked.ignored, *asked.repaired):
            assert text == ascii(text)[1:-1]  # fit for a header
        prompt = asked.example.prompt
        assert prompt[-1].role != "assistant"
        for number, message in enumerate(prompt):
            results = prompt[number + 1 : number + 1 + len(message.tool_calls)]
            assert [(one.role, one.tool_call_id) for one in results] == [("tool", c.id) for c in message.tool_calls]
    assert refused.keys() == {400, 404}
    assert accepted > 250


@settings(max_examples=50)
@given(st.binary(max_size=40))
def test_random_bytes_are_refused(sent: bytes) -> None:
    with pytest.raises(ApiError):
        read_request(sent, "id", ["small"])


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
        b'{"a":' * 100_000,
        body(user="\ud83d"),
        body(temperature=float("nan")),
        body()[:-1] + b', "seed": 1e999}',
        body()[:-1] + b', "seed": ' + b"9" * 5000 + b"}",
        body()[:-1] + b', "model": "small"}',
    ],
)
def test_a_body_that_is_not_utf_8_or_not_strict_json_is_refused_with_400(sent: bytes) -> None:
    with pytest.raises(ApiError, match=r"^the body is not JSON: ") as refused:
        read_request(sent, "id", ["small"])
    assert (refused.value.status, refused.value.code) == (400, "invalid_json")


def test_a_body_that_is_nested_too_deeply_is_refused() -> None:
    assert "100 levels" in refusal(tools=[{"name": "f", "parameters": deep(40)}]).message
    assert "JSON Schema" in refusal(tools=[{"name": "f", "parameters": json.dumps(deep(40))}]).message
    sent = {**FULL, "messages": [{"role": "user", "content": "hi"}], "metadata": deep(30)}
    assert read_request(json.dumps(sent).encode(), "id", ["small"]).example.prompt


WRONG: dict[str, tuple[Any, ...]] = {
    "model": (1, ["small"], {}),
    "messages": (1, "hi", {}, [], ["hi"], [1], [{"role": "user"}], [{"role": "user", "content": 5}]),
    "tools": (1, "x", {}, ["x"], [1], [{}], [{"name": ""}], [{"name": "f", "parameters": 4}]),
    "tool_choice": (1, "x", [], {}, {"type": "x"}, {"type": "function"}, {"type": "allowed_tools"}, True),
    "parallel_tool_calls": (1, "true", []),
    "response_format": (
        1,
        "json",
        [],
        {"type": "x"},
        {"type": "json_schema"},
        {"type": "json_schema", "json_schema": 1},
    ),
    "temperature": ("0", [], True, -0.1, 2.1, 10**400),
    "top_p": ("1", True, -0.1, 1.1),
    "top_k": (0.5, "1", True, -2, 10**30),
    "min_p": ("0", -1, 2),
    "seed": ("1", 0.5, True, 2**64),
    "presence_penalty": ("0", -3, 3),
    "frequency_penalty": ("0", -3, 3),
    "logit_bias": ([], "x", {"a": 1}, {"1": "x"}, {"-1": 1}, {"1": 101}, {"9" * 40: 1}),
    "stop": (1, {}, [1], ["a"] * 33),
    "n": (0, 9, "1", True, 1.5),
    "max_tokens": (0, -1, "5", True, 1.5),
    "max_completion_tokens": (0, -1, "5", True, 1.5),
    "logprobs": (1, "true"),
    "top_logprobs": (21, -1, "1", True, 5),  # 5 without logprobs
    "stream": (1, "true"),
    "stream_options": (1, "x", [], {"include_usage": 1}),
    "modalities": ("text", ["audio"], ["text", "audio"], []),
    "functions": (1, {"name": "f"}),
    "user": (1, {}),
    "metadata": ("x", []),
    "store": ("x", 1),
    "reasoning_effort": (1, {}),
    "chat_template_kwargs": (1, "x"),
    "web_search_options": ({},),
}


@pytest.mark.parametrize("key", WRONG)
def test_a_value_of_the_wrong_type_or_range_is_refused_by_name(key: str) -> None:
    for value in WRONG[key]:
        error = refusal(**{key: value})
        assert error.status == 400, value
        assert str(error.param).startswith(key), value
        assert key in error.message, value


@pytest.mark.parametrize("key", [key for key in WRONG if key not in ("model", "messages", "tools")])
def test_null_counts_as_absent(key: str) -> None:
    assert read(**{key: None}) == read()


# Values


def test_a_request_becomes_an_example() -> None:
    asked = read(max_tokens=5, logprobs=True, stop=None)
    assert asked.example.prompt == (SYSTEM, Message("user", "hi"))
    assert (asked.example.tools, asked.example.id) == (TOOLS, "id")
    assert (asked.max_tokens, asked.logprobs, asked.top_logprobs, asked.n, asked.stream) == (5, True, 0, 1, False)
    assert (asked.tool_choice, asked.parallel) == (ToolChoice("auto", NAMES), True)
    assert (asked.response_schema, asked.ignored, asked.repaired) == (None, (), ())


def test_answers_are_greedy_unless_the_client_asks_for_another_temperature() -> None:
    assert read().sampling == Sampling()
    assert read(top_p=0.5).sampling.temperature == 0
    assert read(temperature=1).sampling.temperature == 1
    assert read(temperature=1, top_p=0).sampling == Sampling()  # only the most likely token is left


def test_sampling_options_reach_the_engine_in_its_ranges() -> None:
    keys = ("temperature", "top_p", "top_k", "min_p", "seed", "presence_penalty", "frequency_penalty", "logit_bias")
    asked = read(**{key: FULL[key] for key in keys})
    assert asked.sampling == Sampling(0.7, 0.9, 40, 0.05, 7, 0.5, -0.5, ((12, -100.0),))
    assert read(top_k=-1).sampling.top_k == 0
    assert read(seed=-1).sampling.seed is None
    assert 0 <= (read(seed=-(2**63)).sampling.seed or 0) < 2**32
    assert read(max_tokens=64.0).max_tokens == 64


def test_the_newer_limit_wins_and_a_huge_one_is_no_error() -> None:
    assert read(max_tokens=9, max_completion_tokens=8).max_tokens == 8
    assert read(max_tokens=10**400).max_tokens == 2**31 - 1


@pytest.mark.parametrize(
    ("stop", "expected"), [("a", ("a",)), (["a", "b", "a"], ("a", "b")), ([], ()), ("", ()), (["", "c"], ("c",))]
)
def test_stop_is_a_text_or_a_list_of_texts(stop: Any, expected: tuple[str, ...]) -> None:
    assert read(stop=stop).stop == expected


def test_usage_is_streamed_only_if_asked_for() -> None:
    asked = read(stream=True, stream_options={"include_usage": True, "include_obfuscation": False})
    assert (asked.stream, asked.include_usage, asked.ignored) == (True, True, ())
    assert not read(stream=True).include_usage
    assert read(stream=True, stream_options={"continuous_usage_stats": True}).ignored == (
        "stream_options.continuous_usage_stats",
    )


@pytest.mark.parametrize("alias", ["small", "toolhone"])
def test_the_model_may_be_asked_for_by_its_name_or_the_alias(alias: str) -> None:
    assert read(model=alias).example.prompt
    assert refusal(model="gpt-5").status == 404


# Tools


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("auto", ToolChoice("auto", NAMES)),
        ("required", ToolChoice("required", NAMES)),
        ("any", ToolChoice("required", NAMES)),
        ({"type": "any"}, ToolChoice("required", NAMES)),
        (NAMED, ToolChoice("required", ("help",))),
        ({"type": "function", "name": "help"}, ToolChoice("required", ("help",))),
        ({"type": "tool", "name": "help"}, ToolChoice("required", ("help",))),
        ({"type": "allowed_tools", "allowed_tools": ALLOWED}, ToolChoice("auto", ("help",))),
        ({"type": "allowed_tools", **ALLOWED, "mode": "required"}, ToolChoice("required", ("help",))),
    ],
)
def test_every_form_of_tool_choice_is_read(choice: Any, expected: ToolChoice) -> None:
    asked = read(tool_choice=choice)
    assert (asked.tool_choice, asked.example.tools) == (expected, TOOLS)


def test_with_tool_choice_none_the_model_sees_no_tools() -> None:
    asked = read(tool_choice="none", parallel_tool_calls=False)
    assert (asked.tool_choice, asked.example.tools, asked.large_options) == (ToolChoice("none", ()), (), {})


@pytest.mark.parametrize(
    "choice", [{"type": "function", "name": "x"}, {"type": "allowed_tools", **ALLOWED}, "required"]
)
def test_a_choice_of_a_tool_that_is_not_declared_is_refused(choice: Any) -> None:
    tools = [] if choice == "required" else [{"name": "other"}]
    assert refusal(tool_choice=choice, tools=tools).param == "tool_choice"


SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


@pytest.mark.parametrize(
    "tool",
    [
        {"type": "function", "function": {"name": "find", "description": "Finds.", "parameters": SCHEMA}},
        {"type": "function", "name": "find", "description": "Finds.", "parameters": SCHEMA, "strict": False},
        {"name": "find", "description": "Finds.", "inputSchema": SCHEMA, "title": "Find", "annotations": {}},
        {"name": "find", "description": "Finds.", "input_schema": SCHEMA, "cache_control": {"type": "ephemeral"}},
        {"type": "custom", "name": "find", "description": "Finds.", "input_schema": SCHEMA},
    ],
)
def test_a_tool_of_any_api_keeps_its_schema(tool: dict[str, Any]) -> None:
    [found] = read(tools=[tool]).example.tools
    assert (found.name, found.description, found.parameters) == ("find", "Finds.", SCHEMA)


@pytest.mark.parametrize("kind", ["web_search", "web_search_preview", "file_search", "mcp", "computer_use", "custom"])
def test_a_hosted_tool_is_refused_by_its_type(kind: str) -> None:
    error = refusal(tools=[{"type": kind, "name": "search"}])
    assert kind in error.message
    assert (error.param, error.code) == ("tools", "hosted-tool")


def test_unknown_keys_beside_a_schema_are_listed_and_one_instead_of_it_is_refused() -> None:
    assert read(tools=[{"name": "find", "parameters": SCHEMA, "color": "red"}]).ignored == ("tools[0].color",)
    assert 'unknown key "schema"' in refusal(tools=[{"name": "find", "schema": {}}]).message
    assert "two schemas" in refusal(tools=[{"name": "find", "parameters": SCHEMA, "input_schema": SCHEMA}]).message


DOUBLING = {str(n): {"allOf": [{"$ref": f"#/$defs/{n + 1}"}] * 2} for n in range(40)} | {"40": {}}
"""Definitions that expand to 2 ** 40 schemas."""


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string"},
        {"type": "objekt"},
        {"type": "object", "properties": {"a": 5}},
        {"type": "object", "$ref": "#/description", "description": "not a schema"},
        {"type": "object", "$ref": "#/default", "default": {"required": 5}},
        {"type": "object", "$ref": "https://example.com/x"},
        {"type": "object", "$ref": "#"},
        {"type": "object", "$ref": "#/$defs/0", "$defs": DOUBLING},
        {"type": "object", "required": [f"a{number}" for number in range(30_000)]},
    ],
)
def test_a_tool_whose_schema_cannot_be_used_is_refused(schema: Any) -> None:
    error = refusal(tools=[{"name": "find", "parameters": schema}])
    assert (error.status, error.param) == (400, "tools")
    named = refusal(response_format={"type": "json_schema", "json_schema": {"schema": {**schema, "type": "objekt"}}})
    assert named.param == "response_format"


def test_nulls_in_a_schema_are_left_out_and_reported() -> None:
    asked = read(tools=[{"name": "find", "parameters": {**SCHEMA, "description": None}}])
    assert asked.example.tools[0].parameters == SCHEMA
    assert asked.repaired == ("tools[0]: 1 nulls in its schema are left out",)


def test_legacy_functions_are_tools_and_allow_one_call() -> None:
    functions = [tool["function"] for tool in WIRE_TOOLS]
    asked = read(tools=None, functions=functions, function_call={"name": "help"})
    assert (asked.example.tools, asked.legacy_functions, asked.parallel) == (TOOLS, True, False)
    assert asked.tool_choice == ToolChoice("required", ("help",))
    assert refusal(functions=functions).param == "functions"


# The answer's format


@pytest.mark.parametrize(
    ("format", "schema"),
    [
        ({"type": "text"}, None),
        ({}, None),
        ({"type": "json_object"}, {"type": "object"}),
        ({"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA, "strict": True}}, SCHEMA),
        ({"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}, SCHEMA),
        ({"type": "json_schema", "name": "a", "schema": SCHEMA}, SCHEMA),
        ({"type": "json_schema", "json_schema": {"name": "a"}}, {}),
    ],
)
def test_the_format_of_the_answer_is_a_schema(format: Any, schema: Any) -> None:
    asked = read(response_format=format)
    assert asked.response_schema == schema
    sent = asked.large_options.get("response_format")
    assert (sent is None) == (schema is None)
    assert sent is None or sent["type"] == "json_object" or sent["json_schema"]["name"] == "a"


# Other keys


def test_unknown_keys_are_listed_or_refused_if_strict() -> None:
    keys = {"reasoning_effort": "low", "chat_template_kwargs": {"enable_thinking": False}, "x\ny": 1, "ключ": 2}
    assert read(**keys).ignored == ("chat_template_kwargs", "reasoning_effort", "x\\ny", "\\u043a\\u043b\\u044e\\u0447")
    assert refusal(strict=True, reasoning_effort="low").code == "unknown_parameter"
    harmless = {"user": "me", "metadata": {}, "store": False, "safety_identifier": "x", "modalities": ["text"]}
    assert read(strict=True, **harmless).ignored == ()


def test_many_unknown_keys_fit_into_a_header() -> None:
    ignored = read(**{f"{'k' * 500}{n}": 1 for n in range(50)}).ignored
    assert ignored[-1] == "and 34 more"
    assert sum(map(len, ignored)) < 2500


def test_a_large_model_gets_the_options_of_the_client_only() -> None:
    assert read().large_options == {}
    tool = {**WIRE_TOOLS[1], "function": {**WIRE_TOOLS[1]["function"], "strict": True}}
    keys: dict[str, Any] = {"temperature": 0.2, "seed": 2**60, "top_p": 0.9, "user": "me", "metadata": {"a": "b"}}
    keys |= {"logprobs": True, "top_logprobs": 3, "stop": "x", "parallel_tool_calls": False}
    asked = read(tools=[WIRE_TOOLS[0], tool], tool_choice=NAMED, logit_bias={"1": 1}, top_k=4, **keys)
    assert asked.large_options == {**keys, "tool_choice": NAMED, "strict": ("help",)}
    allowed = {"type": "allowed_tools", "allowed_tools": ALLOWED}
    assert read(tool_choice={"type": "allowed_tools", **ALLOWED}).large_options == {"tool_choice": allowed}
