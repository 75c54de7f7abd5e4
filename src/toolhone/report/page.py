"""What a report says, before it is laid out: metrics, scores, training log and manifest as the templates need them.

In: the files of a run folder, read. Out: one frozen `Page`, in which every figure is already worded; the templates
only place it. What a manifest does not record is left out of the page, never guessed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toolhone.report import between, leniency, numbers, provenance, wording
from toolhone.report.failures import Failure, count_kinds, count_tools, failures
from toolhone.report.plots import Curve, accuracy_curve, loss_curve
from toolhone.report.provenance import LeftOut, Table
from toolhone.report.run_files import RunFiles
from toolhone.report.wording import Measure

_MOST_TOOLS = 60
_MOST_LABELS = 30
_BASE_FAILURES = 20


@dataclass(frozen=True, slots=True)
class Bar:
    """One model's rate: its words, and its geometry in percent (None where there is no value or no interval)."""

    model: str
    tuned: bool
    percent: str
    interval: str
    fraction: str
    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class MeasureRow:
    """A measure, with a bar for each model, and the difference from the first model to the last where it was tested."""

    label: str
    definition: str
    bars: tuple[Bar, ...]
    difference: str = ""


@dataclass(frozen=True, slots=True)
class GroupRow:
    """A tool or a slice of the rows: two measures side by side. `counts` says how many rows or calls it stands on."""

    label: str
    counts: str
    first: tuple[Bar, ...]
    second: tuple[Bar, ...]


@dataclass(frozen=True, slots=True)
class Slice:
    """The rows by one property, such as language."""

    title: str
    rows: tuple[GroupRow, ...]


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of the confusion matrix; `shade` is its share of the row's gold calls, 0 to 1."""

    count: int
    shade: float
    right: bool


@dataclass(frozen=True, slots=True)
class Matrix:
    """A model's confusion matrix: as cells where it is small enough to be read, and its commonest mistakes."""

    model: str
    labels: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    left_out: int
    mistakes: tuple[tuple[str, str, int], ...]


@dataclass(frozen=True, slots=True)
class Page:
    """All that the templates show. The two widths are those of the longest model name and count, in characters."""

    name: str
    version: str | None
    verdict: str
    facts: tuple[tuple[str, str], ...]
    models: tuple[str, ...]
    who_width: int
    fraction_width: int
    agreement_with: str | None
    headline: tuple[MeasureRow, ...]
    left_out: tuple[LeftOut, ...]
    change: between.Change | None
    clustered_by: str | None
    comparisons: Table | None
    tools: tuple[GroupRow, ...]
    tools_left_out: int
    matrices: tuple[Matrix, ...]
    arguments: tuple[MeasureRow, ...]
    argument_errors: tuple[MeasureRow, ...]
    behaviour: tuple[MeasureRow, ...]
    validity: tuple[MeasureRow, ...]
    escalation: tuple[MeasureRow, ...]
    repaired: tuple[MeasureRow, ...]
    repairs: Table | None
    policy: str
    rules: Table | None
    slices: tuple[Slice, ...]
    curve: Curve | None
    accuracy: Curve | None
    training: tuple[tuple[str, str], ...]
    cost: Table
    data: Table | None
    stages: Table | None
    failures: tuple[Failure, ...]
    failure_kinds: dict[str, int]
    failure_tools: dict[str, int]
    regressions: int
    base_failures: tuple[Failure, ...]
    base_failure_count: int
    commands: tuple[str, ...]
    config: str | None
    manifest: str | None
    provenance: str | None


