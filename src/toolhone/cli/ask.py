"""`toolhone ask`: one question to a run's tuned model, answered at once."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console

from toolhone.chat.parse import parse_turn
from toolhone.data.read import read_conversations
from toolhone.errors import UserError
from toolhone.evaluate.predict import answer_one
from toolhone.records import Example, Gold, Message
from toolhone.tuned import TunedModel


def ask(folder: Path, question: str, *, base: bool, console: Console) -> None:
    """Print what the model calls or says. System prompt and tools are those of the run's first test row.

    Raises:
        UserError: where the run has no adapter yet (`base` needs none).
    """
    tuned = TunedModel.base(folder) if base else TunedModel.load(folder)
    row = next(iter(read_conversations(tuned.run.split("test"))), None)
    if row is None:
        raise UserError(f"{tuned.run.split('test')}: no rows; `toolhone train` writes them")
    system = [message for message in row.messages[:1] if message.role == "system"]
    asked = Example(
        id="ask",
        conversation_id="ask",
        prompt=(*system, Message("user", question)),
        turn=Message("assistant", ""),
        gold=Gold("any"),
        tools=row.tools,
        where="ask",
        gold_source=None,
        meta={},
    )
    answer = answer_one(tuned.model, tuned.renderer, asked, tuned.config.evaluate.max_new_tokens)
    parsed = parse_turn(answer.text, tuned.renderer.format.name, answer.finish_reason)
    if parsed.content:
        console.print(parsed.content, markup=False)
    for call in parsed.calls:
        console.print(f"{call.name}({json.dumps(call.arguments, ensure_ascii=False)})", markup=False, style="bold")
    if parsed.failure:
        console.print(f"{parsed.status}: {parsed.failure}", markup=False, style="red")
        console.print(answer.text, markup=False, style="dim")
    console.print(f"{answer.completion_tokens} tokens, {answer.latency_ms / 1000:.1f} s", style="dim")
