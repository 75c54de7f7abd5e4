"""From the features of an answer to the probability that it is right.

In: the features of rows whose answers were judged. Out: a `Calibrator`, plain numbers that a policy file holds and that
a few lines evaluate, so that serving needs neither scikit-learn nor a pickle.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from toolhone.errors import UserError

if TYPE_CHECKING:
    from toolhone.route.resample import Floats

ISOTONIC_ROWS = 1_000
"""Up to how many rows the logistic regression stands alone: an isotonic curve on fewer follows their chance."""


@dataclass(frozen=True, slots=True)
class Calibrator:
    """A logistic regression on standardised features and, where it was fitted on enough rows, an isotonic curve on top.

    `knots` are that curve's corners, pairs of score and probability in rising order of score; between two of them it is
    a straight line, outside them flat. Empty for the logistic regression alone, whose score is the probability.
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
        at = bisect_right(self.knots, score, key=lambda knot: knot[0])
        if at == 0 or at == len(self.knots):
            return self.knots[max(at - 1, 0)][1]
        (left, low), (right, high) = self.knots[at - 1 : at + 1]
        return low + (high - low) * (score - left) / (right - left)


def fit(features: Floats, right: Floats, where: str) -> Calibrator:
    """Fit a calibrator: scikit-learn's logistic regression on standardised features, and above ISOTONIC_ROWS rows its
    isotonic regression on that one's score.

    Args:
        features: [rows, features].
        right: [rows], 1 or 0.
        where: what the rows are called in a message.

    Raises:
        UserError: where all answers are right, or all wrong.
    """
    from sklearn.isotonic import IsotonicRegression
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    count = int(right.sum())
    if count in (0, len(right)):
        raise UserError(
            f"{where}: {count} of {len(right)} answers are right, and to calibrate a confidence takes right and wrong "
            "ones; give more rows, or harder ones"
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
