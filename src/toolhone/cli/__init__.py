"""The command line: reads flags, calls one function, prints.

Bad input (`UserError`) gives one message and exit code 2, Ctrl-C exit code 130. Each command imports heavy libraries
itself, so `toolhone --help` answers at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from toolhone import __version__
from toolhone.cli import flags
from toolhone.cli.data import add_data_commands
from toolhone.cli.economics import add_cost_commands
from toolhone.cli.evaluate import add_evaluate_commands
from toolhone.cli.route import add_route_commands
from toolhone.cli.terminal import describe_interruption, plain_console, prepare_libraries
from toolhone.cli.train import add_train_commands
from toolhone.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = _parser().parse_args(arguments)
    prepare_libraries()
    try:
        code: int = options.run(options) or 0
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of the pipe, such as `head`, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains in its last flush
        return 1
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        if os.environ.get("RANK", "0") == "0":
            given = sys.argv[1:] if arguments is None else arguments
            print(f"\ninterrupted{describe_interruption(error, given)}", file=sys.stderr)
        return 130
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="toolhone", description="Tune a small model to call your tools, and prove that it does."
    )
    parser.add_argument("--version", action="version", version=f"toolhone {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    add_train_commands(commands)
    add_evaluate_commands(commands)
    add_cost_commands(commands)
    add_route_commands(commands)
    flags.command(commands, "doctor", _doctor, "what this machine can do, with a ten-second self-test")
    flags.command(commands, "config", _config, "list every key of a config file, with its default and meaning")
    add_data_commands(commands)
    return parser


def _doctor(_: argparse.Namespace) -> int:
    from toolhone.doctor import doctor

    return 0 if doctor(plain_console()) else 1


def _config(_: argparse.Namespace) -> None:
    from toolhone.config import config_fields

    console = plain_console()
    for name, field in config_fields():
        default = "(required)" if field.is_required() else repr(field.get_default())
        console.print(f"[bold]{name}[/] = {default}", markup=True)
        console.print(f"    {' '.join((field.description or '').split())}", markup=False)
