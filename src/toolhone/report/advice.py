"""Costs and advice in words: the sentences and tables of the terminal, and the page with a plot by volume.

In: an `Advice`, or the rows of `toolhone cost`. Out: text, tables, and one file that opens offline.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from toolhone.economics.advice import Advice, Answer
from toolhone.economics.cost import DAYS_A_YEAR, CostRow
from toolhone.economics.inputs import ASSUMED, FIELDS, GIVEN, Inputs
from toolhone.economics.options import OWN_OPTIONS, Option, api_call_usd, costs, option_name, options, saving
from toolhone.report.numbers import counted, dollars, money, months, short_money
from toolhone.report.pages import html_page
from toolhone.report.plots import Point, Tick, share
from toolhone.report.tables import PlainTable, rich_table

_SPAN = 100
"""The plot covers volumes from 1/100 of the case's to 100 times it."""
_POINTS = 121
_HOVER_EVERY = 10
"""Every tenth point shows words on hovering."""

_ANSWERS: dict[Answer, str] = {"fine-tune": "fine-tune", "route": "route", "stay": "stay with the API"}
_MAX_PAYBACK_MONTHS = 120


def _plain(value: float) -> str:
    """A number with separators and only the decimals it needs: 1,000,000 or 0.85."""
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:,.4g}"


def _percent(value: float) -> str:
    """A share in percent, to a tenth, rounded down so that a bound stays one: 9.1%."""
    tenths = int(value * 1000 + 1e-9) if value >= 0 else -int(-value * 1000 + 1e-9)
    return f"{tenths / 10:.1f}".removesuffix(".0") + "%"


def _shown(name: str, value: float | str) -> str:
    """An input with its unit: 20,000 calls a day, 90%, $0.003 a call."""
    unit: str = FIELDS[name].metadata["unit"]
    if isinstance(value, str):
        return value
    if unit == "share":
        return f"{100 * value:.4g}%"
    if unit.startswith("$ "):
        return f"{money(value)} {unit.removeprefix('$ ')}"
    unit = unit.removesuffix("s") if value == 1 else unit
    return _plain(value) if unit == "AUROC" else f"{_plain(value)} {unit}"


def _change(change: float | None) -> str:
    """A change as a share of the present value, +9%; from a doubling on as a factor, x 21."""
    if change is None:
        return ""
    return f"x {_plain(float(f'{1 + change:.3g}'))}" if change >= 1 else f"{100 * change:+.3g}%"


def _horizon(inputs: Inputs) -> str:
    return counted(inputs.horizon_months, "month")


def headline(advice: Advice) -> str:
    """Return the verdict in one line, with its dollars and those of the other options."""
    inputs, option = advice.case.inputs, advice.decision.option
    cost = f"{money(costs(inputs, option).total_usd)} over {_horizon(inputs)}"
    if advice.decision.answer == "fine-tune":
        return f"Fine-tune: {cost}, {_savings(inputs, option)}"
    if advice.decision.answer == "route":
        share = _percent(inputs.escalation)
        return f"Route: the tuned model first, {share} to {inputs.api_model}: {cost}, {_savings(inputs, option)}"
    tuned, route = (-saving(inputs, own, option) for own in OWN_OPTIONS)
    extra = f"; the tuned model would cost {money(tuned)} more, routing {money(route)}"
    return f"Stay with the API: {option_name(inputs, option)}, {cost}{extra if min(tuned, route) >= 0 else ''}"


def _savings(inputs: Inputs, option: Option) -> str:
    rivals = [rival for rival in options(inputs) if rival not in OWN_OPTIONS]
    saved = ((saving(inputs, option, rival), option_name(inputs, rival)) for rival in rivals)
    return " and ".join(f"{money(abs(usd))} {'less' if usd >= 0 else 'more'} than {name}" for usd, name in saved)


