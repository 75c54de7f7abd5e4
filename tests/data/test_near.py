"""Near duplicates are found, scored exactly and grouped, the same in every run, and more texts never hide them."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolhone.data.groups import jaccard, near_duplicates, nearest, shingles

BASE = "could you please tell me where the parcel with my new walking boots is at the moment"
NEAR = BASE + "?"
FAR = "I would like to cancel an order and to get my money back on the card that I paid with"


def groups(pairs: list[tuple[int, int, float]], count: int) -> list[int]:
    """Return for each text the lowest number of the texts that pairs link it to, directly or indirectly."""
    labels = list(range(count))
    for one, other, _ in pairs:
        low, high = sorted((labels[one], labels[other]))
        labels = [low if label == high else label for label in labels]
    return labels


def test_a_copy_is_paired_with_the_first_such_text_and_a_near_text_is_scored_exactly() -> None:
    pairs = near_duplicates([FAR, BASE, BASE, NEAR, BASE])
    assert [(one, other) for one, other, _ in pairs] == [(1, 2), (1, 3), (1, 4)]
    scores = {other: score for _, other, score in pairs}
    grams = len({BASE[n : n + 5] for n in range(len(BASE) - 4)})
    assert scores == {2: 1.0, 3: pytest.approx(grams / (grams + 1)), 4: 1.0}
    assert groups(pairs, 5) == [0, 1, 1, 1, 1]


def test_texts_under_five_characters_are_near_only_to_their_copies() -> None:
    assert near_duplicates(["", "", "ja", "no", "ja"]) == [(0, 1, 1.0), (2, 4, 1.0)]
    assert shingles("ja") == {"ja"}
    assert jaccard(shingles("abcdef"), shingles("abcdeg")) == pytest.approx(1 / 3)


def test_a_threshold_of_1_finds_only_copies_and_one_outside_its_range_is_refused() -> None:
    assert near_duplicates([BASE, NEAR, BASE], 1.0) == [(0, 2, 1.0)]
    with pytest.raises(ValueError, match="threshold"):
        near_duplicates([BASE], 0.0)


def test_texts_that_are_linked_already_are_not_paired_again() -> None:
    assert near_duplicates([BASE, NEAR, BASE], linked=[0, 0, 0]) == []
    assert [pair[:2] for pair in near_duplicates([BASE, NEAR, FAR], linked=[0, 1, 1])] == [(0, 1)]


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.9])
def test_nearly_all_pairs_over_the_threshold_share_a_group_and_no_other_pair_is_returned(threshold: float) -> None:
    rng = random.Random(3)
    words = FAR.split()
    texts = []
    for _ in range(60):
        text = [rng.choice(words) for _ in range(14)]
        texts.append(" ".join(text))
        for _ in range(4):
            text[rng.randrange(14)] = rng.choice(words)
            texts.append(" ".join(text))
    pairs = near_duplicates(texts, threshold)
    label = groups(pairs, len(texts))
    grams = [shingles(text) for text in texts]
    near = [
        (one, other)
        for one in range(len(texts))
        for other in range(one + 1, len(texts))
        if jaccard(grams[one], grams[other]) >= threshold
    ]
    assert len(near) > 30
    assert sum(label[one] == label[other] for one, other in near) >= 0.98 * len(near)
    for one, other, score in pairs:
        assert one < other
        assert score == jaccard(grams[one], grams[other]) >= threshold


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.text("ab ", min_size=6, max_size=40), max_size=12), st.lists(st.text("ab ", max_size=40), max_size=6)
)
def test_more_texts_never_divide_a_group_and_the_same_texts_give_the_same_pairs(old: list[str], new: list[str]) -> None:
    before = groups(near_duplicates(old), len(old))
    pairs = near_duplicates(old + new)
    assert pairs == near_duplicates(old + new)
    after = groups(pairs, len(old + new))
    for one in range(len(old)):
        for other in range(one):
            if before[one] == before[other]:
                assert after[one] == after[other]


def test_nearest_returns_the_most_similar_text_and_of_equals_the_first() -> None:
    assert nearest([FAR, NEAR, BASE + "??", NEAR], [BASE, "something else altogether", FAR]) == [
        (1, jaccard(shingles(BASE), shingles(NEAR))),
        None,
        (0, 1.0),
    ]
    assert nearest([], [BASE]) == [None]


def test_a_lone_surrogate_is_accepted() -> None:
    assert len(near_duplicates([BASE + "\ud83d", BASE])) == 1


def test_twenty_thousand_copies_of_a_few_texts_do_not_take_quadratic_time() -> None:
    started = time.process_time()
    pairs = near_duplicates([f"{BASE} {n % 7}" for n in range(20_000)])
    assert len(pairs) == 19_999
    assert time.process_time() - started < 30
