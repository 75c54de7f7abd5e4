"""`/v1/responses` as a translation of chat completions, checked with the types of OpenAI's client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from toolhone.records import ToolCall
from toolhone.serve.request import ApiError, read_request
from toolhone.serve.response_events import response_events
from toolhone.serve.responses import ResponsesRequest, read_responses_request, to_response
from toolhone.serve.stream import CallDelta, Delta, Event, Finished, Usage

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
TOOL = {"type": "function", "name": "f", "description": "F", "parameters": {"type": "object"}, "strict": False}
USAGE = {
    "prompt_tokens": 5,
    "completion_tokens": 7,
    "total_tokens": 12,
    "prompt_tokens_details": {"cached_tokens": 4},
}


def request(**options: Any) -> ResponsesRequest:
    return read_responses_request(json.dumps({"model": "small", "input": "Hi", **options}).encode(), "resp_1")


def refused(**options: Any) -> ApiError:
    with pytest.raises(ApiError) as found:
        request(**options)
    return found.value


def test_a_text_is_a_user_message_after_the_instructions() -> None:
    chat = request(instructions="Be brief.").chat
    assert chat == {
        "model": "small",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
    }


def test_the_items_of_one_answer_become_one_message() -> None:
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "Go"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm"}]},
        {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
         "content": [{"type": "output_text", "text": "Sure", "annotations": []}]},
        {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "f", "arguments": "{}", "status": "completed"},
        {"type": "function_call", "call_id": "c2", "name": "f", "arguments": '{"a": 1}'},
        {"type": "function_call_output", "call_id": "c1", "output": "one"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "two"}]},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Done"}]},
        {"type": "function_call", "call_id": "c3", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c3", "output": "three"},
        {"type": "message", "role": "assistant", "content": "All done"},
        {"role": "user", "content": "Thanks"},
    ]  # fmt: skip
    found = request(input=items, tools=[TOOL])
    read = read_request(found.chat_body, "1", ["small"]).example
    assert [(m.role, m.content, m.thinking, m.tool_calls) for m in read.prompt] == [
        ("user", "Go", "", ()),
        ("assistant", "Sure", "Hm", (ToolCall("f", {}, "c1"), ToolCall("f", {"a": 1}, "c2"))),
        ("tool", "one", "", ()),
        ("tool", "two", "", ()),
        ("assistant", "", "Done", (ToolCall("f", {}, "c3"),)),
        ("tool", "three", "", ()),
        ("assistant", "All done", "", ()),
        ("user", "Thanks", "", ()),
    ]
    assert [tool.to_json()["function"]["name"] for tool in read.tools] == ["f"]


def test_a_response_sent_back_is_read_as_the_answer_it_was() -> None:
    message = {"content": "Sure", "reasoning_content": "Hm", "tool_calls": [call("c1", '{"a": 1}')]}
    output = to_response(request(), completion(message))["output"]
    again = request(
        input=[
            {"role": "user", "content": "Go"},
            *output,
            {"type": "function_call_output", "call_id": "c1", "output": "1"},
        ]
    )
    assert again.chat["messages"][1] == {
        "role": "assistant",
        "content": [{"type": "output_text", "text": "Sure", "annotations": [], "logprobs": []}],
        "reasoning_content": "Hm",
        "tool_calls": [call("c1", '{"a": 1}')],
    }


@pytest.mark.parametrize(
    ("choice", "mode", "names"),
    [
        ("auto", "auto", ("f",)),
        ("none", "none", ()),
        ("required", "required", ("f",)),
        ({"type": "function", "name": "f"}, "required", ("f",)),
        ({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]}, "auto", ("f",)),
    ],
)
def test_every_form_of_tool_choice_is_read(choice: Any, mode: str, names: tuple[str, ...]) -> None:
    found = request(tools=[TOOL], tool_choice=choice)
    read = read_request(found.chat_body, "1", ["small"]).tool_choice
    assert (read.mode, read.names) == (mode, names)


def test_options_have_the_names_of_a_chat_request() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    format = {"type": "json_schema", "name": "A", "schema": schema, "strict": True}
    found = request(
        text={"format": format, "verbosity": "low"},
        max_output_tokens=9,
        temperature=0.5,
        top_p=0.9,
        parallel_tool_calls=False,
        reasoning={"effort": "low", "summary": "auto"},
        include=["message.output_text.logprobs", "reasoning.encrypted_content"],
        top_logprobs=2,
        metadata={"a": "b"},
        truncation="auto",
        store=True,
        stream=True,
        seed=3,
    )
    read = read_request(found.chat_body, "1", ["small"])
    assert (read.max_tokens, read.response_schema, read.stream) == (9, schema, True)
    assert (read.parallel, read.logprobs, read.top_logprobs) == (False, True, 2)
    assert (read.sampling.temperature, read.sampling.top_p, read.sampling.seed) == (0.5, 0.9, 3)
    assert set(read.ignored) == {"reasoning_effort", "verbosity"}


def test_an_unknown_key_reaches_the_reader_of_chat_requests() -> None:
    assert read_request(request(colour="red").chat_body, "1", ["small"]).ignored == ("colour",)


def test_what_needs_a_store_is_refused_with_the_way_around() -> None:
    error = refused(previous_response_id="resp_0")
    assert (error.status, error.param) == (400, "previous_response_id")
    assert error.message.endswith("send the items of the conversation in input")
    assert "send the items" in refused(input=[{"type": "item_reference", "id": "msg_1"}]).message
    assert refused(background=True).param == "background"
    assert request(background=False, previous_response_id=None).chat["messages"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input": None}, "input: expected a text or a list of items, found nothing"),
        ({"input": []}, "input: expected a text or a list of items, found []"),
        ({"input": [1]}, "input[0]: expected an item, which is an object, found 1"),
        ({"input": [{"type": "web_search_call"}]}, 'input[0]: an item of type "web_search_call"; this server reads'),
        ({"messages": []}, "Unrecognized request argument supplied: messages"),
        ({"text": "x"}, 'text: expected an object, found "x"'),
        ({"text": {"format": 1}}, "text.format: expected an object, found 1"),
        ({"tools": {}}, "tools: expected a list, found {}"),
        ({"include": "x"}, 'include: expected a list, found "x"'),
    ],
)
def test_a_body_that_is_not_of_this_api_is_refused(options: dict[str, Any], message: str) -> None:
    error = refused(**options)
    assert error.status == 400
    assert error.message.startswith(message)


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff", b"{", b"[" * 100_000])
def test_a_body_that_is_not_a_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(ApiError, match=r"^the body"):
        read_responses_request(body, "resp_1")


def call(id_: str, arguments: str) -> dict[str, Any]:
    return {"id": id_, "type": "function", "function": {"name": "f", "arguments": arguments}}


def completion(message: dict[str, Any], finish_reason: str = "stop", logprobs: Any = None) -> dict[str, Any]:
    choice = {"index": 0, "message": message, "finish_reason": finish_reason, "logprobs": logprobs}
    return {"model": "small", "created": 3, "choices": [choice], "usage": USAGE}


def test_a_response_has_reasoning_then_text_then_calls() -> None:
    message = {"content": "Sure", "reasoning_content": "Hm", "tool_calls": [call("c1", "{}"), call("c2", '{"a": 1}')]}
    row = to_response(request(tools=[TOOL], metadata={"a": "b"}, temperature=0.5), completion(message, "tool_calls"))
    response = Response.model_validate(row, strict=True)
    assert (response.status, response.output_text, response.metadata) == ("completed", "Sure", {"a": "b"})
    assert [item.type for item in response.output] == ["reasoning", "message", "function_call", "function_call"]
    assert [(item["call_id"], item["arguments"]) for item in row["output"][2:]] == [("c1", "{}"), ("c2", '{"a": 1}')]
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.input_tokens_details.cached_tokens) == (5, 4)
    assert (response.usage.output_tokens, response.usage.total_tokens) == (7, 12)


def test_an_answer_that_was_cut_is_incomplete() -> None:
    row = to_response(request(), completion({"content": "Su"}, "length"))
    response = Response.model_validate(row, strict=True)
    assert (response.status, row["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert row["output"][0]["status"] == "incomplete"


def test_an_empty_answer_is_an_empty_text() -> None:
    assert Response.model_validate(to_response(request(), completion({"content": None}))).output_text == ""


def test_a_refusal_is_a_part_of_the_message() -> None:
    row = to_response(request(), completion({"content": None, "refusal": "No."}))
    Response.model_validate(row, strict=True)
    assert row["output"][0]["content"] == [{"type": "refusal", "refusal": "No."}]


def events_of(*events: Event | ApiError, **options: Any) -> list[dict[str, Any]]:
    """Return the events of a stream, each checked with the types of OpenAI's client."""

    async def given() -> AsyncIterator[Event]:
        for event in events:
            if isinstance(event, ApiError):
                raise event
            yield event

    async def collect() -> bytes:
        return b"".join([part async for part in response_events(given(), request(**options), "small")])

    rows = []
    for part in asyncio.run(collect()).decode().split("\n\n")[:-1]:
        name, data = part.split("\n")
        row = json.loads(data.removeprefix("data: "))
        assert name == f"event: {row['type']}"
        assert EVENT.validate_python(row, strict=True).type == row["type"]
        rows.append(row)
    assert [row["sequence_number"] for row in rows] == list(range(len(rows)))
    return rows


