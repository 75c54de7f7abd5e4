"""The cascade at one threshold, counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from toolhone.route.curve import Pair, deferral_curve
from toolhone.route.point import operating_point
from toolhone.route.resample import Floats

SMALL = np.array([1.0, 1, 1, 1, 1, 0, 0, 0, 0, 0])
LARGE = np.array([1.0, 1, 1, 1, 0, 1, 1, 1, 0, 0])
KEPT = np.array([1.0, 1, 1, 0, 0, 1, 0, 0, 1, 0])
NONE = np.full(10, np.nan)


def pair(large: Floats = LARGE, small_usd: float = 0.001, large_usd: float = 0.01) -> Pair:
    usd = np.full(10, small_usd), np.full(10, large_usd)
    return Pair(np.arange(10.0), SMALL, large, *usd, list(range(10)))


def test_each_figure_is_what_counting_gives() -> None:
    point = operating_point(pair(), KEPT, np.full(10, 0.1), np.full(10, 2.0))
    values = {name: getattr(point, name)["value"] for name in point.__slots__}
    assert values == pytest.approx(
        {
            "escalation": 0.5,
            "small": 0.5,
            "large": 0.7,
            # Kept and right 3; handed over and right by the large model: rows 3, 6 and 7.
            "accuracy": 0.6,
            "random": 0.6,
            # Three can be mended, and five are handed over: the last two cost nothing.
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


def test_what_is_not_known_has_no_value() -> None:
    point = operating_point(pair(large_usd=np.nan), KEPT, np.full(10, 0.1), NONE)
    assert point.usd["value"] is point.of_large["value"] is point.latency_s["value"] is None
    assert point.small_usd["value"] == pytest.approx(0.001)


def test_nothing_kept_has_no_share_wrong_among_it() -> None:
    point = operating_point(pair(), np.zeros(10), NONE, NONE)
    assert point.wrong_kept["value"] is None
    assert point.accuracy["value"] == point.large["value"]


def test_a_large_model_that_costs_nothing_divides_nothing() -> None:
    free = pair(small_usd=0.0, large_usd=0.0)
    assert operating_point(free, KEPT, NONE, NONE).of_large["value"] is None
    assert deferral_curve(free).at[0].of_large["value"] is None


def test_the_point_lies_on_the_curve_where_it_keeps_the_surest() -> None:
    both = pair()
    kept = (both.scores >= 4).astype(float)
    point, curve = operating_point(both, kept, NONE, NONE), deferral_curve(both)
    assert point.accuracy["value"] == pytest.approx(curve.accuracy[40]["value"])
    assert point.usd["value"] == pytest.approx(curve.usd[40])
