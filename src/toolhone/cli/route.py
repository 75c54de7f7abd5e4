"""The command that says when the small model should answer: `toolhone route`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolhone.cli.terminal import plain_console
from toolhone.data.importers import IMPORTERS
from toolhone.errors import UserError
from toolhone.formats import FORMATS
from toolhone.records import FormatName

if TYPE_CHECKING:
    from rich.console import Console

    from toolhone.records import Conversation
    from toolhone.route.policy import Identity
    from toolhone.run_folder import RunFolder

_SETTINGS = (
    *("risk", "alpha", "delta", "budget", "escalation", "target_accuracy", "calibration_share"),
    *("large_accuracy", "large_price", "small_price", "large_price_in", "large_price_out"),
    *("small_price_in", "small_price_out", "large_latency", "small_latency"),
)


def add_route_commands(commands: Any) -> None:
    """Add `route` to the commands."""
    parser = commands.add_parser("route", help="when the small model should answer, and what that costs: policy.json")
    parser.add_argument("--run", type=Path, dest="folder", help="a run folder: its tuned model, rows and gold")
    parser.add_argument(
        "--small", type=Path, metavar="FILE", help="the small model's predictions, with log-probabilities"
    )
    parser.add_argument("--large", type=Path, metavar="FILE", help="the large model's predictions of the same rows")
    parser.add_argument(
        "--rows", nargs="+", metavar="SOURCE", help="the rows predicted, with their gold (else the run's)"
    )
    parser.add_argument(
        "--calibration", type=Path, metavar="FILE", help="the small model's predictions to calibrate on"
    )
    parser.add_argument("--calibration-rows", nargs="+", metavar="SOURCE", help="with --calibration: its rows")
    parser.add_argument("--calibration-large", type=Path, metavar="FILE", help="with --calibration: the large model's")
    parser.add_argument("--tools", type=Path, help="a JSON list of tools, for rows without any of their own")
    parser.add_argument("--rows-format", choices=("auto", *IMPORTERS), default="auto", help="(default: detected)")
    parser.add_argument(
        "--chat-format", choices=tuple(FORMATS), help="what calls are written in (default: the run's, or hermes)"
    )
    parser.add_argument("--config", type=Path, help="a YAML file of the settings below, _ for - in their names")
    parser.add_argument("--out", type=Path, help="the folder for policy.json, route.json and route.html (else the run)")
    goal = parser.add_argument_group("the goal, one of these (default: --escalation 0.1)")
    goal.add_argument("--risk", choices=("selective", "system", "harmful_keep"), help="certify it: at most --alpha")
    goal.add_argument("--alpha", type=float, help="the most that the risk may be (default: 0.05)")
    goal.add_argument("--delta", type=float, help="the most that the chance of more may be (default: 0.05)")
    goal.add_argument("--budget", type=float, metavar="USD", help="for 1,000 calls")
    goal.add_argument("--escalation", type=float, metavar="SHARE", help="of the calls, handed over")
    goal.add_argument("--target-accuracy", type=float, metavar="SHARE", help="to reach, without a guarantee")
    what = parser.add_argument_group("prices, and a large model without predictions")
    what.add_argument("--large-accuracy", type=float, metavar="SHARE", help="assumed; instead of --large")
    for who in ("large", "small"):
        what.add_argument(f"--{who}-price", type=float, metavar="USD", help=f"for a call of the {who} model")
        what.add_argument(f"--{who}-price-in", type=float, metavar="USD", help="or for a million of its prompt tokens")
        what.add_argument(f"--{who}-price-out", type=float, metavar="USD", help="and a million of its answer's tokens")
        what.add_argument(f"--{who}-latency", type=float, metavar="S", help="of an answer (default: as predicted)")
    parser.add_argument("--calibration-share", type=float, help="of the groups of rows (default: 0.5)")
    parser.set_defaults(run=_route)


def _route(options: argparse.Namespace) -> int:
    from toolhone.report.routing_page import write_routing
    from toolhone.report.routing_text import models_table, summary_lines
    from toolhone.route.policy import route_settings
    from toolhone.route.route import route
    from toolhone.route.rows import RowSplit, read_rows, split_rows

    console = plain_console()
    settings = route_settings(options.config, {key: getattr(options, key) for key in _SETTINGS})
    run = _run_of(options)
    small = options.small or (run.predictions("tuned") if run is not None else None)
    if small is None:
        raise UserError("--small: name the small model's predictions, or a run with --run")
    folder = options.out or (None if run is None else run.path)
    if folder is None:
        raise UserError("--out: name a folder for policy.json and route.html; only with --run do they go into the run")
    if not options.calibration and (options.calibration_rows or options.calibration_large):
        raise UserError("--calibration: name the small model's predictions of --calibration-rows too")
    if options.calibration and not options.calibration_rows:
        raise UserError("--calibration: needs --calibration-rows, the rows that were predicted, with their gold")
    format, identity = _format(options, run), _identity(run, small)
    conversations, named = _conversations(options, run, console)
    rows, left_out = read_rows(conversations, named, small, options.large, format)
    if options.calibration:
        others = _read(options.calibration_rows, options, console)
        other_named = f"the rows of {', '.join(options.calibration_rows)}"
        calibration, more = read_rows(others, other_named, options.calibration, options.calibration_large, format)
        shared = {row.small.id for row in calibration} & {row.small.id for row in rows}
        if shared:
            raise UserError(
                f"--calibration: {len(shared)} rows are held out too, such as {min(shared)}; split them first"
            )
        left_out |= more
        split = RowSplit(tuple(calibration), tuple(rows), "each from files of its own")
    else:
        split = split_rows(conversations, rows, settings.calibration_share, named)
    routing = route(split, settings, identity, format)
    write_routing(routing, folder, folder.resolve().name)
    for case in routing.cases:
        console.print(models_table(routing, case))
    for line in summary_lines(routing):
        console.print(line, markup=False)
    if left_out:
        console.print(f"left out, as they cannot be judged: {', '.join(left_out)}", markup=False)
    console.print(f"policy: {folder / 'policy.json'}, page: {folder / 'route.html'}", markup=False)
    return 0


def _run_of(options: argparse.Namespace) -> RunFolder | None:
    """The run that is named, or that the small model's predictions lie in."""
    from toolhone.run_folder import existing_run

    if options.folder is not None:
        return existing_run(options.folder)[0]
    if options.small is not None and (options.small.parent.parent / "config.yaml").is_file():
        return existing_run(options.small.parent.parent)[0]
    return None


