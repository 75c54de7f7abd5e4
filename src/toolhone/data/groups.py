"""Find the groups of rows that a split must keep on one side, and near-duplicate texts.

Rows are in one group if they have the same messages, the same or nearly the same user's words, the same template, or
are parts of one conversation. Keys are 64-bit hashes, so the keys of a million rows take megabytes, however large the
rows are. Among a million keys, two different ones collide with a probability of 3 in 100 million.

The similarity of two texts is the Jaccard index of their sets of character 5-grams: shared 5-grams over all 5-grams.
Comparing all pairs of 20,000 texts would take hours. So MinHash signatures (Broder 1997; `datasketch`) are divided
into bands, and only texts that agree in a whole band are compared exactly. Whether a pair is found depends only on its
two texts: more texts never hide it. A pair at the threshold is found with a probability of at least 99%.
"""

from __future__ import annotations

import hashlib
import json
import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np
import numpy.typing as npt

from toolhone.data.values import argument_values
from toolhone.records import Conversation, Message

if TYPE_CHECKING:
    from scipy.cluster.hierarchy import DisjointSet

Signatures = npt.NDArray[np.uint32]
"""MinHash values, [texts, `PERMUTATIONS`]."""
Indices = npt.NDArray[np.int64]

THRESHOLD = 0.8  # the similarity from which texts count as near duplicates
SHINGLE = 5
PERMUTATIONS = 128
_RECALL = 0.995
_SLACK = 0.1
"""A pair is compared exactly if its signatures' estimate is at most this far below the threshold. At 0.8 and 128
permutations, that is about three standard errors: about two in a thousand pairs right at the threshold are missed."""
_BLOCK = 2_000
_KEPT = 20_000  # texts whose 5-grams stay in memory: about 100 MB


# Near duplicates


def near_duplicates(
    texts: Sequence[str], threshold: float = THRESHOLD, linked: Sequence[int] | None = None
) -> list[tuple[int, int, float]]:
    """Return pairs `(earlier, later, jaccard)` that link every text to the group of its near duplicates.

    A copy is paired with the first such text, at 1.0. A group gives only as many pairs as link all its texts, because
    ten thousand fillings of one template have fifty million pairs. Texts with the same number in `linked` already are
    one group. The same texts give the same pairs, in order.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"expected a threshold above 0 and at most 1, found {threshold}")
    from scipy.cluster.hierarchy import DisjointSet  # takes a moment to import

    groups = DisjointSet(range(len(texts)))
    first_linked: dict[int, int] = {}
    for n, label in enumerate(linked or ()):
        groups.merge(first_linked.setdefault(label, n), n)
    first_of = _first_places(texts)
    pairs = [(first_of[text], n, 1.0) for n, text in enumerate(texts) if groups.merge(first_of[text], n)]
    if threshold < 1:
        pairs += _near_pairs(texts, np.array(list(first_of.values()), dtype=np.int64), threshold, groups)
    return sorted(pairs)


def nearest(
    texts: Sequence[str], queries: Sequence[str], threshold: float = THRESHOLD
) -> list[tuple[int, float] | None]:
    """Return for each query the index of the nearest text and its Jaccard index, or None if none reaches the
    threshold."""
    first_of = _first_places(texts)
    best: list[tuple[int, float] | None] = [(first_of[q], 1.0) if q in first_of else None for q in queries]
    open_queries = [n for n, found in enumerate(best) if found is None]
    if not open_queries or not texts or threshold >= 1:
        return best
    distinct = list(first_of.values())
    # In a bucket with both texts and queries, the texts are candidates for the queries.
    candidates: list[set[int]] = [set() for _ in open_queries]
    found = signatures([*(texts[n] for n in distinct), *(queries[n] for n in open_queries)])
    for before, bucket in _buckets(found, threshold):
        in_texts, in_queries = bucket[bucket < len(distinct)], bucket[bucket >= len(distinct)]
        for row in in_queries.tolist() if len(in_texts) else ():
            worth = _worth_comparing(found, in_texts, row, before, threshold)
            candidates[row - len(distinct)].update(in_texts[worth].tolist())
    for n, query in enumerate(open_queries):
        grams = shingles(queries[query])
        scored = [(jaccard(grams, shingles(texts[distinct[m]])), -distinct[m]) for m in candidates[n]]
        if scored and max(scored)[0] >= threshold:
            score, negative = max(scored)
            best[query] = (-negative, score)
    return best


def _first_places(texts: Sequence[str]) -> dict[str, int]:
    """Return the index of each distinct text's first occurrence, in the order of the texts."""
    places: dict[str, int] = {}
    for n, text in enumerate(texts):
        places.setdefault(text, n)
    return places


