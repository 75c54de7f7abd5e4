"""Duplicates and contradictions: an id twice, a row twice, one prompt with two answers, one tool defined in two ways.

Only hashes of rows are kept: 1,000,000 rows take about 600 MB. Texts are kept only to find near duplicates. The hashes
are Python's own, of 64 bits: among 1,000,000 rows there is one false pair in 40,000,000 runs.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterator
from operator import itemgetter

from toolhone.data.check.finding import Finding
from toolhone.data.check.schema import ToolSet
from toolhone.records import Conversation, Message, ToolCall

_PLACE_BITS = 32
_PLACE_MASK = (1 << _PLACE_BITS) - 1


class SeenIds:
    """The ids so far, each with its place."""

    def __init__(self) -> None:
        self._places: dict[str, str] = {}

    def findings(self, row: Conversation) -> Iterator[Finding]:
        place = self._places.setdefault(row.id, row.where)
        if place is not row.where:
            message = f'the id "{row.id}" is already at {place}; ids must differ'
            yield Finding(row.where, "duplicate-id", message, remedy="give the row its own id, or take it out")


class SeenRows:
    """The rows so far, as hashes, with their places."""

    def __init__(self, *, near: bool) -> None:
        self._places: list[str] = []
        self._rows: dict[int, int] = {}
        self._turns: dict[int, int] = {}  # a prompt's hash -> the turn's hash and the place, in one number
        self._copies: set[int] = set()
        self._texts: list[str] | None = [] if near else None

    def findings(self, row: Conversation, tools: ToolSet) -> list[Finding]:
        """Exact duplicates, whatever their ids, and turns that answer a prompt differently from an earlier row."""
        place = len(self._places)
        self._places.append(row.where)
        so_far = hash((tools.key, row.parallel_tool_calls))
        conflicts: list[Finding] = []
        for number, message in enumerate(row.messages):
            said = _said(message)
            if message.role == "assistant" and message.weight:
                known = self._turns.setdefault(so_far, said << _PLACE_BITS | place)
                other = known & _PLACE_MASK
                if other != place and known >> _PLACE_BITS != said:
                    text = f"message {number}: answers the same messages differently from {self._places[other]}"
                    remedy = "decide which answer is right, and give both rows that one"
                    conflicts.append(Finding(row.where, "conflict", text, "warning", remedy))
            so_far = hash((so_far, said))
        if row.expected is not None:
            so_far = hash((so_far, json.dumps(row.expected.to_json())))
        if self._texts is not None:
            self._texts.append("\n".join(message.content for message in row.messages if message.role == "user"))
        first = self._rows.setdefault(so_far, place)
        if first != place:
            self._copies.add(place)
            text = f"the same row is already at {self._places[first]}"
            return [Finding(row.where, "duplicate", text, "warning", "leave one of them (--fix drops the second)")]
        return conflicts

    def near_findings(self) -> Iterator[Finding]:
        """Rows whose user messages are nearly those of another row, if texts were kept."""
        if self._texts is None:
            return
        from toolhone.data.near import near_duplicates  # numpy, datasketch: only for --near

        for first, second, similarity in near_duplicates(self._texts):
            if second in self._copies:
                continue
            text = f"the user's messages are nearly those of {self._places[first]} (similarity {similarity:.2f})"
            remedy = "keep both on one side of the split (toolhone data split does), or vary them more"
            yield Finding(self._places[second], "near-duplicate", text, "advice", remedy)


class SeenTools:
    """The definitions of tools so far: by name the first, with its place, and the others already reported."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[bytes, str]] = {}
        self._reported: set[bytes] = set()
        self._last: ToolSet | None = None

    def findings(self, row: Conversation, tools: ToolSet) -> Iterator[Finding]:
        if tools is self._last:
            return
        self._last = tools
        for name, digest in tools.digests.items():
            first, place = self._first.setdefault(name, (digest, row.where))
            if digest != first and digest not in self._reported:
                self._reported.add(digest)
                text = f'the tool "{name}" is defined differently at {place}'
                remedy = "give both rows one definition, or the tools two names"
                yield Finding(row.where, "tool-differs", text, "warning", remedy)


def content_key(row: Conversation) -> int:
    """The same for rows with equal tools and messages, whatever their ids; it holds within one process."""
    so_far = hash((json.dumps([tool.to_json() for tool in row.tools]), row.parallel_tool_calls))
    for message in row.messages:
        so_far = hash((so_far, _said(message)))
    return so_far if row.expected is None else hash((so_far, json.dumps(row.expected.to_json())))


def _said(message: Message) -> int:
    if not message.tool_calls:
        return hash((message.role, message.content, message.weight))
    return hash((message.role, message.content, message.weight, *map(_call_key, message.tool_calls)))


def _call_key(call: ToolCall) -> Hashable:
    """A call without its id, which ties a result to it and means nothing by itself."""
    try:
        # With types, for in Python 1 == 1.0 == True. A list or an object within cannot be hashed.
        entries = [(name, type(value), value) for name, value in call.arguments.items()]
        if len(entries) > 1:
            entries.sort(key=itemgetter(0))
        key = (call.name, *entries)
        hash(key)
    except TypeError:
        return call.name, json.dumps(call.arguments, sort_keys=True)
    return key
