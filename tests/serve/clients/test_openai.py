"""OpenAI's own client: sync and async, whole and streamed, chat completions and responses."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel
from scripted import ScriptedGenerator
from weather import FORECAST, HELLO, RESPONSES_TOOL, TOOL

PARIS: Any = [{"role": "user", "content": "What is the weather in Paris?"}]
BOTH: Any = [{"role": "user", "content": "What is the weather in Paris and Rome?"}]
GREETING: Any = [{"role": "user", "content": "Hi"}]
PLAN: Any = [{"role": "user", "content": "A forecast, please."}]


class Forecast(BaseModel):
    """The weather of tomorrow."""

    city: str
    degrees: int


class GetWeather(BaseModel):
    city: str


def ask(messages: Any, **options: Any) -> Any:
    with OpenAI() as client:
        return client.chat.completions.create(model="small", messages=messages, **options)


def streamed(messages: Any, **options: Any) -> list[Any]:
    with OpenAI() as client:
        return list(client.chat.completions.create(model="small", messages=messages, stream=True, **options))


def respond(input_: Any, **options: Any) -> Any:
    with OpenAI() as client:
        return client.responses.create(model="small", input=input_, **options)


def added_up(chunks: list[Any]) -> dict[int, dict[str, Any]]:
    """Return the message of each choice, as a client adds it up from its chunks."""
    found: dict[int, dict[str, Any]] = {}
    for choice in (choice for chunk in chunks for choice in chunk.choices):
        whole = found.setdefault(choice.index, {"content": "", "calls": [], "finish": None, "tokens": []})
        whole["content"] += choice.delta.content or ""
        for call in choice.delta.tool_calls or ():
            if call.id is not None:
                whole["calls"].append([call.id, call.function.name, ""])
            whole["calls"][call.index][2] += call.function.arguments or ""
        whole["finish"] = choice.finish_reason or whole["finish"]
        whole["tokens"] += choice.logprobs.content if choice.logprobs else ()
    return found


def test_a_conversation_with_a_tool_ends_in_text() -> None:
    messages = list(PARIS)
    first = ask(messages, tools=[TOOL]).choices[0]
    assert first.finish_reason == "tool_calls"
    [call] = first.message.tool_calls
    assert json.loads(call.function.arguments) == {"city": "Paris"}
    messages += [first.message, {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
    last = ask(messages, tools=[TOOL]).choices[0]
    assert (last.message.content, last.finish_reason) == ("It is sunny.", "stop")


def test_results_in_another_order_are_paired_by_id() -> None:
    message = ask(BOTH, tools=[TOOL]).choices[0].message
    results = [
        {"role": "tool", "tool_call_id": call.id, "content": json.loads(call.function.arguments)["city"].upper()}
        for call in reversed(message.tool_calls)
    ]
    last = ask([*BOTH, message.model_dump(), *results], tools=[TOOL]).choices[0]
    assert last.message.content == "It is PARIS and ROME."


def test_a_streamed_text_comes_in_pieces_and_is_the_whole_text() -> None:
    chunks = streamed(GREETING)
    assert added_up(chunks)[0] | {"tokens": []} == {"content": HELLO, "calls": [], "finish": "stop", "tokens": []}
    assert len([chunk for chunk in chunks if chunk.choices[0].delta.content]) > 5
    assert chunks[0].choices[0].delta.role == "assistant"
    assert len({chunk.id for chunk in chunks}) == 1
    assert all(chunk.usage is None for chunk in chunks)


def test_streamed_calls_have_index_id_and_arguments() -> None:
    [whole] = added_up(streamed(BOTH, tools=[TOOL])).values()
    assert (whole["content"], whole["finish"]) == ("Let me look.", "tool_calls")
    assert [(name, json.loads(arguments)) for _, name, arguments in whole["calls"]] == [
        ("get_weather", {"city": "Paris"}),
        ("get_weather", {"city": "Rome"}),
    ]
    assert len({id_ for id_, _, _ in whole["calls"]}) == 2


def test_a_stream_and_a_whole_answer_have_the_same_tokens_and_usage() -> None:
    options: Any = {"tools": [TOOL], "logprobs": True, "top_logprobs": 1}
    chunks = streamed(BOTH, stream_options={"include_usage": True}, **options)
    whole = ask(BOTH, **options)
    assert added_up(chunks)[0]["tokens"] == whole.choices[0].logprobs.content
    assert (chunks[-1].choices, chunks[-1].usage) == ([], whole.usage)


def test_several_choices_stream_side_by_side() -> None:
    found = added_up(streamed(GREETING, n=3, temperature=1, seed=5))
    assert {index: whole["content"] for index, whole in found.items()} == dict.fromkeys(range(3), HELLO)
    assert [choice.message.content for choice in ask(GREETING, n=2).choices] == [HELLO] * 2


def test_a_stop_string_ends_a_text() -> None:
    for options in ({"stop": "can"}, {"stop": ["nothing", "can"]}):
        assert ask(GREETING, **options).choices[0].message.content.strip() == "Hello! How"
        [whole] = added_up(streamed(GREETING, **options)).values()
        assert (whole["content"], whole["finish"]) == ("Hello! How", "stop")


def test_the_token_limit_cuts_a_stream() -> None:
    [whole] = added_up(streamed(GREETING, max_completion_tokens=4)).values()
    assert whole["finish"] == "length"
    assert HELLO.startswith(whole["content"])
    assert whole["content"] != HELLO


@pytest.mark.parametrize(
    "choice",
    [
        "required",
        {"type": "function", "function": {"name": "get_weather"}},
        {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [TOOL]}},
    ],
)
def test_a_required_call_is_asked_with_a_grammar(choice: Any, generator: ScriptedGenerator) -> None:
    assert ask(PARIS, tools=[TOOL], tool_choice=choice).choices[0].finish_reason == "tool_calls"
    assert generator.asked[-1]["grammar"] is not None


def test_without_parallel_calls_there_is_one_call() -> None:
    assert len(ask(BOTH, tools=[TOOL], parallel_tool_calls=False).choices[0].message.tool_calls) == 1
    assert len(added_up(streamed(BOTH, tools=[TOOL], parallel_tool_calls=False))[0]["calls"]) == 1


def test_no_call_is_returned_if_none_may_be_made() -> None:
    choice = ask(PARIS, tools=[TOOL], tool_choice="none").choices[0]
    assert (choice.message.tool_calls, choice.finish_reason) == (None, "stop")


def test_the_stream_helper_gives_events_and_the_final_message() -> None:
    tool = openai.pydantic_function_tool(GetWeather, name="get_weather")
    with OpenAI() as client, client.chat.completions.stream(model="small", messages=PARIS, tools=[tool]) as stream:
        kinds = {event.type for event in stream}
        [call] = stream.get_final_completion().choices[0].message.tool_calls or []
    assert call.function.parsed_arguments == GetWeather(city="Paris")
    assert {"chunk", "content.delta", "content.done", "tool_calls.function.arguments.done"} <= kinds


def test_parse_gives_a_pydantic_model() -> None:
    with OpenAI() as client:
        found = client.chat.completions.parse(model="small", messages=PLAN, response_format=Forecast)
    assert found.choices[0].message.parsed == Forecast(**FORECAST)


def test_a_json_object_is_asked_with_a_grammar(generator: ScriptedGenerator) -> None:
    content = ask(PLAN, response_format={"type": "json_object"}).choices[0].message.content
    assert json.loads(content) == FORECAST
    assert generator.asked[-1]["grammar"] is not None


def test_clients_with_functions_get_a_function_call() -> None:
    choice = ask(PARIS, functions=[TOOL["function"]]).choices[0]
    assert (choice.finish_reason, choice.message.function_call.name) == ("function_call", "get_weather")
    chunks = streamed(PARIS, functions=[TOOL["function"]])
    calls = [chunk.choices[0].delta.function_call for chunk in chunks if chunk.choices[0].delta.function_call]
    assert json.loads("".join(call.arguments for call in calls)) == {"city": "Paris"}
    assert chunks[-1].choices[0].finish_reason == "function_call"


def test_async_clients_get_the_same() -> None:
    async def run() -> tuple[Any, Any, str]:
        async with AsyncOpenAI() as client:
            whole, stream, response = await asyncio.gather(
                client.chat.completions.create(model="small", messages=PARIS, tools=[TOOL]),
                client.chat.completions.create(model="small", messages=PARIS, tools=[TOOL], stream=True),
                client.responses.create(model="small", input="Hi", stream=True),
            )
            chunks = [chunk async for chunk in stream]
            text = "".join([event.delta async for event in response if event.type == "response.output_text.delta"])
            return whole, added_up(chunks), text

    whole, found, text = asyncio.run(run())
    [call] = whole.choices[0].message.tool_calls
    assert [name_and_arguments[1:] for name_and_arguments in found[0]["calls"]] == [
        [call.function.name, call.function.arguments]
    ]
    assert text == HELLO


def test_a_client_that_leaves_a_stream_ends_the_generation(generator: ScriptedGenerator) -> None:
    ended = generator.ended_early
    generator._pause_s = 0.02
    try:
        with OpenAI() as client:
            stream = client.chat.completions.create(model="small", messages=GREETING, stream=True)
            next(iter(stream))
            stream.close()
        for _ in range(100):
            if generator.ended_early > ended:
                break
            asyncio.run(asyncio.sleep(0.02))
    finally:
        generator._pause_s = 0.0
    assert generator.ended_early == ended + 1


def test_a_response_has_the_text() -> None:
    response = respond("Hi", instructions="Be kind.")
    assert (response.output_text, response.status, response.instructions) == (HELLO, "completed", "Be kind.")
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens


def test_a_conversation_of_items_ends_in_text() -> None:
    items: Any = [{"role": "user", "content": "What is the weather in Paris and Rome?"}]
    first = respond(items, tools=[RESPONSES_TOOL])
    items += first.output
    calls = [item for item in first.output if item.type == "function_call"]
    assert [json.loads(call.arguments)["city"] for call in calls] == ["Paris", "Rome"]
    items += [
        {"type": "function_call_output", "call_id": call.call_id, "output": json.loads(call.arguments)["city"].upper()}
        for call in calls
    ]
    assert respond(items, tools=[RESPONSES_TOOL]).output_text == "It is PARIS and ROME."


def test_the_stream_helper_of_responses_gives_the_final_response() -> None:
    with (
        OpenAI() as client,
        client.responses.stream(model="small", input="What is the weather in Paris?", tools=[RESPONSES_TOOL]) as stream,
    ):
        events = list(stream)
        final = stream.get_final_response()
    assert [item.type for item in final.output] == ["message", "function_call"]
    assert events[0].type == "response.created"
    assert events[-1].type == "response.completed"
    assert "response.function_call_arguments.delta" in {event.type for event in events}


def test_a_response_is_parsed_into_a_pydantic_model() -> None:
    with OpenAI() as client:
        found = client.responses.parse(model="small", input="A forecast, please.", text_format=Forecast)
    assert found.output_parsed == Forecast(**FORECAST)


def test_a_response_has_the_tokens_of_its_text() -> None:
    response = respond("Hi", include=["message.output_text.logprobs"], top_logprobs=1)
    tokens = response.output[0].content[0].logprobs
    assert "".join(token.token for token in tokens) == HELLO


def test_a_stored_response_is_refused_with_the_way_around() -> None:
    with pytest.raises(openai.BadRequestError, match="send the items of the conversation in input"):
        respond("Hi", previous_response_id="resp_1")


@pytest.mark.parametrize("is_response", [False, True])
def test_an_engine_that_fails_within_a_stream_raises(is_response: bool, generator: ScriptedGenerator) -> None:
    generator.fails_after = 3
    try:
        if is_response:
            with OpenAI() as client:
                *_, last = client.responses.create(model="small", input="Hi", stream=True)
            assert last.type == "response.failed"
            assert "engine" in last.response.error.message
        else:
            with pytest.raises(openai.APIError, match="engine"):
                streamed(GREETING)
    finally:
        generator.fails_after = None
