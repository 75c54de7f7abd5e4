"""Chooses the chat format and the template for a model, by what its own template writes and what can be read back.

A model's own template is rendered with a few probe turns: a call, parallel calls, text beside a call, and so on, as far
as the data has such turns. The chat format is the one that reads its calls. A template that loses a probe is not used
as it is. Then toolhone's own template for the format is used, or toolhone writes the lost part (`template.py`).
"""

from __future__ import annotations

import difflib
import itertools
import json
import keyword
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, get_args

from toolhone.chat.parse import parse_turn
from toolhone.chat.render import ChatRenderer, RenderError
from toolhone.chat.template import Part, TemplateTraits, plain_turns, rewritten, with_variables
from toolhone.chat.traits import ANSWER, ONE_CALL, PROBE_TOOL, QUESTION, REFUSALS, SYSTEM, with_traits
from toolhone.config import BaseFormat, ChatConfig
from toolhone.errors import UserError
from toolhone.formats import FORMATS
from toolhone.formats.chat_format import ChatFormat, RawCall
from toolhone.records import Example, Gold, Message, ToolCall

Need = Literal[
    "a system message",
    "a call without arguments",
    "parallel calls",
    "text beside a call",
    "names that are no identifiers",
    "tool results",
    "thinking",
]
"""What some conversations have and some chat templates cannot write."""

EVERY_NEED: frozenset[Need] = frozenset(get_args(Need))

_PROBE_TURNS: tuple[tuple[str, Need | None, Message], ...] = (
    ("one call", None, ONE_CALL),
    ("a plain answer", None, ANSWER),
    (
        "a call without arguments",
        "a call without arguments",
        Message("assistant", "", (ToolCall("probe_tool", {}, "call_1"),)),
    ),
    (
        "parallel calls",
        "parallel calls",
        Message("assistant", "", tuple(ToolCall("probe_tool", {"count": n}, f"call_{n}") for n in (1, 2))),
    ),
    (
        "text beside a call",
        "text beside a call",
        Message("assistant", "Let me look.", (ToolCall("probe_tool", {"code": "A"}, "call_1"),)),
    ),
    (
        "names that are no identifiers",
        "names that are no identifiers",
        Message("assistant", "", (ToolCall("probe_tool", {"order-id": "A"}, "call_1"),)),
    ),
    (
        "thinking before a call",
        "thinking",
        Message("assistant", "", (ToolCall("probe_tool", {"code": "A"}, "call_1"),), thinking="A tool can do it."),
    ),
    ("thinking before an answer", "thinking", Message("assistant", "Good morning.", thinking="They greet me.")),
)

_IDENTIFIER = re.compile(r"[A-Za-z]\w*", re.ASCII)

# The ways in which templates take messages, the usual one first.
_VARIANTS = tuple(
    TemplateTraits("", "", null_content=null, text_arguments=text, short_ids=short)
    for null, text, short in sorted(itertools.product((False, True), repeat=3), key=sum)
)

_FIXED_VARIABLES = {"date_string": "26 Jul 2024"}
"""Variables without which a template would write something that changes from day to day."""


def needs_of(examples: Iterable[Example]) -> frozenset[Need]:
    """Return what a template must be able to write for these examples, in their prompts and their turns."""
    needs: set[Need] = set()
    for example in examples:
        for message in (*example.prompt, example.turn):
            if message.role == "system":
                needs.add("a system message")
            elif message.role == "tool":
                needs.add("tool results")
            if message.thinking:
                needs.add("thinking")
            if message.tool_calls:
                needs |= {"text beside a call"} if message.content.strip() else set()
                needs |= {"parallel calls"} if len(message.tool_calls) > 1 else set()
                needs |= {"a call without arguments"} if not all(c.arguments for c in message.tool_calls) else set()
                names = [name for call in message.tool_calls for name in (call.name, *call.arguments)]
                if not all(_IDENTIFIER.fullmatch(name) and not keyword.iskeyword(name) for name in names):
                    needs.add("names that are no identifiers")
        if needs == EVERY_NEED:
            break
    return frozenset(needs)


