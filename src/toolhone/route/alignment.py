"""Which tokens of a prediction wrote which stretch of its text, by bytes.

A Chinese character is often several tokens, and a token may hold the end of a value together with the quote and the
brace after it. So a stretch of characters is turned into one of bytes, and its tokens are those that share a byte with
it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from toolhone.formats.call_json import Span
from toolhone.records import Prediction, Token


@dataclass(frozen=True, slots=True)
class Alignment:
    """The tokens that have bytes, with the byte that each begins at and the byte behind its last; and the byte that
    each character of the text begins at, with the text's end as one more."""

    tokens: tuple[Token, ...]
    begins: Sequence[int]
    ends: Sequence[int]
    characters: Sequence[int]

    def of(self, span: Span) -> range:
        """The places in `tokens` of those that share a byte with a stretch of the text's characters."""
        first, last = self.characters[span[0]], self.characters[span[1]]
        if first == last:
            return range(0)
        return range(bisect_right(self.ends, first), bisect_left(self.begins, last))

    def after(self, character: int) -> int:
        """The place of the first token that begins at or behind a character; that of no token where none does."""
        return bisect_left(self.begins, self.characters[character])


def align(prediction: Prediction) -> Alignment | None:
    """Align a prediction's tokens with its text. None where it has none, or where they say another text."""
    tokens = tuple(token for token in prediction.tokens if token.bytes)
    raw = b"".join(token.bytes for token in tokens)
    said, places = _characters(raw)
    # A SentencePiece tokenizer's first token begins with a space that decoding drops.
    skipped = next((n for n in (0, 1) if said[:n].strip(" ") == "" and said.startswith(prediction.text, n)), None)
    if not tokens or skipped is None:
        return None
    ends = list(accumulate(len(token.bytes) for token in tokens))
    return Alignment(tokens, [0, *ends[:-1]], ends, places[skipped : skipped + len(prediction.text) + 1])


def _characters(raw: bytes) -> tuple[str, list[int]]:
    """The text that the bytes decode to, with U+FFFD for what is no UTF-8, as tokenizers decode it; and the byte that
    each character begins at, with the bytes' end as one more."""
    said: list[str] = []
    places: list[int] = []
    at = 0
    while at < len(raw):
        try:
            part, faulty = raw[at:].decode(), 0
        except UnicodeDecodeError as error:
            part, faulty = raw[at : at + error.start].decode(), error.end - error.start
        for character in part:
            places.append(at)
            at += len(character.encode())
        said.append(part)
        if faulty:
            places.append(at)
            at += faulty
            said.append("\ufffd")
    return "".join(said), [*places, len(raw)]
