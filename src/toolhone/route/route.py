"""Make a policy from two models' answers: calibrate on one side of the rows, choose a threshold, measure on the other.

In: both models' predictions of the same turns, the small one's with tokens, the gold, and the settings. Out: one
`Routing`, from which policy.json, route.json and the page are written. Only this module decides which rows do what:
- the calibration rows fit the calibrator, and set the threshold of every goal except a guarantee;
- a guarantee is tested on the held-out rows, in an order that the calibration rows set;
- every figure is of the held-out rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from toolhone import __version__
from toolhone.data.escalation import ESCALATE
from toolhone.data.groups import KeyTable
from toolhone.data.read import turns
from toolhone.data.split import SIDES, Shares, assign_sides
from toolhone.economics.cost import Price, call_cost_usd
from toolhone.errors import UserError
from toolhone.evaluate.match import score
from toolhone.evaluate.metrics import clusterings
from toolhone.evaluate.score import RowsToScore
from toolhone.evaluate.values import STRICT
from toolhone.rates import Floats
from toolhone.records import Conversation, FormatName, Score
from toolhone.route.calibrate import Calibrator, Reliability, ablation, fit, reliability
from toolhone.route.confidence import FEATURES, Signals, signals
from toolhone.route.curve import Curve, Outcomes, Point, assumed_large, deferral_curve, operating_point
from toolhone.route.policy import Identity, Policy, RouteSettings
from toolhone.route.threshold import Certificate, certify, choose_threshold
from toolhone.route.ways import Ways, policy_ways, same_model

_SALT = "route"


@dataclass(frozen=True, slots=True)
class Row:
    """A turn that the small model answered, and the large one if its predictions are given."""

    signals: Signals
    small: Score
    large: Score | None

    @property
    def gold_escalates(self) -> bool:
        """Whether gold is the reserved call: then escalating is right, and no answer of the small model's own is."""
        return any(call.name == ESCALATE for call in self.small.gold.calls)

    @property
    def small_right(self) -> bool:
        return self.small.exact and not self.gold_escalates

    @property
    def large_right(self) -> bool:
        return self.gold_escalates or (self.large is not None and self.large.exact)


@dataclass(frozen=True, slots=True)
class RowSplit:
    """The calibration rows and the held-out rows, and how they were split, in words."""

    calibration: tuple[Row, ...]
    held_out: tuple[Row, ...]
    how: str


def read_rows(
    conversations: Sequence[Conversation], named: str, small: Path, large: Path | None, format: FormatName
) -> tuple[list[Row], dict[str, str]]:
    """Score both models' answers. Returns the rows, and the ids of those that cannot be scored, each with the reason.

    Raises:
        UserError: if predictions are not of these rows, or the small model's have no log-probabilities.
    """
    asked = RowsToScore(turns(conversations), STRICT, named)
    answers, refused = asked.read_answers(small, tokens=True)
    large_answers, large_refused = ({}, {}) if large is None else asked.read_answers(large)
    left_out = {**asked.quarantined, **{id_: f"refused: {why}" for id_, why in {**refused, **large_refused}.items()}}
    rows = [
        Row(
            signals(answers[id_], example, format),
            score(example, answers[id_], format),
            score(example, large_answers[id_], format) if large is not None else None,
        )
        for id_, example in asked.examples.items()
        if id_ not in left_out
    ]
    if not rows:
        raise UserError(f"{named}: no assistant turn that can be scored in {len(conversations)} rows")
    bare = [row.small.id for row in rows if row.signals.keepable and row.signals.features is None]
    if bare:
        raise UserError(
            f"{small}: {len(bare)} of {len(rows)} answers have no log-probabilities (first: {bare[0]}), which the "
            "confidence is computed from; predict again without --no-logprobs, at an endpoint that returns them"
        )
    return rows, left_out


def split_rows(conversations: Sequence[Conversation], rows: Sequence[Row], share: float, named: str) -> RowSplit:
    """Split the rows by whole groups: one template, one conversation, near duplicates of the user's words. The fraction
    `share` of them calibrates. A group's side depends on its name alone, so that rows added later move none.

    Raises:
        UserError: if a side stays empty.
    """
    table = KeyTable()
    for conversation in conversations:
        table.add(conversation)
    try:
        sides = assign_sides(table, Shares(validation=0, calibration=share, test=0), salt=_SALT).sides
    except UserError:
        raise UserError(
            f"{named}: {len(conversations)} rows form too few groups to split in two; give more rows, or separate "
            "calibration rows with --calibration"
        ) from None
    chosen = {
        conversation.id
        for conversation, side in zip(conversations, sides.tolist(), strict=True)
        if SIDES[side] == "calibration"
    }
    calibration = tuple(row for row in rows if row.small.conversation_id in chosen)
    held_out = tuple(row for row in rows if row.small.conversation_id not in chosen)
    if not held_out or not calibration:
        raise UserError(f"{named}: {len(rows)} rows are too few to split in two; give more, or --calibration")
    return RowSplit(calibration, held_out, "split by whole templates and conversations")


