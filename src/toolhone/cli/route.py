"""The command `toolhone route`, which decides when to escalate to a larger model."""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolhone.cli import flags
from toolhone.cli.terminal import plain_console
from toolhone.errors import UserError
from toolhone.records import Conversation, FormatName

if TYPE_CHECKING:
    from toolhone.route.policy import Identity
    from toolhone.run_folder import RunFolder


def add_route_command(commands: Any) -> None:
    """Add `route`."""
    about = "find when to escalate calls to a larger model, and what that costs; writes policy.json"
    parser = flags.command(commands, "route", _route, about)
    add = parser.add_argument
    flags.add(parser, "--run", required=False, help="run folder, for its tuned model, rows and gold")
    add(
        "--small",
        type=Path,
        metavar="FILE",
        help="predictions of the small model, with log-probabilities (default: the run's)",
    )
    add("--large", type=Path, metavar="FILE", help="predictions of the large model for the same rows")
    flags.add(parser, "--rows", help="the predicted rows, with their gold, in any format (default: the run's)")
    about = "predictions of the small model to calibrate on (default: a share of --small)"
    add("--calibration-small", type=Path, metavar="FILE", help=about)
    add("--calibration-rows", nargs="+", metavar="SOURCE", help="with --calibration-small: the predicted rows")
    about = "with --calibration-small: predictions of the large model for the same rows"
    add("--calibration-large", type=Path, metavar="FILE", help=about)
    flags.add(parser, "--tools", "--rows-format")
    flags.add(parser, "--chat-format", default=None, help="how calls are written (default: the run's, or hermes)")
    about = "YAML file of the settings below, with the flags' names and _ for -"
    flags.add(parser, "--config", required=False, help=about)
    about = "share of the groups of rows to calibrate on, from 0 to 1 (default: 0.5)"
    add("--calibration-share", type=float, metavar="SHARE", help=about)
    add("--out", type=Path, help="folder for policy.json, route.json and route.html (default: the run)")
    add = parser.add_argument_group(
        "the goal: one of --risk, --budget, --escalation and --target-accuracy (default: --escalation 0.1)"
    ).add_argument
    add("--risk", choices=("selective", "system", "harmful_keep"), help="certify that this risk is at most --alpha")
    about = "with --risk: maximum risk, a share from 0 to 1 (default: 0.05)"
    add("--alpha", type=float, metavar="SHARE", help=about)
    about = "with --risk: maximum failure probability of the guarantee, from 0 to 1 (default: 0.05)"
    add("--delta", type=float, metavar="P", help=about)
    add("--budget", type=float, metavar="USD", help="maximum cost of 1,000 calls, in dollars")
    add("--escalation", type=float, metavar="SHARE", help="share of calls to escalate, from 0 to 1")
    about = "share of calls to get right, from 0 to 1, without a guarantee"
    add("--target-accuracy", type=float, metavar="SHARE", help=about)
    add = parser.add_argument_group("prices, and a large model without predictions").add_argument
    add(
        "--large-accuracy",
        type=float,
        metavar="SHARE",
        help="share of calls that it gets right, from 0 to 1, if --large is missing",
    )
    for who in ("large", "small"):
        add(f"--{who}-price", type=float, metavar="USD", help=f"price of a call of the {who} model, in dollars")
        add(
            f"--{who}-price-in",
            type=float,
            metavar="USD",
            help="or price of a million of its prompt tokens, in dollars",
        )
        add(
            f"--{who}-price-out",
            type=float,
            metavar="USD",
            help="and of a million of its completion tokens, in dollars",
        )
        add(f"--{who}-latency", type=float, metavar="S", help="seconds that an answer takes (default: as measured)")


