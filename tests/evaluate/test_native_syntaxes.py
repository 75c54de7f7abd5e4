"""Scores of answers in the native syntaxes of model families, whatever format they were asked in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from toolhone.data.read import read_conversations, read_tools, turns
from toolhone.evaluate.match import score
from toolhone.formats import FORMATS
from toolhone.formats.chat_format import RawCall
from toolhone.records import Example, FormatName, Prediction

DATA = Path(__file__).parent.parent.parent / "data" / "customer_service"
ASKED_IN = ("hermes", "llama3", "gemma", "json")


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    """Every third scored turn of the sample data: calls, parallel calls and plain answers."""
    tools = read_tools(DATA / "tools.json")
    return turns(read_conversations(DATA / "test.jsonl", tools))[::3]


def answered(example: Example, text: str) -> Prediction:
    return Prediction(example.id, "m", text, "stop", 1, 1, 1.0)


def gold_text(example: Example, syntax: FormatName) -> str:
    calls = [RawCall(call.name, json.dumps(call.arguments, ensure_ascii=False)) for call in example.turn.tool_calls]
    return FORMATS[syntax].write(example.turn.content, calls, "stop")


@pytest.mark.parametrize("syntax", FORMATS)
def test_perfect_answers_in_a_native_syntax_are_all_right_in_the_repaired_reading(
    examples: list[Example], syntax: FormatName
) -> None:
    for asked_in in ASKED_IN:
        for example in examples:
            found = score(example, answered(example, gold_text(example, syntax)), asked_in)
            assert found.exact or (found.repaired is not None and found.repaired.exact), (asked_in, found.text)


@pytest.mark.parametrize("syntax", FORMATS)
def test_a_model_that_always_calls_gets_no_row_right_that_expects_no_call(
    examples: list[Example], syntax: FormatName
) -> None:
    text = FORMATS[syntax].write("", [RawCall("cancel_order", '{"order_id": "1"}')], "stop")
    answers = [example for example in examples if example.gold.status == "none"]
    assert len(answers) > 10
    for asked_in in FORMATS:
        for example in answers:
            found = score(example, answered(example, text), asked_in)
            assert not found.exact
            assert found.status != "none"