def build_page(run: RunFiles, verdict: str) -> Page:
    """Put a run into the words and the order of the report. `run.scores` has the models of the metrics, in order."""
    models: dict[str, dict[str, Any]] = run.metrics["models"]
    names = tuple(models)
    first, last = names[0], names[-1]
    by_id = {name: {score.id: score for score in run.scores[name]} for name in names}
    rows = failures(run.scores[last], {name: by_id[name] for name in names[:-1]}, run.prompts)
    base_rows = [score for score in run.scores[first] if not score.exact] if len(names) > 1 else []
    agreement_with = wording.agreement_with(models)
    tools = tuple(_tool_rows(models))
    mended = leniency.mended(models)
    handing = {name: model["escalation"] for name, model in models.items() if model.get("escalation")}
    return Page(
        name=run.name,
        version=(run.manifest or {}).get("toolhone"),
        verdict=verdict,
        facts=tuple(provenance.facts(run)),
        models=names,
        who_width=max(map(len, names)) + 1,
        fraction_width=max(
            len(numbers.fraction(m[measure.key])) for m in models.values() for measure in wording.MEASURES
        ),
        agreement_with=agreement_with,
        headline=_measure_rows(wording.HEADLINE, models, agreement_with, run.metrics),
        left_out=tuple(provenance.left_out(run)),
        change=between.change(first, last, by_id) if len(names) > 1 else None,
        clustered_by=between.clustering(run.metrics),
        comparisons=between.comparisons(run.metrics, agreement_with),
        tools=tools[:_MOST_TOOLS],
        tools_left_out=len(tools[_MOST_TOOLS:]),
        matrices=tuple(_matrix(name, models[name]["confusion"]) for name in reversed(names)),
        arguments=_measure_rows(wording.ARGUMENTS, models),
        argument_errors=_measure_rows(wording.ARGUMENT_ERRORS, models),
        behaviour=_measure_rows(wording.BEHAVIOUR_ERRORS, models),
        validity=_measure_rows(wording.VALIDITY, models),
        escalation=_measure_rows(wording.ESCALATION, handing, agreement_with) if handing else (),
        repaired=_measure_rows(wording.REPAIRED, mended, agreement_with) if mended else (),
        repairs=leniency.repairs(models),
        policy=leniency.policy(run.metrics),
        rules=leniency.rules(models),
        slices=tuple(_slices(models)),
        curve=loss_curve(run.train_log),
        accuracy=accuracy_curve(run.train_log),
        training=tuple(provenance.training(run)),
        cost=_cost(models),
        data=provenance.data(run.manifest or {}),
        stages=provenance.stages(run.manifest or {}),
        failures=tuple(rows),
        failure_kinds=count_kinds(rows),
        failure_tools=count_tools(rows),
        regressions=sum(row.regression for row in rows),
        base_failures=tuple(failures(base_rows[:_BASE_FAILURES], {}, run.prompts)),
        base_failure_count=len(base_rows),
        commands=provenance.commands(run),
        config=run.config,
        manifest=_pretty(run.manifest),
        provenance=_pretty(run.metrics.get("provenance")),
    )


def _bars(rates: Mapping[str, dict[str, Any]], names: Sequence[str]) -> tuple[Bar, ...]:
    return tuple(
        Bar(
            model=name,
            tuned=name == names[-1],
            percent=numbers.percent(rate["value"]),
            interval=numbers.interval(rate),
            fraction=numbers.fraction(rate),
            value=_place(rate["value"]),
            low=_place(rate.get("low")),
            high=_place(rate.get("high")),
        )
        for name, rate in rates.items()
    )


def _place(value: float | None) -> float | None:
    return None if value is None else round(100 * value, 2)