def test_the_events_of_a_text_come_in_openais_order() -> None:
    token = {"token": "Hi", "logprob": -0.5, "bytes": [72, 105], "top_logprobs": []}
    rows = events_of((0, Delta("Hi", tokens=(token,))), (0, Delta(" you")), (0, Finished("stop")), Usage(USAGE))
    assert [row["type"] for row in rows] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert rows[4]["logprobs"] == [token]
    assert rows[6]["text"] == rows[7]["part"]["text"] == rows[8]["item"]["content"][0]["text"] == "Hi you"
    assert len({row["item_id"] for row in rows[3:8]} | {rows[2]["item"]["id"], rows[8]["item"]["id"]}) == 1
    assert rows[0]["response"]["usage"] is None
    assert rows[-1]["response"]["usage"]["total_tokens"] == 12


def test_each_item_is_closed_before_the_next_one() -> None:
    rows = events_of(
        (0, Delta(reasoning="Hm")),
        (0, Delta("Sure")),
        (0, Delta(call=CallDelta(0, "c1", "f"))),
        (0, Delta(call=CallDelta(0, arguments='{"a"'))),
        (0, Delta(call=CallDelta(0, arguments=": 1}"))),
        (0, Delta(call=CallDelta(1, "c2", "f"))),
        (0, Delta(call=CallDelta(1, arguments="{}"))),
        (0, Finished("tool_calls")),
        Usage(USAGE),
    )
    kinds = [row["type"].removeprefix("response.") for row in rows]
    text = ["content_part.added", "{}.delta", "{}.done", "content_part.done"]
    arguments = ["function_call_arguments.delta", "function_call_arguments.done"]
    assert kinds == [
        "created", "in_progress",
        "output_item.added", *(each.format("reasoning_text") for each in text), "output_item.done",
        "output_item.added", *(each.format("output_text") for each in text), "output_item.done",
        "output_item.added", arguments[0], *arguments, "output_item.done",
        "output_item.added", *arguments, "output_item.done",
        "completed",
    ]  # fmt: skip
    assert [row["output_index"] for row in rows if row["type"] == "response.output_item.done"] == [0, 1, 2, 3]
    whole = rows[-1]["response"]
    assert whole["output"] == [row["item"] for row in rows if row["type"] == "response.output_item.done"]
    assert [(item.get("call_id"), item.get("arguments")) for item in whole["output"][2:]] == [
        ("c1", '{"a": 1}'),
        ("c2", "{}"),
    ]


def test_a_stream_that_is_cut_ends_as_incomplete() -> None:
    rows = events_of((0, Delta("Hi")), (0, Finished("length")), Usage(USAGE))
    assert rows[-1]["type"] == "response.incomplete"
    assert rows[-1]["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert rows[-2]["item"]["status"] == "incomplete"


def test_an_empty_stream_has_an_empty_text() -> None:
    assert events_of((0, Finished("stop")))[-1]["response"]["output"][0]["content"][0]["text"] == ""


def test_a_stream_that_fails_says_why() -> None:
    rows = events_of((0, Delta("Hi")), ApiError(503, "the engine stopped"))
    assert rows[-1]["type"] == "response.failed"
    assert rows[-1]["response"]["error"] == {"code": "server_error", "message": "the engine stopped"}
