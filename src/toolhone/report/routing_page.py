"""route.html: what routing comes to, in one file. Every figure is worded here; the template places it."""

from __future__ import annotations

from dataclasses import dataclass

from toolhone.report import routing_wording as wording
from toolhone.report.numbers import percent
from toolhone.report.pages import html_page
from toolhone.report.routing_plots import Deferral, Diagram, deferral_plot, reliability_plot
from toolhone.report.routing_table import HEADINGS, table_rows
from toolhone.route.guarantee import Certificate
from toolhone.route.policy import Policy
from toolhone.route.route import Case, Routing

_MOST_TESTS = 12


@dataclass(frozen=True, slots=True)
class CaseView:
    """One large model: its table, whether the cascade is close to it, the curve and its figures."""

    title: str
    rows: tuple[tuple[str, ...], ...]
    closeness: str
    plot: Deferral
    apgr: str
    reach: tuple[tuple[str, str, str], ...]
    at: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Page:
    """All that the template shows."""

    name: str
    verdict: str
    callouts: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    headings: tuple[str, ...]
    cases: tuple[CaseView, ...]
    priced: bool
    confidence: tuple[tuple[str, str, str], ...]
    diagram: Diagram
    gates: tuple[tuple[str, str], ...]
    ablation: tuple[tuple[str, str, str, str], ...]
    guarantee: str
    tests: tuple[tuple[str, ...], ...]
    tests_left_out: int
    policy: tuple[tuple[str, str], ...]
    weights: tuple[tuple[str, str, str], ...]
    clustered_by: str


def route_page(routing: Routing, name: str) -> str:
    """Draw the page."""
    return html_page("route", page=build_page(routing, name))


def build_page(routing: Routing, name: str) -> Page:
    """Put what was found into the words and the order of the page."""
    rows, policy = routing.policy.rows, routing.policy
    callouts = [sentence] if (sentence := routing.gold.sentence(routing.large)) is not None else []
    if routing.certificate is not None and routing.certificate.certified is not None:
        callouts.append(routing.certificate.sentence())
    if routing.assumed:
        callouts.append(
            "No answer of a large model was judged: its accuracy is assumed, and with it every figure marked so. Each "
            "is given for errors that are independent of the small model's, and for errors that all lie among them."
        )
    certificate = routing.certificate
    tests = () if certificate is None else _tests(certificate)
    return Page(
        name=name,
        verdict=wording.verdict(routing),
        callouts=tuple(callouts),
        facts=(
            ("Small", routing.small),
            ("Large", routing.large),
            ("Goal", wording.goal_words(policy.goal)),
            ("Rows", f"{rows['calibration']:,} calibrate, {rows['held_out']:,} held out, {routing.parts.how}"),
            ("Held out", f"{routing.clusters:,} {routing.clustered_by}s"),
        ),
        headings=HEADINGS,
        cases=tuple(_case(routing, case) for case in routing.cases),
        priced=routing.cases[0].point.usd["value"] is not None,
        confidence=_confidence(routing),
        diagram=reliability_plot(routing.reliability),
        gates=tuple((reason.replace("_", " "), f"{count:,}") for reason, count in routing.gates.items()),
        ablation=tuple(
            (
                one.name,
                wording.number(one.reliability.auroc),
                wording.number(one.reliability.brier),
                wording.number(one.reliability.ece),
            )
            for one in routing.ablation
        ),
        guarantee=_guarantee(routing),
        tests=tests[-_MOST_TESTS:],
        tests_left_out=len(tests[:-_MOST_TESTS]),
        policy=_policy(policy),
        weights=_weights(policy),
        clustered_by=routing.clustered_by,
    )


def _case(routing: Routing, case: Case) -> CaseView:
    curve = case.curve
    return CaseView(
        title=f"Assumed, {wording.ERRORS[case.errors]}" if routing.assumed else f"Measured: {routing.large}",
        rows=tuple(table_rows(routing, case)),
        closeness=wording.closeness(routing, case),
        plot=deferral_plot(curve, case.point),
        apgr=wording.number(curve.apgr),
        reach=tuple(
            (percent(one.gap), wording.share(one.escalation), wording.dollars(one.usd["value"])) for one in curve.reach
        ),
        at=tuple(
            (
                percent(one.escalation),
                wording.share(one.accuracy),
                wording.share(one.of_oracle),
                wording.dollars(one.usd["value"]),
                percent(one.of_large["value"]),
            )
            for one in curve.at
        ),
    )


def _confidence(routing: Routing) -> tuple[tuple[str, str, str], ...]:
    found = routing.reliability
    return (
        ("AUROC", wording.number(found.auroc), "The chance that a right answer looks surer than a wrong one."),
        (
            "Brier score",
            wording.number(found.brier),
            f"Squared error of the probability; the best constant has {wording.number(found.brier_constant)}, which is "
            f"more by {wording.number(found.brier_gain)}.",
        ),
        (
            "ECE",
            wording.number(found.ece),
            "How far the probability is off, on average over ten bins. One that were never off would show about "
            f"{found.ece_by_chance:.3f} on so many rows, by chance.",
        ),
        ("AURC", wording.number(found.aurc), "Share wrong among answers kept, averaged over how many are kept."),
    )


def _guarantee(routing: Routing) -> str:
    if routing.certificate is None:
        return (
            "None was asked for: the threshold was chosen on the calibration rows, and no risk is certified. "
            "--risk selective --alpha 0.05 would certify one."
        )
    return routing.certificate.sentence()


def _tests(certificate: Certificate) -> tuple[tuple[str, ...], ...]:
    return tuple(
        (
            f"{one.threshold:.4f}",
            f"{one.rows:,}",
            f"{one.losses:,}",
            f"{one.p_value:.3g}",
            percent(one.upper),
            "certified" if one.p_value <= certificate.delta else "not certified",
        )
        for one in certificate.tested
    )


def _policy(policy: Policy) -> tuple[tuple[str, str], ...]:
    identity = policy.identity
    kept = "none: every call is handed over" if policy.threshold is None else f"score of {policy.threshold:.4f} or more"
    return (
        ("Kept", kept),
        ("Model", identity.model),
        ("Adapter", identity.adapter or "none, or not known"),
        ("Chat template", identity.template or "not known"),
        ("Quantisation", identity.quantize or "not known"),
        ("Chat format", policy.format),
        ("Calibrator", "isotonic on logistic regression" if policy.calibrator.knots else "logistic regression"),
    )


def _weights(policy: Policy) -> tuple[tuple[str, str, str], ...]:
    """Each feature with its mean and its weight a standard deviation, the heaviest first."""
    calibrator = policy.calibrator
    parts = sorted(zip(policy.features, calibrator.means, calibrator.weights, strict=True), key=lambda p: -abs(p[2]))
    return tuple((name.replace("_", " "), f"{mean:.3f}", f"{weight:+.2f}") for name, mean, weight in parts)
