"""Choose the turns that a person should review, and read the marks back, which turns agreement into accuracy.

Turns are chosen because they are doubtful, or at random. Only the random share gives an estimate for the whole data
set, since the other turns were chosen because they look wrong. The marks come from a review sheet (CSV, or the page's
JSON). If every learned turn of a conversation was marked right or mended, its `gold_source` becomes null, so that
figures against it are accuracy; `meta.reviewed` says "right" or "mended", and `meta.gold_source` whose answers they
were.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from toolhone.data.check import check
from toolhone.data.check.finding import refuse_all
from toolhone.data.check.one_row import invented_values
from toolhone.data.check.schema import Vocabulary
from toolhone.data.read import examples
from toolhone.data.sources import read_and_report, refuse_to_overwrite
from toolhone.errors import UserError
from toolhone.jsonl import read_json, write_conversations
from toolhone.rates import Rate, rate
from toolhone.records import Conversation, Example, Message, Tool, ToolCall
from toolhone.strict_json import StrictJsonError, parse_strict

if TYPE_CHECKING:
    from rich.console import Console

Reason = Literal["random", "disagreement", "invented value", "rare tool"]

# A turn with several doubts counts for the first of these.
DOUBTS: tuple[Reason, ...] = ("disagreement", "invented value", "rare tool")
_RARE_TURNS, _RARE_SHARE = 5, 0.01  # a tool is rare if fewer turns call it, or a smaller share of the turns with calls


@dataclass(frozen=True, slots=True)
class Sampled:
    """A turn on the sheet. `doubts` says by kind what is doubtful about it, whatever it was chosen for.

    `probability` is, for a random turn, that of any turn to be in the random share; for a doubtful turn, that of one of
    its kind outside the random share to be chosen."""

    example: Example
    reason: Reason
    probability: float
    doubts: dict[Reason, str]


def sample(
    examples: Sequence[Example], disagreements: Mapping[str, str], *, rows: int, random_share: float, seed: int
) -> list[Sampled]:
    """Choose at most `rows` turns, `random_share` of them at random and the rest evenly among the kinds of doubt.

    `disagreements` says by example id how a model's answer differs. If too few turns are doubtful, more are random. The
    order is random, so that a turn's place does not give away why it is there.
    """
    doubts = find_doubts(examples, disagreements)
    if len(examples) <= rows:
        chosen = [Sampled(example, "random", 1.0, doubts[example.id]) for example in examples]
        return sorted(chosen, key=lambda one: _hash(seed, "order", one.example.id))
    doubtful = min(rows - max(1, round(rows * random_share)), sum(bool(found) for found in doubts.values()))
    # The first turns by hash are a simple random sample, and stay much the same when rows are added.
    shuffled = sorted(examples, key=lambda example: _hash(seed, "random", example.id))
    drawn, rest = shuffled[: rows - doubtful], shuffled[rows - doubtful :]
    chosen = [Sampled(example, "random", len(drawn) / len(examples), doubts[example.id]) for example in drawn]
    by_kind: dict[Reason, list[Example]] = {kind: [] for kind in DOUBTS}
    for example in rest:
        first = next((kind for kind in DOUBTS if kind in doubts[example.id]), None)
        if first is not None:
            by_kind[first].append(example)
    # The members of a kind are in random order already; the kinds take turns.
    turns = (pair for turn in zip_longest(*by_kind.values()) for pair in zip(DOUBTS, turn, strict=True))
    taken = list(islice(((kind, example) for kind, example in turns if example is not None), doubtful))
    counts = Counter(kind for kind, _ in taken)
    chosen += [Sampled(e, kind, counts[kind] / len(by_kind[kind]), doubts[e.id]) for kind, e in taken]
    return sorted(chosen, key=lambda one: _hash(seed, "order", one.example.id))


def find_doubts(examples: Sequence[Example], disagreements: Mapping[str, str]) -> dict[str, dict[Reason, str]]:
    """Return what is doubtful about each example, by its id."""
    with_calls = [example for example in examples if _called(example)]
    turns = Counter(name for example in with_calls for name in _called(example))
    rare = {name for name, count in turns.items() if count < max(_RARE_TURNS, _RARE_SHARE * len(with_calls))}
    vocabularies: dict[tuple[Tool, ...] | int, Vocabulary] = {}
    found: dict[str, dict[Reason, str]] = {}
    for example in examples:
        doubts: dict[Reason, str] = {}
        if example.id in disagreements:
            doubts["disagreement"] = disagreements[example.id]
        if id(example.tools) not in vocabularies:
            vocabularies[id(example.tools)] = Vocabulary(example.tools)
        invented = list(invented_values(_alone(example), vocabularies[id(example.tools)]))
        if invented:
            doubts["invented value"] = "; ".join(finding.message.partition(": ")[2] for finding in invented)
        rarely = sorted(_called(example) & rare)
        if rarely:
            doubts["rare tool"] = "; ".join(f"{name} is called in {turns[name]} turns" for name in rarely)
        found[example.id] = doubts
    return found


def gold_calls(example: Example) -> tuple[ToolCall, ...]:
    """Return the calls that the example expects, each argument with the first of its accepted values."""
    calls = example.gold.calls
    return tuple(ToolCall(call.name, {name: values[0] for name, values in call.arguments.items()}) for call in calls)


def turn_hash(example: Example) -> str:
    """Return a hash of the turn and all before it: a mark holds for what the person saw."""
    seen = [message.to_json() for message in (*example.prompt, example.turn)]
    text = json.dumps([seen, example.gold.to_json()], ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _called(example: Example) -> set[str]:
    return {call.name for call in example.gold.calls}


def _alone(example: Example) -> Conversation:
    """Return the example as a conversation with no calls except the gold's."""
    before = tuple(replace(message, tool_calls=()) for message in example.prompt)
    turn = replace(example.turn, tool_calls=gold_calls(example))
    return Conversation(example.id, (*before, turn), example.tools, example.where)