def _route(options: argparse.Namespace) -> None:
    from toolhone.report.report import write_report
    from toolhone.report.routing import summary_lines, ways_page, ways_table, write_routing
    from toolhone.route.policy import IDENTITY, RouteSettings, route_settings
    from toolhone.route.route import RowSplit, read_rows, route, split_rows
    from toolhone.route.ways import with_recorded_price

    settings = route_settings(options.config, {key: getattr(options, key) for key in RouteSettings.model_fields})
    settings = with_recorded_price(settings, options.large)
    run = _run_of(options)
    small = options.small or (run.predictions("tuned") if run is not None else None)
    if small is None:
        raise UserError("--small: name the small model's predictions, or a run with --run")
    is_served = (small.parent / IDENTITY).is_file()  # the answers of an engine that `toolhone verify` asked
    folder = options.out or (small.parent if is_served else None if run is None else run.path)
    if folder is None:
        raise UserError(
            "--out: name a folder for policy.json and route.html, or a run with --run, whose folder takes them"
        )
    if not options.calibration_small and (options.calibration_rows or options.calibration_large):
        raise UserError("--calibration-small: name the small model's predictions of --calibration-rows too")
    if options.calibration_small and not options.calibration_rows:
        raise UserError("--calibration-small: needs --calibration-rows, the predicted rows with their gold")
    conversations, named, format = _predicted_rows(options, run)
    rows, left_out = read_rows(conversations, named, small, options.large, format)
    if options.calibration_small:
        others = flags.rows_of(options.calibration_rows, options)
        other_named = f"the rows of {', '.join(options.calibration_rows)}"
        calibration, more = read_rows(others, other_named, options.calibration_small, options.calibration_large, format)
        shared = {row.small.id for row in calibration} & {row.small.id for row in rows}
        if shared:
            raise UserError(
                f"--calibration-small: {len(shared)} rows are also in --small, such as {min(shared)}; keep them apart"
            )
        left_out |= more
        split = RowSplit(tuple(calibration), tuple(rows), "each from files of its own")
    else:
        split = split_rows(conversations, rows, settings.calibration_share, named)
    routing = route(split, settings, _identity(run, small), format)
    console = plain_console()
    owner = run if run is not None and folder.resolve() == run.path.resolve() else None
    with owner.lock(console) if owner is not None else nullcontext():
        write_routing(routing, folder, folder.resolve().name, _files_read(options, run, small))
    console.print(ways_table(ways_page(routing.ways)))
    for line in summary_lines(routing):
        console.print(line, markup=False)
    if left_out:
        console.print(f"left out, since they cannot be scored: {', '.join(left_out)}", markup=False)
    console.print(f"policy: {folder / 'policy.json'}, page: {folder / 'route.html'}", markup=False)
    if owner is None:
        return
    if not owner.metrics.is_file():
        console.print(f"no report yet: `toolhone score --run {owner.path}` draws one", markup=False)
        return
    with owner.lock(console):
        write_report(owner.path)
    console.print(f"report: {owner.report}", markup=False)


def _files_read(options: argparse.Namespace, run: RunFolder | None, small: Path) -> dict[str, Path | None]:
    """The files that the policy is made from, by what they are."""
    rows = [*(options.rows or ()), *(options.calibration_rows or ())]
    if run is not None and not options.rows:
        rows.append(run.split(run.read_manifest()["judged"]))
    return {
        "small": small,
        "large": options.large,
        "calibration": options.calibration_small,
        "calibration_large": options.calibration_large,
        **{f"rows {number}": Path(source) for number, source in enumerate(rows, 1)},
    }


def _run_of(options: argparse.Namespace) -> RunFolder | None:
    """The run that --run names, or that holds the small model's predictions."""
    from toolhone.run_folder import existing_run

    folder = options.folder
    if folder is None and options.small is not None:
        # A run's predictions/NAME.jsonl, or an engine's verify/ENGINE/predictions.jsonl.
        folder = next((up for up in options.small.parents[1:3] if (up / "config.yaml").is_file()), None)
    return None if folder is None else existing_run(folder)[0]


def _identity(run: RunFolder | None, small: Path) -> Identity:
    """The model and engine that the policy is for: as recorded beside an engine's answers, a run's tuned model, or the
    name of the predictions."""
    from toolhone.route.policy import IDENTITY, Identity, identity_of_run, read_identity

    if (small.parent / IDENTITY).is_file():
        return read_identity(small.parent / IDENTITY)
    if run is not None and small.resolve() in {run.predictions(label).resolve() for label in ("tuned", "tuned-vllm")}:
        found = identity_of_run(run)
        stage = run.stage(f"predict:{small.stem}") or {}
        return found if small.stem == "tuned" else replace(found, engine=stage.get("engine", "vllm"))
    return Identity(small.stem)


def _predicted_rows(options: argparse.Namespace, run: RunFolder | None) -> tuple[list[Conversation], str, FormatName]:
    """The rows that were predicted, what messages call them, and the chat format."""
    if options.rows:
        rows = flags.rows_of(options.rows, options)
        return rows, f"the rows of {', '.join(options.rows)}", options.chat_format or "hermes"
    if run is None:
        raise UserError("--rows: name the predicted rows, with their gold; these predictions are in no run folder")
    split, rows, format = flags.scored_rows_of(run, options)
    return rows, f"the {split} rows in {run.path}/splits", format
