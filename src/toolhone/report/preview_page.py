"""`toolhone data preview --html`: rows as the model sees them, token by token, on a page of one file.

Needs the tokenizer alone. Every token of the prompt and of the labelled turn is on the page, in order; a character that
several tokens make up is one box that says of how many.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from toolhone.chat.render import ChatRenderer, Rendered
from toolhone.chat.segments import Part, Segment, segments
from toolhone.chat.token_bytes import TokenBytes
from toolhone.report.pages import html_page
from toolhone.report.wording import visible

_NAMES: dict[Part, str] = {
    "tools": "Tools",
    "system": "System",
    "user": "User",
    "assistant": "Assistant",
    "tool": "Tool result",
}


@dataclass(frozen=True, slots=True)
class Box:
    """One token or, where `tokens` is above 1, the tokens that make up a character together. `kind` is its classes on
    the page: "s" a special token, "m" of several tokens, "n" with a line break, which is shown and then made."""

    text: str
    kind: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Passage:
    """A message, the tools, or the labelled turn: `count` tokens in all."""

    name: str
    kind: Part
    count: int
    learned: bool
    folded: bool
    boxes: tuple[Box, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """An example: where it stands, its token counts, and its passages in order."""

    number: int
    id: str
    where: str
    prompt_tokens: int
    learned_tokens: int
    passages: tuple[Passage, ...]


def preview_page(
    renderer: ChatRenderer, rows: Sequence[Rendered], name: str, facts: Sequence[tuple[str, str]] = ()
) -> str:
    """The page as one text."""
    token_bytes = TokenBytes(renderer.tokenizer)
    shown = [_row(renderer, row, token_bytes, number) for number, row in enumerate(rows, 1)]
    return html_page("preview", name=name, facts=facts, rows=shown)


def _row(renderer: ChatRenderer, row: Rendered, token_bytes: TokenBytes, number: int) -> Row:
    ids = row.prompt_ids + row.completion_ids
    special = renderer.tokenizer.added_tokens_decoder
    raw = token_bytes.of(ids)
    flags = [id_ in special for id_ in ids]
    passages = []
    for segment in segments(renderer, row, token_bytes):
        boxes = tuple(_boxes(raw[segment.start : segment.end], flags[segment.start : segment.end]))
        passages.append(
            Passage(_name(segment), segment.part, len(segment), segment.learned, segment.part == "tools", boxes)
        )
    example = row.example
    return Row(
        number,
        visible(example.id),
        visible(example.where),
        len(row.prompt_ids),
        len(row.completion_ids),
        tuple(passages),
    )


def _name(segment: Segment) -> str:
    return f"{_NAMES[segment.part]}, learned" if segment.learned else _NAMES[segment.part]


def _boxes(raw: Sequence[bytes], special: Sequence[bool]) -> Iterator[Box]:
    """Tokens as boxes. Bytes that make no character, as at a cut, are shown as U+FFFD."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text, tokens = "", 0
    for number, (piece, is_special) in enumerate(zip(raw, special, strict=True), 1):
        text += decoder.decode(piece, final=number == len(raw))
        tokens += 1
        held, _ = decoder.getstate()
        if not held:
            kinds = {"s": is_special, "m": tokens > 1, "n": "\n" in text}
            yield Box(_shown(text), " ".join(kind for kind, is_so in kinds.items() if is_so), tokens)
            text, tokens = "", 0


def _shown(text: str) -> str:
    """Line breaks as they are, and whatever else leaves no mark as a visible escape."""
    return "\n".join(visible(line) for line in text.split("\n"))
