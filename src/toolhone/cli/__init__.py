"""The command line: reads flags, calls one function, prints.

Bad input (`UserError`) gives one message and exit code 2, Ctrl-C exit code 130. Each command imports heavy libraries
itself, so `toolhone --help` answers at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from toolhone import __version__
from toolhone.cli import flags
from toolhone.cli.chat import add_chat_command
from toolhone.cli.data import add_data_commands
from toolhone.cli.economics import add_cost_commands
from toolhone.cli.evaluate import add_evaluate_commands
from toolhone.cli.export import add_export_commands
from toolhone.cli.formats import add_format_commands
from toolhone.cli.route import add_route_command
from toolhone.cli.serve import add_serve_command
from toolhone.cli.start import add_start_commands
from toolhone.cli.terminal import describe_interruption, plain_console, prepare_libraries
from toolhone.cli.train import add_train_commands
from toolhone.cli.verify import add_verify_command
from toolhone.errors import UserError
from toolhone.launcher import rank

_ABOUT = "toolhone tunes a small model to call your tools, and measures how often it calls them right."
_GROUPS = {
    "start": ("init", "fetch", "doctor", "config", "completion"),
    "data": ("data", "formats"),
    "tune": ("train", "learning-curve", "ask", "chat"),
    "evaluate": ("eval", "predict", "score", "compare", "report"),
    "decide and deploy": ("advise", "cost", "route", "export", "verify", "serve"),
}
"""The commands by what they are for, in the order of `toolhone --help`."""
_FIRST = ("init", "fetch", "train", "ask", "data")
"""What a newcomer needs, in this order: a project, a model, a training (which also scores and reports), a question to
the result, and then rows of their own."""
_SHELLS = ("bash", "zsh", "fish")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parser, commands = _parser_and_commands()
    if not (sys.argv[1:] if arguments is None else arguments):
        print(_welcome(commands))
        return 0
    options = parser.parse_args(arguments)
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
        if rank() == 0:
            given = sys.argv[1:] if arguments is None else arguments
            print(f"\ninterrupted{describe_interruption(error, given)}", file=sys.stderr)
        return 130
    return code


class _TopParser(argparse.ArgumentParser):
    """The parser of `toolhone` itself, whose help lists the commands in groups, which argparse cannot."""

    commands: Any

    def format_help(self) -> str:
        groups = "\n".join(f"{group}:\n{_listed(self.commands, names)}\n" for group, names in _GROUPS.items())
        return (
            f"usage: {self.usage}\n\n{_ABOUT}\n\n{groups}\noptions:\n"
            "  -h, --help      show this list; after a command: show its flags\n"
            "  --version       show toolhone's version\n"
        )


def _parser() -> argparse.ArgumentParser:
    return _parser_and_commands()[0]


def _parser_and_commands() -> tuple[argparse.ArgumentParser, Any]:
    """Return the parser, and argparse's action that has the commands' parsers as `choices`."""
    parser = _TopParser(prog="toolhone", usage="toolhone COMMAND [...]")
    parser.add_argument("--version", action="version", version=f"toolhone {__version__}")
    commands = parser.add_subparsers(
        title="commands", required=True, metavar="COMMAND", prog="toolhone", parser_class=argparse.ArgumentParser
    )
    parser.commands = commands
    add_start_commands(commands)
    add_train_commands(commands)
    add_evaluate_commands(commands)
    add_chat_command(commands)
    add_cost_commands(commands)
    add_route_command(commands)
    add_export_commands(commands)
    add_verify_command(commands)
    add_serve_command(commands)
    flags.command(commands, "doctor", _doctor, "check what this machine can do; takes about ten seconds")
    flags.command(commands, "config", _config, "list every key of a config file, with its default and meaning")
    _add_completion(commands)
    add_format_commands(commands)
    add_data_commands(commands)
    return parser, commands


def _listed(commands: Any, names: Iterable[str]) -> str:
    return "\n".join(f"  {name:<16}{commands.choices[name].description}" for name in names)


def _welcome(commands: Any) -> str:
    return (
        f"{_ABOUT}\n\n{_listed(commands, _FIRST)}\n\n"
        "For example: toolhone init shop && cd shop && make train\n"
        "`toolhone --help` lists all commands, `toolhone COMMAND --help` the flags of one."
    )


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


def _add_completion(commands: Any) -> None:
    about = "print a script that completes commands and flags in your shell"
    parser = flags.command(commands, "completion", _completion, about)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = (
        "Install it once, then start a new shell:\n"
        "  bash:  echo 'source <(toolhone completion bash)' >> ~/.bashrc\n"
        '  zsh:   toolhone completion zsh > "${fpath[1]}/_toolhone"\n'
        "  fish:  toolhone completion fish > ~/.config/fish/completions/toolhone.fish"
    )
    parser.add_argument("shell", choices=_SHELLS, help="the shell to complete in")


def _completion(options: argparse.Namespace) -> None:
    import shtab

    parser = _parser()
    _complete_files(parser)
    print(shtab.complete(parser, options.shell))


def _complete_files(parser: argparse.ArgumentParser) -> None:
    """Have shtab complete file names for everything that takes a path."""
    import shtab

    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _complete_files(command)
        elif action.type is Path or action.metavar in ("SOURCE", "RUN_OR_SCORES"):
            action.complete = shtab.FILE  # type: ignore[attr-defined]
