"""Make rows of a cascade's escalated queries: the large model's answer is the gold of the row.

In: decision logs that `toolhone serve` wrote with --log-texts, and the rows that are known already. Out: rows whose
`gold_source` is the large model, so scores on them measure agreement with it. `meta` has the day (`date`), the small
model's least `confidence`, and `small_disagrees`: whether it answered otherwise in a turn of the row. Requests that
continue one conversation become one row (`data/importers/logs.py`).

Every escalated query that becomes no learned turn is counted under a rule:

- no-large-answer: the large model gave no answer;
- no-texts: the line was logged without --log-texts;
- log-truncated, log-empty and others: as in any log;
- invalid (RULE): `toolhone data check` finds an error in the row;
- duplicate: a known row has the same turn;
- same-prompt: a known row has another answer to the same messages, and that row stays;
- near-duplicate, on request: the user's words are nearly those of a known row.

Two turns are the same if their messages are the same and the names of their tools.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolhone.data.check import Survey
from toolhone.data.groups import nearest, user_words
from toolhone.data.importers import logs
from toolhone.data.read import examples
from toolhone.data.sources import read_and_report
from toolhone.errors import RowError, UserError
from toolhone.evaluate.doubts import calls_text, shortened
from toolhone.evaluate.match import score
from toolhone.formats import FORMATS
from toolhone.jsonl import read_jsonl
from toolhone.records import Conversation, FormatName, Prediction, Tool

if TYPE_CHECKING:
    from rich.console import Console

_ROUTES = ("small", "large", "none")


@dataclass(slots=True)
class Imported:
    """The new rows, and what became of every decision. `left_out` counts escalated queries by rule; `disagreements` has
    the small model's answer by example id, if it differs from the large model's."""

    rows: list[Conversation]
    disagreements: dict[str, str]
    left_out: Counter[str]
    decisions: int = 0
    kept: int = 0

    def lines(self) -> Iterator[str]:
        """Yield what to print: the decisions, what was left out, and what was imported."""
        escalated = self.decisions - self.kept
        yield f"{self.decisions:,} decisions: {self.kept:,} answers of the small model kept, {escalated:,} escalated"
        if self.left_out:
            rules = ", ".join(f"{count:,} {rule}" for rule, count in self.left_out.most_common())
            yield f"left out {self.left_out.total():,} of {escalated:,} escalated queries: {rules}"
        learned = sum(len(examples(row)) for row in self.rows)
        differing = f"the small model answered {len(self.disagreements):,} of them otherwise"
        yield f"imported {learned:,} escalated queries as {len(self.rows):,} rows; {differing}"


@dataclass(frozen=True, slots=True)
class _Decision:
    """What a row does not say about the query of one of its turns."""

    confidence: float
    escalated: bool
    small: str
    format: FormatName


Key = tuple[int, int]
"""Hashes of a turn: of the messages before it, and of those and the turn itself. Both include the tools' names."""


def import_decisions(
    paths: Sequence[Path],
    against: Sequence[str],
    console: Console,
    *,
    tools: tuple[Tool, ...] = (),
    near: bool = False,
    chat_format: FormatName = "hermes",
) -> Imported:
    """Return the rows of the escalated queries in decision logs.

    Args:
        against: sources of known rows, such as the training set.
        tools: for known rows without any.
        near: also leave out near duplicates of the user's words.
        chat_format: how the small model writes calls, if a line does not say it.

    Raises:
        UserError: if a line is not a decision, or no escalated decision has texts.
    """
    done = Imported([], {}, Counter())
    decisions: dict[Key, _Decision] = {}
    folded = list(_folded(paths, chat_format, done, decisions))
    known = list(read_and_report(against, tools, "auto", console)) if against else []
    rows = list(_new_rows(_sound(folded, done.left_out), known, done.left_out))
    for row in _far(rows, known, done.left_out) if near else rows:
        done.rows.append(_with_facts(row, decisions, done.disagreements))
    return done


def _folded(
    paths: Sequence[Path], chat_format: FormatName, done: Imported, decisions: dict[Key, _Decision]
) -> list[Conversation]:
    """Return the conversations of escalated queries, and add each query to `decisions`."""
    fold = logs.Fold()
    for path in paths:
        for where, line in read_jsonl(path):
            if line.get("route") not in _ROUTES or "confidence" not in line or "id" not in line:
                raise UserError(f"{where}: is not a decision; expected a line of the log of `toolhone serve --policy`")
            done.decisions += 1
            if line["route"] == "small" and line.get("fallback") is None:
                done.kept += 1
                continue
            texts = line.get("texts")
            if line["route"] != "large" or (texts is not None and not texts.get("large")):
                done.left_out["no-large-answer"] += 1
                continue
            if texts is None:
                done.left_out["no-texts"] += 1
                continue
            logged = _as_logged(line, texts)
            try:
                one = logs.read(logged, where)
                for _ in fold.add(logged, where):  # advice on the line
                    pass
            except RowError as error:
                done.left_out[error.rule] += 1
                continue
            decided = texts.get("format", chat_format)
            if decided not in FORMATS:
                raise UserError(f'{where}: texts.format: unknown format "{decided}"; known: {", ".join(FORMATS)}')
            key = list(turn_keys(one).values())[-1]
            decisions[key] = _Decision(line["confidence"], bool(line.get("escalated")), texts["small"], decided)
    without = done.left_out["no-texts"]
    if without and without + done.left_out["no-large-answer"] == done.decisions - done.kept:
        raise UserError(
            f"{', '.join(map(str, paths))}: none of {without} escalated decisions has texts; run `toolhone serve` with "
            "--log-texts to log them"
        )
    return list(fold.conversations())


