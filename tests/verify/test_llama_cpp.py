"""The parity gate on llama.cpp itself: a merged model in float32 and Q8_0, and an adapter on its base model."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from decided import half_sure
from rich.console import Console
from served import make_run
from tiny_gguf import write_lora, write_model

from toolhone.cli import main
from toolhone.engines.client import connect
from toolhone.route.policy import identity_of_run, write_policy
from toolhone.tuned import TunedModel
from toolhone.verify.gate import Verdict, choose_turns, verify

pytest.importorskip("xllamacpp", reason="llama.cpp needs the package xllamacpp")
pytest.importorskip("gguf", reason="writing GGUF files needs the package gguf")


@dataclass(frozen=True)
class Served:
    """A tuned model, and the GGUF files of its merged weights, its base model and its adapter."""

    tuned: TunedModel
    f32: Path
    q8_0: Path
    base: Path
    lora: Path
    other_lora: Path


@pytest.fixture(scope="module")
def served(learned: Path, tmp_path_factory: pytest.TempPathFactory) -> Served:
    folder = tmp_path_factory.mktemp("llama-cpp")
    run = make_run(folder / "run", learned)
    with_random_adapter(run, seed=1)
    tuned = TunedModel.load(run)
    merged = copy.deepcopy(tuned.model).merge_and_unload()
    other = copy.deepcopy(tuned.model)
    randomise(other, seed=2)
    renderer = tuned.renderer
    return Served(
        tuned,
        write_model(folder / "f32.gguf", merged, renderer),
        write_model(folder / "q8_0.gguf", merged, renderer, q8_0=True),
        write_model(folder / "base.gguf", TunedModel.load(run).model.unload(), renderer),
        write_lora(folder / "lora.gguf", tuned.model),
        write_lora(folder / "other.gguf", other),
    )


def with_random_adapter(run: Path, seed: int) -> None:
    model = TunedModel.load(run).model
    randomise(model, seed)
    model.save_pretrained(run / "adapter")


def randomise(model: Any, seed: int) -> None:
    """Give an adapter weights that change probabilities, but hardly any answer."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight += 0.05 * torch.randn_like(weight)


def verdict_on(served: Served, gguf: Path, **options: Any) -> Verdict:
    from toolhone.engines.llama_cpp import llama_cpp_server

    tuned = served.tuned
    server = llama_cpp_server(
        gguf, ctx=choose_turns(tuned).context(tuned.config.evaluate.max_new_tokens), threads=1, parallel=2, **options
    )
    with server as url, connect(url) as client:
        return verify(tuned, client, Console(quiet=True), concurrency=2)


def results(verdict: Verdict) -> dict[str, str]:
    return {line.name: line.result for line in verdict.lines}


def failing(verdict: Verdict) -> list[str]:
    return [line.name for line in verdict.lines if line.passed is False]


def test_a_merged_model_passes_from_the_command_line(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    run = served.tuned.run.path
    assert main(["verify", "--run", str(run), "--gguf", str(served.f32), "--concurrency", "2"]) == 0
    assert "llama.cpp f32 against transformers float32: 3 of 3 turns, pass" in capsys.readouterr().out


def test_a_quantised_model_passes_and_a_policy_for_float32_is_refused(served: Served) -> None:
    run = served.tuned.run
    made_for = replace(identity_of_run(run), template=served.tuned.renderer.template_hash(), engine="llama.cpp f32")
    write_policy(run.path / "policy.json", half_sure(keeps=True).model_copy(update={"identity": made_for}))
    verdict = verdict_on(served, served.q8_0)
    (run.path / "policy.json").unlink()
    assert failing(verdict) == ["routing policy"]
    assert verdict.identity.engine == "llama.cpp q8_0"


def test_an_adapter_on_its_base_model_passes_and_another_adapter_fails_on_its_line(served: Served) -> None:
    template = served.tuned.renderer.template
    right = verdict_on(served, served.base, lora=served.lora, template=template)
    assert failing(right) == []
    assert results(right)["adapter"] == results(right)["base model"] == "pass"
    wrong = verdict_on(served, served.base, lora=served.other_lora, template=template)
    assert results(wrong)["base model"] == "pass"
    assert failing(wrong)[0] == "adapter"


def test_another_template_fails_on_the_line_of_the_prompts(served: Served) -> None:
    template = served.tuned.renderer.template.replace("<tools>", "<functions>")
    assert failing(verdict_on(served, served.f32, template=template)) == ["prompt ids"]
