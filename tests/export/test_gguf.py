"""GGUF files by llama.cpp's own converter, of a tiny random Llama: llama.cpp answers with them as transformers does."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from conftest import ROOT
from rich.console import Console
from safetensors.numpy import save_file
from sentencepiece_tokenizers import tokenizer_of

from toolhone.chat.render import ChatRenderer
from toolhone.engines.llama_cpp import llama_cpp_server
from toolhone.errors import UserError
from toolhone.export.gguf import LLAMA_CPP, GgufFile, converter, export_gguf, lora_gguf, model_gguf, modelfile
from toolhone.export.gguf_file import gguf_metadata
from toolhone.fetch import CONVERTER_FOLDER
from toolhone.formats import FORMATS
from toolhone.records import Message

STOPS = ("<|im_end|>", "<|done|>")


@pytest.fixture(scope="module")
def llama_cpp() -> Path:
    import os

    if os.environ.get(LLAMA_CPP):
        return converter(Console())
    folder = ROOT / CONVERTER_FOLDER
    if not folder.is_dir():
        pytest.skip(f"{CONVERTER_FOLDER} is missing; run `toolhone fetch llama.cpp`")
    return folder


@dataclass(frozen=True)
class Tiny:
    """A tiny model with an adapter, and its GGUF files."""

    base: Path
    adapter: Path
    merged: Path
    renderer: ChatRenderer
    stops: dict[str, int]
    files: Path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, llama_cpp: Path) -> Tiny:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("gguf")
    tokenizer = tokenizer_of("no space in front", "<|im_start|>", *STOPS)
    tokenizer.eos_token = "<|im_end|>"
    tokenizer.bos_token = None
    tokenizer.add_prefix_space = False
    tokenizer.init_kwargs["add_prefix_space"] = False
    tokenizer.chat_template = FORMATS["hermes"].template_with("names")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.3,  # so that the next token is clear, and quantisation changes few of them
    )
    model = LlamaForCausalLM(config)
    places = {name: folder / name for name in ("base", "adapter", "merged")}
    model.save_pretrained(places["base"])
    tokenizer.save_pretrained(places["base"])
    tuned = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    tuned.save_pretrained(places["adapter"])
    tuned.merge_and_unload().save_pretrained(places["merged"])
    tokenizer.save_pretrained(places["merged"])
    renderer = ChatRenderer(tokenizer, FORMATS["hermes"], tokenizer.chat_template, "toolhone", "", {})
    stops = {stop: tokenizer.convert_tokens_to_ids(stop) for stop in STOPS}
    written = model_gguf(places["merged"], folder / "f32.gguf", "f32", llama_cpp=llama_cpp, stops=stops)
    assert written == (folder / "f32.gguf", "f32", None)
    lora_gguf(places["adapter"], places["base"], folder / "lora.gguf", llama_cpp=llama_cpp)
    return Tiny(places["base"], places["adapter"], places["merged"], renderer, stops, folder)


def greedy(tiny: Tiny, prompts: list[list[int]], tokens: int, adapter: Path | None = None) -> list[list[int]]:
    import torch
    from peft import PeftModel
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(tiny.merged).eval()
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter).eval()
    made = []
    for prompt in prompts:
        with torch.inference_mode():
            ids = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=tokens, eos_token_id=None)
        made.append(ids[0, len(prompt) :].tolist())
    return made


def answers(address: str, prompts: list[list[int]], tokens: int) -> list[list[int]]:
    body: dict[str, Any] = {"n_predict": tokens, "temperature": 0, "return_tokens": True, "ignore_eos": True}
    replies = [httpx2.post(f"{address}/completion", json={**body, "prompt": prompt}) for prompt in prompts]
    return [reply.json()["tokens"] for reply in replies]


def prompts(tiny: Tiny) -> list[list[int]]:
    questions = ("Where is my order?", "取消订单 A-1，谢谢", "tool  with   spaces\n\nand lines <b> 123")
    return [tiny.renderer.prompt([Message("user", question)], ())[1] for question in questions]


def hard_texts(tiny: Tiny) -> list[str]:
    """Return texts whose letters can be merged in many ways, so that the order of the merges matters."""
    merges = json.loads((tiny.merged / "tokenizer.json").read_text(encoding="utf-8"))["model"]["merges"]
    parts = [part for merge in merges for part in merge]
    chance = random.Random(0)
    return ["".join(chance.choices(parts, k=30)).replace("▁", " ") for _ in range(60)]


def test_llama_cpp_makes_the_prompts_of_training_and_answers_as_transformers(tiny: Tiny) -> None:
    asked = prompts(tiny)
    expected = greedy(tiny, asked, 12)
    assert len({tuple(answer) for answer in expected}) == len(expected)
    with llama_cpp_server(tiny.files / "f32.gguf", ctx=512, threads=1) as address:
        assert answers(address, asked, 12) == expected
        for text in [*(tiny.renderer.decode(ids) for ids in asked), *hard_texts(tiny)]:
            made = httpx2.post(f"{address}/tokenize", json={"content": text, "parse_special": True}).json()
            assert made["tokens"] == tiny.renderer.encode(text)


def test_an_adapter_changes_the_answers_as_in_transformers(tiny: Tiny) -> None:
    asked = prompts(tiny)
    expected = greedy(tiny, asked, 12, tiny.adapter)  # the adapter once more, on the model that it is merged into
    assert expected != greedy(tiny, asked, 12)
    lora = tiny.files / "lora.gguf"
    with llama_cpp_server(tiny.files / "f32.gguf", lora=lora, ctx=512, threads=1) as address:
        assert answers(address, asked, 12) == expected


@pytest.mark.slow  # two more conversions
def test_q8_0_answers_as_transformers_also_if_the_embedding_has_more_rows_than_the_tokenizer(
    tiny: Tiny, llama_cpp: Path, tmp_path: Path
) -> None:
    from transformers import LlamaForCausalLM

    merged, path = tmp_path / "merged", tmp_path / "q8_0.gguf"
    shutil.copytree(tiny.merged, merged)
    model = LlamaForCausalLM.from_pretrained(tiny.merged)
    model.resize_token_embeddings(len(tiny.renderer.tokenizer) + 24, mean_resizing=False)
    model.save_pretrained(merged)
    model_gguf(merged, path, "q8_0", llama_cpp=llama_cpp, stops=tiny.stops)
    assert gguf_metadata(path)["tokenizer.ggml.tokens"] == len(tiny.renderer.tokenizer) + 24
    asked = prompts(tiny)
    with llama_cpp_server(path, ctx=512, threads=1) as address:
        assert answers(address, asked, 1) == greedy(tiny, asked, 1)
    assert path.stat().st_size < 0.5 * (tiny.files / "f32.gguf").stat().st_size


def test_llama_cpp_stops_at_every_stop_token_of_the_file(tiny: Tiny) -> None:
    body = {"prompt": prompts(tiny)[0], "n_predict": 3, "temperature": 0}
    ids = {**tiny.stops, "<|im_start|>": tiny.renderer.tokenizer.convert_tokens_to_ids("<|im_start|>")}
    with llama_cpp_server(tiny.files / "f32.gguf", ctx=512, threads=1) as address:
        ends = {
            text: httpx2.post(f"{address}/completion", json={**body, "logit_bias": [[id_, 1000.0]]}).json()["stop_type"]
            for text, id_ in ids.items()
        }
    assert ends == {"<|im_end|>": "eos", "<|done|>": "eos", "<|im_start|>": "limit"}


def test_the_file_holds_the_template_and_the_whole_vocabulary(tiny: Tiny) -> None:
    from gguf import GGUFReader

    path = tiny.files / "f32.gguf"
    found = gguf_metadata(path)
    assert found["general.name"] == "f32"
    assert found["tokenizer.chat_template"] == tiny.renderer.template
    assert found["tokenizer.ggml.eos_token_id"] == tiny.stops["<|im_end|>"]
    assert found["tokenizer.ggml.eot_token_id"] == tiny.stops["<|done|>"]
    assert found["tokenizer.ggml.tokens"] == len(tiny.renderer.tokenizer)
    for name, field in GGUFReader(path).fields.items():  # what the gguf package reads
        value = field.contents()
        assert name.startswith("GGUF.") or found[name] == (len(value) if isinstance(value, list) else value)
    assert not list(tiny.files.glob(".*"))


def changed(tiny: Tiny, folder: Path, name: str, **keys: Any) -> Path:
    """Copy the adapter or the merged model with another config."""
    copy = folder / "changed"
    shutil.copytree(tiny.adapter if name == "adapter_config.json" else tiny.merged, copy)
    config = json.loads((copy / name).read_text(encoding="utf-8"))
    (copy / name).write_text(json.dumps(config | keys), encoding="utf-8")
    return copy


@pytest.mark.parametrize(
    ("keys", "part"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"use_rslora": True}, "rsLoRA"),
        ({"bias": "all"}, "biases"),
    ],
)
def test_an_adapter_that_a_gguf_file_cannot_hold_is_refused(
    tiny: Tiny, llama_cpp: Path, tmp_path: Path, keys: dict[str, Any], part: str
) -> None:
    adapter = changed(tiny, tmp_path, "adapter_config.json", **keys)
    with pytest.raises(UserError, match=f"cannot hold {part}; merge it into its base model with --merge"):
        lora_gguf(adapter, tiny.base, tmp_path / "lora.gguf", llama_cpp=llama_cpp)
    assert not (tmp_path / "lora.gguf").exists()


def test_an_adapter_with_one_alpha_for_all_layers_may_list_layers_that_it_lacks(
    tiny: Tiny, llama_cpp: Path, tmp_path: Path
) -> None:
    from toolhone.export.gguf import _refuse_unfit_adapter

    _refuse_unfit_adapter(changed(tiny, tmp_path, "adapter_config.json", alpha_pattern={"experts.down_proj": 4}))
    with pytest.raises(UserError, match="alpha_pattern sets another for q_proj"):
        _refuse_unfit_adapter(
            changed(tiny, tmp_path / "other", "adapter_config.json", alpha_pattern={"q_proj": 4, "none": 2})
        )


@pytest.mark.slow  # another start of the converter
def test_an_unsupported_architecture_is_one_clear_error_and_leaves_nothing(
    tiny: Tiny, llama_cpp: Path, tmp_path: Path
) -> None:
    merged = changed(tiny, tmp_path, "config.json", architectures=["NobodyForCausalLM"])
    out = tmp_path / "out" / "m.gguf"
    with pytest.raises(UserError) as caught:
        model_gguf(merged, out, "f32", llama_cpp=llama_cpp, stops={})
    log = out.with_suffix(".log")
    assert str(caught.value) == (
        f"{merged}: llama.cpp's converter failed: it does not support the architecture NobodyForCausalLM; read {log}"
    )
    assert [path.name for path in out.parent.iterdir()] == ["m.log"]


def test_an_unknown_type_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^--gguf: unknown type q9; expected one of f32, bf16, q8_0, "):
        model_gguf(tmp_path, tmp_path / "m.gguf", "q9", llama_cpp=tmp_path, stops={})


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    """A folder of llama.cpp with a converter that writes a GGUF file without metadata, and no quantiser."""
    folder = tmp_path / "llama.cpp"
    folder.mkdir()
    write = (
        "import pathlib, struct, sys\npathlib.Path(sys.argv[-1]).write_bytes(b'GGUF' + struct.pack('<IQQ', 3, 0, 0))\n"
    )
    for name in ("convert_hf_to_gguf.py", "convert_lora_to_gguf.py"):
        (folder / name).write_text(write, encoding="utf-8")
    return folder


def merged_folder(folder: Path, dtype: str) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"dtype": dtype}), encoding="utf-8")
    return folder


def test_without_a_quantiser_the_wide_file_stays_and_the_command_is_named(
    scripts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    merged, out = merged_folder(tmp_path / "merged", "bfloat16"), tmp_path / "m-q4_k_m.gguf"
    found = model_gguf(merged, out, "q4_k_m", llama_cpp=scripts, stops={})
    wide = tmp_path / "m-bf16.gguf"
    assert found == (wide, "bf16", f"llama-quantize {wide} {out} Q4_K_M")
    assert wide.is_file()
    assert not out.exists()


def test_a_quantiser_beside_the_sources_is_used(scripts: Path, tmp_path: Path) -> None:
    program = scripts / "build" / "bin" / "llama-quantize"
    program.parent.mkdir(parents=True)
    program.write_text('#!/bin/sh\necho "$3" > "$2"\n', encoding="utf-8")
    program.chmod(0o755)
    merged, out = merged_folder(tmp_path / "merged", "float32"), tmp_path / "m.gguf"
    assert model_gguf(merged, out, "q5_k_m", llama_cpp=scripts, stops={}) == (out, "q5_k_m", None)
    assert out.read_text(encoding="utf-8") == "Q5_K_M\n"
    assert not (tmp_path / "m-f32.gguf").exists()
    program.write_text("#!/bin/sh\necho 'error: no space left'\nexit 1\n", encoding="utf-8")
    out.unlink()
    with pytest.raises(UserError, match="llama-quantize failed: error: no space left; read "):
        model_gguf(merged, out, "q5_k_m", llama_cpp=scripts, stops={})
    assert not out.exists()
    assert (tmp_path / "m-f32.gguf").is_file()


def test_own_sources_of_llama_cpp_are_used_if_they_have_the_converter(
    scripts: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(LLAMA_CPP, str(scripts))
    assert converter(Console()) == scripts
    monkeypatch.setenv(LLAMA_CPP, str(tmp_path))
    with pytest.raises(UserError, match=rf"^{LLAMA_CPP}: {tmp_path} has no convert_hf_to_gguf.py; set it to a folder "):
        converter(Console())


def test_a_modelfile_names_the_file_and_the_stop_tokens_and_no_template() -> None:
    assert modelfile("m-q8_0.gguf", ["<|im_end|>", "</s>"], ctx=4096, max_tokens=256) == (
        "FROM ./m-q8_0.gguf\n"
        "PARAMETER temperature 0\n"
        "PARAMETER repeat_penalty 1.0\n"
        "PARAMETER num_ctx 4096\n"
        "PARAMETER num_predict 256\n"
        'PARAMETER stop "<|im_end|>"\n'
        'PARAMETER stop "</s>"\n'
    )


def test_an_export_gets_the_file_of_its_merged_model_or_of_its_adapter(
    scripts: Path, tmp_path: Path, tiny_tokenizer: Any
) -> None:
    renderer = ChatRenderer(tiny_tokenizer, FORMATS["hermes"], "", "toolhone", "", {})
    base, log = merged_folder(tmp_path / "base", "float32"), tmp_path / "gguf.log"

    def export(folder: Path, dtype: str) -> GgufFile:
        return export_gguf(folder, "shop", dtype, renderer, llama_cpp=scripts, base=base, log=log)

    merged = merged_folder(tmp_path / "merged", "float32")
    assert export(merged, "q8_0") == (merged / "shop-q8_0.gguf", "q8_0", None)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}", encoding="utf-8")
    save_file({"q_proj.lora_A.weight": np.zeros((1, 1))}, adapter / "adapter_model.safetensors")
    assert export(adapter, "f32") == (adapter / "shop-lora-f32.gguf", "f32", None)
    with pytest.raises(UserError, match=r"^--gguf: q4_k_m is for merged weights; add --merge, or choose f32 or bf16 "):
        export(adapter, "q4_k_m")
    assert sorted(path.name for path in (*merged.glob("*.gguf"), *adapter.glob("*.gguf"))) == [
        "shop-lora-f32.gguf",
        "shop-q8_0.gguf",
    ]


def test_a_file_that_is_no_gguf_or_is_cut_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"PK\x03\x04" + bytes(40))
    with pytest.raises(UserError, match="is not a GGUF file"):
        gguf_metadata(path)
    path.write_bytes(b"GGUF\x03\x00\x00\x00" + bytes(8) + b"\x05" + bytes(7) + b"\xff\xff")
    with pytest.raises(UserError, match="is broken or cut"):
        gguf_metadata(path)


@pytest.mark.slow
@pytest.mark.gemma3
def test_llama_cpp_cuts_prompts_into_gemmas_tokens_without_its_sentencepiece_model(
    llama_cpp: Path, tmp_path: Path, fetched_tokenizer: Any
) -> None:
    # The converter then writes a vocabulary as GPT-2's, whose words would be split in other places.
    import torch
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    tokenizer = fetched_tokenizer("gemma3")
    config = Gemma3TextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=32,
    )
    merged, path = tmp_path / "merged", tmp_path / "gemma.gguf"
    Gemma3ForCausalLM(config).to(torch.bfloat16).save_pretrained(merged)
    template = FORMATS["gemma"].template_with("names")
    tokenizer.chat_template = template
    tokenizer.save_pretrained(merged)
    assert not (merged / "tokenizer.model").exists()
    stops = {token: tokenizer.convert_tokens_to_ids(token) for token in ("<end_of_turn>", "<eos>")}
    model_gguf(merged, path, "bf16", llama_cpp=llama_cpp, stops=stops)
    assert gguf_metadata(path)["tokenizer.ggml.model"] == "gpt2"
    renderer = ChatRenderer(tokenizer, FORMATS["gemma"], template, "toolhone", "", {})
    rows = (ROOT / "data" / "customer_service" / "test.jsonl").read_text(encoding="utf-8").splitlines()
    conversations = [[message for message in json.loads(row)["messages"] if message.get("content")] for row in rows]
    with llama_cpp_server(path, ctx=2048, threads=1) as address, httpx2.Client() as client:
        for messages in conversations:
            question = [
                Message(message["role"], message["content"]) for message in messages if message["role"] == "user"
            ]
            text, ids = renderer.prompt(question[:1], ())
            made = client.post(f"{address}/tokenize", json={"content": text, "parse_special": True}).json()
            assert made["tokens"] == ids, text
    assert len(conversations) == 200
