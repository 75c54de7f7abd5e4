"""Apply a person's marks to the data. They come from a review sheet: a CSV file, or the JSON that the page exports.

`data/review_sample.py` chooses the turns of the sheet. Only its random share estimates the accuracy of the whole data
set.

If every learned turn of a conversation is marked right or fixed, its `gold_source` becomes null. Scores on it then
measure accuracy, not agreement with a model. `meta.reviewed` says "right" or "fixed", and `meta.gold_source` keeps the
name of the model whose answers they were.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from toolhone.data.check import check
from toolhone.data.check.finding import refuse_all
from toolhone.data.read import examples
from toolhone.data.review_sample import turn_hash
from toolhone.data.sources import read_and_report, refuse_to_overwrite
from toolhone.errors import UserError
from toolhone.jsonl import read_json, write_conversations
from toolhone.rates import Rate, rate
from toolhone.records import Conversation, Example, Message, Tool, ToolCall
from toolhone.strict_json import StrictJsonError, parse_strict

if TYPE_CHECKING:
    from rich.console import Console

# Reading marks back

Verdict = Literal["right", "wrong", "fixed"]
VERDICTS: tuple[Verdict, ...] = ("right", "wrong", "fixed")
_NEEDED = ("id", "mark", "fixed", "reason", "hash")
_HOW_TO_EXPORT = "export the marks with the button on the review page"


@dataclass(frozen=True, slots=True)
class Mark:
    """A person's mark of a turn. `verdict` is None if the turn is not marked; `fixed` is the corrected turn."""

    where: str
    id: str
    verdict: Verdict | None
    reason: str
    hash: str
    fixed: Message | None


@dataclass(frozen=True, slots=True)
class ReviewReport:
    """What the marks say. `accuracy` is the share of marked random turns whose gold is right."""

    marked: Counter[str]
    dropped: int
    unlearned: int
    fixed: int
    thoughts_dropped: int  # of fixed turns: it led to the old answer
    accuracy: Rate
    unmarked_random: int

    def lines(self) -> list[str]:
        marks = ", ".join(f"{self.marked[verdict]} {verdict}" for verdict in VERDICTS)
        lines = [
            f"marks: {marks}, {self.marked['unmarked']} without a mark",
            f"rows dropped: {self.dropped}; turns with weight 0: {self.unlearned}; turns fixed: {self.fixed}",
        ]
        lines += [f"thinking dropped from {self.thoughts_dropped} fixed turns"] * bool(self.thoughts_dropped)
        if self.accuracy["value"] is None:
            return [*lines, "accuracy of the gold: unknown, because no turn of the random share is marked"]
        counted = f"{self.accuracy['numerator']} of {self.accuracy['denominator']} random turns"
        lines += [
            f"accuracy of the gold: {self.accuracy['value']:.1%} [{self.accuracy['low']:.1%}, "
            f"{self.accuracy['high']:.1%}] (95%, Wilson; {counted})",
            "only the random share counts: the other turns were chosen because they look wrong and would make the gold "
            "seem worse than it is",
        ]
        if self.unmarked_random:
            lines.append(
                f"{self.unmarked_random} random turns have no mark; if they were skipped because they are hard, the "
                "true accuracy is lower"
            )
        return lines


