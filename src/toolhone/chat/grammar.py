"""The grammar of an answer: an engine that follows it writes valid calls only.

In: a chat format, the tools, and what the request allows. Out: a `Grammar` in the languages of the engines. Each call
in an answer can be read by the format, names one of the tools, and its arguments satisfy the tool's schema, except for
the keywords in `unenforced`. Whether the answer is a text or calls stays free, unless a call is required. A text
contains nothing that opens a call. `chat/parse.py` reads such an answer.

The answer may end where the grammar is complete; engines then allow the tokens that end a turn.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from toolhone.chat.grammar_merge import flattened
from toolhone.chat.grammar_rules import (
    ALL,
    ANY,
    DIGIT,
    EMPTY,
    NOTHING,
    Node,
    Special,
    TooLargeError,
    alt,
    chars,
    minus,
    optional,
    repeat,
    seq,
    without,
)
from toolhone.chat.grammar_schema import MAX_ANY_ORDER, SchemaRules, listed_values
from toolhone.chat.grammar_texts import pattern
from toolhone.chat.grammar_values import JSON, PYTHON, SPACE
from toolhone.chat.grammar_writing import Rules, write_gbnf, write_lark
from toolhone.formats.call_syntax import CallSyntax
from toolhone.formats.chat_format import ChatFormat
from toolhone.formats.pieces import THINK, THINK_END
from toolhone.formats.typed_values import declared_types, typed_value
from toolhone.records import Tool

MAX_SIZE = 60_000
"""Maximum nodes of a grammar, about the characters of its text divided by 5."""

_WHITE = repeat(chars(" \t\n"), 0, 8)
_WHITE_RUN = re.compile(r"\s+")
_TYPED_START = r"[\s]*[\[{\"0-9-]"
_TYPED_WORD = r"\s*(?:[nN][uU][lL][lL]|[tT][rR][uU][eE]|[fF][aA][lL][sS][eE])\s*"


@dataclass(frozen=True, slots=True)
class Grammar:
    """What an answer must look like, in the languages of the engines: GBNF for llama.cpp and for xgrammar in vLLM and
    SGLang, Lark for llguidance. `unenforced` are the keywords of the tools' schemas that it does not enforce, each with
    the name of its tool."""

    gbnf: str
    lark: str
    unenforced: tuple[str, ...] = ()


def call_grammar(
    chat_format: ChatFormat,
    tools: Sequence[Tool],
    *,
    required: bool = False,
    parallel: bool = True,
    text_schema: Mapping[str, Any] | None = None,
    free_text: bool = True,
    thinks: bool = True,
    special_tokens: Mapping[str, int] | None = None,
) -> Grammar | None:
    """Return the grammar of an answer; None if the format has none.

    Args:
        tools: the tools that may be called. Without any, the answer is a text.
        required: whether the answer must have a call.
        parallel: whether it may have several calls.
        text_schema: the JSON Schema of a text; None: any text.
        free_text: whether prose may stand beside calls, and may be the answer.
        thinks: whether the answer may begin with a thought.
        special_tokens: the special tokens of the vocabulary with their ids. llguidance matches these by id only.

    Raises:
        TooLargeError: if the tools are too large for a grammar.
        ValueError: if no answer is possible: a call is required, and the format cannot write one of any tool.
    """
    syntax = chat_format.call_syntax
    if syntax is None:
        return None
    texts = tuple(json.dumps(tool.to_json()) for tool in tools)
    schema = None if text_schema is None else json.dumps(text_schema)
    special = tuple(sorted((special_tokens or {}).items()))
    return _call_grammar(syntax, texts, required, parallel, schema, free_text, thinks, special)


@lru_cache(maxsize=256)
def _call_grammar(
    syntax: CallSyntax,
    tools: tuple[str, ...],
    required: bool,
    parallel: bool,
    text_schema: str | None,
    free_text: bool,
    thinks: bool,
    special: tuple[tuple[str, int], ...],
) -> Grammar:
    read = [json.loads(tool)["function"] for tool in tools]
    declared = [Tool(tool["name"], tool["description"], tool["parameters"]) for tool in read]
    declared = [_checked(tool) for tool in declared]
    for size, max_any_order in enumerate((MAX_ANY_ORDER, MAX_ANY_ORDER // 2, 0, 0)):
        answer = _Answer(syntax, declared, dict(special), max_any_order, thinks=thinks)
        if size == 3:
            answer.tools = [_shallow(tool) for tool in declared]
            answer.note("", "schemas of single arguments: the tools are too large")
        try:
            start = answer.rule(
                required=required,
                parallel=parallel,
                text_schema=None if text_schema is None else json.loads(text_schema),
                free_text=free_text,
            )
            rules = answer.rules.pruned(start)
            if not rules:
                raise ValueError("no answer is possible: a call is required, and no tool can be called in this format")
            return Grammar(write_gbnf(rules), write_lark(rules, answer.rules.tokens), tuple(answer.unenforced))
        except TooLargeError:
            if size == 3:
                raise
    raise AssertionError


def _checked(tool: Tool) -> Tool:
    """Return the tool, or a tool without arguments if its parameters are not a JSON Schema. Scoring refuses it."""
    from jsonschema import Draft202012Validator, SchemaError

    try:
        Draft202012Validator.check_schema(tool.parameters)
    except (SchemaError, RecursionError):
        return replace(tool, parameters={"type": "object", "additionalProperties": True})
    return tool


def _shallow(tool: Tool) -> Tool:
    """Return a tool whose arguments may have any value."""
    kept = ("type", "required")
    parameters: dict[str, Any] = {key: tool.parameters[key] for key in kept if key in tool.parameters}
    properties: dict[str, Any] = {name: {} for name in tool.parameters.get("properties", ())}
    return replace(tool, parameters={**parameters, "properties": properties} if properties else parameters)


class _Answer:
    """The rules of an answer in one syntax."""

    def __init__(
        self, syntax: CallSyntax, tools: Sequence[Tool], special: Mapping[str, int], order: int, *, thinks: bool
    ) -> None:
        self.syntax, self.tools, self.special = syntax, tools, special
        self.rules = Rules(MAX_SIZE)
        self.schemas = SchemaRules(self.rules, PYTHON if syntax.style == "python" else JSON, order)
        self.unenforced: dict[str, None] = {}
        self.prose = _prose(syntax)
        self._thinks = thinks
        thought = seq(_WHITE, THINK, _without_text(ALL, THINK_END), THINK_END, _WHITE)
        self._after_thought = optional(thought) if thinks else EMPTY

    def note(self, tool: str, keyword: str) -> None:
        self.unenforced[f"{tool}: {keyword}" if tool else keyword] = None

    def rule(self, *, required: bool, parallel: bool, text_schema: Mapping[str, Any] | None, free_text: bool) -> Any:
        """Return the rule of the whole answer."""
        start = self.rules.open("answer")
        is_prose = free_text and text_schema is None
        calls = self._calls(parallel=parallel, is_prose=is_prose) if self.tools else NOTHING
        text: Node = NOTHING
        if not required and text_schema is not None:
            schemas = SchemaRules(self.rules, JSON)
            thought = self.rules.token(self._after_thought, "thought") if self._thinks else EMPTY
            text = seq(thought, schemas.value(text_schema, text_schema), self.rules.token(_WHITE, "space"))
            for keyword in schemas.unenforced:
                self.note("response_format", keyword)
        elif not required and is_prose:
            text = self.rules.token(seq(self._after_thought, self.prose), "prose")
        self.rules.close(start, alt(text, calls))
        return start

    def _calls(self, *, parallel: bool, is_prose: bool) -> Node:
        syntax = self.syntax
        bodies = [(tool, self._body(tool)) for tool in self.tools if self._is_writable(tool)]
        before = self._before(is_prose=is_prose)
        after = self.prose if is_prose and syntax.prose_after else EMPTY
        last = self._piece(EMPTY, syntax.last, seq(_WHITE, after) if after == EMPTY else after)
        head = self._head()
        if syntax.begins_with_name:
            first = alt(*(seq(self._piece(before, syntax.first, self._name(tool)), body) for tool, body in bodies))
            others = alt(*(seq(self.rules.token(self._name(tool), "name"), body) for tool, body in bodies))
        else:
            others = self.rules.rule(alt(*(seq(self._name_token(tool), body) for tool, body in bodies)), "call")
            is_split = not syntax.first and not is_prose  # its tokens are those of JSON
            opening = self._split_head() if is_split else self._piece(before, syntax.first, head)
            first = seq(opening, others)
        between = self._piece(EMPTY, syntax.between, head)
        return seq(first, repeat(seq(between, others)) if parallel else EMPTY, last)

    def _before(self, *, is_prose: bool) -> Node:
        """Return what may come before the first call."""
        if self.syntax.is_exact:
            thought = seq(THINK, _without_text(ALL, THINK_END), THINK_END, repeat(chars("\n"), 0, 4))
            thought = optional(thought) if self._thinks else EMPTY
            prose = seq(self.prose, "\n") if self.syntax.on_own_line else self.prose
            return seq(thought, alt(EMPTY, prose)) if is_prose else thought
        if is_prose and self.syntax.prose_before:
            prose = seq(self.prose, "\n") if self.syntax.on_own_line else self.prose
            return seq(self._after_thought, alt(_WHITE, seq(prose, repeat(chars(" \t"), 0, 8))))
        if not (is_prose and self._thinks and self.syntax.style == "python"):
            return seq(self._after_thought, _WHITE)
        # A thought that the prompt opened.
        thought = seq(_without_text(self.prose, THINK_END), THINK_END)
        return seq(alt(self._after_thought, thought), _WHITE)

    def _piece(self, before: Node, text: str, after: Node) -> Node:
        """Return a text of the syntax between two nodes, as one token; or in parts if it has special tokens."""
        whole = self.rules.token(seq(before, self._spaced(text), after), "piece")
        marks = [mark for mark in self.special if mark in text]
        if not marks:
            return whole
        parts: list[Node] = []
        chunks = re.split("(" + "|".join(map(re.escape, marks)) + ")", text)
        for number, chunk in enumerate(chunks):
            if number % 2:
                parts.append(Special(chunk, self.special[chunk]))
                continue
            own = [before] if number == 0 else []
            own += [self._spaced(chunk)] if number == 0 or chunk else [_WHITE]
            own += [after] if number == len(chunks) - 1 else []
            parts.append(self.rules.token(seq(*own), "part"))
        return alt(whole, seq(*parts))

    def _spaced(self, text: str) -> Node:
        """Return a text of the syntax with more, less or no white space where it has some."""
        if self.syntax.is_exact:
            return seq(text)
        parts: list[Node | str] = []
        for number, part in enumerate(_WHITE_RUN.split(text)):
            parts += [_WHITE] if number else []
            parts.append(part)
        return seq(*parts)

    def _head(self) -> Node:
        """Return what comes before the name in each call."""
        return seq("{", SPACE, '"name"', SPACE, ":", SPACE) if self.syntax.style == "object" else EMPTY

    def _split_head(self) -> Node:
        values = self.schemas.values
        return seq(values.sign("{"), values.key(seq("name")))

    def _is_writable(self, tool: Tool) -> bool:
        style = self.syntax.python
        fault = None if style is None else style.name_fault(tool.name, is_argument=False)
        if fault or not re.fullmatch(self.syntax.name, tool.name):
            self.note(tool.name, "its name, which the format cannot write; it is never called")
            return False
        return True

    def _name(self, tool: Tool) -> Node:
        if self.syntax.style == "python":
            return seq(tool.name, "(", SPACE)
        return seq(tool.name, ">", _WHITE)

    def _name_token(self, tool: Tool) -> Node:
        if self.syntax.style == "object":
            values = self.schemas.values
            keys = alt(*(values.key(seq(key)) for key in self.syntax.argument_keys))
            return seq(values.values([tool.name]), values.sign(","), keys)
        if self.syntax.style == "named":
            before, index, after = self.syntax.after_name.partition("{index}")
            number = repeat(DIGIT, 1, 3) if index else EMPTY
            return self._piece(seq(tool.name, before, number) if index else seq(tool.name), after or before, _WHITE)
        return self.rules.token(self._name(tool), "name")

    def _body(self, tool: Tool) -> Node:
        """Return the arguments of a call and its end."""
        self.schemas.unenforced.clear()
        body = self._arguments(tool)
        for keyword in self.schemas.unenforced:
            self.note(tool.name, keyword)
        return body

    def _arguments(self, tool: Tool) -> Node:
        root = tool.parameters
        values, style = self.schemas.values, self.syntax.style
        if style == "object":
            return seq(self.schemas.value(_closed(root), root), values.sign("}"))
        if style == "named":
            closing = self._piece(EMPTY, self.syntax.after_arguments, EMPTY) if self.syntax.after_arguments else EMPTY
            return seq(self.schemas.value(_closed(root), root), closing)
        if style == "python":
            return self._members(tool, values.sign(","), self.rules.token(seq(SPACE, ")"), "end"), self._keyword)
        end = self.rules.token(seq(_WHITE, "</function>"), "end")
        return self._members(tool, EMPTY, end, self._parameter)

    def _members(self, tool: Tool, comma: Node, close: Node, write: Callable[[Tool, str, Any], Node]) -> Node:
        """Return the arguments of a call that are not written as one JSON object."""
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

    def _parameter(self, tool: Tool, name: str, schema: Any) -> Node:
        root = tool.parameters
        if not re.fullmatch(self.syntax.key, name):
            return NOTHING
        opening, closing = f"<parameter={name}>", seq("</parameter>", _WHITE)
        types = declared_types(root, name)
        found = []
        for flat in flattened(schema, root, self.schemas.note):
            listed = listed_values(flat, root)
            if listed is not None:
                written = {value if isinstance(value, str) else json.dumps(value): value for value in listed}
                texts = [text for text, value in written.items() if _same(typed_value(text, root, name), value)]
                found.append(self.rules.token(seq(opening, "\n", alt(*texts), "\n", closing), "value"))
                continue
            is_text = flat.get("type", "string" if not types else None)
            stated = [is_text] if isinstance(is_text, str) else list(is_text or types)
            if "string" in stated or not types:
                raw = self._raw(flat, is_only=types <= {"string"})
                found.append(self.rules.token(seq(opening, "\n", raw, "\n", closing), "value"))
            if "null" in stated:  # with white space around it, it is a text
                found.append(self.rules.token(seq(opening, "\nnull\n", closing), "value"))
            others = [each for each in stated if each not in ("string", "null")]
            if others:
                value = self.schemas.value({**_plain(flat), "type": others}, root)
                found.append(
                    seq(
                        self.rules.token(seq(opening, _WHITE), "key"),
                        value,
                        self.rules.token(seq(_WHITE, closing), "end"),
                    )
                )
        return alt(*found)

    def _raw(self, schema: Mapping[str, Any], *, is_only: bool) -> Node:
        """Return the texts of an argument as they are. If it may have other types, none that could be read as such."""
        refused = seq(ALL, pattern(self.syntax.refused, is_search=False), ALL)
        if any(key in schema for key in ("minLength", "maxLength", "pattern", "format")):
            node = self.schemas.text({**schema, "type": "string"}, without(ANY, [(ord("<"), ord("<"))]))
        else:
            node = minus(ALL, refused)
        if is_only:
            return node
        typed = alt(seq(pattern(_TYPED_START, is_search=False), ALL), pattern(_TYPED_WORD, is_search=False))
        return minus(node, typed)


def _plain(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return a flat schema as a schema: its patterns belong to strings, which are written as they are."""
    return {key: value for key, value in flat.items() if key != "pattern"}


def _closed(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of a tool as one of an object. A tool that lists no arguments has none."""
    return {"properties": {}, **parameters, "type": "object"}


def _same(first: Any, second: Any) -> bool:
    return json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)


@lru_cache(maxsize=64)
def _prose(syntax: CallSyntax) -> Node:
    """Return a text that opens no call and no thought."""
    opens = alt(*(pattern(each, is_search=False) for each in syntax.opens), THINK)
    forbidden = [seq(ALL, opens, ALL)]
    for each in syntax.line_opens:
        line = seq(alt(EMPTY, seq(ALL, "\n")), repeat(chars(" \t")), pattern(each, is_search=False), ALL)
        forbidden.append(line)
    return minus(ALL, alt(*forbidden))


def _without_text(node: Node, text: str) -> Node:
    return minus(node, seq(ALL, text, ALL))
