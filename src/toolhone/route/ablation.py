"""What each kind of signal adds: the gates alone, each group of features, all of them, and the model's own escalation.

In: the signals of judged answers. Out: for each variant how well it ranks answers, and how well its probabilities hold,
by cross-validation over whole clusters: each row is judged by a calibrator that has seen no row of its cluster, so the
variants compare although they differ in how many features they have.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from toolhone.evaluate.compare import SEED
from toolhone.route.calibrate import Reliability, fit, reliability
from toolhone.route.confidence import FEATURES, Signals
from toolhone.route.resample import Floats

FOLDS = 5

GROUPS: dict[str, tuple[str, ...]] = {
    "decision": ("decision",),
    "names": ("name_product", "name_minimum"),
    "values": ("value_minimum", "value_mean", "value_quantile", "value_margin"),
    "frame": ("frame_minimum",),
    "counts": ("arguments", "called"),
    "prompt": ("values_in_prompt", "codes_left"),
}
"""The features by what they look at; with `escalated` they are all of FEATURES."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A set of signals and its figures. `features` are those used beside the gates, which every variant has;
    `deferral`: whether the model's own escalation is one of its signals."""

    name: str
    features: tuple[str, ...]
    deferral: bool
    reliability: Reliability


def ablation(
    signals: Sequence[Signals], right: Floats, clusters: Sequence[Hashable], named: str
) -> tuple[Variant, ...]:
    """The variants: gates alone; gates and deferral; gates and each group; gates and all features; and with deferral.

    Empty where there are too few clusters with right or with wrong answers to hold out some of both in turn. Variants
    with deferral are left out where no answer escalates.

    Args:
        signals: of each row; where one has no features, that is an error, as its row cannot be ranked with the others.
        right: [rows], 1 or 0.
        clusters: of each row, what it belongs to, such as its conversation.
        named: what the rows are called in a message.

    Raises:
        ValueError: where a row has no features.
    """
    if any(one.features is None for one in signals):
        raise ValueError(f"{named}: a row has no features")
    folds = _folds(right, clusters)
    if not folds:
        return ()
    columns = dict(zip(FEATURES, np.array([one.features for one in signals], dtype=np.float64).T, strict=True))
    columns["gate"] = np.array([one.gate is not None for one in signals], dtype=np.float64)
    every = tuple(name for group in GROUPS.values() for name in group)
    sets: list[tuple[str, tuple[str, ...], bool]] = [("gates", (), False)]
    sets += [(name, group, False) for name, group in GROUPS.items()]
    sets.append(("all features", every, False))
    if columns["escalated"].any():
        sets[1:1] = [("deferral", (), True)]
        sets.append(("all with deferral", every, True))
    found = []
    for name, features, deferral in sets:
        used = np.column_stack([columns[key] for key in ("gate", *features, *(("escalated",) if deferral else ()))])
        scores, probabilities = np.empty(len(right)), np.empty(len(right))
        for training, held_out in folds:
            calibrator = fit(used[training], right[training], named)
            rows = used[held_out].tolist()
            probabilities[held_out] = [calibrator.probability(calibrator.score(row)) for row in rows]
            # Ranked by the weights alone, about the median of all rows. A fold's intercept and means move with its
            # share of right answers, the more in training the fewer held out: by them, what says nothing would rank
            # worse than chance.
            ranking = replace(calibrator, means=tuple(np.median(used, axis=0).tolist()), intercept=0.0)
            scores[held_out] = [ranking.score(row) for row in rows]
        found.append(Variant(name, features, deferral, reliability(scores, probabilities, right, clusters)))
    return tuple(found)


def _folds(right: Floats, clusters: Sequence[Hashable]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Training and held-out rows of each fold; none where a fold's training rows would be all right or all wrong."""
    from sklearn.model_selection import StratifiedGroupKFold

    number = {cluster: n for n, cluster in enumerate(dict.fromkeys(clusters))}
    counts = int(right.sum()), int((1 - right).sum())
    if len(number) < FOLDS or min(counts) < FOLDS:
        return []
    groups = np.array([number[cluster] for cluster in clusters])
    splitter = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=SEED)
    folds = [(training, held_out) for training, held_out in splitter.split(groups[:, None], right, groups)]
    return folds if all(0 < right[training].sum() < len(training) for training, _ in folds) else []