def reasons(advice: Advice) -> list[str]:
    """Return the sentences that explain the verdict."""
    case, decision, inputs = advice.case, advice.decision, advice.case.inputs
    call = api_call_usd(inputs, "api")
    day = call * inputs.calls_per_day
    said = [
        f"{_plain(inputs.calls_per_day)} calls a day at {money(call)} ({inputs.api_model}) are {money(day)} a "
        f"day, {money(day * DAYS_A_YEAR)} in {DAYS_A_YEAR} days."
    ]
    rules = [rule for rule in advice.criteria if rule.veto]
    against = [rule for rule in rules if rule.side == "against"]
    said += [f"Against tuning: {rule.name} {rule.value} ({rule.band}): {rule.says}." for rule in against]
    if decision.vetoed_by and decision.cheapest in OWN_OPTIONS:
        cheapest = option_name(inputs, decision.cheapest)
        said.append(f"Cost alone would choose {cheapest}: {_savings(inputs, decision.cheapest)}.")
    if decision.cheapest is None:
        said.append("No option meets the limits (yearly budget, least accuracy); loosen one.")
    between = ", ".join(f"{rule.name} {rule.value}" for rule in rules if rule.side == "between")
    if between and not decision.vetoed_by:
        said.append(f"Between the bands ({between}), cost decides: the lowest total over the horizon.")
    if decision.option == "cheap" and not decision.vetoed_by:
        usd, best = max((saving(inputs, option, "api"), option) for option in OWN_OPTIONS)
        if usd > 0:
            said.append(
                f"{option_name(inputs, best)} costs {money(usd)} less than {inputs.api_model} alone; "
                f"{option_name(inputs, 'cheap')} is cheaper still."
            )
    if inputs.yearly_budget is not None:
        said.append(_budget(advice, inputs.yearly_budget))
    nearest = next((flip for flip in advice.flips if flip.change is not None), None)
    if nearest is not None:
        assumed = " (assumed)" if case.is_assumed(nearest.name) else ""
        said.append(
            f"Nearest change: {nearest.name} at {_shown(nearest.name, nearest.at)} instead of "
            f"{_shown(nearest.name, nearest.now)}{assumed} makes it {_ANSWERS[nearest.answer]}."
        )
    if case.accuracy_interval is not None:
        said.append(_interval(advice, *case.accuracy_interval))
    if case.assumed:
        said.append(f"{len(case.assumed)} of {len(case.sources)} inputs are assumed, not given or measured.")
    return said


def _budget(advice: Advice, budget: float) -> str:
    """Say how many calls the yearly budget allows to escalate."""
    limit = advice.escalation_limit
    if limit is None:
        return f"The API costs nothing, so {money(budget)} a year does not limit escalation."
    free_small, with_small = limit["free_small"], limit["with_small"]
    said = f"Staying under {money(budget)} a year "
    if free_small >= 1:
        said += "leaves room to escalate every call if the small model were free"
    else:
        said += (
            f"with the rest at {money(api_call_usd(advice.case.inputs, 'api'))} a call needs escalation under "
            f"{_percent(free_small)}, even if the small model were free"
        )
    if with_small <= 0:
        return f"{said}; with what it costs, no escalation fits."
    if with_small >= 1 or with_small == free_small:
        return f"{said}."
    return f"{said}; with what it costs, under {_percent(with_small)}."


def _interval(advice: Advice, low: float, high: float) -> str:
    """Say whether the verdict is the same over the interval of the measured accuracy."""
    words = f"The measured accuracy is between {100 * low:.1f}% and {100 * high:.1f}% (95%)"
    flips = [flip for flip in advice.flips if flip.name == "small_accuracy" and low <= float(flip.at) <= high]
    if not flips:
        return f"{words}; the verdict is the same everywhere in it."
    at = " and ".join(f"at {_shown(flip.name, flip.at)} it is {_ANSWERS[flip.answer]}" for flip in flips)
    return f"{words}, and {at}. More test rows narrow the interval."


