"""Detects calls in another syntax than the format's: those of other model families, and other uses of a tool's name.

In: a text, or an index in it, and the names of the declared tools. Out: the name of the syntax, or None if there is no
call. A call in another syntax is never read. It is malformed, so that a model with its own way of calling is not scored
as if it had declined to call.

- TAGGED are syntaxes that open with a marker. A reader stops there: the rest of the turn, or of the thought, is not
  read for calls.
- `untagged_call` finds the others in prose by their shape: Python calls, JSON with other keys, ReAct, and a declared
  tool's name followed by arguments.

Prose may name a tool. `query_order needs a number`, `query_order()` inside a sentence and `query_order(order_id)` are
not calls, because they give no value. Time is linear in the text.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from toolhone.formats.call_json import call_in_prose

HERMES_SYNTAX, PYTHON_TAG_SYNTAX = "Hermes <tool_call>", "Llama 3 <|python_tag|>"

_NAME = r"[^\W\d][\w.-]{0,100}"
_BAR = r"[|｜]"  # DeepSeek uses a full-width bar

TAGGED: dict[str, str] = {
    "Mistral [TOOL_CALLS]": r"\[TOOL_CALLS\]",
    "Phi-4-mini functools": r"(?<![\w.])functools\[\s*\{",
    "Phi-4-mini and Granite 3 <|tool_call|>": r"<\|tool_call\|>",
    "Granite 3 and Falcon 3, a list in <tool_call>": r"<tool_call>\s*+\[\s*+\{",
    "Qwen3-Coder <tool_call><function=>": r"<tool_call>\s*+<function=",
    "GLM-4.5 <tool_call> with a name and <arg_key>": rf"<tool_call>\s*+{_NAME}+\s*+(?:<arg_key>|</tool_call>)",
    "Python in <tool_call>": rf"<tool_call>\s*+\[?\s*+{_NAME}+\(",
    HERMES_SYNTAX: r"<tool_call>",
    "Seed-OSS <seed:tool_call>": r"<seed:tool_call>",
    "MiniMax <minimax:tool_call>": r"<minimax:tool_call>",
    "LongCat <longcat_tool_call>": r"<longcat_tool_call>",
    "Llama 3.1 <function=> with JSON": r"<function=[^<>\n]{1,100}+>\s*+\{",
    "Qwen3-Coder <function=>": r"<function=",
    PYTHON_TAG_SYNTAX: r"<\|python_tag\|>",
    "Llama 4 <|python_start|>": r"<\|python_start\|>",
    "Hunyuan, Jamba and MiniMax <tool_calls>": r"<tool_calls>",
    "MiniCPM3 <|tool_call_start|> with a code fence": r"<\|tool_call_start\|>\s*+```",
    "LFM2 <|tool_call_start|>": r"<\|tool_call_start\|>",
    "Gemma 4 <|tool_call>": r"<\|tool_call>",
    "FunctionGemma <start_function_call>": r"<start_function_call>",
    "Gemma 3 tool_code": r"^[ \t]*```(?:tool_code|(?:tool|function)_calls?)\s*+(?!\[?\s*\{)",
    "Gemini default_api": r"\bdefault_api\.\w+\(",
    "DeepSeek V3.2 DSML": rf"<{_BAR}DSML{_BAR}(?:function_calls|tool_calls|invoke)\b",
    "DeepSeek <｜tool▁calls▁begin｜>": rf"<{_BAR}tool▁calls?▁begin{_BAR}>",
    "Step <｜tool_calls_begin｜>": r"<｜tool_calls?_begin｜>|<steptml:invoke\b",
    "Kimi K2 <|tool_calls_section_begin|>": r"<\|tool_calls_section_begin\|>|<\|tool_call_begin\|>",
    "gpt-oss (harmony) to=functions": r"\bto=functions\.\w|<\|channel\|>commentary[ \t]+to=",
    "InternLM <|action_start|>": r"<\|action_start\|>",
    "Command R <|START_ACTION|>": r"<\|START_ACTION\|>",
    "Nemotron <TOOLCALL>": r"<TOOLCALL>",
    "Apertus <|tools_prefix|>": r"<\|tools_prefix\|>",
    "Functionary <|recipient|>": r"<\|recipient\|>\s*+(?!all\b)\w",
    "Qwen-Agent ✿FUNCTION✿": r"✿FUNCTION✿",
    "Gorilla <<function>>": r"<<function>>",
    "Glaive <functioncall>": r"<functioncall>",
    "Anthropic <invoke>": r"<(?:antml:)?(?:function_calls>\s*+<(?!/)|invoke\b)",
    "OLMo-3 <function_calls>": r"<function_calls",
    "MiniCPM5 <function name=>": r"<function\s+name\s*=",
    # A similar tag of an unlisted family. <tool_call> itself may be the expected syntax.
    "a tag for calls": (
        rf"(?!<tool_call>)<{_BAR}?(?:\w{{1,20}}[:_])?(?i:(?:tool|function)[_▁-]?(?:calls?|use)(?![a-z]))[^<>\n]{{0,60}}>"
    ),
}
"""The opening of each syntax as a regular expression. The first one that matches at an index decides."""

_SIGNS = ("<", "[", "`", "✿", "functools", "default_api", "to=functions")
"""Every opening contains one of them. Most answers contain none, so they need no search."""

_TAGGED = {name: re.compile(pattern, re.MULTILINE) for name, pattern in TAGGED.items()}
_ANY_TAGGED = re.compile("|".join(TAGGED.values()), re.MULTILINE)

_KEYS = "tool|tool_name|function|function_name|action|recipient_name|api|api_name|method|command|cmd"
_ARGUMENTS = "arguments?|parameters?|args|params|inputs?|action_input|tool_input|tool_args|function_args|kwargs"
_VALUE = r"(?:[\"'“‘\[{]|[-+]?\d|(?:True|False|None|true|false|null)\b)"

_SHAPES: dict[str, re.Pattern[str]] = {
    "calls in a list, as Python writes them": re.compile(
        rf"^[ \t`]*+\[\s*+{_NAME}(?: [\w.-]{{1,50}}){{0,5}}\(\s*+(?:{_NAME}\s*+=(?!=)|\)\s*+[,\]])"
        rf"|\[\s*+{_NAME}\(\s*+{_NAME}\s*+=\s*+{_VALUE}",
        re.MULTILINE,
    ),
    "JSON with other keys than name and arguments": re.compile(
        rf"[\"'](?:{_KEYS})[\"']\s*+:\s*+[\"'][^\"'\n]{{1,200}}+[\"']\s*+,\s*+[\"'](?:{_ARGUMENTS})[\"']\s*+:"
        rf"|[\"']name[\"']\s*+:\s*+[\"'][^\"'\n]{{1,200}}+[\"']\s*+,\s*+[\"'](?:{_ARGUMENTS})[\"']\s*+:\s*+\{{"
        r"|[\"'](?:tool|function)_calls?[\"']\s*+:\s*+(?:\[\s*+)?\{\s*+[\"']"
    ),
    "ReAct's Action Input": re.compile(r"^[ \t*]*+Action[ _]Input[ \t*]*+:", re.MULTILINE | re.IGNORECASE),
}
"""Calls without a marker that need no declared name. Each pattern matches the opening of a call."""

_SHAPE_SIGNS = dict(zip(_SHAPES, ("[", ":", ":"), strict=True))
"""A character that each of these shapes contains. Most answers have none, so they need no search."""


def openings(*own: str) -> str:
    """Return a regular expression of all openings, except those of the format's `own` syntaxes."""
    return "|".join(pattern for name, pattern in TAGGED.items() if name not in own)


