"""What each kind of signal adds: the gates alone, each group of features, all of them, and the model's own escalation.

In: the signals of scored answers. Out: for each variant how well it ranks answers, and how good its probabilities are,
by cross-validation over whole clusters: each row is scored by a calibrator that has seen no row of its cluster.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np

from toolhone.evaluate.compare import SEED
from toolhone.route.calibrate import Reliability, fit, reliability
from toolhone.route.confidence import FEATURES, GROUPS, Signals
from toolhone.route.resample import Floats

FOLDS = 5


def ablation(signals: Sequence[Signals], right: Floats, clusters: Sequence[Hashable]) -> dict[str, Reliability]:
    """Return the figures by variant: gates alone; and with the model's own escalation ("deferral"), with each group of
    features, with all of them, and with both.

    Empty if a row has no features, or if too few clusters have right or wrong answers to hold out some of both in turn.
    Variants with deferral are left out if no answer escalates.

    Args:
        signals: of each row.
        right: [rows], 1 or 0.
        clusters: the cluster of each row, such as its conversation.
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
            # share of right answers, which is higher in training the lower it is among the held-out rows: with them, a
            # signal without information would rank worse than chance.
            ranking = replace(calibrator, means=tuple(np.median(used, axis=0).tolist()), intercept=0.0)
            scores[held_out] = [ranking.score(row) for row in rows]
        found[name] = reliability(scores, probabilities, right, clusters)
    return found


def _folds(right: Floats, clusters: Sequence[Hashable]) -> list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """Training and held-out rows of each fold; none if a fold's training rows would be all right or all wrong."""
    from sklearn.model_selection import StratifiedGroupKFold

    number = {cluster: n for n, cluster in enumerate(dict.fromkeys(clusters))}
    if len(number) < FOLDS or min(right.sum(), (1 - right).sum()) < FOLDS:
        return []
    groups = np.array([number[cluster] for cluster in clusters])
    splitter = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=SEED)
    folds = [(training, held_out) for training, held_out in splitter.split(groups[:, None], right, groups)]
    return folds if all(0 < right[training].sum() < len(training) for training, _ in folds) else []