def make_renderer(
    tokenizer: Any, config: ChatConfig, model: str, *, needs: Collection[Need] = EVERY_NEED
) -> ChatRenderer:
    """Choose format and template for a model's tokenizer. `needs` is what the data has (`needs_of`).

    The first of these whose probes can be read back is used:

    1. the model's own template; it writes tools as JSON Schema, so not with `chat.tools: signatures` or `names`;
    2. toolhone's template for the format, if the model uses the format's turn markers;
    3. the model's own template, in which toolhone writes the tools, the calls, or also the results.

    Raises:
        UserError: if nothing fits, or `chat.template: model` selects a template that is missing or unusable.
    """
    return _Choice(tokenizer, config, model, frozenset(needs)).renderer()


def make_base_renderer(
    tokenizer: Any,
    config: ChatConfig,
    model: str,
    base_format: BaseFormat,
    *,
    needs: Collection[Need] = EVERY_NEED,
) -> ChatRenderer:
    """Choose format and template for the prompts of a base model.

    With "native" they are those of the model's own template, if it can be used. Otherwise they are the tuned model's,
    except for schemas instead of names: from names alone a base model could not know how to call.

    Raises:
        UserError: if no format fits.
    """
    if base_format == "native":
        native = config.model_copy(update={"format": "auto", "template": "auto", "tools": "schema"})
        found = _Choice(tokenizer, native, model, frozenset(needs)).own()
        if isinstance(found, ChatRenderer):
            return found
    tools = "schema" if config.tools == "names" else config.tools
    return make_renderer(tokenizer, config.model_copy(update={"tools": tools}), model, needs=needs)


def own_template_losses(tokenizer: Any, config: ChatConfig) -> dict[str, str]:
    """Return for each kind of turn why the model's own template cannot write it so that it can be read back; "" if it
    can."""
    own = config.model_copy(update={"template": "auto", "tools": "schema"})
    found = _Choice(tokenizer, own, "", frozenset()).own()
    if not isinstance(found, ChatRenderer):
        return {"one call": found.fault}
    losses = {}
    for need in (None, *get_args(Need)):
        if need == "thinking" and config.thinking != "train":
            continue
        choice = _Choice(tokenizer, own, "", frozenset([need] if need else []))
        losses[need or "one call"] = choice.lost_probe(found)
    return losses


class _Fit(NamedTuple):
    """The result of trying a template: a renderer, or why it cannot be used and the formats that read its calls."""

    renderer: ChatRenderer | None
    fault: str
    formats: tuple[ChatFormat, ...]


