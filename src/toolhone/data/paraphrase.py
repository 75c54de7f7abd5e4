"""`toolhone data paraphrase`: let a model reword the user's messages, and keep everything else in the rows.

In: conversations, and any OpenAI-compatible endpoint. Out: the rows, each followed by its usable paraphrases (see
`fault`). Every answer is saved at once in <out>.answers.jsonl, and a second run asks only for the missing ones. The
budget includes what earlier runs spent.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from itertools import count, islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from toolhone.data.check import refuse_faults
from toolhone.data.sources import read_and_report, refuse_to_overwrite
from toolhone.data.values import argument_values, codes, letters_and_digits, numbers_in, occurs_in
from toolhone.endpoint import Attempt, Budget, Endpoint, OutOfBudget
from toolhone.errors import UserError
from toolhone.jsonl import write_jsonl
from toolhone.progress import Progress
from toolhone.records import Conversation, Tool
from toolhone.strict_json import StrictJsonError, parse_strict

if TYPE_CHECKING:
    from rich.console import Console

_INSTRUCTIONS = """\
You write other wordings of what the user of an assistant says. You get a JSON object: "user" lists the user's
messages of one conversation in order, "assistant" says what the assistant rightly does in it, "keep" lists for each
message what must stand in it letter for letter, and "count" says how many wordings to write.

For each wording write every message anew, as another person would who wants exactly the same:
- same language, same facts, same request, so that the assistant's calls stay right to the last argument;
- everything under "keep" unchanged, case included;
- no new code, number, name, date or place, and none left out; a number in words stays that number;
- vary the structure, tone and length of the sentences, from curt to chatty, as people do; not only single words.

Answer with JSON alone: {"wordings": [["first message", "second message"], ...]}, each wording with as many messages
as "user" has."""

_HAN = re.compile(r"[\u3400-\u9fff]")
_FENCE = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL)
_MAX_FAILURES = 5


@dataclass(frozen=True, slots=True)
class ParaphraseSettings:
    """The model, what to ask for, and the limits. Prices are in dollars per million tokens."""

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
    only_new: bool = False  # leave the source rows out of the output

    def __post_init__(self) -> None:
        least = dict.fromkeys(("per_row", "concurrency", "max_tokens"), 1)
        least |= dict.fromkeys(("max_calls", "max_usd", "price_in", "price_out", "retries"), 0)
        for name, minimum in least.items():
            value = getattr(self, name)
            if value is not None and not value >= minimum:
                raise UserError(f"--{name.replace('_', '-')}: expected {minimum} or more, found {value}")
        if not self.timeout_s > 0:
            raise UserError(f"--timeout: expected more than 0 seconds, found {self.timeout_s}")
        if self.max_usd is not None and (self.price_in is None or self.price_out is None):
            raise UserError("--max-usd: needs --price-in and --price-out, in dollars per million tokens")


@dataclass(slots=True)
class ParaphraseReport:
    """Counts of a run. `dropped` counts wordings by reason, `rows_without` counts rows without an answer by reason."""

    rows: int = 0
    kept: int = 0
    skipped: int = 0
    calls: int = 0
    usd: float | None = None
    dropped: Counter[str] = field(default_factory=Counter)
    rows_without: Counter[str] = field(default_factory=Counter)
    stopped: str | None = None

    def lines(self) -> list[str]:
        cost = "" if self.usd is None else f", ${self.usd:.4f}"
        lines = [f"{self.kept} paraphrases of {self.rows} rows; {self.calls} calls so far{cost}"]
        if self.skipped:
            lines.append(f"{self.skipped} rows were not paraphrased: they are paraphrases, or have no user's words")
        lines += [f"dropped: {n} x {reason}" for reason, n in self.dropped.most_common()]
        lines += [f"rows without an answer: {n} x {reason}" for reason, n in self.rows_without.most_common()]
        return [*lines, f"stopped: {self.stopped}"] if self.stopped else lines


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

    If the budget stops the run, it writes what it has. On Ctrl-C, the answers file keeps all answers so far.

    Raises:
        UserError: before the first request, if there are test rows or rows with faults; later, if the endpoint cannot
            be used.
    """
    refuse_to_overwrite(out, sources, "paraphrases go into a file of their own")
    shared = tuple(tools)
    rows = list(read_and_report(sources, shared, format, console))
    if not rows:
        raise UserError(f"{', '.join(sources)}: no rows")
    for row in rows:
        if row.meta.get("split") == "test":
            raise UserError(f"{row.where}: is a test row (meta.split); remove test rows: they are never paraphrased")
    refuse_faults(rows)
    budget = Budget(settings.max_calls, settings.max_usd, settings.price_in or 0.0, settings.price_out or 0.0)
    report = ParaphraseReport(rows=len(rows))
    wanted = [row for row in rows if "paraphrase_of" not in row.meta and any(t.strip() for t in user_turns(row))]
    report.skipped = len(rows) - len(wanted)
    keys = {row.id: _key(row, settings) for row in wanted}
    answers = _AnswerFile(out.with_name(out.name + ".answers.jsonl"), budget)
    try:
        missing = {keys[row.id]: row for row in wanted if keys[row.id] not in answers.texts}
        if found := len(set(keys.values())) - len(missing):
            console.print(f"{found} answers are already in {answers.path}")
        if missing:
            _ask_all(missing, settings, budget, answers, report, console)
    finally:
        answers.close()
    made = _with_paraphrases(rows, keys, answers.texts, settings, report)
    refuse_faults(made)
    written = [replace(row, tools=()) if row.tools is shared else row for row in made]  # as in the source
    write_jsonl(out, (row.to_json() for row in written))
    report.calls = budget.calls
    report.usd = budget.usd if settings.price_in is not None and settings.price_out is not None else None
    for line in report.lines():
        console.print(line, markup=False)
    console.print(f"written: {out} ({len(written)} rows)", markup=False)
    return report


