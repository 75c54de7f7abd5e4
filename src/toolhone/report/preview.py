"""`toolhone data preview`: rows as the model sees them, the prompt dim and the labelled turn bright.

On the terminal, or token by token on a page. The tokenizer is loaded, and no model.
"""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.text import Text

from toolhone.chat.render import Rendered
from toolhone.config import Config
from toolhone.jsonl import write_text
from toolhone.pipeline import Prepared, prepare
from toolhone.report.preview_page import preview_page


def preview(config: Config, rows: int, console: Console, html: Path | None = None) -> None:
    """Show the first training examples with their token counts: printed, or on a page at `html`.

    Raises:
        UserError: for a fault of the config, the data or the tokenizer.
    """
    prepared = prepare(config, console=console)
    shown = prepared.train[:rows]
    if html is not None:
        write_text(html, preview_page(prepared.renderer, shown, config.name, _facts(prepared, len(shown))))
        console.print(f"page: {html}", markup=False)
        return
    for row in shown:
        console.print()
        console.print(_title(row))
        console.print(Text(row.prompt_text, style="dim"), end="")
        console.print(Text(row.completion_text, style="bold bright_green"))


def _title(row: Rendered) -> Text:
    prompt, learned = len(row.prompt_ids), len(row.completion_ids)
    return Text(f"{row.example.where}  {row.example.id}  prompt {prompt} tokens, learned {learned} tokens", "bold cyan")


def _facts(prepared: Prepared, shown: int) -> tuple[tuple[str, str], ...]:
    return (
        ("model", prepared.config.model.name),
        ("format", prepared.renderer.format.name),
        ("template", "the model's own" if prepared.renderer.source == "model" else "toolhone's"),
        ("examples", f"{shown:,} of {len(prepared.train):,} for training"),
    )
