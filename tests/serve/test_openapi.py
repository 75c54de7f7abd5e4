"""The OpenAPI document: it names the keys that the gateway reads, and schemathesis finds no reply that differs."""

from __future__ import annotations

from typing import Any

from starlette.testclient import TestClient

from toolhone.serve import openapi, request, responses


def test_the_document_has_the_keys_that_are_read() -> None:
    chat = request._READ | request._NO_EFFECT.keys() | request._IGNORED.keys()
    assert openapi.CHAT_BODY["properties"].keys() == chat
    other = {"input", "instructions", "text", "reasoning", "max_output_tokens"}
    known = {*responses._SAME, *responses._NEED_STORE, *responses._NO_EFFECT, *other}
    assert openapi.RESPONSES_BODY["properties"].keys() == known


def test_the_document_describes_every_route(scripted_app: Any) -> None:
    with TestClient(scripted_app, base_url="http://127.0.0.1") as client:
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
