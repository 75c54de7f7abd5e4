"""The xlam format: calls of xLAM-2, one JSON list without a marker.

vLLM reads the list if the answer has no other text, or if the list is in a code fence. So a list beside text is written
in a code fence.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from toolhone.formats.bare_json import JsonCallStyle, read_bare_json
from toolhone.formats.chat_format import ChatFormat, RawCall
from toolhone.formats.marked_json import list_call_template, list_call_writer
from toolhone.records import FinishReason

_STYLE = JsonCallStyle(("arguments",), may_be_fenced=True, only_lists=True)
_FENCE, _FENCE_END = "\n```json\n", "\n```"
_write_alone = list_call_writer("")
_write_fenced = list_call_writer(_FENCE, _FENCE_END)
_FENCED, _ALONE = list_call_template(_FENCE, _FENCE_END), list_call_template("")


def _write(content: str, calls: Sequence[RawCall], finish_reason: FinishReason) -> str:
    return (_write_fenced if content else _write_alone)(content, calls, finish_reason)


XLAM = ChatFormat(
    name="xlam",
    read=partial(read_bare_json, style=_STYLE),
    write=_write,
    calls=f"{{%- if content %}}{_FENCED}{{%- else %}}{_ALONE}{{%- endif %}}",
    instructions=(
        'To call functions, respond with one JSON list: [{"name": <function-name>, "arguments": <args-json-object>}, ...]'
    ),
    stray_call="a call inside a line of text",
    serving_parsers={"vllm": "xlam"},
)
