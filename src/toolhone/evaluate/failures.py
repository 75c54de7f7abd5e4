"""Failed rows, made ready to be read: gold and prediction side by side, with what differs marked and named.

In: the scores of the model in question and of those that it is compared with. Out: one `Failure` for each row that is
not an exact match, in the order of the scores. Nothing is judged here; the marks are what the scorer found.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toolhone.evaluate.wording import visible
from toolhone.records import ArgumentError, Score

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
    """An argument as it is shown: its accepted values as JSON (a prediction has one), and its mark, "" where right."""

    name: str
    values: tuple[str, ...]
    optional: bool
    mark: str


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
class Failure:
    """A row that is not an exact match. `tools` are all names that gold or prediction calls; `regression` is true
    where the first of the other models got the row right."""

    number: int
    id: str
    kinds: tuple[str, ...]
    tools: tuple[str, ...]
    regression: bool
    question: str
    gold_status: str
    gold: tuple[Call, ...]
    status: str
    reason: str | None
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


def failures(scores: Sequence[Score], others: Mapping[str, Mapping[str, Score]]) -> list[Failure]:
    """One `Failure` for each score that is not exact.

    Args:
        scores: of the model in question.
        others: for each other model, its scores by row id; the first is the one to compare with.
    """
    failed = (score for score in scores if not score.exact)
    return [_failure(number, score, others) for number, score in enumerate(failed, 1)]


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
    kinds = [kind for row in rows for kind in row.kinds]
    return {kind: kinds.count(kind) for kind in KINDS if kind in kinds}


def _failure(number: int, score: Score, others: Mapping[str, Mapping[str, Score]]) -> Failure:
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
        question=score.question,
        gold_status=score.gold.status,
        gold=_gold_calls(score),
        status=score.status,
        reason=score.failure,
        prediction=_predicted_calls(score),
        text=score.text,
        others=tuple(Answer(model, answer.exact, answer.text) for model, answer in answers.items()),
        tags=(*tags, *(f"rule: {rule}" for rule in score.rules)),
    )


def _gold_calls(score: Score) -> tuple[Call, ...]:
    errors = {match.gold: match.errors for match in score.matches}
    calls = []
    for index, call in enumerate(score.gold.calls):
        faults = _faults(errors.get(index, ()))
        arguments = (
            Argument(visible(name), tuple(map(_json, values)), name in call.optional, faults.get(name, ""))
            for name, values in call.arguments.items()
        )
        mark = "not called" if index in score.missing_calls else ""
        calls.append(Call(visible(call.name), tuple(arguments), mark))
    return tuple(calls)


def _predicted_calls(score: Score) -> tuple[Call, ...]:
    errors = {match.predicted: match.errors for match in score.matches}
    calls = []
    for index, call in enumerate(score.calls):
        faults = _faults(errors.get(index, ()))
        arguments = (
            Argument(visible(name), (_json(value),), False, faults.get(name, ""))
            for name, value in call.arguments.items()
        )
        mark = ""
        if call.name not in score.tools:
            mark = "no such tool"
        elif index in score.extra_calls:
            mark = "not expected"
        calls.append(Call(visible(call.name), tuple(arguments), mark))
    return tuple(calls)


def _argument_text(argument: Argument) -> str:
    return f"{argument.name}={' or '.join(argument.values)}{' or left out' if argument.optional else ''}"


def _faults(errors: Iterable[ArgumentError]) -> dict[str, str]:
    return {error.argument: error.fault for error in errors}


def _json(value: Any) -> str:
    return visible(json.dumps(value, ensure_ascii=False))
