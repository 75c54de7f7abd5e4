"""Statistics: rates with Wilson intervals, F1, spread, bootstrap intervals over whole clusters, and McNemar's test.

A figure over no rows has the value None, never 0. Rows of one conversation, or of one template, succeed and fail
together. Therefore intervals resample whole clusters: resampling single rows would make them too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

Rate = dict[str, Any]
Figure = dict[str, Any]
"""`value` with the ends `low` and `high` of its 95% interval, as in metrics.json. Each is None if undefined."""
Floats = npt.NDArray[np.float64]

SEED = 7
DIFFERENCE_FOLDS = 10_000
FIGURE_FOLDS = 1_000
_RESOLVED = 1e-12  # smaller differences between resamples are rounding errors
_CELLS = 2_000_000  # weights in memory at a time, about 16 MB
_TAIL = 0.025  # of a 95% interval, on each side
_Z = NormalDist().inv_cdf(0.975)


def rate(numerator: int, denominator: int) -> Rate:
    """Return a fraction with Wilson's 95% score interval without continuity correction (Wilson 1927, "Probable
    inference, the law of succession, and statistical inference", JASA 22, 209-212). The interval is valid for small
    counts and for fractions of 0 and 1."""
    if denominator == 0:
        return {"value": None, "numerator": numerator, "denominator": 0, "low": None, "high": None}
    share, z2 = numerator / denominator, _Z * _Z
    centre = (share + z2 / (2 * denominator)) / (1 + z2 / denominator)
    spread = share * (1 - share) / denominator + z2 / (4 * denominator * denominator)
    half = _Z * math.sqrt(spread) / (1 + z2 / denominator)
    low = 0.0 if numerator == 0 else centre - half  # exact at 0 and 1 despite rounding
    high = 1.0 if numerator == denominator else centre + half
    return {"value": share, "numerator": numerator, "denominator": denominator, "low": low, "high": high}


def rate_of(outcomes: Iterable[bool]) -> Rate:
    """Return the fraction of true outcomes as a rate."""
    counted = list(outcomes)
    return rate(sum(counted), len(counted))


def f1(right: int, predicted: int, gold: int) -> dict[str, Any]:
    """Return the harmonic mean of precision right/predicted and recall right/gold. Not a fraction, so no interval."""
    value = 2 * right / (predicted + gold) if predicted + gold else None
    return {"value": value, "right": right, "predicted": predicted, "gold": gold}


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Return the median, the 95th percentile (both with linear interpolation) and the sum."""
    if not values:
        return {"p50": None, "p95": None, "total": 0}
    p50, p95 = np.percentile(np.array(values, dtype=np.float64), [50, 95]).tolist()
    return {"p50": p50, "p95": p95, "total": sum(values)}


def cluster_numbers(clusters: Sequence[Hashable]) -> list[int]:
    """Return the cluster number of each row. Clusters are numbered from 0 in the order of their first rows."""
    number = {cluster: n for n, cluster in enumerate(dict.fromkeys(clusters))}
    return [number[cluster] for cluster in clusters]


def bootstrap(
    rows: Sequence[tuple[int, int, int, int]],
    clusters: Sequence[Hashable],
    folds: int = DIFFERENCE_FOLDS,
    seed: int = SEED,
) -> dict[str, Any]:
    """Return a 95% interval for the difference of two rates. Each resample draws whole clusters, with the rows of both
    models together.

    `low` and `high` are quantiles of the resampled differences. With few clusters, the 2.5% and 97.5% quantiles are too
    close together, so they are moved outwards as far as Student's t is wider than the normal. This is the
    expanded percentile interval (Hesterberg 2015, "What teachers should know about the bootstrap", The American
    Statistician 69, 371-386). Both ends are None with fewer than two clusters, or if all clusters are alike.

    `rows` has the numerator and denominator of the first model, then of the second; `clusters` the cluster of each row.
    """
    members = cluster_numbers(clusters)
    count = len(set(members))
    sums = np.zeros((count, 4), dtype=np.int64)  # [clusters, numerators and denominators]
    if rows:
        np.add.at(sums, members, np.array(rows, dtype=np.int64))
    # Clusters with the same sums are one kind. How often each kind is drawn is multinomial, so a fold needs one draw
    # per kind instead of one per cluster, and there are few kinds.
    kinds, sizes = np.unique(sums, axis=0, return_counts=True)
    low, high = None, None
    if len(kinds) > 1:
        drawn = np.random.default_rng(seed).multinomial(count, sizes / count, size=folds)  # [folds, kinds]
        totals = drawn @ kinds  # [folds, 4]
        totals = totals[(totals[:, 1] > 0) & (totals[:, 3] > 0)]
        if len(totals):
            tail = expanded_tail(count)
            low, high = np.quantile(rate_difference(totals), [tail, 1 - tail]).tolist()
    return {"clusters": count, "low": low, "high": high}