def shingles(text: str) -> frozenset[str]:
    """Return the character 5-grams of a text, or the text itself if it is shorter."""
    return frozenset(text[n : n + SHINGLE] for n in range(max(1, len(text) - SHINGLE + 1)))


def jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    """Return the shared elements over all elements of two sets, which must not both be empty."""
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared)


def signatures(texts: Sequence[str]) -> Signatures:
    """Return the MinHash signature of each text's 5-grams, [texts, `PERMUTATIONS`]."""
    from datasketch import MinHash  # takes most of a second to import

    empty = MinHash(num_perm=PERMUTATIONS, hashfunc=crc32)
    found = np.empty((len(texts), PERMUTATIONS), dtype=np.uint32)
    for n, text in enumerate(texts):
        sketch = empty.copy()
        # A broken log may contain lone surrogates, which UTF-8 cannot encode.
        sketch.update_batch([gram.encode("utf-8", "surrogatepass") for gram in shingles(text)])
        found[n] = sketch.hashvalues
    return found


@cache
def _bands(threshold: float) -> tuple[int, int]:
    """Return the number of bands and of values in each. The bands are as long as possible while a pair at the threshold
    agrees in some band with probability 1 - (1 - threshold^values)^bands of at least `_RECALL`."""
    for values in range(PERMUTATIONS, 1, -1):
        bands = PERMUTATIONS // values
        if 1 - (1 - threshold**values) ** bands >= _RECALL:
            return bands, values
    return PERMUTATIONS, 1


def _buckets(found: Signatures, threshold: float) -> Iterator[tuple[int, Indices]]:
    """Yield groups of two or more rows, in ascending order, that agree in a whole band, with the number of values
    before it. Only one band is in memory at a time."""
    bands, values = _bands(threshold)
    for start in range(0, bands * values, values):
        band = np.ascontiguousarray(found[:, start : start + values])
        keys = band.view(np.dtype((np.void, band.dtype.itemsize * values))).ravel()
        _, labels = np.unique(keys, return_inverse=True)
        order = np.argsort(labels, kind="stable")
        cuts = [*np.flatnonzero(np.diff(labels[order], prepend=-1)).tolist(), len(order)]
        yield from ((start, order[one:end]) for one, end in pairwise(cuts) if end - one > 1)


def _worth_comparing(
    found: Signatures, others: Indices, row: int, before: int, threshold: float
) -> npt.NDArray[np.bool_]:
    """Return which of `others` to compare exactly with `row`, [others]: those with a similar signature that did not
    share a bucket with it in an earlier band."""
    agree = found[others] == found[row]  # [others, PERMUTATIONS]
    worth: npt.NDArray[np.bool_] = np.count_nonzero(agree, axis=1) >= (threshold - _SLACK) * PERMUTATIONS
    if before:
        _, values = _bands(threshold)
        worth &= ~agree[:, :before].reshape(len(others), -1, values).all(axis=2).any(axis=1)
    return worth


def _near_pairs(
    texts: Sequence[str], distinct: Indices, threshold: float, groups: DisjointSet
) -> Iterator[tuple[int, int, float]]:
    """Compare the distinct texts that share a band and are not in one group yet. Merge the groups of near texts and
    yield the pairs."""
    grams = lru_cache(_KEPT)(lambda n: shingles(texts[n]))
    found = signatures([texts[n] for n in distinct])
    for before, bucket in _buckets(found, threshold):
        members = distinct[bucket].tolist()
        roots = np.array([groups[n] for n in members])
        if (roots == roots[0]).all():
            continue
        for late in range(1, len(bucket)):
            others = np.flatnonzero(roots[:late] != roots[late])
            for start in range(0, len(others), _BLOCK):
                block = others[start : start + _BLOCK]
                worth = _worth_comparing(found, bucket[block], bucket[late], before, threshold)
                for early in block[worth].tolist():
                    one, other = members[early], members[late]
                    if roots[early] == roots[late] or (score := jaccard(grams(one), grams(other))) < threshold:
                        continue
                    groups.merge(one, other)
                    roots[(roots == roots[early]) | (roots == roots[late])] = groups[one]
                    yield one, other, score


