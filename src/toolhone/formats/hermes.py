"""The hermes format: ChatML turns, and calls as JSON objects in `<tool_call>` tags. Prose may be anywhere outside."""

from __future__ import annotations

import re
from collections.abc import Iterator

from toolhone.formats.bare_json import JsonCallStyle, read_fence
from toolhone.formats.call_json import Undecodable, skip_space
from toolhone.formats.call_syntax import CallSyntax
from toolhone.formats.chat_format import ChatFormat, json_call_writer
from toolhone.formats.foreign_syntax import HERMES_SYNTAX, openings
from toolhone.formats.pieces import (
    FENCE,
    TOOL_CALL,
    TOOL_CALL_END,
    Fault,
    Piece,
    PlacedCall,
    Thought,
    foreign_block,
    read_thought,
)
from toolhone.formats.repair import Repairer
from toolhone.records import ToolCall

_TEMPLATE = r"""{#- toolhone's template for the hermes format: ChatML turns, tools as JSON lines in <tools>, calls in <tool_call> tags.
    The prompt's wording is that of Hermes and Qwen, so that models which know it are at home.
    Every turn ends at once with <|im_end|>; several tool results in a row share one user turn. -#}
{%- set first = messages[0] if messages and messages[0].role == "system" else none %}
{%- if tools %}
    {{- "<|im_start|>system\n" }}
    {%- if first %}{{ first.content + "\n\n" }}{% endif %}
    {%- if names_only %}
        {{- "<tools>" }}
        {%- for tool in tools %}{{ "\n" + write_tool(tool) }}{% endfor %}
        {{- "\n</tools><|im_end|>\n" }}
    {%- else %}
        {{- "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n" }}
        {{- "You are provided with function signatures within <tools></tools> XML tags:\n<tools>" }}
        {%- for tool in tools %}{{ "\n" + write_tool(tool) }}{% endfor %}
        {{- "\n</tools>\n\nFor each function call, return a json object with function name and arguments" }}
        {{- " within <tool_call></tool_call> XML tags:\n<tool_call>\n" }}
        {{- '{"name": <function-name>, "arguments": <args-json-object>}' }}
        {{- "\n</tool_call><|im_end|>\n" }}
    {%- endif %}
{%- elif first %}
    {{- "<|im_start|>system\n" + first.content + "<|im_end|>\n" }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == "user" or (message.role == "system" and not loop.first) %}
        {{- "<|im_start|>" + message.role + "\n" + message.content + "<|im_end|>\n" }}
    {%- elif message.role == "assistant" %}
        {{- "<|im_start|>assistant\n" + write_calls(message.content or "", message.tool_calls or []) + "<|im_end|>\n" }}
    {%- elif message.role == "tool" %}
        {{- "<|im_start|>user" if loop.first or loop.previtem.role != "tool" }}
        {{- "\n<tool_response>\n" + message.content + "\n</tool_response>" }}
        {{- "<|im_end|>\n" if loop.last or loop.nextitem.role != "tool" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ "<|im_start|>assistant\n" }}{% endif %}
"""

_CALLS = r"""    {{- content }}
    {%- for call in calls %}
        {{- "\n" if content or not loop.first }}
        {{- '<tool_call>\n{"name": ' + (call.function.name | tojson) + ', "arguments": ' }}
        {{- (call.function.arguments | tojson) + "}\n</tool_call>" }}
    {%- endfor %}
"""

_INSTRUCTIONS = """For each function call, return a json object with function name and arguments within \
<tool_call></tool_call> XML tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call>"""

_TAG = re.compile(r"</?tool_call>")
_MARK = re.compile(rf"</?think>|(?P<foreign>{openings(HERMES_SYNTAX)})|</?tool_call>", re.MULTILINE)
_MARK_OR_FENCE = re.compile(rf"{_MARK.pattern}|^[ \t]*```[\w+-]*", re.MULTILINE)
_BEGUN_TAG = re.compile(r"<tool(?:_(?:c(?:a(?:l(?:l)?)?)?)?)?\Z")
_FENCED = JsonCallStyle(("arguments",), may_be_fenced=False)
_FENCE_OPENING = re.compile(r"```[\w+-]*\s*")


