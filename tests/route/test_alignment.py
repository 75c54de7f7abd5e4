"""Tokens against stretches of text: a turn cut into byte pieces anyhow, and put together again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolhone.chat.parse import parse_turn
from toolhone.formats import FORMATS
from toolhone.formats.call_json import call_spans
from toolhone.formats.chat_format import RawCall
from toolhone.records import FormatName, Prediction, Token
from toolhone.route.alignment import align


def predicted(text: str, pieces: list[bytes]) -> Prediction:
    tokens = tuple(Token(n, piece, -0.1) for n, piece in enumerate(pieces))
    return Prediction("c/1", "m", text, "stop", 1, len(tokens), 1.0, tokens)


@st.composite
def cut(draw: st.DrawFn, raw: bytes) -> list[bytes]:
    """The bytes in pieces, some of them inside a character."""
    places = sorted(draw(st.sets(st.integers(1, max(1, len(raw) - 1)), max_size=40)))
    return [raw[first:last] for first, last in zip([0, *places], [*places, len(raw)], strict=True)]


@pytest.mark.parametrize("format", FORMATS)
@given(data=st.data())
def test_any_cutting_of_a_call_gives_back_its_name_and_each_value(format: FormatName, data: st.DataObject) -> None:
    arguments = '{"地址": "杭州市\\n\\u00e9 \\"x\\"", "n": -1.5e3, "in": {"a": [1, "}"]}, "no": null}'
    calls = [RawCall("查 order", arguments), RawCall("b", "{}")]
    text = FORMATS[format].write(data.draw(st.sampled_from(["", "好的。", "😀 see:"])), calls, "stop")
    pieces = data.draw(cut(text.encode() + b"<|im_end|>"))
    alignment = align(predicted(text, pieces))
    assert alignment is not None
    spans = [call_spans(text, place) for place in parse_turn(text, format).places]
    assert [list(one.values) for one in spans] == [["地址", "n", "in", "no"], []]
    for span in [span for one in spans for span in (one.name, *one.values.values())]:
        covered = alignment.of(span)
        said = b"".join(alignment.tokens[n].bytes for n in covered)
        written = text[slice(*span)].encode()
        # All of it, and of the first and last token no more than what they share with it.
        before = len(text[: span[0]].encode()) - alignment.begins[covered.start]
        assert said[before : before + len(written)] == written
        assert before < len(pieces[covered.start])
        assert len(said) - before - len(written) < len(pieces[covered.stop - 1])


def test_a_token_that_holds_the_end_of_a_value_and_more_is_of_both() -> None:
    alignment = align(predicted('{"a":"b"}', [b'{"', b'a":', b'"b', b'"}']))
    assert alignment is not None
    assert list(alignment.of((6, 7))) == [2]
    assert list(alignment.of((6, 8))) == [2, 3]
    assert list(alignment.of((2, 2))) == []
    assert alignment.after(5) == 2
    assert alignment.after(9) == 4


def test_the_character_of_several_tokens_has_them_all() -> None:
    first, second, third = (bytes([byte]) for byte in "查".encode())
    alignment = align(predicted("a查b", [b"a", first, second, third, b"b"]))
    assert alignment is not None
    assert list(alignment.of((1, 2))) == [1, 2, 3]


def test_tokens_without_bytes_are_passed_over() -> None:
    alignment = align(predicted("ab", [b"", b"a", b"", b"b", b""]))
    assert alignment is not None
    assert [token.bytes for token in alignment.tokens] == [b"a", b"b"]
    assert list(alignment.of((1, 2))) == [1]


def test_a_character_that_was_cut_off_is_one_of_replacement() -> None:
    # As a tokenizer decodes it: one U+FFFD for what began a character and was not finished.
    alignment = align(predicted("a\ufffdb\ufffd", [b"a", b"\xe6\x9f", b"b", b"\xff"]))
    assert alignment is not None
    assert [list(alignment.of((n, n + 1))) for n in range(4)] == [[0], [1], [2], [3]]


def test_the_space_that_decoding_drops_is_the_first_token_s() -> None:
    alignment = align(predicted("Hi you", [b" Hi", b" you"]))
    assert alignment is not None
    assert list(alignment.of((0, 2))) == [0]
    assert list(alignment.of((3, 6))) == [1]


@pytest.mark.parametrize("pieces", [[], [b""], [b"other"], [b"H"], [b"xHi"]])
def test_tokens_of_another_text_are_no_tokens(pieces: list[bytes]) -> None:
    assert align(predicted("Hi", pieces)) is None


def test_an_empty_text_has_its_end_of_turn_alone() -> None:
    alignment = align(predicted("", [b"<|im_end|>"]))
    assert alignment is not None
    assert alignment.after(0) == 0


@given(st.binary(max_size=40))
def test_bytes_decode_as_python_decodes_them_with_replacement(raw: bytes) -> None:
    text = raw.decode(errors="replace")
    alignment = align(predicted(text, [bytes([byte]) for byte in raw]))
    if not raw:
        assert alignment is None
        return
    assert alignment is not None
    assert [n for at in range(len(text)) for n in alignment.of((at, at + 1))] == list(range(len(raw)))
