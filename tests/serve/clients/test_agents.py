"""OpenAI's Agents SDK with its default settings, over responses and over chat completions."""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from openai import AsyncOpenAI
from pydantic import BaseModel
from weather import FORECAST, HELLO

agents = pytest.importorskip("agents", reason="needs openai-agents")


# The client leaves its connections to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore:asynchronous generator .* was scheduled after:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def connections() -> Iterator[None]:
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


class Forecast(BaseModel):
    city: str
    degrees: int


@agents.function_tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


@pytest.fixture(params=["responses", "chat_completions"])
def api(request: pytest.FixtureRequest) -> Iterator[str]:
    # A client of its own, because one client cannot be used in several event loops.
    agents.set_default_openai_client(AsyncOpenAI(), use_for_tracing=False)
    agents.set_default_openai_api(request.param)
    yield request.param
    agents.set_default_openai_api("responses")


def agent(**options: Any) -> Any:
    return agents.Agent(name="Weather", instructions="Answer briefly.", model="small", **options)


@pytest.mark.usefixtures("api")
def test_an_agent_calls_its_tool_and_answers() -> None:
    result = agents.Runner.run_sync(agent(tools=[get_weather]), "What is the weather in Paris and Rome?")
    assert result.final_output == "It is sunny in Paris and sunny in Rome."
    assert [type(item).__name__ for item in result.new_items] == [
        "MessageOutputItem",
        "ToolCallItem",
        "ToolCallItem",
        "ToolCallOutputItem",
        "ToolCallOutputItem",
        "MessageOutputItem",
    ]
    assert result.context_wrapper.usage.total_tokens > 0


@pytest.mark.usefixtures("api")
def test_a_streamed_agent_gives_the_text_in_pieces() -> None:
    async def stream() -> tuple[list[str], Any]:
        result = agents.Runner.run_streamed(agent(tools=[get_weather]), "What is the weather in Paris?")
        events = [event async for event in result.stream_events()]
        raw = [event.data for event in events if event.type == "raw_response_event"]
        return [each.delta for each in raw if each.type == "response.output_text.delta"], result.final_output

    pieces, final = asyncio.run(stream())
    assert final == "It is sunny in Paris."
    assert "".join(pieces) == f"Let me look.{final}"
    assert len(pieces) > 5


@pytest.mark.usefixtures("api")
def test_a_second_question_has_the_history_of_the_first() -> None:
    async def talk() -> Any:
        weather = agent(tools=[get_weather])
        first = await agents.Runner.run(weather, "What is the weather in Paris?")
        return await agents.Runner.run(weather, [*first.to_input_list(), {"role": "user", "content": "Hi"}])

    assert asyncio.run(talk()).final_output == HELLO


@pytest.mark.usefixtures("api")
def test_an_output_type_gives_a_pydantic_model() -> None:
    result = agents.Runner.run_sync(agent(output_type=Forecast), "A forecast, please.")
    assert result.final_output == Forecast(**FORECAST)


@pytest.mark.usefixtures("api")
def test_model_settings_are_accepted() -> None:
    settings = agents.ModelSettings(tool_choice="required", parallel_tool_calls=False, temperature=0.3, top_p=0.9)
    result = agents.Runner.run_sync(
        agent(tools=[get_weather], model_settings=settings), "What is the weather in Paris and Rome?"
    )
    assert result.final_output == "It is sunny in Paris."


@pytest.mark.usefixtures("api")
def test_another_agent_is_a_tool() -> None:
    expert = agent(tools=[get_weather])
    desk = agents.Agent(name="Desk", instructions="", model="small", tools=[expert.as_tool("ask_expert", "Asks.")])
    assert agents.Runner.run_sync(desk, "Hi").final_output == HELLO
