"""The calibrator agrees with scikit-learn, its figures with their definitions; and what each signal adds."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from toolhone.errors import UserError
from toolhone.rates import Floats, shares, with_intervals
from toolhone.route.calibrate import ISOTONIC_ROWS, Calibrator, ablation, aurc, auroc, fit, reliability
from toolhone.route.confidence import FEATURES, GROUPS, Gate, Signals


def made_rows(rows: int, seed: int = 0) -> tuple[Floats, Floats]:
    """Returns features on different scales (two informative, one noise, one constant) and outcomes."""
    random = np.random.default_rng(seed)
    features = np.column_stack([random.normal(3, 50, rows), random.random(rows), random.normal(size=rows)])
    chance = 1 / (1 + np.exp(-(features[:, 0] / 40 + 3 * features[:, 1])))
    right = (random.random(rows) < chance).astype(float)
    return np.column_stack([features, np.full(rows, 7.0)]), right


def scores_of(calibrator: Calibrator, features: Floats) -> Floats:
    return np.array([calibrator.score(row) for row in features.tolist()])


@pytest.mark.parametrize("rows", [60, ISOTONIC_ROWS, ISOTONIC_ROWS + 1, 3_000])
def test_the_calibrator_agrees_with_scikit_learn(rows: int) -> None:
    features, right = made_rows(rows)
    others, _ = made_rows(500, seed=1)
    calibrator = fit(features, right, "rows")
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(solver="newton-cholesky", tol=1e-8)).fit(
        features, right
    )
    ours = scores_of(calibrator, others)
    np.testing.assert_allclose(ours, pipeline.predict_proba(others)[:, 1], rtol=0, atol=1e-12)
    probabilities = [calibrator.probability(score) for score in ours.tolist()]
    assert bool(calibrator.knots) == (rows > ISOTONIC_ROWS)
    expected = ours
    if calibrator.knots:
        curve = IsotonicRegression(out_of_bounds="clip").fit(scores_of(calibrator, features), right)
        expected = curve.predict(ours)
    np.testing.assert_allclose(probabilities, expected, rtol=0, atol=1e-12)


def test_scores_outside_the_isotonic_curve_get_its_end_values() -> None:
    calibrator = Calibrator((0.0,), (1.0,), (1.0,), 0.0, ((0.2, 0.1), (0.6, 0.5), (0.8, 0.9)))
    assert [calibrator.probability(score) for score in (0.0, 0.2, 0.4, 0.6, 0.7, 0.8, 1.0)] == pytest.approx(
        [0.1, 0.1, 0.3, 0.5, 0.7, 0.9, 0.9], abs=1e-12
    )


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_a_score_is_a_probability_that_rises_with_the_feature(one: float, other: float) -> None:
    calibrator = Calibrator((0.0,), (1.0,), (2.0,), -1.0, ())
    low, high = sorted((one, other))
    assert 0 <= calibrator.score([low]) <= calibrator.score([high]) <= 1


@pytest.mark.parametrize("outcome", [0.0, 1.0])
def test_answers_that_are_all_right_or_all_wrong_cannot_be_calibrated(outcome: float) -> None:
    features, _ = made_rows(20)
    with pytest.raises(UserError, match=r"calibration rows: \d+ of 20 answers are right"):
        fit(features, np.full(20, outcome), "the calibration rows")


def test_ten_thousand_rows_are_calibrated_and_measured_in_five_seconds() -> None:
    features, right = made_rows(10_000)
    started = time.process_time()
    calibrator = fit(features, right, "rows")
    scores = scores_of(calibrator, features)
    probabilities = np.array([calibrator.probability(score) for score in scores.tolist()])
    found = reliability(scores, probabilities, right, list(range(10_000)))
    assert time.process_time() - started < 5
    assert found.brier["value"] < found.brier_constant["value"]


@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=40))
def test_auroc_and_brier_equal_scikit_learns(rows: list[tuple[int, bool]]) -> None:
    scores = np.array([score / 6 for score, _ in rows])
    right = np.array([float(good) for _, good in rows])
    found = reliability(scores, scores, right, list(range(len(rows))))
    assert found.brier["value"] == pytest.approx(brier_score_loss(right, scores, pos_label=1.0), abs=1e-12)
    if 0 < right.sum() < len(right):
        assert found.auroc["value"] == pytest.approx(roc_auc_score(right, scores), abs=1e-12)
    else:
        assert found.auroc["value"] is None


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, 3)), min_size=1, max_size=25))
def test_a_weight_of_n_equals_n_copies_of_the_row(rows: list[tuple[int, bool, int]]) -> None:
    """So the figures of a resample equal those of the rows repeated as often as they were drawn."""
    scores, right, weights = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    times = weights.astype(int)
    if not times.sum():
        return
    apart = np.repeat(scores, times), np.repeat(right, times)
    for figure in (auroc, aurc):
        weighted = figure(scores, right, weights[None])
        np.testing.assert_allclose(weighted, figure(*apart, np.ones((1, times.sum()))), atol=1e-12)


def test_aurc_is_the_mean_error_rate_over_all_coverages() -> None:
    random = np.random.default_rng(4)
    scores = random.random(4_000)
    right = (random.random(4_000) < scores).astype(float)
    wrong = 1 - right[np.argsort(-scores)]
    by_steps = (np.cumsum(wrong) / np.arange(1, 4_001)).mean()
    assert aurc(scores, right, np.ones((1, 4_000)))[0] == pytest.approx(by_steps, abs=1e-3)
    # With one score for all rows, the error rate is the same at every coverage.
    assert aurc(np.ones(8), np.array([1, 1, 0, 1, 0, 1, 1, 1.0]), np.ones((1, 8)))[0] == pytest.approx(0.25)


def test_expected_calibration_error_and_its_bins_by_hand() -> None:
    probabilities = np.array([0.95, 0.95, 0.95, 0.95, 0.05, 0.05, 1.0, 0.0])
    right = np.array([1, 1, 1, 0, 0, 1, 1, 0.0])
    found = reliability(probabilities, probabilities, right, list(range(8)))
    # Upper bin: mean probability 4.8 / 5, four of five right. Lower bin: 0.1 / 3, one of three.
    assert found.ece["value"] == pytest.approx((5 * (0.96 - 0.8) + 3 * (1 / 3 - 0.1 / 3)) / 8)
    assert [(b["from"], b["numerator"], b["denominator"]) for b in found.bins] == [(0.0, 1, 3), (0.9, 4, 5)]
    assert [b["probability"] for b in found.bins] == pytest.approx([0.1 / 3, 0.96])
    assert (found.rows, found.wrong) == (8, 3)


def test_ece_by_chance_equals_the_ece_of_perfectly_calibrated_probabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolhone.rates.FIGURE_FOLDS", 2)
    random = np.random.default_rng(2)
    seen = []
    for _ in range(60):
        probabilities = random.random(150)
        right = (random.random(150) < probabilities).astype(float)
        seen.append(reliability(probabilities, probabilities, right, list(range(150))))
    assert np.mean([one.ece["value"] for one in seen]) == pytest.approx(seen[0].ece_by_chance, rel=0.15)
    assert 0.05 < seen[0].ece_by_chance < 0.12  # not small, with fifteen rows a bin


def test_an_interval_is_wider_if_rows_are_clustered() -> None:
    random = np.random.default_rng(6)
    values = np.repeat(random.integers(0, 2, 60), 5).astype(float)  # the five rows of a cluster are equal
    alone, together = (
        with_intervals(lambda weights: shares(weights, values[:, None]), clusters)[0]
        for clusters in (list(range(300)), np.repeat(np.arange(60), 5).tolist())
    )
    ratio = (together["high"] - together["low"]) / (alone["high"] - alone["low"])
    assert alone["value"] == together["value"] == values.mean()
    assert 1.8 < ratio < 2.8  # the square root of five


def test_one_cluster_gives_no_interval() -> None:
    found = with_intervals(lambda weights: shares(weights, np.array([[1.0], [0.0]])), ["a", "a"])
    assert found == [{"value": 0.5, "low": None, "high": None}]


def test_intervals_are_reproducible() -> None:
    random = np.random.default_rng(1)
    scores, right = random.random(50), (random.random(50) < 0.7).astype(float)
    assert reliability(scores, scores, right, list(range(50))) == reliability(scores, scores, right, list(range(50)))


ROWS = 120


def signals(
    gates: list[Gate | None] | None = None, escalated: list[bool] | None = None, **columns: list[float]
) -> list[Signals]:
    """Signals whose features are 1, except the named columns."""
    escalations = escalated or [False] * ROWS
    columns["escalated"] = [float(one) for one in escalations]
    rows = [tuple(columns[name][n] if name in columns else 1.0 for name in FEATURES) for n in range(ROWS)]
    return [Signals(gate, one, row) for gate, one, row in zip(gates or [None] * ROWS, escalations, rows, strict=True)]


RIGHT = np.array([float(n % 4 > 0) for n in range(ROWS)])
CLUSTERS = [n // 2 for n in range(ROWS)]


def test_only_the_informative_group_ranks_better_than_chance() -> None:
    random = np.random.default_rng(3)
    knows = (RIGHT * 0.3 + random.uniform(size=ROWS) * 0.5).tolist()
    made = ablation(signals(value_minimum=knows), RIGHT, CLUSTERS)
    assert list(made) == ["gates", *GROUPS, "all features"]
    assert made["values"].auroc["value"] > 0.85
    assert made["values"].brier_gain["low"] > 0
    assert made["all features"].auroc["value"] == pytest.approx(made["values"].auroc["value"])
    # A group without information has exactly 0.5, and its probability is the share that is right.
    for name in ("gates", "decision", "names"):
        assert made[name].auroc["value"] == 0.5
        assert made[name].brier["value"] == pytest.approx(0.1875, abs=0.001)


def test_gates_apply_in_every_variant() -> None:
    gates: list[Gate | None] = ["malformed" if not right and n % 8 else None for n, right in enumerate(RIGHT)]
    made = ablation(signals(gates), RIGHT, CLUSTERS)
    assert {name: one.auroc["value"] for name, one in made.items()} == dict.fromkeys(made, 0.75)


def test_escalations_of_the_small_model_form_a_variant_and_add_information() -> None:
    random = np.random.default_rng(4)
    knows = (RIGHT * 0.2 + random.uniform(size=ROWS) * 0.8).tolist()
    escalates = [not right and n % 8 == 0 for n, right in enumerate(RIGHT)]
    made = ablation(signals(escalated=escalates, decision=knows), RIGHT, CLUSTERS)
    assert list(made) == ["gates", "deferral", *GROUPS, "all features", "all with deferral"]
    figures = {name: one.auroc["value"] for name, one in made.items()}
    assert figures["deferral"] == 0.75
    assert figures["all with deferral"] > max(figures["all features"], figures["deferral"])


def test_a_row_is_scored_by_a_calibrator_that_has_not_seen_its_cluster() -> None:
    """Each of twelve clusters has its own feature and one outcome: a calibrator that saw it knows its outcome."""
    outcomes = np.random.default_rng(5).permutation([0.0, 1.0, 1.0] * 4)
    right, clusters = np.repeat(outcomes, ROWS // 12), [n // (ROWS // 12) for n in range(ROWS)]
    own = [name for name in FEATURES if name != "escalated"]
    columns = {name: [float(cluster == n) for cluster in clusters] for n, name in enumerate(own)}
    held_out = ablation(signals(**columns), right, clusters)["all features"]
    assert held_out.brier_gain["value"] <= 0
    # If every row is its own cluster, rows with the same feature reveal the outcome.
    seen = ablation(signals(**columns), right, range(ROWS))["all features"]
    assert seen.brier_gain["value"] > 0.2


@pytest.mark.parametrize(
    ("right", "clusters"),
    [
        (np.ones(ROWS), CLUSTERS),
        (np.array([0.0] * 4 + [1.0] * (ROWS - 4)), CLUSTERS),
        (RIGHT, [0] * ROWS),
        (
            np.array([0.0] * 30 + [1.0] * (ROWS - 30)),
            [0 if n < 30 else n for n in range(ROWS)],
        ),  # one cluster has all wrong answers
    ],
)
def test_too_few_rows_of_either_kind_give_no_variant(right: np.ndarray, clusters: list[int]) -> None:
    assert ablation(signals(), right, clusters) == {}


def test_a_row_without_features_gives_no_variant() -> None:
    assert ablation([Signals(None, False, None), *signals()[1:]], RIGHT, CLUSTERS) == {}
