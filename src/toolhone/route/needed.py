"""How good a confidence an accuracy takes: from both models' accuracies, a target and an escalation rate to an AUROC.

The confidence is taken to be binormal with equal variances: the scores of right and of wrong answers are normal with
means d apart, so that AUROC = Phi(d / sqrt 2) (Green and Swets 1966, "Signal detection theory and psychophysics").
"""

from __future__ import annotations

import math
from statistics import NormalDist

_NORMAL = NormalDist()


def needed_auroc(small: float, large: float, target: float, escalation: float, overlap: float) -> float | None:
    """The AUROC with which a cascade reaches `target` by handing over the share `escalation`; None where none would do.

    Where the large model is right with the chance b on rows that the small one has wrong, and c on those that it has
    right, handing over a share e of which a part q is wrong adds e (q b - (1 - q)(1 - c)). That the target asks for
    gives q, so both the share of wrong answers that must be handed over and the share of right ones.

    Args:
        small, large: the models' accuracies, the large one's the higher.
        overlap: how the large model's errors lie: 0, independent of the small one's; 1, all among them; between, so
            much of the way.
    """
    wrong = 1 - small
    overlapping = max(0.0, (large - small) / wrong)
    on_wrong = (1 - overlap) * large + overlap * overlapping
    on_right = (large - wrong * on_wrong) / small
    gain = (target - small) / escalation
    part = (gain + 1 - on_right) / (on_wrong + 1 - on_right)
    caught, spoiled = escalation * part / wrong, escalation * (1 - part) / small
    if not (0 < caught < 1 and 0 < spoiled < 1):
        return None
    apart = _NORMAL.inv_cdf(caught) - _NORMAL.inv_cdf(spoiled)
    return _NORMAL.cdf(apart / math.sqrt(2))


def cascade_latency_s(small_s: float, large_s: float, escalation: float) -> float:
    """The mean latency of a cascade: every call waits for the small model, the share handed over for the large one
    too."""
    return small_s + escalation * large_s


def cascade_usd(small_usd: float, large_usd: float, escalation: float) -> float:
    """The mean cost of a call of a cascade, as `cascade_latency_s` counts."""
    return small_usd + escalation * large_usd
