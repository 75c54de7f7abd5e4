"""Chosen and certified thresholds, checked by hand on a few rows and in simulation."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from toolhone.errors import UserError
from toolhone.rates import Floats
from toolhone.route.curve import Outcomes
from toolhone.route.policy import Goal, RiskKind
from toolhone.route.threshold import certify, choose_threshold, upper_bound

from .conftest import outcomes

# Two gated answers, then eight with rising scores. The lowest three of these are wrong; all are right if escalated.
SCORES = np.array([0, 0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])


def pair(large: Floats | None = None, small_usd: float = 0.001, large_usd: float = 0.01) -> Outcomes:
    large = np.ones(len(SCORES)) if large is None else large
    return outcomes(SCORES, (SCORES > 0.35).astype(float), large, small_usd=small_usd, large_usd=large_usd)


def escalated(goal: Goal, **of_pair: float) -> int:
    rows = pair(**of_pair)
    return int((1 - rows.kept(choose_threshold(goal, rows))).sum())


@pytest.mark.parametrize(("rate", "rows"), [(0.0, 2), (0.2, 2), (0.3, 3), (0.52, 5), (1.0, 10)])
def test_an_escalation_rate_escalates_that_share_and_at_least_the_gated_rows(rate: float, rows: int) -> None:
    assert escalated(Goal(kind="escalation", escalation=rate)) == rows


@pytest.mark.parametrize(("dollars", "rows"), [(3.0, 2), (4.0, 3), (4.99, 3), (5.0, 4), (50.0, 10)])
def test_a_budget_escalates_as_many_rows_as_it_pays_for(dollars: float, rows: int) -> None:
    assert escalated(Goal(kind="budget", budget_usd=dollars)) == rows


def test_a_budget_below_the_minimum_cost_is_an_error() -> None:
    with pytest.raises(UserError, match=r"--budget 2: 1,000 calls cost at least \$3"):
        choose_threshold(Goal(kind="budget", budget_usd=2), pair())


def test_a_budget_needs_prices() -> None:
    with pytest.raises(UserError, match="--budget: needs prices"):
        choose_threshold(Goal(kind="budget", budget_usd=2), pair(large_usd=np.nan))


@pytest.mark.parametrize(("accuracy", "rows"), [(0.5, 2), (0.7, 2), (0.71, 3), (0.9, 4), (1.0, 5)])
def test_an_accuracy_is_reached_with_the_fewest_escalations(accuracy: float, rows: int) -> None:
    assert escalated(Goal(kind="accuracy", accuracy=accuracy)) == rows


def test_the_error_for_an_unreachable_accuracy_gives_the_highest_one() -> None:
    large = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0], dtype=float)
    with pytest.raises(UserError, match=r"the highest is 0\.9000, with 40\.0% escalated"):
        choose_threshold(Goal(kind="accuracy", accuracy=0.95), pair(large))


def test_a_threshold_lies_between_two_scores() -> None:
    found = choose_threshold(Goal(kind="escalation", escalation=0.4), pair())
    assert found == pytest.approx(0.25)


ALPHA, DELTA = 0.1, 0.05
LARGE = 0.95  # accuracy of the simulated large model, independent of the small one


@given(st.integers(1, 400), st.data())
def test_the_upper_bound_is_that_of_clopper_and_pearson(rows: int, data: st.DataObject) -> None:
    losses = data.draw(st.integers(0, rows))
    # A two-sided interval at 90% has 5% on each side.
    expected = binomtest(losses, rows).proportion_ci(0.90, method="exact").high
    assert upper_bound(losses, rows, 0.05) == pytest.approx(expected, abs=1e-9)


def fitting(random: np.random.Generator, rows: int, slope: float, base: float) -> Outcomes:
    """Rows that are wrong with probability base + slope (1 - s), where s is the score; one in ten has no score."""
    scores = random.uniform(1e-9, 1, rows)
    right = 1 - base - slope * (1 - scores)
    scores[random.random(rows) < 0.1] = 0
    return outcomes(scores, right, (random.random(rows) < LARGE).astype(float))


def draw(random: np.random.Generator, rows: int, slope: float, base: float) -> Outcomes:
    """Such rows with outcomes drawn from their probabilities."""
    expected = fitting(random, rows, slope, base)
    return replace(expected, small=(random.random(rows) < expected.small).astype(float))


def true_risk(threshold: float, kind: RiskKind, slope: float, base: float) -> float:
    """The risk at a threshold in the population that `draw` draws from."""
    kept = 0.9 * (1 - threshold)
    wrong = base + slope * (1 - threshold) / 2  # among those kept
    return {
        "selective": wrong,
        "system": kept * wrong + (1 - kept) * (1 - LARGE),
        "harmful_keep": kept * wrong * LARGE,
    }[kind]


def share_violated(kind: RiskKind, slope: float, base: float, draws: int, rows: int = 600) -> tuple[float, float]:
    """Returns how often a certified threshold has a risk above ALPHA, and how often one was certified."""
    random = np.random.default_rng(11)
    violated = certified = 0
    for _ in range(draws):
        fitted, tested = fitting(random, 150, slope, base), draw(random, rows, slope, base)
        found = certify(fitted, tested, kind, ALPHA, DELTA).certified
        if found is not None:
            certified += 1
            violated += true_risk(found.threshold, kind, slope, base) > ALPHA
    return violated / draws, certified / draws


def at_most(draws: int) -> float:
    """Returns DELTA plus two standard errors."""
    return DELTA + 2 * math.sqrt(DELTA * (1 - DELTA) / draws)


# The first case is the hardest: every threshold's risk is just above alpha, so every certificate is a violation.
CASES: list[tuple[RiskKind, float, float]] = [
    ("selective", 0.0, 0.101),
    ("selective", 0.5, 0.0),
    ("system", 0.6, 0.0),
    ("harmful_keep", 0.5, 0.0),
]


@pytest.mark.parametrize(("kind", "slope", "base"), CASES)
def test_certified_thresholds_exceed_their_risk_no_more_often_than_allowed(
    kind: RiskKind, slope: float, base: float
) -> None:
    violated, certified = share_violated(kind, slope, base, draws=200)
    assert violated <= at_most(200)
    if slope:
        assert certified > 0.5  # a method that never certifies would pass the line above


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "slope", "base"), CASES)
def test_certified_thresholds_exceed_their_risk_no_more_often_than_allowed_in_two_thousand_draws(
    kind: RiskKind, slope: float, base: float
) -> None:
    violated, _ = share_violated(kind, slope, base, draws=2_000)
    assert violated <= at_most(2_000)


def test_the_simulation_detects_a_method_that_tests_every_threshold() -> None:
    """Testing every threshold at level delta breaks the guarantee that the fixed sequence keeps."""
    random = np.random.default_rng(3)
    violated = 0
    for _ in range(200):
        rows = draw(random, 250, 0.0, 0.101)
        kept = rows.small[np.argsort(-rows.scores)][: int((rows.scores > 0).sum())]
        bounds = [upper_bound(int((1 - kept[:count]).sum()), count, DELTA) for count in range(25, len(kept), 2)]
        violated += min(bounds) <= ALPHA
    assert violated / 200 > at_most(200)


def test_the_loosest_threshold_before_the_first_failed_test_is_certified() -> None:
    random = np.random.default_rng(5)
    found = certify(fitting(random, 300, 0.5, 0.0), draw(random, 600, 0.5, 0.0), "selective", ALPHA, DELTA)
    assert found.certified is not None
    *passed, last = found.tested
    assert all(one.p_value <= DELTA and one.upper <= ALPHA for one in passed)
    assert last.p_value > DELTA
    assert last.upper > ALPHA
    assert found.certified == passed[-1]
    assert [one.threshold for one in found.tested] == sorted((one.threshold for one in found.tested), reverse=True)


def test_each_risk_counts_its_own_losses() -> None:
    rows = outcomes(np.array([0.9, 0.8, 0.7, 0]), np.array([1.0, 0, 0, 0]), np.array([1.0, 1, 0, 0]))
    counts = {}
    for kind in ("selective", "system", "harmful_keep"):
        last = certify(rows, rows, kind, 0.99, 0.5).tested[-1]
        assert last.threshold == 0.0  # keeps every answer that passes the gates
        counts[kind] = last.losses, last.rows
    assert counts == {"selective": (2, 3), "system": (3, 4), "harmful_keep": (1, 4)}


def test_too_few_rows_are_reported_with_about_how_many_are_needed() -> None:
    """Without a loss, ln(delta) / ln(1 - alpha) rows are needed: 59 at 5% and 5%."""
    flawless = outcomes(np.linspace(0.1, 1, 1000), np.ones(1000))
    few = certify(flawless, outcomes(np.linspace(0.1, 1, 58), np.ones(58)), "selective", 0.05, 0.05)
    assert few.certified is None
    assert few.rows_needed == 59
    assert "No threshold can be certified at this level" in few.sentence()
    assert "with 58 rows; about 59 are needed" in few.sentence()
    enough = certify(flawless, outcomes(np.linspace(0.1, 1, 59), np.ones(59)), "selective", 0.05, 0.05)
    assert enough.certified is not None
    assert enough.certified.threshold == 0.0


def test_no_number_of_rows_is_given_if_more_rows_would_not_help() -> None:
    random = np.random.default_rng(2)
    found = certify(fitting(random, 400, 0.0, 0.3), draw(random, 400, 0.0, 0.3), "selective", 0.05, 0.05)
    assert found.certified is None
    assert found.rows_needed is None
    assert "more would not help" in found.sentence()


def test_the_reported_number_of_rows_is_enough_to_certify() -> None:
    random = np.random.default_rng(8)
    fitted = fitting(random, 2_000, 0.3, 0.02)
    needed = certify(fitted, draw(random, 60, 0.3, 0.02), "selective", 0.05, DELTA).rows_needed
    assert needed is not None
    assert needed > 60
    passed = [
        certify(fitted, draw(random, 2 * needed, 0.3, 0.02), "selective", 0.05, DELTA).certified for _ in range(20)
    ]
    assert sum(one is not None for one in passed) >= 15


def test_no_threshold_is_certified_if_every_answer_is_gated() -> None:
    none = outcomes(np.zeros(5), np.zeros(5))
    assert certify(none, none, "selective", 0.1, 0.1).certified is None


def test_risks_of_the_system_need_the_large_models_answers() -> None:
    rows = outcomes(np.array([0.5]), np.array([1.0]))
    with pytest.raises(ValueError, match="large"):
        certify(rows, rows, "system", 0.1, 0.1)
