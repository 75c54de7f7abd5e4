"""Renders an example as the text and the token ids for training and inference.

The prompt is `template(messages before the turn, add_generation_prompt=True)`. The completion is the text that
`template(messages up to the turn)` adds, up to and including the end-of-turn token. The turn is tokenised after the
prompt's tokens (`turn_tokens.py`), so the prompt has the same tokens in training and at inference. Rendering gives ids,
labels and loss weights together; no later step masks a label. It is an error that names the row if the completion
cannot be read back as the gold turn, or if the ids do not spell the same text. Control tokens in the texts of messages
and tools are plain text (`control_tokens.py`).

`chat.thinking` decides which thinking is written. A template that reads thinking from a key of the message gets it
there. For any other template it is written in `<think>` tags at the start of the message's content.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jinja2

from toolhone.chat.control_tokens import ControlTokens, control_tokens, has_marks, without_marks
from toolhone.chat.messages import template_messages
from toolhone.chat.parse import parse_turn
from toolhone.chat.template import Part, TemplateTraits
from toolhone.chat.token_bytes import token_bytes
from toolhone.chat.turn_tokens import changed_text, turn_tokens
from toolhone.config import ChatConfig, Thinking
from toolhone.errors import UserError
from toolhone.formats.chat_format import ChatFormat, RawCall
from toolhone.formats.pieces import THINK, THINK_END
from toolhone.records import Example, Message, Tool, ToolCall

IGNORED = -100
"""The label of a token that is not learned, as in PyTorch's cross-entropy."""

_SHOWN = 20
"""The number of faulty rows that one error lists."""

_THINKING_KEYS = ("reasoning_content", "reasoning", "thinking")
"""The keys of a message from which templates read its thinking."""


class RenderError(UserError):
    """An example that the template cannot write so that it can be read back."""


@dataclass(frozen=True, slots=True)
class LabelledTokens:
    """The tokens of an example for training. The first `prompt_length` ids are the prompt; only later ids are labelled.

    Attributes:
        ids: [tokens], prompt and completion joined.
        labels: [tokens], the id itself if it is learned, otherwise IGNORED.
        weights: [tokens], the weight of the label in the loss; 0 if it is IGNORED.
    """

    ids: list[int]
    labels: list[int]
    weights: list[float]
    prompt_length: int

    def __len__(self) -> int:
        return len(self.ids)


def mask_labels(prompt_ids: list[int], completion_ids: list[int], later_weight: float = 1.0) -> LabelledTokens:
    """Join prompt and completion, and label only the completion.

    Args:
        later_weight: loss weight of each completion token after the first.
    """
    unlearned = len(prompt_ids)
    return LabelledTokens(
        ids=prompt_ids + completion_ids,
        labels=[IGNORED] * unlearned + completion_ids,
        weights=[0.0] * unlearned + [1.0] + [later_weight] * (len(completion_ids) - 1),
        prompt_length=unlearned,
    )


@dataclass(frozen=True, slots=True)
class Rendered:
    """An example as a model sees it, as text and as labelled tokens. `turn_text` is the gold turn without the token
    `end`. `holds_control_tokens` is true if a message or a tool of the prompt contains control tokens, as plain text.
    """

    example: Example
    prompt_text: str
    turn_text: str
    end: str
    tokens: LabelledTokens
    holds_control_tokens: bool

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def completion_text(self) -> str:
        """The text that the model learns: the gold turn and its end."""
        return self.turn_text + self.end

    @property
    def prompt_ids(self) -> list[int]:
        """The token ids of the prompt, the same as at inference."""
        return self.tokens.ids[: self.tokens.prompt_length]

    @property
    def completion_ids(self) -> list[int]:
        """The token ids of the gold turn. The last one is the end-of-turn token."""
        return self.tokens.ids[self.tokens.prompt_length :]