def _tables(advice: Advice) -> tuple[PlainTable, ...]:
    """Return the tables: rules, costs, each tuned option against each API, and inputs that would change the advice."""
    case, inputs, entries = advice.case, advice.case.inputs, advice.options
    rests_on = {"api": "api_accuracy", "cheap": "cheap_accuracy", "tuned": "small_accuracy"}
    routing = ("api_accuracy", "small_accuracy", "auroc", "overlap")

    def right(option: Option, accuracy: float) -> str:
        names = (rests_on[option],) if option in rests_on else routing
        return f"{100 * accuracy:.1f}%{'*' if any(map(case.is_assumed, names)) else ''}"

    amounts = [
        ("Paid once", (entry.once_usd for entry in entries)),
        ("Running", (entry.running_usd for entry in entries)),
        ("Wrong answers", (entry.errors_usd for entry in entries)),
        ("Together", (entry.total_usd for entry in entries)),
        ("1,000 calls", (1000 * entry.call_usd for entry in entries)),
    ]
    money_rows = [("Right", *(right(entry.option, entry.accuracy) for entry in entries))]
    money_rows += [(label, *map(short_money, values)) for label, values in amounts]
    if any(entry.short_of for entry in entries):
        money_rows.append(("Misses", *("\n".join(entry.short_of) for entry in entries)))
    note = "* assumed, or computed from an assumed input" if any("*" in cell for cell in money_rows[0]) else ""
    rules = [(rule.name, rule.value, rule.side, rule.says) for rule in advice.criteria]

    def break_even(calls: float | None) -> str:
        return "never" if calls is None else "any volume" if calls == 0 else f"{_plain(calls)} a day"

    def payback(count: float | None) -> str:
        if count is None or count > _MAX_PAYBACK_MONTHS:
            return "never" if count is None else f"over {_MAX_PAYBACK_MONTHS // 12} years"
        return "at once" if count == 0 else months(count)

    against = [
        (
            *(option_name(inputs, option) for option in (entry.option, entry.rival)),
            short_money(entry.saving_usd),
            break_even(entry.break_even_calls_per_day),
            payback(entry.payback_months),
        )
        for entry in advice.against
    ]
    changes = [
        (
            flip.name + ("*" if case.is_assumed(flip.name) else ""),
            *(_shown(flip.name, value) for value in (flip.now, flip.at)),
            _change(flip.change),
            flip.answer,
        )
        for flip in advice.flips
    ]
    money_head = ("", *(entry.name for entry in entries))
    against_head = ("", "Against", "Saves", "Break-even", "Payback")
    change_head = ("Input", "Now", "Changes at", "Change", "Into")
    changes_title = "What would change the advice, each alone"
    return (
        PlainTable("llll", ("Rule", "Here", "Speaks", "Which means"), rules, "rules", "Rules of thumb"),
        PlainTable("l" + "r" * len(entries), money_head, money_rows, "money", f"Over {_horizon(inputs)}", note),
        PlainTable("llrrr", against_head, against, "against", "Against each API"),
        PlainTable("lllll", change_head, changes, "changes", changes_title, "* assumed now"),
    )


def show_advice(advice: Advice, console: Console) -> None:
    """Print the advice: the verdict, its reasons, the tables, and where the inputs are from."""
    console.print(Text(headline(advice), style="bold"))
    for reason in reasons(advice):
        console.print(f"- {reason}", markup=False)
    for entry in _tables(advice):
        table = rich_table(entry.title, entry.align, entry.head, caption=entry.note or None)
        for row in entry.rows:
            table.add_row(*map(Text, row), style="bold" if row[0] == "Together" else "")
        console.print()
        console.print(table)
    console.print()
    names_by_source: dict[str, list[str]] = {ASSUMED: []}
    for name, source in advice.case.sources.items():
        names_by_source.setdefault(source, []).append(f"{name} {_shown(name, getattr(advice.case.inputs, name))}")
    names_by_source.pop(GIVEN, None)
    assumed = names_by_source.pop(ASSUMED)
    lines = [f"Assumed: {'; '.join(assumed)}." if assumed else "Every input is given, measured or listed."]
    lines += [f"{source}: {'; '.join(names)}" for source, names in names_by_source.items()]
    for line in (*lines, *advice.case.remarks):
        console.print(line, markup=False)


