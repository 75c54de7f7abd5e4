"""The rules of a grammar by name, before they are written in the language of an engine.

In: nodes of `grammar_rules.py`. Out: references to rules. Some rules are tokens: they contain no reference. Lark
matches each token as a whole, with the longest match, so no token may be the beginning of another one that is possible
at the same place. A special token of the vocabulary is no part of a text, so a token also has parts around it.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from toolhone.chat.grammar_rules import (
    EMPTY,
    NOTHING,
    Alt,
    Both,
    Minus,
    Node,
    Ref,
    Repeat,
    Seq,
    Some,
    Special,
    Text,
    TooLargeError,
    alt,
    automaton,
    nullable,
    optional,
    repeat,
    seq,
)

MAX_REPEAT = 400
"""Maximum repetitions that GBNF writes as one node. llama.cpp copies the node that often, and refuses 2,000."""


@dataclass
class Rules:
    """The rules of a grammar. `size` is about the number of nodes; it is limited by `max_size`. `special` are the
    special tokens of the vocabulary with their ids."""

    max_size: int
    special: Mapping[str, int] = field(default_factory=dict)
    nodes: dict[str, Node] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)
    size: int = 0
    _automata: set[Node] = field(default_factory=set)
    _names: dict[tuple[bool, Node], Ref] = field(default_factory=dict)

    def rule(self, node: Node, name: str = "r") -> Ref:
        """Return a reference to a rule with this node. Equal nodes share one."""
        return self._named(node, name, is_token=False)

    def token(self, node: Node, name: str = "t") -> Node:
        """Return a reference to a token. A token never is empty, so the reference is optional if the node may be."""
        if node in (EMPTY, NOTHING):
            return node
        if nullable(node):
            some = node.part if isinstance(node, Repeat) and node.most == 1 else Some(node)
            return optional(self._named(some, name, is_token=True))
        return self._named(node, name, is_token=True)

    def piece(self, node: Node, name: str = "piece") -> Node:
        """Return a reference to a token, or its parts around special tokens."""
        found = [self.token(node, name)]
        for sequence in _sequences(node, self.special):
            if any(isinstance(each, Special) for each in sequence):
                runs = itertools.groupby(sequence, lambda each: isinstance(each, Special))
                found.append(seq(*(seq(*run) if is_special else self.token(seq(*run)) for is_special, run in runs)))
        return alt(*found)

    def open(self, name: str = "r") -> Ref:
        """Return a reference to a rule whose node is set later, with `close`."""
        ref = Ref(f"{name}{len(self.nodes)}")
        self.nodes[ref.name] = NOTHING
        return ref

    def close(self, ref: Ref, node: Node) -> None:
        self._grow(node)
        self.nodes[ref.name] = node

    def _named(self, node: Node, name: str, *, is_token: bool) -> Ref:
        found = self._names.get((is_token, node))
        if found is None:
            found = self._names[is_token, node] = self.open(name)
            self.close(found, node)
            if is_token:
                self.tokens.add(found.name)
        return found

    def _grow(self, node: Node) -> None:
        self.size += 1 + _size(node, self._automata)
        if self.size > self.max_size:
            raise TooLargeError(f"a grammar of more than {self.max_size:,} nodes")

    def pruned(self, start: Ref) -> dict[str, Node]:
        """Return the rules that are reachable from the start and match something, the start first.

        They are empty if the start matches nothing.
        """
        productive: set[str] = set()
        known = -1
        while known != len(productive):
            known = len(productive)
            productive |= {name for name, node in self.nodes.items() if _productive(node, productive)}
        if start.name not in productive:
            return {}
        kept: dict[str, Node] = {}
        waiting = [start.name]
        while waiting:
            name = waiting.pop()
            if name not in kept:
                kept[name] = _kept(self.nodes[name], productive)
                waiting += reversed(list(_references(kept[name])))
        return kept


def _size(node: Node, automata: set[Node]) -> int:
    """Return about how long a node is when it is written. An automaton is written once; the set has the known ones."""
    match node:
        case Seq(parts) | Alt(parts):
            return 1 + sum(_size(part, automata) for part in parts)
        case Repeat(part, least, most):
            return 2 + _size(part, automata) + min(MAX_REPEAT, least if most is None else most) // 4
        case Some(part):
            return 1 + _size(part, automata)
        case Both(first, second) | Minus(first, second):
            if node in automata:
                return 2
            automata.add(node)
            return 4 * (_size(first, automata) + _size(second, automata))
        case Text(text):
            return 1 + len(text) // 8
        case _:
            return 1


def _productive(node: Node, names: set[str]) -> bool:
    match node:
        case Seq(parts):
            return all(_productive(part, names) for part in parts)
        case Alt(parts):
            return any(_productive(part, names) for part in parts)
        case Repeat(part, least, _):
            return least == 0 or _productive(part, names)
        case Ref(name):
            return name in names
        case Both() | Minus():
            return bool(automaton(node))
        case Some(part):
            return _productive(part, names)
        case _:
            return True


def _kept(node: Node, names: set[str]) -> Node:
    """Return the node without what matches nothing."""
    match node:
        case Ref(name):
            return node if name in names else NOTHING
        case Seq(parts):
            return seq(*(_kept(part, names) for part in parts))
        case Alt(parts):
            return alt(*(_kept(part, names) for part in parts))
        case Repeat(part, least, most):
            return repeat(_kept(part, names), least, most)
        case Both() | Minus():
            return node if automaton(node) else NOTHING
        case _:
            return node


def _references(node: Node) -> Iterable[str]:
    match node:
        case Ref(name):
            yield name
        case Seq(parts) | Alt(parts):
            for part in parts:
                yield from _references(part)
        case Repeat(part):
            yield from _references(part)


def _sequences(node: Node, special: Mapping[str, int]) -> list[tuple[Node, ...]]:
    """Return the sequences that make up a node, with its special tokens as nodes of their own."""
    if not _has_special(node, special):
        return [(node,)]
    match node:
        case Text(text):
            tokens = sorted((token for token in special if token in text), key=len, reverse=True)
            parts = re.split(f"({'|'.join(map(re.escape, tokens))})", text)
            return [tuple(Special(part, special[part]) if part in special else Text(part) for part in parts if part)]
        case Seq(parts):
            inner = [_sequences(part, special) for part in parts]
            return [tuple(itertools.chain.from_iterable(each)) for each in itertools.product(*inner)]
        case Alt(parts):
            return [each for part in parts for each in _sequences(part, special)]
        case Repeat(part, 0, 1):
            return [(), *_sequences(part, special)]
    return [(node,)]


def _has_special(node: Node, special: Mapping[str, int]) -> bool:
    """Whether a node has special tokens, besides those in repetitions and in what is subtracted."""
    match node:
        case Text(text):
            return any(token in text for token in special)
        case Seq(parts) | Alt(parts):
            return any(_has_special(part, special) for part in parts)
        case Repeat(part, 0, 1):
            return _has_special(part, special)
    return False
