"""Thresholds with a guarantee: a risk that stays below alpha, but for a chance of delta.

Learn-then-Test (Angelopoulos, Bates, Candes, Jordan and Lei 2021, "Learn then Test: calibrating predictive algorithms
to achieve risk control", arXiv 2110.01052) with fixed-sequence testing (their section 3.2 and Bauer 1991): thresholds
are tested one after another, in an order set before the outcomes are looked at, each the hypothesis that its risk is
above alpha at level delta; the last one rejected before the first that is not is certified. As every loss is 0 or 1,
the p-value is exact: the chance of no more losses than were seen, in a binomial distribution at risk alpha, which is
below delta just where Clopper and Pearson's upper bound at level delta is below alpha.

The order comes from the rows that fitted the calibrator; the tests use other rows. Two rows of one template tell less
than two of different ones: the guarantee takes the rows tested for independent draws from the calls to come.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import bdtr, betaincinv

from toolhone.route.policy import RiskKind
from toolhone.route.resample import Floats

STEPS = 100
_MOST_ROWS = 10_000_000


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Rows that were judged. scores: [rows], what answers are ranked by, -inf for one that is handed over at every
    threshold; right: [rows], whether the small model is right, 1 or 0, or the chance of it; large: [rows], the same of
    the large one, None where it did not answer these rows."""

    scores: Floats
    right: Floats
    large: Floats | None = None


@dataclass(frozen=True, slots=True)
class Tested:
    """A threshold that was tested, on so many rows with so many losses. `upper` is Clopper and Pearson's bound on the
    risk at level delta."""

    threshold: float
    rows: int
    losses: int
    p_value: float
    upper: float


@dataclass(frozen=True, slots=True)
class Certificate:
    """What the tests found: `tested` in their order, the last of them not rejected unless all were. `certified` is the
    loosest threshold that was, None where none was; then `rows_needed` is about how many rows it would take, by the
    fitting rows' estimate of the risk (None where by that estimate no number would do), and `least_risk` is the lowest
    risk that they see at any threshold."""

    kind: RiskKind
    alpha: float
    delta: float
    rows: int
    tested: tuple[Tested, ...]
    certified: Tested | None
    rows_needed: int | None
    least_risk: float

    def sentence(self) -> str:
        """The answer in words."""
        what = promise(self.kind, self.alpha, self.delta)
        if self.certified is not None:
            seen = f"{self.certified.losses:,} of {self.certified.rows:,} rows"
            return f"Certified: {what} (seen in {seen}, upper bound {_percent(self.certified.upper)})."
        none = f"No threshold can be certified at this level ({what}) with {self.rows:,} rows"
        if self.rows_needed is not None:
            return f"{none}; about {self.rows_needed:,} are needed."
        return (
            f"{none}, and more would not help: by the calibration rows the risk is "
            f"{_percent(self.least_risk)} or more at every threshold."
        )


RISKS: dict[RiskKind, str] = {
    "selective": "wrong among the answers kept",
    "system": "wrong among all answers, whoever gave them",
    "harmful_keep": "kept and wrong where the large model is right, among all calls",
}


def promise(kind: RiskKind, alpha: float, delta: float) -> str:
    """What a certificate says, in words."""
    return f"at most {_percent(alpha)} {RISKS[kind]}, but for a chance of {_percent(delta)}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g}%"


