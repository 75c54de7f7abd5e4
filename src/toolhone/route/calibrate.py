"""Turn an answer's features into the probability that it is right, and measure how good that probability is.

In: the features of scored rows. Out: a `Calibrator`, plain numbers in a policy file, so that serving needs neither
scikit-learn nor a pickle. On rows that did not calibrate it, a `Reliability`: AUROC and AURC (ranking), Brier score and
expected calibration error (probabilities), with intervals, and the diagram's bins. The ablation measures what each kind
of signal adds.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np

from toolhone.errors import UserError
from toolhone.rates import SEED, Figure, Floats, cluster_numbers, rate, shares, tied, with_intervals
from toolhone.route.confidence import FEATURES, GROUPS, Signals

ISOTONIC_ROWS = 1_000
"""Up to this many rows there is no isotonic curve: on fewer it fits noise."""

BINS = 10
FOLDS = 5
_DRAWS = 200


@dataclass(frozen=True, slots=True)
class Calibrator:
    """A logistic regression on standardised features and, if fitted on enough rows, an isotonic curve on top.

    `knots` are that curve's corners, pairs of score and probability in rising order of score; it is linear between
    them and flat outside. Empty for the logistic regression alone, whose score is the probability.
    """

    means: tuple[float, ...]
    scales: tuple[float, ...]
    weights: tuple[float, ...]
    intercept: float
    knots: tuple[tuple[float, float], ...]

    def score(self, features: Sequence[float]) -> float:
        """The logistic regression's probability: what answers are ranked by, from 0 to 1."""
        parts = zip(features, self.means, self.scales, self.weights, strict=True)
        margin = self.intercept + sum((value - mean) / scale * weight for value, mean, scale, weight in parts)
        # Written so that neither branch overflows.
        return 1 / (1 + math.exp(-margin)) if margin >= 0 else math.exp(margin) / (1 + math.exp(margin))

    def probability(self, score: float) -> float:
        """The estimated probability that an answer with this score is right."""
        if not self.knots:
            return score
        scores, probabilities = zip(*self.knots, strict=True)
        return float(np.interp(score, scores, probabilities))


def fit(features: Floats, right: Floats, where: str) -> Calibrator:
    """Fit scikit-learn's logistic regression on standardised features and, above ISOTONIC_ROWS rows, its isotonic
    regression on that score.

    Args:
        features: [rows, features].
        right: [rows], 1 or 0.
        where: name of the rows in a message.

    Raises:
        UserError: if all answers are right, or all wrong.
    """
    from sklearn.isotonic import IsotonicRegression
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    count = int(right.sum())
    if count in (0, len(right)):
        raise UserError(
            f"{where}: {count} of {len(right)} answers are right; calibration needs both right and wrong "
            "answers; give more rows, or harder ones"
        )
    scaler = StandardScaler().fit(features)
    logistic = LogisticRegression(solver="newton-cholesky", tol=1e-8).fit(scaler.transform(features), right)
    linear = Calibrator(
        tuple(scaler.mean_.tolist()),
        tuple(scaler.scale_.tolist()),
        tuple(logistic.coef_[0].tolist()),
        float(logistic.intercept_[0]),
        (),
    )
    if len(right) <= ISOTONIC_ROWS:
        return linear
    curve = IsotonicRegression(out_of_bounds="clip").fit([linear.score(row) for row in features.tolist()], right)
    knots = zip(curve.X_thresholds_.tolist(), curve.y_thresholds_.tolist(), strict=True)
    return replace(linear, knots=tuple(knots))


@dataclass(frozen=True, slots=True)
class Reliability:
    """The figures of a confidence; lower is better except for `auroc`.

    AUROC: chance that a right answer has a higher score than a wrong one, ties counting half. AURC: mean share of wrong
    answers among those kept, over all shares kept, the surest first (Geifman and El-Yaniv 2017, "Selective
    classification for deep neural networks", with answers of one score kept in random order). Brier: mean squared
    difference of probability and outcome. ECE: mean over the rows of the difference between mean probability and share
    right in the row's bin, of BINS equally wide ones (Guo and others 2017, "On calibration of modern neural networks",
    section 2).

    `brier_constant` is the Brier score of the best constant, the share of these rows that is right; `brier_gain` is
    that minus `brier`. `ece_by_chance` is the ECE that perfectly calibrated probabilities would show on as few rows.
    `bins` are those of the diagram that hold rows."""

    rows: int
    wrong: int
    auroc: Figure
    aurc: Figure
    brier: Figure
    brier_constant: Figure
    brier_gain: Figure
    ece: Figure
    ece_by_chance: float
    bins: tuple[dict[str, Any], ...]


def reliability(scores: Floats, probabilities: Floats, right: Floats, clusters: Sequence[Hashable]) -> Reliability:
    """Measure a confidence: scores that rank answers, and calibrated probabilities. All [rows]; right: 1 or 0."""
    place = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    in_bin = (place[:, None] == np.arange(BINS)).astype(np.float64)  # [rows, bins]
    columns = np.column_stack([(probabilities - right) ** 2, right, (probabilities - right)[:, None] * in_bin])

    def of_rows(weights: Floats) -> Floats:
        means = shares(weights, columns)
        brier, share_right = means[:, 0], means[:, 1]
        constant = share_right * (1 - share_right)
        ece = np.abs(means[:, 2:]).sum(axis=1)
        ranking = auroc(scores, right, weights), aurc(scores, right, weights)
        return np.column_stack([*ranking, brier, constant, constant - brier, ece])

    drawn = np.random.default_rng(SEED).random((_DRAWS, len(right))) < probabilities  # [draws, rows]
    by_chance = float((np.abs((drawn - probabilities) @ in_bin).sum(axis=1) / len(right)).mean())
    ranking, risk, brier, constant, gain, ece = with_intervals(of_rows, clusters)
    bins = tuple(_bins(place, probabilities, right.astype(int)))
    wrong = int((1 - right).sum())
    return Reliability(len(right), wrong, ranking, risk, brier, constant, gain, ece, by_chance, bins)


