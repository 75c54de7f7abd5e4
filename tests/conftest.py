"""Shared fixtures: tiny generated models, one thread, and no network."""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

# Set before torch is imported: several busy thread pools on two cores make a tiny model a hundred times slower.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest
from hypothesis import settings

ROOT = Path(__file__).parent.parent


def load_script(name: str) -> ModuleType:
    """Import scripts/<name>.py, which is not part of a package."""
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


@pytest.fixture(scope="session")
def learned(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny model that has memorised the turns of `served.LEARNED`."""
    from served import learn

    folder = tmp_path_factory.mktemp("learned") / "model"
    learn(tiny_llama, folder)
    return folder


@pytest.fixture
def in_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, so that `runs/` and relative paths touch nothing else."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


FETCHED = {
    "llama3.2": (".cache/tokenizers/llama3.2", "scripts/fetch_tokenizers.py"),
    "qwen3": (".cache/tokenizers/qwen3", "scripts/fetch_tokenizers.py"),
    "smollm2": (".cache/models/SmolLM2-135M-Instruct", "toolhone fetch SmolLM2-135M-Instruct"),
    "gemma3": (".cache/models/gemma-3-270m", "toolhone fetch gemma-3-270m"),
}


@pytest.fixture(scope="session")
def fetched_tokenizer() -> Callable[[str], Any]:
    """Load a real tokenizer of `FETCHED` by its name. The test is skipped if it was not fetched."""

    @functools.cache
    def load(name: str) -> Any:
        from transformers import AutoTokenizer

        folder, script = FETCHED[name]
        if not (ROOT / folder / "tokenizer.json").is_file():
            pytest.skip(f"{folder} is missing; run {script} to fetch it")
        return AutoTokenizer.from_pretrained(ROOT / folder)

    return load


@pytest.fixture(scope="session")
def tiny_llama3_tokenizer() -> Any:
    """A tokenizer with Llama 3's special tokens and one token per byte."""
    words = ("begin_of_text", "end_of_text", "start_header_id", "end_header_id", "eot_id", "eom_id", "python_tag")
    tokens = [f"<|{word}|>" for word in words]
    return byte_tokenizer(tokens, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>", pad_token="<|end_of_text|>")


@pytest.fixture(scope="session")
def tiny_gemma_tokenizer() -> Any:
    """A tokenizer with Gemma's special tokens and one token per byte."""
    tokens = ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"]
    return byte_tokenizer(tokens, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>")


def byte_tokenizer(special: list[str], **roles: str) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE({character: n for n, character in enumerate(alphabet)}, []))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, clean_up_tokenization_spaces=False, **roles)


# On a busy machine a single fast example may take long, so there is no deadline. `--timeout` limits the whole test.
settings.register_profile("toolhone", deadline=None)
settings.load_profile("toolhone")
