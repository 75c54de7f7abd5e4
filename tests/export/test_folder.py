"""The folder that `toolhone export` writes, read back as engines and libraries read it."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard, constants
from peft import PeftConfig
from rich.console import Console
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from toolhone.cli import main
from toolhone.errors import UserError
from toolhone.export import folder as exporting
from toolhone.export.folder import export_run
from toolhone.jsonl import write_json
from toolhone.records import Message
from toolhone.run_folder import RunFolder
from toolhone.tuned import TunedModel

from .conftest import TOOLS

QUIET = Console(quiet=True)
OUT = Path("out")
QUESTION = [{"role": "user", "content": "order 7?"}]


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_the_tokenizer_alone_writes_the_prompts_of_training(run: RunFolder) -> None:
    tuned = TunedModel.load(run.path)
    assert tuned.renderer.template_kwargs == {"enable_thinking": False}
    export_run(tuned, OUT, QUIET)
    tokenizer = AutoTokenizer.from_pretrained(OUT)
    tools = [tool.to_json() for tool in TOOLS]
    ids = tokenizer.apply_chat_template(QUESTION, tools=tools, add_generation_prompt=True)["input_ids"]
    assert ids == tuned.renderer.prompt((Message("user", "order 7?"),), TOOLS)[1]
    assert "enable_thinking = false" in tokenizer.chat_template.partition("\n")[0]


def test_an_adapter_names_its_base_model_from_anywhere(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["export", str(run.path), "--out", "out"]) == 0
    out, base = OUT.resolve(), Path("model").resolve()
    monkeypatch.chdir(out)
    assert PeftConfig.from_pretrained(str(out)).base_model_name_or_path == str(base)
    assert (out / "adapter_model.safetensors").read_bytes() == (
        base.parent / "runs/shop/adapter/adapter_model.safetensors"
    ).read_bytes()
    assert (out / "LICENSE").read_text(encoding="utf-8") == "Do as you like.\n"


def test_generation_stops_at_the_format_s_ends_and_is_greedy(run: RunFolder) -> None:
    tuned = TunedModel.load(run.path)
    export_run(tuned, OUT, QUIET)
    found = GenerationConfig.from_pretrained(OUT)
    assert found.eos_token_id == sorted(tuned.renderer.stop_ids())
    assert found.pad_token_id == 0
    assert not found.do_sample
    assert read(OUT / "generation_config.json")["temperature"] == 0  # what vLLM and SGLang read
    assert "top_p" not in read(OUT / "generation_config.json")


def test_the_exported_tokenizer_reads_the_calls_of_an_answer(run: RunFolder) -> None:
    done = export_run(TunedModel.load(run.path), OUT, QUIET)
    tokenizer = AutoTokenizer.from_pretrained(OUT)
    prompt = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, tokenize=False)
    answer = '<tool_call>\n{"name": "query_order", "arguments": {"order_id": "A7"}}\n</tool_call><|im_end|>'
    [call] = tokenizer.parse_response(answer, prefix=prompt)["tool_calls"]
    assert call["function"] == {"name": "query_order", "arguments": {"order_id": "A7"}}
    assert "--tool-call-parser hermes" in done.ways[0].command  # the format's own parser comes first


def test_toolhone_json_says_what_the_export_is_made_from(run: RunFolder) -> None:
    from toolhone.route.policy import identity_of_run

    export_run(TunedModel.load(run.path), OUT, QUIET)
    found, identity = read(OUT / "toolhone.json"), identity_of_run(run)
    assert (found["run"], found["kind"], found["dtype"]) == ("shop", "adapter", "float32")
    assert found["base"] == {"name": str(Path("model").resolve()), "revision": None, "quantize": "none"}
    assert found["adapter_sha256"] == identity.adapter
    assert found["template_hash"] == found["chat"]["template_hash"] == identity.template
    assert found["stops"]["tokens"] == ["<|endoftext|>", "<|im_end|>"]
    assert found["data"]["test"]["rows"] == 3
    assert found["proof"] is None


def test_a_merged_model_loads_without_peft_and_its_proof_is_recorded(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(run.path), "--merge", "f32", "--out", "out", "--prompts", "2"]) == 0
    printed = capsys.readouterr().out
    assert "2 of 2 answers are equal to those of base and adapter" in printed
    assert "serve it: sh out/launch/vllm.sh" in printed
    assert not (OUT / "adapter_config.json").exists()
    stops = sorted(TunedModel.load(run.path).renderer.stop_ids())
    assert AutoModelForCausalLM.from_pretrained(OUT).config.eos_token_id == stops
    proof = read(OUT / "toolhone.json")["proof"]
    assert (proof["dtype"], proof["agreement"]["value"]) == ("float32", 1.0)
    card = ModelCard.load(OUT / "README.md")
    assert (card.data.library_name, card.data.license) == ("transformers", "apache-2.0")
    assert "PeftModel" not in card.content
    assert "sh launch/vllm.sh" in card.content


def test_a_merge_that_answers_differently_writes_nothing_and_fails(
    run: RunFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(*arguments: Any) -> None:
        merge(*arguments)
        path = arguments[-1] / "model.safetensors"
        weights = load_file(path)
        weights["model.norm.weight"] = -weights["model.norm.weight"]
        save_file(weights, path, metadata={"format": "pt"})

    merge = exporting.merge_adapter
    monkeypatch.setattr(exporting, "merge_adapter", damaged)
    before = {path for path in Path().rglob("*") if path.name != ".lock"}
    assert main(["export", str(run.path), "--merge", "f32", "--out", "out"]) == 1
    assert "answers 3 of 3 prompts differently" in capsys.readouterr().out
    assert set(Path().rglob("*")) == before


def test_an_export_replaces_an_older_one_of_its_run_and_nothing_else(run: RunFolder) -> None:
    tuned = TunedModel.load(run.path)
    export_run(tuned, OUT, QUIET)
    (OUT / "old.gguf").write_text("x", encoding="utf-8")
    export_run(tuned, OUT, QUIET)
    assert not (OUT / "old.gguf").exists()
    assert [path.name for path in Path().iterdir() if "out" in path.name] == ["out"]

    write_json(OUT / "toolhone.json", {**read(OUT / "toolhone.json"), "run": "other"})
    with pytest.raises(UserError, match=r"--out out: is an export of the run other, not of shop"):
        export_run(tuned, OUT, QUIET)
    (OUT / "toolhone.json").unlink()
    with pytest.raises(UserError, match=r"--out out: exists and is not an export; choose another folder"):
        export_run(tuned, OUT, QUIET)
    with pytest.raises(UserError, match=r"--out runs/shop: exists and is not an export"):
        export_run(tuned, run.path, QUIET)


def test_an_export_that_fails_keeps_the_older_one(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    tuned = TunedModel.load(run.path)
    export_run(tuned, OUT, QUIET)
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}

    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(exporting, "write_launch_files", stopped)
    with pytest.raises(KeyboardInterrupt):
        export_run(tuned, OUT, QUIET)
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before


def test_a_base_model_on_the_hub_keeps_its_name_and_gets_the_commit_of_the_training(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "c" * 40
    snapshot = tmp_path / "cache" / "models--acme--tiny" / "snapshots" / commit
    shutil.copytree("model", snapshot)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    tuned = TunedModel.load(run.path)
    hub = tuned.config.model.model_copy(update={"name": "acme/tiny", "revision": commit})
    run.note(inputs={**(run.inputs() or {}), "model": {"commit": commit}})
    tuned = dataclasses.replace(tuned, config=tuned.config.model_copy(update={"model": hub}))
    done = export_run(tuned, OUT, QUIET)
    found = PeftConfig.from_pretrained(str(OUT))
    assert (found.base_model_name_or_path, found.revision) == ("acme/tiny", commit)
    assert f"vllm serve acme/tiny --revision {commit}" in done.ways[0].command
    assert ModelCard.load(OUT / "README.md").data.base_model == "acme/tiny"
    assert (OUT / "LICENSE").is_file()


def test_a_merged_model_gets_the_files_that_engines_need_beside_weights(run: RunFolder) -> None:
    names = ("tokenizer.model", "preprocessor_config.json", "modeling_own.py", "notes.txt")
    tuned = TunedModel.load(run.path)
    for name in names:
        (Path("model") / name).write_text("{}", encoding="utf-8")
    export_run(tuned, OUT, QUIET, merge="bf16", prompts=1)
    assert [name for name in names if (OUT / name).exists()] == ["tokenizer.model", "preprocessor_config.json"]
    own = tuned.config.model.model_copy(update={"trust_remote_code": True})
    tuned = dataclasses.replace(tuned, config=tuned.config.model_copy(update={"model": own}))
    done = export_run(tuned, OUT, QUIET, merge="bf16", prompts=1)
    assert (OUT / "modeling_own.py").is_file()
    assert all("--trust-remote-code" in way.words for way in done.ways[:2])


def test_a_run_without_figures_gets_a_card_that_says_so(run: RunFolder) -> None:
    run.metrics.unlink()
    export_run(TunedModel.load(run.path), OUT, QUIET)
    card = ModelCard.load(OUT / "README.md")
    assert "This model was not scored." in card.content
    assert card.data.eval_results is None
    assert "| test | 3 |" in card.content


def test_launch_files_are_scripts_that_find_the_export_wherever_it_is(run: RunFolder, tmp_path: Path) -> None:
    export_run(TunedModel.load(run.path), OUT, QUIET)
    moved = tmp_path / "it's elsewhere"
    OUT.rename(moved)
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("vllm", "python", "llama-server"):
        (tools / name).write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n', encoding="utf-8")
        (tools / name).chmod(0o755)
    environment = {"PATH": f"{tools}:/usr/bin:/bin", "GGUF": "m.gguf", "LORA_GGUF": "l.gguf"}
    for name in ("vllm", "sglang", "llama.cpp"):
        script = moved / "launch" / f"{name}.sh"
        subprocess.run(["bash", "-n", script], check=True)
        done = subprocess.run([script, "--port", "1"], env=environment, capture_output=True, text=True, check=True)
        words = done.stdout.splitlines()
        assert words[-2:] == ["--port", "1"]
        assert words[words.index("--chat-template-file" if "llama" in name else "--chat-template") + 1] == str(
            moved / "chat_template.jinja"
        )
    bare = subprocess.run([script], env={"PATH": environment["PATH"]}, capture_output=True, text=True, check=False)
    assert bare.returncode != 0
    assert "GGUF" in bare.stderr
