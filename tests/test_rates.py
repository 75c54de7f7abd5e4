"""Rates, F1 and spread."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from toolhone.rates import f1, rate, rate_of, spread


@given(st.integers(1, 100_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_of_a_rate_equals_scipys_wilson_interval(counts: tuple[int, int]) -> None:
    numerator, denominator = counts
    found = rate(numerator, denominator)
    expected = binomtest(numerator, denominator).proportion_ci(0.95, method="wilson")
    assert found["value"] == numerator / denominator
    assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert 0 <= found["low"] <= found["value"] <= found["high"] <= 1


def test_a_rate_over_no_rows_has_no_value() -> None:
    assert rate(0, 0) == {"value": None, "numerator": 0, "denominator": 0, "low": None, "high": None}
    assert rate_of([])["value"] is None
    assert f1(0, 0, 0)["value"] is None


def test_f1_is_the_harmonic_mean_of_precision_and_recall() -> None:
    precision, recall = 3 / 4, 3 / 6
    found = f1(3, 4, 6)
    assert found == {"value": pytest.approx(2 / (1 / precision + 1 / recall)), "right": 3, "predicted": 4, "gold": 6}
    assert f1(0, 4, 6)["value"] == 0


def test_spread_gives_median_95th_percentile_and_sum() -> None:
    assert spread(list(range(101))) == {"p50": 50, "p95": 95, "total": 5050}
    assert spread([]) == {"p50": None, "p95": None, "total": 0}