def _hash(seed: int, purpose: str, id: str) -> bytes:
    return hashlib.sha256(f"{seed}/{purpose}/{id}".encode()).digest()


# Reading marks back

Verdict = Literal["right", "wrong", "mended"]
VERDICTS: tuple[Verdict, ...] = ("right", "wrong", "mended")
_NEEDED = ("id", "mark", "mended", "reason", "hash")
_EXPORTED = "the page's button exports the marks"


@dataclass(frozen=True, slots=True)
class Mark:
    """A person's mark of a turn. `mended` is the turn that is right, with calls or a text."""

    where: str
    id: str
    verdict: Verdict | None
    reason: str
    hash: str
    mended: Message | None


@dataclass(frozen=True, slots=True)
class ReviewReport:
    """The outcome. `accuracy` is the share of right gold among the marked random turns; `unmarked_random` counts the
    other random turns."""

    marked: Counter[str]
    dropped: int
    unlearned: int
    mended: int
    accuracy: Rate
    unmarked_random: int

    def lines(self) -> list[str]:
        marks = ", ".join(f"{self.marked[verdict]} {verdict}" for verdict in VERDICTS)
        lines = [
            f"marks: {marks}, {self.marked['unmarked']} without a mark",
            f"rows dropped: {self.dropped}; turns with weight 0: {self.unlearned}; turns mended: {self.mended}",
        ]
        if self.accuracy["value"] is None:
            return [*lines, "accuracy of the gold: unknown, for no turn of the random share is marked"]
        counted = f"{self.accuracy['numerator']} of {self.accuracy['denominator']} random turns"
        lines += [
            f"accuracy of the gold: {self.accuracy['value']:.1%} [{self.accuracy['low']:.1%}, "
            f"{self.accuracy['high']:.1%}] (95%, Wilson; {counted})",
            "from the random share alone: the other turns were chosen because they look wrong, and would make the gold "
            "seem worse than it is",
        ]
        if self.unmarked_random:
            lines.append(
                f"{self.unmarked_random} random turns are without a mark; were they left out for being hard, the true "
                "figure is lower"
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
    """Apply marks to the sources of the sheet, and write the rows as toolhone's own JSONL. A wrong turn removes its
    row, or with `wrong` "weight" gets weight 0.

    Raises:
        UserError: with every mark that cannot be read, fits no turn, or breaks the tools; nothing is then written.
    """
    shared = tuple(tools)
    source = ", ".join(sources)
    refuse_to_overwrite(out, sources, "what was marked wrong would be gone for good")
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
    bare = [replace(row, tools=()) if row.tools is shared else row for row in kept]  # as the source had it
    write_conversations(out, bare)
    at_random = [mark for mark in read if mark.reason == "random"]
    verdicts = [mark.verdict for mark in at_random if mark.verdict is not None]
    report = ReviewReport(
        marked=Counter(mark.verdict or "unmarked" for mark in read),
        dropped=len(rows) - len(kept),
        unlearned=unlearned,
        mended=sum(mark.verdict == "mended" for mark in read),
        accuracy=rate(verdicts.count("right"), len(verdicts)),
        unmarked_random=len(at_random) - len(verdicts),
    )
    for line in report.lines():
        console.print(line, markup=False)
    console.print(f"written: {out} ({len(kept)} rows)", markup=False)
    return report


def marked(row: Conversation, marks: dict[str, Mark]) -> Conversation:
    """Return a conversation with mended turns replaced, wrong ones no longer learned, and its gold's source updated."""
    if not marks:
        return row
    messages = list(row.messages)
    last = max(n for n, message in enumerate(messages) if message.role == "assistant")
    expected = row.expected
    for id, mark in marks.items():
        number = int(id.rpartition("/")[2])
        if mark.verdict == "wrong":
            messages[number] = replace(messages[number], weight=0.0)
        if mark.mended is not None:
            messages[number] = _with_ids(mark.mended, row, number)
            expected = None if number == last else expected
    meta, gold_source = dict(row.meta), row.gold_source
    if all(mark.verdict != "wrong" for mark in marks.values()) and len(marks) == len(examples(row)):
        meta["reviewed"] = "mended" if any(mark.mended for mark in marks.values()) else "right"
        if gold_source is not None:
            meta["gold_source"], gold_source = gold_source, None
    return replace(row, messages=tuple(messages), expected=expected, gold_source=gold_source, meta=meta)


def _with_ids(mended: Message, row: Conversation, number: int) -> Message:
    """Return the mended turn with the ids of the calls that it replaces, so that results still answer them."""
    ids = [call.id for call in row.messages[number].tool_calls]
    taken = {call.id for message in row.messages for call in message.tool_calls}
    fresh = (name for name in (f"mended_{n}" for n in range(1, 1000)) if name not in taken)
    calls = [replace(c, id=ids[n] if n < len(ids) else next(fresh)) for n, c in enumerate(mended.tool_calls)]
    return replace(mended, tool_calls=tuple(calls))


def _faults(mark: Mark, turns: dict[str, Example], answered: set[str], source: str) -> Iterator[str]:
    """Yield the faults of a mark. `answered` are the ids of turns whose calls have results in the conversation."""
    turn = turns.get(mark.id)
    if turn is None:
        yield f'{mark.where}: {source} has no learned turn "{mark.id}"; the marks are of other data'
    elif mark.hash != turn_hash(turn):
        yield f'{mark.where}: "{mark.id}" is not the turn that was marked ({turn.where} has changed); review it again'
    elif mark.mended is not None:
        found, written = len(mark.mended.tool_calls), len(turn.turn.tool_calls)
        if mark.id in answered and found != written:
            counts = f"{found} calls in the place of {written}, whose results follow in the conversation"
            yield f'{mark.where}: mended: {counts}; mark "{mark.id}" wrong instead'
            return
        alone = (Message("user", "-"), mark.mended)
        for fault in check([Conversation(mark.id, alone, turn.tools, f"{mark.where}: mended")]):
            yield f"{fault.where}: {fault.message}"


def read_marks(path: Path) -> list[Mark]:
    """Read a file of marks, CSV or JSON by its name; a `UserError` names every line that cannot be read."""
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
        raise UserError(f"{path}: no marks")
    return marks


def _csv_rows(path: Path) -> list[tuple[str, dict[str, Any]]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {_EXPORTED}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8; in Excel, save it as CSV UTF-8") from None
    header = text.partition("\n")[0]
    # Excel writes semicolons if a comma is the decimal sign.
    delimiter = max(",;\t", key=header.count)
    table = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    _refuse_lacking(path, table.fieldnames or ())
    rows: list[tuple[str, dict[str, Any]]] = []
    start = 2
    try:
        for row in table:
            rows.append((f"{path}:{start}", {key: value or "" for key, value in row.items() if isinstance(key, str)}))
            start = table.line_num + 1  # a row may span lines
    except csv.Error as error:
        raise UserError(f"{path}:{start}: not CSV: {error}") from None
    return rows


def _json_rows(path: Path) -> list[tuple[str, dict[str, Any]]]:
    rows = read_json(path, _EXPORTED)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path}: expected a list of marks, as the page exports it")
    for row in rows:
        _refuse_lacking(path, row)
    return [(f"{path}: mark {number}", row) for number, row in enumerate(rows, 1)]


def _refuse_lacking(path: Path, names: Any) -> None:
    lacking = [name for name in _NEEDED if name not in names]
    if lacking:
        raise UserError(f"{path}: the column {lacking[0]} is missing; expected {', '.join(_NEEDED)}, as in the sheet")


def _mark(where: str, row: dict[str, Any]) -> Mark:
    word = str(row["mark"] or "").strip().lower()
    verdict = next((verdict for verdict in VERDICTS if verdict == word), None)
    if word and verdict is None:
        raise UserError(f'{where}: expected the mark right, wrong or mended, found "{word}"')
    mended = row["mended"]
    if isinstance(mended, str):
        mended = mended.strip() or None
    if (mended is not None) != (verdict == "mended"):
        found = "a mended turn" if mended is not None else "none"
        raise UserError(f'{where}: the mark is "{word}" and there is {found}; fill in both or neither')
    message = None if mended is None else _mended(where, mended)
    return Mark(where, str(row["id"]), verdict, str(row["reason"]), str(row["hash"]), message)


def _mended(where: str, mended: Any) -> Message:
    """Return the right turn, given a list of calls or {"calls": [...], "content": "..."}."""
    example = 'expected [{"name": "...", "arguments": {...}}], or {"calls": [], "content": "the answer"}'
    if isinstance(mended, str):
        try:
            mended = parse_strict(mended)
        except StrictJsonError as error:
            raise UserError(f"{where}: mended: not JSON ({error}); {example}") from None
    turn = {"calls": mended} if isinstance(mended, list) else mended
    if not isinstance(turn, dict) or not set(turn) <= {"calls", "content"}:
        raise UserError(f"{where}: mended: {example}")
    calls, content = turn.get("calls", []), turn.get("content") or ""
    shaped = isinstance(calls, list) and all(
        isinstance(c, dict) and isinstance(c.get("name"), str) and isinstance(c.get("arguments", {}), dict)
        for c in calls
    )
    if not shaped or not isinstance(content, str) or not (calls or content.strip()):
        raise UserError(f"{where}: mended: {example}")
    return Message("assistant", content, tuple(ToolCall(c["name"], c.get("arguments", {})) for c in calls))
