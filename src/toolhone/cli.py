"""The command line: reads flags, calls one function, prints.

Bad input (`UserError`) gives one message and exit code 2; an interrupted run 130. Heavy libraries are imported by the
command that needs them, so `toolhone --help` answers at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from toolhone import __version__
from toolhone.cli_data import add_data_commands
from toolhone.errors import UserError
from toolhone.quiet import hush_libraries
from toolhone.terminal import plain_console

if TYPE_CHECKING:
    from rich.console import Console


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = _parser().parse_args(arguments)
    hush_libraries()
    try:
        code: int = options.run(options)
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="toolhone", description="Tune a small model to call your tools, and prove that it does."
    )
    parser.add_argument("--version", action="version", version=f"toolhone {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    train = commands.add_parser("train", help="train, evaluate and report one experiment")
    _add_config(train)
    train.add_argument("--dry-run", action="store_true", help="say what would happen; load no weights")
    train.add_argument("--resume", action="store_true", help="go on from the last complete checkpoint")
    train.add_argument("--fresh", action="store_true", help="delete what the run folder holds and start anew")
    train.set_defaults(run=_train)

    evaluate = commands.add_parser("eval", help="predict, score and report again for a finished run")
    _add_run(evaluate)
    evaluate.add_argument("--batch-size", type=int, help="rows generated together")
    evaluate.add_argument("--max-new-tokens", type=int, help="token limit of an answer")
    evaluate.set_defaults(run=_evaluate)

    score = commands.add_parser("score", help="score a run's predictions again (no model is loaded)")
    _add_run(score)
    score.set_defaults(run=_score)

    report = commands.add_parser("report", help="draw a run's report again from its scores")
    _add_run(report)
    report.set_defaults(run=_report)

    ask = commands.add_parser("ask", help="ask a run's tuned model one question")
    _add_run(ask)
    ask.add_argument("question", help='the user message, for example "帮我查订单 ORD-001"')
    ask.add_argument("--base", action="store_true", help="ask the untuned model instead")
    ask.set_defaults(run=_ask)

    doctor = commands.add_parser("doctor", help="what this machine can do, with a ten-second self-test")
    doctor.set_defaults(run=_doctor)

    config = commands.add_parser("config", help="list every key of a config file, with its default and meaning")
    config.set_defaults(run=_config)

    add_data_commands(commands.add_parser("data", help="conversations: check, split, stats, convert, make, review"))
    return parser


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, required=True, help="the experiment's YAML file")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override one key, for example train.epochs=1"
    )


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", type=Path, required=True, dest="folder", help="a run folder, for example runs/cpu")


def _train(options: argparse.Namespace) -> int:
    from toolhone.config_file import load_config

    config = load_config(options.config, options.set)
    console = plain_console()
    if options.dry_run:
        from toolhone.dry_run import dry_run

        dry_run(config, console)
        return 0
    from toolhone.experiment import run_experiment

    run = run_experiment(config, resume=options.resume, fresh=options.fresh, console=console)
    if run is None:
        return 130
    _show_result(run.path, console)
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    from toolhone.experiment import evaluate_run

    given = {"batch_size": options.batch_size, "max_new_tokens": options.max_new_tokens}
    console = plain_console()
    run = evaluate_run(
        options.folder, {key: value for key, value in given.items() if value is not None}, console=console
    )
    _show_result(run.path, console)
    return 0


def _score(options: argparse.Namespace) -> int:
    from toolhone.evaluate.judge import judge_run
    from toolhone.run import existing_run

    run, _ = existing_run(options.folder)
    judge_run(run)
    _show_result(run.path, plain_console())
    return 0


def _report(options: argparse.Namespace) -> int:
    from toolhone.evaluate.report import write_report
    from toolhone.run import existing_run

    run, _ = existing_run(options.folder)
    write_report(run.path)
    _show_result(run.path, plain_console())
    return 0


def _ask(options: argparse.Namespace) -> int:
    from toolhone.ask import ask

    ask(options.folder, options.question, base=options.base, console=plain_console())
    return 0


def _doctor(_: argparse.Namespace) -> int:
    from toolhone.doctor import doctor

    return 0 if doctor(plain_console()) else 1


def _config(_: argparse.Namespace) -> int:
    from toolhone.config import knobs

    console = plain_console()
    for name, field in knobs():
        default = "(required)" if field.is_required() else repr(field.get_default())
        console.print(f"[bold]{name}[/] = {default}", markup=True)
        console.print(f"    {' '.join((field.description or '').split())}", markup=False)
    return 0


def _show_result(folder: Path, console: Console) -> None:
    """The short table and where the report lies; under a launcher, from the first process alone."""
    if os.environ.get("RANK", "0") != "0":
        return
    import json

    from toolhone.evaluate.report import summary_table

    console.print(summary_table(json.loads((folder / "metrics.json").read_text(encoding="utf-8"))))
    console.print(f"report: {folder / 'report.html'}")
