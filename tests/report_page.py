"""Reads a report as a user sees it: the parsed page, and page, Markdown and terminal table as text."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

from rich.console import Console

from toolhone.report.report import write_report
from toolhone.report.tables import summary_table

Attributes = dict[str, str | None]


class Page(HTMLParser):
    """Collects the tags of a page, its text outside style and script, and the text of its scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, Attributes]] = []
        self.text = ""
        self.scripts: list[str] = []
        self._within = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._within = tag

    def handle_endtag(self, tag: str) -> None:
        self._within = ""

    def handle_data(self, data: str) -> None:
        if self._within == "script":
            self.scripts.append(data)
        elif self._within != "style":
            self.text += data

    def of_tag(self, name: str) -> list[Attributes]:
        return [attributes for tag, attributes in self.tags if tag == name]

    def of_class(self, name: str) -> list[Attributes]:
        return [attributes for _, attributes in self.tags if name in (attributes.get("class") or "").split()]


def page_of(run: Path) -> Page:
    """Write the report of a run and parse the page."""
    write_report(run)
    return Page((run / "report.html").read_text(encoding="utf-8"))


def drawn(run: Path) -> tuple[str, str, str]:
    """Write the report of a run. Returns the page, report.md and the short table as text."""
    write_report(run)
    out = StringIO()
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    Console(file=out, width=200).print(summary_table(metrics))
    return *((run / name).read_text(encoding="utf-8") for name in ("report.html", "report.md")), out.getvalue()
