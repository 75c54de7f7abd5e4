"""The failed rows of a report: gold and prediction side by side, with the differences marked and named.

In: the scores of one model, and of the models to compare it with. Out: one `Failure` for each row that is not an exact
match, in the order of the scores, and their HTML up to a size limit. The marks show the scorer's errors and, within a
wrong value, the characters that differ. Long texts are cut, with the number of characters left out.
"""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import groupby
from typing import Any

from markupsafe import Markup

from toolhone.formats.pieces import OTHER_FORMAT
from toolhone.records import Message, Score
from toolhone.report.pages import page_environment
from toolhone.report.wording import legible, shortened, visible

KINDS = (
    "malformed",
    "call in another format",
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

# Size limits of rows in full and rows in a table: a page of 10 MB still opens on a phone.
_ARTICLE_BYTES = 5_000_000
_LISTED_BYTES = 3_500_000


# Two texts with a smaller share in common differ as a whole.
_MIN_ALIKE = 0.6
# Texts are compared character by character up to this many pairs of characters.
_MAX_COMPARED = 250_000
# The number of leading characters that decide which accepted value is nearest.
_NEAREST = 500


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of text. `differs` is true if the other text lacks it."""

    text: str
    differs: bool


Pieces = tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class Argument:
    """An argument as the page shows it.

    `values` are its accepted values as JSON (a prediction has one), split into pieces that mark the differences from
    the other side. `mark` names the error; "" if the argument is right.
    """

    name: str
    values: tuple[Pieces, ...]
    optional: bool
    mark: str

    @property
    def text(self) -> str:
        """The argument as one text: `order_id="ORD-001" or "ord-001"`."""
        values = " or ".join("".join(piece.text for piece in value) for value in self.values)
        return f"{self.name}={values}{' or left out' if self.optional else ''}"


@dataclass(frozen=True, slots=True)
class Call:
    """A call as the page shows it. `mark` says what is wrong with the whole call; "" if it matches a call of the other
    side."""

    name: str
    arguments: tuple[Argument, ...]
    mark: str


@dataclass(frozen=True, slots=True)
class Failure:
    """A row that is not an exact match.

    `tools` are all tool names that gold or prediction calls. `regression` is true if the first of the other models got
    the row right. `before` has the role and text of each message before the question. `others` has, for each other
    model, its name, whether it was right, and its text.
    """

    number: int
    id: str
    kinds: tuple[str, ...]
    tools: tuple[str, ...]
    regression: bool
    before: tuple[tuple[str, str], ...]
    question: str
    gold_status: str
    gold: tuple[Call, ...]
    status: str
    reason: str | None
    repaired: str | None
    prediction: tuple[Call, ...]
    text: str
    others: tuple[tuple[str, bool, str], ...]
    tags: tuple[str, ...]

    @property
    def gold_text(self) -> str:
        """The gold as one text, one call per line: `query_order(order_id="ORD-001" or "ord-001")`."""
        if self.gold_status != "calls":
            return "no call" if self.gold_status == "none" else "any valid call"
        return "\n".join(f"{call.name}({', '.join(one.text for one in call.arguments)})" for call in self.gold)


def failures(
    scores: Sequence[Score],
    others: Mapping[str, Mapping[str, Score]],
    prompts: Mapping[str, Sequence[Message]] | None = None,
) -> list[Failure]:
    """Return one `Failure` for each score that is not exact.

    Args:
        scores: the scores of the model to report on.
        others: each other model's scores by row id. The first model is the one to compare with.
        prompts: the messages before each row's answer, by row id, if available.
    """
    failed = (score for score in scores if not score.exact)
    return [_failure(number, score, others, prompts or {}) for number, score in enumerate(failed, 1)]


def kinds_of_error(score: Score) -> tuple[str, ...]:
    """Return all kinds of error in a prediction, in the order of `KINDS`.

    A text that cannot be read has only that kind, and "call in another format" if its calls use another format. Its
    missing calls follow from that, so they are not listed.
    """
    if score.status in ("malformed", "truncated"):
        is_foreign = score.failure is not None and score.failure.startswith(OTHER_FORMAT)
        return (score.status, "call in another format") if is_foreign else (score.status,)
    if score.status == "none":
        return ("under-call",)
    found = {"partial"} if score.status == "partial" else set()
    if any(call.name not in score.tools for call in score.calls):
        found.add("invented tool")
    if score.gold.status == "none":
        found.add("over-call")
    elif score.gold.status == "any":  # any call is accepted if its arguments satisfy the tool's schema
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
    """Return the number of rows with each kind of error. A row with two kinds counts in both."""
    counts = Counter(kind for row in rows for kind in row.kinds)
    return {kind: counts[kind] for kind in KINDS if kind in counts}


def count_tools(rows: Iterable[Failure]) -> dict[str, int]:
    """Return the number of rows that call each tool in gold or prediction, sorted by name."""
    return dict(sorted(Counter(tool for row in rows for tool in row.tools).items()))


def draw_failures(rows: Sequence[Failure], first_model: str) -> dict[str, Any]:
    """Return the rows as HTML, up to the size limits of the page.

    Returns:
        `articles`, the first rows in full; `listed`, the next ones as table rows; `unlisted`, the number of the rest.
    """
    template: Any = page_environment().get_template("failure.html.jinja").module
    articles = _fitting((Markup(template.article(row, first_model)) for row in rows), _ARTICLE_BYTES)
    rest = rows[len(articles) :]
    listed = _fitting((Markup(template.line(row)) for row in rest), _LISTED_BYTES)
    return {"articles": articles, "listed": listed, "unlisted": len(rest) - len(listed)}


def _fitting(drawn: Iterable[Markup], size: int) -> list[Markup]:
    """Return the leading texts that together take at most `size` bytes of UTF-8."""
    fitting = []
    for text in drawn:
        size -= len(text.encode("utf-8", "backslashreplace"))
        if size < 0:
            break
        fitting.append(text)
    return fitting


def _failure(
    number: int,
    score: Score,
    others: Mapping[str, Mapping[str, Score]],
    prompts: Mapping[str, Sequence[Message]],
) -> Failure:
    answers = {model: by_id[score.id] for model, by_id in others.items() if score.id in by_id}
    reference = next(iter(others), None)
    gold, prediction = _sides(score)
    names = [call.name for call in score.gold.calls] + [call.name for call in score.calls]
    tags = [str(score.meta[key]) for key in ("language", "template") if key in score.meta]
    return Failure(
        number=number,
        id=visible(score.id),
        kinds=kinds_of_error(score),
        tools=tuple(dict.fromkeys(visible(name) for name in names)),
        regression=reference in answers and answers[reference].exact,
        before=tuple((message.role, _message_text(message)) for message in prompts.get(score.id, ())[:-1]),
        question=_readable(score.question),
        gold_status=score.gold.status,
        gold=gold,
        status=score.status,
        reason=None if score.failure is None else _readable(score.failure),
        repaired=_repaired_reading(score),
        prediction=prediction,
        text=_readable(score.text),
        others=tuple((model, answer.exact, _readable(answer.text)) for model, answer in answers.items()),
        tags=(*map(visible, tags), *(f"rule: {rule}" for rule in score.rules)),
    )


def _repaired_reading(score: Score) -> str | None:
    """Return a sentence on how repairs change the reading of a row's text. None if they change nothing."""
    if score.repaired is None or not score.repaired.repairs:
        return None
    fired = ", ".join(score.repaired.repairs)
    result = "right tools, but not an exact match" if score.repaired.names_right else "still not an exact match"
    result = "an exact match" if score.repaired.exact else result
    return f"Read with repairs ({fired}), its status is {score.repaired.status}: {result}."


def _sides(score: Score) -> tuple[tuple[Call, ...], tuple[Call, ...]]:
    """Return the calls of gold and prediction. Differences between matched calls are marked on both sides."""
    marks: dict[tuple[str, int, str], str] = {}
    pieces: dict[tuple[str, int, str, str], Pieces] = {}
    for match in score.matches:
        accepted, given = score.gold.calls[match.gold].arguments, score.calls[match.predicted].arguments
        for error in match.errors:
            name = error.argument
            # A wrong value belongs to the prediction; the gold side has the expected one.
            marks["gold", match.gold, name] = "expected" if error.fault == "wrong" else error.fault
            marks["prediction", match.predicted, name] = error.fault
            if error.fault == "wrong" and name in given and accepted.get(name):
                found = _json(given[name])
                near = nearest(found, tuple(map(_json, accepted[name])))
                both = differences(near, found)
                pieces["gold", match.gold, name, near], pieces["prediction", match.predicted, name, found] = both

    def argument(side: str, index: int, name: str, values: Iterable[Any], *, optional: bool = False) -> Argument:
        shown = (pieces.get((side, index, name, text), (Piece(text, False),)) for text in map(_json, values))
        return Argument(visible(name), tuple(shown), optional, marks.get((side, index, name), ""))

    gold, prediction = [], []
    for index, expected in enumerate(score.gold.calls):
        pairs = expected.arguments.items()
        arguments = (argument("gold", index, name, v, optional=name in expected.optional) for name, v in pairs)
        mark = "not called" if index in score.missing_calls else ""
        gold.append(Call(visible(expected.name), tuple(arguments), mark))
    for index, call in enumerate(score.calls):
        arguments = (argument("prediction", index, name, (value,)) for name, value in call.arguments.items())
        mark = "not expected" if index in score.extra_calls else ""
        mark = "no such tool" if call.name not in score.tools else mark
        prediction.append(Call(visible(call.name), tuple(arguments), mark))
    return tuple(gold), tuple(prediction)


def _message_text(message: Message) -> str:
    """Return a message as one text, with its calls as JSON lines."""
    calls = (_json({"name": call.name, "arguments": call.arguments}) for call in message.tool_calls)
    return _readable("\n".join((*([message.content] if message.content else []), *calls)))


def _readable(text: str) -> str:
    return legible(shortened(text))


def _json(value: Any) -> str:
    return shortened(visible(json.dumps(value, ensure_ascii=False)))


def differences(expected: str, found: str) -> tuple[Pieces, Pieces]:
    """Return both texts in pieces that mark where they differ, as in `ORD-0017` and `ORD-0071`.

    The joined pieces are the text. Two texts with too little in common differ as a whole. In very long texts,
    everything between the common start and the common end differs. A character is compared together with its
    combining marks.
    """
    a, b = _characters(expected), _characters(found)
    start = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    rest = min(len(a), len(b)) - start
    end = next((i for i in range(rest) if a[-1 - i] != b[-1 - i]), rest)
    middle_a, middle_b = a[start : len(a) - end], b[start : len(b) - end]
    same = [(i, i) for i in range(start)] + [(len(a) - i, len(b) - i) for i in range(1, end + 1)]
    if len(middle_a) * len(middle_b) <= _MAX_COMPARED:
        for block in SequenceMatcher(None, middle_a, middle_b, autojunk=False).get_matching_blocks():
            same += [(start + block.a + i, start + block.b + i) for i in range(block.size)]
    if 2 * len(same) < _MIN_ALIKE * (len(a) + len(b)):
        same = []
    return _pieces(a, {i for i, _ in same}), _pieces(b, {j for _, j in same})


def nearest(found: str, accepted: Sequence[str]) -> str:
    """Return the accepted text that is most similar to `found`. In a tie, the first one."""
    if len(accepted) == 1:
        return accepted[0]
    matcher = SequenceMatcher(None, autojunk=False)
    matcher.set_seq2(found[:_NEAREST])

    def closeness(text: str) -> float:
        matcher.set_seq1(text[:_NEAREST])
        return matcher.ratio()

    return max(accepted, key=closeness)


def _characters(text: str) -> list[str]:
    characters: list[str] = []
    for character in text:
        if characters and unicodedata.combining(character):
            characters[-1] += character
        else:
            characters.append(character)
    return characters


def _pieces(characters: Sequence[str], same: set[int]) -> Pieces:
    """Return the text in pieces. `same` has the indexes of the characters that both texts have."""
    places = groupby(range(len(characters)), key=lambda place: place not in same)
    return tuple(Piece("".join(characters[place] for place in group), differs) for differs, group in places)
