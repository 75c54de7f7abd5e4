"""Opening the engine of the gateway: which one it is, and that an engine with other answers is refused."""

from __future__ import annotations

import asyncio
import copy
import io
from dataclasses import dataclass, replace
from pathlib import Path

import httpx2
import pytest
import torch
from generated import GREEDY, collect, prompt, text
from rich.console import Console
from served import make_run
from tiny_gguf import write_model

from toolhone.engines.llama_cpp import llama_cpp_server
from toolhone.errors import UserError
from toolhone.export.folder import exported_ggufs
from toolhone.export.hub import FACTS
from toolhone.jsonl import write_json
from toolhone.run_folder import sha256_of
from toolhone.serve import engine as engine_module
from toolhone.serve.engine import EngineSettings, OpenEngine, default_kind, open_engine
from toolhone.tuned import TunedModel


@dataclass(frozen=True)
class Served:
    """A tuned model, the GGUF of its merged weights, and one of other weights."""

    tuned: TunedModel
    gguf: Path
    other: Path


@pytest.fixture(scope="module")
def served(learned: Path, tmp_path_factory: pytest.TempPathFactory) -> Served:
    pytest.importorskip("xllamacpp", reason="llama.cpp needs the package xllamacpp")
    pytest.importorskip("gguf", reason="writing GGUF files needs the package gguf")
    folder = tmp_path_factory.mktemp("engine")
    tuned = TunedModel.load(make_run(folder / "run", learned))
    merged = copy.deepcopy(tuned.model).merge_and_unload()
    gguf = write_model(folder / "own.gguf", merged, tuned.renderer)
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in merged.parameters():
            weight += 0.05 * torch.randn_like(weight)
    return Served(tuned, gguf, write_model(folder / "other.gguf", merged, tuned.renderer))


def said(opened: OpenEngine, tuned: TunedModel) -> str:
    """The answer to one of the memorised questions."""

    async def ask() -> str:
        found, _ = await collect(opened.generator.generate(prompt(tuned, "谢谢"), 50, GREEDY))
        await opened.generator.close()
        return text(found[:-1])

    return asyncio.run(ask())


def console() -> Console:
    return Console(file=io.StringIO(), width=400)


def printed(shown: Console) -> str:
    assert isinstance(shown.file, io.StringIO)
    return shown.file.getvalue()


def test_llama_cpp_is_started_compared_with_the_run_and_ended(served: Served) -> None:
    shown = console()
    with open_engine(served.tuned, EngineSettings("llama.cpp", gguf=served.gguf, parallel=2), shown) as opened:
        assert opened.generator.kind == "llama.cpp"
        assert opened.engine == "llama.cpp f32"
        assert opened.identity.gguf == sha256_of(served.gguf)
        address = str(opened.generator.wire.client.base_url)  # type: ignore[attr-defined]
        assert address.startswith("http://127.0.0.1:")
        assert said(opened, served.tuned) == "不客气"
    assert "llama.cpp f32 answers as transformers float32 does, on 3 of 3 turns" in printed(shown)
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{address}/health")


def test_an_engine_with_other_weights_is_refused_unless_nothing_is_verified(served: Served) -> None:
    settings = EngineSettings("llama.cpp", gguf=served.other, parallel=2)
    with (
        pytest.raises(
            UserError, match=r"llama\.cpp f32 answers differently from transformers float32: weights: "
        ) as refused,
        open_engine(served.tuned, settings, console()),
    ):
        pass
    assert "--no-verify" in str(refused.value)
    unverified = EngineSettings("llama.cpp", gguf=served.other, parallel=2, verify=False)
    with open_engine(served.tuned, unverified, console()) as opened:
        assert opened.identity.gguf == sha256_of(served.other)


def test_a_running_engine_is_asked_without_the_key_of_the_large_model(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with llama_cpp_server(served.gguf, parallel=2, ctx=1024, threads=1) as url:
        with open_engine(served.tuned, EngineSettings(base_url=f"{url}/v1"), console()) as opened:
            assert opened.generator.wire.client.headers["authorization"] == "Bearer none"  # type: ignore[attr-defined]
            assert said(opened, served.tuned) == "不客气"
        assert httpx2.get(f"{url}/health").status_code == 200
        settings = EngineSettings(base_url=url, model="gpt")
        with (
            pytest.raises(UserError, match=r"--small-base-url http://127\.0\.0\.1:\d+: serves .*and not gpt"),
            open_engine(served.tuned, settings, console()),
        ):
            pass


def test_vllm_loads_the_run_s_revision_and_code_of_the_model(
    served: Served, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    command = tmp_path / "vllm"
    command.write_text('#!/bin/sh\necho "$@"\nexit 3\n', encoding="utf-8")
    command.chmod(0o755)
    config = served.tuned.config
    model = config.model.model_copy(update={"revision": "v1", "trust_remote_code": True})
    tuned = replace(served.tuned, config=config.model_copy(update={"model": model}))
    settings = EngineSettings("vllm", vllm_command=str(command), verify=False, context=512)
    refused = pytest.raises(UserError, match="--max-model-len 512 --revision v1 --trust-remote-code")
    with refused, open_engine(tuned, settings, console()):
        pass


def test_transformers_is_the_reference_and_has_the_identity_of_the_run(served: Served) -> None:
    with open_engine(served.tuned, EngineSettings("transformers"), console()) as opened:
        assert opened.engine == "transformers"
        assert said(opened, served.tuned) == "不客气"


def test_a_gguf_in_the_run_is_found_until_the_adapter_changes(served: Served, tmp_path: Path, learned: Path) -> None:
    tuned = TunedModel.load(make_run(tmp_path / "run", learned))
    folder = tuned.run.path / "export" / "merged-f32"
    folder.mkdir(parents=True)
    gguf = folder / "m.gguf"
    gguf.write_bytes(served.gguf.read_bytes())
    weights = tuned.run.adapter / "adapter_model.safetensors"
    facts = {"kind": "merged", "gguf": {"file": "m.gguf", "type": "f32"}, "adapter_sha256": sha256_of(weights)}
    write_json(folder / FACTS, {**facts, "template_hash": tuned.renderer.template_hash()})
    assert exported_ggufs(tuned) == {gguf: "f32"}
    assert default_kind(tuned, EngineSettings(), console()) == "llama.cpp"
    weights.write_bytes(weights.read_bytes() + b" ")
    assert exported_ggufs(tuned) == {}


def test_without_llama_cpp_the_default_is_transformers_and_a_note_says_what_is_missing(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = console()
    monkeypatch.setattr(engine_module, "_has_converter", lambda: False)
    assert default_kind(served.tuned, EngineSettings(), shown) == "transformers"
    monkeypatch.setattr(engine_module, "find_spec", lambda _: None)
    assert default_kind(served.tuned, EngineSettings(), shown) == "transformers"
    assert "run toolhone fetch llama.cpp, which downloads its converter" in printed(shown)
    assert "run pip install 'toolhone[gguf]' and toolhone fetch llama.cpp" in printed(shown)
