"""From two models' answers to a policy: calibrate on one part of the rows, choose a threshold, measure on the other.

In: the rows of both parts and the settings. Out: one `Routing`, from which policy.json, route.json and the page are
written. Only this module knows which rows are used for what:
- the calibration rows fit the calibrator, and set the threshold of every goal but a guarantee;
- a guarantee is tested on the held-out rows, in an order that the calibration rows set;
- every figure is of the held-out rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from toolhone import __version__
from toolhone.economics.cost import Price, call_cost_usd
from toolhone.errors import UserError
from toolhone.records import FormatName, Score
from toolhone.route.ablation import Variant, ablation
from toolhone.route.calibrate import Calibrator, fit
from toolhone.route.confidence import FEATURES
from toolhone.route.curve import Curve, Pair, assumed_large, deferral_curve
from toolhone.route.gold import ASSUMED, GoldOrigin, gold_origin
from toolhone.route.guarantee import Certificate, Outcomes, certify
from toolhone.route.point import Point, operating_point
from toolhone.route.policy import Goal, Identity, Policy
from toolhone.route.reliability import Reliability, reliability
from toolhone.route.resample import Floats
from toolhone.route.rows import Parts, Row, clusters_of, features_of
from toolhone.route.settings import RouteSettings
from toolhone.route.threshold import choose_threshold

Errors = Literal["measured", "independent", "overlapping"]
"""How the large model's errors lie beside the small one's: as measured, or as assumed, at either end."""


@dataclass(frozen=True, slots=True)
class Case:
    """The cascade with one large model: the one that answered, or one that is assumed."""

    errors: Errors
    curve: Curve
    point: Point


@dataclass(frozen=True, slots=True)
class Routing:
    """All that was found. `cases` is one where the large model answered the rows, and both ends of how its errors can
    lie where it is `assumed`. `ablation` is over all rows, by cross-validation; empty where some have no features."""

    policy: Policy
    parts: Parts
    small: str
    large: str
    assumed: bool
    clustered_by: str
    clusters: int
    reliability: Reliability
    certificate: Certificate | None
    cases: tuple[Case, ...]
    gold: GoldOrigin
    gates: dict[str, int]
    ablation: tuple[Variant, ...]


@dataclass(frozen=True, slots=True)
class _Side:
    """One part of the rows in arrays, each [rows]. `scores` is 0 where an answer cannot be kept. `large` is by how its
    errors lie; empty where these rows have none."""

    scores: Floats
    probabilities: Floats
    right: Floats
    keepable: Floats
    large: dict[Errors, Floats]
    small_usd: Floats
    large_usd: Floats
    small_s: Floats
    large_s: Floats
    rows: Sequence[Row]

    def pair(self, large: Floats) -> Pair:
        _, clusters = clusters_of(self.rows)
        return Pair(self.scores, self.right, large, self.small_usd, self.large_usd, clusters)

    def outcomes(self, right: Floats) -> Outcomes:
        """For a certificate; only a large model that answered can be tested."""
        scores = np.where(self.keepable > 0, self.scores, -np.inf)
        return Outcomes(scores, right, self.large.get("measured"))


def route(parts: Parts, settings: RouteSettings, identity: Identity, format: FormatName) -> Routing:
    """Make the policy and measure it.

    Raises:
        UserError: where the large model neither answered nor is assumed, the rows cannot calibrate, or the goal cannot
            be reached or needs what is not there.
    """
    answered = all(row.large is not None for row in parts.held_out)
    if answered and settings.large_accuracy is not None:
        raise UserError("--large-accuracy: the large model's answers are there and give it; leave it out")
    if not answered and settings.large_accuracy is None:
        raise UserError(
            "--large: name the large model's predictions of the same rows, or assume its accuracy with "
            "--large-accuracy, such as --large-accuracy 0.95"
        )
    features, keepable = features_of(parts.calibration)
    right = np.array([row.small_right for row in parts.calibration], dtype=np.float64)
    calibrator = fit(features[keepable], right[keepable], f"the {len(parts.calibration)} calibration rows")
    calibration, held_out = (_side(rows, calibrator, settings) for rows in (parts.calibration, parts.held_out))
    goal = settings.goal()
    certificate = _certificate(goal, calibration, held_out)
    if certificate is None:
        threshold = _threshold(goal, calibration)
    else:
        threshold = None if certificate.certified is None else certificate.certified.threshold
    by, clusters = clusters_of(parts.held_out)
    policy = Policy(
        identity=identity,
        format=format,
        features=FEATURES,
        calibrator=calibrator,
        threshold=threshold,
        goal=goal,
        certificate=None if certificate is None else _recorded(certificate),
        rows={"calibration": len(parts.calibration), "held_out": len(parts.held_out)},
        toolhone=__version__,
    )
    return Routing(
        policy=policy,
        parts=parts,
        small=parts.held_out[0].small.model,
        large=parts.held_out[0].large.model if parts.held_out[0].large is not None else ASSUMED,
        assumed=not answered,
        clustered_by=by,
        clusters=len(set(clusters)),
        reliability=reliability(held_out.scores, held_out.probabilities, held_out.right, clusters),
        certificate=certificate,
        cases=tuple(_case(errors, held_out, threshold) for errors in held_out.large),
        gold=gold_origin(parts.held_out),
        gates=_gates(parts.held_out),
        ablation=_ablation([*parts.calibration, *parts.held_out]),
    )


def _side(rows: Sequence[Row], calibrator: Calibrator, settings: RouteSettings) -> _Side:
    features, keepable = features_of(rows)
    scores = np.array([calibrator.score(row) for row in features.tolist()]) * keepable
    probabilities = np.array([calibrator.probability(score) for score in scores.tolist()]) * keepable
    right = np.array([row.small_right for row in rows], dtype=np.float64)
    large: dict[Errors, Floats] = {}
    if all(row.large is not None for row in rows):
        large["measured"] = np.array([row.large_right for row in rows], dtype=np.float64)
    elif settings.large_accuracy is not None:
        assumed = assumed_large(right, settings.large_accuracy)
        large = {"independent": assumed["independent"], "overlapping": assumed["overlapping"]}
    small_scores: list[Score | None] = [row.small for row in rows]
    large_scores = [row.large for row in rows]
    return _Side(
        scores=scores,
        probabilities=probabilities,
        right=right,
        keepable=keepable.astype(np.float64),
        large=large,
        small_usd=_usd(small_scores, settings.small_price, settings.small_price_in, settings.small_price_out),
        large_usd=_usd(large_scores, settings.large_price, settings.large_price_in, settings.large_price_out),
        small_s=_seconds(small_scores, settings.small_latency),
        large_s=_seconds(large_scores, settings.large_latency),
        rows=rows,
    )


def _usd(scores: Sequence[Score | None], call: float | None, price_in: float | None, price_out: float | None) -> Floats:
    """What each answer costs: by its tokens, or as any other; nan where nothing says."""
    if price_in is not None and price_out is not None:
        price = Price(price_in, price_in, price_out)
        costs = [
            np.nan if score is None else call_cost_usd(price, score.prompt_tokens, score.completion_tokens)
            for score in scores
        ]
        return np.array(costs)
    return np.full(len(scores), np.nan if call is None else call)


def _seconds(scores: Sequence[Score | None], given: float | None) -> Floats:
    if given is not None:
        return np.full(len(scores), given)
    return np.array([np.nan if score is None else score.latency_ms / 1_000 for score in scores])


def _threshold(goal: Goal, calibration: _Side) -> float | None:
    """The threshold of a goal without a guarantee. Of an assumed large model, the end that gains less counts."""
    large = calibration.large.get("measured", calibration.large.get("overlapping"))
    if large is None:
        if goal.kind == "accuracy":
            raise UserError(
                "--target-accuracy: needs the large model's answers to the calibration rows; give --calibration-large"
            )
        large = np.ones(len(calibration.rows))  # neither an escalation rate nor a budget asks who is right
    return choose_threshold(goal, calibration.pair(large), calibration.keepable)


def _certificate(goal: Goal, calibration: _Side, held_out: _Side) -> Certificate | None:
    if goal.kind != "guarantee":
        return None
    assert goal.risk is not None
    assert goal.alpha is not None
    assert goal.delta is not None
    if goal.risk != "selective" and ("measured" not in held_out.large or "measured" not in calibration.large):
        raise UserError(
            f"--risk {goal.risk}: is a risk of both models together and cannot be certified of an assumed one; give "
            "the large model's answers with --large (and --calibration-large), or take --risk selective"
        )
    fitted, tested = calibration.outcomes(calibration.probabilities), held_out.outcomes(held_out.right)
    return certify(fitted, tested, goal.risk, goal.alpha, goal.delta)


def _recorded(certificate: Certificate) -> dict[str, object]:
    """What the policy file keeps of a certificate."""
    certified = None if certificate.certified is None else asdict(certificate.certified)
    return {"sentence": certificate.sentence(), "tests": len(certificate.tested), "certified": certified}


def _case(errors: Errors, side: _Side, threshold: float | None) -> Case:
    kept = side.keepable * (side.scores >= threshold) if threshold is not None else np.zeros(len(side.rows))
    pair = side.pair(side.large[errors])
    return Case(errors, deferral_curve(pair), operating_point(pair, kept, side.small_s, side.large_s))


def _ablation(rows: Sequence[Row]) -> tuple[Variant, ...]:
    if any(row.signals.features is None for row in rows):
        return ()
    right = np.array([row.small_right for row in rows], dtype=np.float64)
    return ablation([row.signals for row in rows], right, clusters_of(rows)[1], "the rows")


def _gates(rows: Sequence[Row]) -> dict[str, int]:
    """How many answers cannot be kept, by the reason, the commonest first."""
    found: dict[str, int] = {}
    for row in rows:
        reason = "handed over by the model itself" if row.signals.escalated else row.signals.gate
        if reason is not None:
            found[reason] = found.get(reason, 0) + 1
    return dict(sorted(found.items(), key=lambda item: -item[1]))
