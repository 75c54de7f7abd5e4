"""The tables of a report: those in the terminal, and the plain ones of the page.

In: metrics.json, the figures of a suite, or the manifest of a run. Out: rich tables for the terminal, `PlainTable` for
the page. A table with nothing to show is None. A table leaves out figures that older versions did not record.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from toolhone.evaluate.doubts import Doubt
from toolhone.evaluate.values import RULES
from toolhone.report import facts, numbers, wording


@dataclass(frozen=True, slots=True)
class PlainTable:
    """A table as text. `align` has "l" for each column of words and "r" for each column of figures.

    `key` is its anchor on a page with several tables. `title` goes above it and `note` below.
    """

    align: str
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    key: str = ""
    title: str = ""
    note: str = ""


def rich_table(title: str | Text, align: str, head: Iterable[str], **options: Any) -> Table:
    """Return an empty table for the terminal. `align` has the same form as in `PlainTable`."""
    table = Table(title=title, title_justify="left", title_style="bold", **options)
    for side, name in zip(align, head, strict=True):
        table.add_column(Text(name), justify="right" if side == "r" else "left")
    return table


def summary_table(metrics: Mapping[str, Any]) -> Table:
    """Return the short table for the terminal: the headline figures with intervals, and the errors that occur."""
    models: dict[str, dict[str, Any]] = metrics["models"]
    source = wording.agreement_with(models)
    head = ("Measure", *wording.labels(models).values())
    table = rich_table(Text(facts.verdict(metrics)), "l" + "r" * len(models), head)

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
    """Return a table with one row per model: its headline figures with intervals and counts."""
    models: dict[str, dict[str, Any]] = metrics["models"]
    source = wording.agreement_with(models)
    labels, rows = wording.labels(models), max(model.get("sampled_from", model["rows"]) for model in models.values())
    head = ("Model", *(measure.label_for(source) for measure in wording.HEADLINE))
    on = f"{numbers.number(rows)} rows{'' if list(labels) == list(labels.values()) else ', or a sample of them'}"
    table = rich_table(f"{len(models)} models on the same {on}", "lrrr", head)
    for name, model in models.items():
        table.add_row(Text(labels[name]), *(Text(numbers.figure(model[measure.key])) for measure in wording.HEADLINE))
    if source is not None:
        table.caption = Text(f"The gold answers come from {source}, so these figures are agreement with {source}.")
    return table


def pairs_table(metrics: Mapping[str, Any]) -> Table | None:
    """Return a table with one row per pair of models and measure: the difference with its interval, McNemar's test."""
    entries = metrics["compare"]
    if not entries:
        return None
    head = ("From", "To", "Measure", "Rows", "Difference", "Only from", "Only to", "p")
    table = rich_table("Differences", "lllrlrrr", head, caption_justify="left")
    pair = None
    for first, second, *cells in _pairs(metrics):
        if pair not in (None, (first, second)):
            table.add_section()
        pair = (first, second)
        table.add_row(*map(Text, (first, second, *cells)))
    clusters = {numbers.counted(entry["intervals"][-1]["clusters"], entry["clustered_by"]) for entry in entries}
    over = clusters.pop() if len(clusters) == 1 else f"whole {entries[0]['clustered_by']}s"
    table.caption = Text(
        f"95% intervals: paired bootstrap, {numbers.number(entries[0]['folds'])} resamples of {over}. Rows: those that "
        "both models answered. Only from, only to: rows that only this model has right. p: McNemar's exact test, which "
        "assumes independent rows; not adjusted for the number of pairs."
    )
    return table