def may_open(text: str) -> bool:
    """Whether a text may contain the opening of a tagged syntax."""
    return any(sign in text for sign in _SIGNS)


def syntax_at(text: str, at: int) -> str | None:
    """Return the name of the tagged syntax that opens at an index of the text."""
    return next((name for name, opening in _TAGGED.items() if opening.match(text, at)), None)


def opens_with_marker(text: str) -> bool:
    """Whether a text starts with the marker of a call, after any thought."""
    answer = text.rpartition("</think>")[2]
    return syntax_at(answer, len(answer) - len(answer.lstrip())) is not None


def tagged_syntax(text: str) -> str | None:
    """Return the name of the first tagged syntax in a text; None if there is none."""
    tag = _ANY_TAGGED.search(text) if may_open(text) else None
    return None if tag is None else syntax_at(text, tag.start())


def call_syntax(text: str, tools: Collection[str] | None) -> str | None:
    """Return the name of the syntax of the first call in a text that should have none; None if there is no call.
    `tools` are the declared names; None if they are unknown."""
    if tagged := tagged_syntax(text):
        return tagged
    return "JSON" if call_in_prose(text, tools) else untagged_call(text, tools)


def untagged_call(prose: str, tools: Collection[str] | None) -> str | None:
    """Return the name of the syntax of a call in prose that has no marker and is not JSON as in the formats."""
    for name, shape in _SHAPES.items():
        if _SHAPE_SIGNS[name] in prose and shape.search(prose):
            return name
    for tool in tools or ():
        if tool and tool in prose and (found := _shape_of_call(prose, tool)):
            return f"{found} of {tool}"
    return None


