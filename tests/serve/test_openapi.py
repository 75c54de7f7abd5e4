"""The OpenAPI document: it names the keys that the gateway reads, and schemathesis finds no reply that differs."""

from __future__ import annotations

from typing import Any

import pytest
from scripted import ScriptedGenerator
from served import CHAT, LEARNED, app_of
from starlette.testclient import TestClient

from toolhone.chat.probe import make_renderer
from toolhone.formats import FORMATS
from toolhone.formats.chat_format import RawCall
from toolhone.serve import openapi, request, responses
from toolhone.serve.answer import SmallModel


def answer_to(prompt: str) -> str:
    """Return a call or a text, by the length of the prompt."""
    call = FORMATS["hermes"].write("", [RawCall("query_order", '{"order_id": "ORD-1"}')], "stop")
    return (call, LEARNED["谢谢"].content)[len(prompt) % 2]


@pytest.fixture(scope="module")
def app(tiny_tokenizer: Any) -> Any:
    renderer = make_renderer(tiny_tokenizer, CHAT, "tiny")
    return app_of(SmallModel("small", renderer, ScriptedGenerator(renderer, answer_to), 60))


def test_the_document_has_the_keys_that_are_read() -> None:
    chat = request._READ | request._NO_EFFECT.keys() | request._IGNORED.keys()
    assert openapi.CHAT_BODY["properties"].keys() == chat
    other = {"input", "instructions", "text", "reasoning", "max_output_tokens"}
    known = {*responses._SAME, *responses._NEED_STORE, *responses._NO_EFFECT, *other}
    assert openapi.RESPONSES_BODY["properties"].keys() == known


def test_the_document_describes_every_route(app: Any) -> None:
    with TestClient(app, base_url="http://127.0.0.1") as client:
        document = client.get("/openapi.json").json()
    paths = {
        "/v1/chat/completions",
        "/v1/responses",
        "/v1/models",
        "/v1/models/{name}",
        "/health",
        "/ready",
        "/metrics",
    }
    assert document["paths"].keys() == paths
    assert document["paths"]["/v1/chat/completions"]["post"]["responses"].keys() >= {"200", "400", "401", "503"}
