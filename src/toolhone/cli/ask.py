"""`toolhone ask`: one question to a run's tuned model, answered at once."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console

from toolhone.chat.render import make_renderer
from toolhone.data.read import read_conversations
from toolhone.errors import UserError
from toolhone.evaluate.predict import answer_one
from toolhone.formats.parse import parse_turn
from toolhone.pipeline import on_device
from toolhone.records import Example, Gold, Message
from toolhone.run_folder import existing_run
from toolhone.train.hardware import choose_hardware
from toolhone.train.model import load_adapter, load_model, load_tokenizer


def ask(folder: Path, question: str, *, base: bool, console: Console) -> None:
    """Print what the model calls or says. System prompt and tools are those of the run's first test row.

    Raises:
        UserError: where the run has no adapter yet (`base` needs none).
    """
    run, config = existing_run(folder)
    row = next(iter(read_conversations(run.split("test"))), None)
    if row is None:
        raise UserError(f"{run.split('test')}: no rows; `toolhone train` writes them")
    hardware = choose_hardware(config.model)
    model = load_model(config.model, hardware)
    if not base:
        model = load_adapter(model, run.adapter)
    tokenizer = load_tokenizer(config.model)
    renderer = make_renderer(tokenizer, config.chat, config.model.name, untuned=base)
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
    answer = answer_one(on_device(model, config, hardware), renderer, asked, config.evaluate.max_new_tokens)
    parsed = parse_turn(answer.text, renderer.format.name, answer.finish_reason)
    if parsed.content:
        console.print(parsed.content, markup=False)
    for call in parsed.calls:
        console.print(f"{call.name}({json.dumps(call.arguments, ensure_ascii=False)})", markup=False, style="bold")
    if parsed.failure:
        console.print(f"{parsed.status}: {parsed.failure}", markup=False, style="red")
        console.print(answer.text, markup=False, style="dim")
    console.print(f"{answer.completion_tokens} tokens, {answer.latency_ms / 1000:.1f} s", style="dim")
