"""What ties rows together: the keys of a row, and the groups that a split keeps on one side and leakage looks for.

Rows are one group if they have the same messages or user's words, near-duplicate user's words, one template, or are
parts of one conversation. Keys are 64-bit hashes, so a million rows take megabytes, whatever they hold. Two different
keys of a million rows collide with a probability of 3 in 100 million.
"""

from __future__ import annotations

import hashlib
import json
import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from toolhone.data.near import Indices, near_duplicates
from toolhone.data.values import argument_values
from toolhone.records import Conversation, Message

NOTHING = 0  # the key of a row that lacks what the key is made of: it ties to no other row
NO_CALL = "(no call)"  # counts as the tool of rows without a call
NEAR_ROWS = 200_000
"""Above this number of rows, near duplicates are not searched: texts are held in memory, and the time can grow with the
square of the number of similar rows."""

_ENCODE = json.JSONEncoder(ensure_ascii=False, sort_keys=True).encode
_PART = re.compile(r"(?P<named>.*\d.*)[/:]\d{1,2}|(?P<marked>.+)(?:#|[-_./:#]turn[-_]?)\d{1,3}")
"""The id of a part of a conversation: "chat-17/0", "chat-17:0", "chat#3", "chat-turn-3". Not "glaive/17" nor
"logs:4711", which name a data set and a row: before "/" and ":" a conversation's id has a number of its own, after it
at most two digits."""
_SLOT = "\u25af"
_CODE = re.compile(r"[a-z._,/@:+-]*\d[a-z0-9._,/@:+-]*")


@dataclass(frozen=True, slots=True)
class RowKeys:
    """The keys of a row."""

    content: int  # its messages and tools
    messages: int  # its messages alone, without call ids
    prompt: int  # those before its last assistant turn
    words: int  # what the user writes, in lower case
    template: int  # the value of a meta key
    stem: int  # its id without the part's number
    prefixes: tuple[int, ...]  # the keys that shorter rows of this conversation would have as `messages`


def row_keys(row: Conversation, group_by: str | None = "template") -> RowKeys:
    """The keys of a row; its template is the value of `group_by` in its meta."""
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
    words, template = user_words(row), template_name(row, group_by)
    part = _PART.fullmatch(row.id)
    return RowKeys(
        content=int(row.content_hash(), 16),
        messages=messages,
        prompt=prompt,
        words=key_of(words) if words else NOTHING,
        template=key_of(template) if template else NOTHING,
        stem=key_of(part["named"] or part["marked"]) if part else NOTHING,
        prefixes=tuple(prefix for prefix in prefixes if prefix != messages),
    )


def template_name(row: Conversation, group_by: str | None) -> str:
    """The name of a row's template, "template=t1"; "" if its meta has no value under `group_by`."""
    value = row.meta.get(group_by) if group_by is not None else None
    return "" if value is None else f"{group_by}={value}"


def user_words(row: Conversation) -> str:
    """All that the user writes in a row, in lower case and with single spaces."""
    text = "\n".join(" ".join(message.content.split()) for message in row.messages if message.role == "user")
    return text.casefold().strip()


def wording(row: Conversation) -> str:
    """What the user writes, with a mark for each argument's value and each code or number. Two fillings of one template
    have the same wording, except for slots that no call uses."""
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


@dataclass(slots=True)
class KeyTable:
    """The keys of all rows, about 60 bytes a row, and the user's words while there are at most `near_rows` rows."""

    group_by: str | None = "template"
    near_rows: int = NEAR_ROWS
    rows: int = 0
    columns: dict[str, array[int]] = field(
        default_factory=lambda: {name: array("Q") for name in ("messages", "words", "template", "stem", "anchor")}
    )
    prefixes: tuple[array[int], array[int]] = field(default_factory=lambda: (array("Q"), array("q")))  # keys, rows
    calls: tuple[array[int], array[int]] = field(default_factory=lambda: (array("q"), array("q")))  # tools, rows
    tools: dict[str, int] = field(default_factory=lambda: {NO_CALL: 0})  # names called or offered, by first appearance
    words: dict[str, int] = field(default_factory=dict)  # the user's words -> the first row that has them

    def add(self, row: Conversation) -> None:
        keys = row_keys(row, self.group_by)
        for name in ("messages", "words", "template", "stem"):
            self.columns[name].append(getattr(keys, name))
        self.columns["anchor"].append(keys.template or keys.stem or keys.content)
        for prefix in keys.prefixes:
            self.prefixes[0].append(prefix)
            self.prefixes[1].append(self.rows)
        for tool in row.tools:
            self.tools.setdefault(tool.name, len(self.tools))
        for name in called_tools(row) or (NO_CALL,):
            self.calls[0].append(self.tools.setdefault(name, len(self.tools)))
            self.calls[1].append(self.rows)
        if self.rows >= self.near_rows:
            self.words.clear()
        elif keys.words != NOTHING:
            self.words.setdefault(user_words(row), self.rows)
        self.rows += 1

    @property
    def searches_near(self) -> bool:
        return self.rows <= self.near_rows

    def groups(self) -> Indices:
        """The group of each row, named by the group's first row, [rows]."""
        columns = {name: np.asarray(values) for name, values in self.columns.items()}
        edges = [_same_key(columns[name]) for name in ("messages", "words", "template", "stem")]
        edges.append(_same_beginning(columns["messages"], *self.prefixes))
        found = _components(edges, self.rows)
        if self.searches_near and len(self.words) > 1:
            firsts = np.fromiter(self.words.values(), dtype=np.int64, count=len(self.words))
            pairs = near_duplicates(list(self.words), linked=found[firsts].tolist())
            near = np.array([(one, other) for one, other, _ in pairs], dtype=np.int64).reshape(-1, 2)
            found = _components([*edges, (firsts[near[:, 0]], firsts[near[:, 1]])], self.rows)
        return found


def _same_key(keys: npt.NDArray[np.uint64]) -> tuple[Indices, Indices]:
    """Pairs of rows that chain together those with the same key, except `NOTHING`."""
    order = np.argsort(keys, kind="stable")
    sorted_keys = keys[order]
    same = (sorted_keys[1:] == sorted_keys[:-1]) & (sorted_keys[1:] != NOTHING)
    return order[:-1][same], order[1:][same]


def _same_beginning(
    messages: npt.NDArray[np.uint64], prefixes: array[int], owners: array[int]
) -> tuple[Indices, Indices]:
    """Pairs of rows: the messages of one are the beginning of the other's."""
    beginnings, rows = np.asarray(prefixes), np.asarray(owners)
    whole, first = np.unique(messages, return_index=True)
    place = np.minimum(np.searchsorted(whole, beginnings), len(whole) - 1)
    found = whole[place] == beginnings if len(whole) else np.zeros(0, dtype=bool)
    return first[place[found]], rows[found]


def _components(edges: Sequence[tuple[Indices, Indices]], rows: int) -> Indices:
    """The first row of each row's connected component, [rows]."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    one, other = (np.concatenate(part) for part in zip(*edges, strict=True))
    graph = coo_array((np.ones(len(one), dtype=bool), (one, other)), shape=(rows, rows))
    _, labels = connected_components(graph, directed=False)
    _, firsts = np.unique(labels, return_index=True)
    groups: Indices = firsts[labels].astype(np.int64)
    return groups
