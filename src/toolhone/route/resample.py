"""Confidence intervals of figures, from bootstrap resamples of the rows by whole clusters.

Rows of one conversation, or of one template, succeed and fail together, so these are resampled, as
`evaluate/compare.py` does for the difference of two models. A figure is a function of the rows' weights: all ones for
the rows as they are, and for a resample how often each row's cluster was drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from toolhone.evaluate.compare import SEED, expanded_tail

Floats = npt.NDArray[np.float64]
Figure = dict[str, Any]
"""`value` with its 95% interval, `low` and `high`, as in metrics.json; None if there is none."""

FOLDS = 1_000
_RESOLVED = 1e-12  # resamples that differ by less differ by rounding alone
_CELLS = 2_000_000  # weights held at once, some 16 MB


def with_intervals(statistic: Callable[[Floats], Floats], clusters: Sequence[Hashable]) -> list[Figure]:
    """Return the figures of all rows, each with the interval of its resamples (quantiles, widened for few clusters).

    Args:
        statistic: from weights [folds, rows] to figures [folds, figures]; nan if a resample has no such figure.
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
    """Yield how often each row is drawn, [some folds, rows], until there are FOLDS."""
    number = {cluster: n for n, cluster in enumerate(dict.fromkeys(clusters))}
    members = np.array([number[cluster] for cluster in clusters])
    random, count = np.random.default_rng(SEED), len(number)
    at_once = max(1, min(FOLDS, _CELLS // max(1, len(members))))
    for start in range(0, FOLDS, at_once):
        folds = min(at_once, FOLDS - start)
        picked = random.integers(count, size=(folds, count)) + count * np.arange(folds)[:, None]
        drawn = np.bincount(picked.ravel(), minlength=folds * count).reshape(folds, count)
        yield drawn[:, members].astype(np.float64)


def shares(weights: Floats, values: Floats) -> Floats:
    """Weighted means of columns. weights: [..., rows]; values: [rows, figures]; out: [..., figures]."""
    result: Floats = weights @ values / weights.sum(axis=-1, keepdims=True)
    return result
