"""The commands `toolhone data doubt` and `toolhone data import-decisions`: find wrong gold, and get new rows."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolhone.cli import flags
from toolhone.cli.terminal import plain_console
from toolhone.errors import Interrupted, UserError

if TYPE_CHECKING:
    from rich.console import Console

    from toolhone.evaluate.doubts import Doubt

_TOP = 10


def add_doubt(commands: Any) -> None:
    """Add `doubt`."""
    about = "rank the rows whose gold a model that was not trained on them disagrees with"
    parser = flags.command(commands, "doubt", _doubt, about)
    add = parser.add_argument
    about = "with --predictions: the predicted rows (files, folders, globs or hub:owner/name[:split])"
    add("sources", nargs="*", metavar="SOURCE", help=about)
    add("--out", type=Path, required=True, help="file for the ranking, one JSON line for each doubtful turn")
    about = "the experiment's YAML file; its training rows are ranked by models that are trained on the other rows"
    flags.add(parser, "--config", required=False, help=about)
    flags.add(parser, "--set")
    about = "number of folds of the rows; each is scored by a training on the others, 2 or more (default: %(default)s)"
    add("--k", type=flags.count, default=3, metavar="N", help=about)
    add("--fresh", action="store_true", help="with --config: delete the folds' earlier runs and train again")
    about = "file of a model's predictions of the SOURCEs, which it was not trained on"
    add("--predictions", type=Path, metavar="FILE", help=about)
    about = "run folder; the rows that it scores are ranked by its tuned model's predictions"
    flags.add(parser, "--run", required=False, help=about)
    flags.add(parser, "--tools", "--format", "--chat-format")


def _doubt(options: argparse.Namespace) -> None:
    given = [name for name in ("config", "predictions", "folder") if getattr(options, name) is not None]
    if len(given) != 1:
        raise UserError("expected one of --config, --predictions and --run; give --config to train models for this")
    if bool(options.sources) != (given == ["predictions"]):
        problem = "--predictions: names no rows" if not options.sources else f"{options.sources[0]}: unexpected"
        raise UserError(f"{problem}; give the predicted rows as SOURCE with --predictions, and only with it")
    console = plain_console()
    found = _cross_fit(options, console) if options.config else _from_answers(options, console)
    show_doubts(found, options.out, console)


def _cross_fit(options: argparse.Namespace, console: Console) -> list[Doubt]:
    from toolhone.hub import reach_hub_or_cache

    config = flags.config_of(options)
    try:
        reach_hub_or_cache(config.model.name, config.model.revision)
        from toolhone.doubt import cross_fit

        return cross_fit(config, options.k, console, fresh=options.fresh)
    except KeyboardInterrupt as error:
        raise error if isinstance(error, Interrupted) else Interrupted("finished folds are kept") from None


def _from_answers(options: argparse.Namespace, console: Console) -> list[Doubt]:
    from toolhone.data.read import turns
    from toolhone.data.sources import read_and_report
    from toolhone.route.answer_doubts import doubts_of_answers, doubts_of_run

    if options.folder is not None:
        return doubts_of_run(flags.run_of(options))
    rows = read_and_report(options.sources, flags.tools_of(options), options.format, console)
    named = ", ".join(options.sources)
    return doubts_of_answers(turns(rows), options.predictions, options.chat_format, named)


def show_doubts(doubts: list[Doubt], out: Path, console: Console) -> None:
    """Write the doubts, and print how many there are and a table of the first ones."""
    from toolhone.evaluate.doubts import write_doubts
    from toolhone.report.tables import doubts_table

    write_doubts(out, doubts)
    places = ", ".join(f"{count} {place}" for place, count in Counter(one.place for one in doubts).most_common())
    console.print(f"written: {out}: {len(doubts)} doubtful turns{f' ({places})' if places else ''}", markup=False)
    unsized = sum(one.doubt is None for one in doubts)
    if unsized:
        console.print(f"{unsized} answers have no log-probabilities, so they come last and are not ranked")
    if doubts:
        console.print(doubts_table(doubts[:_TOP]))


def add_import_decisions(commands: Any) -> None:
    """Add `import-decisions`."""
    about = "make rows of the large model's answers in a cascade's decision log"
    parser = flags.command(commands, "import-decisions", _import_decisions, about)
    add = parser.add_argument
    about = "decision logs of `toolhone serve` with --log-texts"
    add("logs", nargs="+", type=Path, metavar="LOG", help=about)
    add("--out", type=Path, required=True, help="file for the new rows")
    about = "rows that are known already, such as the training set; may be repeated"
    add("--against", action="append", default=[], metavar="SOURCE", help=about)
    about = "also leave out queries whose words are nearly those of a known row"
    add("--near", action="store_true", help=about)
    about = "sheet to write for people to mark (.html or .csv), the doubtful turns first"
    add("--review", type=Path, metavar="SHEET", help=about)
    about = "how the small model writes calls, for logs of older versions (default: hermes)"
    flags.add(parser, "--chat-format", help=about)
    flags.add(parser, "--tools")


def _import_decisions(options: argparse.Namespace) -> None:
    from toolhone.data.read import read_tools
    from toolhone.jsonl import write_conversations
    from toolhone.report.review_sheet import write_sheet
    from toolhone.route.decisions import import_decisions

    console, tools = plain_console(), read_tools(options.tools) if options.tools else ()
    found = import_decisions(
        options.logs, options.against, console, tools=tools, near=options.near, chat_format=options.chat_format
    )
    if options.out.resolve() in {path.resolve() for path in options.logs}:
        raise UserError(f"--out {options.out}: is one of the logs; name another file")
    write_conversations(options.out, found.rows)
    for line in found.lines():
        console.print(line, markup=False)
    console.print(f"written: {options.out}: {len(found.rows)} rows", markup=False)
    if options.review and found.rows:
        write_sheet([str(options.out)], options.review, console, disagreements=found.disagreements)
