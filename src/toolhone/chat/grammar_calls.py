"""The rules of one call: its name, and its arguments as the format writes them.

In: a tool, and the syntax of its format. Out: nodes of `grammar_rules.py`. `grammar_answer.py` puts calls into answers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from toolhone.chat.grammar_merge import flattened
from toolhone.chat.grammar_rules import ALL, ANY, DIGIT, EMPTY, NOTHING, Node, alt, minus, repeat, seq, without
from toolhone.chat.grammar_schema import SchemaRules, listed_values
from toolhone.chat.grammar_table import Rules
from toolhone.chat.grammar_texts import pattern
from toolhone.chat.grammar_values import JSON, PYTHON, SPACE, WHITE, Literals, spaced
from toolhone.formats.call_syntax import CallSyntax, TextForm
from toolhone.formats.typed_values import declared_types
from toolhone.records import Tool

_TYPED_START = r"[\s]*[\[{\"'0-9-]"
_TYPED_WORD = r"\s*(?:[nN][uU][lL][lL]|[tT][rR][uU][eE]|[fF][aA][lL][sS][eE]|None)\s*"
_OF_TYPES = ("1", "null", "true", "[1]", "{}")
"""Texts that look like values of each type that is not a text."""


class CallRules:
    """Makes the rules of calls. `unenforced` has what they do not enforce, each with the name of its tool."""

    def __init__(self, rules: Rules, syntax: CallSyntax, max_any_order: int) -> None:
        self.rules, self.syntax = rules, syntax
        self.schemas = SchemaRules(rules, _literals(syntax), max_any_order)
        self.unenforced: dict[str, None] = {}

    def note(self, tool: str, keyword: str) -> None:
        self.unenforced[f"{tool}: {keyword}" if tool else keyword] = None

    def is_writable(self, tool: Tool) -> bool:
        """Whether the format can write the tool's name."""
        style = self.syntax.python
        fault = None if style is None else style.name_fault(tool.name, is_argument=False)
        if fault or not re.fullmatch(self.syntax.name, tool.name):
            self.note(tool.name, "its name, which the format cannot write; it is never called")
            return False
        return True

    def head(self) -> Node:
        """Return what comes before the name in each call."""
        return seq("{", SPACE, '"name"', SPACE, ":", SPACE) if self.syntax.style == "object" else EMPTY

    def split_head(self) -> Node:
        """Return the same, as the tokens of JSON."""
        values = self.schemas.values
        return seq(values.sign("{"), values.key(seq("name")))

    def name(self, tool: Tool) -> Node:
        """Return the name and what comes before the arguments, unless the call is an object."""
        syntax = self.syntax
        if syntax.style == "python":
            return seq(tool.name, "(", SPACE)
        before, index, after = syntax.after_name.partition("{index}")
        number = repeat(DIGIT, 1, 3) if index else EMPTY
        parts = [spaced(before, is_exact=syntax.is_exact), number, spaced(after, is_exact=syntax.is_exact)]
        return seq(tool.name, *parts, WHITE if syntax.style == "named" and not syntax.is_exact else EMPTY)

    def named(self, tool: Tool) -> Node:
        """Return references to the name and what comes before the arguments."""
        if self.syntax.style == "object":
            values = self.schemas.values
            keys = alt(*(values.key(seq(key)) for key in self.syntax.argument_keys))
            return seq(values.values([tool.name]), values.sign(","), keys)
        return self.rules.piece(self.name(tool), "name")

    def body(self, tool: Tool) -> Node:
        """Return the arguments of a call and its end."""
        self.schemas.unenforced.clear()
        body = self._arguments(tool)
        for keyword in self.schemas.unenforced:
            self.note(tool.name, keyword)
        return body

    def _arguments(self, tool: Tool) -> Node:
        root = tool.parameters
        values, style = self.schemas.values, self.syntax.style
        end = spaced(self.syntax.after_arguments, is_exact=self.syntax.is_exact)
        if style == "object":
            return seq(self.schemas.value(_closed(root), root), values.sign("}"))
        if style == "named":
            return seq(self.schemas.value(_closed(root), root), self.rules.piece(end, "end"))
        if style == "python":
            return self._members(tool, values.sign(","), self.rules.token(seq(SPACE, ")"), "end"), self._keyword)
        return self._members(tool, EMPTY, self.rules.piece(seq(WHITE, end), "end"), self._tagged)

    def _members(self, tool: Tool, comma: Node, close: Node, write: Callable[[Tool, str, Any], Node]) -> Node:
        """Return the arguments of a call that are not written as one object."""
        found = []
        for flat in flattened(_closed(tool.parameters), tool.parameters, self.schemas.note):
            listed = dict(flat.get("properties", {}))
            more = flat.get("additionalProperties", not listed)
            names = [*listed, *(name for name in flat.get("required", ()) if name not in listed and more is not False)]
            entries = [write(tool, name, listed.get(name, more)) for name in names]
            found.append(self.schemas.entries(flat, tool.parameters, names, entries, comma, close, None))
        return self.rules.rule(alt(*found), "arguments")

    def _keyword(self, tool: Tool, name: str, schema: Any) -> Node:
        style = self.syntax.python
        if style is None or style.name_fault(name, is_argument=True):
            return NOTHING
        return seq(self.rules.token(seq(name, "="), "key"), self.schemas.value(schema, tool.parameters))

    # Values in tags

    def _tagged(self, tool: Tool, name: str, schema: Any) -> Node:
        root, syntax = tool.parameters, self.syntax
        if not re.fullmatch(syntax.key, name):
            return NOTHING
        opening, closing = (part.replace("{name}", name) for part in syntax.argument.split("{text}"))
        types = declared_types(root, name)
        is_text = all(isinstance(syntax.typed(text, root, name), str) for text in _OF_TYPES)

        def written(form: TextForm, text: Node) -> Node:
            inner = seq(form.opening, text, form.closing)
            return self.rules.piece(seq(opening, inner, closing.rstrip(), WHITE), "value")

        found = []
        for flat in flattened(schema, root, self.schemas.note):
            listed = listed_values(flat, root)
            if listed is not None:
                found.append(self._listed(listed, root, name, written))
                continue
            stated = flat.get("type", None if types else "string")
            names = [stated] if isinstance(stated, str) else list(stated or types)
            if "string" in names:
                found += [written(form, self._text(flat, form, is_text=is_text)) for form in syntax.texts]
            if "null" in names:  # with white space around it, it is a text
                found.append(written(syntax.texts[0], seq("null")))
            quoted = ["string"] if "string" in names and syntax.typed('""', root, name) == "" else []
            if others := [*quoted, *(each for each in names if each not in ("string", "null"))]:
                value = self.schemas.value({**_plain(flat), "type": others}, root)
                before = self.rules.piece(seq(opening.rstrip(), WHITE), "key")
                found.append(seq(before, value, self.rules.piece(seq(WHITE, closing.strip(), WHITE), "end")))
        return alt(*found)

    def _listed(
        self, listed: list[Any], root: dict[str, Any], name: str, written: Callable[[TextForm, Node], Node]
    ) -> Node:
        """Return one of some values, each in the first form that can write it."""
        texts: dict[TextForm, list[str]] = {}
        for value in listed:
            candidates = [*([value] if isinstance(value, str) else []), json.dumps(value)]
            text = next((text for text in candidates if _same(self.syntax.typed(text, root, name), value)), None)
            form = next((form for form in self.syntax.texts if not re.search(form.refused, text or "")), None)
            if text is not None and form is not None:
                texts.setdefault(form, []).append(text)
        return alt(*(written(form, alt(*found)) for form, found in texts.items()))

    def _text(self, schema: Mapping[str, Any], form: TextForm, *, is_text: bool) -> Node:
        """Return the texts of an argument in a form. If it may have other types, none that could be read as such."""
        if any(key in schema for key in ("minLength", "maxLength", "pattern", "format")):
            letter = without(ANY, [(ord(each), ord(each)) for each in form.guards])
            node = self.schemas.text({**schema, "type": "string"}, letter)
        else:
            node = minus(ALL, seq(ALL, pattern(form.refused, is_search=False), ALL))
        if is_text:
            return node
        typed = alt(seq(pattern(_TYPED_START, is_search=False), ALL), pattern(_TYPED_WORD, is_search=False))
        return minus(node, typed)


def _literals(syntax: CallSyntax) -> Literals:
    """Return how a format writes values."""
    own = syntax.strings
    if not own.quote:
        return replace(PYTHON if syntax.style == "python" else JSON, escaped=own.escaped, refused=own.refused)
    return replace(JSON, quotes=(own.quote,), escapes=NOTHING, refused=(own.quote, *own.refused), bare_key=syntax.key)


def _plain(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return a flat schema as a schema."""
    patterns = [{"pattern": each} for each in flat.get("pattern", ())]
    return {**{key: value for key, value in flat.items() if key != "pattern"}, "allOf": patterns}


def _closed(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of a tool as one of an object. A tool that lists no arguments has none."""
    return {"properties": {}, **parameters, "type": "object"}


def _same(first: Any, second: Any) -> bool:
    return json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)
