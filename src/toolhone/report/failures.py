"""Failed rows, made ready to be read: gold and prediction side by side, with what differs marked and named.

In: the scores of the model in question and of those that it is compared with. Out: one `Failure` for each row that is
not an exact match, in the order of the scores. Nothing is judged here; the marks are what the scorer found, and within
a wrong value the characters that differ. No text is so long that it swamps the page: what is cut is counted.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toolhone.records import ArgumentError, Message, Score
from toolhone.report.differences import Piece, differences, nearest
from toolhone.report.leniency import mended_row
from toolhone.report.wording import legible, shortened, visible

KINDS = (
    "malformed",
    "truncated",
    "partial",
    "over-call",
    "under-call",
    "wrong tool",
    "missing call",
    "extra call",
    "invented tool",
    "missing argument",
    "invented argument",
    "wrong value",
    "invalid arguments",
    "other",
)
"""Kinds of error, in the order in which they are listed."""

_KIND_OF_FAULT = {"missing": "missing argument", "invented": "invented argument", "wrong": "wrong value"}


@dataclass(frozen=True, slots=True)
class Argument:
    """An argument as it is shown: its accepted values as JSON (a prediction has one), each in pieces of which those
    that differ from the other side are told apart, and its mark, "" where right."""

    name: str
    values: tuple[tuple[Piece, ...], ...]
    optional: bool
    mark: str

    @property
    def texts(self) -> tuple[str, ...]:
        """The values, each in one piece."""
        return tuple("".join(piece.text for piece in value) for value in self.values)


@dataclass(frozen=True, slots=True)
class Call:
    """A call as it is shown, with the mark of the call as a whole, "" where it has a partner."""

    name: str
    arguments: tuple[Argument, ...]
    mark: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What another model said to the same row."""

    model: str
    exact: bool
    text: str


@dataclass(frozen=True, slots=True)
class Turn:
    """A message before the question, its calls written out as JSON lines."""

    role: str
    text: str


@dataclass(frozen=True, slots=True)
class Failure:
    """A row that is not an exact match. `tools` are all names that gold or prediction calls; `regression` is true
    where the first of the other models got the row right; `before` are the messages before the question."""

    number: int
    id: str
    kinds: tuple[str, ...]
    tools: tuple[str, ...]
    regression: bool
    before: tuple[Turn, ...]
    question: str
    gold_status: str
    gold: tuple[Call, ...]
    status: str
    reason: str | None
    repaired: str | None
    prediction: tuple[Call, ...]
    text: str
    others: tuple[Answer, ...]
    tags: tuple[str, ...]

    @property
    def gold_text(self) -> str:
        """The gold in one text, a call a line: `query_order(order_id="ORD-001" or "ord-001")`."""
        if self.gold_status != "calls":
            return "no call" if self.gold_status == "none" else "some call, whichever"
        return "\n".join(f"{call.name}({', '.join(map(_argument_text, call.arguments))})" for call in self.gold)


def failures(
    scores: Sequence[Score],
    others: Mapping[str, Mapping[str, Score]],
    prompts: Mapping[str, Sequence[Message]] | None = None,
) -> list[Failure]:
    """One `Failure` for each score that is not exact.

    Args:
        scores: of the model in question.
        others: for each other model, its scores by row id; the first is the one to compare with.
        prompts: the messages that each row's answer follows, where they are at hand.
    """
    failed = (score for score in scores if not score.exact)
    return [_failure(number, score, others, prompts or {}) for number, score in enumerate(failed, 1)]


def kinds_of_error(score: Score) -> tuple[str, ...]:
    """All that is wrong with a prediction, in the order of `KINDS`. A text that could not be read at all has that one
    kind: what its calls lack says nothing more."""
    if score.status in ("malformed", "truncated"):
        return (score.status,)
    if score.status == "none":
        return ("under-call",)
    found = {"partial"} if score.status == "partial" else set()
    if any(call.name not in score.tools for call in score.calls):
        found.add("invented tool")
    if score.gold.status == "none":
        found.add("over-call")
    elif score.gold.status == "any":  # whichever call it was, its arguments must satisfy the tool's schema
        if not found:
            found.add("invalid arguments")
    else:
        missing, extra = len(score.missing_calls), len(score.extra_calls)
        if missing and extra:
            found.add("wrong tool")
        if missing > extra:
            found.add("missing call")
        if extra > missing:
            found.add("extra call")
    found |= {_KIND_OF_FAULT[error.fault] for match in score.matches for error in match.errors}
    return tuple(kind for kind in KINDS if kind in found) or ("other",)


