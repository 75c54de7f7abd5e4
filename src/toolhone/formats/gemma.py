"""Gemma's turns, and the gemma format: calls as bare JSON objects with "parameters", one per line.

No serving engine reads the gemma format, so `chat.format: auto` no longer chooses it. `pythonic` uses the same turns.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

from toolhone.formats.bare_json import LINES_OF_JSON, read_bare_json
from toolhone.formats.call_syntax import BARE_OBJECTS
from toolhone.formats.chat_format import ChatFormat, json_call_writer

_TURNS = r"""{#- toolhone's template with Gemma's turns. Gemma knows only a user and a model: the system message and the tools open the
    first user turn, and results are tool_output blocks in turns of the user, as in the documentation of Gemma 3. -#}
{%- set first = messages[0] if messages and messages[0].role == "system" else none %}
{%- set after_head = 1 if first else 0 %}
{{- bos_token }}
{%- if first or tools %}
    {{- "<start_of_turn>user\n" }}
    {%- if first %}{{ first.content + "\n\n" }}{% endif %}
    {%- if tools and not names_only %}
        {{- "You have access to functions. " + INSTRUCTIONS + "\n\n" }}
    {%- endif %}
    {%- for tool in tools or [] %}{{ write_tool(tool) + "\n" }}{% endfor %}
    {{- "\n" if tools }}
    {%- set head_is_open = true %}
{%- endif %}
{%- for message in messages[after_head:] %}
    {%- set in_head = head_is_open and loop.first %}
    {%- if message.role == "assistant" %}
        {{- "<end_of_turn>\n" if in_head }}
        {{- "<start_of_turn>model\n" + write_calls(message.content or "", message.tool_calls or []) }}
    {%- else %}
        {{- "<start_of_turn>user\n" if not in_head }}
        {{- "```tool_output\n" + message.content + "\n```" if message.role == "tool" else message.content }}
    {%- endif %}
    {{- "<end_of_turn>\n" }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- "<end_of_turn>\n" if head_is_open and messages | length == after_head }}
    {{- "<start_of_turn>model\n" }}
{%- endif %}
"""

_CALLS = r"""    {{- content }}
    {%- for call in calls %}
        {{- "\n" if content or not loop.first }}
        {{- '{"name":' + (call.function.name | tojson) + ',"parameters":' }}
        {{- (call.function.arguments | tojson(separators=(",", ":"))) + "}" }}
    {%- endfor %}
"""

GEMMA_TOKENS = ("<start_of_turn>", "<end_of_turn>")
"""The special tokens of Gemma's turns. The last one ends a turn."""


def gemma_turns(instructions: str) -> str:
    """Return the template of Gemma's turns for a format with these instructions."""
    return _TURNS.replace("INSTRUCTIONS", json.dumps(instructions))


_INSTRUCTIONS = """To call one, respond with JSON in the format {"name": function name, "parameters": dictionary of \
argument name and its value}, several calls each on a line of its own."""

GEMMA = ChatFormat(
    name="gemma",
    calls=_CALLS,
    instructions=_INSTRUCTIONS,
    template=gemma_turns(_INSTRUCTIONS),
    read=partial(read_bare_json, style=LINES_OF_JSON),
    write=json_call_writer("parameters"),
    special_tokens=GEMMA_TOKENS,
    end_of_turn=GEMMA_TOKENS[-1],
    other_stops=("<eos>",),
    is_detected=False,
    call_syntax=replace(BARE_OBJECTS, argument_keys=("parameters", "arguments")),
)