def clusters_of(rows: Sequence[Row]) -> tuple[str, list[Hashable]]:
    """Return the coarsest kind of cluster that the rows have, and the cluster of each row."""
    return clusterings([row.small for row in rows])[-1]


@dataclass(frozen=True, slots=True)
class GoldOrigin:
    """The models whose answers are gold, if any. `is_large`: the large model is one, and so right by construction."""

    models: tuple[str, ...]
    rows: int
    is_large: bool


def gold_origin(rows: Sequence[Row]) -> GoldOrigin:
    """Return which models' answers are gold, and whether the large model is one of them, by name."""
    sources = [row.small.gold_source for row in rows if row.small.gold_source is not None]
    large = {row.large.model for row in rows if row.large is not None}
    same = any(same_model(source, name) for source in set(sources) for name in large)
    return GoldOrigin(tuple(sorted(set(sources))), len(sources), same)


@dataclass(frozen=True, slots=True)
class Case:
    """The cascade with one large model. `errors` says how its errors relate to the small model's: "measured", or for an
    assumed model one of the extremes, "independent" or "overlapping"."""

    errors: str
    curve: Curve
    point: Point


@dataclass(frozen=True, slots=True)
class Routing:
    """All results. `cases` has one entry if the large model answered the rows, and both extremes of its errors if it is
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
    ways: Ways
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
        raise UserError("--large-accuracy: the accuracy is measured on the answers of --large; leave it out")
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
    small, large = first.small.model, "the large model" if first.large is None else first.large.model
    kept, by_errors = held_out.kept(threshold), _by_errors(held_out, settings)
    points = [operating_point(rows, kept) for rows in by_errors.values()]
    gold = gold_origin(split.held_out)
    facts = {
        "clustered_by": clustered_by,
        "certified": certificate is not None and certificate.certified is not None,
        "expect_escalate": sum(row.gold_escalates for row in split.held_out),
        "gold_models": gold.models,
        "gold_is_large": gold.is_large,
    }
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
        small=small,
        large=large,
        assumed=not answered,
        clustered_by=clustered_by,
        clusters=len(set(clusters)),
        reliability=reliability(held_out.scores, _probabilities(held_out, calibrator), held_out.small, clusters),
        certificate=certificate,
        ways=policy_ways(
            list(zip(by_errors.values(), points, strict=True)),
            kept,
            settings,
            small=small,
            large=large if answered else "",
            **facts,
        ),
        cases=tuple(
            Case(errors, deferral_curve(rows), point)
            for (errors, rows), point in zip(by_errors.items(), points, strict=True)
        ),
        gold=gold,
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
    """Return each answer's cost in dollars, from its tokens or a price of a call; nan if unknown.

    An answer without prompt tokens is one whose endpoint reports no usage."""
    if price_in is None or price_out is None:
        return np.full(len(scores), np.nan if call is None else call)
    price = Price(price_in, price_in, price_out)
    known = [one if one is not None and one.prompt_tokens else None for one in scores]
    cost = [one and call_cost_usd(price, one.prompt_tokens, one.completion_tokens) for one in known]
    return np.array(cost, dtype=np.float64)  # None becomes nan


def _seconds(scores: Sequence[Score | None], given: float | None) -> Floats:
    if given is not None:
        return np.full(len(scores), given)
    # A latency of 0 is that of predictions whose maker took no time.
    return np.array([one.latency_ms / 1_000 if one and one.latency_ms else np.nan for one in scores])


def _probabilities(rows: Outcomes, calibrator: Calibrator) -> Floats:
    return np.array([calibrator.probability(score) if score else 0.0 for score in rows.scores.tolist()])


def _answered(rows: Outcomes) -> bool:
    return not np.isnan(rows.large).any()


def _by_errors(rows: Outcomes, settings: RouteSettings) -> dict[str, Outcomes]:
    """Return the rows with the large model as measured, or as assumed at both extremes; empty if it is neither."""
    if _answered(rows):
        return {"measured": rows}
    if settings.large_accuracy is None:
        return {}
    assumed = assumed_large(rows.small, settings.large_accuracy)
    return {errors: replace(rows, large=large) for errors, large in assumed.items()}


def _chosen_threshold(settings: RouteSettings, calibration: Outcomes) -> float | None:
    """Choose the threshold of a goal without a guarantee. Of an assumed large model, the extreme that gains less
    counts."""
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
            f"--risk {settings.risk}: depends on both models, and an assumed one cannot be certified; give the large "
            "model's answers with --large (and --calibration-large), or use --risk selective"
        )
    fitted = replace(calibration, small=_probabilities(calibration, calibrator))
    return certify(fitted, held_out, settings.risk, settings.alpha, settings.delta)


def _gates(rows: Sequence[Row]) -> dict[str, int]:
    """The number of answers that cannot be kept, by reason, the commonest first."""
    reasons = ("escalated by the model itself" if row.signals.escalated else row.signals.gate for row in rows)
    return dict(Counter(reason for reason in reasons if reason is not None).most_common())
