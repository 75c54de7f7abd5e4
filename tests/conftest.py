"""What tests share: tiny models made on the spot, one thread, and no network."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType
from typing import Any

# Before torch is imported: several busy thread pools on two cores slow a tiny model down a hundredfold.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest

ROOT = Path(__file__).parent.parent


def load_script(name: str) -> ModuleType:
    """Import scripts/<name>.py, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random Llama (4 layers, hidden size 64) with a ChatML tokenizer."""
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    texts = [(ROOT / "data" / "customer_service" / "tools.json").read_text(encoding="utf-8")]
    load_script("make_tiny_llama").make_tiny_llama(folder, texts, vocabulary=512)
    return folder


@pytest.fixture(scope="session")
def tiny_tokenizer(tiny_llama: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_llama)


@pytest.fixture
def in_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, so that `runs/` and relative paths touch nothing else."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