def _as_logged(line: dict[str, Any], texts: dict[str, Any]) -> dict[str, Any]:
    """Return a decision as a request and its response."""
    choice = {"message": {"role": "assistant", **texts["large"]}, "finish_reason": texts.get("finish_reason")}
    return {
        "request": {name: texts.get(name) for name in ("messages", "tools", "tool_choice")},
        "response": {
            "id": line["id"],
            "model": line.get("large_model") or "unknown",
            "created": line.get("time"),
            "choices": [choice],
        },
    }


def turn_keys(row: Conversation) -> dict[int, Key]:
    """Return the keys of a row's assistant turns, by the turn's index."""
    names = json.dumps(sorted(tool.name for tool in row.tools))
    growing = hashlib.blake2b(names.encode("utf-8", "surrogatepass"), digest_size=8)
    found: dict[int, Key] = {}
    for n, message in enumerate(row.messages):
        before = int.from_bytes(growing.digest(), "big")
        calls = [(call.name, call.arguments) for call in message.tool_calls]
        text = json.dumps([message.role, message.content, calls], sort_keys=True)
        growing.update(text.encode("utf-8", "surrogatepass"))
        if message.role == "assistant":
            found[n] = before, int.from_bytes(growing.digest(), "big")
    return found


def _learned(row: Conversation) -> int:
    return len(examples(row))


def _sound(rows: Iterable[Conversation], left_out: Counter[str]) -> Iterator[Conversation]:
    """Yield the rows in which `toolhone data check` finds no error."""
    survey = Survey()
    for row in rows:
        fault = next((found for found in survey.faults(row) if found.severity == "error"), None)
        if fault is None:
            yield row
        else:
            left_out[f"invalid ({fault.rule})"] += _learned(row)


def _new_rows(
    rows: Iterable[Conversation], known: Iterable[Conversation], left_out: Counter[str]
) -> Iterator[Conversation]:
    """Yield the rows with a new turn. A turn that is known gets weight 0 there."""
    prompts: set[int] = set()
    turns: set[int] = set()
    for row in known:
        for n, (prompt, whole) in turn_keys(row).items():
            if row.messages[n].weight > 0:
                prompts.add(prompt)
                turns.add(whole)
    for row in rows:
        messages = list(row.messages)
        for n, (prompt, whole) in turn_keys(row).items():
            if messages[n].weight == 0:
                continue
            if prompt in prompts:
                left_out["duplicate" if whole in turns else "same-prompt"] += 1
                messages[n] = replace(messages[n], weight=0.0)
            prompts.add(prompt)
            turns.add(whole)
        if any(message.role == "assistant" and message.weight > 0 for message in messages):
            yield replace(row, messages=tuple(messages))


def _far(rows: Sequence[Conversation], known: Sequence[Conversation], left_out: Counter[str]) -> Iterator[Conversation]:
    """Yield the rows whose user's words are not nearly those of a known row or of one before."""
    words = [user_words(row) for row in rows]
    near_known = nearest([user_words(row) for row in known], words)
    before: list[str] = []
    for row, text, found in zip(rows, words, near_known, strict=True):
        if found is not None or (before and nearest(before, [text])[0] is not None):
            left_out["near-duplicate"] += _learned(row)
            continue
        before.append(text)
        yield row


def _with_facts(row: Conversation, decisions: dict[Key, _Decision], disagreements: dict[str, str]) -> Conversation:
    """Return the row with what its decisions say, and add where the small model answered otherwise."""
    keys = turn_keys(row)
    confidences: list[float] = []
    disagrees = False
    for example in examples(row):
        decision = decisions[keys[len(example.prompt)]]
        confidences.append(decision.confidence)
        if decision.escalated:  # it gave no answer of its own
            continue
        answer = Prediction(example.id, "small", decision.small, "stop", 0, 0, 0.0)
        scored = score(example, answer, decision.format)
        if not scored.exact:
            disagrees = True
            said = calls_text(scored.calls) or shortened(scored.text)
            disagreements[example.id] = f"the small model: {said}"
    facts = {"confidence": min(confidences), "small_disagrees": disagrees}
    return replace(row, meta={**row.meta, **facts})
