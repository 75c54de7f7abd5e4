"""The gemma format: Gemma's turns, and calls as bare JSON objects with "parameters", one per line."""

from __future__ import annotations

from functools import partial

from toolhone.formats.bare_json import LINES_OF_JSON, read_bare_json
from toolhone.formats.chat_format import ChatFormat, json_call_writer

_TEMPLATE = r"""{#- toolhone's template for the gemma format: Gemma's turns, calls as JSON objects with "parameters", each on a line of its
    own, and results in tool_output blocks, as the documentation of Gemma 3 has them. No spaces are written between the parts
    of a call: a sixth of its tokens, none of which says anything. Gemma knows a user and a model
    alone: the system message and the tools stand at the head of the first user turn, results in turns of the user. -#}
{%- set first = messages[0] if messages and messages[0].role == "system" else none %}
{%- set after_head = 1 if first else 0 %}
{{- bos_token }}
{%- if first or tools %}
    {{- "<start_of_turn>user\n" }}
    {%- if first %}{{ first.content + "\n\n" }}{% endif %}
    {%- if tools and not names_only %}
        {{- "You have access to functions. To call one, respond with JSON in the format " }}
        {{- '{"name": function name, "parameters": dictionary of argument name and its value}' }}
        {{- ", several calls each on a line of its own.\n\n" }}
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

_INSTRUCTIONS = """To call one, respond with JSON in the format {"name": function name, "parameters": dictionary of \
argument name and its value}, several calls each on a line of its own."""

GEMMA = ChatFormat(
    name="gemma",
    calls=_CALLS,
    instructions=_INSTRUCTIONS,
    template=_TEMPLATE,
    read=partial(read_bare_json, style=LINES_OF_JSON),
    write=json_call_writer("parameters"),
    special_tokens=("<start_of_turn>", "<end_of_turn>"),
    end_of_turn="<end_of_turn>",
    other_stops=("<eos>",),
)
