"""Writes the rules of a grammar as GBNF (llama.cpp, xgrammar) and as Lark (llguidance).

In: rules by name (`grammar_table.py`). Out: the text of the grammar. GBNF has no intersection and no subtraction, so
such a node is written as its automaton.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from toolhone.chat.grammar_rules import (
    EMPTY,
    Alt,
    Both,
    Chars,
    Minus,
    Node,
    Ref,
    Repeat,
    Seq,
    Some,
    Special,
    Text,
    alt,
    automaton,
    repeat,
    seq,
)
from toolhone.chat.grammar_table import MAX_REPEAT

_MAX_TRIE_DEPTH = 60

# GBNF


def write_gbnf(rules: Mapping[str, Node]) -> str:
    """Return the rules as GBNF. The first one becomes `root`."""
    written: dict[str, str] = {}
    names: dict[Node, str] = {}
    for number, (name, node) in enumerate(rules.items()):
        written["root" if number == 0 else name] = _gbnf(node, written, names, is_alone=True)
    # A reference to the start is not written: no rule refers to it.
    return "".join(f"{name} ::= {body}\n" for name, body in written.items())


def _gbnf(
    node: Node, written: dict[str, str], names: dict[Node, str], *, is_alone: bool = False, depth: int = 0
) -> str:
    match node:
        case Chars(ranges):
            return "[" + "".join(map(_gbnf_range, ranges)) + "]"
        case Text(text) | Special(text):
            return '"' + "".join(_gbnf_code(ord(each), '"\\') for each in text) + '"'
        case Ref(name):
            return name
        case Seq(parts):
            body = " ".join(_gbnf(part, written, names, depth=depth) for part in parts) or '""'
            return body if is_alone or len(parts) < 2 else f"({body})"
        case Alt(parts):
            body = " | ".join(
                _gbnf(part, written, names, is_alone=True, depth=depth + 1)
                for part in _grouped(_without_specials(parts), depth)
            )
            return body if is_alone else f"({body})"
        case Repeat(part, least, most):
            return _gbnf_repeat(part, least, most, written, names)
        case Some(part):  # a rule may be empty
            return _gbnf(part, written, names, is_alone=is_alone, depth=depth)
        case Both() | Minus():
            if node not in names:
                names[node] = prefix = f"a{len(written)}-{len(names)}-"
                for number, (is_end, moves) in enumerate(automaton(node)):
                    arrows = [f"[{''.join(map(_gbnf_range, each.ranges))}] {prefix}{to}" for each, to in moves]
                    written[f"{prefix}{number}"] = " | ".join([*arrows, *(['""'] if is_end else [])])
            return f"{names[node]}0"
    raise TypeError(node)


def _without_specials(parts: tuple[Node, ...]) -> tuple[Node, ...]:
    """Return alternatives without those with a special token. GBNF matches its text, as another alternative does."""
    return tuple(
        part for part in parts if not (isinstance(part, Seq) and any(isinstance(e, Special) for e in part.parts))
    )


def _gbnf_repeat(part: Node, least: int, most: int | None, written: dict[str, str], names: dict[Node, str]) -> str:
    if max(least, most or 0) > MAX_REPEAT:
        return _gbnf(_blocks(part, least, most), written, names)
    body = _gbnf(part, written, names)
    if isinstance(part, Repeat) or (" " in body and not body.startswith(("(", "[", '"'))):
        body = f"({body})"
    sign = {(0, None): "*", (1, None): "+", (0, 1): "?"}.get((least, most))
    return body + (sign or (f"{{{least}}}" if least == most else f"{{{least},{'' if most is None else most}}}"))


def _blocks(part: Node, least: int, most: int | None) -> Node:
    """Return a long repetition as one of blocks."""
    size = 100
    if most is None:
        return seq(Repeat(Repeat(part, size, size), least // size, least // size), Repeat(part, least % size, None))
    if most - least <= size:
        head = seq(
            repeat(Repeat(part, size, size), least // size, least // size), repeat(part, least % size, least % size)
        )
        return seq(head, repeat(part, 0, most - least))
    if least:
        return seq(_blocks(part, least, least), _blocks(part, 0, most - least))
    blocks, rest = divmod(most, size)
    block = Repeat(part, size, size)
    return alt(
        seq(repeat(block, 0, blocks - 1), repeat(part, 0, size - 1)),
        seq(repeat(block, blocks, blocks), repeat(part, 0, rest)),
    )


def _grouped(parts: tuple[Node, ...], depth: int) -> tuple[Node, ...]:
    """Return alternatives with their common beginnings factored out. llama.cpp follows each alternative on its own."""
    texts = [part for part in parts if isinstance(part, Text) and part.text]
    if len(texts) < 4 or depth > _MAX_TRIE_DEPTH:
        return parts
    heads: dict[str, list[str]] = {}
    for part in texts:
        heads.setdefault(part.text[0], []).append(part.text)
    found: list[Node] = [part for part in parts if not isinstance(part, Text) or not part.text]
    for group in heads.values():
        shared = len(_common(group))
        rest = tuple(Text(text[shared:]) if text[shared:] else EMPTY for text in group)
        found.append(seq(group[0][:shared], Alt(rest) if len(rest) > 1 else rest[0]))
    return tuple(found)


def _common(texts: list[str]) -> str:
    low, high = min(texts), max(texts)
    size = next((at for at, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))
    return low[:size]


def _gbnf_range(each: tuple[int, int]) -> str:
    first, last = each
    signs = "\\]^-["
    return _gbnf_code(first, signs) + ("" if first == last else "-" + _gbnf_code(last, signs))


def _gbnf_code(code: int, signs: str) -> str:
    if 32 <= code < 127 and chr(code) not in signs:
        return chr(code)
    return f"\\u{code:04X}" if code < 65536 else f"\\U{code:08X}"  # xgrammar reads any number of digits after an x


# Lark


def write_lark(rules: Mapping[str, Node], tokens: Iterable[str]) -> str:
    """Return the rules as llguidance's Lark. The first one becomes `start`."""
    upper = {name: name.upper() for name in tokens}
    lines = []
    for number, (name, node) in enumerate(rules.items()):
        head = "start" if number == 0 else upper.get(name, name)
        lines.append(f"{head}: {_lark(node, upper, is_alone=True)}\n")
    return "".join(lines)


