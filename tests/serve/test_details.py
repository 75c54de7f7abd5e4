"""The details of an answer, and where a conversation with a run begins."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from toolhone.chat.parse import parse_turn
from toolhone.data.escalation import escalate_tool
from toolhone.errors import UserError
from toolhone.formats import FORMATS
from toolhone.formats.chat_format import RawCall
from toolhone.jsonl import write_conversations
from toolhone.records import Conversation, FormatName, Message, Prediction, Token, Tool
from toolhone.run_folder import RunFolder
from toolhone.serve.details import answer_details, level
from toolhone.serve.start import chat_start

TOOL = Tool("query_order", "", {"type": "object", "properties": {"order_id": {"type": "string"}}})
CALL = [
    ("<tool_call>", 0.9),
    ('{"name": "', 1.0),
    ("query_order", 0.8),
    ('", "arguments": {"order_id": "', 0.5),
    ("OR", 0.6),
    ("D-1", 0.5),
    ('", "days": ', 0.9),
    ("7", 0.7),
    ("}}</tool_call>", 0.4),
]


def details(pieces: list[tuple[str, float]], format: FormatName = "hermes", **more: Any) -> dict[str, Any]:
    tokens = tuple(Token(n, piece.encode(), math.log(chance)) for n, (piece, chance) in enumerate(pieces))
    text = "".join(piece for piece, _ in pieces)
    made = Prediction("x", "m", text, "stop", 1, len(tokens), 1.0, tokens)
    return answer_details(made, parse_turn(text, format, tools={TOOL.name: TOOL}), **more)


def test_a_value_has_the_probability_of_all_its_tokens() -> None:
    found = details(CALL, confidence=0.98765432)
    assert found == {
        "route": "small",
        "confidence": 0.9877,
        "raw_text": "".join(piece for piece, _ in CALL),
        "decision": 0.9,
        "calls": [
            {
                "name_confidence": 0.4,  # with the token of the closing quote
                "arguments": {"order_id": 0.27, "days": 0.28},  # 0.6 x 0.5 x 0.9, and 0.7 x 0.4
            }
        ],
    }


def test_a_text_has_the_probability_that_it_makes_no_call() -> None:
    found = details([("Hello", 0.75), (" there", 0.5)])
    assert (found["decision"], found["calls"], found["confidence"]) == (0.75, [], None)


@pytest.mark.parametrize("route", ["large", "none"])
def test_calls_that_the_client_does_not_get_are_left_out(route: Any) -> None:
    assert details(CALL, route=route)["calls"] == []


def test_a_turn_that_cannot_be_read_has_no_calls() -> None:
    assert details(CALL[:-1])["calls"] == []


def test_without_probabilities_every_argument_is_still_listed() -> None:
    text = "".join(piece for piece, _ in CALL)
    made = Prediction("x", "m", text, "stop", 1, 9, 1.0)
    found = answer_details(made, parse_turn(text, "hermes"))
    assert found["calls"] == [{"name_confidence": None, "arguments": {"order_id": None, "days": None}}]
    assert found["decision"] is None


@pytest.mark.parametrize("format", FORMATS)
def test_the_values_of_every_format_have_probabilities(format: FormatName) -> None:
    text = FORMATS[format].write("", [RawCall("query_order", '{"order_id": "ORD-1"}')], "stop")
    found = details([(character, 0.999) for character in text], format)
    [call] = found["calls"]
    assert 0.9 < call["name_confidence"] < 1
    assert 0.9 < call["arguments"]["order_id"] < 1


def test_levels_begin_at_their_probability() -> None:
    assert [level(p) for p in (1.0, 0.9, 0.8999, 0.6, 0.5999, 0.0)] == [
        "high",
        "high",
        "middle",
        "middle",
        "low",
        "low",
    ]


def test_a_conversation_starts_with_the_first_rows_system_prompt_and_tools(tmp_path: Path) -> None:
    run, other = RunFolder(tmp_path), Tool("other", "", {"type": "object"})
    tools = (TOOL, escalate_tool())
    answer = Message("assistant", "fine")

    def row(name: str, said: str, tools: tuple[Tool, ...] = tools) -> Conversation:
        return Conversation(name, (Message("system", "Be kind."), Message("user", said), answer), tools, "x:1")

    said = ["one", "one", "two", "long " * 80, "three\nlines", "other tools"]
    rows = [row(f"r{n}", text, (other,) if text == "other tools" else tools) for n, text in enumerate(said)]
    write_conversations(run.split("test"), rows)
    start = chat_start(run)
    assert (start.system, [tool.name for tool in start.tools], start.examples) == (
        "Be kind.",
        ["query_order", "escalate"],
        ("one", "two"),
    )
    # The gateway offers the reserved tool itself.
    assert start.to_json() == {"tools": [TOOL.to_json()], "system": "Be kind.", "examples": ["one", "two"]}
    write_conversations(run.split("test"), [row(f"r{n}", f"text {n}") for n in range(60)])
    assert chat_start(run).examples == tuple(f"text {n}" for n in range(0, 60, 10))


def test_a_run_without_rows_is_an_error(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    write_conversations(run.split("test"), [])
    with pytest.raises(UserError, match="no rows; `toolhone train` writes them"):
        chat_start(run)
