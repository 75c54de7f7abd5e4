"""A finding: one fault of one row or file, with its place, how serious it is and how to fix it.

Faults of reading (`RowFault`) become findings here too, and errors among findings stop a command.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from toolhone.data.importers.importer import RowFault
from toolhone.errors import UserError
from toolhone.records import Conversation

# error: must not be trained on; warning: most likely wrong, look at it; advice: worth knowing.
Severity = Literal["error", "warning", "advice"]

_SHOWN = 20

# Reading faults that leave the row readable, or that are normal in a log and need no fix. By all others a row is lost.
_NORMAL_IN_LOGS = "log-error log-truncated log-filtered log-refusal log-empty log-no-history log-hosted-tool"
_WARNINGS = {"bom", "tools-file", *_NORMAL_IN_LOGS.split()}
_ADVICE = {"log-repeated", "log-choices", "log-forced"}

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


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault: `where` is file:line (or all the files, for a fault of them together), `rule` its kind. Two findings
    that differ only in `remedy` are equal."""

    where: str
    rule: str
    message: str
    severity: Severity = "error"
    remedy: str = field(default="", compare=False)


def finding_of(fault: RowFault) -> Finding:
    """The finding for a fault that `read_source` gave."""
    severity: Severity = "advice" if fault.rule in _ADVICE else "error"
    escaped_nul = fault.rule == "nul" and "\\u0000" in fault.message  # then the row could be read
    if fault.rule in _WARNINGS or escaped_nul:
        severity = "warning"
    return Finding(fault.where, fault.rule, fault.message, severity, _REMEDIES.get(fault.rule, ""))


def refuse_findings(findings: Iterable[Finding]) -> None:
    """Raise one `UserError` with all findings, if there are any."""
    refuse_all([f"{finding.where}: {finding.message}" for finding in findings])


def refuse_all(faults: Sequence[str]) -> None:
    """Raise one `UserError` with the first faults and the number of the others, if there are any."""
    if faults:
        more = [f"... and {len(faults) - _SHOWN} more"] if len(faults) > _SHOWN else []
        raise UserError("\n".join([*faults[:_SHOWN], *more]))


def sound_rows(
    found: Iterable[Conversation | RowFault], left_out: Counter[str] | None = None
) -> Iterator[Conversation]:
    """Yield the conversations, and raise at the end if a row was lost to a fault that must be fixed.

    `left_out` counts by rule the rows that are left out and need no fix.

    Raises:
        UserError: with every such row, after the last conversation.
    """
    lost: list[Finding] = []
    place = None  # a fault at the place of the conversation before or after it is a note on that
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
        raise UserError(f"{error}\nfix these rows first: `toolhone data check` names all") from None
