"""`toolhone data preview`: rows as the model sees them, the prompt dim and the labelled turn bright."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from toolhone.chat.render import Rendered
from toolhone.config import Config
from toolhone.prepare import prepare


def preview(config: Config, rows: int, console: Console) -> None:
    """Print the first training examples with their token counts."""
    prepared = prepare(config, console=console)
    for row in prepared.train[:rows]:
        console.print()
        console.print(_title(row))
        console.print(Text(row.prompt_text, style="dim"), end="")
        console.print(Text(row.completion_text, style="bold bright_green"))


def _title(row: Rendered) -> Text:
    prompt, learned = len(row.prompt_ids), len(row.completion_ids)
    return Text(f"{row.example.where}  {row.example.id}  prompt {prompt} tokens, learned {learned} tokens", "bold cyan")
