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
from typing import TYPE_CHECKING, get_args

from toolhone import __version__
from toolhone.cli.data import add_data_commands
from toolhone.cli.economics import add_cost_commands
from toolhone.cli.evaluate import add_predict_commands
from toolhone.cli.quiet import hush_libraries
from toolhone.cli.route import add_route_commands
from toolhone.cli.serve import add_serve_commands
from toolhone.cli.terminal import plain_console
from toolhone.errors import UserError
from toolhone.records import FormatName, RowFormat
from toolhone.train.cpu.memory import no_collecting

if TYPE_CHECKING:
    from rich.console import Console


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = _parser().parse_args(arguments)
    hush_libraries()
    try:
        code: int = options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:  # what reads the pipe, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes at its end
        return 1
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

    add_predict_commands(commands)
    add_cost_commands(commands)

    _add_score(commands.add_parser("score", help="score predictions, a run's or any (no model is loaded)"))
    _add_compare(commands.add_parser("compare", help="runs and models side by side, with intervals and tests"))
    _add_report(commands.add_parser("report", help="draw a report again, from a run or from scores alone"))

    curve = commands.add_parser("learning-curve", help="would more data help? train and judge at several sizes")
    _add_config(curve)
    curve.add_argument(
        "--sizes",
        type=_sizes,
        required=True,
        metavar="N,N,...",
        help="training conversations, for example 50,100,200,500",
    )
    curve.set_defaults(run=_learning_curve)

    ask = commands.add_parser("ask", help="ask a run's tuned model one question")
    _add_run(ask)
    ask.add_argument("question", help='the user message, for example "帮我查订单 ORD-001"')
    ask.add_argument("--base", action="store_true", help="ask the untuned model instead")
    ask.set_defaults(run=_ask)

    add_route_commands(commands)
    add_serve_commands(commands)

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


