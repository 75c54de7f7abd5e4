"""Show the statistics of a data set as tables in the terminal, as JSON, or as a page with plots."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from toolhone.data.stats import Stats, TokenSpread, TokenStats, ToolCount
from toolhone.jsonl import write_text
from toolhone.report.numbers import counted, fraction, number, percent
from toolhone.report.pages import html_page
from toolhone.report.plots import Tick, share, ticks
from toolhone.report.wording import visible

_MAX_TABLE_TOOLS = 30
_MAX_PAGE_TOOLS = 60
_MAX_BARS = 8
_ROLE_NAMES = {
    "tools": "tools",
    "system": "system message",
    "user": "user message",
    "assistant": "assistant turn",
    "tool": "tool result",
}


def show_stats(
    stats: Stats, sources: Sequence[str], console: Console, *, html: Path | None = None, as_json: bool = False
) -> None:
    """Print tables, or one JSON object with `as_json`. Also write the page to `html` if given."""
    if html:
        write_text(html, stats_page(stats, sources))
    if as_json:
        text = json.dumps({"sources": list(sources), **stats.to_json()}, ensure_ascii=False, indent=2)
        console.file.write(text + "\n")  # console.print would wrap and colour it
        return
    console.print(Text(f"{', '.join(sources)}: {_summary(stats)}", style="bold"))
    for sentence in _agreement(stats):
        console.print(Text(sentence))
    console.print(_overview_table(stats))
    if stats.tools:
        console.print(_tool_table(stats))
    if stats.tokens:
        _print_tokens(stats.tokens, console)
    for fault in stats.faults:
        console.print(Text(f"{fault.rule}: {fault.count:,} times while reading, first at {'; '.join(fault.places)}"))
    if html:
        console.print(f"page: {html}", markup=False)


def _summary(stats: Stats) -> str:
    tools = sum(tool.called > 0 for tool in stats.tools)
    return (
        f"{counted(stats.rows, 'row')}, {counted(stats.turns, 'learned turn')}, {counted(stats.calls, 'call')} to "
        f"{counted(tools, 'tool')}; {percent(stats.no_call_row_share['value'])} of rows call nothing"
    )


def _agreement(stats: Stats) -> list[str]:
    """Return a sentence of caution for each model whose answers are the gold."""
    return [
        f"The gold of {counted(count, 'row')} is what {visible(model)} answered. Scores on such rows measure agreement "
        f"with {visible(model)}, which may be wrong, and not accuracy."
        for model, count in stats.gold_sources.items()
    ]


def _languages(stats: Stats) -> dict[str, int]:
    """Return the stated languages, then the guessed ones, which are marked."""
    return {**stats.languages, **{f"{name} (guessed)": count for name, count in stats.guessed_languages.items()}}


def _remark(tool: ToolCount) -> str:
    """Return what is unusual about a tool, or ""."""
    if not tool.called:
        return "never called"
    return "" if tool.offered else "called, but in no row's tools"


# The tables


def _overview_table(stats: Stats) -> Table:
    table = Table("Data set", "", show_header=False)
    turns, rows = stats.no_call_turn_share, stats.no_call_row_share
    lines = {
        "Messages": _counts(stats.messages),
        "Learned turns in a row": _counts(stats.turns_per_row),
        "Turns of weight 0": f"{stats.unlearned_turns:,}" if stats.unlearned_turns else "",
        "Turns with thinking": f"{stats.turns_with_thinking:,}" if stats.turns_with_thinking else "",
        "Calls in a turn": _counts(stats.calls_per_turn),
        "Rows without a call": f"{percent(rows['value'])} {fraction(rows)}",
        "Turns without a call": f"{percent(turns['value'])} {fraction(turns)}",
        "Languages": _counts(_languages(stats)),
        "Rows without tools": f"{stats.rows_without_tools:,}" if stats.rows_without_tools else "",
    }
    for name, figure in lines.items():
        if figure:
            table.add_row(name, Text(figure))
    return table


def _counts(counts: Mapping[str, int] | Mapping[int, int]) -> str:
    return "  ".join(f"{visible(str(name))}: {count:,}" for name, count in counts.items())


def _tool_table(stats: Stats) -> Table:
    table = Table("Tool")
    table.add_column("Calls", justify="right")
    table.add_column("Rows with the tool", justify="right")
    table.add_column("")
    for tool in stats.tools[:_MAX_TABLE_TOOLS]:
        table.add_row(Text(visible(tool.name)), f"{tool.called:,}", f"{tool.offered:,}", _remark(tool))
    if len(stats.tools) > _MAX_TABLE_TOOLS:
        table.caption = f"{len(stats.tools) - _MAX_TABLE_TOOLS} more are on the --html page and in --json"
    return table


def _print_tokens(tokens: TokenStats, console: Console) -> None:
    table = Table("Tokens of")
    for column in ("Count", "Median", "95th percentile", "Largest", "Total"):
        table.add_column(column, justify="right")
    for role, spread in tokens.by_role.items():
        table.add_row(_ROLE_NAMES[role], *_spread_cells(spread))
    if tokens.example:
        table.add_row("example", *_spread_cells(tokens.example))
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


def _spread_cells(spread: TokenSpread) -> list[str]:
    return [number(figure) for figure in (spread.count, spread.p50, spread.p95, spread.max, spread.total)]


# The page


def stats_page(stats: Stats, sources: Sequence[str]) -> str:
    """Return the page as one text."""
    return html_page("stats", page=build_page(stats, sources))


def build_page(stats: Stats, sources: Sequence[str]) -> dict[str, Any]:
    """Return the values that templates/stats.html.jinja shows. The lengths of bars are in percent."""
    facts = [(f"{role} messages" if role in _ROLE_NAMES else role, count) for role, count in stats.messages.items()]
    facts += [("turns of weight 0", stats.unlearned_turns)] if stats.unlearned_turns else []
    facts += [("turns with thinking", stats.turns_with_thinking)] if stats.turns_with_thinking else []
    facts += [("rows without tools", stats.rows_without_tools)] if stats.rows_without_tools else []
    guessed = sum(stats.guessed_languages.values())
    how = "From meta.language." if not guessed else f"From meta.language; {guessed:,} guessed from the script."
    max_called = max((tool.called for tool in stats.tools), default=0)
    tools = [
        {
            "name": visible(tool.name),
            "called": tool.called,
            "called_value": _percent_of(tool.called, max_called),
            "offered": tool.offered,
            "offered_value": _percent_of(tool.offered, stats.rows),
            "remark": _remark(tool),
        }
        for tool in stats.tools
    ]
    calls, turns = _bars(stats.calls_per_turn, "{} or more"), _bars(stats.turns_per_row, "{} or more")
    return {
        "title": ", ".join(map(visible, sources)),
        "verdict": _summary(stats),
        "agreement": _agreement(stats),
        "facts": facts,
        "panels": [
            {"title": "Calls in a turn", "note": "Learned turns by how many calls they make.", "bars": calls},
            {"title": "Turns in a row", "note": "Rows by how many learned turns they have.", "bars": turns},
            {"title": "Languages", "note": how, "bars": _bars(_languages(stats), "others")},
        ],
        "tools": tools[:_MAX_PAGE_TOOLS],
        "tools_left_out": len(tools[_MAX_PAGE_TOOLS:]),
        "tokens": _token_section(stats.tokens) if stats.tokens else None,
        "faults": stats.faults,
    }


def _bars(counts: Mapping[Any, int], rest: str) -> list[dict[str, Any]]:
    """Return bars in the given order. If there are too many, the last one combines all others. `rest` is its label, in
    which {} is the first of them."""
    total = sum(counts.values())
    bars = {str(name): count for name, count in counts.items()}
    if len(bars) > _MAX_BARS:
        first, *_ = others = list(bars)[_MAX_BARS - 1 :]
        bars[rest.format(first)] = sum(bars.pop(name) for name in others)
    return [
        {"label": visible(name), "text": percent(count / total), "count": count, "value": _percent_of(count, total)}
        for name, count in bars.items()
        if total
    ]


def _token_section(tokens: TokenStats) -> dict[str, Any]:
    whole = sum(spread.total for spread in tokens.by_role.values())
    whose = "the model's own" if tokens.template == "model" else "toolhone's"
    sampled = tokens.laid_out < tokens.examples
    max_gain = max((gain.gain for gain in tokens.gains), default=1.0)
    return {
        "how": f"Counted with the tokenizer of {visible(tokens.tokenizer)}, the {tokens.format} format and {whose} "
        f"template: {counted(tokens.examples, 'example')}, one for each learned turn.",
        "stats": tokens,
        "histogram": _histogram(tokens.lengths, tokens.example.p50, tokens.example.p95) if tokens.example else None,
        "roles": [
            (_ROLE_NAMES[role], percent(spread.total / whole), *_spread_cells(spread))
            for role, spread in tokens.by_role.items()
        ],
        "laid_out": f"Based on a random {tokens.laid_out:,} of {tokens.examples:,} examples." if sampled else "",
        "gains": {
            "title": "Expected gain",
            "note": "How many times fewer tokens are computed, by batch size.",
            "bars": [
                {
                    "label": f"batch of {gain.batch_size}",
                    "text": f"{gain.gain:.1f}×",
                    "count": None,
                    "value": round(100 * gain.gain / max_gain, 2),
                }
                for gain in tokens.gains
            ],
        },
    }


def _histogram(lengths: Sequence[int], median: float, p95: float) -> dict[str, Any]:
    """Return the bins, axes and marks of a histogram. Positions are in percent from the left and from the top."""
    edges = ticks(0, max(lengths), 24)
    width, right = edges[1], edges[-1]
    counts = [0] * (len(edges) - 1)
    for length in lengths:
        counts[min(int(length // width), len(counts) - 1)] += 1
    y_values = [value for value in ticks(0, max(counts), 4) if value == int(value)]
    top = y_values[-1]
    return {
        "bins": [
            {
                "x": share(first, 0, right),
                "width": round(100 * width / right * 0.92, 3),
                "y": round(100 - share(count, 0, top), 3),
                "height": share(count, 0, top),
                "title": f"{first:,.0f} to {first + width:,.0f} tokens: {counted(count, 'example')}",
            }
            for first, count in zip(edges, counts, strict=False)
            if count
        ],
        "x_ticks": [Tick(share(at, 0, right), f"{at:,.0f}") for at in ticks(0, right, 5) if at <= right],
        "y_ticks": [Tick(round(100 - share(value, 0, top), 3), f"{value:,.0f}") for value in y_values],
        "marks": [
            Tick(share(at, 0, right), f"{name}: {at:,.0f} tokens")
            for name, at in (("median", median), ("95th percentile", p95))
        ],
    }


def _percent_of(count: int, total: int) -> float:
    return round(100 * count / total, 2) if total else 0.0
