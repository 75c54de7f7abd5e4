"""The nodes of a grammar, and the automaton of a text.

A node is characters, a text, a sequence, a choice, a repetition, or a reference to a rule (`grammar_writing.py`). Nodes
without references can also be intersected and subtracted. The automaton of such a node has its derivatives as states
(Brzozowski 1964; Owens, Reppy, Turon 2009).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

MAX_STATES = 1_000
"""Maximum states of the automaton of one token."""


class TooLargeError(Exception):
    """The grammar is larger than an engine takes."""


@dataclass(frozen=True, slots=True)
class Chars:
    """One character, of sorted, disjoint ranges of code points."""

    ranges: tuple[tuple[int, int], ...]

    def has(self, code: int) -> bool:
        return any(first <= code <= last for first, last in self.ranges)


@dataclass(frozen=True, slots=True)
class Text:
    text: str


@dataclass(frozen=True, slots=True)
class Seq:
    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Alt:
    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    part: Node
    least: int
    most: int | None


@dataclass(frozen=True, slots=True)
class Both:
    """What both nodes match."""

    first: Node
    second: Node


@dataclass(frozen=True, slots=True)
class Minus:
    """What the first node matches and the second does not."""

    first: Node
    second: Node


@dataclass(frozen=True, slots=True)
class Some:
    """What a node matches, except the empty text."""

    part: Node


@dataclass(frozen=True, slots=True)
class Ref:
    name: str


@dataclass(frozen=True, slots=True)
class Special:
    """A special token of the vocabulary. llguidance matches it by its id only; the others by its text."""

    text: str
    id: int


Node = Chars | Text | Seq | Alt | Repeat | Both | Minus | Some | Ref | Special

EMPTY = Seq(())
NOTHING = Alt(())
ANY = Chars(((1, 0xD7FF), (0xE000, 0x10FFFF)))
"""Any character. NUL and halves of surrogate pairs are none."""
ALL = Repeat(ANY, 0, None)
DIGIT = Chars(((48, 57),))


def chars(text: str) -> Chars:
    """Return one of the characters of a text."""
    return Chars(_merged((ord(each), ord(each)) for each in text))


def without(whole: Chars, codes: Iterable[tuple[int, int]]) -> Chars:
    """Return the characters without some ranges."""
    left = list(whole.ranges)
    for first, last in codes:
        cut = [(low, min(high, first - 1)) for low, high in left] + [(max(low, last + 1), high) for low, high in left]
        left = [(low, high) for low, high in cut if low <= high]
    return Chars(_merged(left))


def _merged(ranges: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    merged: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return tuple(merged)


def union(*nodes: Chars) -> Chars:
    """Return one of the characters of any node."""
    return Chars(_merged(each for node in nodes for each in node.ranges))


def is_nothing(node: Node) -> bool:
    """Whether a node matches nothing, in its simplest form."""
    return (isinstance(node, Alt) and not node.parts) or (isinstance(node, Chars) and not node.ranges)


def seq(*parts: Node | str) -> Node:
    """Return a sequence in its simplest form."""
    flat: list[Node] = []
    for part in parts:
        node = Text(part) if isinstance(part, str) else part
        for each in node.parts if isinstance(node, Seq) else (node,):
            if is_nothing(each):
                return NOTHING
            if isinstance(each, Text) and flat and isinstance(flat[-1], Text):
                flat[-1] = Text(flat[-1].text + each.text)
            elif not isinstance(each, Text) or each.text:
                flat.append(each)
    return flat[0] if len(flat) == 1 else Seq(tuple(flat))


def alt(*parts: Node | str) -> Node:
    """Return a choice in its simplest form."""
    flat: dict[Node, None] = {}
    for part in parts:
        node = (Text(part) if part else EMPTY) if isinstance(part, str) else part
        for each in node.parts if isinstance(node, Alt) else (node,):
            if isinstance(each, Repeat) and each == ALL:
                return ALL
            if not is_nothing(each):
                flat[each] = None
    return next(iter(flat)) if len(flat) == 1 else Alt(tuple(flat))


def repeat(part: Node, least: int = 0, most: int | None = None) -> Node:
    """Return a repetition in its simplest form."""
    if most == 0 or part == EMPTY:
        return EMPTY
    if is_nothing(part) or (most is not None and most < least):
        return EMPTY if is_nothing(part) and least == 0 else NOTHING
    return part if (least, most) == (1, 1) else Repeat(part, least, most)


def optional(part: Node | str) -> Node:
    """Return a node that may be missing."""
    return repeat(Text(part) if isinstance(part, str) else part, 0, 1)


def both(first: Node, second: Node) -> Node:
    if is_nothing(first) or is_nothing(second):
        return NOTHING
    if first == second or second == ALL:
        return first
    return second if first == ALL else Both(first, second)


def minus(first: Node, second: Node) -> Node:
    if is_nothing(first) or second == ALL:
        return NOTHING
    return first if is_nothing(second) else Minus(first, second)


# Automata


def nullable(node: Node) -> bool:
    """Whether a node without references matches the empty text."""
    match node:
        case Seq(parts):
            return all(map(nullable, parts))
        case Alt(parts):
            return any(map(nullable, parts))
        case Repeat(part, least, _):
            return least == 0 or nullable(part)
        case Both(first, second):
            return nullable(first) and nullable(second)
        case Minus(first, second):
            return nullable(first) and not nullable(second)
        case Text(text):
            return not text
        case _:
            return False


def derivative(node: Node, code: int) -> Node:
    """Return what may follow a character in the texts that a node matches."""
    match node:
        case Chars():
            return EMPTY if node.has(code) else NOTHING
        case Text(text):
            return seq(text[1:]) if text and ord(text[0]) == code else NOTHING
        case Seq(parts):
            if not parts:
                return NOTHING
            rest = parts[1] if len(parts) == 2 else Seq(parts[1:])
            first = derivative(parts[0], code)
            taken = first if is_nothing(first) else seq(first, rest)
            return alt(taken, derivative(rest, code)) if nullable(parts[0]) else taken
        case Alt(parts):
            return alt(*(derivative(part, code) for part in parts))
        case Repeat(part, least, most):
            first = derivative(part, code)
            if is_nothing(first):
                return NOTHING
            return seq(first, repeat(part, max(0, least - 1), None if most is None else most - 1))
        case Both(first, second):
            return both(derivative(first, code), derivative(second, code))
        case Minus(first, second):
            return minus(derivative(first, code), derivative(second, code))
        case _:
            raise TypeError(f"a token with {node}")


State = tuple[bool, tuple[tuple[Chars, int], ...]]
"""Whether a text may end in the state, and its transitions: characters and the number of the next state."""


@lru_cache(maxsize=512)
def automaton(node: Node) -> tuple[State, ...]:
    """Return the states of a deterministic automaton, the first one first; empty if the node matches nothing.

    Raises:
        TooLargeError: if it has too many states.
    """
    groups = _groups(node)
    numbers = {node: 0}
    waiting, moves = [node], dict[int, dict[int, list[Chars]]]()
    while waiting:
        here = waiting.pop()
        arrows = moves.setdefault(numbers[here], {})
        for group in groups:
            there = derivative(here, group.ranges[0][0])
            if is_nothing(there):
                continue
            if there not in numbers:
                if len(numbers) == MAX_STATES:
                    raise TooLargeError(f"a text with more than {MAX_STATES:,} states")
                numbers[there] = len(numbers)
                waiting.append(there)
            arrows.setdefault(numbers[there], []).append(group)
    ends = {number for state, number in numbers.items() if nullable(state)}
    alive, known = set(ends), -1
    while known != len(alive):
        known = len(alive)
        alive |= {number for number, arrows in moves.items() if alive & arrows.keys()}
    if 0 not in alive:
        return ()
    new = {old: number for number, old in enumerate(sorted(alive))}
    return tuple(
        (old in ends, tuple((union(*found), new[to]) for to, found in moves[old].items() if to in alive)) for old in new
    )


def _groups(node: Node) -> list[Chars]:
    """Return groups of characters that no part of the node tells apart."""
    classes: set[Chars] = set()
    waiting: list[Node] = [node]
    while waiting:
        match waiting.pop():
            case Chars() as each:
                classes.add(each)
            case Text(text):
                classes |= {chars(letter) for letter in text}
            case Seq(parts) | Alt(parts):
                waiting += parts
            case Repeat(part):
                waiting.append(part)
            case Both(first, second) | Minus(first, second):
                waiting += (first, second)
    starts = sorted({edge for each in classes for first, last in each.ranges for edge in (first, last + 1)})
    groups: dict[tuple[Chars, ...], list[tuple[int, int]]] = {}
    for low, after in itertools.pairwise(starts):
        signature = tuple(each for each in classes if each.has(low))
        if signature:
            groups.setdefault(signature, []).append((low, after - 1))
    return [Chars(_merged(ranges)) for ranges in groups.values()]