def _lark(node: Node, upper: Mapping[str, str], *, is_alone: bool = False) -> str:
    match node:
        case Chars(ranges):
            return "/[" + "".join(map(_lark_range, ranges)) + "]/"
        case Text(text):
            return json.dumps(text, ensure_ascii=False)
        case Special(_, id):
            return f"<[{id}]>"
        case Ref(name):
            return upper.get(name, name)
        case Seq(parts):
            body = " ".join(_lark(part, upper) for part in parts) or '""'
            return body if is_alone or len(parts) < 2 else f"({body})"
        case Alt(parts):
            body = " | ".join(_lark(part, upper, is_alone=True) for part in parts)
            return body if is_alone else f"({body})"
        case Repeat(part, least, most):
            sign = {(0, None): "*", (1, None): "+", (0, 1): "?"}.get((least, most))
            return f"({_lark(part, upper)})" + (sign or f"{{{least},{'' if most is None else most}}}")
        case Some(part):
            return f"(({_lark(part, upper)}) & /(?s:.+)/)"
        case Both(first, second):
            return f"(({_lark(first, upper)}) & ({_lark(second, upper)}))"
        case Minus(first, second):
            return f"(({_lark(first, upper)}) & ~({_lark(second, upper)}))"
    raise TypeError(node)


def _lark_range(each: tuple[int, int]) -> str:
    first, last = (chr(code) if chr(code).isalnum() and code < 127 else f"\\x{{{code:X}}}" for code in each)
    return first if first == last else f"{first}-{last}"
