"""The words of a report: what each measure and repair is called and means, and foreign text made safe to read.

A new rate of metrics.json needs one `Measure` here, in the group under which the page shows it.
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
        """The name to print: if the gold is another model's answers, the figure is agreement with that model."""
        return self.label if agreement_with is None else re.sub("match|accuracy", "agreement", self.label)


HEADLINE = (
    Measure("exact_match", "Exact match", "Whether to call, tools and arguments all right."),
    Measure(
        "tool_name_accuracy",
        "Tool-name accuracy",
        "The called tools are those expected, and none is called where none should be.",
    ),
    Measure(
        "argument_accuracy", "Argument accuracy", "Every argument right, among expected calls whose tool was called."
    ),
)

ARGUMENTS = (
    Measure("argument_precision", "Argument precision", "Right arguments among all that were given."),
    Measure("argument_recall", "Argument recall", "Right arguments among all that were expected."),
    Measure("argument_f1", "Argument F1", "Harmonic mean of the two."),
    Measure("argument_precision_given_name", "Precision, right tool", "The same in calls to the right tool alone."),
    Measure("argument_recall_given_name", "Recall, right tool", "The same in calls to the right tool alone."),
    Measure("argument_f1_given_name", "F1, right tool", "Harmonic mean of these two."),
)

ARGUMENT_ERRORS = (
    Measure("missing_argument_rate", "Missing arguments", "Expected in a call to the right tool, but not given."),
    Measure("invented_argument_rate", "Invented arguments", "Given in a call to the right tool, but not expected."),
    Measure("wrong_argument_rate", "Wrong values", "Expected and given, but with another value."),
)

BEHAVIOUR_ERRORS = (
    Measure("over_call", "Over-call", "Rows that expect no call and got one."),
    Measure("under_call", "Under-call", "Rows that expect a call and got none."),
    Measure("malformed", "Malformed", "Rows that tried to call and cannot be read."),
    Measure("truncated", "Truncated", "Rows cut off inside a call by the token limit."),
    Measure("partial", "Partial", "Rows in which one call could be read, another not."),
    Measure("invented_tool", "Invented tool", "Calls to a tool that was not offered."),
    Measure("missing_calls", "Missing calls", "Rows in which an expected call was not made."),
    Measure("extra_calls", "Extra calls", "Rows with a call beyond those expected."),
)

VALIDITY = (Measure("schema_valid", "Schema-valid", "Rows with calls that all satisfy their tools' JSON Schema."),)

MEASURES = (*HEADLINE, *ARGUMENTS, *ARGUMENT_ERRORS, *BEHAVIOUR_ERRORS, *VALIDITY)
"""The rates that every model has. Those below are of the figures under `repaired` and under `escalation`."""

REPAIRED = tuple(
    Measure(measure.key, f"{measure.label}, with repairs", "Over all rows, repaired ones too.")
    for measure in HEADLINE[:2]
)

ESCALATION = (
    Measure("handed_over", "Escalated", "Of the rows that should be: the reserved call escalate was made."),
    Measure("needless", "Needless escalations", "Of all other rows: it was made."),
    Measure("kept_exact_match", "Exact match, if kept", "Of the rows not escalated."),
)

SLICE_TITLES = {
    "language": "By language",
    "calls": "By number of expected calls",
    "turns": "By turn of the conversation",
    "tools": "By number of tools offered",
    "source": "By source",
    "seen": "By tool seen in training or not",
}

REPAIRS: dict[Repair, str] = {
    "python_literals": "single quotes, True, False, None or a comma before a closing bracket, as Python writes them",
    "arguments_as_text": "the arguments as a JSON text in place of an object",
    "code_fence": "a call in a code fence, where the format has none",
}
"""What each repair fixes."""


def agreement_with(models: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The model whose answers the gold was, if it was one: figures are then agreement with it."""
    return next((m["agreement_with"] for m in models.values() if m.get("agreement_with") is not None), None)


def labels(models: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """What each model is called beside its figures: its name, or "base (60 of 242 rows)" if it answered a sample."""
    return {
        name: f"{name} ({model['rows']:,} of {model['sampled_from']:,} rows)" if model.get("sampled_from") else name
        for name, model in models.items()
    }


def date_time(stamp: Any) -> str:
    """An ISO 8601 time of a manifest up to its minute: "2025-11-02 10:36"."""
    return str(stamp)[:16].replace("T", " ")


_LONGEST = 6_000


def shortened(text: str) -> str:
    """The text; if it is too long for a page, its beginning and the number of characters left out."""
    if len(text) <= _LONGEST:
        return text
    return f"{text[:_LONGEST]} … ({len(text) - _LONGEST:,} more characters)"


def visible(text: str) -> str:
    """The text with every character that leaves no mark of its own (control, format, odd white space) as an escape.

    Two values that differ then look different, and none can turn the direction of what follows.
    """
    if text.isprintable():  # true of most texts
        return text
    return "".join(_escape(c) if _leaves_no_mark(c) else c for c in text)


def legible(text: str) -> str:
    """A text of several lines, with control characters and those that turn the direction of what follows as escapes.

    Line breaks, tabs and the joiners within an emoji or a word stay.
    """
    if text.replace("\n", "").isprintable():
        return text
    return "".join(_escape(c) if unicodedata.category(c) in _NOT_LEGIBLE and c not in _KEPT else c for c in text)


_NOT_LEGIBLE = {"Cc", "Cf", "Cs"}
_KEPT = "\n\t\u200c\u200d"


def _leaves_no_mark(character: str) -> bool:
    return character != " " and unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zs", "Zl", "Zp"}


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
