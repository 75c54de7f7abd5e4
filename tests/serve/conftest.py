"""Fixtures: a tiny model that calls tools, created once, and a gateway for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import OpenAI
from served import app_of, learn, make_run, serving_app, small_model

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