def _key(row: Conversation, settings: ParaphraseSettings) -> str:
    """Return a hash of all that an answer depends on: the model and the request, which has the row's content."""
    asked = json.dumps([settings.model, request(row, settings.per_row)], ensure_ascii=False)
    return hashlib.sha256(asked.encode()).hexdigest()[:32]


class _AnswerFile:
    """The file of answers, with a line for each attempt that is flushed at once. `texts` has the answers by key."""

    def __init__(self, path: Path, budget: Budget) -> None:
        self.path = path
        self.texts: dict[str, str] = {}
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        earlier = path.read_bytes() if path.exists() else b""
        for line in earlier.split(b"\n"):
            if line.strip():
                self._read(line, budget)
        self._out: IO[str] = path.open("a", encoding="utf-8", newline="\n")
        if earlier and not earlier.endswith(b"\n"):  # end an interrupted line before the next one
            self._out.write("\n")

    def _read(self, line: bytes, budget: Budget) -> None:
        try:
            row = parse_strict(line.decode(), allow_surrogates=True)
            budget.spend(row["prompt_tokens"], row["completion_tokens"])
            if isinstance(row["text"], str):
                self.texts[row["key"]] = row["text"]
        except (UnicodeDecodeError, json.JSONDecodeError, StrictJsonError, KeyError, TypeError):
            # A crash cut off this line. The answer is lost, but may have been paid for, so the call counts.
            budget.spend(0, 0)

    def append(self, key: str, id: str, attempt: Attempt) -> None:
        row: dict[str, str | int | None] = {"key": key, "id": id, "text": attempt.text, "failure": attempt.failure}
        row |= {"prompt_tokens": attempt.prompt_tokens, "completion_tokens": attempt.completion_tokens}
        with self._lock:
            # ASCII, because a model's text may have a lone surrogate.
            self._out.write(json.dumps(row) + "\n")
            self._out.flush()
            if attempt.text is not None:
                self.texts[key] = attempt.text

    def close(self) -> None:
        self._out.close()


def _ask_all(
    missing: dict[str, Conversation],
    settings: ParaphraseSettings,
    budget: Budget,
    answers: _AnswerFile,
    report: ParaphraseReport,
    console: Console,
) -> None:
    """Ask for every missing answer, by key, `concurrency` at a time, until the budget is spent."""
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

    waiting = iter(missing.items())
    running: set[Future[Attempt | None]] = set()
    progress = Progress("asking", len(missing), "rows", console)
    with progress, ThreadPoolExecutor(settings.concurrency) as pool:
        try:
            while True:
                if report.stopped is None:
                    running |= {pool.submit(ask, *one) for one in islice(waiting, settings.concurrency - len(running))}
                if not running:
                    break
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    try:
                        attempt = future.result()
                    except OutOfBudget:
                        report.stopped = (
                            f"the budget is spent; raise it and run again: {answers.path} has all answers so far"
                        )
                        continue
                    progress.advance()
                    if attempt is not None and attempt.failure is not None:
                        report.rows_without[attempt.failure.partition(":")[0]] += 1
                        if not answers.texts and report.rows_without.total() >= _MAX_FAILURES:
                            raise UserError(  # the rows are not at fault
                                f"the first {_MAX_FAILURES} rows got no answer ({attempt.failure}); check "
                                "--endpoint-model, --base-url and --timeout"
                            )
        finally:
            # Also on Ctrl-C: no new call starts, and the answers of running ones are saved.
            stop.set()
    not_asked = sum(key not in answers.texts for key in missing) - report.rows_without.total()
    if not_asked > 0:
        report.rows_without["not asked"] += not_asked


