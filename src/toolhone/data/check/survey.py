"""`toolhone data check FILES`: one pass over conversations in any format that finds all faults.

`check` finds what training refuses, `Survey` all that is worth saying, and `check_files` both in whole files. Rows are
not kept, only hashes of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from toolhone.data.check.across_rows import Balance, SeenRows, SeenTools
from toolhone.data.check.finding import Finding, finding_of, refuse_findings
from toolhone.data.check.fix import Fixed, Fixer, plan_copies
from toolhone.data.check.length import RenderChecks
from toolhone.data.check.one_row import (
    call_faults,
    expected_findings,
    invented_values,
    schema_faults,
    turn_faults,
    turn_warnings,
)
from toolhone.data.check.openai_profile import openai_findings
from toolhone.data.check.schema import ToolSets
from toolhone.data.check.secrets import private_findings
from toolhone.data.files import expand_source
from toolhone.data.importers.importer import RowFault
from toolhone.data.read import read_source, read_tools
from toolhone.errors import UserError
from toolhone.progress_bar import counted
from toolhone.records import Conversation

if TYPE_CHECKING:
    from rich.console import Console

PROFILES = ("openai",)


def check(conversations: Iterable[Conversation]) -> Iterator[Finding]:
    """Yield every error, in the order of the rows: what a model must not be taught."""
    faults = _Faults()
    for row in conversations:
        yield from (finding for finding in faults.findings(row) if finding.severity == "error")


def refuse_faults(conversations: list[Conversation]) -> None:
    """Raise one `UserError` with the errors, if there are any. Warnings and advice pass."""
    refuse_findings(check(conversations))


class _Faults:
    """What both passes find: ids, turns, schemas, calls and `expected`."""

    def __init__(self) -> None:
        self.tool_sets = ToolSets()
        self._places: dict[str, str] = {}  # of the rows so far, by id
        self._schemas_reported: set[bytes] = set()

    def findings(self, row: Conversation) -> Iterator[Finding]:
        tools = self.tool_sets.get(row.tools)
        place = self._places.setdefault(row.id, row.where)
        if place is not row.where:
            text = f'the id "{row.id}" is already at {place}; ids must differ'
            yield Finding(row.where, "duplicate-id", text, remedy="give the row its own id, or take it out")
        yield from turn_faults(row)
        if tools.unusable and tools.key not in self._schemas_reported:
            self._schemas_reported.add(tools.key)
            yield from schema_faults(row.where, tools)
        yield from call_faults(row, tools)
        if row.expected is not None:
            yield from expected_findings(row, tools)


class Survey:
    """One pass that finds everything: `row` for each conversation in turn, then `end`.

    `balance` holds the counts. With `near`, the user's texts are kept, so memory grows with the data.
    """

    def __init__(self, *, near: bool = False) -> None:
        self.balance = Balance()
        self._faults = _Faults()
        self._rows = SeenRows(near=near)
        self._tools = SeenTools()

    def row(self, row: Conversation) -> Iterator[Finding]:
        """The findings of a row: its own, and those of it and the rows before it."""
        self.balance.add(row)
        yield from self._faults.findings(row)
        tools = self._faults.tool_sets.get(row.tools)
        yield from turn_warnings(row)
        yield from invented_values(row, tools.vocabulary)
        yield from private_findings(row)
        yield from self._tools.findings(row, tools)
        yield from self._rows.findings(row, tools)

    def end(self, where: str) -> Iterator[Finding]:
        """The findings on all rows together, with `where` for their place."""
        yield from self._rows.near_findings()
        yield from self.balance.findings(where)


@dataclass(frozen=True, slots=True)
class FileCheck:
    """A check of files that runs as `found` is read: first what was fixed, then the findings. `balance` is complete
    after that. `copies` are the files that --fix writes."""

    found: Iterator[Fixed | Finding]
    balance: Balance
    copies: list[str]


def check_files(
    files: Sequence[str],
    tools: Path | None = None,
    *,
    format: str = "auto",
    profile: str | None = None,
    tokenizer: str | None = None,
    chat_format: str | None = None,
    max_tokens: int | None = None,
    near: bool = False,
    fix: Path | None = None,
    console: Console | None = None,
) -> FileCheck:
    """Prepare a check of files, folders, globs or `hub:` names. It runs as its `found` is read.

    `tools` is a JSON list for rows without tools. With `profile` "openai", OpenAI's own rules apply too. With a
    `tokenizer`, `chat_format` or `max_tokens`, each turn is rendered, read back, and its tokens counted. `near` also
    searches near duplicates and keeps texts in memory. With `fix`, a fixed copy is written there and checked instead.

    Raises:
        UserError: if a file cannot be opened, or an argument is wrong.
    """
    if profile is not None and profile not in PROFILES:
        raise UserError(f'--profile: unknown profile "{profile}"; known: {", ".join(PROFILES)}')
    default_tools = read_tools(tools) if tools else ()
    wants_rendering = tokenizer is not None or chat_format is not None or max_tokens is not None
    render = RenderChecks(tokenizer, chat_format or "auto", max_tokens) if wants_rendering else None
    copies = plan_copies(files, fix) if fix is not None else []
    for file in files:  # so that a wrong name is an error before anything is printed
        expand_source(file)
    sources = [str(copy) for _, copy in copies] or list(files)
    where = ", ".join(sources)
    survey = Survey(near=near)

    def found() -> Iterator[Fixed | Finding]:
        fixer = Fixer(default_tools)
        for file, copy in copies:
            yield from fixer.write(file, copy)
        for source in sources:
            for row in counted(read_source(source, default_tools, format), console, "checking"):
                if isinstance(row, RowFault):
                    yield finding_of(row)
                    continue
                yield from survey.row(row)
                if render is not None:
                    yield from render.findings(row)
        if profile == "openai":
            yield from openai_findings((file for source in sources for file in expand_source(source)), where)
        yield from survey.end(where)
        if not survey.balance.rows:
            yield Finding(where, "no-rows", "not one row that could be read", remedy="name files with rows")

    return FileCheck(found(), survey.balance, [str(copy) for _, copy in copies])
