"""Counts as figures: rates with Wilson intervals, F1, and the spread of a measurement, as metrics.json has them.

A figure over nothing has the value null, never 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

Rate = dict[str, Any]

_Z = NormalDist().inv_cdf(0.975)


def rate(numerator: int, denominator: int) -> Rate:
    """A share with its 95% interval: Wilson's score interval without continuity correction (Wilson 1927, "Probable
    inference, the law of succession, and statistical inference", JASA 22, 209-212), which holds for small counts and
    for shares of 0 and 1."""
    if denominator == 0:
        return {"value": None, "numerator": numerator, "denominator": 0, "low": None, "high": None}
    share, z2 = numerator / denominator, _Z * _Z
    centre = (share + z2 / (2 * denominator)) / (1 + z2 / denominator)
    spread = share * (1 - share) / denominator + z2 / (4 * denominator * denominator)
    half = _Z * math.sqrt(spread) / (1 + z2 / denominator)
    low = 0.0 if numerator == 0 else centre - half  # exact at the ends, whatever the rounding
    high = 1.0 if numerator == denominator else centre + half
    return {"value": share, "numerator": numerator, "denominator": denominator, "low": low, "high": high}


def rate_of(outcomes: Iterable[bool]) -> Rate:
    """The share that is true, as a rate."""
    counted = list(outcomes)
    return rate(sum(counted), len(counted))


def f1(right: int, predicted: int, gold: int) -> dict[str, Any]:
    """The harmonic mean of precision right/predicted and recall right/gold. Not a share of anything: no interval."""
    value = 2 * right / (predicted + gold) if predicted + gold else None
    return {"value": value, "right": right, "predicted": predicted, "gold": gold}


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median, 95th percentile (both interpolated linearly) and sum."""
    if not values:
        return {"p50": None, "p95": None, "total": 0}
    p50, p95 = np.percentile(np.array(values, dtype=np.float64), [50, 95]).tolist()
    return {"p50": p50, "p95": p95, "total": sum(values)}
