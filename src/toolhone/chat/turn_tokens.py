"""Encodes a turn after its prompt, and says what a tokenizer changes in a text.

SentencePiece tokenizers add a space in front of a text. They would add one to a turn encoded on its own, and the model
would learn it. With such a tokenizer prompt and turn are encoded together, and the first ids must be the prompt's,
because inference starts from those. With any other tokenizer the turn is encoded on its own.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from difflib import SequenceMatcher
from typing import Any

from toolhone.chat.control_tokens import without_marks
from toolhone.chat.token_bytes import token_bytes, without
from toolhone.records import Example

_ANCHOR = "\ue000"
"""A character for private use. No vocabulary has a longer token with it."""
_WINDOW = 40
"""The number of characters, from the first difference on, that are aligned to show it."""


@dataclass(frozen=True, slots=True)
class TurnTokens:
    """The tokens of a turn after its prompt.

    Attributes:
        ids: the turn's tokens.
        text: the turn's text as they spell it.
        spelled: the text of prompt and turn as their tokens spell it.
        expected: the text of prompt and turn, without the white space that special tokens absorb. If it is not
            `spelled`, the tokenizer changes the text.
    """

    ids: list[int]
    text: str
    spelled: str
    expected: str


def turn_tokens(
    tokenizer: Any, encode: Callable[[str], list[int]], guarded: str, prompt_ids: list[int], turn: str
) -> TurnTokens:
    """Encode a turn after its prompt.

    Args:
        encode: encodes a text in which the control tokens of messages have marks.
        guarded: the prompt's text, with such marks.
        prompt_ids: its tokens.
    """
    pieces = token_bytes(tokenizer)
    whole = guarded + turn
    together = encode(whole) if pieces.adds_space else []
    if together and together[: len(prompt_ids)] == prompt_ids:
        ids, expected = together[len(prompt_ids) :], without(whole, pieces.absorbed(whole))
    else:
        # The anchor gets the space instead of the turn. It is needed if the end of the prompt and the start of the turn
        # become one token, which a model that continues the prompt never has.
        anchored = (_ANCHOR if pieces.adds_space else "") + turn
        anchor = len(anchored) - len(turn)
        ids = encode(anchored)[len(encode(anchored[:anchor])) if anchor else 0 :]
        kept = without(anchored, pieces.absorbed(anchored))[anchor:]
        expected = without(guarded, pieces.absorbed(guarded)) + kept
    text = pieces.text(ids, prompt_ids[-1] if prompt_ids else None)
    return TurnTokens(ids, text, pieces.text(prompt_ids) + text, without_marks(expected))


def changed_text(expected: str, spelled: str, example: Example, unknown: str | None, source: str) -> str:
    """Return what a tokenizer changes first in an example's text, and how to fix it.

    Args:
        unknown: the tokenizer's "unknown" token.
        source: where the chat template comes from, as in `ChatRenderer`.
    """
    same = common_length(expected, spelled)
    was, now = _difference(expected[same : same + _WINDOW], spelled[same : same + _WINDOW])
    found = f"{was!r} ({', '.join(f'U+{ord(character):04X}' for character in was[:4])})"
    messages = [asdict(message) for message in (*example.prompt, example.turn)]
    if not any(was and was in text for text in _texts([messages, [tool.to_json() for tool in example.tools]])):
        fix = "choose another model" if source == "toolhone" else "set chat.template: toolhone"
        return f"the tokenizer reads {found}, which the chat template writes, as {now!r}; {fix}"
    for form in ("NFC", "NFKC", "NFD", "NFKD"):
        if common_length(unicodedata.normalize(form, expected), spelled) > same:
            return (
                f"the tokenizer normalises Unicode: it reads {found} as {now!r}; write the row and its tools in {form}"
            )
    if not now:
        return f"the tokenizer drops {found}; remove it from the row and its tools"
    if unknown and unknown in now:
        return f"the tokenizer has no token for {found}; remove it from the row and its tools"
    return f"the tokenizer reads {found} as {now!r}; replace it in the row and its tools"


def _difference(one: str, other: str) -> tuple[str, str]:
    """Return the first part in which two texts differ, from each of them."""
    for kind, first, last, begin, end in SequenceMatcher(None, one, other, autojunk=False).get_opcodes():
        if kind == "insert":  # show it with the character after it
            return one[first : first + 1], other[begin : end + 1]
        if kind != "equal":
            return one[first:last], other[begin:end]
    return "", ""


def _texts(value: Any) -> Iterator[str]:
    """Yield each text in a JSON value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from _texts([*value.keys(), *value.values()])
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _texts(inner)


def common_length(one: str, other: str) -> int:
    """Return the length of the common prefix of two texts."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((n for n, (left, right) in pairs if left != right), min(len(one), len(other)))
