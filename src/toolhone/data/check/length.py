"""Over-long rows, and rows that do not come back from a chat format: every turn is rendered as training would.

With a tokenizer its tokens are counted; without one, toolhone's own template of a format is rendered as text alone.
Tokenizers are heavy, and are imported only when one is named.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cache, partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from toolhone.data.check.finding import Finding
from toolhone.data.read import examples
from toolhone.errors import UserError
from toolhone.records import Conversation

if TYPE_CHECKING:
    from toolhone.formats.chat_format import ChatFormat

MAX_TOKENS = 2048
"""The default limit, as that of `chat.max_tokens`."""


class RenderChecks:
    """Renders every assistant turn as training would, and counts the tokens of prompt and turn together.

    `tokenizer` is a name on the hub or a folder, or None to check only the format's text. The `chat_format` "auto"
    needs a tokenizer.

    Raises:
        UserError: if the tokenizer cannot be loaded, or the format does not fit it.
    """

    def __init__(self, tokenizer: str | None, chat_format: str, max_tokens: int | None) -> None:
        from toolhone.chat.probe import make_renderer
        from toolhone.config import ChatConfig
        from toolhone.formats import FORMATS

        known = ("auto", *FORMATS)
        if chat_format not in known:
            raise UserError(f'--chat-format: unknown format "{chat_format}"; known: {", ".join(known)}')
        if tokenizer is None and chat_format == "auto":
            raise UserError("--chat-format: auto is detected from a tokenizer; give --tokenizer, or name the format")
        if tokenizer is None and max_tokens is not None:
            raise UserError("--max-tokens: tokens are counted with a tokenizer; give --tokenizer")
        self._max_tokens = None if tokenizer is None else max_tokens or MAX_TOKENS
        loaded = _load_tokenizer(tokenizer) if tokenizer else _Characters(FORMATS[chat_format])
        config = ChatConfig.model_validate({"format": chat_format})
        self._renderer = make_renderer(loaded, config, tokenizer or chat_format)

    def findings(self, row: Conversation) -> Iterator[Finding]:
        """One finding for each turn that the format does not give back, or that is too long."""
        from toolhone.chat.render import RenderError

        for example in examples(row):
            turn = f"turn {len(example.prompt)}"
            try:
                rendered = self._renderer.render(example)
            except RenderError as error:
                text = str(error).removeprefix(f"{example.where}: ")
                text = text if text.startswith(turn) else f"{turn}: {text}"
                remedy = "fix the row, or choose another chat format"
                yield Finding(row.where, "round-trip", text, remedy=remedy)
                continue
            if self._max_tokens is not None and len(rendered) > self._max_tokens:
                text = f"{turn}: {len(rendered):,} tokens with its prompt, more than {self._max_tokens:,}"
                remedy = "raise chat.max_tokens, shorten the row, or set chat.over_long: drop"
                yield Finding(row.where, "over-long", text, "warning", remedy)


def _load_tokenizer(name: str) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"--tokenizer: {name} cannot be loaded ({reason}); give a folder or a name on the hub"
        ) from None


class _Characters:
    """Stands in for a tokenizer: one token a character, and the special tokens of one format. It has no template."""

    chat_template = None

    def __init__(self, chat_format: ChatFormat) -> None:
        self._special = (*chat_format.special_tokens, *chat_format.other_stops)
        self.added_tokens_decoder = {n: SimpleNamespace(content=t, special=True) for n, t in enumerate(self._special)}

    def get_vocab(self) -> dict[str, int]:
        return {token: n for n, token in enumerate(self._special)}

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [ord(character) for character in text]}

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        return "".join(map(chr, ids))

    def apply_chat_template(self, messages: list[Any], *, tools: Any, chat_template: str, **variables: Any) -> str:
        rendered: str = _template(chat_template).render(messages=messages, tools=tools, **variables)
        return rendered


@cache
def _template(source: str) -> Any:
    """A template that renders as transformers' do: blocks trimmed, and JSON without escapes."""
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = partial(json.dumps, ensure_ascii=False)
    environment.globals["raise_exception"] = refuse
    return environment.from_string(source)
