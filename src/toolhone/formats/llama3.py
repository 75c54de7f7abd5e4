"""The llama3 format: Llama 3's headers, and calls as bare JSON objects with "parameters", joined by "; "."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial

from toolhone.formats.bare_json import JsonCallStyle, read_bare_json
from toolhone.formats.call_syntax import BARE_OBJECTS
from toolhone.formats.chat_format import ChatFormat, json_call_writer
from toolhone.formats.foreign_syntax import PYTHON_TAG_SYNTAX

_TEMPLATE = r"""{#- toolhone's template for the llama3 format: Llama-3 headers, tools in the system turn, calls as JSON objects with
    "parameters". Unlike Llama's own it allows parallel calls (joined by "; "), keeps text beside a call, and prints
    no date but the one it is given, so that a prompt is the same tomorrow. -#}
{%- set first = messages[0] if messages and messages[0].role == "system" else none %}
{{- bos_token }}
{{- "<|start_header_id|>system<|end_header_id|>\n\n" }}
{{- "Environment: ipython\n" if tools }}
{{- "Cutting Knowledge Date: December 2023\nToday Date: " + (date_string or "26 Jul 2024") + "\n\n" }}
{%- if tools %}
    {%- if not names_only %}
        {{- "You have access to the following functions. To call functions, respond with JSON in the format " }}
        {{- '{"name": function name, "parameters": dictionary of argument name and its value}' }}
        {{- ', several calls separated by "; ". Do not use variables.\n\n' }}
    {%- endif %}
    {%- for tool in tools %}{{ write_tool(tool) + "\n" }}{% endfor %}
    {{- "\n" }}
{%- endif %}
{%- if first %}{{ first.content }}{% endif %}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if message.role == "user" or (message.role == "system" and not loop.first) %}
        {{- "<|start_header_id|>" + message.role + "<|end_header_id|>\n\n" + message.content + "<|eot_id|>" }}
    {%- elif message.role == "assistant" %}
        {{- "<|start_header_id|>assistant<|end_header_id|>\n\n" }}
        {{- write_calls(message.content or "", message.tool_calls or []) + "<|eot_id|>" }}
    {%- elif message.role == "tool" %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\n\n" + message.content + "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ "<|start_header_id|>assistant<|end_header_id|>\n\n" }}{% endif %}
"""

_CALLS = r"""    {{- content }}
    {{- "\n" if content and calls }}
    {%- for call in calls %}
        {{- "; " if not loop.first }}
        {{- '{"name": ' + (call.function.name | tojson) + ', "parameters": ' }}
        {{- (call.function.arguments | tojson) + "}" }}
    {%- endfor %}
"""

_INSTRUCTIONS = """To call functions, respond with JSON in the format {"name": function name, "parameters": dictionary of \
argument name and its value}, several calls separated by "; ". Do not use variables."""

_STYLE = JsonCallStyle(("parameters", "arguments"), separator=re.compile(r"[\s;]*"), python_tag=True)

LLAMA3 = ChatFormat(
    name="llama3",
    calls=_CALLS,
    instructions=_INSTRUCTIONS,
    syntaxes=(PYTHON_TAG_SYNTAX,),
    template=_TEMPLATE,
    read=partial(read_bare_json, style=_STYLE),
    write=json_call_writer("parameters", separator="; "),
    special_tokens=("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    end_of_turn="<|eot_id|>",
    other_stops=("<|eom_id|>", "<|end_of_text|>"),
    stray_call="a call inside a line of text or in a code fence",
    template_kwargs={"date_string": "26 Jul 2024"},  # without it, Llama's own template prints today's date
    serving_parsers={"vllm": "llama3_json", "sglang": "llama3"},
    call_syntax=replace(BARE_OBJECTS, between="; ", argument_keys=_STYLE.argument_keys),
)
