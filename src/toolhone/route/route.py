"""From two models' answers to a policy: calibrate on one part of the rows, choose a threshold, measure on the other.

In: the split rows and the settings. Out: one `Routing`, from which policy.json, route.json and the page are written.
Only this module decides which rows are used for what:
- the calibration rows fit the calibrator, and set the threshold of every goal except a guarantee;
- a guarantee is tested on the held-out rows, in an order that the calibration rows set;
- every figure is of the held-out rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from toolhone import __version__
from toolhone.economics.cost import Price, call_cost_usd
from toolhone.errors import UserError
from toolhone.records import FormatName, Score
from toolhone.route.calibrate import Calibrator, Reliability, ablation, fit, reliability
from toolhone.route.confidence import FEATURES
from toolhone.route.curve import Curve, Outcomes, Point, assumed_large, deferral_curve, operating_point
from toolhone.route.policy import Identity, Policy, RouteSettings
from toolhone.route.resample import Floats
from toolhone.route.rows import GoldOrigin, Row, RowSplit, clusters_of, gold_origin
from toolhone.route.threshold import Certificate, certify, choose_threshold


@dataclass(frozen=True, slots=True)
class Case:
    """The cascade with one large model. `errors` says how its errors relate to the small model's: "measured", or for an
    assumed model one of the extremes, "independent" or "overlapping"."""

    errors: str
    curve: Curve
    point: Point


@dataclass(frozen=True, slots=True)
class Routing:
    """All results. `cases` is one if the large model answered the rows, and both extremes of its errors if it is
    `assumed`. `ablation` has the figures of each variant over all rows."""

    policy: Policy
    how_split: str
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
    ablation: dict[str, Reliability]


def route(split: RowSplit, settings: RouteSettings, identity: Identity, format: FormatName) -> Routing:
    """Make the policy and measure it.

    Raises:
        UserError: if the large model neither answered nor is assumed, the rows cannot calibrate, or the goal cannot be
            reached or lacks an input.
    """
    answered = all(row.large is not None for row in split.held_out)
    if answered and settings.large_accuracy is not None:
        raise UserError("--large-accuracy: the large model's answers are there and give it; leave it out")
    if not answered and settings.large_accuracy is None:
        raise UserError(
            "--large: name the large model's predictions of the same rows, or assume its accuracy with "
            "--large-accuracy, such as --large-accuracy 0.95"
        )
    features, keepable = _features(split.calibration)
    named = f"the {len(split.calibration)} calibration rows"
    calibrator = fit(features[keepable], _right(split.calibration)[keepable], named)
    calibration, held_out = (_outcomes(rows, calibrator, settings) for rows in (split.calibration, split.held_out))
    certificate = None
    if settings.risk is None:
        threshold = _chosen_threshold(settings, calibration)
    else:
        certificate = _certificate(settings, calibration, held_out, calibrator)
        threshold = None if certificate.certified is None else certificate.certified.threshold
    clustered_by, clusters = clusters_of(split.held_out)
    first, every = split.held_out[0], [*split.calibration, *split.held_out]
    return Routing(
        policy=Policy(
            identity=identity,
            format=format,
            features=FEATURES,
            calibrator=calibrator,
            threshold=threshold,
            goal=settings.goal(),
            certificate=None if certificate is None else certificate.record(),
            rows={"calibration": len(split.calibration), "held_out": len(split.held_out)},
            toolhone=__version__,
        ),
        how_split=split.how,
        small=first.small.model,
        large="the large model" if first.large is None else first.large.model,
        assumed=not answered,
        clustered_by=clustered_by,
        clusters=len(set(clusters)),
        reliability=reliability(held_out.scores, _probabilities(held_out, calibrator), held_out.small, clusters),
        certificate=certificate,
        cases=tuple(
            Case(errors, deferral_curve(rows), operating_point(rows, rows.kept(threshold)))
            for errors, rows in _by_errors(held_out, settings).items()
        ),
        gold=gold_origin(split.held_out),
        gates=_gates(split.held_out),
        ablation=ablation([row.signals for row in every], _right(every), clusters_of(every)[1]),
    )


def _features(rows: Sequence[Row]) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Return the features, [rows, features], 0 if a row has none, and which rows can be kept at all, [rows]."""
    none = (0.0,) * len(FEATURES)
    values = np.array([row.signals.features or none for row in rows], dtype=np.float64).reshape(len(rows), -1)
    return values, np.array([row.signals.keepable for row in rows], dtype=bool)


