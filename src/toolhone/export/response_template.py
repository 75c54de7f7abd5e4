"""Writes a model's `response_template`: how transformers and vLLM read its turns, as data in tokenizer_config.json.

`tokenizer.parse_response(text, prefix=prompt)` of transformers reads it, and so does vLLM with `--tool-call-parser hf`.
A template has a field for each part of a message: thinking, content and tool calls. A field says which text opens and
closes it, and how its text becomes a value, for example as JSON. Patterns are those of the package `regex`.

A chat format gets a template only if its calls are read as `parse_turn` reads them. `NO_TEMPLATE` says why the others
get none. `CANNOT_CARRY` has the few turns that a template leaves as text or refuses with an error.

vLLM takes content only as it is written. So a template cannot join the texts before and after a call. toolhone's
formats write text only before calls.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from toolhone.chat.render import ChatRenderer
from toolhone.formats.pieces import THINK, THINK_END
from toolhone.records import Example, Message

Field = dict[str, Any]
"""A field of a response template."""

_END_OF_TURN = "<end of the turn>"
"""Stands in a field for the tokens that end a turn."""

_TEXT = r'"(?:[^"\\]++|\\.)*+"'
"""A pattern of a text in JSON."""


def _outside_texts(closing: str) -> str:
    """Return a pattern that closes a field at a text that JSON can have only inside its texts. White space after it
    would otherwise become content."""
    return rf'\G(?:[^"{closing[0]}]++|{_TEXT})*+\K{re.escape(closing)}\s*'


def _after_value(brackets: str, closing: str = "") -> str:
    """Return a pattern that closes a field at the end of its JSON object or list, and takes the closing after it."""
    first, last = map(re.escape, brackets)
    value = rf'({first}(?:[^"{first}{last}]++|{_TEXT}|(?1))*+{last})'
    # If the text arrives in pieces, the value may have been read before.
    return rf"\G(?:{value}\K|(?<={last})){closing}\s*"


def _call(name: str, arguments: str) -> Field:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def _objects(arguments: str, **anchors: Any) -> Field:
    """Return the field of calls that are JSON objects with their name inside."""
    call = _call("{content.name}", f"{{content.{arguments}}}")
    return {**anchors, "content": "json", "repeats": True, "transform": call}


def _lists(**anchors: Any) -> Field:
    """Return the field of calls in one JSON list."""
    return {**anchors, "content": "json", "transform": _call("{name}", "{arguments}"), "transform_each": True}


def _named(**anchors: Any) -> Field:
    """Return the field of calls whose opening has the name. The rest of a call is the JSON of its arguments."""
    return {"content": "json", **anchors, "repeats": True, "transform": _call("{name}", "{content}")}


def _lines_of_objects(arguments: str, between: str = "") -> Field:
    """Return the field of JSON objects without tags, each at the start of a line or after the sign `between`."""
    start = rf"(?:^[ \t]*|(?<=\}}{between}\s*))" if between else r"^[ \t]*"
    return _objects(
        arguments,
        open_pattern=rf'(?m){start}(?=\{{\s*"name"\s*:\s*{_TEXT}\s*,\s*"{arguments}"\s*:)',
        close_pattern=_after_value("{}", rf"\s*{between}?" if between else ""),
    )


def _gemma_calls(opening: str, closing: str, quote: str) -> Field:
    name = r"(?P<name>[^\s{}()\[\]<>:,\"'](?:[^\n{}()<>\"]*[^\s{}()<>\"])?)"
    return _named(
        open_pattern=rf"{re.escape(opening)}\s*call:\s*{name}\s*(?=\{{)",
        close_pattern=rf"{re.escape(closing)}\s*",
        content_args={"string_delims": [[quote, quote]], "unquoted_keys": True},
    )


def _python_calls(block: str, between: str, closing: str = "") -> Field:
    """Return the field of calls in Python with JSON as values. The arguments are patterns.

    Args:
        block: the start of the turn up to its first call.
        between: the text between two calls.
        closing: the text after a call.
    """
    word = r"[^\W\d]\w*"  # not possessive: a lookbehind reads from its end
    name = rf"(?P<name>{word})\((?=\s*(?:{word}\s*=(?!=)|\)))"
    later = rf"{name}(?<={block}{word}\(.*\){between}{word}\()"
    nested = rf'(?P<nested>[\[{{](?:[^\[\]{{}}"]++|{_TEXT}|(?&nested))*+[\]}}])'
    value = rf'(?P<value>{_TEXT}|{nested}|[^\s,"\[\]{{}}]++)'
    return _named(
        open_pattern=rf"{block}{name}|{later}",
        close_pattern=rf"{_outside_texts(')')}{closing}",
        content="xml-inline",
        content_args={"tag_pattern": rf"(?P<key>{word})\s*=\s*{value}", "value_parser": {"name": "json"}},
    )


# Python's own constants are not JSON. A list of calls that has one stays text.
_PYTHON_CONSTANT = rf'(?:[^"]|{_TEXT})*?\b(?:True|False|None)\b'

_CALLS: dict[str, Field] = {
    "hermes": _objects("arguments", open="<tool_call>", close_pattern=_outside_texts("</tool_call>")),
    "internlm": _objects(
        "parameters", open_pattern=r"<\|action_start\|>\s*<\|plugin\|>", close_pattern=r"<\|action_end\|>\s*"
    ),
    "gemma": _lines_of_objects("parameters"),
    "json": _lines_of_objects("arguments"),
    "llama3": _lines_of_objects("parameters", ";"),
    "xlam": _lists(
        open_pattern=r'(?m)^[ \t]*(?:```\w*\s*)?(?=\[\s*\{\s*"name"\s*:)',
        close_pattern=_after_value("[]", r"\s*(?:```|(?=[^\s`])|\Z)"),
    ),
    "mistral": _lists(open="[TOOL_CALLS]", close=_END_OF_TURN),
    "granite3": _lists(open="<|tool_call|>", close=_END_OF_TURN),
    "phi4": _lists(open="<|tool_call|>", close_pattern=r"<\|/tool_call\|>\s*"),
    "hunyuan": _lists(open="<tool_calls>", close_pattern=r"</tool_calls>\s*"),
    "mistral_args": _named(
        open_pattern=r"\[TOOL_CALLS\]\s*(?P<name>[^\s\[\]{}]+)(?:\[CALL_ID\]\w+)?(?:\[ARGS\])?(?=\s*\{)",
        close_pattern=_after_value("{}"),
    ),
    "deepseek": _named(
        open_pattern=r"(?:<｜tool▁calls▁begin｜>\s*)?<｜tool▁call▁begin｜>function<｜tool▁sep｜>(?P<name>[^\s<>]+)\s*```json",
        close_pattern=r"```\s*<｜tool▁call▁end｜>\s*",
    ),
    "deepseek_v31": _named(
        open_pattern=r"(?:<｜tool▁calls▁begin｜>\s*)?<｜tool▁call▁begin｜>(?P<name>[^\s<>]+)<｜tool▁sep｜>",
        close_pattern=r"<｜tool▁call▁end｜>\s*",
    ),
    "kimi": _named(
        open_pattern=r"(?:<\|tool_calls_section_begin\|>\s*)?<\|tool_call_begin\|>(?:functions\.)?(?P<name>[^\s:]+):\d+"
        r"<\|tool_call_argument_begin\|>",
        close_pattern=r"<\|tool_call_end\|>\s*",
    ),
    "harmony": _named(
        open_pattern=r"(?:<\|start\|>assistant)?<\|channel\|>commentary to=functions\.(?P<name>[^\s<]+)"
        r"\s*(?:<\|constrain\|>)?\s*json\s*<\|message\|>",
        close=["<|call|>", "<|end|>", "<|return|>"],
    ),
    "llama3_ipython": _named(
        open_pattern=r"<function=(?P<name>[^\s\[\]{}<>|]+)>", close_pattern=_outside_texts("</function>")
    ),
    "glm4": _named(
        open_pattern=r"(?m)^[ \t]*(?P<name>[^\W\d][\w.-]*)[ \t]*\n\s*(?=\{)", close_pattern=_after_value("{}")
    ),
    "functiongemma": _gemma_calls("<start_function_call>", "<end_function_call>", "<escape>"),
    "gemma4": _gemma_calls("<|tool_call>", "<tool_call|>", '<|"|>'),
    "olmo3": _python_calls(r"<function_calls>\s*", r"\s*\n\s*"),
    "pythonic": _python_calls(rf"(?:\A|(?<=</think>))\s*\[(?!{_PYTHON_CONSTANT})\s*", r"\s*,\s*", r"[,\]]\s*"),
}
"""The field `tool_calls` of each chat format that has a response template."""

_BLOCK_ENDS = {
    "deepseek": ("<｜tool▁calls▁end｜>",),
    "deepseek_v31": ("<｜tool▁calls▁end｜>",),
    "kimi": ("<|tool_calls_section_end|>",),
    "olmo3": ("</function_calls>",),
    "harmony": ("<|end|>",),
}
"""The text that may follow the last call or message of a turn. It ends the content, so that it is no content."""

_CONTENT: dict[str, Field] = {
    # A turn of the assistant has several messages, and each has a header.
    "harmony": {"open_pattern": r"(?:<\|start\|>assistant)?<\|channel\|>(?:final|commentary)<\|message\|>|\A(?!<\|)"},
}
"""What opens the content, in the formats whose content has an opening."""

NO_TEMPLATE = {
    "qwen_xml": "it writes values as plain text, and transformers gives them types by other rules than vLLM",
    "minicpm5": "it writes values as XML, and transformers replaces no references such as &lt;",
    "glm45": "it writes values as plain text, and transformers gives them types by other rules than vLLM",
    "lfm2": "it writes texts in single quotes with escapes, which transformers does not read",
    "tool_code": "no model is tuned on it",
}
"""Why a chat format has no response template."""

CANNOT_CARRY = {
    "pythonic": "calls with True, False or None: the list of calls stays text",
    "functiongemma": "arguments whose names have other characters than letters, digits and _",
    "gemma4": "arguments whose names have other characters than letters, digits and _",
}
"""What a response template does not read, by chat format. `parse_response` gives no call or raises ValueError."""

_THOUGHTS: dict[str, Field] = {
    "mistral": {"open": ["[THINK]", THINK], "close": ["[/THINK]", THINK_END]},
    "mistral_args": {"open": ["[THINK]", THINK], "close": ["[/THINK]", THINK_END]},
    "gemma4": {"open_pattern": r"<\|channel>(?:thought\n)?|<think>", "close": ["<channel|>", THINK_END]},
    "harmony": {"open": "<|channel|>analysis<|message|>", "close": "<|end|>"},
}
"""The field `thinking` of the formats that do not use `<think>` alone."""


def response_template(renderer: ChatRenderer) -> dict[str, Any] | None:
    """Return the response template of a model, for its tokenizer_config.json; None if its format is in `NO_TEMPLATE`.

    The tokens that end a turn and the opening of a turn are those of the model's chat template.
    """
    name = renderer.format.name
    calls = _CALLS.get(name)
    if calls is None:
        return None
    known = renderer.stop_ids()
    ends = [token for token in renderer.stops if renderer.tokenizer.convert_tokens_to_ids(token) in known]
    calls = {key: ends if value == _END_OF_TURN else value for key, value in calls.items()}
    content: Field = {"content": "text", "close": [*ends, *_BLOCK_ENDS.get(name, ())], **_CONTENT.get(name, {})}
    return {
        "version": 1,
        "defaults": {"role": "assistant"},
        **_start_of_turn(renderer),
        "fields": {
            "thinking": {"content": "text", **_THOUGHTS.get(name, {"open": THINK, "close": THINK_END})},
            "content": content,
            "tool_calls": calls,
        },
    }


_QUESTION = Message("user", "a")
_THOUGHT = re.compile(r"(?:<think>|\[THINK\]|<\|channel>|<\|channel\|>)[\s\S]*\Z")


def _start_of_turn(renderer: ChatRenderer) -> Field:
    """Return the key of a template that says where an assistant's turn starts in a prompt. A thought that the prompt
    opens belongs to the turn."""
    without = renderer.text((_QUESTION,), (), ask=False)
    asked = renderer.text((_QUESTION,), (), ask=True)
    opening = asked.removeprefix(without) if asked.startswith(without) else ""
    opening = _THOUGHT.sub("", opening)
    # Some templates open no turn: the answer follows the question.
    return {"start_anchor": opening} if opening.strip() else {"start_anchor_pattern": r"\Z"}


def unread_turns(template: dict[str, Any], renderer: ChatRenderer, examples: Sequence[Example]) -> list[str]:
    """Return the ids of the examples whose gold turn transformers does not read as it is with this template."""
    from transformers.utils.chat_parsing import parse_response

    unread = []
    for example in examples:
        row = renderer.render(example)
        try:
            message = parse_response(row.completion_text, template, prefix=row.prompt_text)
        except ValueError:
            unread.append(example.id)
            continue
        calls = [call["function"] for call in message.get("tool_calls", ())]
        gold = [{"name": call.name, "arguments": call.arguments} for call in example.turn.tool_calls]
        if _exact(calls) != _exact(gold) or message.get("content", "") != example.turn.content.strip():
            unread.append(example.id)
    return unread


def _exact(value: Any) -> str:
    # As JSON text, because in Python True == 1.
    return json.dumps(value, sort_keys=True)
