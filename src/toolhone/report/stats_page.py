"""The page of `toolhone data stats`: figures put into words and plots, which the template only places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from toolhone.data.stats.measure import FaultCount, Stats, ToolCount
from toolhone.data.stats.tokens import Gain, TokenStats
from toolhone.report.numbers import number, percent
from toolhone.report.pages import html_page
from toolhone.report.plots import Tick, share, ticks
from toolhone.report.wording import visible

_MOST_TOOLS = 60
_MOST_BARS = 8
PART_NAMES = {
    "tools": "tools",
    "system": "system message",
    "user": "user message",
    "assistant": "assistant turn",
    "tool": "tool result",
}


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar: its name, the words behind it, a count, and its length in percent."""

    label: str
    text: str
    count: str
    value: float


@dataclass(frozen=True, slots=True)
class Panel:
    """Bars under a title, with what they count."""

    title: str
    note: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True, slots=True)
class ToolRow:
    """A tool's two bars, and a remark where something about it is odd."""

    name: str
    called: str
    called_value: float
    offered: str
    offered_value: float
    remark: str


@dataclass(frozen=True, slots=True)
class Bin:
    """A bar of a histogram, placed in percent from the left and from the top."""

    x: float
    width: float
    y: float
    height: float
    title: str


@dataclass(frozen=True, slots=True)
class Histogram:
    """Bins of one width, axes and marks."""

    bins: tuple[Bin, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    marks: tuple[Tick, ...]


@dataclass(frozen=True, slots=True)
class TokenPage:
    """What the page says of tokens. A figure is its name, its value, and what it means."""

    how: str
    figures: tuple[tuple[str, str, str], ...]
    histogram: Histogram | None
    roles: tuple[tuple[str, ...], ...]
    laid_out: str
    shared: tuple[tuple[str, str, str], ...]
    gains: Panel
    refused: str
    refused_places: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Page:
    """All that the template shows."""

    title: str
    verdict: str
    agreement: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    panels: tuple[Panel, ...]
    tools: tuple[ToolRow, ...]
    tools_left_out: int
    tokens: TokenPage | None
    faults: tuple[FaultCount, ...]


def stats_page(stats: Stats, sources: Sequence[str]) -> str:
    """The page as one text."""
    return html_page("stats", page=build_page(stats, sources))


def verdict(stats: Stats) -> str:
    """The data set in one sentence."""
    tools = sum(tool.called > 0 for tool in stats.tools)
    return (
        f"{_plural(stats.rows, 'row')}, {_plural(stats.turns, 'learned turn')}, {_plural(stats.calls, 'call')} to "
        f"{_plural(tools, 'tool')}; {percent(stats.no_call_row_share.value)} of rows call nothing"
    )


def agreement(stats: Stats) -> list[str]:
    """What has to be said of rows whose gold another model wrote."""
    return [
        f"The gold of {_plural(count, 'row')} is what {visible(model)} answered: measured against it, a figure is "
        f"agreement with {visible(model)}, which may itself be wrong."
        for model, count in stats.gold_sources.items()
    ]


def languages(stats: Stats) -> dict[str, int]:
    """Stated languages, then guessed ones, which say that they are."""
    return {**stats.languages, **{f"{name} (guessed)": count for name, count in stats.guessed_languages.items()}}


def remark(tool: ToolCount) -> str:
    """What is odd about a tool, if anything."""
    if not tool.called:
        return "never called"
    return "" if tool.offered else "called, never offered"


def build_page(stats: Stats, sources: Sequence[str]) -> Page:
    """Put the figures into the words and the order of the page."""
    facts = [(role, f"{count:,}") for role, count in stats.messages.items()]
    if stats.unlearned_turns:
        facts.append(("turns of weight 0", f"{stats.unlearned_turns:,}"))
    if stats.rows_without_tools:
        facts.append(("rows without tools", f"{stats.rows_without_tools:,}"))
    guessed = sum(stats.guessed_languages.values())
    how = "As meta.language says." if not guessed else f"As meta.language says; {guessed:,} guessed by their script."
    most_called = max((tool.called for tool in stats.tools), default=0)
    tools = tuple(
        ToolRow(
            visible(tool.name),
            f"{tool.called:,}",
            _of(tool.called, most_called),
            f"{tool.offered:,}",
            _of(tool.offered, stats.rows),
            remark(tool),
        )
        for tool in stats.tools
    )
    return Page(
        title=", ".join(map(visible, sources)),
        verdict=verdict(stats),
        agreement=tuple(agreement(stats)),
        facts=tuple((f"{key} messages" if key in PART_NAMES else key, value) for key, value in facts),
        panels=(
            Panel("Calls in a turn", "Learned turns by how many calls they make.", _number_bars(stats.calls_per_turn)),
            Panel("Turns in a row", "Rows by how many learned turns they have.", _number_bars(stats.turns_per_row)),
            Panel("Languages", how, _bars(languages(stats))),
        ),
        tools=tools[:_MOST_TOOLS],
        tools_left_out=len(tools[_MOST_TOOLS:]),
        tokens=_token_page(stats.tokens) if stats.tokens else None,
        faults=stats.faults,
    )


def _number_bars(counts: Mapping[int, int]) -> tuple[Bar, ...]:
    """By rising number; what is beyond the last bar is one bar, "8 or more"."""
    shown = {str(key): count for key, count in counts.items()}
    if len(counts) > _MOST_BARS:
        keys = list(counts)
        rest = keys[_MOST_BARS - 1 :]
        shown = {str(key): counts[key] for key in keys[: _MOST_BARS - 1]}
        shown[f"{rest[0]} or more"] = sum(counts[key] for key in rest)
    return _bars(shown)


def _bars(counts: Mapping[str, int]) -> tuple[Bar, ...]:
    """In the given order; more than fit are one bar, "others"."""
    total = sum(counts.values())
    items = list(counts.items())
    if len(items) > _MOST_BARS:
        others = sum(count for _, count in items[_MOST_BARS - 1 :])
        items = [*items[: _MOST_BARS - 1], ("others", others)]
    return tuple(
        Bar(visible(name), percent(count / total), f"{count:,}", _of(count, total)) for name, count in items if total
    )


def _token_page(tokens: TokenStats) -> TokenPage:
    whole = sum(spread.total for spread in tokens.by_role.values())
    roles = tuple(
        (
            PART_NAMES[part],
            percent(spread.total / whole),
            *(number(figure) for figure in (spread.count, spread.p50, spread.p95, spread.max, spread.total)),
        )
        for part, spread in tokens.by_role.items()
    )
    figures: list[tuple[str, str, str]] = []
    if tokens.example:
        figures = [
            ("Median example", number(tokens.example.p50), "tokens, prompt and turn together"),
            ("95th percentile", number(tokens.example.p95), "tokens"),
            ("Longest", number(tokens.example.max), "tokens: chat.max_tokens must not be below"),
            (
                "Labelled",
                percent(tokens.labelled_share),
                f"{tokens.labelled_tokens:,} of {tokens.example.total:,} tokens",
            ),
        ]
    whose = "the model's own" if tokens.template == "model" else "toolhone's"
    sampled = tokens.laid_out < tokens.examples
    return TokenPage(
        how=f"By the tokenizer of {visible(tokens.tokenizer)}, in the {tokens.format} format, {whose} template: "
        f"{_plural(tokens.examples, 'example')}, one for each learned turn.",
        figures=tuple(figures),
        histogram=_histogram(tokens) if tokens.example else None,
        roles=roles,
        laid_out=f"Laid out with a random {tokens.laid_out:,} of {tokens.examples:,} examples." if sampled else "",
        shared=(
            ("Shared by all", number(tokens.common_prefix), "tokens that every example begins with"),
            ("Shared-prefix share", percent(tokens.shared_share), "of all tokens, if everything were one batch"),
        ),
        gains=Panel(
            "Expected gain",
            "How many times fewer tokens are computed, by examples in a batch.",
            _gain_bars(tokens.gains),
        ),
        refused=f"{_plural(tokens.refused, 'turn')} that cannot be rendered, and so counted nowhere here"
        if tokens.refused
        else "",
        refused_places=tokens.refused_places,
    )


def _gain_bars(gains: Sequence[Gain]) -> tuple[Bar, ...]:
    most = max((gain.gain for gain in gains), default=1.0)
    return tuple(
        Bar(f"batch of {gain.batch_size}", f"{gain.gain:.1f}×", "", round(100 * gain.gain / most, 2)) for gain in gains
    )


def _histogram(tokens: TokenStats) -> Histogram:
    assert tokens.example is not None
    edges = ticks(0, max(tokens.lengths), 24)
    width, right = edges[1], edges[-1]
    counts = [0] * (len(edges) - 1)
    for length in tokens.lengths:
        counts[min(int(length // width), len(counts) - 1)] += 1
    y_values = [value for value in ticks(0, max(counts), 4) if value == int(value)]
    top = y_values[-1]
    bins = (
        Bin(
            x=share(first, 0, right),
            width=round(100 * width / right * 0.92, 3),
            y=round(100 - share(count, 0, top), 3),
            height=share(count, 0, top),
            title=f"{first:,.0f} to {first + width:,.0f} tokens: {_plural(count, 'example')}",
        )
        for first, count in zip(edges, counts, strict=False)
        if count
    )
    marks = (("median", tokens.example.p50), ("95th percentile", tokens.example.p95))
    return Histogram(
        bins=tuple(bins),
        x_ticks=tuple(Tick(share(at, 0, right), f"{at:,.0f}") for at in ticks(0, right, 5) if at <= right),
        y_ticks=tuple(Tick(round(100 - share(value, 0, top), 3), f"{value:,.0f}") for value in y_values),
        marks=tuple(Tick(share(at, 0, right), f"{name}: {at:,.0f} tokens") for name, at in marks),
    )


def _of(part: int, whole: int) -> float:
    return round(100 * part / whole, 2) if whole else 0.0


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
