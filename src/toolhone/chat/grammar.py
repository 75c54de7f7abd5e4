"""The grammar of an answer: an engine that follows it writes valid calls only.

In: a chat format, the tools, and what the request allows. Out: a `Grammar` in the languages of the engines. Each call
in an answer can be read by the format, names one of the tools, and its arguments satisfy the tool's schema, except for
the keywords in `unenforced`. Whether the answer is a text or calls stays free, unless a call is required. A text
contains nothing that opens a call. `chat/parse.py` reads such an answer.

The answer may end where the grammar is complete; engines then allow the tokens that end a turn.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from toolhone.chat.grammar_answer import AnswerRules
from toolhone.chat.grammar_rules import TooLargeError
from toolhone.chat.grammar_schema import MAX_ANY_ORDER
from toolhone.chat.grammar_writing import write_gbnf, write_lark
from toolhone.formats.call_syntax import CallSyntax
from toolhone.formats.chat_format import ChatFormat
from toolhone.records import Tool


@dataclass(frozen=True, slots=True)
class Grammar:
    """What an answer must look like, in the languages of the engines: GBNF for llama.cpp, Lark for llguidance, which
    transformers, vLLM and SGLang use. `unenforced` are the keywords of the tools' schemas that it does not enforce,
    each with the name of its tool."""

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
) -> Grammar:
    """Return the grammar of an answer.

    Args:
        tools: the tools that may be called. Without any, the answer is a text.
        required: whether the answer must have a call.
        parallel: whether it may have several calls.
        text_schema: the JSON Schema of a text; None: any text.
        free_text: whether prose may stand beside calls, and may be the answer.
        thinks: whether the answer may begin with a thought.
        special_tokens: the special tokens of the syntax with their ids; see `syntax_tokens`. llguidance matches these
            by id only.

    Raises:
        TooLargeError: if the tools are too large for a grammar.
        ValueError: if no answer is possible: a call is required, and the format cannot write one of any tool.
    """
    texts = tuple(json.dumps(tool.to_json()) for tool in tools)
    schema = None if text_schema is None else json.dumps(text_schema)
    special = tuple(sorted((special_tokens or {}).items()))
    return _call_grammar(chat_format.call_syntax, texts, required, parallel, schema, free_text, thinks, special)


def syntax_tokens(chat_format: ChatFormat, vocabulary: Mapping[str, int]) -> dict[str, int]:
    """Return those of some tokens that the syntax of a format contains, with their ids."""
    contains = chat_format.call_syntax.contains
    return {token: id_ for token, id_ in vocabulary.items() if token.strip() and contains(token)}


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
        shallow = size == 3
        given = [_shallow(tool) for tool in declared] if shallow else declared
        answer = AnswerRules(syntax, given, dict(special), max_any_order, thinks=thinks)
        if shallow:
            answer.calls.note("", "schemas of single arguments: the tools are too large")
        try:
            rules = answer.named_rules(
                required=required,
                parallel=parallel,
                text_schema=None if text_schema is None else json.loads(text_schema),
                free_text=free_text,
            )
            if not rules:
                raise ValueError("no answer is possible: a call is required, and no tool can be called in this format")
            unenforced = tuple(answer.calls.unenforced)
            return Grammar(write_gbnf(rules), write_lark(rules, answer.rules.tokens), unenforced)
        except TooLargeError:
            if shallow:
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
