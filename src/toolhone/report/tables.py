"""The tables of a report: those printed in the terminal, and the plain ones of the page.

In: metrics.json, or the manifest of a run. Out: rich tables for the terminal, `PlainTable` for the page. A table with
nothing to show is None. Figures of older versions may lack what a table shows: then it says nothing of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from toolhone.evaluate.values import RULES
from toolhone.report import facts, numbers, wording


def summary_table(metrics: Mapping[str, Any]) -> Table:
    """The short table in the terminal: the headline figures with their intervals, and the errors that occur."""
    models: dict[str, dict[str, Any]] = metrics["models"]
    source = wording.agreement_with(models)
    table = Table(title=Text(facts.verdict(metrics)), title_justify="left", title_style="bold")
    table.add_column("Measure")
    for name in models:
        table.add_column(Text(name), justify="right")

    def add(measure: wording.Measure, figures: Mapping[str, Mapping[str, Any]]) -> None:
        cells = (numbers.figure(figures[name][measure.key]) if name in figures else numbers.ABSENT for name in models)
        table.add_row(measure.label_for(source), *map(Text, cells))

    for measure in wording.HEADLINE:
        add(measure, models)
    repaired = facts.repaired_figures(models)
    for measure in wording.REPAIRED:
        if any(figures[measure.key] != models[name][measure.key] for name, figures in repaired.items()):
            add(measure, repaired)
    escalation = facts.escalation_figures(models)
    for measure in wording.ESCALATION if escalation else ():
        add(measure, escalation)
    table.add_section()
    for measure in (*wording.ARGUMENT_ERRORS, *wording.BEHAVIOUR_ERRORS):
        rates = [model[measure.key] for model in models.values()]
        if any(rate["value"] for rate in rates):
            table.add_row(measure.label, *(f"{numbers.percent(r['value'])} {numbers.fraction(r)}" for r in rates))
    return table


def models_table(metrics: Mapping[str, Any]) -> Table:
    """One row for each model: its headline figures with their intervals and counts."""
    models: dict[str, dict[str, Any]] = metrics["models"]
    source = wording.agreement_with(models)
    rows = numbers.number(next(iter(models.values()))["rows"])
    table = Table(title=f"{len(models)} models on the same {rows} rows", title_justify="left", title_style="bold")
    table.add_column("Model")
    for measure in wording.HEADLINE:
        table.add_column(measure.label_for(source), justify="right")
    for name, model in models.items():
        table.add_row(Text(name), *(Text(numbers.figure(model[measure.key])) for measure in wording.HEADLINE))
    if source is not None:
        table.caption = Text(f"The gold is what {source} answered: these figures are agreement with {source}.")
    return table


def pairs_table(metrics: Mapping[str, Any]) -> Table | None:
    """One row for each pair of models and measure: the difference with its interval, and McNemar's test."""
    entries = metrics["compare"]
    if not entries:
        return None
    table = Table(title="Differences", title_justify="left", title_style="bold", caption_justify="left")
    for name in ("From", "To", "Measure", "Difference"):
        table.add_column(name)
    for name in ("Only from", "Only to", "p"):
        table.add_column(name, justify="right")
    pair = None
    for first, second, *cells in _pairs(metrics):
        if pair not in (None, (first, second)):
            table.add_section()
        pair = (first, second)
        table.add_row(*map(Text, (first, second, *cells)))
    clusters = entries[0]["intervals"][-1]
    table.caption = Text(
        f"95% intervals: paired bootstrap, {numbers.number(entries[0]['folds'])} folds over "
        f"{numbers.counted(clusters['clusters'], clusters['clustered_by'])}. Only from, only to: rows that one model "
        "alone has right. p: McNemar's exact test, which takes rows for independent; not adjusted for the number of "
        "pairs."
    )
    return table