def apply_marks(
    sources: Sequence[str],
    marks: Path,
    out: Path,
    console: Console,
    *,
    tools: Sequence[Tool] = (),
    format: str = "auto",
    wrong: Literal["drop", "weight"] = "drop",
) -> ReviewReport:
    """Apply marks to the rows that the sheet was made from, and write them as toolhone's own JSONL.

    Args:
        sources: the files that the sheet was made from.
        wrong: "drop" removes the row of a turn marked wrong; "weight" gives the turn weight 0 instead.

    Raises:
        UserError: names every mark that cannot be read, matches no turn or breaks the tools. Nothing is written then.
    """
    shared = tuple(tools)
    source = ", ".join(sources)
    refuse_to_overwrite(out, sources, "the rows marked wrong would be lost")
    rows = list(read_and_report(sources, shared, format, console))
    turns = {example.id: example for row in rows for example in examples(row)}
    read = read_marks(marks)
    answered = {f"{row.id}/{n - 1}" for row in rows for n, m in enumerate(row.messages) if m.role == "tool"}
    refused = [text for mark in read for text in _faults(mark, turns, answered, source)]
    counts = Counter(mark.id for mark in read)
    refused += [f'{mark.where}: "{mark.id}" is marked twice' for mark in read if counts[mark.id] > 1][1:]
    refuse_all(refused)
    by_id = {mark.id: mark for mark in read if mark.verdict is not None}
    kept: list[Conversation] = []
    unlearned = 0
    for row in rows:
        own = [by_id[example.id] for example in examples(row) if example.id in by_id]
        wrongs = sum(mark.verdict == "wrong" for mark in own)
        if wrongs and wrong == "drop":
            continue
        unlearned += wrongs
        kept.append(marked(row, {mark.id: mark for mark in own}))
    without_shared_tools = [replace(row, tools=()) if row.tools is shared else row for row in kept]  # as in the source
    write_conversations(out, without_shared_tools)
    at_random = [mark for mark in read if mark.reason == "random"]
    verdicts = [mark.verdict for mark in at_random if mark.verdict is not None]
    report = ReviewReport(
        marked=Counter(mark.verdict or "unmarked" for mark in read),
        dropped=len(rows) - len(kept),
        unlearned=unlearned,
        fixed=sum(mark.verdict == "fixed" for mark in read),
        thoughts_dropped=sum(mark.fixed is not None and bool(turns[mark.id].turn.thinking) for mark in read),
        accuracy=rate(verdicts.count("right"), len(verdicts)),
        unmarked_random=len(at_random) - len(verdicts),
    )
    for line in report.lines():
        console.print(line, markup=False)
    console.print(f"written: {out} ({len(kept)} rows)", markup=False)
    return report


def marked(row: Conversation, marks: dict[str, Mark]) -> Conversation:
    """Return the conversation with fixed turns replaced, wrong turns at weight 0 and the source of its gold updated."""
    if not marks:
        return row
    messages = list(row.messages)
    last = max(n for n, message in enumerate(messages) if message.role == "assistant")
    expected = row.expected
    for id, mark in marks.items():
        number = int(id.rpartition("/")[2])
        if mark.verdict == "wrong":
            messages[number] = replace(messages[number], weight=0.0)
        if mark.fixed is not None:
            messages[number] = _with_ids(mark.fixed, row, number)
            expected = None if number == last else expected
    meta, gold_source = dict(row.meta), row.gold_source
    if all(mark.verdict != "wrong" for mark in marks.values()) and len(marks) == len(examples(row)):
        meta["reviewed"] = "fixed" if any(mark.fixed for mark in marks.values()) else "right"
        if gold_source is not None:
            meta["gold_source"], gold_source = gold_source, None
    return replace(row, messages=tuple(messages), expected=expected, gold_source=gold_source, meta=meta)


def _with_ids(fixed: Message, row: Conversation, number: int) -> Message:
    """Return the fixed turn with the call ids of the turn it replaces, so that the tool results still match."""
    ids = [call.id for call in row.messages[number].tool_calls]
    taken = {call.id for message in row.messages for call in message.tool_calls}
    fresh = (name for name in (f"fixed_{n}" for n in range(1, 1000)) if name not in taken)
    calls = [replace(c, id=ids[n] if n < len(ids) else next(fresh)) for n, c in enumerate(fixed.tool_calls)]
    return replace(fixed, tool_calls=tuple(calls))


def _faults(mark: Mark, turns: dict[str, Example], answered: set[str], source: str) -> Iterator[str]:
    """Yield the faults of a mark. `answered` has the ids of the turns whose calls have results in the conversation."""
    turn = turns.get(mark.id)
    if turn is None:
        yield f'{mark.where}: {source} has no learned turn "{mark.id}"; give the files that the sheet was made from'
    elif mark.hash != turn_hash(turn):
        yield f'{mark.where}: "{mark.id}" is not the turn that was marked ({turn.where} has changed); review it again'
    elif mark.fixed is not None:
        found, written = len(mark.fixed.tool_calls), len(turn.turn.tool_calls)
        if mark.id in answered and found != written:
            problem = f"expected {written} calls, because their results follow in the conversation, found {found}"
            yield f'{mark.where}: fixed: {problem}; mark "{mark.id}" wrong instead'
            return
        alone = (Message("user", "-"), mark.fixed)
        for fault in check([Conversation(mark.id, alone, turn.tools, f"{mark.where}: fixed")]):
            yield f"{fault.where}: {fault.message}"


