"""The deferral curve and the cascade at one threshold, compared with their definitions."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolhone.rates import Floats
from toolhone.route.curve import GAPS, Outcomes, assumed_large, deferral_curve, gains, operating_point, oracle

from .conftest import outcomes

Row = tuple[int, bool, bool]
rows_of_both = st.lists(st.tuples(st.integers(0, 9), st.booleans(), st.booleans()), min_size=1, max_size=40)


def pair_of(rows: list[Row], small_usd: float = 0.0002, large_usd: float = 0.01) -> Outcomes:
    scores, small, large = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    return outcomes(scores, small, large, small_usd=small_usd, large_usd=large_usd)


@given(rows_of_both)
def test_the_ends_of_the_curve_are_the_accuracies_of_the_two_models(rows: list[Row]) -> None:
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
def test_at_each_score_the_curve_equals_the_counted_accuracy(rows: list[Row]) -> None:
    pair = pair_of(rows)
    share, added = gains(pair, np.ones(len(rows)))
    for score in set(pair.scores.tolist()):
        escalated = pair.scores <= score
        accuracy = np.where(escalated, pair.large, pair.small).mean()
        assert pair.small.mean() + np.interp(escalated.mean(), share, added) == pytest.approx(accuracy)


def test_a_perfect_confidence_gives_the_oracle_and_a_useless_one_the_random_line() -> None:
    small = np.array([0.0] * 20 + [1.0] * 80)
    large, usd = np.ones(100), np.full(100, 0.01)
    knows = deferral_curve(outcomes(small + np.arange(100) / 1000, small, large, small_usd=usd / 50, large_usd=usd))
    assert [figure["value"] for figure in knows.accuracy] == pytest.approx(knows.oracle)
    assert knows.at[1]["of_oracle"]["value"] == pytest.approx(1)
    # The gap is closed at 20% escalated and half closed at 10%; in between the curve is a straight line.
    assert [one["escalation"]["value"] for one in knows.reach] == pytest.approx([0.1, 0.16, 0.19])
    assert knows.reach[0]["usd"]["value"] == pytest.approx(0.0002 + 0.1 * 0.01)
    assert knows.apgr["value"] == pytest.approx(1 - 0.2 / 2)
    blind = deferral_curve(outcomes(np.ones(100), small, large, small_usd=usd / 50, large_usd=usd))
    assert [figure["value"] for figure in blind.accuracy] == pytest.approx(blind.random)
    assert blind.apgr["value"] == pytest.approx(0.5)
    assert [one["escalation"]["value"] for one in blind.reach] == pytest.approx(list(GAPS))


def test_escalating_more_expensive_rows_costs_more() -> None:
    large_usd = np.array([0.04, 0.01, 0.01, 0.01, 0.01])
    pair = outcomes(np.arange(5.0), np.zeros(5), np.ones(5), small_usd=0.001, large_usd=large_usd)
    found = deferral_curve(pair)
    assert found.usd[[0, 20, 40, 100]] == pytest.approx([0.001, 0.009, 0.011, 0.017])
    assert found.at[2]["of_large"]["value"] == pytest.approx(0.009 / 0.016)


def test_a_large_model_that_is_no_better_closes_no_gap() -> None:
    found = deferral_curve(pair_of([(1, True, False), (2, True, True), (3, False, False)]))
    assert found.apgr["value"] is None
    assert all(one["escalation"]["value"] is None and one["usd"]["value"] is None for one in found.reach)


def test_without_a_price_the_curve_has_no_cost() -> None:
    pair = pair_of([(1, False, True), (2, True, True), (3, True, True)], small_usd=np.nan)
    found = deferral_curve(pair)
    assert found.at[0]["usd"]["value"] is None
    assert np.isnan(found.usd).all()
    assert found.apgr["value"] > 0.5


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.floats(0.01, 1))
def test_an_assumed_model_has_the_assumed_accuracy(right: list[bool], accuracy: float) -> None:
    small = np.array(right, dtype=float)
    found = assumed_large(small, accuracy)
    for chances in found.values():
        assert ((chances >= 0) & (chances <= 1)).all()
    assert found["independent"].mean() == pytest.approx(accuracy)
    if small.mean() < 1:  # errors cannot overlap with those of a model without errors
        assert found["overlapping"].mean() == pytest.approx(accuracy)
    both_wrong = ((1 - small) * (1 - found["overlapping"])).mean()
    least = min(1 - found["overlapping"].mean(), 1 - small.mean())
    assert both_wrong == pytest.approx(least)


@pytest.mark.parametrize(("overlap", "auroc"), [(0, 0.842), (0.5, 0.902), (1, 0.978)])
def test_this_auroc_is_needed_for_94_percent_with_a_tenth_escalated(overlap: float, auroc: float) -> None:
    """The course's models, 90% and 95%, with normal scores: 0.84 if errors are independent, 0.98 if they all
    overlap."""
    random, rows = np.random.default_rng(9), 200_000
    small = (np.arange(rows) >= rows // 10).astype(float)
    scores = random.normal(size=rows) + small * NormalDist().inv_cdf(auroc) * np.sqrt(2)
    both = assumed_large(small, 0.95)
    large: Floats = (1 - overlap) * both["independent"] + overlap * both["overlapping"]
    share, added = gains(outcomes(scores, small, large), np.ones(rows))
    assert 0.9 + np.interp(0.1, share, added) == pytest.approx(0.94, abs=0.001)


SMALL = np.array([1.0, 1, 1, 1, 1, 0, 0, 0, 0, 0])
LARGE = np.array([1.0, 1, 1, 1, 0, 1, 1, 1, 0, 0])
KEPT = np.array([1.0, 1, 1, 0, 0, 1, 0, 0, 1, 0])


def both_models(**known: float) -> Outcomes:
    return outcomes(np.arange(10.0), SMALL, LARGE, **{"small_usd": 0.001, "large_usd": 0.01, **known})


def test_each_figure_equals_the_count_by_hand() -> None:
    point = operating_point(both_models(small_s=0.1, large_s=2.0), KEPT)
    values = {name: getattr(point, name)["value"] for name in point.__slots__}
    assert values == pytest.approx(
        {
            "escalation": 0.5,
            "small": 0.5,
            "large": 0.7,
            # Kept and right 3; escalated and right by the large model: rows 3, 6 and 7.
            "accuracy": 0.6,
            "random": 0.6,
            # Three errors can be fixed and five rows are escalated; the other two escalations lose nothing.
            "oracle": 0.8,
            "wrong_kept": 2 / 5,
            "harmful": 0.1,  # row 5
            "behind_large": 0.1,
            "of_oracle": 1 / 3,
            "small_usd": 0.001,
            "large_usd": 0.01,
            "usd": 0.006,
            "of_large": 0.6,
            "small_s": 0.1,
            "large_s": 2.0,
            "latency_s": 1.1,
        }
    )


def test_an_unknown_figure_has_no_value() -> None:
    point = operating_point(both_models(large_usd=np.nan, small_s=0.1), KEPT)
    assert point.usd["value"] is point.of_large["value"] is point.latency_s["value"] is None
    assert point.small_usd["value"] == pytest.approx(0.001)


def test_the_error_rate_of_kept_answers_has_no_value_if_none_is_kept() -> None:
    point = operating_point(both_models(), np.zeros(10))
    assert point.wrong_kept["value"] is None
    assert point.accuracy["value"] == point.large["value"]


def test_a_free_large_model_gives_no_cost_ratio() -> None:
    free = both_models(small_usd=0.0, large_usd=0.0)
    assert operating_point(free, KEPT).of_large["value"] is None
    assert deferral_curve(free).at[0]["of_large"]["value"] is None


def test_the_point_lies_on_the_curve_if_it_keeps_the_most_confident_answers() -> None:
    both = both_models()
    kept = (both.scores >= 4).astype(float)
    point, curve = operating_point(both, kept), deferral_curve(both)
    assert point.accuracy["value"] == pytest.approx(curve.accuracy[40]["value"])
    assert point.usd["value"] == pytest.approx(curve.usd[40])
