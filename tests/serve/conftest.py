"""Fixtures: a tiny model that calls tools, created once, and a gateway for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI
from scripted import ScriptedGenerator
from served import CHAT, LEARNED, app_of, learn, make_run, serving_app, small_model

from toolhone.chat.probe import make_renderer
from toolhone.formats import FORMATS
from toolhone.formats.chat_format import RawCall
from toolhone.serve.answer import SmallModel


@pytest.fixture(scope="session")
def run_folder(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    learn(tiny_llama, folder / "model")
    return make_run(folder / "small", folder / "model")


@pytest.fixture(scope="session")
def small(run_folder: Path) -> SmallModel:
    return small_model(run_folder)


@pytest.fixture(scope="session")
def url(small: SmallModel) -> Iterator[str]:
    with serving_app(app_of(small)) as url:
        yield url


@pytest.fixture
def client(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAI]:
    """OpenAI's own client, without retries."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with OpenAI(base_url=url, api_key="none", max_retries=0, timeout=30) as client:
        yield client


@pytest.fixture(scope="session")
def scripted_app(tiny_tokenizer: Any) -> Any:
    """The gateway in front of a model that answers with a call or a text, by the length of the prompt."""

    def answer_to(prompt: str) -> str:
        call = FORMATS["hermes"].write("", [RawCall("query_order", '{"order_id": "ORD-1"}')], "stop")
        return (call, LEARNED["谢谢"].content)[len(prompt) % 2]

    renderer = make_renderer(tiny_tokenizer, CHAT, "tiny")
    return app_of(SmallModel("small", renderer, ScriptedGenerator(renderer, answer_to), 60))
