"""The tables of `toolhone data stats` for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from toolhone.data.stats.measure import Stats
from toolhone.data.stats.tokens import TokenStats
from toolhone.report.numbers import fraction, number, percent
from toolhone.report.stats_page import PART_NAMES, agreement, languages, remark, verdict
from toolhone.report.wording import visible

_MOST_TOOLS = 30


def show(stats: Stats, sources: Sequence[str], console: Console) -> None:
    """Print the figures: the data set, its tools, its tokens where they were counted, and the faults of reading."""
    console.print(Text(f"{', '.join(sources)}: {verdict(stats)}", style="bold"))
    for sentence in agreement(stats):
        console.print(Text(sentence))
    console.print(_overview(stats))
    if stats.tools:
        console.print(_tools(stats))
    if stats.tokens:
        _show_tokens(stats.tokens, console)
    for fault in stats.faults:
        console.print(Text(f"{fault.rule}: {fault.count:,} times while reading, first at {'; '.join(fault.places)}"))


def _overview(stats: Stats) -> Table:
    table = Table("Data set", "", show_header=False)
    turns, rows = stats.no_call_turn_share, stats.no_call_row_share
    lines = [
        ("Messages", _counts(stats.messages)),
        ("Learned turns in a row", _counts(stats.turns_per_row)),
        ("Turns of weight 0", f"{stats.unlearned_turns:,}" if stats.unlearned_turns else ""),
        ("Calls in a turn", _counts(stats.calls_per_turn)),
        ("Rows without a call", f"{percent(rows.value)} {fraction(rows.to_json())}"),
        ("Turns without a call", f"{percent(turns.value)} {fraction(turns.to_json())}"),
        ("Languages", _counts(languages(stats))),
        ("Rows without tools", f"{stats.rows_without_tools:,}" if stats.rows_without_tools else ""),
    ]
    for name, figure in lines:
        if figure:
            table.add_row(name, Text(figure))
    return table


def _counts(counts: Mapping[str, int] | Mapping[int, int]) -> str:
    return "  ".join(f"{visible(str(name))}: {count:,}" for name, count in counts.items())


def _tools(stats: Stats) -> Table:
    table = Table("Tool")
    table.add_column("Calls", justify="right")
    table.add_column("Rows that offer it", justify="right")
    table.add_column("")
    for tool in stats.tools[:_MOST_TOOLS]:
        table.add_row(Text(visible(tool.name)), f"{tool.called:,}", f"{tool.offered:,}", remark(tool))
    if len(stats.tools) > _MOST_TOOLS:
        table.caption = f"{len(stats.tools) - _MOST_TOOLS} more are on the page and in --json"
    return table


def _show_tokens(tokens: TokenStats, console: Console) -> None:
    table = Table("Tokens of")
    for column in ("How many", "Median", "95th percentile", "Largest", "Together"):
        table.add_column(column, justify="right")
    spreads = [(PART_NAMES[part], spread) for part, spread in tokens.by_role.items()]
    for name, spread in [*spreads, *([("example", tokens.example)] if tokens.example else [])]:
        figures = (spread.count, spread.p50, spread.p95, spread.max, spread.total)
        table.add_row(name, *(number(figure) for figure in figures))
    console.print(table)
    if tokens.example:
        label = f"{tokens.labelled_tokens:,}/{tokens.example.total:,}"
        gains = ", ".join(f"{gain.gain:.1f}x at batch {gain.batch_size}" for gain in tokens.gains)
        sample = f" (laid out with {tokens.laid_out:,} examples)" if tokens.laid_out < tokens.examples else ""
        console.print(
            f"labelled {percent(tokens.labelled_share)} {label}; shared prefixes {percent(tokens.shared_share)}, "
            f"{tokens.common_prefix:,} tokens shared by all; prefix_tree computes fewer tokens: {gains}{sample}"
        )
    for place in tokens.refused_places:
        console.print(Text(f"cannot be rendered: {place}"))
    if tokens.refused > len(tokens.refused_places):
        console.print(f"... and {tokens.refused - len(tokens.refused_places):,} more turns that cannot be rendered")
