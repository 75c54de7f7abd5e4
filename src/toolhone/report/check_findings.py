"""Prints the findings of `toolhone data check`: for a person grouped by rule, for a program as JSON, as they come.

Of each rule the first few are kept and the others counted, so a file with a million faults needs little memory.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.text import Text

from toolhone.data.check.across_rows import Balance
from toolhone.data.check.finding import Finding, Severity
from toolhone.data.check.fix import Fixed
from toolhone.data.check.survey import FileCheck

SHOWN = 10
"""Findings of a rule that are printed; --json gives all."""

_ORDER: tuple[Severity, ...] = ("error", "warning", "advice")
_STYLES = {"error": "bold red", "warning": "bold yellow", "advice": "bold cyan"}


def print_findings(check: FileCheck, console: Console, *, as_json: bool = False) -> int:
    """Run the check, print what was fixed, the findings and a summary, and return the exit code: 1 if there are errors,
    else 0."""
    report = _JsonReport(console) if as_json else _TextReport(console)
    for entry in check.found:
        if isinstance(entry, Fixed):
            report.fixed(entry)
        else:
            report.finding(entry)
    report.end(check.balance, check.copies)
    return 1 if _total(report.counts, "error") else 0


@dataclass(slots=True)
class _TextReport:
    """Collects findings and prints them with `end`."""

    console: Console
    counts: Counter[tuple[Severity, str]] = field(default_factory=Counter)
    kept: dict[tuple[Severity, str], list[Finding]] = field(default_factory=dict)
    fixed_counts: Counter[str] = field(default_factory=Counter)

    def fixed(self, fixed: Fixed) -> None:
        """Print what was done to a row."""
        self.fixed_counts[fixed.rule] += 1
        count = self.fixed_counts[fixed.rule]
        if count <= SHOWN:
            self.console.print(f"{fixed.where}: fixed ({fixed.rule}): {fixed.message}", markup=False)
        elif count == SHOWN + 1:
            self.console.print(f"... more rows fixed ({fixed.rule}); they are counted below", markup=False)

    def finding(self, finding: Finding) -> None:
        key = (finding.severity, finding.rule)
        self.counts[key] += 1
        kept = self.kept.setdefault(key, [])
        if len(kept) < SHOWN:
            kept.append(finding)

    def end(self, balance: Balance, copies: list[str]) -> None:
        """Print the findings, the most serious first, and the summary."""
        if copies:
            done = ", ".join(f"{rule} {count:,}" for rule, count in sorted(self.fixed_counts.items()))
            self.console.print(f"wrote {', '.join(copies)}; fixed: {done or 'nothing'}", markup=False)
        for severity in _ORDER:
            for key in sorted(key for key in self.kept if key[0] == severity):
                self._group(key)
        self.console.print(_counted(balance), markup=False)
        self.console.print(_verdict(self.counts), markup=False)

    def _group(self, key: tuple[Severity, str]) -> None:
        severity, rule = key
        kept, count = self.kept[key], self.counts[key]
        title = Text.assemble((severity, _STYLES[severity]), f" {rule}", (f" ({count:,})" if count > 1 else "", "dim"))
        self.console.print(title)
        remedies = {finding.remedy for finding in kept}
        for finding in kept:
            self.console.print(f"  {finding.where}: {finding.message}", markup=False)
            if len(remedies) > 1 and finding.remedy:
                self.console.print(f"    fix: {finding.remedy}", markup=False)
        if count > len(kept):
            self.console.print(f"  ... and {count - len(kept):,} more", markup=False)
        if len(remedies) == 1 and kept[0].remedy:
            self.console.print(f"  fix: {kept[0].remedy}", markup=False)


class _JsonReport:
    """Writes one JSON object, `{"mended": [...], "findings": [...], "summary": {...}}`, piece by piece."""

    def __init__(self, console: Console) -> None:
        self.counts: Counter[tuple[Severity, str]] = Counter()
        self.fixed_counts: Counter[str] = Counter()
        self._console = console
        self._opened: list[str] = []
        self._first = True

    def fixed(self, fixed: Fixed) -> None:
        self.fixed_counts[fixed.rule] += 1
        self._open("mended")
        self._entry(asdict(fixed))

    def finding(self, finding: Finding) -> None:
        self.counts[finding.severity, finding.rule] += 1
        self._open("mended", "findings")
        self._entry(asdict(finding))

    def end(self, balance: Balance, copies: list[str]) -> None:
        self._open("mended", "findings")
        summary = {
            "rows": balance.rows,
            "turns": balance.turns,
            "calls": balance.calls.total(),
            "rows_without_call": balance.rows_without_call,
            "calls_by_tool": dict(sorted(balance.calls.items())),
            "tools": sorted(balance.offered),
            "languages": dict(sorted(balance.languages.items())),
            "errors": _total(self.counts, "error"),
            "warnings": _total(self.counts, "warning"),
            "advice": _total(self.counts, "advice"),
            "findings_by_rule": {rule: count for (_, rule), count in sorted(self.counts.items())},
            "mended_by_rule": dict(sorted(self.fixed_counts.items())),
            "copies": copies,
        }
        self._write(f'\n], "summary": {json.dumps(summary, ensure_ascii=False)}}}\n')

    def _open(self, *lists: str) -> None:
        """Open those of these lists that are not open yet: late, so that an earlier error leaves no half object."""
        for name in lists[len(self._opened) :]:
            self._write(f'\n], "{name}": [' if self._opened else f'{{"{name}": [')
            self._opened.append(name)
            self._first = True

    def _entry(self, row: dict[str, Any]) -> None:
        self._write(("\n" if self._first else ",\n") + json.dumps(row, ensure_ascii=False))
        self._first = False

    def _write(self, text: str) -> None:
        # Past rich, which would wrap and colour. Half of a surrogate pair in a message has no form in UTF-8.
        self._console.file.write(text.encode("utf-8", "backslashreplace").decode())


def _counted(balance: Balance) -> str:
    calls, tools = balance.calls.total(), len(balance.offered | set(balance.calls))
    text = f"{balance.rows:,} conversations, {balance.turns:,} assistant turns, {calls:,} calls, {tools:,} tools"
    if balance.languages:
        text += "; " + ", ".join(f"{name} {count:,}" for name, count in balance.languages.most_common(8))
    return text


def _verdict(counts: Counter[tuple[Severity, str]]) -> str:
    if not any(severity != "advice" for severity, _ in counts):
        return "no faults found"
    errors, warnings = _total(counts, "error"), _total(counts, "warning")
    return f"{errors:,} error{'s' * (errors != 1)}, {warnings:,} warning{'s' * (warnings != 1)}"


def _total(counts: Counter[tuple[Severity, str]], wanted: Severity) -> int:
    return sum(count for (severity, _), count in counts.items() if severity == wanted)
