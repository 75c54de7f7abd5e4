"""Character-level differences: the right characters are marked, and neither text loses any."""

from __future__ import annotations

import time
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from toolhone.report.failures import Piece, differences, nearest

TEXTS = st.text(st.sampled_from("abc订单01-é\u0301"), max_size=40)


def _joined(pieces: tuple[Piece, ...], *, same_only: bool = False) -> str:
    return "".join(piece.text for piece in pieces if not (same_only and piece.differs))


def test_a_single_digit_that_differs_is_marked_on_both_sides() -> None:
    expected, found = differences('"ORD-00417"', '"ORD-00471"')
    assert [piece.text for piece in expected if piece.differs] in (["1"], ["7"])
    assert _joined(expected, same_only=True) == _joined(found, same_only=True)
    assert expected[0].text.startswith('"ORD-004')
    assert not expected[0].differs


def test_characters_that_one_side_lacks_are_marked_only_on_the_other() -> None:
    expected, found = differences('"上海市浦东新区"', '"上海浦东新区"')
    assert [piece.text for piece in expected if piece.differs] == ["市"]
    assert found == (Piece('"上海浦东新区"', False),)


def test_texts_with_little_in_common_differ_as_a_whole() -> None:
    assert differences('"damaged"', '"late"') == ((Piece('"damaged"', True),), (Piece('"late"', True),))


def test_a_combining_mark_is_compared_together_with_its_letter() -> None:
    expected, found = differences("cafe\u0301s", "cafes")
    assert [piece.text for piece in expected if piece.differs] == ["e\u0301"]
    assert [piece.text for piece in found if piece.differs] == ["e"]


def test_the_nearest_of_several_accepted_values_is_compared_with_the_answer() -> None:
    assert nearest('"ord-002"', ['"2"', '"ord-001"', '"ORD-001"']) == '"ord-001"'


def test_long_texts_are_compared_within_two_seconds() -> None:
    started = time.process_time()
    expected, found = differences("a" + "xy" * 20_000 + "b", "a" + "yx" * 20_000 + "b")
    assert time.process_time() - started < 2
    assert (expected[0], expected[-1].text) == (Piece(_joined(expected), True), _joined(expected))
    assert len(_joined(found)) == 40_002


@given(TEXTS, TEXTS)
def test_joined_pieces_give_the_texts_and_unmarked_pieces_are_equal(expected: str, found: str) -> None:
    ours, theirs = differences(expected, found)
    assert (_joined(ours), _joined(theirs)) == (expected, found)
    assert _joined(ours, same_only=True) == _joined(theirs, same_only=True)
    assert all(one.differs != other.differs for one, other in pairwise(ours))
    if expected == found:
        assert not any(piece.differs for piece in ours)


@given(TEXTS, st.lists(TEXTS, min_size=1, max_size=4))
def test_an_accepted_value_equal_to_the_text_is_the_nearest(found: str, others: list[str]) -> None:
    assert nearest(found, [*others, found]) == found