def certify(fitted: Outcomes, tested: Outcomes, kind: RiskKind, alpha: float, delta: float) -> Certificate:
    """Certify the loosest threshold that can be.

    Args:
        fitted: the rows that fitted the calibrator; they set the thresholds and where to begin. Their calibrated
            probabilities as `right` are less a matter of chance than their outcomes.
        tested: other rows, of which nothing but their number has a part in that.
        alpha: the most that the risk may be.
        delta: the most that the chance of more may be, over draws of the rows tested.

    Raises:
        ValueError: where a risk needs the large model's outcomes and rows have none.
    """
    sequence = _sequence(fitted)
    promised = [_promise(fitted, threshold, kind) for threshold in sequence]
    rows = len(tested.scores)
    # Tests begin where the fitting rows promise the smallest p-value: with few rows kept none can be small, however
    # sure these are. From there they go on to looser thresholds.
    begin = int(np.argmin([_promised_p(share * rows, risk, alpha) for share, risk in promised])) if sequence else 0
    found: list[Tested] = []
    certified = None
    for threshold in sequence[begin:]:
        count, losses = _counts(tested, threshold, kind)
        p_value = _tail(losses, count, alpha)
        found.append(Tested(threshold, count, losses, p_value, upper_bound(losses, count, delta)))
        if p_value > delta:
            break
        certified = found[-1]
    needed = None if certified is not None else _rows_needed(promised, alpha, delta)
    least = min((risk for _, risk in promised), default=1.0)
    return Certificate(kind, alpha, delta, rows, tuple(found), certified, needed, least)


def upper_bound(losses: int, rows: int, delta: float) -> float:
    """Clopper and Pearson's upper bound at level delta (1934, Biometrika 26): the risk at which so few losses would
    have a chance of delta."""
    return 1.0 if losses >= rows else float(betaincinv(losses + 1, rows - losses, 1 - delta))


def _tail(losses: int, rows: int, risk: float) -> float:
    """The chance of no more losses in so many rows at a risk; 1 for no rows."""
    return float(bdtr(losses, rows, risk)) if rows else 1.0


def _sequence(fitted: Outcomes) -> list[float]:
    """Thresholds from strict to loose, that keep about equal steps more of the fitting rows; the last keeps all that
    can be kept."""
    kept = np.sort(fitted.scores[np.isfinite(fitted.scores)])
    if not len(kept):
        return []
    places = np.round(np.linspace(len(kept) - 1, 0, min(STEPS, len(kept)))).astype(int)
    return [*list(dict.fromkeys(kept[places].tolist()))[:-1], 0.0]  # all scores are above 0


def _losses(outcomes: Outcomes, threshold: float, kind: RiskKind) -> tuple[Floats, Floats]:
    """Of each row, whether it counts and whether it is a loss."""
    kept = (outcomes.scores >= threshold).astype(np.float64)
    wrong = 1 - outcomes.right
    if kind == "selective":
        return kept, kept * wrong
    if outcomes.large is None:
        raise ValueError(f"the risk {kind} needs the large model's answers to the rows")
    if kind == "system":
        return np.ones_like(kept), kept * wrong + (1 - kept) * (1 - outcomes.large)
    return np.ones_like(kept), kept * wrong * outcomes.large


def _counts(outcomes: Outcomes, threshold: float, kind: RiskKind) -> tuple[int, int]:
    counted, lost = _losses(outcomes, threshold, kind)
    return int(counted.sum()), int(lost.sum())


def _promise(fitted: Outcomes, threshold: float, kind: RiskKind) -> tuple[float, float]:
    """The share of rows that count at a threshold, and the share of these to expect as losses: half a row of either
    kind is added, so that a few rows without a loss do not promise a risk of 0."""
    counted, lost = _losses(fitted, threshold, kind)
    return float(counted.mean()), float((lost.sum() + 0.5) / (counted.sum() + 1))


def _promised_p(rows: float, risk: float, alpha: float) -> float:
    """The p-value that so many rows would have, with losses at this risk."""
    return _tail(math.floor(rows * risk), math.floor(rows), alpha)


def _rows_needed(promised: list[tuple[float, float]], alpha: float, delta: float) -> int | None:
    """The fewest rows with which some threshold would pass; None where none has a risk below alpha."""
    needed = [found for share, risk in promised if (found := _rows_for(share, risk, alpha, delta)) is not None]
    return min(needed, default=None)


def _rows_for(share: float, risk: float, alpha: float, delta: float) -> int | None:
    if share == 0 or risk >= alpha:
        return None
    low, high = 0, 1
    while _promised_p(high * share, risk, alpha) > delta:
        low, high = high, 2 * high
        if high > _MOST_ROWS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _promised_p(middle * share, risk, alpha) <= delta else (middle, high)
    return high
