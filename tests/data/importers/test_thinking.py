"""Reasoning in every shape becomes the thinking of its turn, and is never lost without a word."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolhone.data.importers import IMPORTERS
from toolhone.data.importers.importer import RowFault
from toolhone.data.importers.logs import Fold
from toolhone.data.importers.openai import conversation, read
from toolhone.data.importers.thinking import split_thought
from toolhone.data.read import read_source
from toolhone.errors import RowError
from toolhone.records import Conversation, Message

TOOL = {"name": "look", "parameters": {"type": "object", "properties": {"id": {"type": "string"}}}}
ASK = {"role": "user", "content": "Look up 7"}
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"id": "7"}'}}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "seven"}


def turn_of(**keys: Any) -> Message:
    row = {"messages": [ASK, {"role": "assistant", **keys}], "tools": [TOOL]}
    return read(row, "f.jsonl:1").messages[1]


SHAPES: dict[str, dict[str, Any]] = {
    "reasoning_content": {"reasoning_content": "Hm."},
    "reasoning": {"reasoning": "Hm."},
    "thinking": {"thinking": "Hm."},
    "a thinking object": {"thinking": {"type": "thinking", "thinking": "Hm.", "signature": "s"}},
    "LiteLLM's blocks": {"thinking_blocks": [{"type": "thinking", "thinking": "Hm.", "signature": "s"}]},
    "LiteLLM's blocks and text": {
        "reasoning_content": "Hm.",
        "thinking_blocks": [{"type": "thinking", "thinking": "Hm."}, {"type": "redacted_thinking", "data": "x"}],
    },
    "OpenRouter's details": {
        "reasoning": "Hm.",
        "reasoning_details": [
            {"type": "reasoning.text", "text": "Hm.", "format": "anthropic-claude-v1", "index": 0},
            {"type": "reasoning.encrypted", "data": "x", "id": "r1"},
        ],
    },
    "OpenRouter's summary": {"reasoning_details": [{"type": "reasoning.summary", "summary": "Hm."}]},
    "a list of parts": {"reasoning": [{"type": "reasoning", "text": "Hm."}]},
    "a summary": {"reasoning": {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]}},
    "text and summary": {
        "reasoning": {
            "type": "reasoning",
            "summary": [{"type": "summary_text", "text": "short"}],
            "content": [{"type": "reasoning_text", "text": "Hm."}],
        }
    },
    "both, other white space": {"reasoning_content": "Hm.", "reasoning": "\nHm.\n"},
    "tags in the key": {"reasoning_content": "<think>\nHm.\n</think>\n"},
}
CONTENTS: dict[str, Any] = {
    "a block": "<think>\nHm.\n</think>\n\nSeven.",
    "a block on one line": "<think>Hm.</think>Seven.",
    "the opening tag in the prompt": "Hm.\n</think>\n\nSeven.",
    "a thinking part": [{"type": "thinking", "thinking": "Hm.", "signature": "s"}, {"type": "text", "text": "Seven."}],
    "Mistral's part": [
        {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}], "closed": True},
        {"type": "text", "text": "Seven."},
    ],
    "a reasoning part": [{"type": "reasoning", "text": "Hm."}, {"type": "text", "text": "Seven."}],
    "a block in a part": [{"type": "text", "text": "<think>Hm.</think>Seven."}],
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_key_with_reasoning_is_read(shape: str) -> None:
    turn = turn_of(content="Seven.", **SHAPES[shape])
    assert (turn.thinking, turn.content) == ("Hm.", "Seven.")
    turn = turn_of(content=None, tool_calls=[CALL], **SHAPES[shape])
    assert (turn.thinking, turn.content, len(turn.tool_calls)) == ("Hm.", "", 1)


@pytest.mark.parametrize("shape", CONTENTS)
def test_reasoning_in_the_content_is_moved(shape: str) -> None:
    for more in ({}, {"reasoning_content": "Hm."}, {"weight": 0}):
        turn = turn_of(content=CONTENTS[shape], **more)
        assert (turn.thinking, turn.content) == ("Hm.", "Seven.")


def test_a_part_of_only_reasoning_beside_a_call_leaves_no_content() -> None:
    turn = turn_of(content=[{"type": "thinking", "thinking": "Hm."}], tool_calls=[CALL])
    assert (turn.thinking, turn.content) == ("Hm.", "")


@pytest.mark.parametrize(
    "keys",
    [
        {"content": "<think>\n\n</think>\n\nSeven."},
        {"content": "Seven.", "reasoning_content": None},
        {"content": "Seven.", "reasoning": ""},
        {"content": "Seven.", "reasoning_details": [{"type": "reasoning.encrypted", "data": "x"}]},
        {"content": "Seven.", "thinking_blocks": []},
    ],
)
def test_empty_and_encrypted_reasoning_is_no_thinking(keys: dict[str, Any]) -> None:
    turn = turn_of(**keys)
    assert (turn.thinking, turn.content) == ("", "Seven.")


@pytest.mark.parametrize(
    ("keys", "rule", "message"),
    [
        (
            {"reasoning_content": "A", "reasoning": "B"},
            "two-thoughts",
            "in reasoning_content .* and reasoning .*",
        ),
        ({"content": "<think>A</think>x", "thinking": "B"}, "two-thoughts", "thinking .* and a <think> block"),
        ({"reasoning": 7}, "bad-thinking", "expected reasoning as a string or a list of parts, found 7"),
        ({"reasoning": [{"type": "image", "url": "x"}]}, "bad-thinking", "expected a part with the text"),
        ({"reasoning_content": "a </think> b"}, "bad-thinking", "contains <think> or </think>.*remove the tag"),
    ],
)
def test_reasoning_that_is_not_clear_is_an_error(keys: dict[str, Any], rule: str, message: str) -> None:
    with pytest.raises(RowError, match=rf"^f\.jsonl:1: message 1.*{message}") as caught:
        turn_of(**{"content": "x", **keys})
    assert caught.value.rule == rule


def test_only_assistant_messages_have_reasoning() -> None:
    with pytest.raises(RowError, match="role user; only assistant messages may have it"):
        read({"messages": [{**ASK, "reasoning_content": "Hm."}, {"role": "assistant", "content": "x"}]}, "f:1")


@given(st.text(max_size=30), st.text(max_size=30))
def test_a_written_row_reads_back_the_same(thinking: str, content: str) -> None:
    turn = Message("assistant", content, thinking=thinking.strip())
    row = Conversation("r", (Message("user", "?"), turn), (), "f:1")
    assert json.loads(turn.to_text()) == turn.to_json()
    assert conversation(row.to_json(), "f:1").messages == row.messages


def test_the_content_hash_includes_thinking() -> None:
    def hashed(thinking: str) -> str:
        return Conversation("", (Message("assistant", "x", thinking=thinking),), (), "").content_hash()

    assert len({hashed(""), hashed("a"), hashed("b")}) == 3


@given(st.lists(st.sampled_from([*"ab \n", "<think>", "</think>"]), max_size=8).map("".join))
def test_splitting_a_text_loses_only_tags_and_white_space(text: str) -> None:
    thought, rest = split_thought(text)
    left = "".join((thought + rest).split())
    closed = text.replace("</think>", "", 1)
    kept = (text, closed, closed.replace("<think>", "", 1))
    assert left in ["".join(one.split()) for one in kept]


# Formats of other tools


def sharegpt(*turns: tuple[str, str], **more: Any) -> dict[str, Any]:
    return {"conversations": [{"from": name, "value": value} for name, value in turns], **more}


DECOY = 'I could write <tool_call>{"name": "look", "arguments": {"id": "8"}}</tool_call>'


@pytest.mark.parametrize(
    ("format", "row", "thinking"),
    [
        (
            "hermes",
            sharegpt(
                ("human", "Look up 7"),
                ("gpt", f'<think>{DECOY}</think><tool_call>{{"name": "look", "arguments": {{"id": "7"}}}}</tool_call>'),
                tools=[TOOL],
            ),
            DECOY,
        ),
        (
            "toolace",
            sharegpt(
                ("user", "Look up 7"),
                ("assistant", '<think>[look(id="8")]</think>\n[look(id="7")]'),
                system=f"Here is a list of functions in JSON format that you can invoke:\n{json.dumps([TOOL])}",
            ),
            '[look(id="8")]',
        ),
        (
            "llamafactory",
            sharegpt(
                ("human", "Look up 7"),
                ("function_call", '<think>\nHm.\n</think>\n\n{"name": "look", "arguments": {"id": "7"}}'),
                tools=json.dumps([TOOL]),
            ),
            "Hm.",
        ),
        (
            "glaive",
            {
                "system": f"SYSTEM: {json.dumps(TOOL)}",
                "chat": "USER: Look up 7\n\nASSISTANT: <think>Not <functioncall>.</think><functioncall> "
                '{"name": "look", "arguments": \'{"id": "7"}\'} <|endoftext|>',
            },
            "Not <functioncall>.",
        ),
    ],
)
def test_thoughts_in_other_formats_are_thinking_and_give_no_calls(
    format: str, row: dict[str, Any], thinking: str
) -> None:
    importer = IMPORTERS[format]
    assert importer.looks_like(row)
    assert importer.read is not None
    turn = importer.read(row, "f:1", ()).messages[-1]
    assert (turn.thinking, turn.content) == (thinking, "")
    assert [call.arguments for call in turn.tool_calls] == [{"id": "7"}]


# Logs


def line(messages: list[Any], message: dict[str, Any], **more: Any) -> dict[str, Any]:
    choice = {"message": {"role": "assistant", **message}, "finish_reason": "stop"}
    return {"request": {"messages": messages, "tools": [TOOL], **more}, "response": {"model": "m", "choices": [choice]}}


def folded(*lines: dict[str, Any]) -> Conversation:
    fold = Fold()
    for number, one in enumerate(lines, 1):
        assert list(fold.add(one, f"log:{number}")) == []
    (found,) = fold.conversations()
    return found


FIRST = {"content": None, "tool_calls": [CALL], "reasoning_content": "First."}
SECOND = {"content": "<think>Second.</think>Seven."}
STEPS = (
    line([ASK], FIRST),
    # The application resends the turn without its thinking, as most do.
    line([ASK, {"role": "assistant", "content": None, "tool_calls": [CALL]}, RESULT], SECOND),
)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_steps_are_folded_with_their_thinking_though_the_request_lacks_it(order: tuple[int, int]) -> None:
    found = folded(*(STEPS[n] for n in order))
    said = [(m.thinking, m.content, m.weight) for m in found.messages if m.role == "assistant"]
    assert said == [("First.", "", 1.0), ("Second.", "Seven.", 1.0)]


def test_a_stream_keeps_its_reasoning() -> None:
    deltas: list[dict[str, Any]] = [
        {"role": "assistant", "content": ""},
        {"reasoning_content": "The user", "reasoning": "The user"},
        {"reasoning_content": " wants 7.", "reasoning": " wants 7."},
        {"reasoning_details": [{"type": "reasoning.text", "text": "The user wants"}]},
        {"reasoning_details": [{"type": "reasoning.text", "text": " 7."}]},
        {"content": "Seven."},
    ]
    chunks = [{"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    chunks.append({"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    found = folded({"request": {"messages": [ASK], "tools": [TOOL]}, "response": chunks})
    assert (found.messages[1].thinking, found.messages[1].content) == ("The user wants 7.", "Seven.")


def test_reasoning_items_of_the_responses_api_are_thinking() -> None:
    summary = [{"type": "summary_text", "text": "Hm."}]
    call = {"type": "function_call", "call_id": "c1", "name": "look", "arguments": '{"id": "7"}'}
    items = [
        {"type": "message", "role": "user", "content": "Look up 7"},
        {"type": "reasoning", "id": "r0", "summary": summary},
        call,
        {"type": "function_call_output", "call_id": "c1", "output": "seven"},
        {"type": "reasoning", "id": "r1", "summary": [], "encrypted_content": "x"},
        {"type": "message", "role": "user", "content": "And?"},
    ]
    output = [
        {"type": "reasoning", "id": "r2", "summary": summary, "content": [{"type": "reasoning_text", "text": "Done."}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Seven."}]},
    ]
    found = folded({"request": {"input": items, "tools": [TOOL]}, "response": {"object": "response", "output": output}})
    assert [m.role for m in found.messages] == ["user", "assistant", "tool", "user", "assistant"]
    assert [m.thinking for m in found.messages if m.role == "assistant"] == ["Hm.", "Done."]


@pytest.mark.parametrize("message", [{"reasoning_content": "Hm."}, {"content": "<think>Hm.</think>"}])
def test_a_response_of_only_reasoning_is_left_out_and_counted(message: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text(json.dumps(line([ASK], message)), encoding="utf-8")
    (fault,) = read_source(tmp_path / "log.jsonl")
    assert isinstance(fault, RowFault)
    assert fault.rule == "log-empty"
