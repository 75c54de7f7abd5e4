"""The threshold that a goal without a guarantee asks for, chosen on the rows that calibrate.

In: both models on those rows. Out: a number to hold scores against; None to hand over every call. A threshold lies
half-way between two scores, so that a score next to one is not turned over by rounding.
"""

from __future__ import annotations

import numpy as np

from toolhone.errors import UserError
from toolhone.route.curve import Pair, gains, usd_at
from toolhone.route.policy import Goal
from toolhone.route.resample import Floats


def choose_threshold(goal: Goal, pair: Pair, keepable: Floats) -> float | None:
    """Choose the threshold for a budget, an escalation rate or an accuracy.

    Args:
        keepable: [rows], 1 where the small model's answer can be kept at all; of the others the score is 0.

    Raises:
        UserError: where no threshold reaches the goal on these rows, with what can be reached.
    """
    weights = np.ones(len(pair.scores))
    share, added = gains(pair, weights)
    scores = np.unique(pair.scores)
    # Corner i hands over the i lowest scores. Answers that cannot be kept all have the lowest, 0.
    least = 0 if keepable.all() else 1
    if goal.kind == "escalation":
        assert goal.escalation is not None
        corner = least + int(np.argmin(np.abs(share[least:] - goal.escalation)))
    elif goal.kind == "budget":
        corner = _within_budget(goal, usd_at(pair, weights, share), least)
    else:
        corner = _reaching(goal, float(pair.small.mean()) + added, share, least)
    if corner == len(scores):
        return None
    return 0.0 if corner == least else float(scores[corner - 1] + scores[corner]) / 2


def _within_budget(goal: Goal, usd: Floats, least: int) -> int:
    """The corner that hands over the most within the budget."""
    assert goal.budget_usd is not None
    if np.isnan(usd).any():
        raise UserError("--budget: needs prices; give --small-price and --large-price, dollars for a call of either")
    affordable = np.flatnonzero(1_000 * usd[least:] <= goal.budget_usd + 1e-12)
    if not len(affordable):
        raise UserError(
            f"--budget {goal.budget_usd:g}: 1,000 calls cost ${1_000 * usd[least]:.4g} even where every answer is kept "
            "that can be; give more"
        )
    return least + int(affordable[-1])


def _reaching(goal: Goal, accuracy: Floats, share: Floats, least: int) -> int:
    """The corner that hands over the least and reaches the accuracy."""
    assert goal.accuracy is not None
    reached = np.flatnonzero(accuracy[least:] >= goal.accuracy - 1e-12)
    if not len(reached):
        best = least + int(np.argmax(accuracy[least:]))
        raise UserError(
            f"--target-accuracy {goal.accuracy:g}: is not reached on the calibration rows; the most is "
            f"{accuracy[best]:.4f}, with {100 * share[best]:.1f}% handed over"
        )
    return least + int(reached[0])
