"""Scores that were judged before, from one run, several, or single files: compared in tables, or drawn as a report.

In: run folders, folders that `toolhone score --out` wrote, and files of scores. Out: each model's scores under a name
of its own; tables for the terminal; report.html. Nothing is judged again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from toolhone import __version__
from toolhone.errors import UserError
from toolhone.evaluate.metrics import metrics
from toolhone.evaluate.score import read_scores
from toolhone.records import Score
from toolhone.report import numbers, wording
from toolhone.report.report import draw_report
from toolhone.report.run_files import RunFiles
from toolhone.run_folder import model_files

_REMEDY = "`toolhone score` makes scores of predictions"


def read_score_files(sources: Sequence[Path]) -> dict[str, list[Score]]:
    """Each model's scores, by its file's stem, and where stems are not all different, with its folder's name before it.

    Raises:
        UserError: where a source holds no scores, is named twice, or a line is no score.
    """
    files = [file for source in sources for file in _files_of(source)]
    counts = Counter(file.resolve() for file in files)
    twice = [file for file in files if counts[file.resolve()] > 1]
    if twice:
        raise UserError(f"{twice[0]}: is named twice; name each run or file once")
    return {name: read_scores(file, _REMEDY) for name, file in zip(_names(files), files, strict=True)}


def _files_of(source: Path) -> list[Path]:
    """A file itself; of a folder its scores, the base model's first."""
    if not source.is_dir():
        return [source]
    inside = source / "scores" if (source / "scores").is_dir() else source
    files = model_files(inside)
    if not files:
        raise UserError(f"{source}: holds no scores (looked for {inside}/*.jsonl); {_REMEDY}")
    return files


def _names(files: Sequence[Path]) -> list[str]:
    def owner(file: Path) -> str:
        folder = file.resolve().parent
        return folder.parent.name if folder.name == "scores" else folder.name

    stems = [file.stem for file in files]
    owned = [f"{owner(file)}/{file.stem}" for file in files]
    return next((names for names in (stems, owned) if len(set(names)) == len(files)), [str(file) for file in files])


def compare_files(sources: Sequence[Path]) -> dict[str, Any]:
    """The figures of all models in the sources, and each pair of them compared, as metrics.json has them.

    Raises:
        UserError: where the models were not scored on the same rows with the same gold.
    """
    return metrics(read_score_files(sources), {"toolhone": __version__, "sources": list(map(str, sources))})


def models_table(found: dict[str, Any]) -> Table:
    """One row a model: its headline figures with their intervals and counts."""
    models: dict[str, dict[str, Any]] = found["models"]
    source = wording.agreement_with(models)
    rows = next(iter(models.values()))["rows"]
    title = f"{len(models)} models on the same {rows:,} rows"
    table = Table(title=Text(title), title_justify="left", title_style="bold")
    table.add_column("Model")
    for measure in wording.HEADLINE:
        table.add_column(measure.label_for(source), justify="right")
    for name, model in models.items():
        table.add_row(Text(name), *(Text(numbers.figure(model[measure.key])) for measure in wording.HEADLINE))
    if source is not None:
        table.caption = Text(f"The gold is what {source} answered: these figures are agreement with {source}.")
    return table


def pairs_table(found: dict[str, Any]) -> Table | None:
    """One row a pair of models and measure: the difference with its interval, and McNemar's test. None of one model."""
    entries = found["compare"]
    if not entries:
        return None
    labels = {measure.key: measure.label_for(entries[0]["agreement_with"]) for measure in wording.HEADLINE}
    table = Table(title="Differences", title_justify="left", title_style="bold", caption_justify="left")
    for name in ("From", "To", "Measure", "Difference"):
        table.add_column(name)
    for name in ("Only from", "Only to", "p"):
        table.add_column(name, justify="right")
    for entry in entries:
        test = entry["mcnemar"]
        tested = () if test is None else (f"{test['first_only']:,}", f"{test['second_only']:,}")
        p = () if test is None else (numbers.p_value(test["p_value"]),)
        cells = (entry["first"], entry["second"], labels[entry["measure"]], numbers.points(entry) or numbers.ABSENT)
        table.add_row(*map(Text, (*cells, *tested, *p)), end_section=entry["measure"] == wording.HEADLINE[-1].key)
    clusters = entries[0]["intervals"][-1]
    table.caption = Text(
        f"95% intervals: paired bootstrap, {entries[0]['folds']:,} folds over {clusters['clusters']:,} "
        f"{clusters['clustered_by']}s. Only from, only to: rows that one model alone has right. p: McNemar's exact "
        "test, which takes rows for independent; not adjusted for the number of pairs."
    )
    return table


def report_scores(sources: Sequence[Path], out: Path) -> dict[str, Any]:
    """Draw a report from scores alone, report.md beside it, and return the metrics.

    Raises:
        UserError: as `compare_files`, and where `out` is no .html file.
    """
    if out.suffix != ".html":
        raise UserError(f"--out {out}: expected a file that ends in .html, for example report.html")
    scores = read_score_files(sources)
    found = metrics(scores, {"toolhone": __version__, "scores": list(map(str, sources))})
    draw_report(RunFiles(out.stem, found, scores, [], None, None, {}), out)
    return found