def _identity(run: RunFolder | None, small: Path) -> Identity:
    """Whose policy it is: a run's tuned model, or what its predictions are named after."""
    from toolhone.route.policy import Identity, identity_of_run

    if run is not None and small.resolve() in {run.predictions(label).resolve() for label in ("tuned", "tuned-vllm")}:
        return identity_of_run(run)
    return Identity(small.stem)


def _format(options: argparse.Namespace, run: RunFolder | None) -> FormatName:
    if run is None or options.rows:
        return options.chat_format or "hermes"
    format: FormatName = run.read_manifest()["chat"]["format"]
    if options.chat_format not in (None, format):
        raise UserError(f"--chat-format: the run's rows are judged as {format}; leave it out")
    return format


def _conversations(
    options: argparse.Namespace, run: RunFolder | None, console: Console
) -> tuple[list[Conversation], str]:
    """The rows that were predicted, and what a message calls them."""
    from toolhone.data.read import read_conversations
    from toolhone.evaluate.score import scored_split

    if options.rows:
        return _read(options.rows, options, console), f"the rows of {', '.join(options.rows)}"
    if run is None:
        raise UserError("--rows: name the rows that were predicted, with their gold; these predictions lie in no run")
    split = scored_split(run)
    return list(read_conversations(run.split(split))), f"the {split} rows in {run.path}/splits"


def _read(sources: list[str], options: argparse.Namespace, console: Console) -> list[Conversation]:
    from toolhone.data.read import read_tools
    from toolhone.data.sources import read_and_report

    tools = read_tools(options.tools) if options.tools else ()
    return list(read_and_report(sources, tools, options.rows_format, console))
