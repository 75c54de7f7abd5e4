"""The table of the ways to answer: all large, small alone, the cascade, and beside it chance and the oracle."""

from __future__ import annotations

import textwrap

from rich.table import Table
from rich.text import Text

from toolhone.report import routing_wording as wording
from toolhone.report.numbers import percent
from toolhone.route.point import Point
from toolhone.route.resample import Figure
from toolhone.route.route import Case, Routing

HEADINGS = ("", "Handed over", "Right", "Cost of a call", "Of the large", "Latency", "Basis")


def models_table(routing: Routing, case: Case) -> Table:
    """The table for the terminal: shares of cost and of calls are without their intervals, and the title has the
    basis."""
    basis = f", the large model assumed: {wording.ERRORS[case.errors]}" if routing.assumed else ""
    title = Text(f"On {routing.reliability.rows:,} held-out rows{basis}")
    table = Table(title=title, title_justify="left", title_style="bold")
    for heading in HEADINGS[:-1]:
        # Broken in two, so that eighty columns hold the table.
        broken = "\n".join(textwrap.wrap(heading, 8))
        table.add_column(broken, justify="left" if heading == "" else "right", no_wrap=True)
    for cells in table_rows(routing, case):
        pairs = zip(HEADINGS[:-1], cells[:-1], strict=True)
        table.add_row(*(Text(cell if heading == "Right" else cell.partition(" [")[0]) for heading, cell in pairs))
    return table


def table_rows(routing: Routing, case: Case) -> list[tuple[str, ...]]:
    """The rows, worded, in the order of HEADINGS. The last cell says whether accuracies are measured or rest on what is
    assumed of the large model."""
    point, basis = case.point, "assumed" if routing.assumed else "measured"

    def row(
        name: str, handed: str, right: Figure, usd: Figure, of_large: str, latency: Figure, on: str
    ) -> tuple[str, ...]:
        cost, time = wording.dollars(usd["value"]), wording.seconds(latency["value"])
        return name, handed, wording.share(right), cost, of_large, time, on

    def mixed(name: str, right: Figure) -> tuple[str, ...]:
        handed, of_large = wording.share(point.escalation), wording.share(point.of_large)
        return row(name, handed, right, point.usd, of_large, point.latency_s, basis)

    large, small = _of(point.large_usd, point), _of(point.small_usd, point)
    # An assumed accuracy is one number; its resamples would show those of the small model.
    large_right = {**point.large, "low": None, "high": None} if routing.assumed else point.large
    return [
        row("All large", "100%", large_right, point.large_usd, large, point.large_s, basis),
        row("Small alone", "0%", point.small, point.small_usd, small, point.small_s, "measured"),
        mixed("Cascade", point.accuracy),
        mixed("Random", point.random),
        mixed("Oracle", point.oracle),
    ]


def _of(usd: Figure, point: Point) -> str:
    if usd["value"] is None or not point.large_usd["value"]:
        return percent(None)
    return percent(usd["value"] / point.large_usd["value"])