@dataclass(frozen=True)
class _Choice:
    """The choice of a format and a template for one tokenizer."""

    tokenizer: Any
    config: ChatConfig
    model: str
    needs: frozenset[Need]

    @property
    def _own_template(self) -> str | None:
        template = self.tokenizer.chat_template
        return template if isinstance(template, str) else None

    @property
    def _question(self) -> tuple[Message, ...]:
        return (SYSTEM, QUESTION) if "a system message" in self.needs else (QUESTION,)

    def _formats(self) -> tuple[ChatFormat, ...]:
        """Return the formats that the config allows."""
        name = self.config.format
        if name == "auto":
            return tuple(chat_format for chat_format in FORMATS.values() if chat_format.is_detected)
        if name not in FORMATS:
            near = difflib.get_close_matches(name, FORMATS, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise UserError(f"chat.format: unknown format {name!r}; {hint}known: auto, {', '.join(FORMATS)}")
        return (FORMATS[name],)

    def own(self) -> ChatRenderer | _Fit:
        """Return a renderer with the model's own template, or why it cannot be used."""
        if self._own_template is None:
            return _Fit(None, "the tokenizer has no chat template of its own", ())
        fit = self._fit(self._own_template, (), self._formats())
        return fit.renderer or fit

    def renderer(self) -> ChatRenderer:
        config, formats = self.config, self._formats()
        fit = _Fit(None, "", ())
        if config.template != "toolhone" and config.tools == "schema":
            found = self.own()
            if isinstance(found, ChatRenderer):
                return found
            fit = found
        if config.template == "model":
            fault = fit.fault or f"it writes tools as schemas, and chat.tools is {config.tools}"
            raise UserError(
                f"chat.template: the template of {self.model} cannot be used: {fault}; set it to auto or toolhone"
            )
        if config.format == "auto" and not fit.formats:
            fit = fit._replace(formats=self._named_by_tokens(formats))
        written = self._written_by_toolhone(fit.formats[:1] or formats)
        if written is not None:
            return replace(written, note=fit.fault)
        return self._completed(fit, formats)

    def _written_by_toolhone(self, formats: Sequence[ChatFormat]) -> ChatRenderer | None:
        """Return a renderer with toolhone's template for the first format whose turn markers the model uses."""
        vocabulary = self.tokenizer.get_vocab()
        shown = self._plain_turns_text()
        for chat_format in formats:
            if not chat_format.template or not all(token in vocabulary for token in chat_format.special_tokens):
                continue
            if shown is None or chat_format.end_of_turn in shown:
                variables = {**chat_format.template_kwargs, **self.config.template_kwargs}
                template = with_variables(chat_format.template_with(self.config.tools), variables)
                found = ChatRenderer(
                    self.tokenizer, chat_format, template, "toolhone", "", variables, self.config.thinking
                )
                if self.config.format != "auto" or not self.lost_probe(found):
                    return found
        return None

    def _named_by_tokens(self, formats: Sequence[ChatFormat]) -> tuple[ChatFormat, ...]:
        """Return the formats whose call tokens the model's template names, or whose pair of tokens its vocabulary has.
        The model knows such a syntax, even if its template writes no calls, or refuses the probes."""
        known, template = self.tokenizer.get_vocab().keys(), self._own_template or ""
        return tuple(
            chat_format
            for chat_format in formats
            if (tokens := chat_format.call_tokens)
            and (all(token in template for token in tokens) or (len(tokens) > 1 and set(tokens) <= known))
        )

    def _plain_turns_text(self) -> str | None:
        """Return turns without calls as the model's own template writes them; None if it cannot."""
        if self._own_template is None:
            return None
        try:
            return self._plain(self._own_template, ()).text((QUESTION, ANSWER), (), ask=False)
        except REFUSALS:
            return None

    def _completed(self, fit: _Fit, formats: Sequence[ChatFormat]) -> ChatRenderer:
        """Return a renderer in which toolhone writes what the model's own template cannot."""
        config = self.config
        turns = self._own_template or plain_turns(self.tokenizer.get_vocab())
        if turns is None:
            raise UserError(
                f"chat.format: {self.model} has no chat template, and its tokenizer has the turn markers of no known "
                "family (ChatML, Llama 3, Gemma); use the instruction-tuned model of the family, or set "
                "tokenizer.chat_template and save the tokenizer"
            )
        tried = formats if config.format != "auto" else (*fit.formats[:1], FORMATS["hermes"])
        writable = {chat_format.name: chat_format for chat_format in tried if chat_format.calls}
        last_fault = ""
        for chat_format, (parts, system) in itertools.product(writable.values(), _PARTS):
            if config.template == "toolhone" and "results" not in parts:
                continue
            if config.tools != "schema" and "tools" not in parts:
                continue
            template = rewritten(turns, chat_format, config.tools, parts, system=system)
            found = self._fit(template, parts, [chat_format] if "calls" in parts else formats)
            if found.renderer is not None:
                return replace(found.renderer, note=fit.fault)
            last_fault = found.fault
        has = next((need for need in self.needs if fit.fault.startswith(need)), "")
        remedy = (
            f"remove the rows with {has}, or use another model" if has else "use a model whose template takes tools"
        )
        raise UserError(
            f"chat.format: no chat format fits {self.model}: {fit.fault or last_fault}; with toolhone's tools and "
            f"calls in its turns: {last_fault or 'no format can be written'}; {remedy}"
        )

    def _plain(self, template: str, parts: tuple[Part, ...]) -> ChatRenderer:
        """Return a renderer to probe a template with. Its format and traits are not known yet."""
        variables: dict[str, Any] = {name: value for name, value in _FIXED_VARIABLES.items() if name in template}
        if "enable_thinking" in template:
            variables["enable_thinking"] = self.config.thinking == "train"
        variables |= self.config.template_kwargs
        return ChatRenderer(
            self.tokenizer,
            FORMATS["hermes"],
            with_variables(template, variables),
            "both" if parts else "model",
            "",
            variables,
            self.config.thinking,
            _VARIANTS[0],
            parts,
        )

    def _fit(self, template: str, parts: tuple[Part, ...], formats: Sequence[ChatFormat]) -> _Fit:
        """Find the format and the traits with which a template writes every probe so that it can be read back."""
        unfitted = self._plain(template, parts)
        try:
            if PROBE_TOOL.name not in unfitted.text(self._question, (PROBE_TOOL,), ask=True):
                return _Fit(None, "it leaves out the tools", ())
        except REFUSALS as error:
            return _Fit(None, f"it refuses tools ({error})", ())
        fault = ""
        readers: tuple[ChatFormat, ...] = ()
        for variant in _VARIANTS:
            if variant.text_arguments and "calls" in parts:
                continue
            plain = replace(unfitted, traits=variant)
            try:
                probing = with_traits(plain, self._question)
                read_by = tuple(_readers(probing, self._question, formats))
            except RenderError:
                fault = fault or "one call cannot be read back from it"
                continue
            except REFUSALS as error:
                fault = fault or f"it refuses calls ({error})"
                continue
            readers = readers or read_by
            for chat_format in read_by:
                renderer = replace(probing, format=chat_format)
                found = self.lost_probe(renderer)
                if not found:
                    return _Fit(renderer, "", read_by)
                fault = fault or found
            fault = fault or "its calls are in a syntax that no chat format reads"
        return _Fit(None, fault, readers)

    def lost_probe(self, renderer: ChatRenderer) -> str:
        """Return which probe cannot be read back; "" if all can."""
        question = self._question
        for what, need, turn in _PROBE_TURNS:
            if need is not None and need not in self.needs:
                continue
            if turn.thinking and renderer.thinking != "train":
                continue
            results = tuple(Message("tool", "done", tool_call_id=call.id) for call in turn.tool_calls)
            after_results = results and "tool results" in self.needs
            for prompt in (question, (*question, turn, *results)) if after_results else (question,):
                try:
                    renderer.render(_probe(prompt, turn))
                except RenderError:
                    return f"{what} cannot be read back from it"
        return ""


_PARTS: tuple[tuple[tuple[Part, ...], bool], ...] = (
    (("tools",), True),
    (("calls",), True),
    (("tools", "calls"), True),
    (("tools", "calls", "results"), True),
    (("tools", "calls", "results"), False),
)
"""What toolhone writes, the least first, and whether the system message stays a turn of its own."""


def _probe(prompt: Sequence[Message], turn: Message) -> Example:
    return Example("probe/1", "probe", tuple(prompt), turn, Gold.of_message(turn), (PROBE_TOOL,), "probe", None, {})


def _readers(
    renderer: ChatRenderer, question: Sequence[Message], formats: Sequence[ChatFormat]
) -> Iterator[ChatFormat]:
    """Yield the formats that read a call as the template writes it, those first that write it in the same way."""
    example = _probe(question, ONE_CALL)
    text = renderer.turn_text(example)
    call = ONE_CALL.tool_calls[0]
    raw = RawCall(call.name, json.dumps(call.arguments, ensure_ascii=False))
    found = []
    for chat_format in formats:
        read = parse_turn(text, chat_format.name, tools=example.tools_by_name)
        if read.failure is None and [(c.name, c.arguments) for c in read.calls] == [(call.name, call.arguments)]:
            same = "".join(chat_format.write("", [raw], "stop").split()) == "".join(text.split())
            found.append((not same, chat_format))
    yield from (chat_format for _, chat_format in sorted(found, key=lambda pair: pair[0]))