def count_kinds(rows: Iterable[Failure]) -> dict[str, int]:
    """How many rows show each kind of error; a row with two kinds counts in both."""
    counts = Counter(kind for row in rows for kind in row.kinds)
    return {kind: counts[kind] for kind in KINDS if kind in counts}


def count_tools(rows: Iterable[Failure]) -> dict[str, int]:
    """How many rows call each tool, in gold or prediction; by name."""
    return dict(sorted(Counter(tool for row in rows for tool in row.tools).items()))


def _failure(
    number: int,
    score: Score,
    others: Mapping[str, Mapping[str, Score]],
    prompts: Mapping[str, Sequence[Message]],
) -> Failure:
    answers = {model: by_id[score.id] for model, by_id in others.items() if score.id in by_id}
    reference = next(iter(others), None)
    names = [call.name for call in score.gold.calls] + [call.name for call in score.calls]
    tags = [str(score.meta[key]) for key in ("language", "template") if key in score.meta]
    return Failure(
        number=number,
        id=visible(score.id),
        kinds=kinds_of_error(score),
        tools=tuple(dict.fromkeys(visible(name) for name in names)),
        regression=reference in answers and answers[reference].exact,
        before=tuple(map(_turn, prompts.get(score.id, ())[:-1])),
        question=legible(shortened(score.question)),
        gold_status=score.gold.status,
        gold=_gold_calls(score),
        status=score.status,
        reason=None if score.failure is None else legible(shortened(score.failure)),
        repaired=mended_row(score),
        prediction=_predicted_calls(score),
        text=legible(shortened(score.text)),
        others=tuple(Answer(model, answer.exact, legible(shortened(answer.text))) for model, answer in answers.items()),
        tags=(*map(visible, tags), *(f"rule: {rule}" for rule in score.rules)),
    )


def _turn(message: Message) -> Turn:
    calls = (_json({"name": call.name, "arguments": call.arguments}) for call in message.tool_calls)
    text = "\n".join((*([message.content] if message.content else []), *calls))
    return Turn(message.role, legible(shortened(text)))


def _gold_calls(score: Score) -> tuple[Call, ...]:
    partners = {match.gold: match for match in score.matches}
    calls = []
    for index, call in enumerate(score.gold.calls):
        match = partners.get(index)
        faults = _faults(match.errors if match else ())
        given = score.calls[match.predicted].arguments if match else {}
        arguments = []
        for name, values in call.arguments.items():
            texts = tuple(map(_json, values))
            fault = faults.get(name, "")
            shown: tuple[tuple[Piece, ...], ...] = tuple((Piece(text, False),) for text in texts)
            if fault == "wrong" and name in given:
                found = _json(given[name])
                near = nearest(found, texts)
                shown = tuple(differences(t, found)[0] if t == near else (Piece(t, False),) for t in texts)
            # It is the prediction's value that is wrong.
            mark = "expected" if fault == "wrong" else fault
            arguments.append(Argument(visible(name), shown, name in call.optional, mark))
        mark = "not called" if index in score.missing_calls else ""
        calls.append(Call(visible(call.name), tuple(arguments), mark))
    return tuple(calls)


def _predicted_calls(score: Score) -> tuple[Call, ...]:
    partners = {match.predicted: match for match in score.matches}
    calls = []
    for index, call in enumerate(score.calls):
        match = partners.get(index)
        faults = _faults(match.errors if match else ())
        accepted = score.gold.calls[match.gold].arguments if match else {}
        arguments = []
        for name, value in call.arguments.items():
            found, fault = _json(value), faults.get(name, "")
            shown: tuple[Piece, ...] = (Piece(found, False),)
            if fault == "wrong" and accepted.get(name):
                shown = differences(nearest(found, tuple(map(_json, accepted[name]))), found)[1]
            arguments.append(Argument(visible(name), (shown,), False, fault))
        mark = ""
        if call.name not in score.tools:
            mark = "no such tool"
        elif index in score.extra_calls:
            mark = "not expected"
        calls.append(Call(visible(call.name), tuple(arguments), mark))
    return tuple(calls)


def _argument_text(argument: Argument) -> str:
    return f"{argument.name}={' or '.join(argument.texts)}{' or left out' if argument.optional else ''}"


def _faults(errors: Iterable[ArgumentError]) -> dict[str, str]:
    return {error.argument: error.fault for error in errors}


def _json(value: Any) -> str:
    return shortened(visible(json.dumps(value, ensure_ascii=False)))
