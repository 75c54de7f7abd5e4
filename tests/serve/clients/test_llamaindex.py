"""LlamaIndex's OpenAILike, which runs in an environment of its own (`llamaindex_scenarios.py`)."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from weather import FORECAST, HELLO

PYTHON = os.environ.get("TOOLHONE_LLAMAINDEX_PYTHON")
CALL = ["get_weather", {"city": "Paris"}]


@pytest.mark.skipif(
    PYTHON is None,
    reason="needs TOOLHONE_LLAMAINDEX_PYTHON: a Python with llama-index-llms-openai-like, which needs openai < 3",
)
def test_llamaindex_chats_streams_calls_and_gives_structured_output(gateway_url: str) -> None:
    scenarios = Path(__file__).with_name("llamaindex_scenarios.py")
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "OPENAI_BASE_URL")}
    done = subprocess.run(
        [str(PYTHON), str(scenarios), gateway_url], env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["chat"], found["complete"]) == (HELLO, HELLO)
    for key in ("stream", "astream"):
        assert "".join(found[key]) == HELLO
        assert len([piece for piece in found[key] if piece]) > 5
    assert found["calls"] == found["required"] == found["streamed calls"] == [CALL]
    assert found["predict_and_call"] == "sunny in Paris"
    assert found["agent"] == "It is sunny in Paris."
    assert found["structured"] == FORECAST
