"""The json format: ChatML turns, and calls as bare JSON objects with "arguments", one per line."""

from __future__ import annotations

from functools import partial

from toolhone.formats.bare_json import LINES_OF_JSON, read_bare_json
from toolhone.formats.call_syntax import BARE_OBJECTS
from toolhone.formats.chat_format import ChatFormat, json_call_writer

_TEMPLATE = r"""{#- toolhone's template for the json format: ChatML turns, tools as JSON lines, calls as JSON objects without tags, each on
    a line of its own, so that a model need not know before the first call whether more follow.
    Every turn ends at once with <|im_end|>. -#}
{%- set first = messages[0] if messages and messages[0].role == "system" else none %}
{%- if tools %}
    {{- "<|im_start|>system\n" }}
    {%- if first %}{{ first.content + "\n\n" }}{% endif %}
    {%- if not names_only %}
        {{- "You have access to the following functions. To call one, respond with JSON in the format " }}
        {{- '{"name": function name, "arguments": object of argument names and values}' }}
        {{- ", several calls each on a line of its own.\n\n" }}
    {%- endif %}
    {%- for tool in tools %}{{ "\n" if not loop.first }}{{ write_tool(tool) }}{% endfor %}
    {{- "<|im_end|>\n" }}
{%- elif first %}
    {{- "<|im_start|>system\n" + first.content + "<|im_end|>\n" }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role in ("user", "tool") or (message.role == "system" and not loop.first) %}
        {{- "<|im_start|>" + message.role + "\n" + message.content + "<|im_end|>\n" }}
    {%- elif message.role == "assistant" %}
        {{- "<|im_start|>assistant\n" + write_calls(message.content or "", message.tool_calls or []) + "<|im_end|>\n" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ "<|im_start|>assistant\n" }}{% endif %}
"""

_CALLS = r"""    {{- content }}
    {%- for call in calls %}
        {{- "\n" if content or not loop.first }}
        {{- '{"name": ' + (call.function.name | tojson) + ', "arguments": ' }}
        {{- (call.function.arguments | tojson) + "}" }}
    {%- endfor %}
"""

_INSTRUCTIONS = """To call one, respond with JSON in the format {"name": function name, "arguments": object of argument names and \
values}, several calls each on a line of its own."""

JSON = ChatFormat(
    name="json",
    calls=_CALLS,
    instructions=_INSTRUCTIONS,
    template=_TEMPLATE,
    read=partial(read_bare_json, style=LINES_OF_JSON),
    write=json_call_writer("arguments"),
    special_tokens=("<|im_start|>", "<|im_end|>"),
    end_of_turn="<|im_end|>",
    other_stops=("<|endoftext|>",),
    is_detected=False,  # it has the same tokens as hermes
    call_syntax=BARE_OBJECTS,
)