def _right(rows: Sequence[Row]) -> Floats:
    return np.array([row.small_right for row in rows], dtype=np.float64)


def _outcomes(rows: Sequence[Row], calibrator: Calibrator, settings: RouteSettings) -> Outcomes:
    features, keepable = _features(rows)
    small: list[Score | None] = [row.small for row in rows]
    large = [row.large for row in rows]
    return Outcomes(
        scores=np.array([calibrator.score(row) for row in features.tolist()]) * keepable,
        small=_right(rows),
        large=np.array([np.nan if row.large is None else float(row.large_right) for row in rows]),
        small_usd=_usd(small, settings.small_price, settings.small_price_in, settings.small_price_out),
        large_usd=_usd(large, settings.large_price, settings.large_price_in, settings.large_price_out),
        small_s=_seconds(small, settings.small_latency),
        large_s=_seconds(large, settings.large_latency),
        clusters=clusters_of(rows)[1],
    )


def _usd(scores: Sequence[Score | None], call: float | None, price_in: float | None, price_out: float | None) -> Floats:
    """The cost of each answer, by its tokens or per call; nan if unknown."""
    if price_in is None or price_out is None:
        return np.full(len(scores), np.nan if call is None else call)
    price = Price(price_in, price_in, price_out)
    cost = [one and call_cost_usd(price, one.prompt_tokens, one.completion_tokens) for one in scores]
    return np.array(cost, dtype=np.float64)  # None becomes nan


def _seconds(scores: Sequence[Score | None], given: float | None) -> Floats:
    if given is not None:
        return np.full(len(scores), given)
    return np.array([one and one.latency_ms / 1_000 for one in scores], dtype=np.float64)


def _probabilities(rows: Outcomes, calibrator: Calibrator) -> Floats:
    return np.array([calibrator.probability(score) if score else 0.0 for score in rows.scores.tolist()])


def _answered(rows: Outcomes) -> bool:
    return not np.isnan(rows.large).any()


def _by_errors(rows: Outcomes, settings: RouteSettings) -> dict[str, Outcomes]:
    """The rows with the large model as measured, or as assumed at both extremes; none if it is neither."""
    if _answered(rows):
        return {"measured": rows}
    if settings.large_accuracy is None:
        return {}
    assumed = assumed_large(rows.small, settings.large_accuracy)
    return {errors: replace(rows, large=large) for errors, large in assumed.items()}


def _chosen_threshold(settings: RouteSettings, calibration: Outcomes) -> float | None:
    """The threshold of a goal without a guarantee. With an assumed large model, the extreme that gains less counts."""
    by_errors = _by_errors(calibration, settings)
    if not by_errors and settings.target_accuracy is not None:
        raise UserError(
            "--target-accuracy: needs the large model's answers to the calibration rows; give --calibration-large"
        )
    rows = by_errors.get("measured", by_errors.get("overlapping", calibration))
    return choose_threshold(settings.goal(), rows)


def _certificate(
    settings: RouteSettings, calibration: Outcomes, held_out: Outcomes, calibrator: Calibrator
) -> Certificate:
    assert settings.risk is not None
    if settings.risk != "selective" and not (_answered(held_out) and _answered(calibration)):
        raise UserError(
            f"--risk {settings.risk}: is a risk of both models together and cannot be certified of an assumed one; "
            "give the large model's answers with --large (and --calibration-large), or take --risk selective"
        )
    fitted = replace(calibration, small=_probabilities(calibration, calibrator))
    return certify(fitted, held_out, settings.risk, settings.alpha, settings.delta)


def _gates(rows: Sequence[Row]) -> dict[str, int]:
    """The number of answers that cannot be kept, by reason, the commonest first."""
    reasons = ("handed over by the model itself" if row.signals.escalated else row.signals.gate for row in rows)
    return dict(Counter(reason for reason in reasons if reason is not None).most_common())
