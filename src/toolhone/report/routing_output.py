"""What `toolhone route` leaves behind: policy.json, route.json with every figure, route.html; and what is printed."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from toolhone.jsonl import write_json, write_text
from toolhone.report import routing_wording as wording
from toolhone.report.routing_page import route_page
from toolhone.route.policy import write_policy
from toolhone.route.route import Case, Routing


def write_routing(routing: Routing, folder: Path, name: str) -> None:
    """Write the three files into a folder; `name` is what the page calls the run."""
    write_text(folder / "route.html", route_page(routing, name))
    write_json(folder / "route.json", routing_json(routing))
    write_policy(folder / "policy.json", routing.policy)


def routing_json(routing: Routing) -> dict[str, Any]:
    """All figures, with intervals, as numbers; `assumed` stands beside those that rest on what was assumed."""
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
        "ablation": [{"name": one.name, **asdict(one.reliability)} for one in routing.ablation],
        "cases": [_case_json(case, routing.assumed) for case in routing.cases],
    }


def _case_json(case: Case, assumed: bool) -> dict[str, Any]:
    curve = asdict(case.curve)
    lists = {
        key: [_finite(value) for value in curve[key].tolist()] for key in ("escalation", "random", "oracle", "usd")
    }
    return {"errors": case.errors, "assumed": assumed, "point": asdict(case.point), "curve": {**curve, **lists}}


def _finite(value: float) -> float | None:
    return None if value != value else value


def summary_lines(routing: Routing) -> list[str]:
    """What is printed around the table."""
    found, rows = routing.reliability, routing.policy.rows
    lines = [
        f"{rows['calibration']:,} rows calibrate, {rows['held_out']:,} are held out, {routing.parts.how}",
        f"confidence: AUROC {wording.number(found.auroc)}, Brier {wording.number(found.brier)} against "
        f"{found.brier_constant['value']:.3f} of the constant, ECE {wording.number(found.ece)} "
        f"({found.ece_by_chance:.3f} would be chance)",
        f"goal: {wording.goal_words(routing.policy.goal)}",
    ]
    if routing.certificate is not None:
        lines.append(routing.certificate.sentence())
    lines += [wording.closeness(routing, case) for case in routing.cases]
    if (gold := routing.gold.sentence(routing.large)) is not None:
        lines.append(gold)
    return lines
