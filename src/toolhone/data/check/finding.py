"""A finding: one fault of one row or file, with its place, how serious it is and how to fix it.

Faults of reading (`RowFault`) become findings here too, and errors among findings stop a command.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from toolhone.data.importers.importer import RowFault
from toolhone.errors import UserError
from toolhone.records import Conversation

# error: must not be trained on; warning: most likely wrong, look at it; advice: worth knowing.
Severity = Literal["error", "warning", "advice"]

_SHOWN = 20
_PLACES = 5

# Rows that are left out and need no fix, as is normal in a log. By any other error of reading a row is lost.
_LEFT_OUT = frozenset(
    {"log-error", "log-truncated", "log-filtered", "log-refusal", "log-empty", "log-no-history", "log-hosted-tool"}
    | {"log-broken-call", "log-other", "log-repeated", "tools-file"}
)
_WARNINGS = {"bom", "log-id-reused"} | _LEFT_OUT
_ADVICE = {"log-choices", "log-forced"}

LeftOut = dict[str, list[str]]
"""By rule, the places of the rows that were left out and need no fix."""

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


def sound_rows(found: Iterable[Conversation | RowFault], left_out: LeftOut) -> Iterator[Conversation]:
    """Yield the conversations, add to `left_out` what is left out, and raise at the end if a row must be fixed.

    Raises:
        UserError: with every row that must be fixed, after the last conversation.
    """
    lost: list[Finding] = []
    for row in found:
        if not isinstance(row, RowFault):
            yield row
            continue
        finding = finding_of(row)
        if finding.severity == "error":
            lost.append(finding)
        elif row.rule in _LEFT_OUT:
            left_out.setdefault(row.rule, []).append(row.where)
    try:
        refuse_findings(lost)
    except UserError as error:
        raise UserError(f"{error}\nfix these rows first: `toolhone data check` names all") from None


def describe_left_out(left_out: LeftOut) -> str:
    """How many rows were left out, by rule, with the first places; "" if none were."""
    if not left_out:
        return ""
    total = sum(map(len, left_out.values()))
    kinds = [f"{len(places):,} {rule} ({_first_places(places)})" for rule, places in left_out.items()]
    return f"left out {total:,} row{'s' if total > 1 else ''}: {', '.join(kinds)}; `toolhone data check` says why"


def _first_places(places: Sequence[str]) -> str:
    more = ", ..." if len(places) > _PLACES else ""
    return ", ".join(places[:_PLACES]) + more
