"""A finding: one fault of a row or a file, with its place, its severity and how to fix it.

Reading faults (`RowFault`) also become findings here. A finding of severity error stops a command.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from toolhone.data.importers.importer import RowFault
from toolhone.errors import UserError
from toolhone.records import Conversation

# error: must not be trained on; warning: probably wrong, check it; advice: worth knowing.
Severity = Literal["error", "warning", "advice"]

_SHOWN = 20
_PLACES = 5

# Rules of rows that are left out and need no fix, as is normal in a log. Any other reading error must be fixed.
_LEFT_OUT = frozenset(
    {"log-error", "log-truncated", "log-filtered", "log-refusal", "log-empty", "log-no-history", "log-hosted-tool"}
    | {"log-broken-call", "log-other", "log-repeated", "tools-file", "content-not-text"}
    | {"log-no-request", "log-no-response", "log-not-stored", "log-broken-json"}
)
_WARNINGS = {"bom", "log-id-reused"} | _LEFT_OUT
_ADVICE = {"log-choices", "log-forced", "log-prefill", "log-unused-result", "rejected-answer"}

LeftOut = dict[str, list[str]]
"""By rule, the places of the rows that were left out and need no fix."""

_REMEDIES = {
    "arguments-encoded-twice": "encode the arguments once (--fix does)",
    "bad-arguments": "write the arguments as one JSON object",
    "bad-role": "use one of the roles system, user, assistant, tool",
    "bom": "save the file without the mark (--fix does)",
    "broken-json": "write each row as one JSON object on one line",
    "duplicate-key": "delete one of the two keys: readers differ in which one they use",
    "encoding": "save the file as UTF-8",
    "nan": "write null, a number or a string",
    "not-an-object": "write each row as one JSON object on one line",
    "nul": "remove the character",
    "null-filled-schema": "remove the nulls (--fix does)",
    "surrogate": "write the whole character",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault. `where` is file:line, or the names of all files for a fault of the whole data set. `rule` is the kind
    of fault, `remedy` how to fix it. Two findings that differ only in `remedy` are equal."""

    where: str
    rule: str
    message: str
    severity: Severity = "error"
    remedy: str = field(default="", compare=False)


def finding_of(fault: RowFault) -> Finding:
    """The finding for a fault from `read_source`."""
    severity: Severity = "advice" if fault.rule in _ADVICE else "error"
    escaped_nul = fault.rule == "nul" and "\\u0000" in fault.message  # the row can still be read
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
    """Yield the conversations, and add the rows that are left out to `left_out`.

    Raises:
        UserError: after the last conversation, if rows must be fixed; it names them all.
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
        raise UserError(f"{error}\nfix these rows first; `toolhone data check` lists them all") from None


def describe_left_out(left_out: LeftOut) -> str:
    """How many rows were left out, by rule, with their first places; "" if none were."""
    if not left_out:
        return ""
    total = sum(map(len, left_out.values()))
    kinds = [f"{len(places):,} {rule} ({_first_places(places)})" for rule, places in left_out.items()]
    return f"left out {total:,} row{'s' if total > 1 else ''}: {', '.join(kinds)}; `toolhone data check` says why"


def _first_places(places: Sequence[str]) -> str:
    more = ", ..." if len(places) > _PLACES else ""
    return ", ".join(places[:_PLACES]) + more
