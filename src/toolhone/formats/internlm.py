"""The internlm format: calls of InternLM 2 and 3, each as a JSON object between `<|action_start|><|plugin|>` and
`<|action_end|>`."""

from __future__ import annotations

from functools import partial

from toolhone.formats.call_syntax import CallSyntax
from toolhone.formats.chat_format import ChatFormat, json_call_writer
from toolhone.formats.marked_json import MarkedSyntax, Marker, read_json_block, read_marked

_START, _PLUGIN, _END = "<|action_start|>", "<|plugin|>", "<|action_end|>"
_SYNTAX = MarkedSyntax(
    (Marker((_START, _PLUGIN), closing=_END),),
    partial(read_json_block, argument_keys=("parameters", "arguments")),
)

INTERNLM = ChatFormat(
    name="internlm",
    read=partial(read_marked, syntax=_SYNTAX),
    write=json_call_writer("parameters", opening=f"{_START}{_PLUGIN}\n", closing=_END, separator=""),
    calls=r"""
{{- content }}
{%- for call in calls %}
    {{- "\n" if content and loop.first }}
    {{- '<|action_start|><|plugin|>\n{"name": ' + (call.function.name | tojson) + ', "parameters": ' }}
    {{- (call.function.arguments | tojson) + "}<|action_end|>" }}
{%- endfor %}""",
    instructions=(
        "To call a function, respond with <|action_start|><|plugin|>\n"
        '{"name": <function-name>, "parameters": <args-json-object>}<|action_end|>. Several calls follow each other.'
    ),
    call_tokens=(_START, _PLUGIN, _END),
    syntaxes=("InternLM <|action_start|>",),
    # vLLM's parser `internlm` raises an exception for parallel calls, so it is not named here.
    call_syntax=CallSyntax(
        "object",
        first=f"{_START}{_PLUGIN}\n",
        between=f"{_END}{_START}{_PLUGIN}\n",
        last=_END,
        opens=(r"<\|action_(?:start|end)\|>",),
        argument_keys=("parameters", "arguments"),
    ),
)
