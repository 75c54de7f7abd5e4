"""Builds the Jinja templates that `probe.py` tries for a model, from the model's own template and a chat format.

A model's own template comes first. It may lack tools, refuse parallel calls or lose the text beside a call. Then
toolhone writes that part itself and leaves the rest to the model's template: a few Jinja lines before it rewrite the
messages. So the turns keep the markers that the model knows, whatever its family, and the result is one template that
can be saved and that any engine can render.
"""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from toolhone.formats.chat_format import TOOL_MACROS, ChatFormat

Part = Literal["tools", "calls", "results"]
"""A part of a conversation that toolhone writes instead of the model's template. tools: the list of tools. calls: the
calls of assistant turns. results: tool messages, written as turns of the user."""


@dataclass(frozen=True, slots=True)
class TemplateTraits:
    """What rendering must know about a template, found by probing it.

    Attributes:
        end_of_answer: the token that ends an assistant turn without calls.
        end_of_calls: the token that ends an assistant turn with calls.
        ends_are_written: false if the template ends a turn only with the opening of the next one. Then the tokens above
            open the next turn, and rendering adds them.
        closing: the text that the template writes after the end of its last turn.
        asked_only: text that the template writes when it asks for a turn and leaves out when the turn is there, such as
            an empty thought.
        null_content: content must be None beside calls. Otherwise it is "".
        short_ids: ids of calls must have nine letters or digits.
        text_arguments: arguments must be JSON text. Otherwise they are objects.
    """

    end_of_answer: str
    end_of_calls: str
    ends_are_written: bool = True
    closing: str = ""
    asked_only: str = ""
    null_content: bool = False
    short_ids: bool = False
    text_arguments: bool = False

    @classmethod
    def of_format(cls, chat_format: ChatFormat) -> TemplateTraits:
        """Return the traits of toolhone's own template for a format."""
        return cls(chat_format.end_of_turn, chat_format.end_of_turn)


@dataclass(frozen=True, slots=True)
class PlainTurns:
    """The turn markers of a family, for tokenizers without a chat template. `template` writes roles and contents."""

    tokens: tuple[str, ...]
    template: str


PLAIN_TURNS = (
    PlainTurns(
        ("<|im_start|>", "<|im_end|>"),
        r"""{%- for message in messages %}
    {{- "<|im_start|>" + message.role + "\n" + message.content + "<|im_end|>\n" }}
{%- endfor %}
{%- if add_generation_prompt %}{{ "<|im_start|>assistant\n" }}{% endif %}
""",
    ),
    PlainTurns(
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        r"""{{- bos_token }}
{%- for message in messages %}
    {{- "<|start_header_id|>" + message.role + "<|end_header_id|>\n\n" + message.content + "<|eot_id|>" }}
{%- endfor %}
{%- if add_generation_prompt %}{{ "<|start_header_id|>assistant<|end_header_id|>\n\n" }}{% endif %}
""",
    ),
    PlainTurns(
        ("<start_of_turn>", "<end_of_turn>"),
        r"""{{- bos_token }}
{%- for message in messages %}
    {%- if message.role == "system" %}{{ raise_exception("Gemma has no system turns") }}{% endif %}
    {{- "<start_of_turn>" + ("model" if message.role == "assistant" else "user") + "\n" }}
    {{- message.content + "<end_of_turn>\n" }}
{%- endfor %}
{%- if add_generation_prompt %}{{ "<start_of_turn>model\n" }}{% endif %}
""",
    ),
)
"""Turns of ChatML, Llama 3 and Gemma."""


def plain_turns(vocabulary: Container[str]) -> str | None:
    """Return the template of the first turns whose tokens the vocabulary has; None if it has none of them."""
    known = (turns for turns in PLAIN_TURNS if all(token in vocabulary for token in turns.tokens))
    return next((turns.template for turns in known), None)


def with_variables(template: str, variables: Mapping[str, Any]) -> str:
    """Return the template with values for its variables, so that it needs none from whoever renders it."""
    lines = (f"{{%- set {name} = {_literal(value)} %}}\n" for name, value in variables.items())
    return "".join(lines) + template


def _literal(value: Any) -> str:
    """Return a JSON value as a Jinja literal."""
    if value is None:
        return "none"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_literal, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)}: {_literal(inner)}" for key, inner in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False)


def with_ending(template: str, ending: str) -> str:
    """Return the template with more text at the end of the opening of an assistant turn."""
    # Jinja drops one newline at the end of a template.
    body = template.removesuffix("\n")
    return f"{body}{{% if add_generation_prompt %}}{{{{ {json.dumps(ending)} }}}}{{% endif %}}\n"


