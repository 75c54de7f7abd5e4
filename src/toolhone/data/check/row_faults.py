"""What reading found, as findings: a fault's rule says how grave it is and how to mend it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from toolhone.data.check.finding import Finding, Severity
from toolhone.data.check.passes import refuse_findings
from toolhone.data.read import RowFault
from toolhone.errors import UserError
from toolhone.records import Conversation

_MILD: dict[str, Severity] = {
    "bom": "warning",
    "nul-escape": "warning",
    "tools-file": "warning",
    # What a log is bound to hold: there is nothing to mend, and nothing to learn.
    "log-error": "warning",
    "log-truncated": "warning",
    "log-filtered": "warning",
    "log-refusal": "warning",
    "log-empty": "warning",
    "log-no-history": "warning",
    "log-hosted-tool": "warning",
    "log-repeated": "advice",
    "log-choices": "advice",
    "log-forced": "advice",
}
"""Rules of faults that leave the row readable, or that need no mending; by all others a row is lost."""

_REMEDIES = {
    "arguments-encoded-twice": "encode the arguments once (--fix does)",
    "bad-arguments": "write the arguments as one JSON object",
    "bad-role": "the roles are system, user, assistant, tool",
    "bom": "save it without the mark (--fix does)",
    "broken-json": "write each row as one JSON object on one line",
    "duplicate-key": "leave one of the two: readers differ in which they take",
    "encoding": "save the file as UTF-8",
    "nan": "write null, a number or a text",
    "not-an-object": "write each row as one JSON object on one line",
    "nul": "take the character out",
    "null-filled-schema": "take the nulls out (--fix does)",
    "surrogate": "write the whole character",
}


def sound_rows(
    found: Iterable[Conversation | RowFault], left_out: Counter[str] | None = None
) -> Iterator[Conversation]:
    """Yield the conversations, and refuse at the end should any row have been lost to a fault that must be mended.

    `left_out` counts by rule the rows that are left out without need of mending.

    Raises:
        UserError: with every such row, after the last conversation.
    """
    lost: list[Finding] = []
    place = None  # a fault on the place of the conversation before or after it is a note on that
    for row in found:
        if isinstance(row, RowFault):
            finding = finding_of(row)
            if finding.severity == "error":
                lost.append(finding)
            elif left_out is not None and row.rule.startswith("log-") and row.where != place:
                left_out[row.rule] += 1
        else:
            place = row.where
            yield row
    try:
        refuse_findings(lost)
    except UserError as error:
        raise UserError(f"{error}\nmend these rows first: `toolhone data check` names all") from None


def finding_of(fault: RowFault) -> Finding:
    """A fault that `read_source` gave, as a finding."""
    severity = _MILD.get(fault.rule, "error")
    if fault.rule == "nul" and "\\u0000" in fault.message:  # escaped, so that the row could be read
        severity = "warning"
    return Finding(fault.where, fault.rule, fault.message, severity, _REMEDIES.get(fault.rule, ""))
