"""Fixtures: an engine with a tiny model that calls tools, created once, and a server for it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import OpenAI
from rich.console import Console
from served import learn, make_run, serving_app

from toolhone.serve.app import Engine, make_app
from toolhone.serve.server import load_engine


@pytest.fixture(scope="session")
def run_folder(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    learn(tiny_llama, folder / "model")
    return make_run(folder / "small", folder / "model")


@pytest.fixture(scope="session")
def engine(run_folder: Path) -> Engine:
    return load_engine(run_folder, None, Console(file=io.StringIO()))[0]


@pytest.fixture(scope="session")
def url(engine: Engine) -> Iterator[str]:
    with serving_app(make_app(engine)) as url:
        yield url


@pytest.fixture
def client(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAI]:
    """OpenAI's own client, without retries."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with OpenAI(base_url=url, api_key="none", max_retries=0, timeout=30) as client:
        yield client
