"""What a report says of two models side by side: how the rows fared from one to the other, and by how much.

In: the entries under `compare` in metrics.json, and the scores. Out: words and tables. A metrics.json of one model has
no such entries, and one that an older version wrote may lack them: then nothing is said.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from toolhone.records import Score
from toolhone.report import numbers, wording
from toolhone.report.provenance import Table


@dataclass(frozen=True, slots=True)
class Change:
    """How the rows fared from the first model to the last, on the ids that both answered."""

    first: str
    last: str
    fixed: int
    broken: int
    both_right: int
    both_wrong: int


def change(first: str, last: str, by_id: Mapping[str, Mapping[str, Score]]) -> Change:
    """Count the rows by which of the two models has them right."""
    pairs = [(by_id[first][id_].exact, score.exact) for id_, score in by_id[last].items() if id_ in by_id[first]]
    return Change(
        first,
        last,
        fixed=pairs.count((False, True)),
        broken=pairs.count((True, False)),
        both_right=pairs.count((True, True)),
        both_wrong=pairs.count((False, False)),
    )


def difference(metrics: Mapping[str, Any], measure: str) -> str:
    """From the first model to the last in one measure, "+86.5 points [81.0, 91.0]"; "" where it was not compared."""
    names = list(metrics["models"])
    for entry in metrics.get("compare", ()):
        if (entry["measure"], entry["first"], entry["second"]) == (measure, names[0], names[-1]):
            return numbers.points(entry)
    return ""


def clustering(metrics: Mapping[str, Any]) -> str | None:
    """What the rows were resampled by, "template" or "conversation"; None where nothing was compared."""
    return next((entry["clustered_by"] for entry in metrics.get("compare", ())), None)


def comparisons(metrics: Mapping[str, Any], agreement_with: str | None) -> Table | None:
    """Every pair of models in every headline measure; None where there is none."""
    labels = {measure.key: measure.label_for(agreement_with) for measure in wording.HEADLINE}
    rows = []
    for entry in metrics.get("compare", ()):
        test = entry["mcnemar"]
        alone = ("", "", "") if test is None else (
            numbers.number(test["first_only"]),
            numbers.number(test["second_only"]),
            numbers.p_value(test["p_value"]),
        )  # fmt: skip
        pair = f"{entry['first']} to {entry['second']}"
        rows.append((labels[entry["measure"]], pair, numbers.points(entry) or numbers.ABSENT, *alone))
    head = ("Measure", "Models", "Difference", "Right under the first alone", "Under the second alone", "McNemar’s p")
    return Table("lllrrr", head, tuple(rows)) if rows else None
