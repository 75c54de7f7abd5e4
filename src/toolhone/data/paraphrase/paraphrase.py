"""More phrasings from a model: the user's words of each row are paraphrased, and everything else stays as it is.

In: conversations, and any OpenAI-compatible endpoint. Out: the rows, each followed by those of its paraphrases that
hold up (see `reword.fault`). Every answer goes into a side file, <out>.answers.jsonl, as soon as it is there; a second
run asks only for what is missing from it. The budget covers the side file: what earlier runs spent counts.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import IO, TYPE_CHECKING

from toolhone.data.check import refuse_faults
from toolhone.data.paraphrase.reword import fault, plain, read_wordings, request, reworded, template_of, user_turns
from toolhone.data.sources import read_and_report, refuse_to_overwrite
from toolhone.endpoint import Attempt, Budget, Endpoint, OutOfBudget
from toolhone.errors import UserError
from toolhone.jsonl import write_jsonl
from toolhone.records import Conversation, Tool
from toolhone.strict_json import StrictJsonError, parse_strict

if TYPE_CHECKING:
    from rich.console import Console

_REFUSALS = 5


@dataclass(frozen=True, slots=True)
class ParaphraseSettings:
    """What to ask for, of whom, and within which limits. Prices are in dollars for a million tokens."""

    model: str
    base_url: str
    per_row: int = 3
    max_calls: int | None = None
    max_usd: float | None = None
    price_in: float | None = None
    price_out: float | None = None
    concurrency: int = 4
    timeout_s: float = 60.0
    retries: int = 4
    max_tokens: int = 2048
    first_wait_s: float = 1.0
    only_new: bool = False
    """Leave the source rows out of what is written."""

    def __post_init__(self) -> None:
        for name in ("per_row", "concurrency", "max_tokens"):
            if getattr(self, name) < 1:
                raise UserError(f"{_flag(name)}: expected 1 or more, found {getattr(self, name)}")
        for name in ("max_calls", "max_usd", "price_in", "price_out", "retries"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise UserError(f"{_flag(name)}: expected 0 or more, found {value}")
        if not self.timeout_s > 0:
            raise UserError(f"--timeout: expected more than 0 seconds, found {self.timeout_s}")
        if self.max_usd is not None and (self.price_in is None or self.price_out is None):
            raise UserError("--max-usd: needs --price-in and --price-out, in dollars for a million tokens")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


@dataclass(slots=True)
class ParaphraseReport:
    """What came of it. `dropped` counts wordings by reason; `rows_without` counts rows that got none, by reason."""

    rows: int = 0
    kept: int = 0
    skipped: int = 0
    calls: int = 0
    usd: float | None = None
    dropped: Counter[str] = field(default_factory=Counter)
    rows_without: Counter[str] = field(default_factory=Counter)
    stopped: str | None = None

    def lines(self) -> list[str]:
        """The report in words."""
        cost = "" if self.usd is None else f", ${self.usd:.4f}"
        said = [f"{self.kept} paraphrases of {self.rows} rows; {self.calls} calls so far{cost}"]
        if self.skipped:
            said.append(f"{self.skipped} rows left as they are: paraphrases already, or without a user's words")
        said += [f"dropped: {n} x {reason}" for reason, n in self.dropped.most_common()]
        said += [f"rows without an answer: {n} x {reason}" for reason, n in self.rows_without.most_common()]
        if self.stopped:
            said.append(f"stopped: {self.stopped}")
        return said


class _AnswerFile:
    """The side file: a line for each attempt, appended and flushed at once. `texts` are the answers by key."""

    def __init__(self, path: Path, budget: Budget) -> None:
        self.path = path
        self.texts: dict[str, str] = {}
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        held = path.read_bytes() if path.exists() else b""
        for number, line in enumerate(held.split(b"\n"), 1):
            if line.strip():
                self._take(line, number, budget)
        self._out: IO[str] = path.open("a", encoding="utf-8", newline="\n")
        if held and not held.endswith(b"\n"):  # an interrupted line; the next one must not grow onto it
            self._out.write("\n")

    def _take(self, line: bytes, number: int, budget: Budget) -> None:
        try:
            row = parse_strict(line.decode(), allow_surrogates=True)
            budget.spend(row["prompt_tokens"], row["completion_tokens"])
            if isinstance(row["text"], str):
                self.texts[row["key"]] = row["text"]
        except (UnicodeDecodeError, StrictJsonError, KeyError, TypeError):
            # Cut off by a crash: the answer is lost, and was perhaps paid for; the call is counted.
            budget.spend(0, 0)

    def append(self, key: str, id: str, attempt: Attempt) -> None:
        row: dict[str, str | int | None] = {"key": key, "id": id, "text": attempt.text, "failure": attempt.failure}
        row |= {"prompt_tokens": attempt.prompt_tokens, "completion_tokens": attempt.completion_tokens}
        with self._lock:
            # ASCII, for a model's text may hold half of a surrogate pair.
            self._out.write(json.dumps(row) + "\n")
            self._out.flush()
            if attempt.text is not None:
                self.texts[key] = attempt.text

    def close(self) -> None:
        self._out.close()


def paraphrase(
    sources: Sequence[str],
    out: Path,
    settings: ParaphraseSettings,
    console: Console,
    *,
    tools: Sequence[Tool] = (),
    format: str = "auto",
) -> ParaphraseReport:
    """Paraphrase the rows of sources in any format, and write them with their paraphrases as toolhone's own JSONL.
    `tools` are for rows without any.

    A run that is stopped by its budget writes what it has; one that is interrupted leaves the side file alone.

    Raises:
        UserError: before anything is asked for, for a test row and for rows that cannot be read or have errors; for an
            endpoint that cannot be used.
    """
    refuse_to_overwrite(out, sources, "paraphrases go into a file of their own")
    shared = tuple(tools)
    rows = list(read_and_report(sources, shared, format, console))
    if not rows:
        raise UserError(f"{', '.join(sources)}: no rows")
    _refuse_test_rows(rows)
    refuse_faults(rows)
    budget = Budget(settings.max_calls, settings.max_usd, settings.price_in or 0.0, settings.price_out or 0.0)
    report = ParaphraseReport(rows=len(rows))
    wanted = [row for row in rows if "paraphrase_of" not in row.meta and any(t.strip() for t in user_turns(row))]
    report.skipped = len(rows) - len(wanted)
    keys = {row.id: _key(row, settings) for row in wanted}
    answers = _AnswerFile(out.with_name(out.name + ".answers.jsonl"), budget)
    try:
        missing = list({keys[row.id]: row for row in wanted if keys[row.id] not in answers.texts}.items())
        if len(missing) < len(set(keys.values())):
            console.print(f"{len(set(keys.values())) - len(missing)} answers are in {answers.path} already")
        if missing:
            _ask_all(missing, settings, budget, answers, report, console)
    finally:
        answers.close()
    made = _made(rows, keys, answers.texts, settings, report)
    refuse_faults(made)
    written = [replace(row, tools=()) if row.tools is shared else row for row in made]  # as the source had it
    write_jsonl(out, (row.to_json() for row in written))
    report.calls = budget.calls
    report.usd = budget.usd if settings.price_in is not None and settings.price_out is not None else None
    for line in report.lines():
        console.print(line, markup=False)
    console.print(f"written: {out} ({len(written)} rows)", markup=False)
    return report


def _refuse_test_rows(rows: Iterable[Conversation]) -> None:
    for row in rows:
        if row.meta.get("split") == "test":
            raise UserError(f"{row.where}: is a test row (meta.split); test rows are never paraphrased: take them out")


def _key(row: Conversation, settings: ParaphraseSettings) -> str:
    """A hash of all that an answer depends on: the model and the request, which holds the row's content."""
    asked = json.dumps([settings.model, request(row, settings.per_row)], ensure_ascii=False)
    return hashlib.sha256(asked.encode()).hexdigest()[:32]