# The patterns below start after a declared name. Every repetition is possessive, so that white space is read only once.
_NEXT_LINE = r"[ \t]*+(?:\r?\n[ \t]*+)?"
_OBJECT = r"\{\s*+(?:[\"'}]|[^\W\d]\w*+\s*+:)"
_AFTER_NAME: dict[str, re.Pattern[str]] = {
    "a Python call": re.compile(
        rf"[(（]\s*+{_VALUE}|[ \t]?[(（]\s*+[^\W\d]\w*+\s*+(?:=(?!=)\s*+(?!\.\.\.|…|<|[,)])\S|:\s*+{_VALUE})"
    ),
    "GLM-4's JSON under the name": re.compile(rf"[ \t]*+\r?\n\s*+(?:```\w*+\s*+)?{_OBJECT}"),
    "JSON after the name": re.compile(
        rf"(?::\d++)?[`\"'*\])]{{0,3}}+{_NEXT_LINE}(?:[:=,]|[=-]>|(?:with|using)\b)?{_NEXT_LINE}"
        rf"(?:(?:the[ ]+)?[\"'*]*+(?:{_ARGUMENTS})\b[\"'*]*+{_NEXT_LINE}[:=]?{_NEXT_LINE})?"
        rf"(?:```\w*+\s*+)?[`(]?{_OBJECT}"
    ),
    "JSON with other keys and the name": re.compile(rf"[\"']\s*+,\s*+[\"']\w++[\"']\s*+:\s*+{_OBJECT}"),
    "key=value after the name": re.compile(
        r"(?:[ \t]*+(?:[:|]|[=-]>)[ \t]*+|[ \t]++)(?:--[^\W\d][\w-]*+[ =]|[^\W\d]\w*+=(?!=))\S"
        r"|\[\s*+(?:[^\W\d]\w*+\s*+=|[\"'{])"
    ),
}
"""The shapes of a call anywhere in prose, by the text after the name."""

