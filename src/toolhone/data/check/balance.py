"""Advice on a data set as a whole: how many rows there are and what they call, with the bounds of every band.

Rows in which a user is answered without a call: under 5% of all, expect over-calling. Rows without any call: over 80%,
expect a model that hardly calls. A tool that is called fewer than 10 times is rare; with three or more tools, more than
half of all calls to one is a lean.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from toolhone.data.check.finding import Finding
from toolhone.records import Conversation

_BANDS: tuple[tuple[int, str], ...] = (
    (50, "too few to learn from (under 50); aim at 100 at least"),
    (100, "enough for a trial (50 to 99); 100 and more are workable"),
    (500, "workable (100 to 499); 500 to 2,000 is the sweet spot"),
    (2_000, "in the sweet spot (500 to 1,999)"),
    (5_001, "fine if they are varied (2,000 to 5,000); look at near duplicates with --near"),
)
_MANY = "more than 5,000: look at the learning curve and at overfitting; fewer, more varied rows may do as well"

FEW_CALLS = 10
NO_CALL_LOW = 0.05
NO_CALL_HIGH = 0.80
LEANING = 0.5


class Balance:
    """Counts over all rows."""

    def __init__(self) -> None:
        self.rows = 0
        self.rows_without_call = 0
        self.rows_with_answer = 0
        self.turns = 0
        self.calls: Counter[str] = Counter()
        self.offered: set[str] = set()
        self.languages: Counter[str] = Counter()
        self._last_tools: object = None

    def add(self, row: Conversation) -> None:
        self.rows += 1
        called = answered = False
        asked_by = ""
        for message in row.messages:
            if message.role == "assistant":
                answered = answered or (asked_by == "user" and not message.tool_calls)
                self.turns += 1
                for call in message.tool_calls:
                    self.calls[call.name] += 1
                    called = True
            asked_by = message.role
        self.rows_without_call += not called
        self.rows_with_answer += answered
        if row.tools is not self._last_tools:  # rows mostly share their tools
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
        answered, silent = self.rows_with_answer / self.rows, self.rows_without_call / self.rows
        if answered < NO_CALL_LOW:
            text = (
                f"in {self.rows_with_answer:,} of {self.rows:,} rows ({answered:.1%}) a user is answered without a call"
            )
            remedy = "add rows in which no tool is wanted, 5% to 20% of all: expect over-calling else"
            yield Finding(where, "no-call-share", text, "advice", remedy)
        elif silent > NO_CALL_HIGH:
            text = f"{self.rows_without_call:,} of {self.rows:,} rows ({silent:.1%}) call no tool"
            remedy = "add rows with calls: expect a model that hardly calls else"
            yield Finding(where, "no-call-share", text, "advice", remedy)

    def _tool_findings(self, where: str) -> Iterator[Finding]:
        unused = sorted(self.offered - set(self.calls))
        for name in unused:
            remedy = "add rows that call it; a model learns not to call it else"
            yield Finding(where, "unused-tool", f'the tool "{name}" is offered and never called', "advice", remedy)
        for name, count in sorted(self.calls.items()):
            if count < FEW_CALLS:
                text = f'the tool "{name}" is called {count} time(s), fewer than {FEW_CALLS}'
                yield Finding(where, "rare-tool", text, "advice", "add rows that call it")
        total = self.calls.total()
        if len(self.calls) >= 3:
            name, count = self.calls.most_common(1)[0]
            if count > LEANING * total:
                text = f'{count:,} of {total:,} calls ({count / total:.0%}) are to "{name}"'
                yield Finding(where, "class-balance", text, "advice", "add rows that call the others")


def count_band(rows: int) -> str:
    """What this number of rows is good for."""
    return next((text for bound, text in _BANDS if rows < bound), _MANY)
