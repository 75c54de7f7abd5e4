"""Accuracy and cost of the cascade by the share of calls that are escalated to the large model.

In: two models on the same rows. Out: the deferral curve, with random escalation, the oracle and both models alone for
comparison; and the cascade at one threshold. Every figure has an interval.

The cascade always asks the small model first, so an escalated call costs both. It escalates the rows with the lowest
scores first, rows of equal score in random order, so the curve is a straight line between two scores.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from toolhone.rates import Figure, Floats, shares, tied, with_intervals

GAPS = (0.5, 0.8, 0.95)  # shares of the gap between the models, for `Curve.reach`
SHARES = (0.05, 0.1, 0.2, 0.3, 0.5)  # escalated shares, for `Curve.at`
GRID = 101


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Two models on the same rows, each [rows].

    `scores` rank the small model's answers, above 0, and 0 if an answer cannot be kept at all. `small` and `large` are
    1 if that model is right, 0 if not, or the chance of it if it is assumed; `large` is nan if the model did not
    answer. `_usd` and `_s` are an answer's cost in dollars and time in seconds, nan if unknown. `clusters` are the
    groups of rows that succeed and fail together."""

    scores: Floats
    small: Floats
    large: Floats
    small_usd: Floats
    large_usd: Floats
    small_s: Floats
    large_s: Floats
    clusters: Sequence[Hashable]

    def kept(self, threshold: float | None) -> Floats:
        """1 for each answer that the threshold keeps, else 0; None keeps none."""
        return ((self.scores > 0) & (self.scores >= (np.inf if threshold is None else threshold))).astype(np.float64)


@dataclass(frozen=True, slots=True)
class Curve:
    """The deferral curve over `escalation`, GRID shares from 0 to 1. Costs are nan, or without a value, without prices.

    `apgr`, the average performance gap recovered, is the mean, over all escalated shares, of the share of the gap
    between the models that is closed: 0.5 for random escalation (Ong and others 2024, "RouteLLM: learning to route LLMs
    with preference data", arXiv 2406.18665, section 3). It has no value if the large model is no better.

    `reach`: for each `gap` of GAPS, the `escalation` that closes this share of the gap, and its cost of a call, `usd`.
    `at`: for each `escalation` of SHARES, `accuracy`; `of_oracle`, the gain over the small model as a share of the
    oracle's; `usd`; and `of_large`, that as a share of the large model's cost.
    """

    escalation: Floats
    accuracy: tuple[Figure, ...]
    random: Floats
    oracle: Floats
    usd: Floats
    small: Figure
    large: Figure
    apgr: Figure
    reach: tuple[dict[str, Any], ...]
    at: tuple[dict[str, Any], ...]


def deferral_curve(rows: Outcomes) -> Curve:
    """Measure the cascade at every escalated share."""
    grid = np.linspace(0, 1, GRID)

    def of_rows(weights: Floats) -> Floats:
        return np.array([_of_weights(rows, one, grid) for one in weights])

    figures = iter(with_intervals(of_rows, rows.clusters))
    small, large, apgr = (next(figures) for _ in range(3))
    reach = tuple({"gap": gap, "escalation": next(figures), "usd": next(figures)} for gap in GAPS)
    names = ("accuracy", "of_oracle", "usd", "of_large")
    at = tuple({"escalation": share, **{name: next(figures) for name in names}} for share in SHARES)
    ones = np.ones(len(rows.scores))
    random = small["value"] + grid * (large["value"] - small["value"])
    best, usd = oracle(rows, ones, grid), usd_at(rows, ones, grid)
    return Curve(grid, tuple(figures), random, best, usd, small, large, apgr, reach, at)


def oracle(rows: Outcomes, weights: Floats, escalation: Floats) -> Floats:
    """Return the accuracy of an oracle that knows which answers are right, at escalated shares from 0 to 1. It first
    escalates what only the large model has right, and last what only the small model has right."""
    columns = np.column_stack([rows.small, (1 - rows.small) * rows.large, rows.small * (1 - rows.large)])
    small, fixed, broken = shares(weights, columns)
    return _oracle(small, fixed, broken, escalation)


def _oracle(small: Floats, fixed: Floats, broken: Floats, escalation: Floats) -> Floats:
    """fixed, broken: the shares of rows that only the large model has right, and only the small one."""
    result: Floats = small + np.minimum(escalation, fixed) - np.maximum(0, escalation - (1 - broken))
    return result


def gains(rows: Outcomes, weights: Floats) -> tuple[Floats, Floats]:
    """Return the corners of the curve: escalated shares from 0 to 1, and the accuracy that each adds."""
    count, added = _summed(rows.scores, weights, weights * (rows.large - rows.small))
    return count / count[-1], added / count[-1]


def usd_at(rows: Outcomes, weights: Floats, escalation: Floats) -> Floats:
    """The mean cost of a call in dollars at these escalated shares."""
    count, spent = _summed(rows.scores, weights, weights * rows.large_usd)
    result: Floats = shares(weights, rows.small_usd) + np.interp(escalation, count / count[-1], spent / count[-1])
    return result


