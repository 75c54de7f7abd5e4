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
from toolhone.serve.request import ApiError
from toolhone.tuned import TunedModel

_HELD_PREFIXES = 4


@dataclass(frozen=True, slots=True)
class Engine:
    """A model that is ready to answer, for one thread at a time. `name` is the run's; `max_new_tokens` limits an
    answer, and `context` prompt and answer together."""

    name: str
    model: Any
    renderer: ChatRenderer
    prefixes: PrefixCache
    max_new_tokens: int
    context: int

    def answer(self, example: Example, max_tokens: int | None) -> tuple[Prediction, int]:
        """Return the model's answer, and how many tokens of its prompt came from the cache.

        Raises:
            ApiError: if the chat template refuses the messages, or they exceed the context.
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
    """Load a run's tuned model. `max_new_tokens` defaults to the config's.

    Raises:
        UserError: if there is no run, or it has no adapter yet.
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
    """Return the identity of the served model, with the chat template in use, whatever the run's manifest says.

    Raises:
        UserError: if the manifest does not name the model and template.
    """
    return replace(identity_of_run(run), template=engine.renderer.template_hash())


def reserved_tool(run: RunFolder, console: Console) -> Tool | None:
    """Return the reserved tool `escalate` as in the run's rows; None if the model was not trained with it."""
    if not run.split("test").is_file():
        console.print(f"{run.split('test')} is missing: the tool {ESCALATE} is not offered", markup=False)
        return None
    rows = read_conversations(run.split("test"))
    return next((tool for row in rows for tool in row.tools if tool.name == ESCALATE), None)
