"""The advice as a page: one file with its plots, which opens offline.

In: an `Advice`. Out: the file. Every figure is worded here; the template only places it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from toolhone.economics.advice import ANSWERS, Advice, break_even_words, is_assumed, payback_words
from toolhone.economics.bands import Criterion
from toolhone.economics.inputs import FIELDS
from toolhone.economics.options import option_name
from toolhone.jsonl import write_text
from toolhone.report.advice_plots import Plot, month_plot, volume_plot
from toolhone.report.advice_wording import number, shown_change, shown_value
from toolhone.report.numbers import money
from toolhone.report.pages import html_page


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a table; `strong` where it is the one chosen or a sum."""

    cells: tuple[str, ...]
    strong: bool = False


@dataclass(frozen=True, slots=True)
class AdvicePage:
    headline: str
    facts: tuple[tuple[str, str], ...]
    reasons: tuple[str, ...]
    criteria: tuple[Criterion, ...]
    horizon: str
    options: tuple[Row, ...]
    against: tuple[Row, ...]
    plots: tuple[Plot, ...]
    years_head: tuple[str, ...]
    years: tuple[tuple[str, tuple[Row, ...]], ...]
    flips: tuple[Row, ...]
    inputs: tuple[Row, ...]
    assumed: int
    remarks: tuple[str, ...]


def write_page(advice: Advice, path: Path) -> None:
    """Write the page, whole or not at all."""
    write_text(path, html_page("advise", page=build_page(advice)))


def build_page(advice: Advice) -> AdvicePage:
    """Put the advice into the words and the order of the page."""
    case, inputs = advice.case, advice.case.inputs
    horizon = f"{inputs.horizon_months} month{'' if inputs.horizon_months == 1 else 's'}"
    return AdvicePage(
        headline=advice.headline.replace("-", "\N{NON-BREAKING HYPHEN}"),
        facts=(
            ("calls a day", number(inputs.calls_per_day)),
            ("growth", shown_value("growth_per_year", inputs.growth_per_year)),
            ("horizon", horizon),
            ("a wrong call", money(inputs.error_usd)),
            ("assumed", f"{len(case.assumed)} of {len(case.sources)} inputs"),
        ),
        reasons=advice.reasons,
        criteria=advice.criteria,
        horizon=horizon,
        options=tuple(_options(advice)),
        against=tuple(
            Row(
                (
                    option_name(inputs, entry.option),
                    option_name(inputs, entry.rival),
                    money(entry.saving_usd),
                    break_even_words(entry),
                    payback_words(inputs, entry),
                )
            )
            for entry in advice.against
        ),
        plots=(volume_plot(inputs), month_plot(inputs)),
        years_head=tuple(entry.name for entry in advice.options),
        years=tuple(_years(advice)),
        flips=tuple(_flips(advice)),
        inputs=tuple(_inputs(advice)),
        assumed=len(case.assumed),
        remarks=case.remarks,
    )


def _options(advice: Advice) -> list[Row]:
    rows = []
    for entry in advice.options:
        right = f"{100 * entry.accuracy:.1f}%"
        if entry.accuracy_range is not None:
            low, high = sorted(entry.accuracy_range)
            right += f" ({100 * low:.1f} to {100 * high:.1f})"
        amounts = (entry.once_usd, entry.running_usd, entry.errors_usd, entry.total_usd, 1000 * entry.call_usd)
        cells = (entry.name, right, *map(money, amounts), ", ".join(entry.short_of) or "nothing")
        rows.append(Row(cells, strong=entry.option == advice.decision.option))
    return rows


def _years(advice: Advice) -> list[tuple[str, tuple[Row, ...]]]:
    years = []
    for year in advice.years:
        lines = (("paid", year.paid_usd), ("wrong answers", year.errors_usd), ("all so far", year.so_far_usd))
        rows = (
            Row((label, *(money(amounts[entry.option]) for entry in advice.options)), strong=label == "all so far")
            for label, amounts in lines
        )
        years.append((f"Year {year.number}: {number(year.calls)} calls", tuple(rows)))
    return years


def _flips(advice: Advice) -> list[Row]:
    rows = []
    for flip in advice.flips:
        source = "assumed" if is_assumed(advice.case, flip.name) else ""
        now, at = shown_value(flip.name, flip.now), shown_value(flip.name, flip.at)
        cells = (FIELDS[flip.name].metadata["meaning"], flip.name, now, source, at, shown_change(flip.change))
        rows.append(Row((*cells, ANSWERS[flip.answer])))
    return rows


def _inputs(advice: Advice) -> list[Row]:
    inputs = advice.case.inputs
    return [
        Row(
            (FIELDS[name].metadata["meaning"], name, shown_value(name, getattr(inputs, name)), source),
            strong=source == "assumed",
        )
        for name, source in advice.case.sources.items()
    ]
