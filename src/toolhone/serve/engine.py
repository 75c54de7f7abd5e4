"""The model that a server answers with: a run's adapter on its base model, asked as evaluation asks it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jinja2
from rich.console import Console

from toolhone.chat.render import ChatRenderer
from toolhone.data.escalation import ESCALATE
from toolhone.data.read import read_conversations
from toolhone.evaluate.predict import PrefixCache, answer_one
from toolhone.records import Example, Prediction, Tool
from toolhone.route.policy import Identity, identity_of_run
from toolhone.run_folder import RunFolder
from toolhone.serve.errors import ApiError
from toolhone.tuned import TunedModel

_HELD_PREFIXES = 4


@dataclass(frozen=True, slots=True)
class Engine:
    """A model that is ready to answer. `name` is the run's; `max_new_tokens` is the most that an answer may have, and
    `context` the most that prompt and answer may have together. It is for one thread at a time."""

    name: str
    model: Any
    renderer: ChatRenderer
    prefixes: PrefixCache
    max_new_tokens: int
    context: int

    def answer(self, example: Example, max_tokens: int | None) -> tuple[Prediction, int]:
        """The model's answer, and how many tokens of its prompt were computed for an earlier one.

        Raises:
            ApiError: where the chat template refuses the messages, or the context does not hold them.
        """
        try:
            _, ids = self.renderer.prompt(example.prompt, example.tools)
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise ApiError(400, f"messages: the chat template refuses them: {error}", param="messages") from None
        if (room := self.context - len(ids)) < 1:
            found = f"messages: the prompt has {len(ids)} tokens and the model's context is {self.context}"
            raise ApiError(400, found, param="messages", code="context_length_exceeded")
        limit = min(max_tokens or self.max_new_tokens, self.max_new_tokens, room)
        made = answer_one(self.model, self.renderer, example, limit, label=self.name, prefixes=self.prefixes)
        return made, self.prefixes.reused_tokens


def load_engine(folder: Path, max_new_tokens: int | None, console: Console) -> tuple[Engine, RunFolder]:
    """Load a run's tuned model. `max_new_tokens` is the config's where it is None.

    Raises:
        UserError: where there is no run, or it has no adapter yet.
    """
    tuned = TunedModel.load(folder)
    for note in tuned.hardware.notes:
        console.print(note, markup=False)
    engine = Engine(
        name=tuned.config.name,
        model=tuned.model,
        renderer=tuned.renderer,
        prefixes=PrefixCache(tuned.model, _HELD_PREFIXES),
        max_new_tokens=max_new_tokens or tuned.config.evaluate.max_new_tokens,
        context=tuned.model.config.max_position_embeddings,
    )
    return engine, tuned.run


def identity_served(run: RunFolder, engine: Engine) -> Identity:
    """The identity of the model as it is served: its chat template is the one in use, whatever the run's manifest says.

    Raises:
        UserError: where the run does not say what it was made from.
    """
    return replace(identity_of_run(run), template=engine.renderer.template_hash())


def reserved_tool(run: RunFolder, console: Console) -> Tool | None:
    """The reserved tool `escalate` as the run's rows have it; None where the model was not trained with it."""
    if not run.split("test").is_file():
        console.print(f"{run.split('test')} is not there: the tool {ESCALATE} is not offered", markup=False)
        return None
    rows = read_conversations(run.split("test"))
    return next((tool for row in rows for tool in row.tools if tool.name == ESCALATE), None)
