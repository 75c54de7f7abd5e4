"""The server, as OpenAI's own client meets it."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from openai import OpenAI
from served import TOOLS, WIRE_TOOLS, example, messages

from toolhone.serve.engine import Engine


def ask(client: OpenAI, question: str, **options: Any) -> Any:
    options = {"model": "small", "messages": messages(question), "tools": WIRE_TOOLS, **options}
    return client.chat.completions.create(**options)


def test_a_call_comes_as_openai_gives_it(client: OpenAI) -> None:
    reply = ask(client, "Where is ORD-1?")
    [choice] = reply.choices
    [call] = choice.message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("query_order", {"order_id": "ORD-1"})
    assert (call.type, choice.finish_reason, choice.message.content) == ("function", "tool_calls", None)
    assert (reply.object, reply.model) == ("chat.completion", "small")
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens


def test_parallel_calls_come_with_ids_of_their_own_and_the_text_beside_them(client: OpenAI) -> None:
    message = ask(client, "A person, now.").choices[0].message
    assert message.content == "好"
    assert [call.function.name for call in message.tool_calls] == ["help", "query_order"]
    assert len({call.id for call in message.tool_calls}) == 2
