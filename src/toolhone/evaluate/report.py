"""The report of a run: report.html (one file, opens offline), report.md (for a pull request) and a table to print.

In: metrics.json, scores/<model>.jsonl, train_log.jsonl, manifest.json and config.yaml of a run folder. Out: the two
files beside them. Neither a model nor the data set is needed, nothing is judged again, and the same files always give
the same report, so it can be drawn again at any time.
"""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from rich.table import Table
from rich.text import Text

from toolhone.evaluate import wording
from toolhone.evaluate.page import build_page
from toolhone.evaluate.run_files import read_run
from toolhone.jsonl import write_text

_TEMPLATES = Path(__file__).parent / "templates"


def write_report(run_folder: Path) -> None:
    """Write report.html and report.md into a run folder.

    Raises:
        UserError: where metrics.json or a model's scores are missing, unreadable, or do not belong together.
    """
    run = read_run(run_folder)
    page = build_page(run, verdict(run.metrics))
    environment = _environment()
    style, script = ((_TEMPLATES / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    # The page's content policy lets this one script run, by its hash, and loads nothing from anywhere: were a model's
    # text ever to escape its quoting, it would still be inert.
    script_hash = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    html = environment.get_template("report.html.jinja")
    markdown = environment.get_template("report.md.jinja")
    page_text = html.render(page=page, style=style, script=script, script_hash=script_hash)
    write_text(run_folder / "report.html", _encodable(page_text))
    write_text(run_folder / "report.md", _encodable(markdown.render(page=page)))


def verdict(metrics: dict[str, Any]) -> str:
    """The result in one sentence, "base 9.5% to tuned 96.0% exact match [92.3, 98.0], 200 rows".

    The interval is the last model's. Where the gold is another model's answers, it says agreement with that model.
    """
    models: dict[str, dict[str, Any]] = metrics["models"]
    *_, last = models.values()
    figures = [f"{name} {wording.percent(model['exact_match']['value'])}" for name, model in models.items()]
    source = wording.agreement_with(models)
    measure = "exact match" if source is None else f"exact agreement with {source}"
    counts = {model["rows"] for model in models.values()}
    if len(counts) == 1:
        rows = f"{last['rows']:,} row{'' if last['rows'] == 1 else 's'}"
    else:
        rows = " and ".join(f"{model['rows']:,} rows ({name})" for name, model in models.items())
    result = " ".join(part for part in (measure, wording.interval(last["exact_match"])) if part)
    return f"{' to '.join(figures)} {result}, {rows}"


def summary_table(metrics: dict[str, Any]) -> Table:
    """The short table for the terminal: the headline figures with their intervals, and the commonest ways to fail."""
    models: dict[str, dict[str, Any]] = metrics["models"]
    source = wording.agreement_with(models)
    table = Table(title=Text(verdict(metrics)), title_justify="left", title_style="bold")
    table.add_column("Measure")
    for name in models:
        table.add_column(Text(name), justify="right")
    for measure in wording.HEADLINE:
        figures = (Text(wording.figure(model[measure.key])) for model in models.values())
        table.add_row(measure.label_for(source), *figures)
    table.add_section()
    for measure in (*wording.ARGUMENT_ERRORS, *wording.BEHAVIOUR_ERRORS):
        rates = [model[measure.key] for model in models.values()]
        if any(rate["value"] for rate in rates):
            table.add_row(measure.label, *(f"{wording.percent(r['value'])} {wording.fraction(r)}" for r in rates))
    return table


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=lambda name: name is not None and name.endswith(".html.jinja"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["md_cell"] = _markdown_cell
    environment.filters["md_fence"] = _markdown_fence
    return environment


def _markdown_cell(text: str) -> str:
    """Text that stays inside its table cell and is shown as it is."""
    escaped = re.sub(r"([\\`*_{}\[\]<>#|~$])", r"\\\1", " ".join(text.split()))
    return escaped.replace("&", "&amp;")


def _markdown_fence(text: str, language: str = "text") -> str:
    """Text as a code block whose fence is longer than any run of backticks in it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def _encodable(text: str) -> str:
    """The text with lone surrogates, which JSON can carry and UTF-8 cannot, as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
