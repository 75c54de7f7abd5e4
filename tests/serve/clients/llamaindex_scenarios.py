"""LlamaIndex's OpenAILike with its default settings, against the gateway whose URL is the argument.

It runs in an environment of its own: llama-index-llms-openai needs openai < 3, and toolhone's tests have openai 3. Its
output is JSON; `test_llamaindex.py` starts it and checks it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.llms import ChatMessage
from llama_index.core.program import FunctionCallingProgram
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel

QUESTION = "What is the weather in Paris?"


class Forecast(BaseModel):
    """The weather of tomorrow."""

    city: str
    degrees: int


def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


def calls(llm: OpenAILike, response: Any) -> list[Any]:
    found = llm.get_tool_calls_from_response(response, error_on_no_tool_call=False)
    return [[call.tool_name, call.tool_kwargs] for call in found]


async def agent(llm: OpenAILike, tool: FunctionTool) -> str:
    return str(await FunctionAgent(tools=[tool], llm=llm).run(user_msg=QUESTION))


async def streamed(llm: OpenAILike) -> list[str]:
    return [part.delta or "" async for part in await llm.astream_chat([ChatMessage("Hi")])]


def main(url: str) -> None:
    llm = OpenAILike(model="small", api_base=url, api_key="none", is_chat_model=True, is_function_calling_model=True)
    tool = FunctionTool.from_defaults(get_weather)
    *_, last = llm.stream_chat_with_tools([tool], user_msg=QUESTION)
    program = FunctionCallingProgram.from_defaults(Forecast, prompt_template_str="A forecast, please.", llm=llm)
    found = {
        "chat": llm.chat([ChatMessage("Hi")]).message.content,
        "complete": llm.complete("Hi").text,
        "stream": [part.delta for part in llm.stream_chat([ChatMessage("Hi")])],
        "astream": asyncio.run(streamed(OpenAILike(**llm.to_dict() | {"api_key": "none"}))),
        "calls": calls(llm, llm.chat_with_tools([tool], user_msg=QUESTION)),
        "required": calls(llm, llm.chat_with_tools([tool], user_msg=QUESTION, tool_required=True)),
        "streamed calls": calls(llm, last),
        "predict_and_call": str(llm.predict_and_call([tool], user_msg=QUESTION)),
        "agent": asyncio.run(agent(OpenAILike(**llm.to_dict() | {"api_key": "none"}), tool)),
        "structured": program().model_dump(),
    }
    print(json.dumps(found))


main(sys.argv[1])
