"""Finds the traits of a template that depend on no chat format: how it ends turns, and what it writes only when it asks
for one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jinja2

from toolhone.chat.render import ChatRenderer
from toolhone.chat.template import with_ending
from toolhone.formats import FORMATS
from toolhone.formats.pieces import THINK_END, TOOL_CALL_END
from toolhone.records import Message, Tool, ToolCall

PROBE_TOOL = Tool(
    "probe_tool",
    "a tool that shows what a template can write",
    {"type": "object", "properties": {"code": {"type": "string"}, "count": {"type": "integer"}}},
)
SYSTEM, QUESTION = Message("system", "Be brief."), Message("user", "Look up 7.")
ONE_CALL = Message("assistant", "", (ToolCall("probe_tool", {"code": "查-7", "count": 2}, "call_1"),))
ANSWER = Message("assistant", "Good morning.")

_OPEN_THOUGHT = re.compile(r"<think>\s*(?P<end></think>\s*)?\Z")
_EMPTY_THOUGHT = re.compile(r"(?:<think>)?\s*</think>\s*")
_THOUGHT_CLOSING = "\n</think>\n\n"

REFUSALS = (jinja2.TemplateError, TypeError, ValueError, KeyError, AttributeError, IndexError)
"""What a template may raise on messages that it does not take."""


_CALL_TOKENS = frozenset({TOOL_CALL_END, THINK_END}).union(
    *(set(chat_format.call_tokens) - set(chat_format.stops) for chat_format in FORMATS.values())
)
"""Tokens that close a call and not its turn."""


def with_traits(renderer: ChatRenderer, question: Sequence[Message]) -> ChatRenderer:
    """Return the renderer with the traits of its template that depend on no chat format: how it ends turns, and what it
    writes only when it asks for one."""
    traits, template = renderer.traits, renderer.template
    assert traits is not None
    asked = renderer.text(question, (PROBE_TOOL,), ask=True)
    whole = renderer.text((*question, ANSWER), (PROBE_TOOL,), ask=False)
    if renderer.thinking != "train":
        at = whole.rfind(ANSWER.content)
        if whole.startswith(asked):
            if learned := _EMPTY_THOUGHT.match(whole, len(asked)):
                template = with_ending(template, learned.group())
        elif at >= 0 and asked.startswith(whole[:at]):
            thought = _OPEN_THOUGHT.search(asked, at)
            closing = _THOUGHT_CLOSING if thought and not thought["end"] else ""
            template = with_ending(template, closing) if closing else template
            traits = replace(traits, asked_only=asked[at:] + closing)
    renderer = replace(renderer, template=template, traits=traits)
    result = Message("tool", "done", tool_call_id="call_1")
    special = _special_tokens(renderer.tokenizer)
    answer = _end(renderer, question, ANSWER, QUESTION, special)
    calls = _end(renderer, question, ONE_CALL, result, special - (_CALL_TOKENS - {answer.token}))
    traits = replace(
        traits,
        end_of_answer=answer.token,
        end_of_calls=calls.token,
        ends_are_written=answer.is_written and calls.is_written,
        closing=answer.closing,
    )
    return replace(renderer, traits=traits)


class _End(NamedTuple):
    """The token that ends a turn, whether the template writes it before the next turn opens, and the tokens after
    it."""

    token: str
    is_written: bool
    closing: str = ""


def _end(
    renderer: ChatRenderer, question: Sequence[Message], turn: Message, following: Message, ends: frozenset[str]
) -> _End:
    """Return how the template ends a turn, as the last one and with a message after it. `ends` are tokens that may end
    a turn."""
    tokens = sorted(ends, key=len, reverse=True)
    whole = renderer.text((*question, turn), (PROBE_TOOL,), ask=False).rstrip()
    rest = whole
    end = ""
    while token := next((token for token in tokens if rest.endswith(token)), None):
        end, rest = token, rest.removesuffix(token).rstrip()
    if end:
        return _End(end, is_written=True, closing=whole[len(rest) :].strip().removeprefix(end).strip())
    try:
        longer = renderer.text((*question, turn, following), (PROBE_TOOL,), ask=False)
    except REFUSALS:
        longer = ""
    after = longer[len(whole) :].lstrip() if longer.startswith(whole) else ""
    opening = next((token for token in tokens if after.startswith(token)), renderer.tokenizer.eos_token or "")
    return _End(opening, is_written=False)


def _special_tokens(tokenizer: Any) -> frozenset[str]:
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    return frozenset(special | {tokenizer.eos_token}) if tokenizer.eos_token else frozenset(special)