def _summed(scores: Floats, *columns: Floats) -> tuple[Floats, ...]:
    """Sums of the columns over the rows from the least score up, one for each different score, from 0."""
    order, starts = tied(scores)
    return tuple(np.concatenate([[0.0], np.cumsum(np.add.reduceat(column[order], starts))]) for column in columns)


def _of_weights(rows: Outcomes, weights: Floats, grid: Floats) -> Floats:
    """Return one resample's figures, in the order in which `deferral_curve` reads them."""
    small, large, large_usd = shares(weights, np.column_stack([rows.small, rows.large, rows.large_usd])).tolist()
    share, added = gains(rows, weights)
    gap = large - small
    if gap > 0:
        apgr = float(np.trapezoid(added, share)) / gap
        reached = np.array([_first_reaching(share, added, part * gap) for part in GAPS])
    else:
        apgr, reached = np.nan, np.full(len(GAPS), np.nan)
    reach = np.column_stack([reached, usd_at(rows, weights, reached)])
    at_shares = np.array(SHARES)
    more, best = np.interp(at_shares, share, added), oracle(rows, weights, at_shares) - small
    of_oracle = np.divide(more, best, out=np.full(len(SHARES), np.nan), where=best > 0)
    usd = usd_at(rows, weights, at_shares)
    of_large = usd / large_usd if large_usd else np.full(len(SHARES), np.nan)
    at = np.column_stack([small + more, of_oracle, usd, of_large])
    return np.array([small, large, apgr, *reach.ravel(), *at.ravel(), *(small + np.interp(grid, share, added))])


def _first_reaching(share: Floats, added: Floats, wanted: float) -> float:
    """Return the smallest escalated share at which the curve reaches a gain."""
    at = int(np.argmax(added >= wanted - 1e-12))
    if at == 0:
        return 0.0
    rise = added[at] - added[at - 1]
    along = min(1.0, (wanted - added[at - 1]) / rise) if rise > 0 else 1.0
    return float(share[at - 1] + along * (share[at] - share[at - 1]))


def assumed_large(small: Floats, accuracy: float) -> dict[str, Floats]:
    """The chance, [rows], that a large model of this accuracy has each row right, for both extremes of its errors.

    independent: the same chance for every row. overlapping: it errs only where the small one errs; if it errs more
    often than that, on all of the small one's errors too."""
    right = float(small.mean())
    if accuracy >= right:
        on_right, on_wrong = 1.0, (accuracy - right) / (1 - right) if right < 1 else 1.0
    else:
        on_right, on_wrong = accuracy / right, 0.0
    return {"independent": np.full(len(small), accuracy), "overlapping": small * on_right + (1 - small) * on_wrong}


@dataclass(frozen=True, slots=True)
class Point:
    """The cascade at one threshold. Shares of rows, dollars and seconds of a mean call.

    `random` and `oracle` are accuracies at the same escalation. `wrong_kept`: share wrong among the answers kept;
    `harmful`: kept and wrong where the large model is right, among all; `behind_large`: the large model's accuracy
    minus the cascade's; `of_oracle`: the gain over the small model as a share of the oracle's; `of_large`: the cost as
    a share of the large model's.
    """

    escalation: Figure
    accuracy: Figure
    small: Figure
    large: Figure
    random: Figure
    oracle: Figure
    wrong_kept: Figure
    harmful: Figure
    behind_large: Figure
    of_oracle: Figure
    usd: Figure
    small_usd: Figure
    large_usd: Figure
    of_large: Figure
    latency_s: Figure
    small_s: Figure
    large_s: Figure


def operating_point(rows: Outcomes, kept: Floats) -> Point:
    """Measure the cascade that keeps the answers for which `kept`, [rows], is 1, and escalates the others."""
    escalated, wrong = 1 - kept, 1 - rows.small
    columns = np.column_stack(
        [
            *(escalated, rows.small, rows.large, kept * rows.small + escalated * rows.large),
            *(kept * wrong, kept * wrong * rows.large, wrong * rows.large, rows.small * (1 - rows.large)),
            *(rows.small_usd, rows.large_usd, rows.small_usd + escalated * rows.large_usd),
            *(rows.small_s, rows.large_s, rows.small_s + escalated * rows.large_s),
        ]
    )

    def of_rows(weights: Floats) -> Floats:
        escalation, small, large, accuracy, wrong_kept, harmful, fixed, broken, *costs = shares(weights, columns).T
        small_usd, large_usd, usd, small_s, large_s, latency_s = costs
        random, best = small + escalation * (large - small), _oracle(small, fixed, broken, escalation)
        figures = (
            *(escalation, accuracy, small, large, random, best),
            *(_ratio(wrong_kept, 1 - escalation), harmful, large - accuracy, _ratio(accuracy - small, best - small)),
            *(usd, small_usd, large_usd, _ratio(usd, large_usd), latency_s, small_s, large_s),
        )
        return np.column_stack(figures)

    return Point(*with_intervals(of_rows, rows.clusters))


def _ratio(above: Floats, below: Floats) -> Floats:
    """Divide; nan for a divisor of 0."""
    result: Floats = np.divide(above, below, out=np.full_like(above, np.nan), where=np.abs(below) > 1e-12)
    return result
