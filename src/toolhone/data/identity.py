"""What makes two rows the same, or parts of one thing: the keys by which splitting and leakage tie rows together.

Keys are 64-bit hashes, so that a million rows take megabytes, whatever they hold. Two different keys of a million rows
collide with a probability of 3 in 100 million.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass

from toolhone.data.values import argument_values
from toolhone.records import Conversation, Message

_ENCODE = json.JSONEncoder(ensure_ascii=False, sort_keys=True).encode

NOTHING = 0
"""The key of a row that lacks what the key is made of: it ties to no other."""

_PART = re.compile(r"(?P<named>.*\d.*)[/:]\d{1,2}|(?P<marked>.+)(?:#|[-_./:#]turn[-_]?)\d{1,3}")
"""An id of a conversation's part: "chat-17/0", "chat-17:0", "chat#3", "chat-turn-3". Not "glaive/17" nor "logs:4711",
which name a data set and a row: before "/" and ":" a conversation's id has a number of its own, after it at most two
digits."""


_SLOT = "\u25af"
_CODE = re.compile(r"[a-z._,/@:+-]*\d[a-z0-9._,/@:+-]*")


@dataclass(frozen=True, slots=True)
class RowKeys:
    """The keys of a row.

    `content` is its messages and tools; `messages` its messages alone, without call ids; `prompt` those before its last
    assistant turn; `words` what the user writes, in lower case; `template` the value of a meta key; `stem` its id
    without the part's number. `prefixes` are the keys that shorter rows of this conversation would have as `messages`.
    """

    content: int
    messages: int
    prompt: int
    words: int
    template: int
    stem: int
    prefixes: tuple[int, ...]


def row_keys(row: Conversation, group_by: str | None = "template") -> RowKeys:
    """The keys of a row; its template is what its meta has under `group_by`."""
    growing = hashlib.blake2b(digest_size=8)
    prefixes = []
    prompt = NOTHING
    for message in row.messages:
        if message.role == "assistant":
            prompt = int.from_bytes(growing.digest(), "big")
        growing.update(_message_text(message).encode("utf-8", "surrogatepass"))
        if message.role == "assistant":
            prefixes.append(int.from_bytes(growing.digest(), "big"))
    messages = int.from_bytes(growing.digest(), "big")
    words = user_words(row)
    part = _PART.fullmatch(row.id)
    template = row.meta.get(group_by) if group_by is not None else None
    return RowKeys(
        content=int(row.content_hash(), 16),
        messages=messages,
        prompt=prompt,
        words=key_of(words) if words else NOTHING,
        template=key_of(f"{group_by}={template}") if template is not None else NOTHING,
        stem=key_of(part["named"] or part["marked"]) if part else NOTHING,
        prefixes=tuple(prefix for prefix in prefixes if prefix != messages),
    )


def user_words(row: Conversation) -> str:
    """All that the user writes in a row, with letter case and the width of spaces evened out."""
    text = "\n".join(" ".join(message.content.split()) for message in row.messages if message.role == "user")
    return text.casefold().strip()


def wording(row: Conversation) -> str:
    """What the user writes in a row, with a mark for each argument's value and each code or number: two fillings of one
    template have the same wording, but for slots that no call takes up."""
    text = user_words(row)
    values = {str(value).casefold().strip() for value in argument_values(row)}
    for value in sorted(values, key=lambda value: (-len(value), value)):
        if len(value) > 1:
            text = text.replace(value, _SLOT)
    return _CODE.sub(_SLOT, text)


def called_tools(row: Conversation) -> frozenset[str]:
    """The names that a row calls, in its turns or in its `expected` gold."""
    turns = {call.name for message in row.messages for call in message.tool_calls}
    return frozenset(turns | {call.name for call in row.expected.calls} if row.expected else turns)


def key_of(text: str) -> int:
    """A 64-bit hash of a text."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def _message_text(message: Message) -> str:
    """A message without what may differ between two logs of it: call ids and weight."""
    text = f"{message.role} {len(message.content)} {message.content}"
    if not message.tool_calls:
        return text
    return text + _ENCODE([(call.name, call.arguments) for call in message.tool_calls])