def cost_table(rows: Sequence[CostRow], calls_per_day: float | None) -> Table:
    """Return the rows of `toolhone cost` as columns, with costs a day and a year if calls a day are known."""
    table = rich_table("What calls cost", "l" + "r" * len(rows), ("", *(row.name for row in rows)))

    def line(label: str, amounts: Iterable[float | None], times: float = 1) -> None:
        table.add_row(label, *("" if amount is None else dollars(times * amount) for amount in amounts))

    line("1,000 calls: running", (row.running_usd for row in rows), 1000)
    if any(row.spread_usd is not None for row in rows):
        line("paid once, spread", (row.spread_usd for row in rows), 1000)
    if any(row.errors_usd is not None for row in rows):
        line("wrong answers", (row.errors_usd for row in rows), 1000)
    totals = [row.total_usd for row in rows]
    line("together", totals, 1000)
    table.add_section()
    line("A call", totals)
    if calls_per_day:
        line("A day", totals, calls_per_day)
        line("365 days", totals, calls_per_day * DAYS_A_YEAR)
    return table


def advice_page(advice: Advice) -> str:
    """The advice as a page: one file, with a plot of the costs by volume."""
    case, inputs = advice.case, advice.case.inputs
    facts = {
        "calls a day": _plain(inputs.calls_per_day),
        "horizon": _horizon(inputs),
        "a wrong call": money(inputs.error_usd),
        "assumed": f"{len(case.assumed)} of {len(case.sources)} inputs",
    }
    sources = [
        (FIELDS[name].metadata["meaning"], name, _shown(name, getattr(inputs, name)), source)
        for name, source in case.sources.items()
    ]
    return html_page(
        "advise",
        headline=headline(advice).replace("-", "\N{NON-BREAKING HYPHEN}"),
        facts=facts,
        reasons=reasons(advice),
        tables=_tables(advice),
        bands=[f"{rule.name}: {rule.band}" for rule in advice.criteria],
        plot=_volume_plot(inputs),
        inputs=sources,
        remarks=case.remarks,
    )


def _volume_plot(inputs: Inputs) -> dict[str, Any]:
    """Dollars for 1,000 calls by calls a day, all costs of the horizon included, both axes logarithmic.

    Each line has the `points` that it is drawn through and the `hovers` among them that show words. The case's own
    volume is in the middle. Places are percent, not pixels, so that the plot takes any width.
    """
    first, last = math.log10(inputs.calls_per_day / _SPAN), math.log10(inputs.calls_per_day * _SPAN)
    places = [first + (last - first) * step / (_POINTS - 1) for step in range(_POINTS)]
    volumes = [dataclasses.replace(inputs, calls_per_day=10**place) for place in places]
    curves = {option: [1000 * costs(at, option).call_usd for at in volumes] for option in options(inputs)}
    positive = [cost for values in curves.values() for cost in values if cost > 0] or [1.0]
    low, high = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
    high = max(high, low + 1)

    def line(option: Option) -> dict[str, Any]:
        name, points, hovers = option_name(inputs, option), [], []
        for place, (x, cost) in enumerate(zip(places, curves[option], strict=True)):
            # A cost of 0 has no logarithm: it lies on the floor of the plot.
            height = share(max(low, math.log10(cost)) if cost > 0 else low, low, high)
            points.append((share(x, first, last), 100 - height))
            if place % _HOVER_EVERY == 0:
                words = f"{name}: {money(cost)} for 1,000 calls at {_plain(round(10**x))} a day"
                hovers.append(Point(*points[-1], words))
        return {"option": option, "name": name, "points": points, "hovers": hovers}

    powers = range(math.ceil(first), math.floor(last) + 1)
    return {
        "lines": [line(option) for option in curves],
        "x_ticks": [Tick(share(power, first, last), _short(10.0**power)) for power in powers],
        "y_ticks": [Tick(100 - share(power, low, high), f"${_short(10.0**power)}") for power in range(low, high + 1)],
    }


def _short(value: float) -> str:
    """A mark on an axis: 0.01, 10, 500k, 1.5M."""
    for size, letter in ((1e9, "bn"), (1e6, "M"), (1e4, "k")):
        if value >= size:
            return f"{value / (1e3 if letter == 'k' else size):,.6g}{letter}"
    return f"{value:,.10f}".rstrip("0").rstrip(".")
