"""Fixtures: a gateway in front of the scripted model of `weather.py`, for clients with their default settings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from scripted import ScriptedGenerator
from served import CHAT, app_of, serving_app
from weather import answer_to

from toolhone.chat.probe import make_renderer
from toolhone.serve.answer import SmallModel


@pytest.fixture(scope="session")
def generator(tiny_tokenizer: Any) -> ScriptedGenerator:
    return ScriptedGenerator(make_renderer(tiny_tokenizer, CHAT, "tiny"), answer_to)


@pytest.fixture(scope="session")
def gateway_url(generator: ScriptedGenerator, tiny_tokenizer: Any) -> Iterator[str]:
    """The base URL of the gateway. Its model is "small"."""
    small = SmallModel("small", make_renderer(tiny_tokenizer, CHAT, "tiny"), generator, max_new_tokens=200)
    with serving_app(app_of(small)) as url:
        yield url


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, gateway_url: str) -> None:
    """What every client reads if nothing else is given."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("OPENAI_BASE_URL", gateway_url)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setenv("OPENAI_AGENTS_DISABLE_TRACING", "1")
