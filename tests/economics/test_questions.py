"""The questions in the terminal."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from toolhone.economics.inputs import FIELDS
from toolhone.economics.questions import ask_inputs
from toolhone.errors import UserError

ASKED = [name for name, entry in FIELDS.items() if entry.metadata["asked"]]


def answering(answers: dict[str, list[str]]) -> tuple[Callable[[str], str], list[str]]:
    """Answers by the start of the question; Enter to all others. And the questions, as they came."""
    asked: list[str] = []

    def ask(prompt: str) -> str:
        asked.append(prompt)
        for start, left in answers.items():
            if prompt.lower().startswith(start) and left:
                return left.pop(0)
        return ""

    return ask, asked


def test_each_question_has_its_unit_and_default_and_enter_takes_it() -> None:
    ask, asked = answering({})
    values, taken = ask_inputs(ask, print, {})
    assert len(asked) == len(ASKED)
    assert asked[0] == "Calls a day in the first month (calls a day) [10000]: "
    assert "[none]" in asked[-1]
    assert taken == frozenset(ASKED)
    assert values == {name: FIELDS[name].default for name in ASKED if FIELDS[name].default is not None}


def test_what_is_no_number_is_told_and_asked_again() -> None:
    ask, asked = answering({"calls a day": ["many", "-3", "25000"]})
    said: list[str] = []
    values, taken = ask_inputs(ask, said.append, {})
    assert values["calls_per_day"] == 25_000
    assert "calls_per_day" not in taken
    assert said == [
        "expected a number (calls a day), found 'many'",
        "expected greater than 0 (calls a day), found '-3'",
    ]
    assert asked[:3] == [asked[0]] * 3


def test_measured_values_are_offered_in_place_of_defaults() -> None:
    ask, asked = answering({})
    values, taken = ask_inputs(ask, print, {"small_accuracy": 0.8017})
    assert any("[0.8017]" in prompt for prompt in asked)
    assert "small_accuracy" not in values, "what was measured keeps its source"
    assert "small_accuracy" in taken


def test_answers_that_end_early_are_told() -> None:
    def ask(_: str) -> str:
        raise EOFError

    with pytest.raises(UserError, match=r"^calls_per_day: the answers ended here; give it as --calls-per-day"):
        ask_inputs(ask, print, {})
