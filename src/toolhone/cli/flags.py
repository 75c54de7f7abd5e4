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


def count(text: str) -> int:
    """Read a whole number, 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number, 1 or more, found {text}")
    return int(text)


_FORMAT = {
    "choices": ("auto", *IMPORTERS),
    "metavar": "FORMAT",
    "default": "auto",
    "help": f"format of the rows: {', '.join(IMPORTERS)} (default: auto, detected from the first rows of each file)",
}
_TOOLS = "tools for rows without any: a JSON list, MCP's tools/list, or an OpenAPI document (JSON, YAML)"
_SET = "override a key of the config, for example train.epochs=1; may be repeated"
SHARED: dict[str, dict[str, Any]] = {
    "--run": {"type": Path, "required": True, "dest": "folder", "help": "run folder, for example runs/first"},
    "--config": {"type": Path, "required": True, "help": "the experiment's YAML file"},
    "--set": {"action": "append", "default": [], "metavar": "KEY=VALUE", "help": _SET},
    "--rows": {"nargs": "+", "metavar": "SOURCE", "help": "the predicted rows, with their gold, in any format"},
    "--tools": {"type": Path, "help": _TOOLS},
    "--format": _FORMAT,
    "--rows-format": _FORMAT,
    "--chat-format": {
        "choices": tuple(FORMATS),
        "default": "hermes",
        "help": "how calls are written (default: hermes)",
    },
    "--max-tokens": {"type": count, "metavar": "N", "help": "token limit of one answer, in tokens"},
    "--seed": {"type": int, "default": 7, "help": "seed of the random choices, a whole number (default: %(default)s)"},
    "--price-in": {"type": float, "metavar": "USD", "help": "price of a million prompt tokens, in dollars"},
    "--price-cached": {
        "type": float,
        "metavar": "USD",
        "help": "price of a million cached prompt tokens, in dollars (default: as --price-in)",
    },
    "--price-out": {"type": float, "metavar": "USD", "help": "price of a million completion tokens, in dollars"},
}
"""The flags of several commands, as argparse takes them."""

Run = Callable[[argparse.Namespace], int | None]
"""Runs a command and returns its exit code; None is 0."""


def command(commands: Any, name: str, run: Run, about: str) -> argparse.ArgumentParser:
    """Add a command and return its parser, which takes the flags."""
    parser: argparse.ArgumentParser = commands.add_parser(name, help=about, description=about)
    parser.set_defaults(run=run)
    return parser


def add(parser: Any, *names: str, **changes: Any) -> None:
    """Add shared flags to a parser or a group, with `changes` to their declaration."""
    for name in names:
        parser.add_argument(name, **SHARED[name] | changes)


def add_endpoint_limits(parser: Any, *, concurrency: int, retries: int) -> None:
    """Add the flags that limit what an endpoint is asked. With --max-tokens, they have the names of its settings."""
    limit = parser.add_argument
    limit("--concurrency", type=int, default=concurrency, metavar="N", help="calls at a time (default: %(default)s)")
    about = "time limit of a call, in seconds (default: %(default)s)"
    limit("--timeout", dest="timeout_s", type=float, default=60.0, metavar="S", help=about)
    about = "number of times that a failed call is repeated (default: %(default)s)"
    limit("--retries", type=int, default=retries, metavar="N", help=about)
    limit("--max-calls", type=int, metavar="N", help="stop after N calls (default: no limit)")
    about = "stop before the cost exceeds this many dollars (default: no limit)"
    limit("--max-usd", type=float, metavar="USD", help=about)
    add(parser, "--price-in", "--price-out")


def endpoint_limits_of(options: argparse.Namespace) -> dict[str, Any]:
    """The values of those flags and of --max-tokens, by the names of the settings' fields."""
    names = ("max_tokens", "concurrency", "timeout_s", "retries", "max_calls", "max_usd", "price_in", "price_out")
    return given(options, names)


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