def rewritten(own: str, chat_format: ChatFormat, tools: str, parts: Container[Part], *, system: bool = True) -> str:
    """Return the model's own template, in which toolhone writes these parts.

    Args:
        tools: how tools are written, a value of `chat.tools`.
        system: whether the model's template has a system turn. If not, its text opens the first turn of the user.
    """
    takes_head = "tools" in parts or not system
    branches = []
    lines = [f"{{#- The turns are those of the template below. toolhone writes before it: {_listed(parts)}. -#}}\n"]
    if "tools" in parts:
        lines += [TOOL_MACROS[tools], _WRITE_TOOLS.replace("INSTRUCTIONS", json.dumps(chat_format.instructions))]
    if "calls" in parts:
        lines.append(chat_format.calls_macro)
        branches.append(_CALLS)
    if "results" in parts:
        branches.append(_RESULTS)
    lines.append(_START)
    if takes_head:
        lines += [_SYSTEM_IN_HEAD, *([_TOOLS_IN_HEAD] if "tools" in parts else [])]
        lines.append(_HEAD_AS_SYSTEM if system else _HEAD_ALONE)
        branches += [] if system else [_HEAD_IN_USER]
    lines.append("{%- for message in rewrite.rest %}\n")
    for number, branch in enumerate(branches):
        lines.append(f"    {{%- {'elif' if number else 'if'} {branch}")
    lines += [_OTHER, "{%- set messages = rewrite.messages %}\n"]
    if "tools" in parts:
        lines.append("{%- set tools = none %}\n")
    return "".join(lines) + own


def _listed(parts: Container[Part]) -> str:
    names = {"tools": "the tools", "calls": "the calls", "results": "tool results, as turns of the user"}
    return ", ".join(text for part, text in names.items() if part in parts)


_WRITE_TOOLS = r"""{%- macro write_tools(tools) -%}
    {{- "" if names_only else "You may call these functions.\n" }}
    {{- "<tools>" }}
    {%- for tool in tools %}{{ "\n" + write_tool(tool) }}{% endfor %}
    {{- "\n</tools>" }}
    {{- "" if names_only else "\n" + INSTRUCTIONS }}
{%- endmacro -%}
"""

_START = r"""{%- set rewrite = namespace(messages=[], results=[], head="", rest=messages) %}
"""

_SYSTEM_IN_HEAD = r"""{%- if messages and messages[0].role == "system" %}
    {%- set rewrite.head = messages[0].content %}
    {%- set rewrite.rest = messages[1:] %}
{%- endif %}
"""

_TOOLS_IN_HEAD = r"""{%- if tools %}
    {%- set rewrite.head = rewrite.head + ("\n\n" if rewrite.head else "") + write_tools(tools) %}
{%- endif %}
"""

_HEAD_AS_SYSTEM = r"""{%- if rewrite.head %}
    {%- set rewrite.messages = [{"role": "system", "content": rewrite.head}] %}
{%- endif %}
"""

_HEAD_ALONE = r"""{%- if rewrite.head and not (rewrite.rest and rewrite.rest[0].role == "user") %}
    {%- set rewrite.messages = [{"role": "user", "content": rewrite.head}] %}
    {%- set rewrite.head = "" %}
{%- endif %}
"""

_CALLS = r"""message.role == "assistant" and message.tool_calls %}
        {%- set text = write_calls(message.content or "", message.tool_calls) %}
        {%- set rewrite.messages = rewrite.messages + [{"role": "assistant", "content": text}] %}
"""

_RESULTS = r"""message.role == "tool" %}
        {%- set rewrite.results = rewrite.results + ["<tool_response>\n" + message.content + "\n</tool_response>"] %}
        {%- if loop.last or loop.nextitem.role != "tool" %}
            {%- set text = rewrite.results | join("\n") %}
            {%- set rewrite.messages = rewrite.messages + [{"role": "user", "content": text}] %}
            {%- set rewrite.results = [] %}
        {%- endif %}
"""

_HEAD_IN_USER = r"""message.role == "user" and rewrite.head %}
        {%- set text = rewrite.head + "\n\n" + message.content %}
        {%- set rewrite.messages = rewrite.messages + [{"role": "user", "content": text}] %}
        {%- set rewrite.head = "" %}
"""

_OTHER = r"""    {%- else %}
        {%- set rewrite.messages = rewrite.messages + [message] %}
    {%- endif %}
{%- endfor %}
"""