def read_marks(path: Path) -> list[Mark]:
    """Return the marks of a .json file or a CSV. The `UserError` for bad lines names all of them."""
    rows = _json_rows(path) if path.suffix == ".json" else _csv_rows(path)
    marks: list[Mark] = []
    faults: list[str] = []
    for where, row in rows:
        try:
            marks.append(_mark(where, row))
        except UserError as error:
            faults.append(str(error))
    refuse_all(faults)
    if not marks:
        raise UserError(f"{path}: the file has no marks; {_HOW_TO_EXPORT}")
    return marks


def _csv_rows(path: Path) -> list[tuple[str, dict[str, Any]]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {_HOW_TO_EXPORT}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8; in Excel, save it as CSV UTF-8") from None
    header = text.partition("\n")[0]
    # Excel separates columns by semicolons where the comma is the decimal sign.
    delimiter = max(",;\t", key=header.count)
    table = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    _refuse_missing_columns(path, _with_current_names(dict.fromkeys(table.fieldnames or ())))
    rows: list[tuple[str, dict[str, Any]]] = []
    start = 2
    try:
        for row in table:
            cells = {key: value or "" for key, value in row.items() if isinstance(key, str)}
            rows.append((f"{path}:{start}", _with_current_names(cells)))
            start = table.line_num + 1  # a row may span lines
    except csv.Error as error:
        raise UserError(f"{path}:{start}: not CSV: {error}") from None
    return rows


def _json_rows(path: Path) -> list[tuple[str, dict[str, Any]]]:
    rows = read_json(path, _HOW_TO_EXPORT)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path}: expected a list of marks, as the page exports it")
    rows = [_with_current_names(row) for row in rows]
    for row in rows:
        _refuse_missing_columns(path, row)
    return [(f"{path}: mark {number}", row) for number, row in enumerate(rows, 1)]


def _with_current_names(row: dict[str, Any]) -> dict[str, Any]:
    """Return the row with "fixed" as the name of its column and mark. Older review files call both "mended"."""
    if "mended" not in row:
        return row
    mark = "fixed" if str(row.get("mark")).strip().lower() == "mended" else row.get("mark")
    return {"fixed" if name == "mended" else name: mark if name == "mark" else value for name, value in row.items()}


def _refuse_missing_columns(path: Path, names: Mapping[str, Any]) -> None:
    missing = [name for name in _NEEDED if name not in names]
    if missing:
        raise UserError(f"{path}: the column {missing[0]} is missing; expected {', '.join(_NEEDED)}, as in the sheet")


def _mark(where: str, row: dict[str, Any]) -> Mark:
    word = str(row["mark"] or "").strip().lower()
    verdict = next((verdict for verdict in VERDICTS if verdict == word), None)
    if word and verdict is None:
        raise UserError(f'{where}: expected the mark right, wrong or fixed, found "{word}"')
    fixed = row["fixed"]
    if isinstance(fixed, str):
        fixed = fixed.strip() or None
    if (fixed is not None) != (verdict == "fixed"):
        found = "a turn" if fixed is not None else "nothing"
        raise UserError(f'{where}: the mark is "{word}", but the column fixed has {found}; fill in both or neither')
    message = None if fixed is None else _read_fixed(where, fixed)
    return Mark(where, str(row["id"]), verdict, str(row["reason"]), str(row["hash"]), message)


def _read_fixed(where: str, fixed: Any) -> Message:
    """Return the corrected turn from a list of calls or from {"calls": [...], "content": "..."}."""
    example = 'expected [{"name": "...", "arguments": {...}}], or {"calls": [], "content": "the answer"}'
    if isinstance(fixed, str):
        try:
            fixed = parse_strict(fixed)
        except StrictJsonError as error:
            raise UserError(f"{where}: fixed: not JSON ({error}); {example}") from None
    turn = {"calls": fixed} if isinstance(fixed, list) else fixed
    if not isinstance(turn, dict) or not set(turn) <= {"calls", "content"}:
        raise UserError(f"{where}: fixed: {example}")
    calls, content = turn.get("calls", []), turn.get("content") or ""
    well_formed = isinstance(calls, list) and all(
        isinstance(c, dict) and isinstance(c.get("name"), str) and isinstance(c.get("arguments", {}), dict)
        for c in calls
    )
    if not well_formed or not isinstance(content, str) or not (calls or content.strip()):
        raise UserError(f"{where}: fixed: {example}")
    return Message("assistant", content, tuple(ToolCall(c["name"], c.get("arguments", {})) for c in calls))