# Keys and groups of rows

NOTHING = 0  # the key of a row without the value that the key hashes; it links the row to no other
NO_CALL = "(no call)"  # counts as the tool of rows without a call
NEAR_ROWS = 200_000
"""Above this number of rows, near duplicates are not searched, because the texts stay in memory and the time can grow
with the square of the number of similar rows."""

_ENCODE = json.JSONEncoder(ensure_ascii=False, sort_keys=True).encode
_PART = re.compile(r"(?P<named>.*\d.*)[/:]\d{1,2}|(?P<marked>.+)(?:#|[-_./:#]turn[-_]?)\d{1,3}")
"""The id of a part of a conversation: "chat-17/0", "chat-17:0", "chat#3", "chat-turn-3". "glaive/17" and "logs:4711"
are not: they name a data set and a row. So a digit must occur before "/" or ":", and at most two digits after it."""
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
    """Return the keys of a row. Its template is the value of `group_by` in its meta."""
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
    """Return the name of a row's template, such as "template=t1", or "" if its meta has no value under `group_by`."""
    value = row.meta.get(group_by) if group_by is not None else None
    return "" if value is None else f"{group_by}={value}"


def user_words(row: Conversation) -> str:
    """Return all that the user writes in a row, in lower case and with single spaces."""
    text = "\n".join(" ".join(message.content.split()) for message in row.messages if message.role == "user")
    return text.casefold().strip()


def wording(row: Conversation) -> str:
    """Return what the user writes, with a placeholder for each argument's value and each code or number. Two fillings
    of one template have the same wording, except for slots that no call uses."""
    text = user_words(row)
    values = {str(value).casefold().strip() for value in argument_values(row)}
    for value in sorted(values, key=lambda value: (-len(value), value)):
        if len(value) > 1:
            text = text.replace(value, _SLOT)
    return _CODE.sub(_SLOT, text)


def called_tools(row: Conversation) -> frozenset[str]:
    """Return the names of the tools that a row calls, in its turns or in its `expected` gold."""
    turns = {call.name for message in row.messages for call in message.tool_calls}
    return frozenset(turns | {call.name for call in row.expected.calls} if row.expected else turns)


def key_of(text: str) -> int:
    """Return a 64-bit hash of a text."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def _message_text(message: Message) -> str:
    """Return a message as text, without what may differ between two logs of it: call ids and weight."""
    text = f"{message.role} {len(message.content)} {message.content}"
    if not message.tool_calls:
        return text
    return text + _ENCODE([(call.name, call.arguments) for call in message.tool_calls])


@dataclass(slots=True)
class KeyTable:
    """The keys of all rows, about 60 bytes per row, and the user's words if there are at most `near_rows` rows."""

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
        """Return the group of each row, as the index of the group's first row, [rows]."""
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
    """Return pairs of rows that link all rows with the same key. The key `NOTHING` links no rows."""
    order = np.argsort(keys, kind="stable")
    sorted_keys = keys[order]
    same = (sorted_keys[1:] == sorted_keys[:-1]) & (sorted_keys[1:] != NOTHING)
    return order[:-1][same], order[1:][same]


def _same_beginning(
    messages: npt.NDArray[np.uint64], prefixes: array[int], owners: array[int]
) -> tuple[Indices, Indices]:
    """Return pairs of rows of which one's messages are the beginning of the other's."""
    beginnings, rows = np.asarray(prefixes), np.asarray(owners)
    whole, first = np.unique(messages, return_index=True)
    place = np.minimum(np.searchsorted(whole, beginnings), len(whole) - 1)
    found = whole[place] == beginnings if len(whole) else np.zeros(0, dtype=bool)
    return first[place[found]], rows[found]


def _components(edges: Sequence[tuple[Indices, Indices]], rows: int) -> Indices:
    """Return the first row of each row's connected component, [rows]."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    one, other = (np.concatenate(ends) for ends in zip(*edges, strict=True))
    graph = coo_array((np.ones(len(one), dtype=bool), (one, other)), shape=(rows, rows))
    _, labels = connected_components(graph, directed=False)
    _, firsts = np.unique(labels, return_index=True)
    groups: Indices = firsts[labels].astype(np.int64)
    return groups
