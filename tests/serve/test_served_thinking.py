"""A served model that learned to think: thoughts are in `reasoning_content`, and history follows the run's policy."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import served
from openai import OpenAI
from scripted import ScriptedGenerator

from toolhone.chat.render import ChatRenderer
from toolhone.config import ChatConfig, Thinking
from toolhone.records import Message, ToolCall
from toolhone.serve.answer import SmallModel
from toolhone.serve.request import read_request

LEARNED = {
    "Where is ORD-1?": Message("assistant", "", (ToolCall("query_order", {"order_id": "ORD-1"}),), thinking="Look up."),
    "谢谢": Message("assistant", "不客气", thinking="They thank me."),
    "Bye": Message("assistant", "Bye."),
}
BROKEN = '<tool_call>\n{"name": 7}\n</tool_call>'


@pytest.fixture(scope="module")
def thoughtful(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> SmallModel:
    """A model that has memorised LEARNED, trained with `chat.thinking: train`."""
    folder = tmp_path_factory.mktemp("thoughtful")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(served, "CHAT", ChatConfig(tools="names", thinking="train"))
        patch.setattr(served, "LEARNED", LEARNED)
        served.learn(tiny_llama, folder / "model")
        run = served.make_run(folder / "small", folder / "model")
    return served.small_model(run)


@pytest.fixture(scope="module")
def thinker(thoughtful: SmallModel) -> Iterator[OpenAI]:
    with pytest.MonkeyPatch.context() as patch, served.serving_app(served.app_of(thoughtful)) as url:
        patch.setenv("NO_PROXY", "127.0.0.1")
        with OpenAI(base_url=url, api_key="none", max_retries=0, timeout=30) as client:
            yield client


def ask(client: OpenAI, sent: Any, **options: Any) -> Any:
    reply = client.chat.completions.create(model="small", messages=sent, tools=served.WIRE_TOOLS, **options)
    return reply.choices[0]


def test_the_thought_is_not_in_the_content(thinker: OpenAI) -> None:
    for question, gold in LEARNED.items():
        message = ask(thinker, served.messages(question)).message
        assert getattr(message, "reasoning_content", "") == gold.thinking
        assert message.content == (gold.content or None)
        assert [call.function.name for call in message.tool_calls or []] == [call.name for call in gold.tool_calls]


def test_an_answer_cut_inside_its_thought_has_only_the_thought(thinker: OpenAI) -> None:
    whole = ask(thinker, served.messages("谢谢"), logprobs=True).logprobs.content
    opened = next(n for n in range(len(whole)) if "".join(t.token for t in whole[:n]).startswith("<think>\nThey"))
    choice = ask(thinker, served.messages("谢谢"), max_tokens=opened)
    assert choice.finish_reason == "length"
    assert (choice.message.content, choice.message.reasoning_content) == (None, "They")


@pytest.mark.parametrize(
    ("text", "thought", "content"),
    [
        (f"<think>\nHm.\n</think>\n\n{BROKEN}", "Hm.", BROKEN),
        ("Hm.\n</think>\n\nHello", "Hm.", "Hello"),
        ("<think>\n\n</think>\n\nHello", None, "Hello"),
        ("Hello", None, "Hello"),
    ],
)
def test_a_text_that_is_no_call_is_returned_without_its_thought(
    text: str, thought: str | None, content: str, thoughtful: SmallModel
) -> None:
    engine = ScriptedGenerator(thoughtful.renderer, lambda _: text)
    app = served.app_of(dataclasses.replace(thoughtful, generator=engine))
    with served.serving_app(app) as url, OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        message = ask(client, served.messages("hi")).message
    assert (getattr(message, "reasoning_content", None), message.content) == (thought, content)


def test_the_history_s_thinking_follows_the_policy_of_the_run(thoughtful: SmallModel) -> None:
    sent = [
        *served.messages("Where is ORD-1?"),
        {"role": "assistant", "content": "One moment.", "reasoning_content": "Look up.", "annotations": []},
        {"role": "user", "content": "Well?"},
    ]
    body = served_body(sent)
    prompts = {policy: prompt_text(thoughtful.renderer, policy, body) for policy in ("strip", "keep", "train")}
    assert "Look up." not in prompts["strip"]
    assert prompts["keep"] == prompts["train"]
    assert "<think>\nLook up.\n</think>\n\nOne moment." in prompts["keep"]


def test_an_answer_can_be_sent_back_unchanged(thinker: OpenAI) -> None:
    first = ask(thinker, served.messages("Where is ORD-1?")).message
    result = {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": "on its way"}
    assert ask(thinker, [*served.messages("Where is ORD-1?"), first, result]).finish_reason


def served_body(sent: list[Any]) -> bytes:
    return json.dumps({"model": "small", "messages": sent, "tools": served.WIRE_TOOLS}).encode()


def prompt_text(renderer: ChatRenderer, policy: Thinking, body: bytes) -> str:
    asked = read_request(body, "id", ["small"]).example
    return dataclasses.replace(renderer, thinking=policy).prompt(asked.prompt, asked.tools)[0]