@dataclass(frozen=True, slots=True)
class ChatRenderer:
    """A tokenizer, a chat template and the format that parses its output.

    Attributes:
        template: the Jinja template in use.
        source: where the template comes from: "model", "toolhone", or "both" if toolhone writes `parts` of it.
        note: why the model's own template is not used; "" if it is used, or if the config does not ask for it.
        template_kwargs: variables for every rendering. The template sets them itself too, for engines that do not.
        thinking: which thinking of assistant turns is written (`chat.thinking`).
        traits: how the template ends turns, and how it takes messages. None: as toolhone's template for the format.
        parts: the parts that toolhone writes around the model's own template.
    """

    tokenizer: Any
    format: ChatFormat
    template: str
    source: str
    note: str
    template_kwargs: Mapping[str, Any]
    thinking: Thinking = "strip"
    traits: TemplateTraits | None = None
    parts: tuple[Part, ...] = ()

    def template_hash(self) -> str:
        """Return 16 hex digits that identify the template, its variables and which thinking is written."""
        text = self.template + json.dumps(dict(self.template_kwargs), sort_keys=True)
        text += "" if self.thinking == "strip" else f"thinking: {self.thinking}"  # older hashes do not include it
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def text(self, messages: Sequence[Message], tools: tuple[Tool, ...], *, ask: bool) -> str:
        """Return the messages as one text. `ask` adds the opening of an assistant turn."""
        return without_marks(self._guarded_text(messages, tools, ask=ask))

    def whole_text(self, example: Example) -> str:
        """Return the prompt and the turn of an example as one text."""
        return self.text((*example.prompt, self._learned(example.turn)), example.tools, ask=False)

    def _learned(self, turn: Message) -> Message:
        """Return the turn as it is learned: with its thinking only if `chat.thinking` is train."""
        return turn if self.thinking == "train" or not turn.thinking else replace(turn, thinking="")

    def describe_template(self, choice: str = "the config asks for it") -> str:
        """Return which chat template is used, and why. `choice` is the reason if the model's own could be used."""
        if self.source == "model":
            return "with the model's own chat template"
        why = (
            self.note if not self.note or self.note.startswith("the tokenizer") else f"in the model's own, {self.note}"
        )
        because = f"because {why or choice}"
        if self.source == "toolhone":
            return f"with toolhone's chat template, {because}"
        return f"in the model's own turns; toolhone writes the {' and '.join(self.parts)}, {because}"

    def end_of(self, turn: Message) -> str:
        """Return the token that ends an assistant turn."""
        return self._traits.end_of_calls if turn.tool_calls else self._traits.end_of_answer

    @property
    def _traits(self) -> TemplateTraits:
        return self.traits or TemplateTraits.of_format(self.format)

    def prompt(self, messages: Sequence[Message], tools: tuple[Tool, ...]) -> tuple[str, list[int]]:
        """Return text and token ids that ask the model for the next turn.

        Raises:
            ValueError: if a message contains a control token that the tokenizer cannot encode as plain text.
        """
        guarded = self._guarded_text(messages, tools, ask=True)
        return without_marks(guarded), self._encode_guarded(guarded)

    def _guarded_text(self, messages: Sequence[Message], tools: tuple[Tool, ...], *, ask: bool) -> str:
        """Return the messages as one text, with marks in control tokens that the template did not write."""
        control = self._control_tokens
        if self.thinking == "strip":
            messages = [replace(message, thinking="") if message.thinking else message for message in messages]
        return str(
            self.tokenizer.apply_chat_template(
                template_messages(messages, control, self._traits, _thinking_key(self.template)),
                # With `tools=[]`, some templates print an empty list of tools.
                tools=control.guard_tools(tools) or None,
                chat_template=self.template,
                tokenize=False,
                add_generation_prompt=ask,
                **self.template_kwargs,
            )
        )

    def _encode_guarded(self, guarded: str) -> list[int]:
        return self._control_tokens.encode(guarded) if has_marks(guarded) else self.encode(guarded)

    @property
    def _control_tokens(self) -> ControlTokens:
        # If thinking is written, its tags belong to the template even if the template has none of its own.
        source = self.template if self.thinking == "strip" else f"{self.template}{THINK}{THINK_END}"
        return control_tokens(self.tokenizer, source, self.format.control_tokens)

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text. No special tokens are added."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    def decode(self, ids: Sequence[int], after: Sequence[int] = ()) -> str:
        """Return the exact text of the ids, including special tokens and spaces. `after` are the ids before them."""
        return token_bytes(self.tokenizer).text(ids, after[-1] if after else None)

    @property
    def stops(self) -> tuple[str, ...]:
        """The tokens at which generation stops."""
        ends = self._traits.end_of_answer, self._traits.end_of_calls
        own = (self.tokenizer.eos_token,) if self.traits and self.tokenizer.eos_token else ()
        return tuple(dict.fromkeys((*ends, *self.format.stops, *own)))

    def stop_ids(self) -> frozenset[int]:
        """Return the ids of the tokens at which generation stops."""
        stops = list(self.stops)
        ids: list[int | None] = self.tokenizer.convert_tokens_to_ids(stops)
        # For an unknown token, a tokenizer returns None or the id of its "unknown" token.
        known = [(id_, token) for id_, token in zip(ids, stops, strict=True) if id_ is not None]
        return frozenset(id_ for id_, token in known if self.tokenizer.convert_ids_to_tokens(id_) == token)

    def render(self, example: Example, answer_weight: float = 1.0) -> Rendered:
        """Render an example, and check that it can be read back.

        Args:
            answer_weight: loss weight of each token of a plain answer after the first.

        Raises:
            RenderError: naming the row, if the template or the tokenizer loses or changes something in it.
        """
        try:
            guarded = self._guarded_text(example.prompt, example.tools, ask=True)
            prompt_text = without_marks(guarded)
            turn_text = self.turn_text(example, prompt_text)
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            fix = "" if self.source == "toolhone" else "; change the row, or set chat.template: toolhone"
            raise RenderError(f"{example.where}: the chat template refuses the row: {error}{fix}") from None
        end = self.end_of(example.turn)
        self._check_round_trip(example, turn_text)
        self._check_special_tokens(example)
        try:
            prompt_ids = self._encode_guarded(guarded)
            turn = turn_tokens(self.tokenizer, self._encode_guarded, guarded, prompt_ids, turn_text + end)
        except ValueError as error:
            raise RenderError(f"{example.where}: {error}") from None
        if turn.spelled != turn.expected:
            unknown = self.tokenizer.unk_token
            fault = changed_text(turn.expected, turn.spelled, example, unknown, self.source)
            raise RenderError(f"{example.where}: {fault}")
        end_id = self.tokenizer.convert_tokens_to_ids(end) if end else None
        if end_id not in (None, self.tokenizer.unk_token_id, turn.ids[-1]):
            raise RenderError(
                f"{example.where}: the tokenizer reads {end} at the end of the turn as text and not as the token, so "
                "the model would not learn to stop; set normalized: false for it in tokenizer.json"
            )
        if turn.text != turn_text + end:  # without white space that special tokens absorb
            turn_text = turn.text.removesuffix(end)
            self._check_round_trip(example, turn_text)
        tokens = mask_labels(prompt_ids, turn.ids, 1.0 if example.turn.tool_calls else answer_weight)
        return Rendered(example, prompt_text, turn_text, end, tokens, has_marks(guarded))

    def turn_text(self, example: Example, prompt_text: str | None = None) -> str:
        """Return the text that the template writes for an example's turn, without the token that ends it.

        Args:
            prompt_text: the prompt's text, if it is known.

        Raises:
            RenderError: if the template does not write the turn directly after its prompt.
            jinja2.TemplateError, TypeError, ValueError: if it refuses the messages.
        """
        end, whole_text = self.end_of(example.turn), self.whole_text(example)
        if prompt_text is None:
            prompt_text = self.text(example.prompt, example.tools, ask=True)
        before = prompt_text.removesuffix(self._traits.asked_only)
        before = prompt_text if whole_text.startswith(prompt_text) else before
        if not whole_text.startswith(before):
            raise RenderError(
                f"{example.where}: the chat template writes the messages before turn {len(example.prompt)} differently "
                "if the turn follows, so training and inference prompts would differ; set chat.template: toolhone"
            )
        written = whole_text[len(before) :]
        turn_text, found, rest = written.rpartition(end) if end else (written, "", "")
        if not self._traits.ends_are_written and (not found or rest.strip()):
            return written.rstrip()
        if not found or rest.strip() not in ("", self._traits.closing):
            raise RenderError(
                f"{example.where}: the chat template does not end the turn with {end}; set chat.template: toolhone"
            )
        return turn_text

    def _check_round_trip(self, example: Example, text: str) -> None:
        parsed = parse_turn(text, self.format.name, tools=example.tools_by_name)
        gold = self._learned(example.turn)
        is_same = _as_read(parsed.calls) == _as_read(gold.tool_calls) and parsed.content == gold.content.strip()
        if is_same and parsed.failure is None and parsed.thinking != gold.thinking.strip():
            raise RenderError(
                f"{example.where}: turn {len(example.prompt)}: chat.thinking is {self.thinking}, but the turn's "
                f"thinking cannot be read back: wrote {text!r}, read back {parsed.thinking!r}; "
                + (f"remove {THINK} tags from it" if self.source == "toolhone" else "set chat.template: toolhone")
            )
        # Text that looks like a call may read back the same, but the model would be scored as malformed for it.
        if not is_same or parsed.failure is not None:
            status = parsed.status if parsed.failure is None else f"{parsed.status} ({parsed.failure})"
            raise RenderError(
                f"{example.where}: turn {len(example.prompt)} cannot be read back in the {self.format.name} format: "
                f"wrote {text!r}, read back status {status}, calls {_as_read(parsed.calls)}, "
                f"text {parsed.content!r}; {self._fix_of_turn(example, gold)}"
            )

    def _fix_of_turn(self, example: Example, gold: Message) -> str:
        """Return how to fix a turn that cannot be read back: the template or the turn may be at fault."""
        calls = [RawCall(call.name, json.dumps(call.arguments, ensure_ascii=False)) for call in gold.tool_calls]
        text = self.format.write(gold.content.strip(), calls, "stop")
        parsed = parse_turn(text, self.format.name, tools=example.tools_by_name)
        is_same = _as_read(parsed.calls) == _as_read(gold.tool_calls) and parsed.content == gold.content.strip()
        if self.source != "toolhone" and is_same and parsed.failure is None:
            return "set chat.template: toolhone"
        return "remove special tokens or call tags from its texts"

    def _check_special_tokens(self, example: Example) -> None:
        # They read back correctly as text, but the model would learn to end or begin a turn inside its own turn.
        turn = self._learned(example.turn)
        said = f"{turn.thinking}\n{turn.content}{_as_read(turn.tool_calls)}"
        found = self._control_tokens.everywhere.search(said)
        token = found.group() if found else next((token for token in self.format.control_tokens if token in said), None)
        if token is not None:
            raise RenderError(
                f"{example.where}: turn {len(example.prompt)} contains {token}; remove special tokens or call "
                "tags from its texts"
            )


@functools.lru_cache(maxsize=64)
def _thinking_key(template: str) -> str | None:
    """Return the key of a message from which a template reads its thinking; None if it reads none."""
    return next((key for key in _THINKING_KEYS if re.search(rf"\.{key}\b|['\"]{key}['\"]", template)), None)


def _as_read(calls: Sequence[ToolCall]) -> str:
    # As JSON text, because in Python True == 1 and 1 == 1.0.
    return json.dumps([[call.name, call.arguments] for call in calls], ensure_ascii=False, sort_keys=True)


def render_all(
    renderer: ChatRenderer, examples: Sequence[Example], config: ChatConfig, answer_weight: float = 1.0
) -> tuple[list[Rendered], list[str]]:
    """Render every example. Returns the rendered ones, and the ids of over-long examples that the config drops.

    Raises:
        UserError: naming each row that cannot be read back, and each over-long example with its length and the limit.
    """
    rendered: list[Rendered] = []
    dropped: list[str] = []
    faults: list[str] = []
    for example in examples:
        try:
            row = renderer.render(example, answer_weight)
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
    if examples and not rendered:
        raise UserError(f"chat.max_tokens: every example is longer than {config.max_tokens} tokens; raise it")
    return rendered, dropped
