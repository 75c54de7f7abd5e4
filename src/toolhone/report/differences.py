"""Where two short texts differ, character by character, so that a reader finds `ORD-0017` beside `ORD-0071` at once.

In: the text expected and the text found. Out: each of them as pieces, in order, that joined give it back.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

_LEAST_ALIKE = 0.6
_MOST_WORK = 250_000


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a text, and whether the other text lacks it."""

    text: str
    differs: bool


def differences(expected: str, found: str) -> tuple[tuple[Piece, ...], tuple[Piece, ...]]:
    """Both texts in pieces. Two that have too little in common to be held against each other differ as a whole, and
    in very long ones only what they begin and end with alike is told from the rest.

    A character is compared together with the marks that combine with it, as that is how it is seen.
    """
    a, b = _characters(expected), _characters(found)
    start = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    rest = min(len(a), len(b)) - start
    end = next((i for i in range(rest) if a[-1 - i] != b[-1 - i]), rest)
    middle_a, middle_b = a[start : len(a) - end], b[start : len(b) - end]
    blocks = [(0, 0, start)]
    alike = start + end
    if len(middle_a) * len(middle_b) <= _MOST_WORK:
        found_blocks = SequenceMatcher(None, middle_a, middle_b, autojunk=False).get_matching_blocks()
        blocks += [(start + block.a, start + block.b, block.size) for block in found_blocks if block.size]
        alike += sum(block.size for block in found_blocks)
    blocks.append((len(a) - end, len(b) - end, end))
    if 2 * alike < _LEAST_ALIKE * (len(a) + len(b)):
        blocks = []
    return _pieces(a, [(i, n) for i, _, n in blocks]), _pieces(b, [(j, n) for _, j, n in blocks])


def nearest(found: str, accepted: Sequence[str]) -> str:
    """Of several accepted texts the one that a text comes closest to; the first of those as close."""
    if len(accepted) == 1:
        return accepted[0]
    matcher = SequenceMatcher(None, autojunk=False)
    matcher.set_seq2(found[:_NEAREST])
    return max(accepted, key=lambda text: _closeness(matcher, text[:_NEAREST]))


_NEAREST = 500
"""Characters that decide which of several texts is nearest."""


def _closeness(matcher: SequenceMatcher[str], text: str) -> float:
    matcher.set_seq1(text)
    return matcher.ratio()


def _characters(text: str) -> list[str]:
    characters: list[str] = []
    for character in text:
        if characters and unicodedata.combining(character):
            characters[-1] += character
        else:
            characters.append(character)
    return characters


def _pieces(characters: Sequence[str], same: Sequence[tuple[int, int]]) -> tuple[Piece, ...]:
    """The text in pieces; `same` gives start and length of what both have, in order."""
    pieces: list[Piece] = []

    def add(text: str, differs: bool) -> None:
        if text and pieces and pieces[-1].differs == differs:
            pieces[-1] = Piece(pieces[-1].text + text, differs)
        elif text:
            pieces.append(Piece(text, differs))

    at = 0
    for start, size in same:
        add("".join(characters[at:start]), True)
        add("".join(characters[start : start + size]), False)
        at = start + size
    add("".join(characters[at:]), True)
    return tuple(pieces)
