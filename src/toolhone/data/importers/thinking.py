"""Finds the thinking of an assistant message: the reasoning that the model wrote before its answer.

Servers and tools keep it under `reasoning_content`, `reasoning`, `thinking` and other keys, in parts of the content, or
in a `<think>` block at the start of the content. `with_thinking` moves it to the string `reasoning_content`. Encrypted
and redacted reasoning has no text, so there is nothing to learn from it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from toolhone.data.importers.importer import Row, short, unexpected
from toolhone.errors import RowError
from toolhone.formats.pieces import THINK, THINK_END
from toolhone.records import Conversation

KEY = "reasoning_content"
KEYS = (KEY, "reasoning", "thinking", "reasoning_details", "thinking_blocks", "reasoning_text")
_ALL_KEYS = frozenset(KEYS)
_TEXT_KEYS = ("thinking", "text", "reasoning", "reasoning_text", "content", "summary")  # of a part, in order
_WITHOUT_TEXT = frozenset({"data", "signature", "encrypted_content", "redacted", "type", "id", "status"})


def split_thought(text: str) -> tuple[str, str]:
    """Return the thought at the start of a text and the text after it; ("", text) if it starts with none.

    The opening tag may be missing: some chat templates write it into the prompt.
    """
    before, closing, after = text.partition(THINK_END)
    said, opening, thought = before.partition(THINK)
    if not closing or (opening and said.strip()):
        return "", text
    return (thought if opening else before).strip(), after.lstrip()


def with_thinking(message: Row, where: str) -> Row:
    """Return an assistant message whose thinking is only in the string `reasoning_content`; the same object if it has
    none anywhere else.

    Raises:
        RowError: if it has two different thoughts, or one that cannot be read.
    """
    content = message.get("content")
    if isinstance(content, str):
        if THINK_END not in content and message.keys().isdisjoint(_ALL_KEYS):
            return message
    elif not isinstance(content, list) and message.keys().isdisjoint(_ALL_KEYS):
        return message
    found = [(key, thought_text(message[key], f"{where}: {key}")) for key in KEYS if message.get(key) is not None]
    if isinstance(content, list):
        parts = [part for part in content if is_thought(part)]
        found.append(("a part of the content", thought_text(parts, f"{where}: content")))
        if parts:
            content = [part for part in content if not is_thought(part)] or None
        if content and isinstance(text := content[0].get("text") if isinstance(content[0], dict) else None, str):
            thought, rest = split_thought(text)
            if rest is not text:
                found.append((f"a {THINK} block", thought))
                content = [{**content[0], "text": rest}, *content[1:]]
    elif isinstance(content, str):
        thought, content = split_thought(content)
        found.append((f"a {THINK} block", thought))
    made = {key: value for key, value in message.items() if key not in _ALL_KEYS}
    thinking = _one_thought([(name, text) for name, text in found if text.strip()], where)
    if "content" in message:
        made["content"] = content
    return {**made, KEY: thinking} if thinking else made


def with_thoughts_of(row: Conversation, other: Conversation) -> Conversation:
    """Return a conversation with the thinking of another one for turns that have none. Both begin with the same turns:
    an application usually resends a model's turns without their thinking."""
    thoughts = [message.thinking for message in other.messages]
    if not any(thoughts):
        return row
    thoughts += [""] * (len(row.messages) - len(thoughts))
    messages = zip(row.messages, thoughts, strict=False)
    return replace(row, messages=tuple(replace(m, thinking=m.thinking or thought) for m, thought in messages))


def is_thought(part: Any) -> bool:
    """Whether a part of a message's content is reasoning, not text."""
    kind = part.get("type") if isinstance(part, dict) else None
    return isinstance(kind, str) and ("thinking" in kind or "reasoning" in kind)


def thought_text(value: Any, where: str) -> str:
    """Return the text of reasoning in any shape: a string, a part, or a list of them. Raises RowError for others."""
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, list):
        texts = [thought_text(part, where) for part in value]
        return "\n\n".join(text for text in texts if text)
    if not isinstance(value, dict):
        raise unexpected(where, "reasoning as a string or a list of parts", value, "bad-thinking")
    keys = [key for key in _TEXT_KEYS if key in value]
    if not keys and not value.keys() <= _WITHOUT_TEXT:
        raise unexpected(where, "a part with the text of the reasoning", value, "bad-thinking")
    return next((text for key in keys if (text := thought_text(value[key], where))), "")


def _one_thought(found: list[tuple[str, str]], where: str) -> str:
    """Return the only thought. The same text may be in several places, with other white space."""
    for name, text in found[1:]:
        if "".join(text.split()) != "".join(found[0][1].split()):
            both = f"{found[0][0]} ({short(found[0][1])}) and {name} ({short(text)})"
            raise RowError(f"{where}: has two different thoughts, in {both}; keep one", rule="two-thoughts")
    thinking = found[0][1] if found else ""
    if thinking.lstrip().startswith(THINK):
        inner, rest = split_thought(thinking)
        thinking = inner if not rest else thinking
    if THINK in thinking or THINK_END in thinking:
        text = f"{where}: the thinking contains {THINK} or {THINK_END}: {short(thinking)}; remove the tag"
        raise RowError(text, rule="bad-thinking")
    return thinking
