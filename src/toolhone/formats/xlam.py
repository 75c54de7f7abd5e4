"""The xlam format: calls of xLAM-2, one JSON list without a marker.

vLLM reads the list if the answer has no other text, or if the list is in a code fence. So a list beside text is written
in a code fence. Its parser ends the code fence at any "```", so backticks in arguments are escaped there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from toolhone.formats.bare_json import JsonCallStyle, read_bare_json
from toolhone.formats.call_syntax import BARE_OBJECTS
from toolhone.formats.chat_format import ChatFormat, RawCall
from toolhone.formats.marked_json import list_call_template, list_call_writer
from toolhone.records import FinishReason

_STYLE = JsonCallStyle(("arguments",), may_be_fenced=True, only_lists=True)
_ESCAPED = r"\u0060\u0060\u0060"
_write_line = list_call_writer("", "\n")


def _write(content: str, calls: Sequence[RawCall], finish_reason: FinishReason) -> str:
    line = _write_line("", calls, finish_reason)
    written = line.rstrip("\n")
    if not content or not written:
        return content + written
    closing = "\n```" if line.endswith("\n") else ""  # a list that was cut off has no end
    return f"{content}\n```json\n{written.replace('```', _ESCAPED)}{closing}"


XLAM = ChatFormat(
    name="xlam",
    read=partial(read_bare_json, style=_STYLE),
    write=_write,
    calls=(
        '{%- set text, content = content, "" %}{%- set written %}'
        + list_call_template("")
        + r"""{%- endset %}
{{- text }}
{%- if text and calls %}{{- "\n```json\n" + written.replace("```", "\\u0060\\u0060\\u0060") + "\n```" }}
{%- else %}{{- written }}
{%- endif %}"""
    ),
    instructions=(
        "To call functions, respond with one JSON list: "
        '[{"name": <function-name>, "arguments": <args-json-object>}, ...]'
    ),
    serving_parsers={"vllm": "xlam"},
    call_syntax=replace(
        BARE_OBJECTS,
        first="[",
        between=", ",
        last="]",
        argument_keys=("arguments",),
        on_own_line=False,
        prose_before=False,
    ),
)