def expanded_tail(clusters: int) -> float:
    """Return the quantile that replaces 2.5% for this number of clusters (see `bootstrap`)."""
    from scipy.special import stdtrit  # slow to import

    wider = math.sqrt(clusters / (clusters - 1)) * float(stdtrit(clusters - 1, _TAIL))
    return NormalDist().cdf(wider)


def rate_difference(totals: npt.NDArray[np.int64]) -> Any:
    """Return the second rate minus the first. totals: [..., 4], numerator and denominator of the first, then second."""
    return totals[..., 2] / totals[..., 3] - totals[..., 0] / totals[..., 1]


def with_intervals(statistic: Callable[[Floats], Floats], clusters: Sequence[Hashable]) -> list[Figure]:
    """Return each figure over all rows, with its interval from resamples (quantiles, widened for few clusters).

    A figure is a function of the weights of the rows. The weights are all one for the original rows. In a resample, the
    weight of a row is how often its cluster was drawn.

    Args:
        statistic: maps weights [folds, rows] to figures [folds, figures]; nan if a figure is undefined for a resample.
        clusters: the cluster of each row.
    """
    values = statistic(np.ones((1, len(clusters))))[0]
    drawn = np.concatenate([statistic(weights) for weights in _weights(clusters)])  # [folds, figures]
    tail = expanded_tail(len(set(clusters))) if len(set(clusters)) > 1 else None
    return [_figure(value, drawn[:, n], tail) for n, value in enumerate(values.tolist())]


def _figure(value: float, drawn: Floats, tail: float | None) -> Figure:
    found = drawn[~np.isnan(drawn)]
    if np.isnan(value) or tail is None or not len(found) or np.ptp(found) < _RESOLVED:
        return {"value": None if np.isnan(value) else value, "low": None, "high": None}
    low, high = np.quantile(found, [tail, 1 - tail]).tolist()
    return {"value": value, "low": low, "high": high}


def _weights(clusters: Sequence[Hashable]) -> Iterator[Floats]:
    """Yield weights [folds, rows], how often each row is drawn, in blocks of FIGURE_FOLDS folds in total."""
    members = cluster_numbers(clusters)
    random, count = np.random.default_rng(SEED), len(set(members))
    at_once = max(1, min(FIGURE_FOLDS, _CELLS // max(1, len(members))))
    for start in range(0, FIGURE_FOLDS, at_once):
        folds = min(at_once, FIGURE_FOLDS - start)
        picked = random.integers(count, size=(folds, count)) + count * np.arange(folds)[:, None]
        drawn = np.bincount(picked.ravel(), minlength=folds * count).reshape(folds, count)
        yield drawn[:, members].astype(np.float64)


def tied(scores: Floats) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return the order of ascending scores, and the index in it at which each group of equal scores begins."""
    order = np.argsort(scores, kind="stable")
    return order, np.flatnonzero(np.diff(scores[order], prepend=-np.inf))


def shares(weights: Floats, values: Floats) -> Floats:
    """Return the weighted means of columns. weights: [..., rows]; values: [rows, figures]; result: [..., figures]."""
    result: Floats = weights @ values / weights.sum(axis=-1, keepdims=True)
    return result


def mcnemar(first_only: int, second_only: int) -> float:
    """Return the p-value of McNemar's exact two-sided test, from the number of rows that only one of two models has
    right: the probability of counts at least this uneven if both models are equally good.

    This is a sign test, because such a row is then equally likely for either model (McNemar 1947, "Note on the sampling
    error of the difference between correlated proportions", Psychometrika 12, 153-157).
    """
    from scipy.special import bdtr  # slow to import

    # Twice the lower tail, because both tails are equal at one half. For equal counts that exceeds 1.
    return min(1.0, 2 * float(bdtr(min(first_only, second_only), first_only + second_only, 0.5)))
