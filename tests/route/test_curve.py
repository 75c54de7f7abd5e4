"""The deferral curve against its definitions, and the course's arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolhone.route.curve import GAPS, Pair, assumed_large, deferral_curve, gains, oracle
from toolhone.route.needed import cascade_latency_s, cascade_usd, needed_auroc
from toolhone.route.resample import Floats

Row = tuple[int, bool, bool]
rows_of_both = st.lists(st.tuples(st.integers(0, 9), st.booleans(), st.booleans()), min_size=1, max_size=40)


def pair_of(rows: list[Row], small_usd: float = 0.0002, large_usd: float = 0.01) -> Pair:
    scores, small, large = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    count = len(rows)
    return Pair(scores, small, large, np.full(count, small_usd), np.full(count, large_usd), list(range(count)))


@given(rows_of_both)
def test_the_ends_of_the_curve_are_the_two_models_alone(rows: list[Row]) -> None:
    pair = pair_of(rows)
    share, added = gains(pair, np.ones(len(rows)))
    assert (share[0], share[-1], added[0]) == (0, 1, 0)
    assert pair.small.mean() + added[-1] == pytest.approx(pair.large.mean())
    best = oracle(pair, np.ones(len(rows)), np.array([0.0, 1.0]))
    assert best == pytest.approx([pair.small.mean(), pair.large.mean()])


@given(rows_of_both)
def test_no_order_of_rows_beats_the_oracle(rows: list[Row]) -> None:
    pair = pair_of(rows)
    share, added = gains(pair, np.ones(len(rows)))
    assert (pair.small.mean() + added <= oracle(pair, np.ones(len(rows)), share) + 1e-12).all()


@given(rows_of_both)
def test_between_scores_the_curve_is_what_counting_gives(rows: list[Row]) -> None:
    pair = pair_of(rows)
    share, added = gains(pair, np.ones(len(rows)))
    for score in set(pair.scores.tolist()):
        escalated = pair.scores <= score
        accuracy = np.where(escalated, pair.large, pair.small).mean()
        assert pair.small.mean() + np.interp(escalated.mean(), share, added) == pytest.approx(accuracy)


def test_a_confidence_that_knows_follows_the_oracle_and_one_that_does_not_the_random_line() -> None:
    small = np.array([0.0] * 20 + [1.0] * 80)
    large, usd = np.ones(100), np.full(100, 0.01)
    knows = deferral_curve(Pair(small + np.arange(100) / 1000, small, large, usd / 50, usd, list(range(100))))
    assert [figure["value"] for figure in knows.accuracy] == pytest.approx(knows.oracle)
    assert knows.at[1].of_oracle["value"] == pytest.approx(1)
    # The gap is closed at 20% handed over, and half of it at 10%; below, the curve is a straight line.
    assert [one.escalation["value"] for one in knows.reach] == pytest.approx([0.1, 0.16, 0.19])
    assert knows.reach[0].usd["value"] == pytest.approx(0.0002 + 0.1 * 0.01)
    assert knows.apgr["value"] == pytest.approx(1 - 0.2 / 2)
    blind = deferral_curve(Pair(np.ones(100), small, large, usd / 50, usd, list(range(100))))
    assert [figure["value"] for figure in blind.accuracy] == pytest.approx(blind.random)
    assert blind.apgr["value"] == pytest.approx(0.5)
    assert [one.escalation["value"] for one in blind.reach] == pytest.approx(list(GAPS))


def test_dearer_rows_cost_more_when_they_are_handed_over() -> None:
    large_usd = np.array([0.04, 0.01, 0.01, 0.01, 0.01])
    pair = Pair(np.arange(5.0), np.zeros(5), np.ones(5), np.full(5, 0.001), large_usd, list(range(5)))
    found = deferral_curve(pair)
    assert found.usd[[0, 20, 40, 100]] == pytest.approx([0.001, 0.009, 0.011, 0.017])
    assert found.at[2].of_large["value"] == pytest.approx(0.009 / 0.016)


def test_a_large_model_that_is_no_better_closes_no_gap() -> None:
    found = deferral_curve(pair_of([(1, True, False), (2, True, True), (3, False, False)]))
    assert found.apgr["value"] is None
    assert all(one.escalation["value"] is None and one.usd["value"] is None for one in found.reach)


def test_without_a_price_there_is_a_curve_and_no_cost() -> None:
    pair = pair_of([(1, False, True), (2, True, True), (3, True, True)], small_usd=np.nan)
    found = deferral_curve(pair)
    assert found.at[0].usd["value"] is None
    assert np.isnan(found.usd).all()
    assert found.apgr["value"] > 0.5


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.floats(0.01, 1))
def test_an_assumed_model_has_the_accuracy_that_is_assumed(right: list[bool], accuracy: float) -> None:
    small = np.array(right, dtype=float)
    found = assumed_large(small, accuracy)
    for chances in found.values():
        assert ((chances >= 0) & (chances <= 1)).all()
    assert found["independent"].mean() == pytest.approx(accuracy)
    if small.mean() < 1:  # errors cannot lie among those of a model without any
        assert found["overlapping"].mean() == pytest.approx(accuracy)
    both_wrong = ((1 - small) * (1 - found["overlapping"])).mean()
    least = min(1 - found["overlapping"].mean(), 1 - small.mean())
    assert both_wrong == pytest.approx(least)


def binormal(auroc: float, overlap: float, rows: int = 200_000) -> Pair:
    """The course's models, 90% and 95%, with a confidence of this AUROC."""
    from statistics import NormalDist

    random = np.random.default_rng(9)
    small = (np.arange(rows) >= rows // 10).astype(float)
    scores = random.normal(size=rows) + small * NormalDist().inv_cdf(auroc) * np.sqrt(2)
    both = assumed_large(small, 0.95)
    large: Floats = (1 - overlap) * both["independent"] + overlap * both["overlapping"]
    return Pair(scores, small, large, np.full(rows, 0.0002), np.full(rows, 0.01), [0])


class TestTheCoursesTable:
    """All large: $0.01, 2 s, 95%. Small: $0.0002, 0.1 s, 90%. Said of both, with 90% small: $0.0012, 0.4 s, 94%, and
    "cost down 85%"."""

    def test_a_cascade_takes_0_3_seconds(self) -> None:
        assert cascade_latency_s(0.1, 2, 0.1) == pytest.approx(0.3)

    def test_it_saves_88_percent(self) -> None:
        assert cascade_usd(0.0002, 0.01, 0.1) == pytest.approx(0.0012)
        assert 1 - cascade_usd(0.0002, 0.01, 0.1) / 0.01 == pytest.approx(0.88)

    def test_94_percent_takes_an_auroc_of_0_84_or_more(self) -> None:
        """0.84 where the errors are independent, 0.90 half-way to where they overlap fully, 0.98 there."""
        needed = [needed_auroc(0.90, 0.95, 0.94, 0.1, overlap) for overlap in (0, 0.5, 1)]
        assert needed == pytest.approx([0.842, 0.902, 0.978], abs=0.001)

    @pytest.mark.parametrize("overlap", [0.0, 0.5, 1.0])
    def test_a_confidence_with_that_auroc_does_reach_it(self, overlap: float) -> None:
        auroc = needed_auroc(0.90, 0.95, 0.94, 0.1, overlap)
        assert auroc is not None
        pair = binormal(auroc, overlap)
        share, added = gains(pair, np.ones(len(pair.scores)))
        assert 0.9 + np.interp(0.1, share, added) == pytest.approx(0.94, abs=0.001)

    def test_some_targets_no_confidence_reaches(self) -> None:
        assert needed_auroc(0.90, 0.95, 0.96, 0.05, 0) is None  # 5% handed over gain less than 6 points
        assert needed_auroc(0.90, 0.95, 0.955, 0.1, 1) is None  # the large model's own accuracy is all there is