def _pairs(metrics: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Both models, the measure, the difference, and of McNemar's test the rows that one alone has right, and p."""
    source = wording.agreement_with(metrics["models"])
    labels = {measure.key: measure.label_for(source) for measure in wording.MEASURES}
    for entry in metrics.get("compare", ()):
        test = entry["mcnemar"]
        tested = ("", "", "")
        if test is not None:
            alone = (numbers.number(test["first_only"]), numbers.number(test["second_only"]))
            tested = (*alone, numbers.p_value(test["p_value"]))
        points = numbers.points(entry) or numbers.ABSENT
        yield entry["first"], entry["second"], labels[entry["measure"]], points, *tested


@dataclass(frozen=True, slots=True)
class PlainTable:
    """A table of the page: its head, its rows, and for each column "l" or "r", as it holds words or figures."""

    align: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def comparisons_table(metrics: Mapping[str, Any]) -> PlainTable | None:
    """Every pair of models in every measure that they were compared in."""
    rows = tuple((label, f"{first} to {second}", *cells) for first, second, label, *cells in _pairs(metrics))
    head = ("Measure", "Models", "Difference", "Right under the first alone", "Under the second alone", "McNemar’s p")
    return PlainTable("lllrrr", head, rows) if rows else None


def repairs_table(models: Mapping[str, Mapping[str, Any]]) -> PlainTable | None:
    """How often each repair fired."""
    counts = {name: figures["repairs"] for name, figures in facts.repaired_figures(models).items()}
    return _counts_table("Repair", "What it fixes", wording.REPAIRS, counts)


def rules_table(models: Mapping[str, Mapping[str, Any]]) -> PlainTable | None:
    """In how many rows each rule of the policy fired."""
    counts = {name: model.get("rules") or {} for name, model in models.items()}
    return _counts_table("Rule", "What it excuses", RULES, counts)


def _counts_table(
    name: str, meaning: str, known: Mapping[Any, str], counts: Mapping[str, Mapping[str, int]]
) -> PlainTable | None:
    fired = {one for model in counts.values() for one in model}
    names = [*(one for one in known if one in fired), *sorted(fired - set(known))]
    rows = (
        (one, known.get(one, ""), *(numbers.number(model.get(one, 0)) for model in counts.values())) for one in names
    )
    return PlainTable("ll" + "r" * len(counts), (name, meaning, *counts), tuple(rows)) if names else None


def cost_table(models: Mapping[str, Mapping[str, Any]]) -> PlainTable:
    """Tokens and time of each model."""
    rows: list[tuple[str, ...]] = []
    for label, key in (("Prompt tokens", "prompt_tokens"), ("Completion tokens", "completion_tokens")):
        for name, model in models.items():
            rows.append((label, name, *(numbers.number(model[key].get(column)) for column in ("p50", "p95", "total"))))
    for name, model in models.items():
        entry = model["latency_ms"]
        times = (numbers.milliseconds(entry.get("p50")), numbers.milliseconds(entry.get("p95")))
        total = entry.get("total")
        rows.append(("Latency", name, *times, numbers.duration(None if total is None else total / 1000)))
    return PlainTable("llrrr", ("", "Model", "Median", "95th percentile", "Total"), tuple(rows))


def data_table(manifest: Mapping[str, Any]) -> PlainTable | None:
    """The splits, with the start of each one's hash."""
    splits = manifest.get("data")
    rows = tuple(
        (
            str(name),
            numbers.number(split.get("rows")),
            numbers.number(split.get("examples")),
            str(split.get("sha256") or numbers.ABSENT)[:16],
        )
        for name, split in (splits.items() if isinstance(splits, dict) else ())
        if isinstance(split, dict)
    )
    return PlainTable("lrrl", ("Split", "Rows", "Examples", "SHA-256"), rows) if rows else None


def stages_table(manifest: Mapping[str, Any]) -> PlainTable | None:
    """The stages that have finished, and what they took."""
    stages = manifest.get("stages")
    rows = tuple(
        (
            str(name),
            numbers.duration(stage.get("seconds")),
            numbers.gigabytes(stage.get("peak_memory_gb")),
            wording.date_time(stage.get("finished") or numbers.ABSENT),
        )
        for name, stage in (stages.items() if isinstance(stages, dict) else ())
    )
    return PlainTable("lrrl", ("Stage", "Time", "Peak memory", "Finished"), rows) if rows else None