def _bins(place: np.ndarray[Any, Any], probabilities: Floats, right: np.ndarray[Any, Any]) -> list[dict[str, Any]]:
    """Each bin that holds rows: its mean probability, and the share right with its Wilson interval."""
    found = []
    for number in range(BINS):
        inside = place == number
        if inside.any():
            share = rate(int(right[inside].sum()), int(inside.sum()))
            found.append({"from": number / BINS, "probability": float(probabilities[inside].mean()), **share})
    return found


def auroc(scores: Floats, right: Floats, weights: Floats) -> Floats:
    """See `Reliability`. weights: [folds, rows]; out: [folds], nan if all answers are right, or all wrong."""
    order, starts = tied(scores)
    good = np.add.reduceat((weights * right)[:, order], starts, axis=1)  # [folds, different scores]
    bad = np.add.reduceat((weights * (1 - right))[:, order], starts, axis=1)
    below = np.cumsum(bad, axis=1) - bad / 2
    with np.errstate(invalid="ignore"):
        result: Floats = (good * below).sum(axis=1) / (good.sum(axis=1) * bad.sum(axis=1))
    return result


def aurc(scores: Floats, right: Floats, weights: Floats) -> Floats:
    """See `Reliability`. weights: [folds, rows]; out: [folds].

    Within a group of equal scores the wrong answers come at an even rate e. So from coverage c0 to c1, with w0 of the
    rows wrong before, the share wrong is (w0 + e (c - c0)) / c, and its integral e (c1 - c0) + (w0 - e c0) ln(c1 / c0).
    """
    order, starts = tied(-scores)
    rows = np.add.reduceat(weights[:, order], starts, axis=1)
    wrong = np.add.reduceat((weights * (1 - right))[:, order], starts, axis=1)
    whole = rows.sum(axis=1, keepdims=True)
    end, wrong_end = np.cumsum(rows, axis=1) / whole, np.cumsum(wrong, axis=1) / whole
    begin, wrong_begin = end - rows / whole, wrong_end - wrong / whole
    density = np.divide(wrong, rows, out=np.zeros_like(wrong), where=rows > 0)
    # The surest group begins at coverage 0 with nothing wrong; a group that was not drawn has no width.
    growth = np.log(np.divide(end, begin, out=np.ones_like(end), where=(begin > 1e-12) & (rows > 0)))
    result: Floats = (density * (end - begin) + (wrong_begin - density * begin) * growth).sum(axis=1)
    return result


def ablation(signals: Sequence[Signals], right: Floats, clusters: Sequence[Hashable]) -> dict[str, Reliability]:
    """Return the figures by variant: gates alone; and with the model's own escalation ("deferral"), with each group of
    features, with all of them, and with both.

    Empty if a row has no features, or if too few clusters have right or wrong answers to hold out some of both in turn.
    Variants with deferral are left out if no answer escalates. Scores and probabilities are from cross-validation over
    whole clusters. right: [rows], 1 or 0.
    """
    if any(one.features is None for one in signals) or not (folds := _folds(right, clusters)):
        return {}
    columns = dict(zip(FEATURES, np.array([one.features for one in signals], dtype=np.float64).T, strict=True))
    columns["gate"] = np.array([one.gate is not None for one in signals], dtype=np.float64)
    every = tuple(chain.from_iterable(GROUPS.values()))
    variants = {"gates": (), "deferral": ("escalated",), **GROUPS, "all features": every}
    variants["all with deferral"] = (*every, "escalated")
    found = {}
    for name, features in variants.items():
        if "escalated" in features and not columns["escalated"].any():
            continue
        used = np.column_stack([columns[key] for key in ("gate", *features)])
        scores, probabilities = np.empty(len(right)), np.empty(len(right))
        for training, held_out in folds:
            calibrator = fit(used[training], right[training], "the rows")
            rows = used[held_out].tolist()
            probabilities[held_out] = [calibrator.probability(calibrator.score(row)) for row in rows]
            # Ranked by the weights alone, about the median of all rows. A fold's intercept and means depend on its
            # share of right answers: high in training means low among the held-out rows, so a signal without
            # information would rank worse than chance.
            ranking = replace(calibrator, means=tuple(np.median(used, axis=0).tolist()), intercept=0.0)
            scores[held_out] = [ranking.score(row) for row in rows]
        found[name] = reliability(scores, probabilities, right, clusters)
    return found


def _folds(right: Floats, clusters: Sequence[Hashable]) -> list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """Training and held-out rows of each fold; none if a fold's training rows would be all right or all wrong."""
    from sklearn.model_selection import StratifiedGroupKFold

    groups = np.array(cluster_numbers(clusters))
    if len(set(clusters)) < FOLDS or min(right.sum(), (1 - right).sum()) < FOLDS:
        return []
    splitter = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=SEED)
    folds = [(training, held_out) for training, held_out in splitter.split(groups[:, None], right, groups)]
    return folds if all(0 < right[training].sum() < len(training) for training, _ in folds) else []
