"""How engines are told to serve an export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from toolhone.chat.serving import Target, serving
from toolhone.export.launch import HERE, write_launch_files
from toolhone.formats import FORMATS


def target(**fields: Any) -> Target:
    return Target(**{"model": "base", "folder": HERE, "adapter": {"r": 16}, "is_export": True, **fields})


def value(words: tuple[str, ...], flag: str) -> str | None:
    return words[words.index(flag) + 1] if flag in words else None


@pytest.mark.parametrize(("rank", "expected"), [(1, "8"), (8, "8"), (9, "16"), (33, "64"), (200, "256"), (512, "512")])
def test_vllm_gets_the_smallest_rank_that_holds_the_adapter(rank: int, expected: str) -> None:
    vllm, *_ = serving(FORMATS["hermes"], target(adapter={"r": rank}))
    assert value(vllm.words, "--max-lora-rank") == expected


@pytest.mark.parametrize(
    ("settings", "refusing"),
    [
        ({"use_dora": True}, ["vLLM", "SGLang", "llama.cpp"]),
        ({"modules_to_save": ["lm_head"]}, ["vLLM", "SGLang", "llama.cpp"]),
        ({"bias": "lora_only"}, ["vLLM", "SGLang", "llama.cpp"]),
        ({"r": 513}, ["vLLM"]),
        ({}, []),
    ],
)
def test_an_adapter_that_an_engine_cannot_load_has_a_script_that_says_so(
    settings: dict[str, Any], refusing: list[str], tmp_path: Path
) -> None:
    ways = serving(FORMATS["hermes"], target(adapter={"r": 16, **settings}))
    assert [way.engine for way in ways if way.refused] == refusing
    write_launch_files(tmp_path, ways)
    for way in ways:
        text = (tmp_path / way.script).read_text(encoding="utf-8")
        assert ("merge the weights" in text) == (way.engine in refusing)
        assert ("exec " in text) == (way.engine not in refusing)


def test_vllm_s_hf_parser_is_used_only_for_formats_without_a_parser_of_their_own() -> None:
    def parser(name: str, *, has_template: bool) -> str | None:
        vllm, *_ = serving(FORMATS[name], target(has_response_template=has_template))
        assert vllm.parses_calls == ("--enable-auto-tool-choice" in vllm.words)
        return value(vllm.words, "--tool-call-parser")

    assert parser("hermes", has_template=True) == "hermes"
    assert parser("gemma", has_template=True) == "hf"
    assert parser("gemma", has_template=False) is None


def test_an_export_overrides_the_base_model_s_stop_ids_in_each_engine() -> None:
    vllm, sglang, _ = serving(FORMATS["hermes"], target(stop_ids=(1, 106)))
    assert value(vllm.words, "--generation-config") == HERE
    assert value(sglang.words, "--json-model-override-args") == '{"eos_token_id": [1, 106]}'


def test_llama_cpp_has_room_for_a_full_example_in_each_slot() -> None:
    *_, llama_cpp = serving(FORMATS["hermes"], target(max_tokens=2048, has_window=True))
    slots, context = value(llama_cpp.words, "--parallel"), value(llama_cpp.words, "--ctx-size")
    assert int(context or 0) == int(slots or 0) * 2048
    assert "--swa-full" in llama_cpp.words
    *_, other = serving(FORMATS["hermes"], target())
    assert "--swa-full" not in other.words


def test_a_merged_model_is_served_from_its_folder_under_its_run_s_name() -> None:
    for way in serving(FORMATS["hermes"], target(model=HERE, adapter=None, name="shop"))[:2]:
        assert HERE in way.words
        assert value(way.words, "--served-model-name") == "shop"
        assert not any("lora" in word for word in way.words)
