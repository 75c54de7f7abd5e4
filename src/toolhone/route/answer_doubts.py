"""Doubts about gold from the answers of one model to rows that it was not trained on.

An answer that differs from the gold is a doubt. Its size is the probability of the answer's least certain token among
those that decide (`route/confidence.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from toolhone.data.review_sample import gold_calls
from toolhone.errors import UserError
from toolhone.evaluate.doubts import Doubt, Place, calls_text, ranked, shortened
from toolhone.evaluate.match import score
from toolhone.evaluate.score import RowsToScore, scored_examples
from toolhone.records import Example, FormatName, Prediction
from toolhone.route.confidence import FEATURES, signals
from toolhone.run_folder import RunFolder

_LEAST_CERTAIN: dict[str, Place] = {
    "decision": "call or text",
    "name_minimum": "tool",
    "value_minimum": "value",
    "frame_minimum": "call",
}
"""The features that say how certain an answer is of its parts, and those parts."""


def doubts_of_run(run: RunFolder) -> list[Doubt]:
    """Return the doubts from a run's tuned model about the rows that the run scores, the greatest first.

    Raises:
        UserError: if the run has no predictions of these rows.
    """
    path = run.predictions("tuned")
    if not path.is_file():
        raise UserError(f"{path}: no such file; `toolhone eval --run {run.path}` makes it")
    return doubts_of_answers(scored_examples(run), path, run.read_manifest()["chat"]["format"], str(run.path))


def doubts_of_answers(examples: Sequence[Example], path: Path, format: FormatName, named: str) -> list[Doubt]:
    """Return a doubt for each answer of a file of predictions that differs from the gold, the most certain answer
    first. Answers without log-probabilities come last, with no size.

    Raises:
        UserError: if the file answers none of the examples, or has other rows.
    """
    asked = RowsToScore(examples, "strict", named)
    answers, _ = asked.read_answers(path, frozenset(), tokens=True)
    if not answers:
        raise UserError(f"{path}: answers none of the {len(examples)} turns of {named}")
    found = (
        _doubt_of_answer(example, answers[id_], format) for id_, example in asked.examples.items() if id_ in answers
    )
    return ranked([doubt for doubt in found if doubt is not None])


def _doubt_of_answer(example: Example, answer: Prediction, format: FormatName) -> Doubt | None:
    scored = score(example, answer, format)
    if scored.exact:
        return None
    found = signals(answer, example, format)
    place: Place = "answer"
    chance: float | None = None
    if found.gate is not None:  # an answer that cannot be used says little about the gold
        chance = 0.0
    elif found.features is not None:
        known = dict(zip(FEATURES, found.features, strict=True))
        chance, place = min((known[name], where) for name, where in _LEAST_CERTAIN.items())
    expected = calls_text(gold_calls(example)) or "text"
    says = calls_text(scored.calls) or f"text: {answer.text}"
    return Doubt(
        example.id,
        example.where,
        len(example.prompt),
        chance,
        "probability",
        place,
        shortened(expected),
        shortened(says),
        chance,
    )
