"""route.html and route.json: the results of `toolhone route`. Figures are worded and placed here; the template lays
them out. Plots are in percent of their width and height, so that they take any width.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from toolhone.jsonl import write_json, write_text
from toolhone.report import routing_text as words
from toolhone.report.numbers import dollars, percent
from toolhone.report.pages import html_page
from toolhone.report.plots import Tick, ticks
from toolhone.report.plots import share as place
from toolhone.route.calibrate import Reliability
from toolhone.route.curve import Curve, Point
from toolhone.route.policy import Policy, write_policy
from toolhone.route.route import Case, Routing
from toolhone.route.threshold import Certificate

_MAX_TESTS = 12


def write_routing(routing: Routing, folder: Path, name: str) -> None:
    """Write route.html, route.json and policy.json into a folder; `name` is what the page calls the run."""
    write_text(folder / "route.html", html_page("route", page=_page(routing, name)))
    write_json(folder / "route.json", routing_json(routing))
    write_policy(folder / "policy.json", routing.policy)


def routing_json(routing: Routing) -> dict[str, Any]:
    """Return all figures, with intervals, as numbers; `assumed` marks those that rest on an assumed large model."""
    return {
        "small": routing.small,
        "large": routing.large,
        "assumed": routing.assumed,
        "rows": routing.policy.rows,
        "clustered_by": routing.clustered_by,
        "clusters": routing.clusters,
        "gold_source": {"models": list(routing.gold.models), "is_large": routing.gold.is_large},
        "goal": routing.policy.goal.model_dump(exclude_none=True),
        "threshold": routing.policy.threshold,
        "certificate": None if routing.certificate is None else asdict(routing.certificate),
        "reliability": asdict(routing.reliability),
        "gates": routing.gates,
        "ablation": [{"name": name, **asdict(found)} for name, found in routing.ablation.items()],
        "cases": [
            {"errors": one.errors, "assumed": routing.assumed, "point": asdict(one.point), "curve": _curve(one.curve)}
            for one in routing.cases
        ],
    }


def _curve(curve: Curve) -> dict[str, Any]:
    row = asdict(curve)
    for key in ("escalation", "random", "oracle", "usd"):
        row[key] = [None if value != value else value for value in row[key].tolist()]
    return row


def _page(routing: Routing, name: str) -> dict[str, Any]:
    """All that the template shows."""
    rows, policy, certificate = routing.policy.rows, routing.policy, routing.certificate
    callouts = [words.gold_sentence(routing)]
    if certificate is not None and certificate.certified is not None:
        callouts.append(certificate.sentence())
    if routing.assumed:
        callouts.append(
            "No answer of a large model was scored: its accuracy is assumed, and with it every figure marked so. Each "
            "is given for errors that are independent of the small model's, and for errors that all lie among them."
        )
    tests = _tests(certificate)
    return {
        "name": name,
        "verdict": words.verdict(routing),
        "callouts": [sentence for sentence in callouts if sentence is not None],
        "facts": (
            ("Small", routing.small),
            ("Large", routing.large),
            ("Goal", words.goal_words(routing)),
            ("Rows", f"{rows['calibration']:,} calibrate, {rows['held_out']:,} held out, {routing.how_split}"),
            ("Held out", f"{routing.clusters:,} {routing.clustered_by}s"),
        ),
        "headings": words.HEADINGS,
        "cases": [_case(routing, case) for case in routing.cases],
        "priced": routing.cases[0].point.usd["value"] is not None,
        "confidence": _confidence(routing.reliability),
        "diagram": _reliability_plot(routing.reliability),
        "gates": [(reason.replace("_", " "), f"{count:,}") for reason, count in routing.gates.items()],
        "ablation": [
            (name, *map(words.number, (found.auroc, found.brier, found.ece)))
            for name, found in routing.ablation.items()
        ],
        "guarantee": "None was asked for: the threshold was chosen on the calibration rows, and no risk is certified. "
        "--risk selective --alpha 0.05 would certify one."
        if certificate is None
        else certificate.sentence(),
        "tests": tests[-_MAX_TESTS:],
        "tests_left_out": len(tests[:-_MAX_TESTS]),
        "policy": _policy(policy),
        "weights": _weights(policy),
        "clustered_by": routing.clustered_by,
    }


def _case(routing: Routing, case: Case) -> dict[str, Any]:
    """One large model: its table, whether the cascade is close to it, the curve and its figures."""
    curve = case.curve
    return {
        "title": f"Assumed, {words.ERRORS[case.errors]}" if routing.assumed else f"Measured: {routing.large}",
        "rows": words.table_rows(routing, case),
        "closeness": words.closeness(routing, case),
        "plot": _deferral_plot(curve, case.point),
        "apgr": words.number(curve.apgr),
        "reach": [
            (percent(one["gap"]), words.share(one["escalation"]), words.dollars(one["usd"])) for one in curve.reach
        ],
        "at": [
            (
                percent(one["escalation"]),
                words.share(one["accuracy"]),
                words.share(one["of_oracle"]),
                words.dollars(one["usd"]),
                percent(one["of_large"]["value"]),
            )
            for one in curve.at
        ],
    }


def _confidence(found: Reliability) -> tuple[tuple[str, str, str], ...]:
    number = words.number
    constant = (
        f"Squared error of the probability; the best constant has {number(found.brier_constant)}, which is more by"
    )
    return (
        ("AUROC", number(found.auroc), "The chance that a right answer looks surer than a wrong one."),
        ("Brier score", number(found.brier), f"{constant} {number(found.brier_gain)}."),
        (
            "ECE",
            number(found.ece),
            "How far the probability is off, on average over ten bins. A perfect one would show about "
            f"{found.ece_by_chance:.3f} on this number of rows, by chance.",
        ),
        ("AURC", number(found.aurc), "Share wrong among answers kept, averaged over how many are kept."),
    )


def _tests(certificate: Certificate | None) -> list[tuple[str, ...]]:
    if certificate is None:
        return []
    return [
        (
            *(f"{one.threshold:.4f}", f"{one.rows:,}", f"{one.losses:,}", f"{one.p_value:.3g}", percent(one.upper)),
            "certified" if one.p_value <= certificate.delta else "not certified",
        )
        for one in certificate.tested
    ]


def _policy(policy: Policy) -> tuple[tuple[str, str], ...]:
    identity = policy.identity
    kept = "none: every call is escalated" if policy.threshold is None else f"score of {policy.threshold:.4f} or more"
    return (
        ("Kept", kept),
        ("Model", identity.model),
        ("Adapter", identity.adapter or "none, or not known"),
        ("Chat template", identity.template or "not known"),
        ("Quantisation", identity.quantize or "not known"),
        ("Chat format", policy.format),
        ("Calibrator", "isotonic on logistic regression" if policy.calibrator.knots else "logistic regression"),
    )


def _weights(policy: Policy) -> list[tuple[str, str, str]]:
    """Each feature with its mean and its weight per standard deviation, the heaviest first."""
    calibrator = policy.calibrator
    parts = sorted(zip(policy.features, calibrator.means, calibrator.weights, strict=True), key=lambda p: -abs(p[2]))
    return [(name.replace("_", " "), f"{mean:.3f}", f"{weight:+.2f}") for name, mean, weight in parts]


def _deferral_plot(curve: Curve, point: Point) -> dict[str, Any]:
    """Place the deferral curve and the policy on it. Lines are the points of an SVG polyline; `band` is the cascade's
    interval, empty if it has none. `costs` are costs of a call under the x axis, empty without prices."""
    values = [figure["value"] for figure in curve.accuracy]
    lows, highs = ([_end(figure, end) for figure in curve.accuracy] for end in ("low", "high"))
    lowest = min(*lows, *curve.random, *values, point.accuracy["value"])
    marks = ticks(lowest, min(1.0, max(*highs, *curve.oracle)), 5)

    def up(value: float) -> float:
        return round(100 - place(value, marks[0], marks[-1]), 2)

    def line(heights: Iterable[float]) -> str:
        return " ".join(f"{100 * x:g},{up(y)}" for x, y in zip(curve.escalation.tolist(), heights, strict=True))

    escalated, right = point.escalation["value"], point.accuracy
    shares = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    usd = [float(curve.usd[round(one * (len(curve.usd) - 1))]) for one in shares]
    return {
        "cascade": line(values),
        "band": f"{line(highs)} {' '.join(reversed(line(lows).split()))}" if lows != highs else "",
        "random": line(curve.random.tolist()),
        "oracle": line(curve.oracle.tolist()),
        "point": {
            "x": round(100 * escalated, 2),
            "y": up(right["value"]),
            "top": up(_end(right, "high")),
            "bottom": up(_end(right, "low")),
            "size": 5,
            "title": f"the policy: {percent(escalated)} escalated, {words.share(right)} right",
        },
        "x_ticks": [Tick(100 * one, f"{100 * one:.0f}%") for one in shares],
        "y_ticks": [Tick(up(one), f"{100 * one:g}%") for one in marks if one <= 1 + 1e-9],
        "costs": [Tick(100 * one, dollars(cost)) for one, cost in zip(shares, usd, strict=True) if cost == cost],
    }


def _end(figure: dict[str, Any], end: str) -> float:
    """An end of a figure's interval; the figure itself if it has none."""
    value: float = figure["value"] if figure[end] is None else figure[end]
    return value


def _reliability_plot(found: Reliability) -> dict[str, Any]:
    """Place the bins that hold rows; a mark's area grows with its rows."""
    most = max(one["denominator"] for one in found.bins)
    marks = [
        {
            "x": round(100 * one["probability"], 2),
            **{
                key: round(100 - 100 * one[end], 2) for key, end in (("y", "value"), ("top", "high"), ("bottom", "low"))
            },
            "size": round(3 + 6 * (one["denominator"] / most) ** 0.5, 1),
            "title": f"confidence {percent(one['probability'])}: {words.share(one)} right, {one['numerator']:,} of "
            f"{one['denominator']:,}",
        }
        for one in found.bins
    ]
    return {"marks": marks, "ticks": [Tick(100 * value, f"{100 * value:.0f}%") for value in (0, 0.25, 0.5, 0.75, 1)]}
