"""The chat formats: each a template and a parser that belong together.

A format is told from the tokenizer's special tokens. What the template writes, `parse_turn` reads back; `render.py`
proves it for every row.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from toolhone.errors import UserError
from toolhone.records import FormatName


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """How turns and calls are written.

    `special_tokens` are those that a tokenizer must know; the model's turn ends with `end_of_turn`; generation also
    stops at `other_stops`; `template_kwargs` are set for every rendering.
    """

    name: FormatName
    special_tokens: tuple[str, ...]
    end_of_turn: str
    other_stops: tuple[str, ...] = ()
    template_kwargs: dict[str, Any] = field(default_factory=dict)

    def own_template(self, tools: str) -> str:
        """toolhone's Jinja template for the format, with the macro that writes a tool as "schema", "signatures" or
        "names"."""
        folder = files("toolhone.formats") / "templates"
        return "".join((folder / f"{name}.jinja").read_text(encoding="utf-8") for name in (f"tools_{tools}", self.name))


FORMATS: dict[FormatName, ChatFormat] = {
    "hermes": ChatFormat("hermes", ("<|im_start|>", "<|im_end|>"), "<|im_end|>", ("<|endoftext|>",)),
    "llama3": ChatFormat(
        "llama3",
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|eot_id|>",
        ("<|eom_id|>", "<|end_of_text|>"),
        # Llama's own template prints today's date unless it is given one.
        {"date_string": "26 Jul 2024"},
    ),
    "gemma": ChatFormat("gemma", ("<start_of_turn>", "<end_of_turn>"), "<end_of_turn>", ("<eos>",)),
    # Never chosen by "auto": its tokens are those of hermes.
    "json": ChatFormat("json", ("<|im_start|>", "<|im_end|>"), "<|im_end|>", ("<|endoftext|>",)),
}


def choose_format(name: str, vocabulary: Container[str], model: str) -> ChatFormat:
    """The format of that name, or for "auto" the one whose special tokens the vocabulary has.

    Raises:
        UserError: where the tokenizer lacks the tokens that the format is written with.
    """
    if name == "auto":
        for chat_format in FORMATS.values():
            if all(token in vocabulary for token in chat_format.special_tokens):
                return chat_format
        needs = "; ".join(f"{f.name} needs {', '.join(f.special_tokens)}" for f in FORMATS.values())
        raise UserError(f"chat.format: cannot tell the format of {model} from its tokenizer ({needs})")
    chat_format = next(f for f in FORMATS.values() if f.name == name)
    lacking = [token for token in chat_format.special_tokens if token not in vocabulary]
    if lacking:
        raise UserError(f"chat.format: {name} needs the token {lacking[0]}, which the tokenizer of {model} lacks")
    return chat_format