def _with_paraphrases(
    rows: Sequence[Conversation],
    keys: dict[str, str],
    texts: dict[str, str],
    settings: ParaphraseSettings,
    report: ParaphraseReport,
) -> list[Conversation]:
    """Return the source rows, each followed by its usable paraphrases."""
    made: list[Conversation] = []
    ids = {row.id for row in rows}
    for row in rows:
        key = keys.get(row.id)
        if not settings.only_new:
            made.append(row if key is None else replace(row, meta={**row.meta, "template": template_of(row)}))
        if key is None or key not in texts:
            continue
        wordings = read_wordings(texts[key])
        if wordings is None:
            report.dropped["an answer that is not the requested JSON"] += 1
            continue
        seen = {letters_and_digits("".join(user_turns(row)))}
        for wording in wordings[: settings.per_row]:
            reason = fault(row, wording)
            words = "" if reason else letters_and_digits("".join(wording))
            if reason is None and words in seen:
                reason = "only a copy"
            if reason is not None:
                report.dropped[reason] += 1
                continue
            seen.add(words)
            id = next(id for n in count(1) if (id := f"{row.id}-p{n}") not in ids)
            ids.add(id)
            made.append(reworded(row, wording, id, settings.model))
            report.kept += 1
    return made


def request(row: Conversation, count: int) -> list[dict[str, str]]:
    """Return the messages that ask for `count` paraphrases of a conversation's user turns."""
    done: list[Any] = []
    for message in row.messages:
        if message.role == "assistant":
            calls = [{"name": call.name, "arguments": call.arguments} for call in message.tool_calls]
            done.append({"calls": calls} if calls else {"says": message.content})
    asked = {
        "user": user_turns(row),
        "assistant": done,
        "keep": [sorted(str(value) for value in values) for values in kept_values(row)],
        "count": count,
    }
    content = json.dumps(asked, ensure_ascii=False)
    return [{"role": "system", "content": _INSTRUCTIONS}, {"role": "user", "content": content}]


def user_turns(row: Conversation) -> list[str]:
    return [message.content for message in row.messages if message.role == "user"]


def kept_values(row: Conversation) -> list[set[str | int | float]]:
    """Return for each user turn the argument values that it contains."""
    values = argument_values(row)
    return [{value for value in values if value != "" and occurs_in(value, turn)} for turn in user_turns(row)]


def read_wordings(answer: str) -> list[Any] | None:
    """Return the wordings in a model's answer, bare or in a code fence; None if it cannot be read."""
    fenced = _FENCE.search(answer)
    text = fenced[1] if fenced else answer[answer.find("{") : answer.rfind("}") + 1]
    try:
        read = parse_strict(text)
    except (json.JSONDecodeError, StrictJsonError):
        return None
    wordings = read.get("wordings") if isinstance(read, dict) else None
    return wordings if isinstance(wordings, list) else None


def fault(row: Conversation, wording: Any) -> str | None:
    """Return why a wording must not replace the user's turns, in words that can be counted, or None if it may."""
    turns = user_turns(row)
    if isinstance(wording, str) and len(turns) == 1:
        wording = [wording]
    if not isinstance(wording, list) or len(wording) != len(turns) or not all(isinstance(t, str) for t in wording):
        return "not the right number of messages"
    try:
        "".join(wording).encode()
    except UnicodeEncodeError:
        return "a lone surrogate"
    if not all(text.strip() for text in wording):
        return "an empty message"
    values = argument_values(row)
    numbers = {value for value in values if not isinstance(value, str)}
    for before, after, kept in zip(turns, wording, kept_values(row), strict=True):
        if not all(occurs_in(value, after) for value in kept):
            return "an argument's value is missing"
        # Numbers may also be words, as in "two of them".
        old, new = numbers_in(before), numbers_in(after)
        if any(abs(number) in old and abs(number) not in new for number in numbers):
            return "an argument's value is missing"
        if any(not occurs_in(code, before) and not _is_number(code, old) for code in codes(after)):
            return "an invented code or number"
        if bool(_HAN.search(before)) != bool(_HAN.search(after)):
            return "another language"
        if len(after) > 4 * len(before) + 200:
            return "far too long"
    return None


def _is_number(code: str, numbers: set[int | float]) -> bool:
    """Return whether a code is one of these numbers in another form, such as "2" for "two"."""
    try:
        plain = code.replace(",", "")
        return (float(plain) if "." in plain else int(plain)) in numbers
    except ValueError:
        return False


def reworded(row: Conversation, wording: Any, id: str, model: str) -> Conversation:
    """Return the conversation with the user's turns replaced by the wording."""
    texts = iter([wording] if isinstance(wording, str) else wording)
    messages = tuple(replace(m, content=next(texts).strip()) if m.role == "user" else m for m in row.messages)
    meta = {**row.meta, "template": template_of(row), "paraphrase_of": row.id, "generator": model}
    return replace(row, id=id, messages=messages, meta=meta)


def template_of(row: Conversation) -> Any:
    """Return the template that keeps a row and its paraphrases in one split: its own, or one made from its content."""
    return row.meta.get("template", f"row-{row.content_hash()}")
