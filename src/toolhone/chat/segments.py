"""Finds which tokens of a rendered example belong to which message, and which to the tools.

A template does not mark the borders. They are found by rendering the first message, the first two messages, and so on.
A message ends where this text stops matching the start of the prompt. The tools are the text that is missing when the
prompt is rendered without them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

import jinja2

from toolhone.chat.render import ChatRenderer, Rendered
from toolhone.chat.token_bytes import TokenBytes, without
from toolhone.chat.turn_tokens import common_length
from toolhone.records import Message, Role

Part = Role | Literal["tools"]


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens `start` to `end` (exclusive) of an example's prompt and completion, joined.

    `message` is the index of the message in the conversation; the tools have the index of the message that contains
    them. The opening of the gold turn has the turn's index and is not `learned`. The turn itself is `learned`.
    """

    part: Part
    message: int
    start: int
    end: int
    learned: bool = False

    def __len__(self) -> int:
        return self.end - self.start


def segments(renderer: ChatRenderer, row: Rendered, token_bytes: TokenBytes) -> list[Segment]:
    """Return the example's tokens, split at the borders of messages and tools. Every token is in exactly one segment.

    A token that spans a border belongs to the segment of its first byte.
    """
    prompt, turn = row.example.prompt, len(row.example.prompt)
    borders = _borders(renderer, row)
    spans: list[tuple[Part, int, int, int]] = []
    tools_from, tools_to = _tools_span(renderer, row, borders)
    start = 0
    for index, (message, end) in enumerate(zip(prompt, borders, strict=True)):
        head, tail = max(start, min(tools_from, end)), min(end, max(tools_to, start))
        if head < tail:
            spans += [
                (message.role, index, start, head),
                ("tools", index, head, tail),
                (message.role, index, tail, end),
            ]
        else:
            spans.append((message.role, index, start, end))
        start = end
    spans.append(("assistant", turn, start, len(row.prompt_text)))

    begins = [0, *accumulate(map(len, token_bytes.of(row.prompt_ids)))][: len(row.prompt_ids)]

    absorbed = token_bytes.absorbed(row.prompt_text)

    def token(place: int) -> int:
        """Return the first token that begins at or after this character of the prompt."""
        return bisect_left(begins, len(without(row.prompt_text[:place], absorbed).encode()))

    cut = [Segment(part, index, token(first), token(last)) for part, index, first, last in spans if first < last]
    if cut:  # text that a tokenizer adds at the end, such as a space, belongs to the last segment
        last = cut[-1]
        cut[-1] = Segment(last.part, last.message, last.start, len(row.prompt_ids))
    cut.append(Segment("assistant", turn, len(row.prompt_ids), len(row), learned=True))
    return [segment for segment in cut if len(segment)]


def _borders(renderer: ChatRenderer, row: Rendered) -> list[int]:
    """Return the end of each message, in characters of the prompt's text."""
    borders: list[int] = []
    before = 0
    for count in range(1, len(row.example.prompt) + 1):
        before = max(before, _border(renderer, row, row.example.prompt[:count], before))
        borders.append(before)
    return borders


def _border(renderer: ChatRenderer, row: Rendered, messages: Sequence[Message], before: int) -> int:
    try:
        text = renderer.text(messages, row.example.tools, ask=False)
    except (jinja2.TemplateError, TypeError, ValueError):
        # Some templates refuse a conversation without a question. Then the message ends with its content.
        content = messages[-1].content
        place = row.prompt_text.find(content, before)
        return before if place < 0 else place + len(content)
    return len(text) if row.prompt_text.startswith(text) else common_length(text, row.prompt_text)


def _tools_span(renderer: ChatRenderer, row: Rendered, borders: Sequence[int]) -> tuple[int, int]:
    """Return the span of the tools in the prompt's text: the part that is missing from a rendering without tools. It
    stays within one message."""
    if not row.example.tools:
        return 0, 0
    text = row.prompt_text
    try:
        bare = renderer.text(row.example.prompt, (), ask=True)
    except (jinja2.TemplateError, TypeError, ValueError):
        return 0, 0
    first = common_length(text, bare)
    last = len(text) - common_length(text[first:][::-1], bare[first:][::-1])
    while first and text[first - 1] == text[last - 1]:  # "<s>[tools]<s>": repeated text belongs before the tools
        first, last = first - 1, last - 1
    return first, min(last, next((border for border in borders if border > first), last))
