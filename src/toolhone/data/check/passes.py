"""The passes over conversations: `check` for what training refuses, `Survey` for all that is worth saying.

Both take rows as they come and keep hashes of them, not the rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from toolhone.data.check.balance import Balance
from toolhone.data.check.calls import ToolSet, ToolSets, call_faults, expected_findings, schema_faults
from toolhone.data.check.finding import Finding
from toolhone.data.check.invented import invented_values
from toolhone.data.check.private import private_findings
from toolhone.data.check.repeats import SeenIds, SeenRows, SeenTools
from toolhone.data.check.turns import turn_faults, turn_warnings
from toolhone.errors import UserError
from toolhone.records import Conversation

_SHOWN = 20


class _Faults:
    """What both passes find: ids, turns, schemas, calls and `expected`."""

    def __init__(self) -> None:
        self._ids = SeenIds()
        self._tool_sets = ToolSets()
        self._schemas_told: set[bytes] = set()

    def tools(self, row: Conversation) -> ToolSet:
        return self._tool_sets.get(row.tools)

    def findings(self, row: Conversation, tools: ToolSet) -> Iterator[Finding]:
        yield from self._ids.findings(row)
        yield from turn_faults(row)
        if tools.unusable and tools.key not in self._schemas_told:
            self._schemas_told.add(tools.key)
            yield from schema_faults(row.where, tools)
        yield from call_faults(row, tools)
        if row.expected is not None:
            yield from expected_findings(row, tools)


def check(conversations: Iterable[Conversation]) -> Iterator[Finding]:
    """Yield every error, in the order of the rows: what a model must not be taught."""
    faults = _Faults()
    for row in conversations:
        for finding in faults.findings(row, faults.tools(row)):
            if finding.severity == "error":
                yield finding


def refuse_faults(conversations: list[Conversation]) -> None:
    """Raise one `UserError` with the errors, should there be any. Warnings and advice are let through."""
    refuse_findings(check(conversations))


def refuse_findings(findings: Iterable[Finding]) -> None:
    """Raise one `UserError` with all findings, should there be any."""
    told = list(findings)
    if told:
        lines = [f"{finding.where}: {finding.message}" for finding in told[:_SHOWN]]
        if len(told) > _SHOWN:
            lines.append(f"... and {len(told) - _SHOWN} more")
        raise UserError("\n".join(lines))


class Survey:
    """One pass that finds everything: `row` for each conversation in turn, then `end`.

    `balance` holds the counts. With `near`, the user's texts are kept, and so memory grows with the data.
    """

    def __init__(self, *, near: bool = False) -> None:
        self.balance = Balance()
        self._faults = _Faults()
        self._rows = SeenRows(near=near)
        self._tools = SeenTools()

    def row(self, row: Conversation) -> Iterator[Finding]:
        """The findings of a row: its own, and those against the rows before it."""
        tools = self._faults.tools(row)
        self.balance.add(row)
        yield from self._faults.findings(row, tools)
        yield from turn_warnings(row)
        yield from invented_values(row, tools.vocabulary)
        yield from private_findings(row)
        yield from self._tools.findings(row, tools)
        yield from self._rows.findings(row, tools)

    def end(self, where: str) -> Iterator[Finding]:
        """The findings on all rows together, with `where` for their place."""
        yield from self._rows.near_findings()
        yield from self.balance.findings(where)
