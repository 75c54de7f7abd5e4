"""The rules of a whole answer: its thought, its prose, and the calls of the tools.

In: the syntax of a chat format, the tools, and what the request allows. Out: the rules (`grammar_table.py`). Prose
contains nothing that opens a call, so the start of a call decides what the answer is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from toolhone.chat.grammar_calls import CallRules
from toolhone.chat.grammar_rules import ALL, EMPTY, NOTHING, Node, alt, chars, minus, optional, repeat, seq
from toolhone.chat.grammar_schema import SchemaRules
from toolhone.chat.grammar_table import Rules
from toolhone.chat.grammar_texts import pattern
from toolhone.chat.grammar_values import JSON, WHITE, spaced
from toolhone.formats.call_syntax import CallSyntax
from toolhone.formats.pieces import THINK
from toolhone.records import Tool

MAX_SIZE = 60_000
"""Maximum nodes of a grammar, about the characters of its text divided by 5."""


class AnswerRules:
    """Makes the rules of an answer in one syntax. `thinks`: whether it may begin with a thought."""

    def __init__(
        self, syntax: CallSyntax, tools: Sequence[Tool], special: Mapping[str, int], order: int, *, thinks: bool
    ) -> None:
        self.syntax, self.tools = syntax, tools
        self.rules = Rules(MAX_SIZE, special)
        self.calls = CallRules(self.rules, syntax, order)
        self._prose = _prose(syntax)
        self._thinks = thinks
        self._thought = optional(_thought(syntax)) if thinks else EMPTY

    def named_rules(
        self, *, required: bool, parallel: bool, text_schema: Mapping[str, Any] | None, free_text: bool
    ) -> dict[str, Node]:
        """Return the rules by name, the one of the whole answer first; empty if no answer is possible. See
        `call_grammar`.

        Raises:
            TooLargeError: if they are too large.
        """
        start = self.rules.open("answer")
        is_prose = free_text and text_schema is None
        calls = self._some_calls(parallel=parallel, is_prose=is_prose) if self.tools else NOTHING
        text: Node = NOTHING
        if not required and text_schema is not None:
            schemas = SchemaRules(self.rules, JSON)
            opening = self.rules.piece(self._text(EMPTY), "thought")
            text = seq(opening, schemas.value(text_schema, text_schema), self.rules.token(WHITE, "space"))
            for keyword in schemas.unenforced:
                self.calls.note("response_format", keyword)
        elif not required and is_prose:
            text = self.rules.piece(self._text(self._prose), "prose")
        self.rules.close(start, alt(text, calls))
        return self.rules.pruned(start)

    def _text(self, node: Node) -> Node:
        """Return an answer without calls, with what comes before it."""
        *alone, usual = self.syntax.headers
        return alt(*(seq(header, node) for header in alone), seq(self._thought, usual, node))

    def _some_calls(self, *, parallel: bool, is_prose: bool) -> Node:
        """Return one call or several, with what may stand around them."""
        syntax, calls = self.syntax, self.calls
        bodies = [(tool, calls.body(tool)) for tool in self.tools if calls.is_writable(tool)]
        first, between, last = (
            spaced(text, is_exact=syntax.is_exact) for text in (syntax.first, syntax.between, syntax.last)
        )
        before = self._before(is_prose=is_prose)
        after = self._prose if is_prose and syntax.prose_after else WHITE
        head = calls.head()
        if syntax.begins_with_name:
            opened = alt(*(seq(self.rules.piece(seq(before, first, calls.name(tool))), body) for tool, body in bodies))
            others = alt(*(seq(calls.named(tool), body) for tool, body in bodies))
        else:
            others = self.rules.rule(alt(*(seq(calls.named(tool), body) for tool, body in bodies)), "call")
            is_split = not syntax.first and not is_prose  # its tokens are those of JSON
            opening = calls.split_head() if is_split else self.rules.piece(seq(before, first, head))
            opened = seq(opening, others)
        more = repeat(seq(self.rules.piece(seq(between, head)), others)) if parallel else EMPTY
        end = self.rules.piece(last if syntax.is_stopped else seq(last, after), "last")
        return seq(opened, more, optional(end) if syntax.is_stopped else end)

    def _before(self, *, is_prose: bool) -> Node:
        """Return what may come before the first call."""
        syntax = self.syntax
        opening, closing = syntax.preamble
        prose = seq(opening, self._prose, "\n" if syntax.on_own_line else "", closing)
        if syntax.is_exact:
            return seq(self._thought, alt(EMPTY, prose) if is_prose else EMPTY)
        if is_prose and syntax.prose_before:
            return seq(self._thought, alt(WHITE, seq(prose, repeat(chars(" \t"), 0, 8))))
        if not (is_prose and self._thinks and syntax.style == "python"):
            return seq(self._thought, WHITE)
        # A thought that the prompt opened.
        _, end = syntax.thought
        return seq(alt(self._thought, seq(_without_text(self._prose, end), end)), WHITE)


@lru_cache(maxsize=64)
def _prose(syntax: CallSyntax) -> Node:
    """Return a text that opens no call and no thought."""
    opens = alt(*(pattern(each, is_search=False) for each in syntax.opens), THINK, syntax.thought[0])
    forbidden = [seq(ALL, opens, ALL)]
    for each in syntax.line_opens:
        line = seq(alt(EMPTY, seq(ALL, "\n")), repeat(chars(" \t")), pattern(each, is_search=False), ALL)
        forbidden.append(line)
    return minus(ALL, alt(*forbidden))


def _thought(syntax: CallSyntax) -> Node:
    """Return a thought with its tags and the white space around it."""
    opening, closing = syntax.thought
    inner = _without_text(ALL, closing)
    if syntax.in_thought:
        inner = minus(ALL, alt(seq(ALL, closing, ALL), seq(ALL, pattern(syntax.in_thought, is_search=False), ALL)))
    before, after = (EMPTY, repeat(chars("\n"), 0, 4)) if syntax.is_exact else (WHITE, WHITE)
    return seq(before, opening, inner, closing, after)


def _without_text(node: Node, text: str) -> Node:
    return minus(node, seq(ALL, text, ALL))
