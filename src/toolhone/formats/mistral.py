"""The formats of Mistral's models: `[TOOL_CALLS]` before a list of calls, or before the name of each call.

- mistral, of Mistral 7B v0.3 and Nemo: `[TOOL_CALLS] [{"name": "f", "arguments": {}}]`. Templates add an "id" to calls.
- mistral_args, of tokenizers from version 11 on (Ministral 3, Devstral): `[TOOL_CALLS]f[ARGS]{}` for each call. Some
  templates write `[CALL_ID]` and an id before `[ARGS]`. vLLM would take them for a part of the name, so toolhone writes
  none.
"""

from __future__ import annotations

import re
from functools import partial

from toolhone.formats.call_syntax import CallSyntax
from toolhone.formats.chat_format import ChatFormat
from toolhone.formats.marked_json import (
    MarkedSyntax,
    Marker,
    list_call_template,
    list_call_writer,
    read_json_block,
    read_marked,
)
from toolhone.formats.named_json import NAME, NamedCall, named_call_template, named_call_writer, read_named_block
from toolhone.formats.pieces import THINK, THINK_END

_MARKER = Marker(("[TOOL_CALLS]",))
_THOUGHT_TAGS = (("[THINK]", "[/THINK]"), (THINK, THINK_END))
"""Of Magistral and Ministral 3, and of Magistral's first version."""

_LIST = MarkedSyntax((_MARKER,), read_json_block, _THOUGHT_TAGS)
_LIST_OPENING = "[TOOL_CALLS] "  # SGLang needs the space

_ID = re.compile(r"[a-zA-Z0-9]{1,64}")
_ARGS = NamedCall(
    before_name="[TOOL_CALLS]",
    after_name="[ARGS]",
    after_arguments="",
    between="",
    # Mistral's own tokenizer decodes a call without [ARGS].
    headers=((NAME, "[ARGS]"), (NAME, "[CALL_ID]", _ID, "[ARGS]"), (NAME, re.compile(r"(?=\{)"))),
    ends_turn=True,
)
_NAMED = MarkedSyntax((_MARKER,), partial(read_named_block, form=_ARGS), _THOUGHT_TAGS)

MISTRAL = ChatFormat(
    name="mistral",
    read=partial(read_marked, syntax=_LIST),
    write=list_call_writer(_LIST_OPENING),
    calls=list_call_template(_LIST_OPENING),
    instructions=(
        'To call functions, respond with [TOOL_CALLS] [{"name": <function-name>, "arguments": <args-json-object>}], '
        "several calls in one list."
    ),
    call_tokens=("[TOOL_CALLS]",),
    syntaxes=("Mistral [TOOL_CALLS]",),
    serving_parsers={"vllm": "mistral", "sglang": "mistral"},
    call_syntax=CallSyntax("object", first=f"{_LIST_OPENING}[", between=", ", last="]", opens=(r"\[TOOL_CALLS\]",)),
)

MISTRAL_ARGS = ChatFormat(
    name="mistral_args",
    read=partial(read_marked, syntax=_NAMED),
    write=named_call_writer(_ARGS, _MARKER),
    calls=named_call_template(_ARGS, _MARKER),
    instructions=(
        "To call a function, respond with [TOOL_CALLS]<function-name>[ARGS]<args-json-object>. "
        "Several calls follow each other."
    ),
    call_tokens=("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"),
    syntaxes=("Mistral [TOOL_CALLS]",),
    serving_parsers={"vllm": "mistral", "sglang": "mistral"},
    call_syntax=CallSyntax(
        "named",
        first="[TOOL_CALLS]",
        between="[TOOL_CALLS]",
        opens=(r"\[TOOL_CALLS\]",),
        name=NAME.pattern,
        after_name="[ARGS]",
    ),
)