def _measure_rows(
    measures: Sequence[Measure],
    models: Mapping[str, dict[str, Any]],
    agreement_with: str | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> tuple[MeasureRow, ...]:
    return tuple(
        MeasureRow(
            measure.label_for(agreement_with),
            measure.definition,
            _bars({name: model[measure.key] for name, model in models.items()}, tuple(models)),
            "" if metrics is None else between.difference(metrics, measure.key),
        )
        for measure in measures
    )


def _tool_rows(models: Mapping[str, dict[str, Any]]) -> Iterator[GroupRow]:
    """Tools by falling support, then by name."""
    names = tuple(models)
    support: dict[str, int] = {}
    for metrics in models.values():
        support |= {tool: entry["support"] for tool, entry in metrics["per_tool"].items()}
    for tool in sorted(support, key=lambda tool: (-support[tool], tool)):
        entries = {name: models[name]["per_tool"][tool] for name in names if tool in models[name]["per_tool"]}
        called = ", ".join(f"{name} {_called(entry)}" for name, entry in entries.items())
        yield GroupRow(
            label=wording.visible(tool),
            counts=f"{support[tool]:,} expected; called: {called}",
            first=_bars({name: entry["name_recall"] for name, entry in entries.items()}, names),
            second=_bars({name: entry["exact"] for name, entry in entries.items()}, names),
        )


def _called(entry: Mapping[str, Any]) -> str:
    """How often a tool was called, and of these calls the share that was expected."""
    precision = entry.get("name_precision") or {"value": None}
    share = "" if precision["value"] is None else f" ({numbers.percent(precision['value'])} rightly)"
    return f"{entry['called']:,}{share}"


def _slices(models: Mapping[str, dict[str, Any]]) -> Iterator[Slice]:
    names = tuple(models)
    properties = dict.fromkeys(key for metrics in models.values() for key in metrics["by"])
    for key in properties:
        groups = {name: models[name]["by"].get(key, {}) for name in names}
        values = dict.fromkeys(value for group in groups.values() for value in group)
        rows = []
        for value in sorted(values, key=_natural):
            entries = {name: group[value] for name, group in groups.items() if value in group}
            exact = {name: entry["exact_match"] for name, entry in entries.items()}
            count = next(reversed(exact.values()))["denominator"]
            tool_names = {name: entry["tool_name_accuracy"] for name, entry in entries.items()}
            counts = f"{count:,} row{'' if count == 1 else 's'}"
            rows.append(GroupRow(wording.visible(value), counts, _bars(exact, names), _bars(tool_names, names)))
        if rows:
            yield Slice(wording.SLICE_TITLES.get(key, f"By {key}"), tuple(rows))


def _natural(value: str) -> tuple[bool, int, str]:
    """Sorts "2" before "10", and numbers before words."""
    return (not value.isdecimal(), int(value) if value.isdecimal() else 0, value)


def _matrix(model: str, confusion: dict[str, Any]) -> Matrix:
    labels, counts = confusion["labels"], confusion["matrix"]
    used = [i for i in range(len(labels)) if any(counts[i]) or any(row[i] for row in counts)]
    expected = [i for i in used if any(counts[i])]
    rows = []
    for i in expected if len(used) <= _MOST_LABELS else []:
        cells = (Cell(counts[i][j], counts[i][j] / sum(counts[i]), i == j) for j in used)
        rows.append((wording.visible(labels[i]), tuple(cells)))
    wrong = [(counts[i][j], i, j) for i in used for j in used if i != j and counts[i][j]]
    wrong.sort(key=lambda mistake: (-mistake[0], mistake[1:]))
    return Matrix(
        model=model,
        labels=tuple(wording.visible(labels[i]) for i in used),
        rows=tuple(rows),
        left_out=len(labels) - len(used),
        mistakes=tuple((wording.visible(labels[i]), wording.visible(labels[j]), n) for n, i, j in wrong[:_MOST_LABELS]),
    )


def _cost(models: Mapping[str, dict[str, Any]]) -> Table:
    rows = []
    for label, key in (("Prompt tokens", "prompt_tokens"), ("Completion tokens", "completion_tokens")):
        for name, metrics in models.items():
            entry = metrics[key]
            rows.append((label, name, *(numbers.number(entry.get(column)) for column in ("p50", "p95", "total"))))
    for name, metrics in models.items():
        entry = metrics["latency_ms"]
        total = entry.get("total")
        times = (numbers.milliseconds(entry.get("p50")), numbers.milliseconds(entry.get("p95")))
        rows.append(("Latency", name, *times, numbers.duration(None if total is None else total / 1000)))
    return Table("llrrr", ("", "Model", "Median", "95th percentile", "Total"), tuple(rows))


def _pretty(value: Any) -> str | None:
    return None if not value else json.dumps(value, ensure_ascii=False, indent=2)
