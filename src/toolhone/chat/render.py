"""From an example to the text and token ids that a model is trained on and asked with.

The prompt is `template(messages before the turn, add_generation_prompt=True)` and the completion what
`template(messages up to the turn)` adds, up to and with the end-of-turn token. Both are tokenised apart and joined,
so the prompt's tokens in training are those at inference. A row whose completion cannot be read back as its gold turn,
or whose ids do not decode to the same text, is an error that names the row.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jinja2

from toolhone.config import ChatConfig
from toolhone.errors import UserError
from toolhone.formats.chat_format import ChatFormat, choose_format
from toolhone.formats.parse import parse_turn
from toolhone.records import Example, Gold, Message, Tool, ToolCall

_SHOWN = 20


class RenderError(UserError):
    """An example that a template cannot write in a way that can be read back."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """An example as a model sees it: `prompt_ids` then `completion_ids`, which end with the end-of-turn token and are
    the only labelled ones."""

    example: Example
    prompt_text: str
    completion_text: str
    prompt_ids: list[int]
    completion_ids: list[int]

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.completion_ids)


@dataclass(frozen=True, slots=True)
class ChatRenderer:
    """A tokenizer, a template and the format that reads it back. `source` says whose template it is: "model" or
    "toolhone"; `note` why the model's own was passed over, if it was."""

    tokenizer: Any
    format: ChatFormat
    template: str
    source: str
    note: str
    template_kwargs: dict[str, Any]

    def template_hash(self) -> str:
        """Identifies template and variables (16 hex digits)."""
        text = self.template + json.dumps(self.template_kwargs, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def text(self, messages: Sequence[Message], tools: Sequence[Tool], *, ask: bool) -> str:
        """The messages as one text; `ask` adds the opening of an assistant turn."""
        return str(
            self.tokenizer.apply_chat_template(
                [_template_message(message) for message in messages],
                # `tools=[]` makes some templates print an empty list of tools.
                tools=[tool.to_json() for tool in tools] or None,
                chat_template=self.template,
                tokenize=False,
                add_generation_prompt=ask,
                **self.template_kwargs,
            )
        )

    def prompt(self, messages: Sequence[Message], tools: Sequence[Tool]) -> tuple[str, list[int]]:
        """Text and token ids that ask the model for the next turn."""
        text = self.text(messages, tools, ask=True)
        return text, self.encode(text)

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The exact text of the ids, special tokens and spaces included."""
        text: str = self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    def stop_ids(self) -> frozenset[int]:
        """The tokens at which generation stops."""
        stops = [self.format.end_of_turn, *self.format.other_stops]
        ids: list[int | None] = self.tokenizer.convert_tokens_to_ids(stops)
        # For a token that it does not know a tokenizer gives None, or the id of its unknown token.
        known = [(id_, token) for id_, token in zip(ids, stops, strict=True) if id_ is not None]
        return frozenset(id_ for id_, token in known if self.tokenizer.convert_ids_to_tokens(id_) == token)

    def render(self, example: Example) -> Rendered:
        """Render an example and prove that it can be read back.

        Raises:
            RenderError: naming the row, where the template or the tokenizer does not keep what the row says.
        """
        try:
            prompt_text = self.text(example.prompt, example.tools, ask=True)
            whole_text = self.text((*example.prompt, example.turn), example.tools, ask=False)
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise RenderError(f"{example.where}: the chat template refuses the row: {error}") from None
        completion_text = self._completion(example, prompt_text, whole_text)
        self._check_round_trip(example, completion_text)
        self._check_special_tokens(example)
        prompt_ids, completion_ids = self.encode(prompt_text), self.encode(completion_text)
        if self.decode(prompt_ids + completion_ids) != prompt_text + completion_text:
            raise RenderError(
                f"{example.where}: the tokenizer does not give the text back (it may normalise Unicode: "
                "write the row in NFC, and leave out control characters)"
            )
        return Rendered(example, prompt_text, completion_text, prompt_ids, completion_ids)

    def _completion(self, example: Example, prompt_text: str, whole_text: str) -> str:
        if not whole_text.startswith(prompt_text):
            raise RenderError(
                f"{example.where}: the chat template writes the messages before turn {len(example.prompt)} otherwise "
                "when the turn follows, so training would not see the prompt of inference; set chat.template: toolhone"
            )
        turn_text, end, rest = whole_text[len(prompt_text) :].rpartition(self.format.end_of_turn)
        if not end or rest.strip():
            raise RenderError(
                f"{example.where}: the chat template does not end the turn with {self.format.end_of_turn}; "
                "set chat.template: toolhone"
            )
        return turn_text + end

    def _check_round_trip(self, example: Example, completion_text: str) -> None:
        parsed = parse_turn(completion_text.removesuffix(self.format.end_of_turn), self.format.name)
        gold = example.turn
        is_same = _as_read(parsed.calls) == _as_read(gold.tool_calls) and parsed.content == gold.content.strip()
        # Text that looks like a call can be the same, and would be learned only to be judged malformed.
        if not is_same or parsed.failure is not None:
            status = parsed.status if parsed.failure is None else f"{parsed.status} ({parsed.failure})"
            raise RenderError(
                f"{example.where}: turn {len(example.prompt)} does not survive the {self.format.name} format: wrote "
                f"{completion_text!r}, read back status {status}, calls {_as_read(parsed.calls)}, "
                f"text {parsed.content!r}; special tokens or call tags inside a text cannot be written"
            )

    def _check_special_tokens(self, example: Example) -> None:
        # Read back as text they look unharmed, but a model would learn to end or begin a turn in the middle of its own.
        said = example.turn.content + _as_read(example.turn.tool_calls)
        for token in _special_tokens(self.tokenizer):
            if token in said:
                raise RenderError(
                    f"{example.where}: turn {len(example.prompt)} holds {token}; special tokens or call tags "
                    "inside a text cannot be written: take it out of the row"
                )


@functools.lru_cache(maxsize=4)
def _special_tokens(tokenizer: Any) -> tuple[str, ...]:
    return tuple(token.content for token in tokenizer.added_tokens_decoder.values() if token.special)


def _as_read(calls: Sequence[ToolCall]) -> str:
    # As JSON text, since in Python True == 1 and 1 == 1.0.
    return json.dumps([[call.name, call.arguments] for call in calls], ensure_ascii=False, sort_keys=True)


def _template_message(message: Message) -> dict[str, Any]:
    """The message as templates expect it: arguments decoded, no key that is empty."""
    row: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        row["tool_calls"] = [
            {"type": "function", "id": call.id or "", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        row["tool_call_id"] = message.tool_call_id
    return row


def make_renderer(tokenizer: Any, config: ChatConfig, model: str, *, untuned: bool = False) -> ChatRenderer:
    """Choose format and template for a model's tokenizer.

    The model's own template is taken where it names the tools and every probe turn (parallel calls, text beside a
    call, a call without arguments) comes back from it unchanged. It writes tools in its own way, so that signatures and
    names are toolhone's template's alone. An `untuned` model is asked as the tuned one is, but never with tools by
    their names alone, which it could not know how to call.

    Raises:
        UserError: where no format fits, or `chat.template: model` asks for a template that is not there or not fit.
    """
    tools = "schema" if untuned and config.tools == "names" else config.tools
    chat_format = choose_format(config.format, tokenizer.get_vocab(), model)
    template_kwargs = {**chat_format.template_kwargs, **config.template_kwargs}
    own = ChatRenderer(tokenizer, chat_format, chat_format.own_template(tools), "toolhone", "", template_kwargs)
    if config.template == "toolhone" or tools != "schema":
        return own
    theirs = tokenizer.chat_template
    if not isinstance(theirs, str):
        fault = "the tokenizer has no chat template of its own"
    else:
        renderer = ChatRenderer(tokenizer, chat_format, theirs, "model", "", template_kwargs)
        fault = _fault_of(renderer)
        if not fault:
            return renderer
    if config.template == "model":
        raise UserError(f"chat.template: the template of {model} cannot be used: {fault}; set it to auto or toolhone")
    return ChatRenderer(tokenizer, chat_format, own.template, "toolhone", fault, template_kwargs)


def render_all(
    renderer: ChatRenderer, found: Sequence[Example], config: ChatConfig
) -> tuple[list[Rendered], list[str]]:
    """Render every example. Returns the rendered ones and the ids of over-long ones that the config says to drop.

    Raises:
        UserError: naming every row that does not round-trip, and over-long ones with their length and the limit.
    """
    rendered: list[Rendered] = []
    dropped: list[str] = []
    faults: list[str] = []
    for example in found:
        try:
            row = renderer.render(example)
        except RenderError as error:
            faults.append(str(error))
            continue
        if len(row) <= config.max_tokens:
            rendered.append(row)
        elif config.over_long == "drop":
            dropped.append(example.id)
        else:
            faults.append(
                f"{example.where}: turn {len(example.prompt)} is {len(row)} tokens long and chat.max_tokens is "
                f"{config.max_tokens}; raise it, or set chat.over_long: drop"
            )
    if faults:
        more = [f"... and {len(faults) - _SHOWN} more"] if len(faults) > _SHOWN else []
        raise UserError("\n".join(faults[:_SHOWN] + more))
    if found and not rendered:
        raise UserError(f"chat.max_tokens: every example is longer than {config.max_tokens} tokens; raise it")
    return rendered, dropped


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
)


def _fault_of(renderer: ChatRenderer) -> str:
    """What keeps the renderer's template from being used for tool calls; "" where nothing does."""
    question = (Message("system", "Be brief."), Message("user", "Look up 7."))
    try:
        if _PROBE_TOOL.name not in renderer.text(question, (_PROBE_TOOL,), ask=True):
            return "it leaves out the tools"
    except (jinja2.TemplateError, TypeError) as error:
        return f"it refuses tools ({error})"
    for what, turn in _PROBE_TURNS:
        results = tuple(Message("tool", "done", tool_call_id=call.id) for call in turn.tool_calls)
        for prompt in (question, (*question, turn, *results) if results else question):
            try:
                renderer.render(_probe_example(prompt, turn))
            except RenderError:
                return f"{what} cannot be read back from it"
    return ""


def _probe_example(prompt: tuple[Message, ...], turn: Message) -> Example:
    return Example("probe/1", "probe", prompt, turn, Gold.of_message(turn), (_PROBE_TOOL,), "probe", None, {})
