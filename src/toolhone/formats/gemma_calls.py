"""The formats functiongemma and gemma4: the special tokens of the two families around calls in one grammar.

vLLM's parser `gemma4` finds the same names, keys and strings. It gives every value the type that the tool's schema
declares, and returns a number without a declared type as a string. SGLang's `gemma4` reads null, and numbers such as
1e-07, as strings. vLLM's `functiongemma` reads only strings: it drops every other value, and turns a string such as "5"
into a number. So functiongemma names no parser of vLLM.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from toolhone.formats.call_syntax import CallSyntax, StringSyntax
from toolhone.formats.chat_format import ChatFormat, RawCall
from toolhone.formats.foreign_syntax import call_syntax
from toolhone.formats.gemma_syntax import KEY, NAME, GemmaTokens, read_gemma_call, write_gemma_call
from toolhone.formats.pieces import THINK, THINK_END, Fault, Piece, Thought, foreign_block, read_thought
from toolhone.formats.repair import Repairer
from toolhone.records import FinishReason

_LABEL = "thought\n"


def _read(text: str, repairer: Repairer, *, tokens: GemmaTokens) -> Iterator[Piece]:
    """Yield the prose, thoughts, calls and faults of a turn, in order."""
    prose = at = 0
    has_thought = False
    while mark := tokens.marks.search(text, at):
        token = mark.group()
        pieces: list[Piece] = []
        at = mark.end()
        if token == tokens.opening:
            piece, at = read_gemma_call(text, mark.start(), tokens, repairer)
            pieces = [piece]
        elif token == tokens.closing:
            pieces = [Fault(f"a {token} without a {tokens.opening} before it")]
        elif token == "<think>":
            pieces, at = read_thought(text, mark.start(), repairer.tools)
        elif token == "</think>":
            pieces = [Thought(0, mark.start(), opened=False)]
        elif tokens.thought and token == tokens.thought:
            has_thought = True
            pieces, at = _read_channel(text, mark, tokens, repairer)
        elif tokens.thought and token == tokens.thought_end:
            # Without an opening, it is the end of the thought that the prompt opened. A second end has no meaning.
            pieces = [] if has_thought else [Thought(_after_label(text, 0), mark.start(), opened=False)]
            has_thought = True
        else:
            pieces, at = foreign_block(text, mark.start())
        yield text[prose : mark.start()]
        yield from pieces
        prose = at
    # At least three characters, because `<` also stands in prose.
    begun = next((size for size in range(len(tokens.opening) - 1, 2, -1) if text.endswith(tokens.opening[:size])), 0)
    begun = begun if len(text) - begun >= prose else 0
    yield text[prose : len(text) - begun]
    if begun:
        yield Fault(f"the {tokens.opening} token is not finished", "begun", text[-begun:])


def _read_channel(text: str, mark: re.Match[str], tokens: GemmaTokens, repairer: Repairer) -> tuple[list[Piece], int]:
    """Return the thought whose opening token is here, and where it ends. A call ends it too, as in vLLM."""
    stop = tokens.thought_ends.search(text, mark.end())
    if stop is None:
        syntax = call_syntax(text[mark.end() :], repairer.tools)
        fault = Fault("the thought is not closed", "unfinished" if syntax else "begun", text[mark.start() :])
        return [fault], len(text)
    thought = Thought(min(_after_label(text, mark.end()), stop.start()), stop.start())
    return [thought], stop.end() if stop.group() == tokens.thought_end else stop.start()


def _after_label(text: str, start: int) -> int:
    """Return where a thought's text starts. Its first line is the name of the channel."""
    return start + len(_LABEL) if text.startswith(_LABEL, start) else start


def _write(content: str, calls: Sequence[RawCall], finish_reason: FinishReason, *, tokens: GemmaTokens) -> str:
    """Write a turn: its prose, then its calls."""
    cut = len(calls) if finish_reason == "length" else 0
    written = [write_gemma_call(call, tokens, may_be_cut=number == cut) for number, call in enumerate(calls, 1)]
    return content + "".join(written)


_CALLS = r"""
{%- macro write_value(value) -%}
    {%- if value is string -%}{{ '@quote@' + value + '@quote@' }}
    {%- elif value is mapping -%}
        {{- "{" }}
        {%- for key, item in value.items() %}{{ "," if not loop.first }}{{ key }}:{{ write_value(item) }}{% endfor -%}
        {{- "}" }}
    {%- elif value is sequence -%}
        {{- "[" }}
        {%- for item in value %}{{ "," if not loop.first }}{{ write_value(item) }}{% endfor -%}
        {{- "]" }}
    {%- else -%}{{ value | tojson }}
    {%- endif -%}
{%- endmacro -%}
{{- content }}
{%- for call in calls -%}
    {{- '@opening@call:' + call.function.name + write_value(call.function.arguments) + '@closing@' }}
{%- endfor -%}"""

_INSTRUCTIONS = (
    "To call a function, write @opening@call:NAME{KEY:VALUE}@closing@ with its name and its arguments. Separate "
    "arguments with commas. Write texts between @quote@ and @quote@, and numbers, true, false and null without them. "
    "Write lists as [VALUE,VALUE] and objects as {KEY:VALUE}. To call several functions, write one call after another."
)


def _gemma_format(
    name: str, tokens: GemmaTokens, stops: tuple[str, ...], serving_parsers: Mapping[str, str]
) -> ChatFormat:
    def filled(text: str) -> str:
        for key in ("opening", "closing", "quote"):
            text = text.replace(f"@{key}@", getattr(tokens, key))
        return text

    return ChatFormat(
        name=name,
        read=partial(_read, tokens=tokens),
        write=partial(_write, tokens=tokens),
        calls=filled(_CALLS),
        instructions=filled(_INSTRUCTIONS),
        call_tokens=tokens.call_tokens,
        syntaxes=(tokens.syntax,),
        other_stops=stops,
        stray_call=f"a call outside {tokens.opening} tokens",
        serving_parsers=serving_parsers,
        call_syntax=_call_syntax(tokens),
    )


def _call_syntax(tokens: GemmaTokens) -> CallSyntax:
    has_thought = bool(tokens.thought)
    return CallSyntax(
        "named",
        first=f"{tokens.opening}call:",
        between=f"{tokens.opening}call:",
        after_arguments=tokens.closing,
        opens=(re.escape(tokens.opening), re.escape(tokens.closing)),
        strings=StringSyntax(tokens.quote, refused=(tokens.opening, tokens.closing)),
        name=NAME.pattern,
        key=KEY.pattern,
        thought=(tokens.thought, tokens.thought_end) if has_thought else (THINK, THINK_END),
        in_thought=re.escape(tokens.opening) if has_thought else "",
    )


FUNCTIONGEMMA = _gemma_format(
    "functiongemma",
    GemmaTokens("FunctionGemma <start_function_call>", "<start_function_call>", "<end_function_call>", "<escape>"),
    # After its calls, the model asks for the results.
    stops=("<end_of_turn>", "<start_function_response>", "<eos>"),
    serving_parsers={},
)

GEMMA4 = _gemma_format(
    "gemma4",
    GemmaTokens("Gemma 4 <|tool_call>", "<|tool_call>", "<tool_call|>", '<|"|>', "<|channel>", "<channel|>"),
    stops=("<turn|>", "<|tool_response>", "<eos>"),
    serving_parsers={"vllm": "gemma4", "sglang": "gemma4"},
)
