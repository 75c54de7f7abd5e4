"""The words of a report: the name and meaning of each measure and repair. Also makes foreign text safe to read.

To show a new rate of metrics.json, add one `Measure` to the group under which the page shows it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from toolhone.records import Repair


@dataclass(frozen=True, slots=True)
class Measure:
    """A rate of metrics.json: its key there, its name, and what it means."""

    key: str
    label: str
    definition: str

    def label_for(self, agreement_with: str | None) -> str:
        """Return the name to print. If the gold is another model's answers, the figure is agreement with that model."""
        return self.label if agreement_with is None else re.sub("match|accuracy", "agreement", self.label)


HEADLINE = (
    Measure(
        "exact_match", "Exact match", "Rows where all is right: the decision to call, the tools and their arguments."
    ),
    Measure(
        "tool_name_accuracy",
        "Tool-name accuracy",
        "Rows that call exactly the expected tools, or no tool if none is expected.",
    ),
    Measure(
        "argument_accuracy", "Argument accuracy", "Calls with every argument right, out of the calls to the right tool."
    ),
)

ARGUMENTS = (
    Measure("argument_precision", "Argument precision", "Right arguments among all arguments given."),
    Measure("argument_recall", "Argument recall", "Right arguments among all arguments expected."),
    Measure("argument_f1", "Argument F1", "Harmonic mean of argument precision and recall."),
    Measure("argument_precision_given_name", "Precision, right tool", "Argument precision in calls to the right tool."),
    Measure("argument_recall_given_name", "Recall, right tool", "Argument recall in calls to the right tool."),
    Measure("argument_f1_given_name", "F1, right tool", "Harmonic mean of these two."),
)

ARGUMENT_ERRORS = (
    Measure("missing_argument_rate", "Missing arguments", "Expected in a call to the right tool, but not given."),
    Measure("invented_argument_rate", "Invented arguments", "Given in a call to the right tool, but not expected."),
    Measure("wrong_argument_rate", "Wrong values", "Expected and given, but with a wrong value."),
)

BEHAVIOUR_ERRORS = (
    Measure("over_call", "Over-call", "Rows that expect no call and get one."),
    Measure("under_call", "Under-call", "Rows that expect a call and get none."),
    Measure("malformed", "Malformed", "Rows with an attempted call that cannot be read."),
    Measure("truncated", "Truncated", "Rows cut off inside a call by the token limit."),
    Measure("partial", "Partial", "Rows in which some calls can be read and others cannot."),
    Measure("invented_tool", "Invented tool", "Calls to a tool that was not offered."),
    Measure("missing_calls", "Missing calls", "Rows in which an expected call was not made."),
    Measure("extra_calls", "Extra calls", "Rows with a call beyond those expected."),
)

VALIDITY = (Measure("schema_valid", "Schema-valid", "Rows with calls that all satisfy their tools' JSON Schemas."),)

MEASURES = (*HEADLINE, *ARGUMENTS, *ARGUMENT_ERRORS, *BEHAVIOUR_ERRORS, *VALIDITY)
"""The rates that every model has. The ones below are in the figures under `repaired` and `escalation`."""

REPAIRED = tuple(
    Measure(measure.key, f"{measure.label}, with repairs", "All rows, with repaired texts read as repaired.")
    for measure in HEADLINE[:2]
)

ESCALATION = (
    Measure("handed_over", "Escalated", "Rows with the reserved call escalate, among rows that expect it."),
    Measure("needless", "Needless escalations", "Rows with that call, among all other rows."),
    Measure("kept_exact_match", "Exact match, not escalated", "Rows answered right, among the rows without that call."),
)

SLICE_TITLES = {
    "language": "By language",
    "calls": "By number of expected calls",
    "turns": "By turn of the conversation",
    "tools": "By number of tools offered",
    "source": "By source",
    "seen": "By tool seen or unseen in training",
}

REPAIRS: dict[Repair, str] = {
    "python_literals": "single quotes, True, False, None or a comma before a closing bracket, as Python writes them",
    "arguments_as_text": "the arguments as a JSON text instead of an object",
    "code_fence": "a call in a code fence, although the format uses none",
    "other_syntax": "the call syntax of another model family",
}
"""What each repair fixes."""


def agreement_with(models: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Return the model that wrote the gold answers. None if no model did. Figures are agreement with such a model."""
    return next((m["agreement_with"] for m in models.values() if m.get("agreement_with") is not None), None)


def labels(models: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return each model's label: its name, or "base (60 of 242 rows)" if it answered a sample."""
    return {
        name: f"{name} ({model['rows']:,} of {model['sampled_from']:,} rows)" if model.get("sampled_from") else name
        for name, model in models.items()
    }


def date_time(stamp: Any) -> str:
    """Return an ISO 8601 time to the minute: "2025-11-02 10:36"."""
    return str(stamp)[:16].replace("T", " ")


_LONGEST = 6_000


def shortened(text: str) -> str:
    """Return the text. If it is too long for a page, return its start and the number of characters left out."""
    if len(text) <= _LONGEST:
        return text
    return f"{text[:_LONGEST]} … ({len(text) - _LONGEST:,} more characters)"


def visible(text: str) -> str:
    """Return the text with every invisible character (control, format, unusual white space) as an escape.

    Values that differ then look different, and no character can change the direction of the text after it.
    """
    if text.isprintable():  # true of most texts
        return text
    return "".join(_escape(c) if _is_invisible(c) else c for c in text)


def legible(text: str) -> str:
    """Return a text of several lines with control and text-direction characters as escapes.

    Line breaks, tabs, and joiners within an emoji or a word stay.
    """
    if text.replace("\n", "").isprintable():
        return text
    return "".join(_escape(c) if unicodedata.category(c) in _NOT_LEGIBLE and c not in _KEPT else c for c in text)


_NOT_LEGIBLE = {"Cc", "Cf", "Cs"}
_KEPT = "\n\t\u200c\u200d"


def _is_invisible(character: str) -> bool:
    return character != " " and unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zs", "Zl", "Zp"}


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
