"""What handing over buys: accuracy and cost of the cascade against the share of calls that the large model answers.

In: of each row the small model's score, whether each model is right, and what each costs. Out: the deferral curve, with
random escalation, the oracle and both models alone beside it, and its figures, each with an interval.

The cascade asks the small model first, always, so a call that is handed over costs both. Rows are handed over the least
sure first, rows of one score in random order: between two scores the curve is the straight line that this gives.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from toolhone.route.resample import Figure, Floats, with_intervals

GAPS = (0.5, 0.8, 0.95)
"""The shares of the gap between the two models for which the escalation that it takes is told."""
SHARES = (0.05, 0.1, 0.2, 0.3, 0.5)
"""The shares handed over for which the curve is told in figures."""
GRID = 101


@dataclass(frozen=True, slots=True)
class Pair:
    """Two models on the same rows, each [rows]: the small one's score, whether it and the large one are right (1 or 0,
    or the chance of it where it is assumed), and what an answer of either costs in dollars, nan where no price is
    known."""

    scores: Floats
    small: Floats
    large: Floats
    small_usd: Floats
    large_usd: Floats
    clusters: Sequence[Hashable]


@dataclass(frozen=True, slots=True)
class Reach:
    """What it takes to close a share of the gap between the models: the share of calls handed over, and the cost of a
    call in dollars; without a value where the large model is no better."""

    gap: float
    escalation: Figure
    usd: Figure


@dataclass(frozen=True, slots=True)
class At:
    """The curve where the share `escalation` is handed over. `of_oracle` is the gain in accuracy over the small model
    alone, as a share of the oracle's there; `usd` is the cost of a call, `of_large` that as a share of the large
    model's own cost."""

    escalation: float
    accuracy: Figure
    of_oracle: Figure
    usd: Figure
    of_large: Figure


@dataclass(frozen=True, slots=True)
class Curve:
    """The deferral curve over `escalation`, GRID shares from 0 to 1. Costs are nan, or without a value, where no price
    is known.

    `apgr`, the average performance gap recovered, is the mean, over all shares handed over, of how much of the gap
    between the models is closed: 0.5 for random escalation (Ong and others 2024, "RouteLLM: learning to route LLMs with
    preference data", arXiv 2406.18665, section 3). None where the large model is no better.
    """

    escalation: Floats
    accuracy: tuple[Figure, ...]
    random: Floats
    oracle: Floats
    usd: Floats
    small: Figure
    large: Figure
    apgr: Figure
    reach: tuple[Reach, ...]
    at: tuple[At, ...]


def deferral_curve(pair: Pair) -> Curve:
    """Measure the cascade at every share of calls handed over."""
    grid = np.linspace(0, 1, GRID)

    def of_rows(weights: Floats) -> Floats:
        return np.array([_of_weights(pair, one, grid) for one in weights])

    figures = iter(with_intervals(of_rows, pair.clusters))
    small, large, apgr = (next(figures) for _ in range(3))
    reach = tuple(Reach(gap, next(figures), next(figures)) for gap in GAPS)
    at = tuple(At(share, *(next(figures) for _ in range(4))) for share in SHARES)
    ones = np.ones(len(pair.scores))
    return Curve(
        escalation=grid,
        accuracy=tuple(figures),
        random=small["value"] + grid * (large["value"] - small["value"]),
        oracle=oracle(pair, ones, grid),
        usd=usd_at(pair, ones, grid),
        small=small,
        large=large,
        apgr=apgr,
        reach=reach,
        at=at,
    )


def oracle(pair: Pair, weights: Floats, escalation: Floats) -> Floats:
    """The accuracy of one who knows which answers are right: those that only the large model has right are handed over
    first, those that only the small one has right last. escalation: shares from 0 to 1."""
    whole = weights.sum()
    fixed = float(weights @ ((1 - pair.small) * pair.large)) / whole
    broken = float(weights @ (pair.small * (1 - pair.large))) / whole
    small = float(weights @ pair.small) / whole
    result: Floats = small + np.minimum(escalation, fixed) - np.maximum(0, escalation - (1 - broken))
    return result


def gains(pair: Pair, weights: Floats) -> tuple[Floats, Floats]:
    """The corners of the curve: the share of calls handed over, from 0 to 1, and what that adds to accuracy."""
    rows, added = _summed(pair.scores, weights, weights * (pair.large - pair.small))
    return rows / rows[-1], added / rows[-1]


def _summed(scores: Floats, *columns: Floats) -> tuple[Floats, ...]:
    """Sums of the columns over the rows from the least score up, one for each different score, from 0."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))
    return tuple(np.concatenate([[0.0], np.cumsum(np.add.reduceat(column[order], starts))]) for column in columns)


def _of_weights(pair: Pair, weights: Floats, grid: Floats) -> Floats:
    """One resample's figures, in the order in which `deferral_curve` takes them apart."""
    whole = weights.sum()
    small, large = float(weights @ pair.small) / whole, float(weights @ pair.large) / whole
    share, added = gains(pair, weights)
    gap = large - small
    if gap > 0:
        apgr = float(np.trapezoid(added, share)) / gap
        reached = np.array([_first_reaching(share, added, part * gap) for part in GAPS])
    else:
        apgr, reached = np.nan, np.full(len(GAPS), np.nan)
    reach = np.column_stack([reached, usd_at(pair, weights, reached)])
    shares = np.array(SHARES)
    more, best = np.interp(shares, share, added), oracle(pair, weights, shares) - small
    of_oracle = np.divide(more, best, out=np.full(len(SHARES), np.nan), where=best > 0)
    usd = usd_at(pair, weights, shares)
    large_usd = float(weights @ pair.large_usd) / whole
    of_large = usd / large_usd if large_usd else np.full(len(SHARES), np.nan)
    at = np.column_stack([small + more, of_oracle, usd, of_large])
    return np.array([small, large, apgr, *reach.ravel(), *at.ravel(), *(small + np.interp(grid, share, added))])


def _first_reaching(share: Floats, added: Floats, wanted: float) -> float:
    """The least share handed over at which the curve reaches a gain."""
    at = int(np.argmax(added >= wanted - 1e-12))
    if at == 0:
        return 0.0
    rise = added[at] - added[at - 1]
    along = min(1.0, (wanted - added[at - 1]) / rise) if rise > 0 else 1.0
    return float(share[at - 1] + along * (share[at] - share[at - 1]))


def usd_at(pair: Pair, weights: Floats, escalation: Floats) -> Floats:
    """The mean cost of a call in dollars where these shares are handed over."""
    rows, spent = _summed(pair.scores, weights, weights * pair.large_usd)
    always = float(weights @ pair.small_usd) / rows[-1]
    result: Floats = always + np.interp(escalation, rows / rows[-1], spent / rows[-1])
    return result


def assumed_large(small: Floats, accuracy: float) -> dict[str, Floats]:
    """The chance, [rows], that a large model of a known accuracy has each row right, at both ends of how its errors can
    lie. independent: the same for every row. overlapping: it errs only where the small one errs; where it errs more
    often than that, the small one's errors are all its too."""
    right = float(small.mean())
    if accuracy >= right:
        on_right, on_wrong = 1.0, (accuracy - right) / (1 - right) if right < 1 else 1.0
    else:
        on_right, on_wrong = accuracy / right, 0.0
    return {"independent": np.full(len(small), accuracy), "overlapping": small * on_right + (1 - small) * on_wrong}
