"""Choosing a chat format from the tokens of a tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from conftest import byte_tokenizer

from toolhone.chat.probe import make_renderer
from toolhone.config import ChatConfig
from toolhone.errors import UserError
from toolhone.formats import FORMATS

CHATML = ["<|im_start|>", "<|im_end|>"]
TURNS = ["<start_of_turn>", "<end_of_turn>"]
HEADERS = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]


@pytest.mark.parametrize(("tokens", "expected"), [(CHATML, "hermes"), (HEADERS, "llama3"), (TURNS, "pythonic")])
def test_without_a_template_auto_chooses_the_format_whose_tokens_the_tokenizer_has(
    tokens: list[str], expected: str
) -> None:
    tokenizer = byte_tokenizer(tokens)
    for name in ("auto", expected):
        renderer = make_renderer(tokenizer, ChatConfig(format=name), "m", needs=())
        assert (renderer.format.name, renderer.source) == (expected, "toolhone")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("llama3.2", "llama3", marks=pytest.mark.tokenizers),
        pytest.param("qwen3", "hermes", marks=pytest.mark.tokenizers),
        pytest.param("smollm2", "hermes", marks=pytest.mark.smollm2),
        pytest.param("gemma3", "pythonic", marks=pytest.mark.gemma3),
    ],
)
def test_auto_detects_the_format_of_real_tokenizers(
    fetched_tokenizer: Callable[[str], Any], name: str, expected: str
) -> None:
    assert make_renderer(fetched_tokenizer(name), ChatConfig(), name, needs=()).format.name == expected


def test_a_tokenizer_without_a_template_that_lacks_one_token_of_each_family_is_refused() -> None:
    tokenizer = byte_tokenizer(["<|im_start|>", "<|start_header_id|>", "<|eot_id|>"])
    with pytest.raises(UserError, match=r"^chat\.format: my/model has no chat template.*use the instruction-tuned"):
        make_renderer(tokenizer, ChatConfig(), "my/model")


@pytest.mark.parametrize("tokens", [CHATML, HEADERS, TURNS])
@pytest.mark.parametrize("name", ["hermes", "llama3", "gemma", "json"])
def test_a_format_can_be_written_in_the_turns_of_another_family(name: str, tokens: list[str]) -> None:
    renderer = make_renderer(byte_tokenizer(tokens), ChatConfig(format=name), "my/model")
    assert renderer.format.name == name
    assert set(renderer.stops) & set(tokens)


@pytest.mark.parametrize("tools", ["schema", "signatures", "names"])
@pytest.mark.parametrize("name", [name for name, chat_format in FORMATS.items() if chat_format.template])
def test_each_template_uses_the_special_tokens_of_its_format(name: str, tools: str) -> None:
    chat_format = next(f for f in FORMATS.values() if f.name == name)
    assert chat_format.end_of_turn in chat_format.special_tokens
    assert all(token in chat_format.template_with(tools) for token in chat_format.special_tokens)
    assert chat_format.end_of_turn not in chat_format.other_stops
