"""Choose the chat format and the template for a model's tokenizer, and test that the template can be read back."""

from __future__ import annotations

import difflib
from collections.abc import Container
from typing import Any

import jinja2

from toolhone.chat.render import ChatRenderer, RenderError
from toolhone.config import ChatConfig
from toolhone.errors import UserError
from toolhone.formats import FORMATS
from toolhone.formats.chat_format import ChatFormat
from toolhone.records import Example, Gold, Message, Tool, ToolCall


def choose_format(name: str, vocabulary: Container[str], model: str) -> ChatFormat:
    """Return the format with that name. For "auto", return the first format whose special tokens the vocabulary has.

    Raises:
        UserError: if there is no such format, or the tokenizer lacks the tokens that the format needs.
    """
    if name == "auto":
        detected = [chat_format for chat_format in FORMATS.values() if chat_format.is_detected]
        for chat_format in detected:
            if all(token in vocabulary for token in chat_format.special_tokens):
                return chat_format
        needs = "; ".join(f"{f.name} needs {', '.join(f.special_tokens)}" for f in detected)
        raise UserError(
            f"chat.format: cannot detect the format of {model} from its tokenizer ({needs}); choose a model whose "
            "tokenizer has these tokens"
        )
    if name not in FORMATS:
        near = difflib.get_close_matches(name, FORMATS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(f"chat.format: unknown format {name!r}; {hint}known: auto, {', '.join(FORMATS)}")
    chat_format = FORMATS[name]
    lacking = [token for token in chat_format.special_tokens if token not in vocabulary]
    if lacking:
        raise UserError(f"chat.format: {name} needs the token {lacking[0]}, which the tokenizer of {model} lacks")
    return chat_format


def make_renderer(tokenizer: Any, config: ChatConfig, model: str, *, is_base: bool = False) -> ChatRenderer:
    """Choose format and template for a model's tokenizer.

    The model's own template is used if it writes the tools and every probe turn (parallel calls, text beside a call, a
    call without arguments; with `chat.thinking: train` also a thought) can be read back from it. It writes tools in its
    own way, so `chat.tools: signatures` and `names` need toolhone's template.

    Args:
        is_base: whether the base model gets the prompts. They are the same, except for schemas instead of names: from
            names alone it could not know how to call.

    Raises:
        UserError: if no format fits, or `chat.template: model` selects a template that is missing or unusable.
    """
    tools = "schema" if is_base and config.tools == "names" else config.tools
    chat_format = choose_format(config.format, tokenizer.get_vocab(), model)
    template_kwargs = {**chat_format.template_kwargs, **config.template_kwargs}

    def renderer(template: str, source: str, note: str = "") -> ChatRenderer:
        return ChatRenderer(tokenizer, chat_format, template, source, note, template_kwargs, config.thinking)

    ours = chat_format.template_with(tools)
    if config.template == "toolhone" or tools != "schema":
        return renderer(ours, "toolhone")
    theirs = tokenizer.chat_template
    if not isinstance(theirs, str):
        fault = "the tokenizer has no chat template of its own"
    else:
        own = renderer(theirs, "model")
        fault = _template_fault(own)
        if not fault:
            return own
    if config.template == "model":
        raise UserError(f"chat.template: the template of {model} cannot be used: {fault}; set it to auto or toolhone")
    return renderer(ours, "toolhone", fault)


_PROBE_TOOL = Tool(
    "probe_tool",
    "a tool that shows what a template can write",
    {"type": "object", "properties": {"code": {"type": "string"}, "count": {"type": "integer"}}},
)
_PROBE_TURNS = (
    ("one call", Message("assistant", "", (ToolCall("probe_tool", {"code": "查-7", "count": 2}, "call_1"),))),
    ("a call without arguments", Message("assistant", "", (ToolCall("probe_tool", {}, "call_1"),))),
    (
        "parallel calls",
        Message("assistant", "", tuple(ToolCall("probe_tool", {"count": n}, f"call_{n}") for n in (1, 2))),
    ),
    ("text beside a call", Message("assistant", "Let me look.", (ToolCall("probe_tool", {"code": "A"}, "call_1"),))),
    ("a plain answer", Message("assistant", "Good morning.")),
    (
        "thinking before a call",
        Message("assistant", "", (ToolCall("probe_tool", {"code": "A"}, "call_1"),), thinking="A tool can do it."),
    ),
    ("thinking before an answer", Message("assistant", "Good morning.", thinking="They greet me.")),
)


def _template_fault(renderer: ChatRenderer) -> str:
    """Return why the renderer's template cannot be used for tool calls; "" if it can."""
    question = (Message("system", "Be brief."), Message("user", "Look up 7."))
    try:
        if _PROBE_TOOL.name not in renderer.text(question, (_PROBE_TOOL,), ask=True):
            return "it leaves out the tools"
    except (jinja2.TemplateError, TypeError) as error:
        return f"it refuses tools ({error})"
    for what, turn in _PROBE_TURNS:
        if turn.thinking and renderer.thinking != "train":
            continue
        results = tuple(Message("tool", "done", tool_call_id=call.id) for call in turn.tool_calls)
        for prompt in (question, (*question, turn, *results) if results else question):
            example = Example(
                "probe/1", "probe", prompt, turn, Gold.of_message(turn), (_PROBE_TOOL,), "probe", None, {}
            )
            try:
                renderer.render(example)
            except RenderError:
                return f"{what} cannot be read back from it"
    return ""