def _pairs(metrics: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield a row of cells per pair and measure.

    The cells: both models, the measure, the number of shared rows, the difference, and McNemar's test (the rows that
    only the first model has right, those that only the second has right, and p).
    """
    source = wording.agreement_with(metrics["models"])
    labels = {measure.key: measure.label_for(source) for measure in wording.MEASURES}
    for entry in metrics.get("compare", ()):
        test = entry["mcnemar"]
        tested = ("", "", "")
        if test is not None:
            alone = (numbers.number(test["first_only"]), numbers.number(test["second_only"]))
            tested = (*alone, numbers.p_value(test["p_value"]))
        points = numbers.points(entry) or numbers.ABSENT
        yield entry["first"], entry["second"], labels[entry["measure"]], numbers.number(entry["rows"]), points, *tested


def suite_table(metrics: Mapping[str, Any]) -> Table:
    """Return the table of a suite: exact match of all models under all policies, by category and by group."""
    models: dict[str, dict[str, Any]] = metrics["models"]
    columns = [figures for model in models.values() for figures in model.values()]
    head = ("Category", *(f"{name}, {policy}" for name, model in models.items() for policy in model))
    table = rich_table(Text("BFCL: exact match, with its 95% interval"), "l" + "r" * len(columns), head)

    def add_row(label: str, rates: Sequence[dict[str, Any]]) -> None:
        table.add_row(label, *(Text(numbers.figure(rate)) for rate in rates))

    for section in ("categories", "groups"):
        for name in columns[0][section]:
            add_row(name, [figures[section][name] for figures in columns])
        table.add_section()
    add_row("tool names", [figures["tool_name_accuracy"] for figures in columns])
    add_row("malformed", [figures["malformed"] for figures in columns])
    strict = [figures["groups"]["all"] for figures in columns]
    repaired = [figures.get("repaired", figures["groups"]["all"]) for figures in columns]
    if repaired != strict:
        add_row("all, with repairs", repaired)
    return table


def learning_curve_table(exact_match: Mapping[str, dict[str, Any]], gains: Sequence[str]) -> Table:
    """Return exact match by number of training rows, with the gain over the previous size (none for the first)."""
    table = Table("Rows", "Exact match", "Gain over previous size")
    for (size, rate), gain in zip(exact_match.items(), ("", *gains), strict=True):
        table.add_row(size, numbers.figure(rate), gain)
    return table


def doubts_table(doubts: Sequence[Doubt]) -> Table:
    """Return the table of the first doubts about gold."""
    unit = doubts[0].unit if doubts else ""
    table = rich_table("the most doubtful gold", "rlrlll", ("", "turn", unit, "place", "expected", "the model says"))
    table.columns[1].min_width = min(24, max((len(one.id) for one in doubts), default=0))  # ids are for copying
    for rank, one in enumerate(doubts, 1):
        size = "-" if one.doubt is None else f"{one.doubt:.2f}"
        sure = "" if one.probability is None else f" ({one.probability:.2f})"
        table.add_row(str(rank), *map(Text, (one.id, size, one.place, one.expected, one.says + sure)))
    return table


def comparisons_table(metrics: Mapping[str, Any]) -> PlainTable | None:
    """Return the differences of every pair of models in every measure that they were compared in."""
    rows = tuple((label, f"{first} to {second}", *cells) for first, second, label, *cells in _pairs(metrics))
    alone = ("Only first right", "Only second right")
    head = ("Measure", "Models", "Shared rows", "Difference", *alone, "McNemar’s p")
    return PlainTable("llrlrrr", head, rows) if rows else None


def repairs_table(models: Mapping[str, Mapping[str, Any]]) -> PlainTable | None:
    """Return how often each model's texts needed each repair."""
    labels = wording.labels(models)
    counts = {labels[name]: figures["repairs"] for name, figures in facts.repaired_figures(models).items()}
    return _counts_table("Repair", "What it fixes", wording.REPAIRS, counts)


def rules_table(models: Mapping[str, Mapping[str, Any]]) -> PlainTable | None:
    """Return the number of rows in which each rule of the policy fired."""
    counts = {label: models[name].get("rules") or {} for name, label in wording.labels(models).items()}
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
    """Return the tokens and the latency of each model."""
    rows: list[tuple[str, ...]] = []
    labels = wording.labels(models)
    for what, key in (("Prompt tokens", "prompt_tokens"), ("Completion tokens", "completion_tokens")):
        for name, model in models.items():
            counts = (numbers.number(model[key].get(column)) for column in ("p50", "p95", "total"))
            rows.append((what, labels[name], *counts))
    for name, model in models.items():
        entry = model["latency_ms"]
        times = (numbers.milliseconds(entry.get("p50")), numbers.milliseconds(entry.get("p95")))
        total = entry.get("total")
        rows.append(("Latency", labels[name], *times, numbers.duration(None if total is None else total / 1000)))
    return PlainTable("llrrr", ("", "Model", "Median", "95th percentile", "Total"), tuple(rows))


def data_table(manifest: Mapping[str, Any]) -> PlainTable | None:
    """Return the splits with their sizes and the first 16 digits of their hashes."""
    rows = tuple(
        (name, *(numbers.number(split.get(key)) for key in ("rows", "examples")), _text(split.get("sha256"))[:16])
        for name, split in _entries(manifest, "data")
    )
    return PlainTable("lrrl", ("Split", "Rows", "Examples", "SHA-256"), rows) if rows else None


def stages_table(manifest: Mapping[str, Any]) -> PlainTable | None:
    """Return the finished stages with their time and peak memory."""
    rows = tuple(
        (
            name,
            numbers.duration(stage.get("seconds")),
            numbers.gigabytes(stage.get("peak_memory_gb")),
            wording.date_time(_text(stage.get("finished"))),
        )
        for name, stage in _entries(manifest, "stages")
    )
    return PlainTable("lrrl", ("Stage", "Time", "Peak memory", "Finished"), rows) if rows else None


def _entries(manifest: Mapping[str, Any], key: str) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the objects below a key of the manifest, by name. Empty if an older version wrote another type."""
    found = manifest.get(key)
    pairs = found.items() if isinstance(found, dict) else ()
    return [(str(name), entry) for name, entry in pairs if isinstance(entry, dict)]


def _text(value: Any) -> str:
    return str(value or numbers.ABSENT)
