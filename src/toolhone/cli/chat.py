"""The command `toolhone chat`: a conversation with a run's model in the terminal."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolhone.cli import flags
from toolhone.cli.terminal import plain_console

if TYPE_CHECKING:
    from toolhone.records import Example, Prediction
    from toolhone.serve.terminal_chat import Ask
    from toolhone.tuned import TunedModel


def add_chat_command(commands: Any) -> None:
    """Add `chat`."""
    parser = flags.command(commands, "chat", _chat, "talk with the tuned model of a run; you give the results of calls")
    parser.add_argument("folder", type=Path, metavar="RUN", help="run folder, for example runs/first")
    parser.add_argument("--base", action="store_true", help="ask the base model instead")
    about = "tools to offer instead of those of the run's first test row: a JSON list, MCP's tools/list, or an OpenAPI "
    flags.add(parser, "--tools", help=f"{about}document (JSON, YAML)")
    flags.add(parser, "--max-tokens", help="token limit of one answer, in tokens (default: the run's)")


def _chat(options: argparse.Namespace) -> None:
    """Load the model and talk with it until the input ends.

    Raises:
        UserError: if the run has no such model or no test rows, or the file of --tools cannot be read.
    """
    from toolhone.serve.start import chat_start
    from toolhone.serve.terminal_chat import TerminalChat
    from toolhone.tuned import TunedModel

    console = plain_console()
    tuned = TunedModel.base(options.folder) if options.base else TunedModel.load(options.folder)
    for note in tuned.notes:
        console.print(f"note: {note}", markup=False)
    start = chat_start(tuned.run)
    if options.tools:
        start = replace(start, tools=flags.tools_of(options))
    ask = _local(tuned, options.max_tokens or tuned.config.evaluate.max_new_tokens)
    name = f"{tuned.config.name} ({tuned.label})"
    TerminalChat(ask, tuned.renderer.format.name, start, name, console).run()


def _local(tuned: TunedModel, max_new_tokens: int) -> Ask:
    """Return a function that asks the model in this process. The system prompt and the tools stay cached."""
    from toolhone.evaluate.predict import PrefixCache, answer_one

    model = tuned.model
    prefixes = PrefixCache(model)

    def ask(example: Example, show: Callable[[str], None]) -> Prediction:
        found = answer_one(model, tuned.renderer, example, max_new_tokens, label=tuned.label, prefixes=prefixes)
        show(found.text)
        return found

    return ask
