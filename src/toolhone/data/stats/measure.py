"""`toolhone data stats`: what a data set is made of, counted in one pass and never held in memory.

In: conversations, and the faults of rows that gave none. Out: frozen `Stats`, which the table, the JSON and the page
show. Calls are those of learned turns: what a turn of weight 0 calls is taught to nobody. Tokens need a tokenizer and
are counted in `tokens.py`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolhone.data.importers.importer import RowFault
from toolhone.data.read import read_sources, read_tools
from toolhone.data.sources import print_formats
from toolhone.errors import UserError
from toolhone.jsonl import write_text
from toolhone.progress_bar import counted
from toolhone.records import Conversation

if TYPE_CHECKING:
    from rich.console import Console

    from toolhone.data.stats.tokens import TokenStats

_PLACES = 3
_WITH_TOKENIZER = 200
"""Rows that are rendered and tokenised in about a second."""


@dataclass(frozen=True, slots=True)
class ToolCount:
    """A tool: how many rows offer it, and how many calls learned turns make to it."""

    name: str
    offered: int
    called: int


@dataclass(frozen=True, slots=True)
class Share:
    """A count among others; `value` is None where there are none."""

    numerator: int
    denominator: int

    @property
    def value(self) -> float | None:
        return self.numerator / self.denominator if self.denominator else None

    def to_json(self) -> dict[str, Any]:
        return {"value": self.value, "numerator": self.numerator, "denominator": self.denominator}


@dataclass(frozen=True, slots=True)
class FaultCount:
    """A rule that reading found broken: how often, and the first places."""

    rule: str
    count: int
    places: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Stats:
    """A data set in figures. `turns` are the assistant turns that are learned (one example each), `unlearned_turns`
    those of weight 0. `turns_per_row` and `calls_per_turn` map a number to how many rows or turns have it.
    `languages` are what rows state in meta.language, `guessed_languages` what the script of the others suggests."""

    rows: int
    faults: tuple[FaultCount, ...]
    messages: dict[str, int]
    turns: int
    unlearned_turns: int
    turns_per_row: dict[int, int]
    calls: int
    calls_per_turn: dict[int, int]
    tools: tuple[ToolCount, ...]
    rows_without_tools: int
    no_call_rows: int
    languages: dict[str, int]
    guessed_languages: dict[str, int]
    gold_sources: dict[str, int]
    tokens: TokenStats | None = None

    @property
    def no_call_row_share(self) -> Share:
        """Rows in which no learned turn calls: they teach when not to call."""
        return Share(self.no_call_rows, self.rows)

    @property
    def no_call_turn_share(self) -> Share:
        """Learned turns without a call."""
        return Share(self.calls_per_turn.get(0, 0), self.turns)

    def to_json(self) -> dict[str, Any]:
        row = {key: value for key, value in asdict(self).items() if key not in ("tokens", "no_call_rows")}
        row["no_call_rows"] = self.no_call_row_share.to_json()
        row["no_call_turns"] = self.no_call_turn_share.to_json()
        for key in ("turns_per_row", "calls_per_turn"):
            row[key] = {str(number): count for number, count in row[key].items()}
        row["tokens"] = None if self.tokens is None else self.tokens.to_json()
        return row


def data_stats(
    sources: Sequence[str],
    *,
    tools: Path | None = None,
    format: str = "auto",
    tokenizer: str | None = None,
    html: Path | None = None,
    as_json: bool = False,
    console: Console,
) -> None:
    """Count the sources (each a path, or `path=weight`) and print tables, or one JSON object; write the page at `html`.

    Raises:
        UserError: where a source cannot be opened, no row gives a conversation, or the tokenizer cannot be had.
    """
    import json

    default_tools = read_tools(tools) if tools else ()
    if not as_json:
        print_formats(sources, format, console)
    rows = read_sources(sources, default_tools, format)
    found = measure(rows, tokenizer=tokenizer, console=console)
    if not found.rows:
        fault = found.faults[0] if found.faults else None
        why = f" (first fault, {fault.rule}: {fault.places[0]})" if fault else ""
        raise UserError(f"{', '.join(sources)}: no row that is a conversation{why}; try `toolhone data check`")
    if html:
        from toolhone.report.stats_page import stats_page

        write_text(html, stats_page(found, sources))
    if as_json:
        text = json.dumps({"sources": list(sources), **found.to_json()}, ensure_ascii=False, indent=2)
        console.file.write(text + "\n")  # not console.print, which would fold and colour it
        return
    from toolhone.report.stats_table import show

    show(found, sources, console)
    if html:
        console.print(f"page: {html}", markup=False)


def measure(
    rows: Iterable[Conversation | RowFault], *, tokenizer: str | None = None, console: Console | None = None
) -> Stats:
    """Count the rows as they pass. With a tokenizer (a folder or a name on the hub) their tokens too."""
    if tokenizer is None:
        return _count(counted(rows, console, "reading"))
    from toolhone.data.stats.tokens import TokenCounter

    counter = TokenCounter(tokenizer)
    return _count(counted(rows, console, "reading", short=_WITH_TOKENIZER), counter)


def _count(rows: Iterator[Conversation | RowFault], tokens: Any = None) -> Stats:
    faults: dict[str, list[str]] = {}
    count = without_tools = without_call = unlearned = calls = 0
    messages: Counter[str] = Counter()
    turns_per_row: Counter[int] = Counter()
    calls_per_turn: Counter[int] = Counter()
    offered: Counter[str] = Counter()
    called: Counter[str] = Counter()
    languages: Counter[str] = Counter()
    guessed: Counter[str] = Counter()
    gold_sources: Counter[str] = Counter()
    fault_counts: Counter[str] = Counter()
    for row in rows:
        if isinstance(row, RowFault):
            fault_counts[row.rule] += 1
            faults.setdefault(row.rule, [])
            if len(faults[row.rule]) < _PLACES:
                faults[row.rule].append(f"{row.where}: {row.message}")
            continue
        count += 1
        messages.update(message.role for message in row.messages)
        turns = [message for message in row.messages if message.role == "assistant"]
        learned = [turn for turn in turns if turn.weight > 0]
        unlearned += len(turns) - len(learned)
        turns_per_row[len(learned)] += 1
        calls_per_turn.update(len(turn.tool_calls) for turn in learned)
        names = [call.name for turn in learned for call in turn.tool_calls]
        calls += len(names)
        called.update(names)
        offered.update({tool.name for tool in row.tools})
        without_tools += not row.tools
        without_call += not names
        stated = row.meta.get("language")
        if isinstance(stated, str) and stated:
            languages[stated] += 1
        else:
            guessed[guess_language(m.content for m in row.messages if m.role == "user")] += 1
        if row.gold_source is not None:
            gold_sources[row.gold_source] += 1
        if tokens is not None:
            tokens.add(row)
    names_by_use = sorted({*offered, *called}, key=lambda name: (-called[name], -offered[name], name))
    return Stats(
        rows=count,
        faults=tuple(FaultCount(rule, number, tuple(faults[rule])) for rule, number in fault_counts.most_common()),
        messages=dict(messages.most_common()),
        turns=sum(calls_per_turn.values()),
        unlearned_turns=unlearned,
        turns_per_row=dict(sorted(turns_per_row.items())),
        calls=calls,
        calls_per_turn=dict(sorted(calls_per_turn.items())),
        tools=tuple(ToolCount(name, offered[name], called[name]) for name in names_by_use),
        rows_without_tools=without_tools,
        no_call_rows=without_call,
        languages=dict(languages.most_common()),
        guessed_languages=dict(guessed.most_common()),
        gold_sources=dict(gold_sources.most_common()),
        tokens=None if tokens is None else tokens.result(),
    )


# A Chinese character says about as much as a Latin word, so an order number of ten letters does not outvote three.
_UNITS = re.compile(
    r"(?P<kana>[\u3040-\u30ff])|(?P<zh>[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f])"
    r"|(?P<ko>[\uac00-\ud7a3\u1100-\u11ff]+)|(?P<Latin>[A-Za-z\u00c0-\u024f\u1e00-\u1eff]+)"
    r"|(?P<Cyrillic>[\u0400-\u052f]+)|(?P<Greek>[\u0370-\u03ff]+)|(?P<Arabic>[\u0600-\u06ff\u0750-\u077f]+)"
    r"|(?P<Hebrew>[\u0590-\u05ff]+)|(?P<Devanagari>[\u0900-\u097f]+)|(?P<Thai>[\u0e00-\u0e7f]+)"
)


def guess_language(texts: Iterable[str]) -> str:
    """Guess a language by the script alone: "zh", "ja", "ko", or "Latin script", since other scripts write many
    languages; "unknown" if there are no letters."""
    units: Counter[str] = Counter()
    for text in texts:
        units.update(str(found.lastgroup) for found in _UNITS.finditer(text))
    if units["kana"]:  # Japanese is written in both
        units["ja"] = units.pop("kana") + units.pop("zh", 0)
    if not units:
        return "unknown"
    most = max(units, key=lambda name: units[name])
    return most if most in ("zh", "ja", "ko") else f"{most} script"