def _ask_all(
    missing: list[tuple[str, Conversation]],
    settings: ParaphraseSettings,
    budget: Budget,
    answers: _AnswerFile,
    report: ParaphraseReport,
    console: Console,
) -> None:
    """Ask for every missing answer, so many at a time, until all are there or the budget is used up."""
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    endpoint = Endpoint(
        settings.model,
        settings.base_url,
        max_tokens=settings.max_tokens,
        timeout_s=settings.timeout_s,
        retries=settings.retries,
        first_wait_s=settings.first_wait_s,
    )
    stop = threading.Event()

    def ask(key: str, row: Conversation) -> Attempt | None:
        messages = request(row, settings.per_row)
        return endpoint.ask(messages, budget, lambda attempt: answers.append(key, row.id, attempt), stop)

    waiting = iter(missing)
    running: set[Future[Attempt | None]] = set()
    with (
        Progress(
            *Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn(), console=console
        ) as bar,
        ThreadPoolExecutor(settings.concurrency) as pool,
    ):
        task = bar.add_task("asking", total=len(missing))
        try:
            while True:
                while report.stopped is None and len(running) < settings.concurrency:
                    entry = next(waiting, None)
                    if entry is None:
                        break
                    running.add(pool.submit(ask, *entry))
                if not running:
                    break
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    try:
                        attempt = future.result()
                    except OutOfBudget:
                        kept = f"{answers.path} keeps the answers"
                        report.stopped = f"the budget is used up; raise it and run again: {kept}"
                        continue
                    bar.advance(task)
                    if attempt is not None and attempt.failure is not None:
                        report.rows_without[attempt.failure.partition(":")[0]] += 1
                        _refuse_hopeless(report, attempt.failure, answers)
        finally:
            # Also on Ctrl-C: no call starts any more, those that run are put on record.
            stop.set()
    lacking = sum(key not in answers.texts for key, _ in missing) - sum(report.rows_without.values())
    if lacking > 0:
        report.rows_without["not asked"] += lacking


