"""The command `toolhone chat`: a conversation with a run's model in the terminal."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolhone.cli import flags
from toolhone.cli.serve import add_engine_flags, engine_settings
from toolhone.cli.terminal import plain_console
from toolhone.errors import UserError

if TYPE_CHECKING:
    from toolhone.records import Example, Prediction
    from toolhone.serve.answer import SmallModel
    from toolhone.serve.terminal_chat import Ask


def add_chat_command(commands: Any) -> None:
    """Add `chat`."""
    parser = flags.command(commands, "chat", _chat, "talk with the tuned model of a run; you give the results of calls")
    parser.add_argument("folder", type=Path, metavar="RUN", help="run folder, for example runs/first")
    parser.add_argument("--base", action="store_true", help="ask the base model instead")
    about = "tools to offer instead of those of the run's first test row: a JSON list, MCP's tools/list, or an OpenAPI "
    flags.add(parser, "--tools", help=f"{about}document (JSON, YAML)")
    flags.add(parser, "--max-tokens", help="token limit of one answer, in tokens (default: the run's)")
    add_engine_flags(parser)


def _chat(options: argparse.Namespace) -> None:
    """Load the model and talk with it until the input ends.

    Raises:
        UserError: if the run has no such model or no test rows, or the file of --tools cannot be read.
    """
    from toolhone.serve.answer import SmallModel
    from toolhone.serve.engine import open_engine
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
    settings = engine_settings(options, verify=False)
    if options.base:
        if settings.kind not in (None, "transformers") or settings.base_url:
            raise UserError("--base: transformers answers for the base model; leave out the flags of another engine")
        settings = replace(settings, kind="transformers")
    with open_engine(tuned, settings, console) as engine, asyncio.Runner() as runner:
        limit = options.max_tokens or tuned.config.evaluate.max_new_tokens
        small = SmallModel(tuned.label, tuned.renderer, engine.generator, limit)
        name = f"{tuned.config.name} ({tuned.label}) in {engine.engine}"
        try:
            TerminalChat(_asks(small, runner), tuned.renderer.format.name, start, name, console).run()
        finally:
            runner.run(engine.generator.close())


def _asks(small: SmallModel, runner: asyncio.Runner) -> Ask:
    """Return a function that asks the model and shows the text as it grows. Ctrl-C ends the answer in the engine."""
    from toolhone.engines.generate import EngineUnavailableError
    from toolhone.serve.answer import Answer
    from toolhone.serve.request import ApiError, ChatRequest, ToolChoice

    async def answer(example: Example, show: Callable[[str], None]) -> Prediction:
        asked = ChatRequest(small.name, example, ToolChoice("auto", tuple(example.tools_by_name)))
        async with aclosing(small.answer(asked, small.prompt(example))) as parts:
            async for part in parts:
                if isinstance(part, Answer):
                    return part.prediction
                show(part.text)
        raise AssertionError("an answer ends with the whole of it")

    def ask(example: Example, show: Callable[[str], None]) -> Prediction:
        try:
            return runner.run(answer(example, show))
        except (ApiError, EngineUnavailableError) as error:
            raise UserError(str(error)) from None

    return ask
