"""The report of a run: report.html (one file, opens offline), report.md (for a pull request) and a table to print;
beside them samples/ in lm-evaluation-harness's layout, and the adapter's model card.

In: metrics.json, scores/<model>.jsonl, train_log.jsonl, manifest.json, config.yaml and the judged split of a run. Out:
the files beside them. No model is needed, nothing is judged again, and the same files always give the same report,
so it can be drawn again at any time.
"""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from rich.table import Table
from rich.text import Text

from toolhone.evaluate.policy import STRICT
from toolhone.jsonl import write_text
from toolhone.report import between, leniency, numbers, wording
from toolhone.report.failure_list import show_failures
from toolhone.report.page import Page, build_page
from toolhone.report.run_files import RunFiles, read_run
from toolhone.report.samples import write_samples
from toolhone.run_folder import RunFolder

_TEMPLATES = Path(__file__).parent / "templates"


def write_report(run_folder: Path) -> None:
    """Write report.html, report.md and samples/ into a run folder, and README.md into its adapter, if it has one.

    Raises:
        UserError: where metrics.json or a model's scores are missing, unreadable, or do not belong together.
    """
    run = read_run(run_folder)
    page = draw_report(run, run_folder / "report.html")
    write_samples(run, run_folder)
    adapter = RunFolder(run_folder).adapter
    if (adapter / "adapter_config.json").is_file():
        # Imported here, as huggingface_hub takes longer than the rest, and a run of an endpoint has no adapter.
        from toolhone.report.card import write_card

        write_card(run, page, adapter, _environment())


def draw_report(run: RunFiles, out: Path) -> Page:
    """Write the report of what was read of a run to `out`, and as Markdown beside it; returns what it says."""
    page = build_page(run, verdict(run.metrics))
    environment = _environment()
    style, script = ((_TEMPLATES / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    # The page's content policy lets this one script run, by its hash, and loads nothing from anywhere: were a model's
    # text ever to escape its quoting, it would still be inert.
    script_hash = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    html = environment.get_template("report.html.jinja")
    markdown = environment.get_template("report.md.jinja")
    shown = show_failures(page.failures, page.models[0], environment)
    page_text = html.render(page=page, shown=shown, style=style, script=script, script_hash=script_hash)
    write_text(out, _encodable(page_text))
    write_text(out.with_suffix(".md"), _encodable(markdown.render(page=page)))
    return page


def verdict(metrics: dict[str, Any]) -> str:
    """The result in one sentence, "base 9.5% to tuned 96.0% exact match, +86.5 points [81.0, 91.0], 200 rows".

    The interval is of the difference; of one model alone, its own: "tuned 96.0% exact match [92.3, 98.0], 200 rows".
    Where the gold is another model's answers, it says agreement with that model; where the policy is not the strict
    one, it names it.
    """
    models: dict[str, dict[str, Any]] = metrics["models"]
    *_, last = models.values()
    figures = [f"{name} {numbers.percent(model['exact_match']['value'])}" for name, model in models.items()]
    source = wording.agreement_with(models)
    measure = "exact match" if source is None else f"exact agreement with {source}"
    if leniency.policy(metrics) != STRICT.name:
        measure += f" under the policy {leniency.policy(metrics)}"
    counts = {model["rows"] for model in models.values()}
    if len(counts) == 1:
        rows = f"{last['rows']:,} row{'' if last['rows'] == 1 else 's'}"
    else:
        rows = " and ".join(f"{model['rows']:,} rows ({name})" for name, model in models.items())
    difference = between.difference(metrics, "exact_match")
    result = f"{measure}, {difference}" if difference else f"{measure} {numbers.interval(last['exact_match'])}".rstrip()
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
        figures = (Text(numbers.figure(model[measure.key])) for model in models.values())
        table.add_row(measure.label_for(source), *figures)
    mended = leniency.mended(models)
    for measure in wording.REPAIRED:
        if any(one[measure.key] != models[name][measure.key] for name, one in mended.items()):
            cells = (numbers.figure(mended[name][measure.key]) if name in mended else numbers.ABSENT for name in models)
            table.add_row(measure.label_for(source), *map(Text, cells))
    handing = [model.get("escalation") for model in models.values()]
    for measure in wording.ESCALATION if any(handing) else ():
        cells = (numbers.figure(one[measure.key]) if one else numbers.ABSENT for one in handing)
        table.add_row(measure.label_for(source), *map(Text, cells))
    table.add_section()
    for measure in (*wording.ARGUMENT_ERRORS, *wording.BEHAVIOUR_ERRORS):
        rates = [model[measure.key] for model in models.values()]
        if any(rate["value"] for rate in rates):
            table.add_row(measure.label, *(f"{numbers.percent(r['value'])} {numbers.fraction(r)}" for r in rates))
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
    environment.filters["unbroken"] = _unbroken
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


def _unbroken(text: str) -> Markup:
    """Text in whose intervals, "[81.0, 91.0]", no line is broken."""
    return Markup(re.sub(r"\[[^\[\]]*\]", r'<span class="unbroken">\g<0></span>', str(escape(text))))


def _encodable(text: str) -> str:
    """The text with lone surrogates, which JSON can carry and UTF-8 cannot, as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
