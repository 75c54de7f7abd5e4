"""The formats of DeepSeek's models: calls with their name outside the JSON, in one block of `<｜tool▁calls▁begin｜>`.

- deepseek, of V3 and R1 and the distilled models: `function`, the name, and the arguments in a code fence.
- deepseek_v31, of V3.1: the name and the arguments.
"""

from __future__ import annotations

from functools import partial

from toolhone.formats.call_syntax import CallSyntax
from toolhone.formats.chat_format import ChatFormat
from toolhone.formats.marked_json import MarkedSyntax, Marker, read_marked
from toolhone.formats.named_json import NAME, NamedCall, named_call_template, named_call_writer, read_named_block

_BEGIN, _SEP, _END = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
_BLOCK = Marker(("<｜tool▁calls▁begin｜>",), closing="<｜tool▁calls▁end｜>")
_TOKENS = (*_BLOCK.opening, _BLOCK.closing, _BEGIN, _SEP, _END)
_SYNTAXES = ("DeepSeek <｜tool▁calls▁begin｜>",)

_V3 = NamedCall(
    before_name=f"{_BEGIN}function{_SEP}",
    after_name="\n```json\n",
    after_arguments=f"\n```{_END}",
    between="\n",
    headers=((f"{_BEGIN}function{_SEP}", NAME, "\n```json"),),
)
_V31 = NamedCall(before_name=_BEGIN, after_name=_SEP, after_arguments=_END, between="", headers=((_BEGIN, NAME, _SEP),))


def _syntax(form: NamedCall) -> CallSyntax:
    return CallSyntax(
        "named",
        first=_BLOCK.opening[0] + form.before_name,
        between=form.between + form.before_name,
        last=_BLOCK.closing,
        opens=("<｜tool▁calls?▁(?:begin|end)｜>",),
        name=NAME.pattern,
        after_name=form.after_name,
        after_arguments=form.after_arguments,
        is_exact=True,
    )


DEEPSEEK = ChatFormat(
    name="deepseek",
    read=partial(read_marked, syntax=MarkedSyntax((_BLOCK,), partial(read_named_block, form=_V3))),
    write=named_call_writer(_V3, _BLOCK),
    calls=named_call_template(_V3, _BLOCK),
    instructions=(
        "To call functions, respond with one block that contains every call:\n"
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜><function-name>\n"
        "```json\n<args-json-object>\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
    ),
    call_tokens=_TOKENS,
    syntaxes=_SYNTAXES,
    serving_parsers={"vllm": "deepseek_v3", "sglang": "deepseekv3"},
    call_syntax=_syntax(_V3),
)

DEEPSEEK_V31 = ChatFormat(
    name="deepseek_v31",
    read=partial(read_marked, syntax=MarkedSyntax((_BLOCK,), partial(read_named_block, form=_V31))),
    write=named_call_writer(_V31, _BLOCK),
    calls=named_call_template(_V31, _BLOCK),
    instructions=(
        "To call functions, respond with one block that contains every call:\n"
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜><function-name><｜tool▁sep｜><args-json-object><｜tool▁call▁end｜>"
        "<｜tool▁calls▁end｜>"
    ),
    call_tokens=_TOKENS,
    syntaxes=_SYNTAXES,
    serving_parsers={"vllm": "deepseek_v31", "sglang": "deepseekv31"},
    call_syntax=_syntax(_V31),
)
