"""The bytes of tokens: joined, they are the text, for any tokenizer and script."""

from __future__ import annotations

import copy
import unicodedata
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolhone.chat.token_bytes import TokenBytes
from toolhone.errors import UserError

CHINESE = "帮我查订单 ORD-001,再看看 SKU4471 有没有货。𠮷野家的“龘”字🐉"


@pytest.fixture(
    scope="module",
    params=[
        "tiny",
        "tiny_llama3",
        "tiny_gemma",
        pytest.param("llama3.2", marks=pytest.mark.tokenizers),
        pytest.param("qwen3", marks=pytest.mark.tokenizers),
        pytest.param("smollm2", marks=pytest.mark.smollm2),
        pytest.param("gemma3", marks=pytest.mark.gemma3),
    ],
)
def tokenizer(
    request: pytest.FixtureRequest,
    tiny_tokenizer: Any,
    tiny_llama3_tokenizer: Any,
    tiny_gemma_tokenizer: Any,
    fetched_tokenizer: Callable[[str], Any],
) -> Any:
    tiny = {"tiny": tiny_tokenizer, "tiny_llama3": tiny_llama3_tokenizer, "tiny_gemma": tiny_gemma_tokenizer}
    return tiny[request.param] if request.param in tiny else fetched_tokenizer(request.param)


@pytest.fixture(scope="module")
def token_bytes(tokenizer: Any) -> TokenBytes:
    return TokenBytes(tokenizer)


def ids_of(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


# SmolLM2's vocabulary lacks the bytes of some control characters and of unassigned planes, so it drops them. Gemma's
# writes a space as U+2581, so it decodes that character as a space.
TEXT = st.text(
    st.characters(max_codepoint=0x3FFFF, exclude_categories=["Cs"], exclude_characters="\x04\x06\x13\x14\x16\x1d\u2581")
)


@settings(max_examples=60, deadline=None)
@given(TEXT)
def test_the_bytes_of_any_text_join_to_the_text(tokenizer: Any, token_bytes: TokenBytes, text: str) -> None:
    # Qwen's tokenizer normalises text to NFC. For the others, NFC text is like any other text.
    text = unicodedata.normalize("NFC", text)
    assert b"".join(token_bytes.of(ids_of(tokenizer, text))) == text.encode()


def test_the_bytes_of_chinese_join_to_the_text_though_single_tokens_are_not_text(
    tokenizer: Any, token_bytes: TokenBytes
) -> None:
    pieces = token_bytes.of(ids_of(tokenizer, CHINESE))
    assert b"".join(pieces) == CHINESE.encode()
    # The reason to use bytes: some token is only part of a character.
    assert any("�" in piece.decode(errors="replace") for piece in pieces)


def test_there_are_bytes_for_each_token(tokenizer: Any, token_bytes: TokenBytes) -> None:
    ids = ids_of(tokenizer, CHINESE)
    assert [token_bytes.of([id_]) for id_ in ids] == [[piece] for piece in token_bytes.of(ids)]


def test_special_tokens_give_their_own_text(tokenizer: Any, token_bytes: TokenBytes) -> None:
    text = f"好{tokenizer.eos_token}好"
    ids = ids_of(tokenizer, text)
    assert b"".join(token_bytes.of(ids)) == text.encode()
    assert token_bytes.of([tokenizer.eos_token_id]) == [tokenizer.eos_token.encode()]


def test_an_added_token_may_have_any_characters(tiny_tokenizer: Any) -> None:
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.add_tokens(["<订单 号>"])
    ids = ids_of(tokenizer, "a<订单 号>b")
    assert len(ids) == 3
    assert TokenBytes(tokenizer).of(ids) == [b"a", "<订单 号>".encode(), b"b"]


def test_every_token_of_the_vocabulary_has_bytes(tokenizer: Any, token_bytes: TokenBytes) -> None:
    assert all(token_bytes.of(sorted(tokenizer.get_vocab().values())))


def test_an_id_past_the_vocabulary_has_no_bytes(tokenizer: Any, token_bytes: TokenBytes) -> None:
    """Models pad their output layer, so such an id can be generated. It decodes to nothing."""
    beyond = max(tokenizer.get_vocab().values()) + 1
    assert token_bytes.of([beyond]) == [b""]
    assert tokenizer.decode([beyond]) == ""


def test_sentencepiece_tokens_are_spaces_bytes_and_text() -> None:
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<unk>": 0, "▁查": 1, "▁": 2, "<0x0A>": 3, "<0xE6>": 4, "<0x9F>": 5, "<0xA5>": 6, "a<0x0A>": 7}
    backend = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    token_bytes = TokenBytes(PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>"))
    assert token_bytes.of([1, 2, 3, 4, 5, 6, 7]) == [" 查".encode(), b" ", b"\n", b"\xe6", b"\x9f", b"\xa5", b"a<0x0A>"]


def test_a_byte_level_vocabulary_may_have_a_token_as_plain_text() -> None:
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE({"Ġ": 0, "查▁": 1, "é": 2}, []))
    backend.decoder = decoders.ByteLevel()
    token_bytes = TokenBytes(PreTrainedTokenizerFast(tokenizer_object=backend))
    assert token_bytes.of([0, 1, 2]) == [b" ", "查▁".encode(), b"\xe9"]
    assert token_bytes.text([0, 1, 2]) == backend.decode([0, 1, 2])


def test_a_tokenizer_in_python_is_refused_with_the_reason() -> None:
    from transformers import CanineTokenizer

    with pytest.raises(UserError, match=r"^model\.name: .*CanineTokenizer.*tokenizer\.json; choose another model"):
        TokenBytes(CanineTokenizer())
