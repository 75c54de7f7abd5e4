"""Choosing a chat format from the tokens of a tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from toolhone.chat.probe import choose_format
from toolhone.errors import UserError
from toolhone.formats import FORMATS

CHATML = {"<|im_start|>": 1, "<|im_end|>": 2}
TURNS = {"<start_of_turn>": 1, "<end_of_turn>": 2}
HEADERS = {"<|start_header_id|>": 1, "<|end_header_id|>": 2, "<|eot_id|>": 3}


@pytest.mark.parametrize(("vocabulary", "expected"), [(CHATML, "hermes"), (HEADERS, "llama3"), (TURNS, "gemma")])
def test_auto_chooses_the_format_whose_tokens_the_tokenizer_has(vocabulary: dict[str, int], expected: str) -> None:
    assert choose_format("auto", vocabulary, "m").name == expected
    assert choose_format(expected, vocabulary, "m").name == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("llama3.2", "llama3", marks=pytest.mark.tokenizers),
        pytest.param("qwen3", "hermes", marks=pytest.mark.tokenizers),
        pytest.param("smollm2", "hermes", marks=pytest.mark.smollm2),
        pytest.param("gemma3", "gemma", marks=pytest.mark.gemma3),
    ],
)
def test_auto_detects_the_format_of_real_tokenizers(
    fetched_tokenizer: Callable[[str], Any], name: str, expected: str
) -> None:
    assert choose_format("auto", fetched_tokenizer(name).get_vocab(), name).name == expected


def test_a_tokenizer_that_lacks_one_token_of_each_format_is_refused() -> None:
    with pytest.raises(UserError, match=r"^chat\.format: cannot detect .* of my/model .*hermes needs .*llama3 needs"):
        choose_format("auto", {"<|im_start|>": 1, "<|start_header_id|>": 2, "<|eot_id|>": 3}, "my/model")


@pytest.mark.parametrize(
    ("name", "vocabulary", "lacking"),
    [
        ("hermes", HEADERS, r"<\|im_start\|>"),
        ("llama3", CHATML, r"<\|start_header_id\|>"),
        ("gemma", CHATML, "<start_of_turn>"),
    ],
)
def test_a_format_whose_tokens_the_tokenizer_lacks_is_refused(
    name: str, vocabulary: dict[str, int], lacking: str
) -> None:
    with pytest.raises(UserError, match=rf"^chat\.format: {name} needs the token {lacking}, .* of my/model lacks"):
        choose_format(name, vocabulary, "my/model")


@pytest.mark.parametrize("tools", ["schema", "signatures", "names"])
@pytest.mark.parametrize("name", FORMATS)
def test_each_template_uses_the_special_tokens_of_its_format(name: str, tools: str) -> None:
    chat_format = next(f for f in FORMATS.values() if f.name == name)
    assert chat_format.end_of_turn in chat_format.special_tokens
    assert all(token in chat_format.template_with(tools) for token in chat_format.special_tokens)
    assert chat_format.end_of_turn not in chat_format.other_stops
