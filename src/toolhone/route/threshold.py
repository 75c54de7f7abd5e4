"""The threshold of a policy: chosen for a goal on the calibration rows, or certified on held-out rows.

`certify` keeps a risk below alpha, except with probability delta. It is Learn-then-Test (Angelopoulos, Bates, Candes,
Jordan and Lei 2021, "Learn then Test: calibrating predictive algorithms to achieve risk control", arXiv 2110.01052)
with fixed-sequence testing (their section 3.2 and Bauer 1991): thresholds are tested in an order set before the
outcomes are seen, each with the hypothesis that its risk is above alpha at level delta; the last one rejected before
the first that is not is certified. As every loss is 0 or 1, the p-value is exact: the chance of at most the losses
seen, in a binomial distribution at risk alpha. The order comes from the rows that fitted the calibrator; the tests use
other rows and take them for independent draws from future calls.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.special import bdtr, betaincinv

from toolhone.errors import UserError
from toolhone.rates import Floats
from toolhone.route.curve import Outcomes, gains, usd_at
from toolhone.route.policy import Goal, RiskKind

STEPS = 100
_MOST_ROWS = 10_000_000


def choose_threshold(goal: Goal, rows: Outcomes) -> float | None:
    """Choose the threshold for a budget, an escalation rate or an accuracy; None escalates every call.

    It lies half-way between two scores, so that rounding cannot move a score across it.

    Raises:
        UserError: if no threshold reaches the goal on these rows, with what can be reached.
    """
    weights = np.ones(len(rows.scores))
    share, added = gains(rows, weights)
    scores = np.unique(rows.scores)
    # Corner i escalates the i lowest scores. Answers that cannot be kept all have the lowest, 0.
    least = int(scores[0] == 0)
    if goal.escalation is not None:
        corner = least + int(np.argmin(np.abs(share[least:] - goal.escalation)))
    elif goal.budget_usd is not None:
        corner = _within_budget(goal.budget_usd, usd_at(rows, weights, share), least)
    else:
        assert goal.accuracy is not None
        corner = _reaching(goal.accuracy, float(rows.small.mean()) + added, share, least)
    if corner == len(scores):
        return None
    return 0.0 if corner == least else float(scores[corner - 1] + scores[corner]) / 2


def _within_budget(budget_usd: float, usd: Floats, least: int) -> int:
    """The corner that escalates the most within the budget for 1,000 calls."""
    if np.isnan(usd).any():
        raise UserError("--budget: needs prices; give --small-price and --large-price, in dollars per call")
    affordable = np.flatnonzero(1_000 * usd[least:] <= budget_usd + 1e-12)
    if not len(affordable):
        raise UserError(
            f"--budget {budget_usd:g}: 1,000 calls cost at least ${1_000 * usd[least]:.4g}, which keeps every answer "
            "that can be kept; give a larger budget"
        )
    return least + int(affordable[-1])


def _reaching(wanted: float, accuracy: Floats, share: Floats, least: int) -> int:
    """The corner that escalates the least and reaches the accuracy."""
    reached = np.flatnonzero(accuracy[least:] >= wanted - 1e-12)
    if not len(reached):
        best = least + int(np.argmax(accuracy[least:]))
        raise UserError(
            f"--target-accuracy {wanted:g}: not reached on the calibration rows; the highest is {accuracy[best]:.4f}, "
            f"with {100 * share[best]:.1f}% escalated; give a lower target"
        )
    return least + int(reached[0])


@dataclass(frozen=True, slots=True)
class Tested:
    """A tested threshold: the rows that count and the losses among them. `upper` is Clopper and Pearson's bound on the
    risk at level delta."""

    threshold: float
    rows: int
    losses: int
    p_value: float
    upper: float


@dataclass(frozen=True, slots=True)
class Certificate:
    """The result of the tests. `tested` has them in order; all but the last were rejected, or all. `certified` is the
    loosest threshold whose hypothesis was rejected, None if none was. In that case `rows_needed` estimates from the
    fitting rows how many rows are needed (None if no number is enough), and `least_risk` is their lowest risk at any
    threshold."""

    kind: RiskKind
    alpha: float
    delta: float
    rows: int
    tested: tuple[Tested, ...]
    certified: Tested | None
    rows_needed: int | None
    least_risk: float

    def promise(self) -> str:
        return f"at most {_percent(self.alpha)} {RISKS[self.kind]}, except with probability {_percent(self.delta)}"

    def sentence(self) -> str:
        if self.certified is not None:
            seen = f"{self.certified.losses:,} of {self.certified.rows:,} rows"
            return f"Certified: {self.promise()} (seen in {seen}, upper bound {_percent(self.certified.upper)})."
        none = f"No threshold can be certified at this level ({self.promise()}) with {self.rows:,} rows"
        if self.rows_needed is not None:
            return f"{none}; about {self.rows_needed:,} are needed."
        risk = _percent(self.least_risk)
        return (
            f"{none}, and more would not help: on the calibration rows the risk is {risk} or more at every threshold."
        )

    def record(self) -> dict[str, Any]:
        """What the policy file keeps."""
        certified = None if self.certified is None else asdict(self.certified)
        return {"sentence": self.sentence(), "tests": len(self.tested), "certified": certified}


RISKS: dict[RiskKind, str] = {
    "selective": "wrong among the answers kept",
    "system": "wrong among all answers, whoever gave them",
    "harmful_keep": "kept and wrong where the large model is right, among all calls",
}


def _percent(share: float) -> str:
    return f"{100 * share:.3g}%"


def certify(fitted: Outcomes, tested: Outcomes, kind: RiskKind, alpha: float, delta: float) -> Certificate:
    """Certify the loosest threshold that passes the tests.

    Args:
        fitted: the rows that fitted the calibrator; they set the thresholds and where to begin. As `small`, calibrated
            probabilities are less noisy than outcomes.
        tested: other rows.
        alpha: maximum of the risk.
        delta: maximum failure probability of the guarantee, over draws of the tested rows.

    Raises:
        ValueError: if a risk needs the large model's outcomes and rows have none.
    """
    kept = np.sort(fitted.scores[fitted.scores > 0])
    # Thresholds from strict to loose. Each keeps about the same number of fitting rows more; the last keeps all.
    places = np.round(np.linspace(len(kept) - 1, 0, min(STEPS, len(kept)))).astype(int)
    sequence = [*dict.fromkeys(kept[places].tolist())][:-1] + [0.0] * bool(len(kept))
    expected = [_expected(fitted, threshold, kind) for threshold in sequence]
    rows = len(tested.scores)
    # Tests begin where the fitting rows promise the smallest p-value, since with few rows kept none can be small, and
    # go on to looser thresholds.
    begin = int(np.argmin([_expected_p(share * rows, risk, alpha) for share, risk in expected])) if sequence else 0
    found: list[Tested] = []
    certified = None
    for threshold in sequence[begin:]:
        counted, lost = (int(one.sum()) for one in _losses(tested, threshold, kind))
        p_value = float(bdtr(lost, counted, alpha))  # 1 for no rows
        found.append(Tested(threshold, counted, lost, p_value, upper_bound(lost, counted, delta)))
        if p_value > delta:
            break
        certified = found[-1]
    needed = [_rows_needed(share, risk, alpha, delta) for share, risk in expected] if certified is None else []
    fewest = min((one for one in needed if one is not None), default=None)
    least = min((risk for _, risk in expected), default=1.0)
    return Certificate(kind, alpha, delta, rows, tuple(found), certified, fewest, least)


def upper_bound(losses: int, rows: int, delta: float) -> float:
    """Clopper and Pearson's upper bound at level delta (1934, Biometrika 26): the risk at which at most these losses
    have a chance of delta."""
    return 1.0 if losses >= rows else float(betaincinv(losses + 1, rows - losses, 1 - delta))


def _losses(rows: Outcomes, threshold: float, kind: RiskKind) -> tuple[Floats, Floats]:
    """For each row, whether it counts and whether it is a loss."""
    kept = rows.kept(threshold)
    wrong = 1 - rows.small
    if kind == "selective":
        return kept, kept * wrong
    if np.isnan(rows.large).any():
        raise ValueError(f"the risk {kind} needs the large model's answers to the rows")
    if kind == "system":
        return np.ones_like(kept), kept * wrong + (1 - kept) * (1 - rows.large)
    return np.ones_like(kept), kept * wrong * rows.large


def _expected(fitted: Outcomes, threshold: float, kind: RiskKind) -> tuple[float, float]:
    """Return the share of rows that count at a threshold, and the expected share of losses among them. Half a row of
    either kind is added, so that a few rows without a loss do not promise a risk of 0."""
    counted, lost = _losses(fitted, threshold, kind)
    return float(counted.mean()), float((lost.sum() + 0.5) / (counted.sum() + 1))


def _expected_p(rows: float, risk: float, alpha: float) -> float:
    """The p-value of this many rows with losses at this risk."""
    return float(bdtr(math.floor(rows * risk), math.floor(rows), alpha))


def _rows_needed(share: float, risk: float, alpha: float, delta: float) -> int | None:
    """The fewest rows with which a threshold would pass; None if its risk is not below alpha."""
    if share == 0 or risk >= alpha:
        return None
    low, high = 0, 1
    while _expected_p(high * share, risk, alpha) > delta:
        low, high = high, 2 * high
        if high > _MOST_ROWS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _expected_p(middle * share, risk, alpha) <= delta else (middle, high)
    return high
