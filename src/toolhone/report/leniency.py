"""What a report says of leniency: how figures change where texts are mended, and what the policy of judging excused.

In: metrics.json, and single scores. Out: words and tables. Strict reading and the policy `strict` are the measure; all
that goes beyond them is told by name and count, so that nobody takes a lenient figure for a strict one. Figures of
versions that recorded neither say nothing here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toolhone.evaluate.policy import RULES, STRICT
from toolhone.records import Repair, Score
from toolhone.report import numbers
from toolhone.report.provenance import Table

REPAIRS: dict[Repair, str] = {
    "python_literals": "single quotes, True, False, None or a comma before a closing bracket, as Python writes them",
    "arguments_as_text": "the arguments as a JSON text in place of an object",
    "code_fence": "a call in a code fence, where the format has none",
}
"""What each repair mends."""


def policy(metrics: Mapping[str, Any]) -> str:
    """The policy that the figures were judged under."""
    return str((metrics.get("provenance") or {}).get("policy") or STRICT.name)


def mended(models: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Each model's figures with repairs; empty where no text of any model was mended, or a model's are not known."""
    found = {name: model.get("repaired") for name, model in models.items()}
    if not any(one and one["rows"] for one in found.values()):
        return {}
    return {name: one for name, one in found.items() if one}


def repairs(models: Mapping[str, Mapping[str, Any]]) -> Table | None:
    """How often each repair fired; None where none did."""
    counts = {name: one["repairs"] for name, one in mended(models).items()}
    return _counts("Repair", "What it mends", REPAIRS, counts)


def rules(models: Mapping[str, Mapping[str, Any]]) -> Table | None:
    """In how many rows each rule of the policy fired; None where none did."""
    return _counts("Rule", "What it excuses", RULES, {name: model.get("rules") or {} for name, model in models.items()})


def _counts(what: str, meaning: str, known: Mapping[Any, str], counts: Mapping[str, Mapping[str, int]]) -> Table | None:
    names = [name for name in known if any(name in fired for fired in counts.values())]
    names += sorted({name for fired in counts.values() for name in fired} - set(known))
    rows = tuple(
        (name, known.get(name, ""), *(numbers.number(fired.get(name, 0)) for fired in counts.values()))
        for name in names
    )
    return Table("ll" + "r" * len(counts), (what, meaning, *counts), rows) if rows else None


def mended_row(score: Score) -> str | None:
    """What repairs make of a row's text, in a sentence; None where they make nothing of it."""
    if score.repaired is None or not score.repaired.repairs:
        return None
    fired = ", ".join(score.repaired.repairs)
    result = "the right tools, but no" if score.repaired.names_right else "still no"
    result = "an" if score.repaired.exact else result
    return f"With repairs ({fired}) it reads as {score.repaired.status}: {result} exact match."
