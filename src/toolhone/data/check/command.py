"""`toolhone data check FILES`: one pass over conversations in any format, and a report of all that was found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from toolhone.data.check.finding import Finding
from toolhone.data.check.fix import Fixer, plan_copies
from toolhone.data.check.length import RenderChecks
from toolhone.data.check.openai_profile import OpenAIProfile
from toolhone.data.check.passes import Survey
from toolhone.data.check.row_faults import finding_of
from toolhone.data.files import expand_source, iter_file
from toolhone.data.read import RowFault, read_source, read_tools
from toolhone.errors import UserError
from toolhone.progress_bar import counted
from toolhone.records import Tool
from toolhone.report.check_findings import JsonReport, Report, TextReport

PROFILES = ("openai",)


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
    json_output: bool = False,
    fix: Path | None = None,
    console: Console,
) -> int:
    """Check files, print the findings and a summary, and return the exit code: 1 where there are errors, else 0.

    Args:
        files: files, folders, globs or `hub:` names.
        tools: a JSON list of tools, for rows without any of their own.
        format: the rows' format, or "auto".
        profile: "openai" for OpenAI's own rules beside toolhone's.
        tokenizer: a name or folder; each turn is then rendered, read back, and its tokens counted.
        chat_format: the format that turns must come back from; with a tokenizer "auto" by default.
        max_tokens: the longest example; needs a tokenizer.
        near: look for near duplicates too; texts are then kept in memory.
        json_output: print JSON instead of text.
        fix: where to write a mended copy. The findings are then those of the copy.
        console: where to print.

    Raises:
        UserError: where a file cannot be opened, or an argument is wrong.
    """
    if profile is not None and profile not in PROFILES:
        raise UserError(f'--profile: unknown profile "{profile}"; known: {", ".join(PROFILES)}')
    default_tools = read_tools(tools) if tools else ()
    wants_rendering = tokenizer is not None or chat_format is not None or max_tokens is not None
    render = RenderChecks(tokenizer, chat_format or "auto", max_tokens) if wants_rendering else None
    sources = [str(file) for file in files]
    copies = plan_copies(sources, fix) if fix is not None else []
    for source in sources:  # a name that is wrong is told before anything is printed
        expand_source(source)
    report: Report = JsonReport(console) if json_output else TextReport(console)
    if copies:
        fixer = Fixer(default_tools)
        for file, copy in copies:
            for mended in fixer.write(file, copy):
                report.mended(mended)
        sources = [str(copy) for _, copy in copies]
    survey = Survey(near=near)
    where = ", ".join(sources)
    found = (
        (
            finding
            for source in sources
            for finding in _findings(source, survey, render, default_tools, format, console)
        ),
        _profile_findings(sources, where) if profile == "openai" else (),
        survey.end(where),
    )
    for findings in found:
        for finding in findings:
            report.finding(finding)
    if not survey.balance.rows:
        report.finding(Finding(where, "no-rows", "not one row that could be read", remedy="name files with rows"))
    report.end(survey.balance, [str(copy) for _, copy in copies])
    return 1 if any(severity == "error" for severity, _ in report.counts) else 0


def _findings(
    source: str,
    survey: Survey,
    render: RenderChecks | None,
    default_tools: tuple[Tool, ...],
    format: str,
    console: Console,
) -> Iterator[Finding]:
    for row in counted(read_source(source, default_tools, format), console, "checking"):
        if isinstance(row, RowFault):
            yield finding_of(row)
            continue
        yield from survey.row(row)
        if render is not None:
            yield from render.findings(row)


def _profile_findings(sources: Sequence[str], where: str) -> Iterator[Finding]:
    """A second reading, for OpenAI's rules are about rows as they are written."""
    profile = OpenAIProfile()
    for file in (file for source in sources for file in expand_source(source)):
        yield from profile.file(file)
        for row in iter_file(file):
            yield from profile.row(row)
    yield from profile.end(where)