def _refuse_hopeless(report: ParaphraseReport, failure: str, answers: _AnswerFile) -> None:
    """Several rows without an answer, and none with one: the fault is not the rows'."""
    if not answers.texts and sum(report.rows_without.values()) >= _REFUSALS:
        raise UserError(f"the first {_REFUSALS} rows got no answer ({failure}); look at --model, --base-url, --timeout")


def _made(
    rows: Sequence[Conversation],
    keys: dict[str, str],
    texts: dict[str, str],
    settings: ParaphraseSettings,
    report: ParaphraseReport,
) -> list[Conversation]:
    """The source rows, each followed by its paraphrases that hold up."""
    made: list[Conversation] = []
    taken = {row.id for row in rows}
    for row in rows:
        key = keys.get(row.id)
        if not settings.only_new:
            made.append(row if key is None else replace(row, meta={**row.meta, "template": template_of(row)}))
        if key is None or key not in texts:
            continue
        wordings = read_wordings(texts[key])
        if wordings is None:
            report.dropped["an answer that is not the JSON asked for"] += 1
            continue
        told = {plain(user_turns(row))}
        for wording in wordings[: settings.per_row]:
            reason = fault(row, wording)
            said = "" if reason else plain([wording] if isinstance(wording, str) else wording)
            if reason is None and said in told:
                reason = "nothing but a copy"
            if reason is not None:
                report.dropped[reason] += 1
                continue
            told.add(said)
            number = next(n for n in count(1) if f"{row.id}-p{n}" not in taken)
            taken.add(id := f"{row.id}-p{number}")
            made.append(reworded(row, wording, id, settings.model))
            report.kept += 1
    return made
