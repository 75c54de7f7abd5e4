"""Flags that several commands share, each declared once, and how their values are read."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolhone.cli.terminal import plain_console
from toolhone.data.importers import IMPORTERS
from toolhone.data.read import read_conversations, read_tools
from toolhone.errors import UserError
from toolhone.formats import FORMATS
from toolhone.records import Conversation, Tool

if TYPE_CHECKING:
    from toolhone.config import Config
    from toolhone.run_folder import RunFolder

_FORMAT = {"choices": ("auto", *IMPORTERS), "default": "auto", "help": "format of the rows (default: auto-detected)"}
SHARED: dict[str, dict[str, Any]] = {
    "--run": {"type": Path, "required": True, "dest": "folder", "help": "run folder, for example runs/cpu"},
    "--config": {"type": Path, "required": True, "help": "the experiment's YAML file"},
    "--set": {"action": "append", "default": [], "metavar": "KEY=VALUE", "help": "override a key: train.epochs=1"},
    "--rows": {"nargs": "+", "metavar": "SOURCE", "help": "the rows predicted, with their gold, in any format"},
    "--tools": {"type": Path, "help": "JSON list of tools, for rows that have none of their own"},
    "--format": _FORMAT,
    "--rows-format": _FORMAT,
    "--chat-format": {"choices": tuple(FORMATS), "default": "hermes", "help": "format of the calls (default: hermes)"},
    "--price-in": {"type": float, "metavar": "USD", "help": "price of a million prompt tokens"},
    "--price-out": {"type": float, "metavar": "USD", "help": "price of a million completion tokens"},
}
"""The flags of several commands, as argparse takes them."""

Run = Callable[[argparse.Namespace], int | None]
"""Carries out a command. Returns the exit code; None is 0."""


def command(commands: Any, name: str, run: Run, about: str) -> argparse.ArgumentParser:
    """Add a command and return its parser, for the flags."""
    parser: argparse.ArgumentParser = commands.add_parser(name, help=about)
    parser.set_defaults(run=run)
    return parser


def add(parser: Any, *names: str, **changes: Any) -> None:
    """Add shared flags to a parser or a group, with `changes` to how they are declared."""
    for name in names:
        parser.add_argument(name, **SHARED[name] | changes)


def add_endpoint_limits(parser: Any, *, max_tokens: int, concurrency: int, retries: int) -> None:
    """Add the flags that limit what is asked of an endpoint; they are named as the fields of its settings."""
    limit = parser.add_argument
    limit("--max-tokens", type=int, default=max_tokens, help="token limit of an answer (default: %(default)s)")
    limit("--concurrency", type=int, default=concurrency, help="calls in flight at once (default: %(default)s)")
    about = "time limit of a call in seconds (default: %(default)s)"
    limit("--timeout", dest="timeout_s", type=float, default=60.0, metavar="S", help=about)
    limit("--retries", type=int, default=retries, help="retries of a failed call (default: %(default)s)")
    limit("--max-calls", type=int, metavar="N", help="stop after N calls (default: no limit)")
    limit("--max-usd", type=float, metavar="USD", help="stop before the cost exceeds this (default: no limit)")
    add(parser, "--price-in", "--price-out")


def endpoint_limits_of(options: argparse.Namespace) -> dict[str, Any]:
    """What those flags say, by the names of the settings' fields."""
    names = ("max_tokens", "concurrency", "timeout_s", "retries", "max_calls", "max_usd", "price_in", "price_out")
    return {name: getattr(options, name) for name in names}


def count(text: str) -> int:
    """Parse a number of things: 1 or more."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, found {value}")
    return value


def given(options: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    """The options among `names` that the command line sets, with their values."""
    return {name: value for name in names if (value := getattr(options, name)) is not None}


def config_of(options: argparse.Namespace) -> Config:
    """The config that --config and --set give."""
    from toolhone.config_file import load_config

    return load_config(options.config, options.set)


def run_of(options: argparse.Namespace) -> RunFolder:
    """The existing run folder that --run names."""
    from toolhone.run_folder import existing_run

    return existing_run(options.folder)[0]


def tools_of(options: argparse.Namespace) -> tuple[Tool, ...]:
    """The tools of the file that --tools names; none without the flag."""
    return read_tools(options.tools) if options.tools else ()


def rows_of(sources: Sequence[str], options: argparse.Namespace) -> list[Conversation]:
    """Read rows in the format of --rows-format, with the tools of --tools, and print what was read."""
    from toolhone.data.sources import read_and_report

    return list(read_and_report(sources, tools_of(options), options.rows_format, plain_console()))


def scored_rows_of(run: RunFolder, options: argparse.Namespace) -> tuple[str, list[Conversation], str]:
    """The name of the split that a run scores, its rows, and the run's chat format.

    Raises:
        UserError: if the run has no splits yet, or --chat-format names another format.
    """
    from toolhone.evaluate.score import scored_split

    split = scored_split(run)
    run.refuse_edited_split(split)
    format: str = run.read_manifest()["chat"]["format"]
    if options.chat_format not in (None, format):
        raise UserError(f"--chat-format: the run's rows are scored as {format}; leave it out")
    return split, list(read_conversations(run.split(split))), format