def _add_score(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--run", type=Path, dest="folder", help="a run folder, for example runs/cpu")
    what.add_argument("--predictions", type=Path, nargs="+", metavar="FILE", help="files, each of one model")
    parser.add_argument(
        "--rows", nargs="+", metavar="SOURCE", help="the rows predicted, with their gold, in any format"
    )
    parser.add_argument("--tools", type=Path, help="a JSON list of tools, for rows without any of their own")
    parser.add_argument(
        "--rows-format", choices=get_args(RowFormat), default="auto", help="the rows' format (default: told from them)"
    )
    parser.add_argument(
        *("--format", "--chat-format"),
        dest="chat_format",
        choices=get_args(FormatName),
        default="hermes",
        help="what calls are written in (default: %(default)s)",
    )
    parser.add_argument(
        "--policy", choices=("strict", "bfcl"), default="strict", help="how leniently to judge (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, help="the folder for scores/, metrics.json and the report")
    parser.set_defaults(run=_score)


def _add_compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "sources", nargs="+", type=Path, metavar="RUN_OR_SCORES", help="run folders and files of scores"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, as in metrics.json")
    parser.set_defaults(run=_compare)


def _add_report(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--run", type=Path, dest="folder", help="a run folder, for example runs/cpu")
    what.add_argument("--scores", type=Path, nargs="+", metavar="RUN_OR_SCORES", help="run folders and files of scores")
    parser.add_argument("--out", type=Path, help="with --scores: the file, for example report.html")
    parser.set_defaults(run=_report)


def _train(options: argparse.Namespace) -> int:
    from toolhone.config_file import load_config

    config = load_config(options.config, options.set)
    console = plain_console()
    if options.dry_run:
        from toolhone.cli.dry_run import dry_run

        dry_run(config, console)
        return 0
    from toolhone.pipeline import run_experiment

    run = run_experiment(config, resume=options.resume, fresh=options.fresh, console=console)
    if run is None:
        return 130
    _show_result(run.path, console)
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    from toolhone.pipeline import evaluate_run

    given = {"batch_size": options.batch_size, "max_new_tokens": options.max_new_tokens}
    console = plain_console()
    run = evaluate_run(
        options.folder, {key: value for key, value in given.items() if value is not None}, console=console
    )
    _show_result(run.path, console)
    return 0


@no_collecting()
def _score(options: argparse.Namespace) -> int:
    if options.predictions:
        return _score_files(options)
    from toolhone.evaluate.judge import judge_run
    from toolhone.evaluate.policy import policy_named
    from toolhone.report.report import write_report
    from toolhone.run_folder import existing_run

    _refuse_flags(options, ("rows", "tools", "out"), "--run has these of its own")
    run, _ = existing_run(options.folder)
    judge_run(run, policy_named(options.policy))
    write_report(run.path)
    _show_result(run.path, plain_console())
    return 0


def _score_files(options: argparse.Namespace) -> int:
    if not options.rows or not options.out:
        raise UserError("--predictions: needs --rows, the rows that were predicted, and --out, a folder for the scores")
    from toolhone.data.read import read_tools
    from toolhone.data.sources import name_of, told_rows
    from toolhone.evaluate.judge import judge_files
    from toolhone.evaluate.policy import policy_named
    from toolhone.report.report import write_report

    console = plain_console()
    tools = read_tools(options.tools) if options.tools else ()
    rows = list(told_rows(options.rows, tools, options.rows_format, console))
    policy = policy_named(options.policy)
    judge_files(options.predictions, rows, name_of(options.rows), options.out, options.chat_format, policy)
    write_report(options.out)
    _show_result(options.out, console)
    return 0


@no_collecting()
def _compare(options: argparse.Namespace) -> int:
    from toolhone.report.score_files import compare_files, models_table, pairs_table

    found = compare_files(options.sources)
    if options.json:
        import json

        print(json.dumps(found, ensure_ascii=False, indent=2))
        return 0
    console = plain_console()
    console.print(models_table(found))
    if pairs := pairs_table(found):
        console.print(pairs)
    return 0


@no_collecting()
def _report(options: argparse.Namespace) -> int:
    console = plain_console()
    if options.scores:
        if not options.out:
            raise UserError("--scores: needs --out, the file to write, for example --out report.html")
        from toolhone.report.report import summary_table
        from toolhone.report.score_files import report_scores

        console.print(summary_table(report_scores(options.scores, options.out)))
        console.print(f"report: {options.out}", markup=False)
        return 0
    from toolhone.report.report import write_report
    from toolhone.run_folder import existing_run

    _refuse_flags(options, ("out",), "the report lies in the run folder")
    run, _ = existing_run(options.folder)
    write_report(run.path)
    _show_result(run.path, console)
    return 0


def _refuse_flags(options: argparse.Namespace, names: Sequence[str], why: str) -> None:
    given = [name for name in names if getattr(options, name) is not None]
    if given:
        raise UserError(f"--{given[0]}: goes with files, not with --run ({why}); leave it out")


def _sizes(text: str) -> list[int]:
    try:
        return [int(size) for size in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected numbers such as 50,100,200, found {text}") from None


def _learning_curve(options: argparse.Namespace) -> int:
    from toolhone.config_file import load_config
    from toolhone.learning_curve import learning_curve

    path = learning_curve(load_config(options.config, options.set), options.sizes, plain_console())
    return 130 if path is None else 0


def _ask(options: argparse.Namespace) -> int:
    from toolhone.cli.ask import ask

    ask(options.folder, options.question, base=options.base, console=plain_console())
    return 0


def _doctor(_: argparse.Namespace) -> int:
    from toolhone.doctor import doctor

    return 0 if doctor(plain_console()) else 1


def _config(_: argparse.Namespace) -> int:
    from toolhone.config import config_fields

    console = plain_console()
    for name, field in config_fields():
        default = "(required)" if field.is_required() else repr(field.get_default())
        console.print(f"[bold]{name}[/] = {default}", markup=True)
        console.print(f"    {' '.join((field.description or '').split())}", markup=False)
    return 0


def _show_result(folder: Path, console: Console) -> None:
    """The short table and where the report lies; under a launcher, from the first process alone."""
    if os.environ.get("RANK", "0") != "0":
        return
    import json

    from toolhone.report.report import summary_table

    console.print(summary_table(json.loads((folder / "metrics.json").read_text(encoding="utf-8"))))
    console.print(f"report: {folder / 'report.html'}")
