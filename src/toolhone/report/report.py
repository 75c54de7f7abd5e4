"""The report of a run: report.html (one file, opens offline) and report.md (for a pull request).

In: the files of a run folder. Out: the report in that folder, samples/ in lm-evaluation-harness's layout, and the
adapter's model card. This module turns figures into text; the templates only place it. It loads no model and scores
nothing again. The same files always give the same report.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from toolhone import __version__
from toolhone.errors import UserError
from toolhone.evaluate.metrics import metrics
from toolhone.evaluate.score import read_score_files
from toolhone.jsonl import write_text
from toolhone.report import facts, numbers, tables, wording
from toolhone.report.exports import write_card, write_samples
from toolhone.report.facts import RunFiles, read_run
from toolhone.report.failures import count_kinds, count_tools, draw_failures, failures
from toolhone.report.pages import html_page, markdown_page, page_script
from toolhone.report.plots import accuracy_curve, loss_curve
from toolhone.report.routing import run_ways
from toolhone.run_folder import RunFolder

_MAX_TOOLS = 60
_MAX_LABELS = 30
_BASE_FAILURES = 20

_Models = Mapping[str, Mapping[str, Any]]


def write_report(run_folder: Path) -> None:
    """Write report.html, report.md and samples/ into a run folder, and README.md into its adapter folder if it exists.

    Raises:
        UserError: if metrics.json or a model's scores are missing, unreadable, or from different runs.
    """
    run = read_run(run_folder)
    page = _draw(run, run_folder / "report.html")
    write_samples(run, run_folder)
    adapter = RunFolder(run_folder).adapter
    if (adapter / "adapter_config.json").is_file():
        write_card(run, page, adapter)


def report_scores(sources: Sequence[Path], out: Path) -> dict[str, Any]:
    """Write a report from score files alone, as HTML to `out` and as Markdown beside it. Returns the metrics.

    Raises:
        UserError: if the models cannot be compared, or `out` does not end in .html.
    """
    if out.suffix != ".html":
        raise UserError(f"--out {out}: expected a file that ends in .html, for example report.html")
    scores = read_score_files(sources)
    found = metrics(scores, {"toolhone": __version__, "scores": list(map(str, sources))})
    ways = run_ways(sources[0], found) if len(sources) == 1 and sources[0].is_dir() else None
    _draw(RunFiles(out.stem, found, scores, ways=ways), out)
    return found


def _draw(run: RunFiles, out: Path) -> dict[str, Any]:
    """Write the report to `out` and as Markdown beside it. Returns the page's values."""
    page = build_page(run)
    shown = draw_failures(page["failures"], page["models"][0])
    write_text(out, html_page("report", page=page, shown=shown, **page_script("report")))
    write_text(out.with_suffix(".md"), markdown_page("report", page=page))
    return page


def build_page(run: RunFiles) -> dict[str, Any]:
    """Return all values that the templates show, in the order of the report.

    `run.scores` must have the models of the metrics in the same order.
    """
    models: dict[str, dict[str, Any]] = run.metrics["models"]
    names, labels = tuple(models), wording.labels(models)
    first, last = names[0], names[-1]
    by_id = {name: {score.id: score for score in run.scores[name]} for name in names}
    rows = failures(run.scores[last], {name: by_id[name] for name in names[:-1]}, run.prompts)
    base_rows = [score for score in run.scores[first] if not score.exact] if len(names) > 1 else []
    fractions = (numbers.fraction(model[measure.key]) for model in models.values() for measure in wording.MEASURES)
    source = wording.agreement_with(models)
    tool_rows = _tool_rows(models)
    compared = run.metrics.get("compare", ())
    return {
        "name": run.name,
        "version": run.manifest.get("toolhone"),
        "verdict": facts.verdict(run.metrics),
        "facts": tuple(facts.machine(run)),
        "chat": tuple(facts.chat(run)),
        "models": names,
        "labels": tuple(labels.values()),
        "sample": facts.sample(run.metrics),
        "formats": facts.formats(run.metrics),
        # The widths of the longest model name and count, in characters.
        "who_width": max(map(len, labels.values())) + 1,
        "fraction_width": max(map(len, fractions)),
        "agreement_with": source,
        "headline": _measure_rows(wording.HEADLINE, models, labels, source, run.metrics),
        "left_out": tuple(facts.left_out(run)),
        "change": facts.change(by_id[first], by_id[last]) if len(names) > 1 else None,
        "clustered_by": next((entry["clustered_by"] for entry in compared), None),
        "comparisons": tables.comparisons_table(run.metrics),
        "ways": run.ways,
        "tools": tool_rows[:_MAX_TOOLS],
        "tools_left_out": len(tool_rows[_MAX_TOOLS:]),
        "matrices": [_matrix(labels[name], models[name]["confusion"]) for name in reversed(names)],
        "arguments": _measure_rows(wording.ARGUMENTS, models, labels),
        "argument_errors": _measure_rows(wording.ARGUMENT_ERRORS, models, labels),
        "behaviour": _measure_rows(wording.BEHAVIOUR_ERRORS, models, labels),
        "validity": _measure_rows(wording.VALIDITY, models, labels),
        "escalation": _measure_rows(wording.ESCALATION, facts.escalation_figures(models), labels, source),
        "repaired": _measure_rows(wording.REPAIRED, facts.repaired_figures(models), labels, source),
        "repairs": tables.repairs_table(models),
        "policy": facts.policy(run.metrics),
        "rules": tables.rules_table(models),
        "slices": tuple(_slices(models)),
        "curve": loss_curve(run.train_log),
        "accuracy": accuracy_curve(run.train_log),
        "training": tuple(facts.training(run)),
        "cost": tables.cost_table(models),
        "answer_limit": facts.answer_limit(run),
        "data": tables.data_table(run.manifest),
        "stages": tables.stages_table(run.manifest),
        "failures": rows,
        "failure_kinds": count_kinds(rows),
        "failure_tools": count_tools(rows),
        "regressions": sum(row.regression for row in rows),
        "base_failures": failures(base_rows[:_BASE_FAILURES], {}, run.prompts),
        "base_failure_count": len(base_rows),
        "commands": facts.commands(run),
        "config": run.config,
        "manifest": _pretty(run.manifest),
        "provenance": _pretty(run.metrics.get("provenance")),
    }


