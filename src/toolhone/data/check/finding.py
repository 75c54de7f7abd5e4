"""A finding: one fault of one row or file, with its place, how grave it is and how to mend it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Severity = Literal["error", "warning", "advice"]
"""error: may not be trained on; warning: most likely wrong, look at it; advice: worth knowing."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault: `where` is file:line (or the files, for what is true of all of them together), `rule` its kind. Two
    findings that differ in the wording of `remedy` alone are the same finding."""

    where: str
    rule: str
    message: str
    severity: Severity = "error"
    remedy: str = field(default="", compare=False)

    def to_json(self) -> dict[str, Any]:
        return {
            "where": self.where,
            "rule": self.rule,
            "severity": self.severity,
            "message": self.message,
            "remedy": self.remedy,
        }
