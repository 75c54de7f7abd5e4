"""How good a confidence is, on rows that did not calibrate it: does it rank, and does it say what it means?

In: of each row its score, its calibrated probability, and whether the answer was right. Out: AUROC and AURC (ranking),
Brier score and expected calibration error (probabilities), each with an interval, and the reliability diagram.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from toolhone.evaluate.compare import SEED
from toolhone.rates import rate
from toolhone.route.resample import Figure, Floats, shares, with_intervals

BINS = 10
_DRAWS = 200


@dataclass(frozen=True, slots=True)
class Reliability:
    """The figures of a confidence; lower is better but for `auroc`. `brier_constant` is the Brier score of the best
    constant, the share of these rows that is right; `brier_gain` that less `brier`, so that above 0 the confidence
    says more than the constant. `ece_by_chance` is the ECE that a confidence with just these probabilities would show
    on so few rows if each meant what it says. `bins` are those of the diagram that hold rows."""

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
    """Measure a confidence.

    AUROC: the chance that an answer that is right has the higher score than one that is wrong, ties counting half.
    AURC: the mean share of wrong answers among those kept, over all shares of answers kept, the surest first (Geifman
    and El-Yaniv 2017, "Selective classification for deep neural networks", with answers of one score kept in random
    order). Brier: the mean squared difference of probability and outcome. ECE: the mean, over the rows, of the
    difference between mean probability and share right of the row's bin, BINS equally wide ones (Guo and others 2017,
    "On calibration of modern neural networks", section 2).

    Args:
        scores: [rows], what answers are ranked by.
        probabilities: [rows], calibrated, from 0 to 1.
        right: [rows], 1 or 0.
        clusters: of each row, what it belongs to.
    """
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

    ranking, risk, brier, constant, gain, ece = with_intervals(of_rows, clusters)
    bins = tuple(_bins(place, probabilities, right.astype(int)))
    return Reliability(
        rows=len(right),
        wrong=int((1 - right).sum()),
        auroc=ranking,
        aurc=risk,
        brier=brier,
        brier_constant=constant,
        brier_gain=gain,
        ece=ece,
        ece_by_chance=_ece_by_chance(probabilities, in_bin),
        bins=bins,
    )


def _ece_by_chance(probabilities: Floats, in_bin: Floats) -> float:
    """The mean ECE of outcomes drawn from the probabilities themselves."""
    drawn = np.random.default_rng(SEED).random((_DRAWS, len(probabilities))) < probabilities  # [draws, rows]
    off = np.abs((drawn - probabilities) @ in_bin).sum(axis=1) / len(probabilities)
    return float(off.mean())


def _bins(place: np.ndarray[Any, Any], probabilities: Floats, right: np.ndarray[Any, Any]) -> list[dict[str, Any]]:
    """Each bin that holds rows: its mean probability, and the share right with its Wilson interval."""
    found = []
    for number in range(BINS):
        inside = place == number
        if inside.any():
            share = rate(int(right[inside].sum()), int(inside.sum()))
            found.append({"from": number / BINS, "probability": float(probabilities[inside].mean()), **share})
    return found


def _tied(scores: Floats) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The order of rising scores, and where in it each group of equal scores begins."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))
    return order, starts


def auroc(scores: Floats, right: Floats, weights: Floats) -> Floats:
    """See `reliability`. weights: [folds, rows]; out: [folds], nan where all answers are right, or all wrong."""
    order, starts = _tied(scores)
    good = np.add.reduceat((weights * right)[:, order], starts, axis=1)  # [folds, different scores]
    bad = np.add.reduceat((weights * (1 - right))[:, order], starts, axis=1)
    below = np.cumsum(bad, axis=1) - bad / 2
    with np.errstate(invalid="ignore"):
        result: Floats = (good * below).sum(axis=1) / (good.sum(axis=1) * bad.sum(axis=1))
    return result


def aurc(scores: Floats, right: Floats, weights: Floats) -> Floats:
    """See `reliability`. weights: [folds, rows]; out: [folds].

    Within a group of equal scores the wrong answers come at an even rate e, so from coverage c0 to c1, with w0 of the
    rows wrong so far, the share wrong is (w0 + e (c - c0)) / c, and its integral e (c1 - c0) + (w0 - e c0) ln(c1 / c0).
    """
    order, starts = _tied(-scores)
    rows = np.add.reduceat(weights[:, order], starts, axis=1)
    wrong = np.add.reduceat((weights * (1 - right))[:, order], starts, axis=1)
    whole = rows.sum(axis=1, keepdims=True)
    end, wrong_end = np.cumsum(rows, axis=1) / whole, np.cumsum(wrong, axis=1) / whole
    begin, wrong_begin = end - rows / whole, wrong_end - wrong / whole
    density = np.divide(wrong, rows, out=np.zeros_like(wrong), where=rows > 0)
    # The surest group begins at coverage 0, where nothing is wrong yet; a group that was not drawn has no width.
    growth = np.log(np.divide(end, begin, out=np.ones_like(end), where=(begin > 1e-12) & (rows > 0)))
    result: Floats = (density * (end - begin) + (wrong_begin - density * begin) * growth).sum(axis=1)
    return result
