"""Which engine answers a stage: transformers, or vLLM if it is asked for or can be used on a GPU. vLLM itself needs a
GPU, so its answers are replaced by those of transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from toolhone.chat.probe import make_renderer
from toolhone.config import ChatConfig, Config, EvaluateConfig
from toolhone.errors import UserError
from toolhone.evaluate import stage as module
from toolhone.evaluate.predict import predict
from toolhone.evaluate.predict_vllm import VllmError
from toolhone.evaluate.stage import choose_engine, is_answered, predict_once, refuse_missing_vllm
from toolhone.records import Example, Gold, Message
from toolhone.run_folder import open_run
from toolhone.train.hardware import Hardware
from toolhone.tuned import TunedModel

CPU, GPU = Hardware("cpu", torch.float32, ()), Hardware("cuda", torch.bfloat16, ())
TURN = Message("assistant", "Yes.")
ROWS = [
    Example(f"c{n}/1", f"c{n}", (Message("user", f"Hi {n}"),), TURN, Gold("none"), (), "r", None, {}) for n in (1, 2)
]


@pytest.fixture
def tuned(tiny_llama: Path, tiny_tokenizer: Any, in_workspace: Path) -> TunedModel:
    config = Config.model_validate(
        {
            "name": "try",
            "model": {"name": str(tiny_llama), "device": "cpu", "dtype": "float32"},
            "data": {"train": ["a.jsonl"], "test": ["b.jsonl"]},
            "evaluate": {"max_new_tokens": 3, "batch_size": 2},
        }
    )
    run = open_run(config, fresh=False)
    run.adapter.mkdir()
    renderer = make_renderer(tiny_tokenizer, ChatConfig(), "tiny")
    return TunedModel(run, config, CPU, renderer, None)


def with_adapter(tuned: TunedModel, **settings: Any) -> TunedModel:
    """The model on a GPU with an adapter, of which vLLM reads only the settings here."""
    path = tuned.run.adapter / "adapter_config.json"
    path.write_text(json.dumps({"r": 8, **settings}), encoding="utf-8")
    return replace(tuned, adapter=tuned.run.adapter, hardware=GPU)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Pretends that vLLM is installed or not."""
    return lambda there: monkeypatch.setattr(module, "find_spec", lambda name: object() if there else None)


def engine(name: str, **others: Any) -> EvaluateConfig:
    return EvaluateConfig.model_validate({"engine": name, "max_new_tokens": 3, "batch_size": 2, **others})


def test_auto_is_vllm_on_a_gpu_if_it_is_installed_and_can_load_the_adapter(
    tuned: TunedModel, install: Callable[[bool], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(True)
    assert choose_engine(tuned, engine("auto")) == "transformers"  # on a CPU
    assert choose_engine(replace(tuned, hardware=GPU), engine("auto")) == "vllm"
    assert choose_engine(with_adapter(tuned), engine("auto")) == "vllm"
    assert choose_engine(with_adapter(tuned), engine("transformers")) == "transformers"
    assert choose_engine(with_adapter(tuned, use_dora=True), engine("auto")) == "transformers"
    assert choose_engine(with_adapter(tuned, r=1000), engine("auto")) == "transformers"
    quantised = tuned.config.model_copy(update={"model": tuned.config.model.model_copy(update={"quantize": "nf4"})})
    assert choose_engine(replace(with_adapter(tuned), config=quantised), engine("auto")) == "transformers"
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert choose_engine(with_adapter(tuned), engine("auto")) == "transformers"
    monkeypatch.delenv("WORLD_SIZE")
    install(False)
    assert choose_engine(with_adapter(tuned), engine("auto")) == "transformers"


def test_vllm_that_cannot_answer_is_one_error_that_names_the_key(
    tuned: TunedModel, install: Callable[[bool], None]
) -> None:
    install(False)
    for check in (lambda: choose_engine(tuned, engine("vllm")), lambda: refuse_missing_vllm(engine("vllm"))):
        with pytest.raises(
            UserError, match=r'^evaluate\.engine: vllm is not installed; run `pip install "toolhone\[vllm'
        ):
            check()
    refuse_missing_vllm(engine("auto"))
    install(True)
    refuse_missing_vllm(engine("vllm"))
    with pytest.raises(UserError, match=r"^evaluate\.engine: vllm cannot load the adapter: .*lora\.dora"):
        choose_engine(with_adapter(tuned, use_dora=True), engine("vllm"))


def test_answers_of_vllm_are_a_finished_stage_that_auto_reuses_and_transformers_does_not(
    tuned: TunedModel, install: Callable[[bool], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(True)

    def answer(
        tuned: TunedModel, examples: Any, label: str, config: EvaluateConfig, path: Path, console: Any, made_from: str
    ) -> None:
        predict(tuned.load_weights(), tuned.renderer, examples, label, config, path, console, fingerprint=made_from)

    monkeypatch.setattr(module, "answer_with_vllm", answer)
    path, printed = tuned.run.predictions("base"), StringIO()
    predict_once(tuned, "predict:base", ROWS, "turns", engine("vllm"), path, Console(file=printed))
    assert "base answers 2 turns in vLLM" in printed.getvalue()
    facts = tuned.run.stage("predict:base") or {}
    assert facts["engine"] == "vllm"
    assert "peak_memory_gb" not in facts
    finished = {name: is_answered(tuned, "predict:base", ROWS, engine(name), path) for name in ("auto", "vllm")}
    assert finished == {"auto": True, "vllm": True}
    assert not is_answered(tuned, "predict:base", ROWS, engine("transformers"), path)
    predict_once(tuned, "predict:base", ROWS, "turns", engine("transformers"), path, Console(file=printed))
    facts = tuned.run.stage("predict:base") or {}
    assert facts["engine"] == "transformers"
    assert facts["peak_memory_gb"] > 0


def test_auto_answers_with_transformers_and_says_so_if_vllm_does_not_start(
    tuned: TunedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise VllmError("vLLM does not start with tiny (ValueError: no kernel); use transformers")

    monkeypatch.setattr(module, "answer_with_vllm", fail)
    monkeypatch.setattr(module, "choose_engine", lambda *_: "vllm")
    path, printed = tuned.run.predictions("base"), StringIO()
    predict_once(tuned, "predict:base", ROWS, "turns", engine("auto"), path, Console(file=printed, width=200))
    assert "note: evaluate.engine: vLLM does not start with tiny (ValueError: no kernel)" in printed.getvalue()
    assert (tuned.run.stage("predict:base") or {})["engine"] == "transformers"
    assert is_answered(tuned, "predict:base", ROWS, engine("transformers"), path)
    with pytest.raises(VllmError, match="no kernel"):
        predict_once(tuned, "predict:base", ROWS, "turns", engine("vllm"), path, Console(file=printed))
