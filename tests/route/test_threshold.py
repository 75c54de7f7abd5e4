"""Thresholds for a rate, a budget and an accuracy, on rows that can be counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from toolhone.errors import UserError
from toolhone.route.curve import Pair
from toolhone.route.policy import Goal
from toolhone.route.resample import Floats
from toolhone.route.threshold import choose_threshold

# Two answers that cannot be kept, then eight of rising score, of which the lowest three are wrong; all are right when
# handed over.
SCORES = np.array([0, 0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])
KEEPABLE = (SCORES > 0).astype(float)


def pair(large: Floats | None = None, small_usd: float = 0.001, large_usd: float = 0.01) -> Pair:
    small, rows = (SCORES > 0.35).astype(float), len(SCORES)
    large = np.ones(rows) if large is None else large
    return Pair(SCORES, small, large, np.full(rows, small_usd), np.full(rows, large_usd), list(range(rows)))


def handed_over(goal: Goal, **of_pair: float) -> int:
    threshold = choose_threshold(goal, pair(**of_pair), KEEPABLE)
    return len(SCORES) if threshold is None else int((threshold > SCORES * KEEPABLE).sum() + (threshold == 0) * 2)


@pytest.mark.parametrize(("rate", "rows"), [(0.0, 2), (0.2, 2), (0.3, 3), (0.52, 5), (1.0, 10)])
def test_a_rate_hands_over_that_share_but_never_less_than_must_be(rate: float, rows: int) -> None:
    assert handed_over(Goal(kind="escalation", escalation=rate)) == rows


@pytest.mark.parametrize(("dollars", "rows"), [(3.0, 2), (4.0, 3), (4.99, 3), (5.0, 4), (50.0, 10)])
def test_a_budget_buys_as_many_calls_as_it_pays_for(dollars: float, rows: int) -> None:
    assert handed_over(Goal(kind="budget", budget_usd=dollars)) == rows


def test_a_budget_below_what_must_be_spent_is_told() -> None:
    with pytest.raises(UserError, match=r"--budget 2: 1,000 calls cost \$3 even where"):
        choose_threshold(Goal(kind="budget", budget_usd=2), pair(), KEEPABLE)


def test_a_budget_needs_prices() -> None:
    with pytest.raises(UserError, match="--budget: needs prices"):
        choose_threshold(Goal(kind="budget", budget_usd=2), pair(large_usd=np.nan), KEEPABLE)


@pytest.mark.parametrize(("accuracy", "rows"), [(0.5, 2), (0.7, 2), (0.71, 3), (0.9, 4), (1.0, 5)])
def test_an_accuracy_is_reached_with_as_few_as_can_be(accuracy: float, rows: int) -> None:
    assert handed_over(Goal(kind="accuracy", accuracy=accuracy)) == rows


def test_an_accuracy_that_is_out_of_reach_is_told_with_what_is_not() -> None:
    large = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0], dtype=float)
    with pytest.raises(UserError, match=r"the most is 0\.9000, with 40\.0% handed over"):
        choose_threshold(Goal(kind="accuracy", accuracy=0.95), pair(large), KEEPABLE)


def test_a_threshold_lies_between_two_scores() -> None:
    found = choose_threshold(Goal(kind="escalation", escalation=0.4), pair(), KEEPABLE)
    assert found == pytest.approx(0.25)
