"""Prints the findings of `toolhone data check`: as text, grouped by rule, or as JSON, in the order they are found.

The text shows the first findings of each rule and counts the others, so a file with a million faults needs little
memory.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from toolhone.data.check.across_rows import Balance
from toolhone.data.check.drift import ToolVersion, changes
from toolhone.data.check.finding import Finding, Severity
from toolhone.data.check.fix import Fixed
from toolhone.data.check.survey import FileCheck
from toolhone.report.numbers import counted

SHOWN = 10
"""How many findings of a rule are printed; --json prints all."""

_STYLES: dict[Severity, str] = {"error": "bold red", "warning": "bold yellow", "advice": "bold cyan"}
"""The severities, the most serious first."""

_Counts = Counter[tuple[Severity, str]]
"""Findings by severity and rule."""


def print_findings(check: FileCheck, console: Console, *, as_json: bool = False) -> int:
    """Run the check and print what was fixed, the findings and a summary. Returns the exit code: 1 if there are errors,
    otherwise 0."""
    counts = _print_json(check, console) if as_json else _print_text(check, console)
    return 1 if _total(counts, "error") else 0


def _print_text(check: FileCheck, console: Console) -> _Counts:
    """Print each fix as it is done, then the findings by rule, the most serious first, and a summary."""
    counts: _Counts = Counter()
    fixed: Counter[str] = Counter()
    kept: dict[tuple[Severity, str], list[Finding]] = {}
    for entry in check.found:
        if isinstance(entry, Fixed):
            fixed[entry.rule] += 1
            if fixed[entry.rule] <= SHOWN:
                console.print(f"{entry.where}: fixed ({entry.rule}): {entry.message}", markup=False)
            elif fixed[entry.rule] == SHOWN + 1:
                console.print(f"... more rows fixed ({entry.rule}); they are counted below", markup=False)
        else:
            key = (entry.severity, entry.rule)
            counts[key] += 1
            if counts[key] <= SHOWN:
                kept.setdefault(key, []).append(entry)
    if check.copies:
        done = ", ".join(f"{rule} {count:,}" for rule, count in sorted(fixed.items()))
        console.print(f"wrote {', '.join(check.copies)}; fixed: {done or 'nothing'}", markup=False)
    for severity in _STYLES:
        for key in sorted(key for key in kept if key[0] == severity):
            _print_group(kept[key], counts[key], console)
    for name, versions in check.tools.drifted().items():
        console.print(_versions_table(name, versions))
    console.print(_summary(check.balance), markup=False)
    console.print(_verdict(counts), markup=False)
    return counts


def _print_group(kept: Sequence[Finding], count: int, console: Console) -> None:
    """Print the first findings of a rule, and how many there are."""
    severity, rule = kept[0].severity, kept[0].rule
    title = Text.assemble((severity, _STYLES[severity]), f" {rule}", (f" ({count:,})" if count > 1 else "", "dim"))
    console.print(title)
    remedies = {finding.remedy for finding in kept}
    for finding in kept:
        console.print(f"  {finding.where}: {finding.message}", markup=False)
        if len(remedies) > 1 and finding.remedy:
            console.print(f"    fix: {finding.remedy}", markup=False)
    if count > len(kept):
        console.print(f"  ... and {count - len(kept):,} more", markup=False)
    if len(remedies) == 1 and kept[0].remedy:
        console.print(f"  fix: {kept[0].remedy}", markup=False)


def _versions_table(name: str, versions: Sequence[ToolVersion]) -> Table:
    """The versions of a tool, the newest last, and what changed from each to the next."""
    table = Table(title=Text(f"Versions of {name}"), title_justify="left", title_style="bold")
    table.add_column("", justify="right")
    table.add_column("Rows", justify="right")
    dated = any(version.first_date for version in versions)
    for heading in (*(("First", "Last") if dated else ()), "First row", "Changes"):
        table.add_column(heading, overflow="fold")
    for number, version in enumerate(versions[-SHOWN:], max(1, len(versions) - SHOWN + 1)):
        dates = (version.first_date, version.last_date) if dated else ()
        changed = "\n".join(changes(versions[number - 2].tool, version.tool)) if number > 1 else ""
        table.add_row(str(number), f"{version.rows:,}", *dates, Text(version.where), Text(changed))
    return table


def _print_json(check: FileCheck, console: Console) -> _Counts:
    """Write one JSON object, one entry at a time. Its keys are a public format: "mended" stays."""
    counts: _Counts = Counter()
    fixed: Counter[str] = Counter()

    def write(text: str) -> None:
        # Bypasses rich, which would wrap and colour. UTF-8 cannot encode half of a surrogate pair, so it is escaped.
        console.file.write(text.encode("utf-8", "backslashreplace").decode())

    # What to write before the next entry. Writing it with the entry means that an early error prints no partial object.
    before, next_list = '{"mended": [', '\n], "findings": ['
    for entry in check.found:
        if isinstance(entry, Fixed):
            fixed[entry.rule] += 1
        else:
            before = before if counts else before.removesuffix(",") + next_list
            counts[entry.severity, entry.rule] += 1
        write(f"{before}\n{json.dumps(asdict(entry), ensure_ascii=False)}")
        before = ","
    balance = check.balance
    summary = {
        "rows": balance.rows,
        "turns": balance.turns,
        "calls": balance.calls.total(),
        "rows_without_call": balance.rows_without_call,
        "calls_by_tool": dict(sorted(balance.calls.items())),
        "tools": sorted(balance.offered),
        "languages": dict(sorted(balance.languages.items())),
        "errors": _total(counts, "error"),
        "warnings": _total(counts, "warning"),
        "advice": _total(counts, "advice"),
        "findings_by_rule": {rule: count for (_, rule), count in sorted(counts.items())},
        "mended_by_rule": dict(sorted(fixed.items())),
        "copies": check.copies,
        "tool_versions": {name: _versions_json(each) for name, each in check.tools.drifted().items()},
    }
    end = "" if counts else before.removesuffix(",") + next_list
    write(f'{end}\n], "summary": {json.dumps(summary, ensure_ascii=False)}}}\n')
    return counts


def _versions_json(versions: Sequence[ToolVersion]) -> list[dict[str, Any]]:
    pairs = zip([None, *versions], versions, strict=False)
    return [
        {
            "rows": new.rows,
            "first_date": new.first_date or None,
            "last_date": new.last_date or None,
            "where": new.where,
            "changes": changes(old.tool, new.tool) if old is not None else [],
        }
        for old, new in pairs
    ]


def _summary(balance: Balance) -> str:
    calls, tools = balance.calls.total(), len(balance.offered | set(balance.calls))
    text = f"{balance.rows:,} conversations, {balance.turns:,} assistant turns, {calls:,} calls, {tools:,} tools"
    if balance.languages:
        text += "; " + ", ".join(f"{name} {count:,}" for name, count in balance.languages.most_common(8))
    return text


def _verdict(counts: _Counts) -> str:
    if not any(severity != "advice" for severity, _ in counts):
        return "no faults found"
    return f"{counted(_total(counts, 'error'), 'error')}, {counted(_total(counts, 'warning'), 'warning')}"


def _total(counts: _Counts, wanted: Severity) -> int:
    return sum(count for (severity, _), count in counts.items() if severity == wanted)