_LINE_OPENING = re.compile(
    r"[\s`*>\"'\[(/@]*+(?:(?:action|call|calling|execute|function|function[ _]call|invoke|run|tool|tool[ _]call|use)"
    r"\b[\s:]*+)?[`\"'\s]*+(?:\w+\.)*",
    re.IGNORECASE,
)
_MAX_LINE_OPENING = 40
_ALONE_WITH_PARENTHESES = re.compile(r"\(([^()\n]{0,500}+)\)[`\"'*;\]) \t]*+(?=\r?\n|\Z)")
_PARAMETER_NAMES = re.compile(r"[A-Za-z_,?:|\s]*[A-Za-z_][A-Za-z_,?:|\s]*+")
_YAML = re.compile(r"[ \t]*+:?[ \t]*+\r?\n(?:[ \t]++(?:- )?|- )?(?=\w*_|(?<=[ \t]))[^\W\d]\w*+[ \t]*+:")
_LINE_END = re.compile(r"[`\"'*\]) \t]*+(?:\r?\n|\Z)")
_JSON_KEY = re.compile(rf"[\"'](?:name|{_KEYS})[\"']\s*:\s*[\"'](?:\w+\.)*\Z")
_LABEL = re.compile(rf"\b(?:name|{_KEYS})[\"'`*]*\s*[:=][\s\"'`*]*(?:\w+\.)*\Z", re.IGNORECASE)
_LABELLED_ARGUMENTS = re.compile(rf"[\"'`*]*+\s*+[,;]?\s*+[\"'`*]*+(?:{_ARGUMENTS})[\"'`*]*+\s*+[:=]", re.IGNORECASE)
_CALL_LABEL = re.compile(r"\b(?:action|(?:tool|function)[ _]call|call)[*]*\s*:\s*[`*]*(?:\w+\.)*\Z", re.IGNORECASE)
_TAG_OF_NAME = re.compile(rf"<(?:name|{_KEYS})>\s*\Z", re.IGNORECASE)
_SELF_CLOSED = re.compile(r"[\s/][^<>]*+(?<=/)>")
_OPEN_TAG = re.compile(r"[\s>]")
_TAG_IN_TAG = re.compile(r">\s*+<\w")


def _shape_of_call(prose: str, tool: str) -> str | None:
    """Return the shape of the first call of a declared tool; None if the prose only names it."""
    closed = f"</{tool}>" in prose
    at = prose.find(tool)
    while at >= 0:
        end = at + len(tool)
        if not _is_word(prose[at - 1 : at]) and not _is_word(prose[end : end + 1]):
            shape = next((name for name, after in _AFTER_NAME.items() if after.match(prose, end)), None)
            if shape := shape or _shape_by_place(prose, at, end, closed=closed):
                return shape
        at = prose.find(tool, end)
    # A single word such as `search` may be an answer. A name such as `query_order` is not.
    is_word = tool.isalnum() or not tool.replace("_", "").replace(".", "").isalnum()
    return None if is_word or prose.strip(" \t\r\n`*\"'.;[]()") != tool else "nothing but the name"


def _shape_by_place(prose: str, at: int, end: int, *, closed: bool) -> str | None:
    """Return the shape of a call that also depends on the text before the name; None if there is none."""
    before = prose[max(0, at - _MAX_LINE_OPENING) : at]
    if before.endswith("<"):
        tag = _SELF_CLOSED.match(prose, end) or _TAG_IN_TAG.match(prose, end)
        return "a tag with the name" if tag or (closed and _OPEN_TAG.match(prose, end)) else None
    if _TAG_OF_NAME.search(before) and prose.startswith("</", end):
        return "a tag around the name"
    if _JSON_KEY.search(before) and prose[end : end + 1] in ("'", '"'):
        return "JSON with other keys and the name"
    if _LABEL.search(before) and _LABELLED_ARGUMENTS.match(prose, end):
        return "labels before the name and the arguments"
    if _CALL_LABEL.search(before) and _LINE_END.match(prose, end):
        return "a label before the name"
    line_start = before.rfind("\n") + 1
    if (line_start or at <= _MAX_LINE_OPENING) and _LINE_OPENING.fullmatch(before, line_start):
        if _YAML.match(prose, end):
            return "YAML under the name"
        alone = _ALONE_WITH_PARENTHESES.match(prose, end)
        # Only names of parameters: it is a signature, for example in a list of the tools.
        if alone and not _PARAMETER_NAMES.fullmatch(alone[1]):
            return "a Python call"
    return None


def _is_word(character: str) -> bool:
    """Whether a character next to a name makes it a longer word. Only ASCII counts: Chinese text has no spaces."""
    return character.isascii() and (character.isalnum() or character == "_")
