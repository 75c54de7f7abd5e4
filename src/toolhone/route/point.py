"""The cascade at one threshold: how much it hands over, how often it is right, what it costs, and beside what else.

In: two models on the same rows, and which answers are kept. Out: figures with intervals, all of the same resamples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from toolhone.route.curve import Pair
from toolhone.route.resample import Figure, Floats, shares, with_intervals


@dataclass(frozen=True, slots=True)
class Point:
    """The cascade, and what stands beside it. Shares of rows, dollars and seconds of a mean call.

    `wrong_kept`: wrong among the answers kept; `harmful`: kept and wrong where the large model is right, among all;
    `behind_large`: the large model's accuracy less the cascade's; `of_oracle`: the gain over the small model as a share
    of the oracle's with as many handed over; `of_large`: the cost as a share of the large model's own. `random` and
    `oracle` are accuracies with as many handed over.
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


def operating_point(pair: Pair, kept: Floats, small_s: Floats, large_s: Floats) -> Point:
    """Measure the cascade where the answers `kept`, [rows] of 1 and 0, are the small model's.

    Args:
        small_s, large_s: seconds that each row's answer takes either model, nan where they are not known.
    """
    handed, wrong = 1 - kept, 1 - pair.small
    columns = np.column_stack(
        [
            handed,
            pair.small,
            pair.large,
            kept * pair.small + handed * pair.large,
            kept * wrong,
            kept * wrong * pair.large,
            wrong * pair.large,
            pair.small * (1 - pair.large),
            pair.small_usd,
            pair.large_usd,
            pair.small_usd + handed * pair.large_usd,
            small_s,
            large_s,
            small_s + handed * large_s,
        ]
    )

    def of_rows(weights: Floats) -> Floats:
        escalation, small, large, accuracy, wrong_kept, harmful, fixed, broken, *costs = shares(weights, columns).T
        small_usd, large_usd, usd, small_time, large_time, time = costs
        random = small + escalation * (large - small)
        oracle = small + np.minimum(escalation, fixed) - np.maximum(0, escalation - (1 - broken))
        figures = (
            *(escalation, accuracy, small, large, random, oracle),
            *(_ratio(wrong_kept, 1 - escalation), harmful, large - accuracy, _ratio(accuracy - small, oracle - small)),
            *(usd, small_usd, large_usd, _ratio(usd, large_usd), time, small_time, large_time),
        )
        return np.column_stack(figures)

    return Point(*with_intervals(of_rows, pair.clusters))


def _ratio(above: Floats, below: Floats) -> Floats:
    """nan where there is nothing to divide by."""
    result: Floats = np.divide(above, below, out=np.full_like(above, np.nan), where=np.abs(below) > 1e-12)
    return result
