"""A hub that cannot be reached is reported in seconds, and a cached model is used instead."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import datasets
import pytest

from toolhone.data import files
from toolhone.errors import UserError

_SCRIPT = """
import sys, time
from toolhone.cli import main
from toolhone import hub
import toolhone.pretrained, datasets  # importing is not what is timed
started = time.monotonic()
code = main(sys.argv[1:])
print(f"took {time.monotonic() - started:.1f}")
sys.exit(code)
"""
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(params=["refuses", "never answers"])
def endpoint(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a hub that cannot be reached."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        if request.param == "never answers":
            listening.listen()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def run(
    arguments: list[str], endpoint: str, cache: Path, code: str = _SCRIPT, **more: str
) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "OMP_NUM_THREADS": "1"}
    for name in ("HF_HUB_OFFLINE", "HF_HUB_CACHE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
        env.pop(name, None)
    env |= more
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["train", "--config", "try.yaml"],
            "Error: model.name: cannot reach the hub ({}) to download Qwen/Qwen3-0.6B. Check the network, set "
            "HF_ENDPOINT to a mirror, or use a local folder\n",
        ),
        (
            ["data", "check", "hub:some/rows"],
            "Error: hub:some/rows: cannot reach the hub ({}) to download the dataset some/rows. Check the network, set "
            "HF_ENDPOINT to a mirror, or download its file and give the path\n",
        ),
    ],
    ids=["model", "dataset"],
)
def test_a_hub_that_cannot_be_reached_is_one_sentence_within_ten_seconds(
    in_workspace: Path, endpoint: str, arguments: list[str], message: str
) -> None:
    Path("try.yaml").write_text(
        "name: try\nmodel: {name: Qwen/Qwen3-0.6B, device: cpu}\ndata: {train: [a.jsonl], test: [b.jsonl]}\n",
        encoding="utf-8",
    )
    done = run(arguments, endpoint, in_workspace / "cache")
    assert done.returncode == 2
    start, end = message.split("{}")
    assert done.stderr.startswith(f"{start}{endpoint}: ")
    assert done.stderr.endswith(end)
    assert done.stderr.count("\n") == 1
    assert float(done.stdout.split("took ")[1]) < 10
    assert not Path("runs").exists()


_LOAD = """
import time
import toolhone.pretrained as pretrained
from toolhone.config import ModelConfig
from transformers import AutoModelForCausalLM
started = time.monotonic()
config = ModelConfig(name="org/tiny", device="cpu")
pretrained.load_model_config(config)
pretrained.load_tokenizer(config)
print(type(pretrained.from_pretrained(AutoModelForCausalLM, config)).__name__)
print(f"took {time.monotonic() - started:.1f}")
"""


@pytest.fixture
def cache(in_workspace: Path, tiny_llama: Path) -> Path:
    """The hub's cache, with the tiny model as org/tiny."""
    model = in_workspace / "cache" / "hub" / "models--org--tiny"
    shutil.copytree(tiny_llama, model / "snapshots" / COMMIT)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(COMMIT, encoding="utf-8")
    return in_workspace / "cache"


def test_a_cached_model_is_used_while_the_hub_cannot_be_reached(cache: Path, endpoint: str) -> None:
    done = run([], endpoint, cache, _LOAD)
    assert done.returncode == 0, done.stderr
    assert "LlamaForCausalLM" in done.stdout
    assert done.stderr.startswith(f"note: the hub cannot be reached ({endpoint}: ")
    assert done.stderr.count("using org/tiny from the cache") == 1
    assert float(done.stdout.split("took ")[1]) < 10


def test_a_cached_model_is_used_offline_without_asking_the_hub(cache: Path) -> None:
    done = run([], "http://127.0.0.1:9", cache, _LOAD, HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    assert "LlamaForCausalLM" in done.stdout
    assert "hub" not in done.stderr


@pytest.mark.parametrize(
    ("said", "how"),
    [
        (
            "Dataset 'some/rows' is a gated dataset on the Hub.",
            "accept its licence on its page and run `hf auth login`",
        ),
        (
            "Dataset 'some/rows' doesn't exist on the Hub or cannot be accessed.",
            "check the spelling, or run `hf auth login` if it is private",
        ),
    ],
    ids=["gated", "missing"],
)
def test_a_gated_dataset_has_another_message_than_a_missing_one(
    monkeypatch: pytest.MonkeyPatch, said: str, how: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise datasets.exceptions.DatasetNotFoundError(said)

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(UserError) as caught:
        list(files._hub_rows("hub:some/rows"))
    assert str(caught.value) == f"hub:some/rows: {said.rstrip('.')}; {how}"
