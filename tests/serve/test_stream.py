"""Streamed answers: the deltas of a text in any pieces add up to the answer of the whole text, in every format."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionChunk

from toolhone.formats import FORMATS
from toolhone.formats.chat_format import RawCall
from toolhone.formats.pieces import Thought
from toolhone.formats.repair import Repairer
from toolhone.records import Tool
from toolhone.serve.reply import Reply, read_reply
from toolhone.serve.request import ApiError
from toolhone.serve.stream import (
    ChunkWriter,
    Delta,
    DeltaReader,
    Event,
    Finished,
    Usage,
    message_deltas,
    sse_chunks,
)

TOOLS = {name: Tool(name, "", {"type": "object"}) for name in ("query_order", "f")}
CALLS = [RawCall("query_order", '{"order_id": "A </think> 1"}'), RawCall("f", "{}"), RawCall("unknown", '{"a": [1]}')]
PIECES = [
    *(each.write("", CALLS[:count], "stop") for each in FORMATS.values() for count in (1, 2)),
    *(token for each in FORMATS.values() for token in each.control_tokens),
    "<think>", "</think>", "a thought", "[THINK]", "[/THINK]", "Hello", " there. ", "\n", "\n\n", " ", "a < b", "<b>",
    "- [a](b)", "[1]", "{", '{"a": 1}', '{"name": "Ada"}', '[{"name"', "{\n", '"id": "1",', "```", "```json\n",
    "```python\nx = [1]\n```", "query_order", "query_order\n", "f", "assistant", "to=", "func", "functools", "name: ",
    "<tool", "<|", "｜", "[TOOL",
]  # fmt: skip


def opens_every_thought(text: str, format: str) -> bool:
    """Whether each thought that ends was opened in the text."""
    pieces = FORMATS[format].read(text, Repairer((), 0, TOOLS))
    return all(piece.opened for piece in pieces if isinstance(piece, Thought))


def cut(text: str, sizes: Iterable[int]) -> Iterable[str]:
    at = 0
    for size in sizes:
        yield text[at : at + size]
        at += size
    yield text[at:]


def total(deltas: Iterable[Delta]) -> tuple[str, str, list[tuple[str, str]], list[Any]]:
    """Return what deltas add up to: content, thinking, calls and tokens."""
    content, thinking, calls, tokens = "", "", list[tuple[str, str]](), list[Any]()
    for delta in deltas:
        content, thinking = content + delta.content, thinking + delta.reasoning
        tokens += delta.tokens
        if delta.call is not None and delta.call.name is not None:
            assert delta.call.index == len(calls)
            calls.append((delta.call.name, ""))
        elif delta.call is not None:
            calls[delta.call.index] = (calls[delta.call.index][0], calls[delta.call.index][1] + delta.call.arguments)
    return content, thinking, calls, tokens


def of_reply(reply: Reply) -> tuple[str, str, list[tuple[str, str]]]:
    calls = [call.to_json()["function"] for call in reply.calls]
    return reply.content or "", reply.thinking, [(call["name"], call["arguments"]) for call in calls]


@settings(max_examples=150, deadline=None)
@given(
    format=st.sampled_from(list(FORMATS)),
    pieces=st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=8),
    sizes=st.lists(st.integers(1, 12), max_size=60),
    reason=st.sampled_from(["stop", "length"]),
    callable_names=st.sampled_from([(), ("f",), tuple(TOOLS)]),
    parallel=st.booleans(),
    in_thought=st.booleans(),
)
def test_any_pieces_of_a_text_give_the_answer_of_the_whole(
    format: str,
    pieces: list[str],
    sizes: list[int],
    reason: Any,
    callable_names: Sequence[str],
    parallel: bool,
    in_thought: bool,
) -> None:
    text = "".join(pieces)
    if not opens_every_thought(text.partition("</think>")[2] if in_thought else text, format):
        return
    options: Any = {"callable_names": callable_names, "parallel": parallel, "in_thought": in_thought}
    reader = DeltaReader(format, TOOLS, **options)
    given_pieces = [piece for piece in cut(text, sizes) if piece]
    deltas = [delta for number, piece in enumerate(given_pieces) for delta in reader.feed(piece, number)]
    *said, tokens = total([*deltas, *reader.finish(reason)])
    whole = read_reply(text, reason, format, TOOLS, **options)
    assert tuple(said) == of_reply(whole)
    assert reader.reply == whole
    assert tokens == list(range(len(given_pieces)))


def read(format: str, pieces: Iterable[str], **options: Any) -> tuple[list[Delta], list[Delta]]:
    """Return the deltas while a text is generated, and those at its end."""
    reader = DeltaReader(format, TOOLS, **{"callable_names": tuple(TOOLS), **options})
    early = [delta for piece in pieces for delta in reader.feed(piece)]
    return early, reader.finish("stop")


PROSE = "Sure: `x` < 3, see [docs](u) or f(x).\n\n- one {a}\n- <b>two</b>\n\n```python\nprint([1])\n```\nDone!"


@pytest.mark.parametrize("format", [name for name in FORMATS if name != "tool_code"])
def test_prose_is_given_at_once(format: str) -> None:
    early, end = read(format, PROSE)
    assert "".join(delta.content for delta in early) == PROSE
    assert end == []
    assert len(early) > 50


@pytest.mark.parametrize("format", FORMATS)
def test_no_part_of_a_call_is_given_before_the_turn_is_readable(format: str) -> None:
    early, end = read(format, FORMATS[format].write("", CALLS[1:2], "stop"))
    assert early == []
    assert total(end)[:3] == ("", "", [("f", "{}")])


@pytest.mark.parametrize("format", ["hermes", "gemma", "pythonic", "glm4", "mistral"])
def test_a_turn_with_a_call_that_cannot_be_read_is_text(format: str) -> None:
    text = FORMATS[format].write("", [RawCall("f", '{"a": 1')], "length")
    early, end = read(format, text)
    assert early == []
    assert total(end)[:3] == (text.strip(), "", [])


def test_a_thought_is_given_at_once() -> None:
    early, end = read("hermes", ["<thi", "nk>\nOne", " two", "</th", "ink>\n\nHello", " you"])
    assert [(delta.reasoning, delta.content) for delta in early] == [
        ("One", ""),
        (" two", ""),
        ("", "Hello"),
        ("", " you"),
    ]
    assert end == []


def test_a_thought_that_the_prompt_opens_is_given_at_once() -> None:
    early, end = read("hermes", ["One", " two", "</think>\n", "Hello"], in_thought=True)
    assert [(delta.reasoning, delta.content) for delta in early] == [("One", ""), (" two", ""), ("", "Hello")]
    assert end == []


def test_prose_that_was_given_stays_content_if_a_thought_ends_that_nothing_opened() -> None:
    early, end = read("hermes", ["One", " two", "</think>", "Hello"])
    assert total([*early, *end])[:2] == ("One twoHello", "")


def test_data_that_looks_like_a_call_at_first_is_given_with_its_second_key() -> None:
    early, _ = read("gemma", ['{"na', 'tion": "x"', "}"])
    assert "".join(delta.content for delta in early) == '{"nation": "x"}'


def test_a_call_has_its_id_and_name_first_then_its_arguments_in_pieces() -> None:
    long = json.dumps({"a": "x" * 1000})
    _, end = read("hermes", FORMATS["hermes"].write("", [RawCall("f", long), RawCall("f", "{}")], "stop"))
    calls = [delta.call for delta in end if delta.call]
    assert [(call.index, call.name) for call in calls] == [
        (0, "f"),
        (0, None),
        (0, None),
        (0, None),
        (1, "f"),
        (1, None),
    ]
    assert calls[0].to_json() == {
        "index": 0, "id": calls[0].id, "type": "function", "function": {"name": "f", "arguments": ""},
    }  # fmt: skip
    assert calls[0].id != calls[4].id
    assert "id" not in calls[1].to_json()


def test_a_token_comes_with_the_delta_that_has_its_text() -> None:
    reader = DeltaReader("hermes", TOOLS, callable_names=tuple(TOOLS))
    pieces = ["He", "llo", " ", "you", "\n", "<tool_call>", '{"name": "f"}', "</tool_call>"]
    deltas = [[delta.tokens for delta in reader.feed(piece, piece)] for piece in pieces]
    assert deltas == [[("He",)], [("llo",)], [], [(" ", "you")], [], [], [], []]
    end = reader.finish("stop")
    assert [delta.tokens for delta in end] == [("\n", *pieces[5:]), ()]


@pytest.mark.parametrize("unit", ["word ", "\n", "{", '\n{"', "```\n", "<think>", "\nquery_order\n", "<tool"])
@pytest.mark.parametrize("format", ["gemma", "glm4"])
def test_time_is_linear_in_the_text(format: str, unit: str) -> None:
    def seconds(characters: int) -> float:
        text = unit * (characters // len(unit))
        started = time.process_time()
        read(format, (text[at : at + 3] for at in range(0, len(text), 3)))
        return time.process_time() - started

    assert min(seconds(12_000) for _ in range(2)) < 0.05 + 12 * min(seconds(3_000) for _ in range(2))


async def events_of(*events: Event | ApiError) -> AsyncIterator[Event]:
    for event in events:
        if isinstance(event, ApiError):
            raise event
        yield event


def written(*events: Event | ApiError, **options: Any) -> list[Any]:
    async def collect() -> list[bytes]:
        return [chunk async for chunk in sse_chunks(events_of(*events), ChunkWriter("chatcmpl-1", "small", **options))]

    parts = b"".join(asyncio.run(collect())).decode().split("\n\n")
    assert parts.pop() == ""
    assert all(part.startswith("data: ") for part in parts)
    data = [part.removeprefix("data: ") for part in parts]
    return [each if each == "[DONE]" else json.loads(each) for each in data]


def test_chunks_are_those_of_openais_api() -> None:
    message = {
        "content": "Hi",
        "reasoning_content": "Hm",
        "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{}"}}],
    }
    events: list[Event] = [(0, delta) for delta in message_deltas(message)]
    *chunks, done = written(*events, (0, Finished("tool_calls")), Usage({"total_tokens": 3}))
    assert done == "[DONE]"
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk, strict=True)
        assert "usage" not in chunk
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": "", "refusal": None},
        {"reasoning_content": "Hm"},
        {"content": "Hi"},
        {"tool_calls": [{"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]},
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * 5 + ["tool_calls"]


def test_usage_comes_last_without_choices_if_the_client_asked() -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    *chunks, last, done = written((0, Delta("Hi")), (0, Finished("stop")), Usage(usage), include_usage=True)
    assert done == "[DONE]"
    assert [chunk["usage"] for chunk in chunks] == [None, None, None]
    assert (last["choices"], last["usage"]) == ([], usage)
    ChatCompletionChunk.model_validate(last)


def test_each_choice_begins_with_its_role() -> None:
    chunks = written((0, Delta("a")), (1, Delta("b")), (0, Finished("stop")), (1, Finished("length")))[:-1]
    assert [(chunk["choices"][0]["index"], *chunk["choices"][0]["delta"].values()) for chunk in chunks] == [
        (0, "assistant", "", None), (0, "a"), (1, "assistant", "", None), (1, "b"), (0,), (1,),
    ]  # fmt: skip


def test_chunks_carry_the_tokens_of_their_text_if_the_client_asked() -> None:
    token = {"token": "Hi", "logprob": -0.5, "bytes": [72, 105], "top_logprobs": []}
    events: list[Event] = [(0, Delta("Hi", tokens=(token,))), (0, Finished("stop"))]
    found = [chunk["choices"][0]["logprobs"] for chunk in written(*events, logprobs=True)[:-1]]
    assert found == [None, {"content": [token], "refusal": None}, None]
    assert all(chunk["choices"][0]["logprobs"] is None for chunk in written(*events)[:-1])


def test_an_error_ends_the_stream_with_an_event_that_openais_client_raises() -> None:
    chunks = written((0, Delta("Hi")), ApiError(503, "the engine stopped", code="engine_unavailable"))
    assert chunks[-1]["error"]["message"] == "the engine stopped"
    assert "[DONE]" not in chunks


def test_clients_that_send_functions_get_a_function_call() -> None:
    call = {"id": "c", "function": {"name": "f", "arguments": "{}"}}
    events: list[Event] = [(0, delta) for delta in message_deltas({"content": None, "tool_calls": [call]})]
    chunks = written(*events, (0, Finished("tool_calls")), legacy_functions=True)[:-1]
    assert [chunk["choices"][0]["delta"].get("function_call") for chunk in chunks] == [
        None, {"name": "f", "arguments": ""}, {"arguments": "{}"}, None,
    ]  # fmt: skip
    assert chunks[-1]["choices"][0]["finish_reason"] == "function_call"


def test_a_refusal_of_a_large_model_is_streamed_as_one() -> None:
    events: list[Event] = [(0, delta) for delta in message_deltas({"content": None, "refusal": "No."})]
    assert [chunk["choices"][0]["delta"] for chunk in written(*events)[:-1]][1:] == [{"refusal": "No."}]