def _bars(rates: Mapping[str, Mapping[str, Any]], labels: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return one bar per model: its texts, and its geometry in percent (None without a value or an interval)."""
    *_, last = labels
    return [
        {
            "model": name,
            "label": labels[name],
            "tuned": name == last,
            "percent": numbers.percent(rate["value"]),
            "interval": numbers.interval(rate),
            "fraction": numbers.fraction(rate),
            **{key: None if rate.get(key) is None else round(100 * rate[key], 2) for key in ("value", "low", "high")},
        }
        for name, rate in rates.items()
    ]


def _measure_rows(
    measures: Sequence[wording.Measure],
    models: _Models,
    labels: Mapping[str, str],
    agreement_with: str | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Return a row per measure with one bar per model, and with `metrics` the difference. Empty without models."""
    return [
        {
            "label": measure.label_for(agreement_with),
            "definition": measure.definition,
            "bars": _bars({name: model[measure.key] for name, model in models.items()}, labels),
            "difference": "" if metrics is None else facts.difference(metrics, measure.key),
        }
        for measure in measures
        if models
    ]


def _group_row(
    label: str, counts: str, entries: _Models, first: str, second: str, labels: Mapping[str, str]
) -> dict[str, Any]:
    """Return a table row for a tool or a group of rows: two measures side by side, one bar per model."""
    return {
        "label": wording.visible(label),
        "counts": counts,
        "first": _bars({name: entry[first] for name, entry in entries.items()}, labels),
        "second": _bars({name: entry[second] for name, entry in entries.items()}, labels),
    }


def _tool_rows(models: _Models) -> list[dict[str, Any]]:
    """Return a table row per tool. The tools expected most often come first; equal ones are sorted by name."""
    support = {tool: entry["support"] for model in models.values() for tool, entry in model["per_tool"].items()}
    rows = []
    for tool in sorted(support, key=lambda tool: (-support[tool], tool)):
        entries = {name: model["per_tool"][tool] for name, model in models.items() if tool in model["per_tool"]}
        expected = _of_each({name: numbers.number(entry["support"]) for name, entry in entries.items()}, " expected")
        called = ", ".join(f"{name} {_called(entry)}" for name, entry in entries.items())
        counts = f"{expected}; called: {called}"
        rows.append(_group_row(tool, counts, entries, "name_recall", "exact", wording.labels(models)))
    return rows


def _of_each(counts: Mapping[str, str], what: str) -> str:
    """Return the count of all models, "40 expected". If they differ, as with a sample: "expected: base 9, tuned 40"."""
    if len(set(counts.values())) == 1:
        return next(iter(counts.values())) + what
    return f"{what.strip()}: {', '.join(f'{name} {count}' for name, count in counts.items())}"


def _called(entry: Mapping[str, Any]) -> str:
    """Return how often a tool was called, and the share of these calls that was expected."""
    precision = entry.get("name_precision") or {"value": None}
    share = "" if precision["value"] is None else f" ({numbers.percent(precision['value'])} correctly)"
    return f"{numbers.number(entry['called'])}{share}"


def _slices(models: _Models) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield each property of the rows, such as the language, with a table row for each of its values."""
    for key in dict.fromkeys(key for model in models.values() for key in model["by"]):
        groups = {name: model["by"].get(key, {}) for name, model in models.items()}
        rows = []
        for value in dict.fromkeys(value for group in groups.values() for value in group):
            entries = {name: group[value] for name, group in groups.items() if value in group}
            rows_of = {name: numbers.number(entry["exact_match"]["denominator"]) for name, entry in entries.items()}
            counts = _of_each(rows_of, " row" if set(rows_of.values()) == {"1"} else " rows")
            rows.append(_group_row(value, counts, entries, "exact_match", "tool_name_accuracy", wording.labels(models)))
        if rows:
            yield wording.SLICE_TITLES.get(key, f"By {key}"), rows


def _matrix(model: str, confusion: Mapping[str, Any]) -> dict[str, Any]:
    """Return a model's confusion matrix and its most common mistakes. A matrix too large to read has no rows.

    A cell's `shade` is its share of the gold calls in its row, from 0 to 1.
    """
    counts = confusion["matrix"]
    labels = [wording.visible(label) for label in confusion["labels"]]
    used = [i for i in range(len(labels)) if any(counts[i]) or any(row[i] for row in counts)]
    rows = [
        (labels[i], [{"count": counts[i][j], "shade": counts[i][j] / sum(counts[i]), "right": i == j} for j in used])
        for i in used
        if len(used) <= _MAX_LABELS and any(counts[i])
    ]
    wrong = sorted((-counts[i][j], i, j) for i in used for j in used if i != j and counts[i][j])
    return {
        "model": model,
        "labels": [labels[i] for i in used],
        "rows": rows,
        "left_out": len(labels) - len(used),
        "mistakes": [(labels[i], labels[j], -count) for count, i, j in wrong[:_MAX_LABELS]],
    }


def _pretty(value: Any) -> str | None:
    return json.dumps(value, ensure_ascii=False, indent=2) if value else None
