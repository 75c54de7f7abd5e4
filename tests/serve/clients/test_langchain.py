"""LangChain's ChatOpenAI with its default settings: tools, streams and structured output."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel
from scripted import ScriptedGenerator
from weather import FORECAST, HELLO

langchain_openai = pytest.importorskip("langchain_openai", reason="needs langchain-openai")

from langchain_core.messages import AIMessage, HumanMessage, ToolMessage  # noqa: E402
from langchain_core.tools import tool  # noqa: E402

# LangChain's own models of structured output.
pytestmark = pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning")

PARIS = "What is the weather in Paris?"
BOTH = "What is the weather in Paris and Rome?"


@tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


class Forecast(BaseModel):
    """The weather of tomorrow."""

    city: str
    degrees: int


@pytest.fixture(params=["chat", "responses"])
def model(request: pytest.FixtureRequest) -> Any:
    options = {"use_responses_api": True} if request.param == "responses" else {}
    return langchain_openai.ChatOpenAI(model="small", **options)


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.Runner]:
    """One event loop for all tests, because LangChain's models share their connections."""
    with asyncio.Runner() as runner:
        yield runner


def cities(message: AIMessage) -> list[str]:
    assert {call["name"] for call in message.tool_calls} == {"get_weather"}
    return [call["args"]["city"] for call in message.tool_calls]


def test_a_text_is_answered(model: Any) -> None:
    message = model.invoke("Hi")
    assert message.text == HELLO
    assert message.usage_metadata["total_tokens"] > 0


def test_an_agents_loop_ends_in_text(model: Any) -> None:
    bound = model.bind_tools([get_weather])
    messages: list[Any] = [HumanMessage(BOTH)]
    messages.append(bound.invoke(messages))
    assert cities(messages[-1]) == ["Paris", "Rome"]
    messages += [get_weather.invoke(call) for call in messages[-1].tool_calls]
    assert all(isinstance(message, ToolMessage) for message in messages[2:])
    assert bound.invoke(messages).text == "It is sunny in Paris and sunny in Rome."


def test_streamed_chunks_add_up_to_the_calls(model: Any) -> None:
    whole: Any = None
    chunks = list(model.bind_tools([get_weather]).stream(BOTH))
    for chunk in chunks:
        whole = chunk if whole is None else whole + chunk
    assert cities(whole) == ["Paris", "Rome"]
    assert whole.text == "Let me look."
    assert len(chunks) > 5


def test_a_streamed_text_comes_in_pieces(model: Any) -> None:
    pieces = [chunk.text for chunk in model.stream("Hi")]
    assert "".join(pieces) == HELLO
    assert len([piece for piece in pieces if piece]) > 5


def test_async_streams_and_batches_give_the_same(model: Any, loop: asyncio.Runner) -> None:
    async def run() -> tuple[list[str], list[Any]]:
        pieces = [chunk.text async for chunk in model.astream("Hi")]
        return pieces, await model.abatch(["Hi"] * 3)

    pieces, answers = loop.run(run())
    assert "".join(pieces) == HELLO
    assert [answer.text for answer in answers] == [HELLO] * 3


@pytest.mark.parametrize("choice", ["any", "get_weather", "auto"])
def test_every_tool_choice_gives_a_call(model: Any, choice: str, generator: ScriptedGenerator) -> None:
    assert cities(model.bind_tools([get_weather], tool_choice=choice).invoke(PARIS)) == ["Paris"]
    assert (generator.asked[-1]["grammar"] is None) == (choice == "auto")


def test_without_parallel_calls_there_is_one_call(model: Any) -> None:
    assert cities(model.bind_tools([get_weather], parallel_tool_calls=False).invoke(BOTH)) == ["Paris"]


@pytest.mark.parametrize("method", ["function_calling", "json_schema", "json_mode"])
def test_structured_output_is_a_pydantic_model(model: Any, method: str, generator: ScriptedGenerator) -> None:
    structured = model.with_structured_output(Forecast, method=method)
    assert structured.invoke("A forecast as JSON, please.") == Forecast(**FORECAST)
    assert generator.asked[-1]["grammar"] is not None


def test_structured_output_streams(model: Any) -> None:
    *_, last = model.with_structured_output(Forecast).stream("A forecast, please.")
    assert last == Forecast(**FORECAST)


def test_a_stream_has_the_usage_if_asked() -> None:
    chunks = langchain_openai.ChatOpenAI(model="small", stream_usage=True).stream("Hi")
    assert sum(chunk.usage_metadata["total_tokens"] for chunk in chunks if chunk.usage_metadata) > 0


def test_options_that_users_set_are_accepted() -> None:
    model = langchain_openai.ChatOpenAI(model="small", temperature=0.7, top_p=0.9, max_tokens=50, seed=1, n=1)
    assert model.bind(stop=["can"]).invoke("Hi").text.strip() == "Hello! How"
