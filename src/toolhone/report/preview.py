"""`toolhone data preview`: show rows as the model sees them, in the terminal or token by token on a page.

The terminal shows the prompt dim and the labelled turn bright. The page has every token of both in order. A character
of several tokens is one box with their number. This needs the tokenizer but no model.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from toolhone.chat.render import ChatRenderer, Rendered
from toolhone.chat.segments import Part, segments
from toolhone.chat.token_bytes import TokenBytes
from toolhone.config import Config
from toolhone.jsonl import write_text
from toolhone.report.pages import html_page
from toolhone.report.wording import visible

_NAMES: dict[Part, str] = {
    "tools": "Tools",
    "system": "System",
    "user": "User",
    "assistant": "Assistant",
    "tool": "Tool result",
}


def show_preview(
    config: Config,
    renderer: ChatRenderer,
    training: Sequence[Rendered],
    rows: int,
    console: Console,
    html: Path | None = None,
) -> None:
    """Print the first `rows` training examples with their token counts, or write them as a page to `html`."""
    shown = training[:rows]
    if html is not None:
        facts = (
            ("model", config.model.name),
            ("format", renderer.format.name),
            ("template", "the model's own" if renderer.source == "model" else "toolhone's"),
            ("examples", f"{len(shown):,} of {len(training):,} for training"),
        )
        write_text(html, preview_page(renderer, shown, config.name, facts))
        console.print(f"page: {html}", markup=False)
        return
    for row in shown:
        counts = f"prompt {len(row.prompt_ids)} tokens, learned {len(row.completion_ids)} tokens"
        console.print()
        console.print(Text(f"{row.example.where}  {row.example.id}  {counts}", "bold cyan"))
        console.print(Text(row.prompt_text, style="dim"), end="")
        console.print(Text(row.completion_text, style="bold bright_green"))


def preview_page(
    renderer: ChatRenderer, rows: Sequence[Rendered], name: str, facts: Sequence[tuple[str, str]] = ()
) -> str:
    """Return the page as one text."""
    token_bytes = TokenBytes(renderer.tokenizer)
    shown = [{"number": n, **_row(renderer, row, token_bytes)} for n, row in enumerate(rows, 1)]
    return html_page("preview", name=name, facts=facts, rows=shown)


def _row(renderer: ChatRenderer, row: Rendered, token_bytes: TokenBytes) -> dict[str, Any]:
    """Return what the page shows of an example: its place, its token counts, and its passages in order (the tools, each
    message, the labelled turn)."""
    ids = row.prompt_ids + row.completion_ids
    raw = token_bytes.of(ids)
    added = renderer.tokenizer.added_tokens_decoder
    special = [id_ in added for id_ in ids]
    return {
        "id": visible(row.example.id),
        "where": visible(row.example.where),
        "prompt_tokens": len(row.prompt_ids),
        "learned_tokens": len(row.completion_ids),
        "passages": [
            {
                "name": _NAMES[segment.part] + (", learned" if segment.learned else ""),
                "count": len(segment),
                "learned": segment.learned,
                "folded": segment.part == "tools",
                "boxes": list(_boxes(raw[segment.start : segment.end], special[segment.start : segment.end])),
            }
            for segment in segments(renderer, row, token_bytes)
        ],
    }


def _boxes(raw: Sequence[bytes], special: Sequence[bool]) -> Iterator[dict[str, Any]]:
    """Yield the tokens as boxes. Tokens that only together form a character share a box; `tokens` is their number. A
    token without bytes shares the next box.

    `kind` has the CSS classes of a box: "s" for a special token, "m" for several tokens, "n" for a line break, which
    the page shows as a sign and then makes. Incomplete characters, as at a cut, are shown as U+FFFD.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text, tokens = "", 0
    for number, (piece, is_special) in enumerate(zip(raw, special, strict=True), 1):
        text += decoder.decode(piece, final=number == len(raw))
        tokens += 1
        pending, _ = decoder.getstate()
        if not pending and (text or number == len(raw)):
            kinds = {"s": is_special, "m": tokens > 1, "n": "\n" in text}
            shown = "\n".join(visible(line) for line in text.split("\n"))
            classes = " ".join(kind for kind, applies in kinds.items() if applies)
            yield {"text": shown, "kind": classes, "tokens": tokens}
            text, tokens = "", 0
