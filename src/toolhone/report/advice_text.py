"""The advice for a terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from toolhone.economics.advice import Advice, break_even_words, is_assumed, payback_words
from toolhone.economics.inputs import FIELDS
from toolhone.economics.options import option_name
from toolhone.report.advice_wording import number, shown_change, shown_value
from toolhone.report.numbers import short_money

_MOST_FLIPS = 12


def show_advice(advice: Advice, console: Console) -> None:
    console.print(Text(advice.headline, style="bold"))
    for reason in advice.reasons:
        console.print(f"- {reason}", markup=False)
    for table in (_criteria(advice), _options(advice), _against(advice), _years(advice), _flips(advice)):
        console.print()
        console.print(table)
    console.print()
    console.print(_assumed(advice), markup=False)
    for line in _listed(advice):
        console.print(line, markup=False)


def _table(title: str, heads: Iterable[str], right: int) -> Table:
    """A table whose columns from the given one on are numbers."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for place, head in enumerate(heads):
        table.add_column(head, justify="right" if place >= right else "left")
    return table


def _criteria(advice: Advice) -> Table:
    table = _table("Rules of thumb", ("Rule", "Here", "Speaks", "Which means"), 9)
    for entry in advice.criteria:
        table.add_row(entry.name, entry.value, entry.side, entry.says)
    return table


def _options(advice: Advice) -> Table:
    entries = advice.options
    months = advice.case.inputs.horizon_months
    table = _table(f"Over {months} month{'' if months == 1 else 's'}", ("", *(entry.name for entry in entries)), 1)
    sides = {"api": "api_accuracy", "cheap": "cheap_accuracy", "tuned": "small_accuracy"}
    rights = []
    for entry in entries:
        rests_on = (
            [sides[entry.option]] if entry.option in sides else ["api_accuracy", "small_accuracy", "auroc", "overlap"]
        )
        mark = "*" if any(is_assumed(advice.case, name) for name in rests_on) else ""
        rights.append(f"{100 * entry.accuracy:.1f}%{mark}")
    table.add_row("Right", *rights)
    ranges = (entry.accuracy_range and sorted(entry.accuracy_range) for entry in entries)
    shown = (f"{100 * found[0]:.1f} to {100 * found[1]:.1f}%*" if found else "" for found in ranges)
    table.add_row("  as errors overlap", *shown)
    table.add_row("Paid once", *(short_money(entry.once_usd) for entry in entries))
    table.add_row("Running", *(short_money(entry.running_usd) for entry in entries))
    table.add_row("Wrong answers", *(short_money(entry.errors_usd) for entry in entries))
    table.add_row("Together", *(short_money(entry.total_usd) for entry in entries), style="bold")
    table.add_row("1,000 calls", *(short_money(1000 * entry.call_usd) for entry in entries))
    if any(entry.short_of for entry in entries):
        table.add_row("Misses", *("\n".join(entry.short_of) for entry in entries))
    if any("*" in right for right in rights):
        table.caption = "* assumed, or rests on what is"
    return table


def _against(advice: Advice) -> Table:
    inputs = advice.case.inputs
    table = _table("Against each API", ("", "Against", "Saves", "Break-even", "Payback"), 2)
    for entry in advice.against:
        table.add_row(
            option_name(inputs, entry.option),
            option_name(inputs, entry.rival),
            short_money(entry.saving_usd),
            break_even_words(entry),
            payback_words(inputs, entry),
        )
    return table


def _years(advice: Advice) -> Table:
    entries = advice.options
    table = _table("Three years", ("", *(entry.name for entry in entries)), 1)
    for year in advice.years:
        table.add_row(f"Year {year.number}: {number(year.calls)} calls")
        for label, amounts in (
            ("paid", year.paid_usd),
            ("wrong answers", year.errors_usd),
            ("all so far", year.so_far_usd),
        ):
            last = label == "all so far"
            cells = (short_money(amounts[entry.option]) for entry in entries)
            table.add_row(f"  {label}", *cells, end_section=last)
    return table


def _flips(advice: Advice) -> Table:
    table = _table("What would turn it, each alone", ("Input", "Now", "Turns at", "Change", "Into"), 9)
    numeric = [flip for flip in advice.flips if not isinstance(flip.at, str)]
    for flip in (*numeric[:_MOST_FLIPS], *(flip for flip in advice.flips if isinstance(flip.at, str))):
        mark = "*" if is_assumed(advice.case, flip.name) else ""
        now, at = shown_value(flip.name, flip.now), shown_value(flip.name, flip.at)
        table.add_row(flip.name + mark, now, at, shown_change(flip.change), flip.answer)
    table.caption = "* assumed now"
    if len(numeric) > _MOST_FLIPS:
        table.caption += f". The nearest; {len(numeric) - _MOST_FLIPS} more are in --json and --html."
    return table


def _assumed(advice: Advice) -> str:
    if not advice.case.assumed:
        return "Every input is given, measured or listed."
    inputs = advice.case.inputs
    shown = (f"{name} {shown_value(name, getattr(inputs, name))}" for name in advice.case.assumed)
    return f"Assumed: {'; '.join(shown)}."


def _listed(advice: Advice) -> list[str]:
    """Where figures are from that are neither given nor assumed."""
    by_source: dict[str, list[str]] = {}
    for name, source in advice.case.sources.items():
        if source not in ("given", "assumed") and name in FIELDS:
            by_source.setdefault(source, []).append(name)
    inputs = advice.case.inputs
    lines = []
    for source, names in by_source.items():
        values = "; ".join(f"{name} {shown_value(name, getattr(inputs, name))}" for name in names)
        lines.append(f"{source}: {values}")
    return [*lines, *advice.case.remarks]
