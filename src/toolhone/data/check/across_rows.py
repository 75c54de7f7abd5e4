"""Rules across rows: duplicates and contradictions, and advice on the data set as a whole.

Memory holds only hashes of rows: 1,000,000 rows take under 500 MB. Texts are kept only to find near duplicates. The
hashes are Python's own, of 64 bits: with 1,000,000 rows, one run in 40,000,000 has a false match.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Hashable, Iterator
from operator import itemgetter

from toolhone.data.check.contradictions import PromptPatterns
from toolhone.data.check.finding import Finding
from toolhone.data.check.schema import ToolSet
from toolhone.records import Conversation, Message, ToolCall

_PLACE_BITS = 32
_PLACE_MASK = (1 << _PLACE_BITS) - 1


class SeenRows:
    """The rows so far, as hashes, with their places."""

    def __init__(self, *, near: bool) -> None:
        self._places: list[str] = []
        self._rows: dict[int, int] = {}
        self._turns: dict[int, int] = {}  # a prompt's hash -> the turn's hash and the place, in one number
        self._copies: set[int] = set()
        self._texts: list[str] | None = [] if near else None
        self._patterns = PromptPatterns()

    def findings(self, row: Conversation, tools: ToolSet) -> list[Finding]:
        """Findings on exact duplicates, whatever their ids, and on turns that answer a prompt differently from an
        earlier row."""
        place = len(self._places)
        self._places.append(row.where)
        so_far = hash((tools.key, row.parallel_tool_calls))
        conflicts: list[Finding] = []
        for number, message in enumerate(row.messages):
            turn = _message_hash(message)
            if message.role == "assistant" and message.weight:
                known = self._turns.setdefault(so_far, turn << _PLACE_BITS | place)
                other = known & _PLACE_MASK
                if other != place and known >> _PLACE_BITS != turn:
                    text = f"message {number}: answers the same messages differently from {self._places[other]}"
                    remedy = "give both rows the right answer, or delete one of them"
                    conflicts.append(Finding(row.where, "conflict", text, "warning", remedy))
            so_far = hash((so_far, turn))
        so_far = _with_thinking(so_far, row)
        if row.expected is not None:
            so_far = hash((so_far, json.dumps(row.expected.to_json())))
        if self._texts is not None:
            self._texts.append("\n".join(message.content for message in row.messages if message.role == "user"))
        first = self._rows.setdefault(so_far, place)
        if first != place:
            self._copies.add(place)
            text = f"the same row is already at {self._places[first]}"
            remedy = "delete one of the two rows (--fix deletes the second)"
            return [Finding(row.where, "duplicate", text, "warning", remedy)]
        if self._texts is not None and not conflicts:
            self._patterns.add(row, tools.digests.values(), place)
        return conflicts

    def near_findings(self) -> Iterator[Finding]:
        """Findings on rows whose user messages are almost those of another row, and on turns that decide differently
        after the same words with other values; none if texts were not kept."""
        if self._texts is None:
            return
        from toolhone.data.groups import near_duplicates  # numpy, datasketch: only for --near

        for first, second, similarity in near_duplicates(self._texts):
            if second in self._copies:
                continue
            text = f"the user's messages are almost those of {self._places[first]} (similarity {similarity:.2f})"
            remedy = "keep both rows on one side of the split (toolhone data split does), or make them more different"
            yield Finding(self._places[second], "near-duplicate", text, "advice", remedy)
        yield from self._patterns.findings(self._places)


def content_key(row: Conversation) -> int:
    """A key that rows with equal tools and messages share, even if their ids differ; valid within one process."""
    so_far = hash((json.dumps([tool.to_json() for tool in row.tools]), row.parallel_tool_calls))
    for message in row.messages:
        so_far = hash((so_far, _message_hash(message)))
    so_far = _with_thinking(so_far, row)
    return so_far if row.expected is None else hash((so_far, json.dumps(row.expected.to_json())))


def _with_thinking(key: int, row: Conversation) -> int:
    """The key of a row, changed by its thinking: rows that differ only in thinking are no duplicates."""
    thoughts = [(number, message.thinking) for number, message in enumerate(row.messages) if message.thinking]
    return hash((key, *thoughts)) if thoughts else key


def _message_hash(message: Message) -> int:
    if not message.tool_calls:
        return hash((message.role, message.content, message.weight))
    return hash((message.role, message.content, message.weight, *map(_call_key, message.tool_calls)))


def _call_key(call: ToolCall) -> Hashable:
    """A key of the call without its id, because an id only links a result to its call."""
    try:
        # With types, because in Python 1 == 1.0 == True. A list or an object inside cannot be hashed.
        entries = [(name, type(value), value) for name, value in call.arguments.items()]
        if len(entries) > 1:
            entries.sort(key=itemgetter(0))
        key = (call.name, *entries)
        hash(key)
    except TypeError:
        return call.name, json.dumps(call.arguments, sort_keys=True)
    return key


_BANDS: tuple[tuple[int, str], ...] = (
    (50, "too few to learn from (under 50); aim for at least 100"),
    (100, "enough for a trial (50 to 99); 100 or more are workable"),
    (500, "workable (100 to 499); 500 to 2,000 is the sweet spot"),
    (2_000, "in the sweet spot (500 to 1,999)"),
    (5_001, "fine if they are varied (2,000 to 5,000); look for near duplicates with --near"),
)
_MANY = "more than 5,000: check the learning curve and overfitting; fewer, more varied rows may work as well"

FEW_CALLS = 10
NO_CALL_LOW = 0.05
NO_CALL_HIGH = 0.80
DOMINANT_SHARE = 0.5


class Balance:
    """Counts over all rows."""

    def __init__(self) -> None:
        self.rows = 0
        self.rows_without_call = 0
        self.rows_with_answer = 0
        self.turns = 0
        self.turns_with_thinking = 0
        self.calls: Counter[str] = Counter()
        self.offered: set[str] = set()
        self.languages: Counter[str] = Counter()
        self._last_tools: object = None

    def add(self, row: Conversation) -> None:
        self.rows += 1
        called = answered = False
        previous_role = ""
        for message in row.messages:
            if message.role == "assistant":
                answered = answered or (previous_role == "user" and not message.tool_calls)
                self.turns += 1
                self.turns_with_thinking += bool(message.thinking)
                for call in message.tool_calls:
                    self.calls[call.name] += 1
                    called = True
            previous_role = message.role
        self.rows_without_call += not called
        self.rows_with_answer += answered
        if row.tools is not self._last_tools:  # most rows share their tools
            self.offered.update(tool.name for tool in row.tools)
            self._last_tools = row.tools
        language = row.meta.get("language")
        if isinstance(language, str):
            self.languages[language] += 1

    def findings(self, where: str) -> Iterator[Finding]:
        """Advice on all rows together; none if there are no rows."""
        if not self.rows:
            return
        yield Finding(where, "count", f"{self.rows:,} rows: {count_band(self.rows)}", "advice")
        yield from self._tool_findings(where)
        if self.turns_with_thinking:
            text = f"{self.turns_with_thinking:,} of {self.turns:,} assistant turns have thinking (reasoning_content)"
            remedy = (
                "choose with chat.thinking: strip (the default) leaves it out, keep has it in later prompts, train "
                "also learns it"
            )
            yield Finding(where, "thinking", text, "advice", remedy)
        answered, silent = self.rows_with_answer / self.rows, self.rows_without_call / self.rows
        if answered < NO_CALL_LOW:
            text = (
                f"in {self.rows_with_answer:,} of {self.rows:,} rows ({answered:.1%}) the assistant answers the user "
                "without a call"
            )
            remedy = "add rows that need no tool, 5% to 20% of all; otherwise the model will call tools too often"
            yield Finding(where, "no-call-share", text, "advice", remedy)
        elif silent > NO_CALL_HIGH:
            text = f"{self.rows_without_call:,} of {self.rows:,} rows ({silent:.1%}) call no tool"
            remedy = "add rows with calls; otherwise the model will hardly ever call a tool"
            yield Finding(where, "no-call-share", text, "advice", remedy)

    def _tool_findings(self, where: str) -> Iterator[Finding]:
        unused = sorted(self.offered - set(self.calls))
        for name in unused:
            remedy = "add rows that call it; otherwise the model learns not to call it"
            yield Finding(where, "unused-tool", f'the tool "{name}" is offered but never called', "advice", remedy)
        for name, count in sorted(self.calls.items()):
            if count < FEW_CALLS:
                text = f'the tool "{name}" is called {count} time(s), fewer than {FEW_CALLS}'
                yield Finding(where, "rare-tool", text, "advice", "add rows that call it")
        total = self.calls.total()
        if len(self.calls) >= 3:
            name, count = self.calls.most_common(1)[0]
            if count > DOMINANT_SHARE * total:
                text = f'{count:,} of {total:,} calls ({count / total:.0%}) are to "{name}"'
                yield Finding(where, "class-balance", text, "advice", "add rows that call the other tools")


def count_band(rows: int) -> str:
    """What to expect of this number of rows."""
    return next((text for bound, text in _BANDS if rows < bound), _MANY)