def _read(text: str, repairer: Repairer) -> Iterator[Piece]:
    """Yield the prose, thoughts, calls and faults of a turn, in order."""
    marks = _MARK_OR_FENCE if "code_fence" in repairer.allowed else _MARK
    prose = at = 0
    while mark := marks.search(text, at):
        token = mark.group().lstrip()
        pieces: list[Piece] = []
        at = mark.end()
        if mark["foreign"] is not None:
            pieces, at = foreign_block(text, mark.start())
        elif token.startswith(FENCE):
            pieces, end = read_fence(text, at, _FENCED, repairer)
            if not pieces:
                continue
            at = end
        elif token == "<think>":
            pieces, at = read_thought(text, mark.start(), repairer.tools)
        elif token == "</think>":
            pieces = [Thought(0, mark.start(), opened=False)]
        elif token == TOOL_CALL:
            piece, at = _read_block(text, at, repairer)
            pieces = [piece]
        else:
            pieces = [Fault("a </tool_call> without a <tool_call> before it")]
        yield text[prose : mark.start()]
        yield from pieces
        prose = at
    begun = _BEGUN_TAG.search(text, prose)
    yield text[prose : begun.start() if begun else len(text)]
    if begun:
        yield Fault("the <tool_call> tag is not finished", "begun", begun.group())


def _read_block(text: str, start: int, repairer: Repairer) -> tuple[PlacedCall | Fault, int]:
    """Return the call whose opening tag ends at `start`, or its fault, and where the block ends."""
    at = skip_space(text, start)
    fence = _FENCE_OPENING.match(text, at) if "code_fence" in repairer.allowed else None
    at = fence.end() if fence else at
    found = repairer.decode(text, at)
    if isinstance(found, Undecodable):
        return Fault(found.reason, "unfinished" if found.cut else "broken"), _block_end(text, found.end)
    close = skip_space(text, found.end)
    if fence and text.startswith(FENCE, close):
        close = skip_space(text, close + len(FENCE))
    if text.startswith(TOOL_CALL_END, close):
        call = repairer.read_call(found, ("arguments",))
        if fence and isinstance(call, ToolCall):
            repairer.fired["code_fence"] += 1
        piece = Fault(call) if isinstance(call, str) else PlacedCall(call, at, found.end)
        return piece, close + len(TOOL_CALL_END)
    unfinished = len(text) - close < len(TOOL_CALL_END) and TOOL_CALL_END.startswith(text[close:])
    fault = Fault("expected </tool_call> after the call's JSON", "unfinished" if unfinished else "broken")
    return fault, len(text) if unfinished else _block_end(text, close)


def _block_end(text: str, at: int) -> int:
    """Return where a broken block ends: after its closing tag, or before the next call if that comes first."""
    tag = _TAG.search(text, at)
    if tag is None:
        return len(text)
    return tag.end() if tag.group() == TOOL_CALL_END else tag.start()


HERMES = ChatFormat(
    name="hermes",
    calls=_CALLS,
    instructions=_INSTRUCTIONS,
    syntaxes=(HERMES_SYNTAX,),
    template=_TEMPLATE,
    read=_read,
    write=json_call_writer("arguments", opening="<tool_call>\n", closing="\n</tool_call>"),
    special_tokens=("<|im_start|>", "<|im_end|>"),
    end_of_turn="<|im_end|>",
    other_stops=("<|endoftext|>",),
    stray_call="a call outside <tool_call> tags",
    serving_parsers={"vllm": "hermes", "sglang": "qwen25"},
    call_syntax=CallSyntax(
        "object",
        first="<tool_call>\n",
        between="\n</tool_call>\n<tool_call>\n",
        last="\n</tool_call>",
        opens=("</?tool_call>",),
        prose_after=True,
    ),
)
