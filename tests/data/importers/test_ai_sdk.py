"""The Vercel AI SDK: results of generateText, model messages and UI messages, as its versions 4 to 6 wrote them."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import imported
import pytest
from imported import FIXTURES, Row, read, rows_of

from toolhone.data.importers import ai_sdk
from toolhone.data.read import detected_formats
from toolhone.records import ToolCall

FOLDER = FIXTURES / "importers" / "ai_sdk"
rule = partial(imported.rule_of, "ai_sdk")


def rows(name: str) -> list[Row]:
    return rows_of(FOLDER / name)


def messages(row: Row) -> list[Row]:
    (made,) = ai_sdk.rewrite(row, "a.jsonl:1")
    assert isinstance(made, dict)
    found: list[Row] = made["messages"]
    return found


def shape(found: list[Row]) -> list[tuple[str, Any, Any]]:
    """Each message's role and text, and the ids of its calls or of the call that it answers."""
    return [
        (m["role"], m["content"], m.get("tool_call_id") or [call["id"] for call in m.get("tool_calls", ())])
        for m in found
    ]


@pytest.mark.parametrize("name", [path.name for path in FOLDER.glob("*.jsonl")])
def test_the_format_of_each_file_is_detected(name: str) -> None:
    assert detected_formats(FOLDER / name) == {str(FOLDER / name): "ai_sdk"}


# Results


@pytest.mark.parametrize(("name", "line"), [("results.jsonl", 1), ("results.jsonl", 2)])
def test_every_step_of_a_result_is_learned(name: str, line: int) -> None:
    found, _ = read(FOLDER / name)
    row = found[line]
    assert [m.role for m in row.messages] == [
        *("system", "user", "assistant", "tool", "tool", "tool", "assistant", "tool", "assistant")
    ]
    assert [m.weight for m in row.messages if m.role == "assistant"] == [1, 1, 1]
    assert row.messages[2].tool_calls == (
        ToolCall("weather", {"city": "Lund"}, "call-1"),
        ToolCall("weather", {"city": "Ystad"}, "call-2"),
        ToolCall("rooms", {}, "call-3"),
    )
    assert [m.content for m in row.messages if m.role == "tool"] == [
        *("rain", "no station", '["hall", "attic"]', '{"sky": "sun", "wind": 3}')
    ]
    assert (row.gold_source, row.meta) == ("model-x", {"date": "2026-03-02"})
    assert [tool.name for tool in row.tools] == ["weather", "rooms"]
    assert row.tools[0].parameters["required"] == ["city"]


def test_steps_alone_whole_results_and_what_a_middleware_sees_are_read() -> None:
    found, faults = read(FOLDER / "results.jsonl")
    assert set(found) == {1, 2, 3, 4, 5, 6}
    assert {fault for fault in faults if fault[1] != "log-id-reused"} == {
        (5, "log-forced"),
        (6, "log-forced"),
        (6, "log-unused-result"),
    }
    for line in (3, 4):
        assert [m.role for m in found[line].messages] == ["user", "assistant", "tool", "assistant"]
    assert found[5].messages[-1].tool_calls == (ToolCall("weather", {"city": "Oslo"}, "call-6"),)
    assert found[5].messages[0].content == "You run a house."


def test_reasoning_stays_in_the_turn() -> None:
    lines = [line for line in ai_sdk.rewrite(rows("results.jsonl")[0], "a.jsonl:1") if isinstance(line, dict)]
    assert lines[0]["response"]["choices"][0]["message"]["reasoning_content"] == "Two cities."
    assert lines[1]["request"]["messages"][2]["reasoning_content"] == "Two cities."
    for row in rows("model_messages.jsonl"):
        assert messages(row)[2]["reasoning_content"] == "Two cities."


def test_what_cannot_be_learned_is_left_out_under_a_rule() -> None:
    found, faults = read(FOLDER / "left_out.jsonl")
    assert found == {}
    assert faults == [
        (1, "log-truncated"),
        (2, "log-filtered"),
        (3, "log-error"),
        (4, "log-no-request"),
        (5, "log-hosted-tool"),
        (6, "content-not-text"),
        (7, "bad-tool"),
    ]


@pytest.mark.parametrize(("name", "line"), [("version_5.jsonl", 1), ("version_4.jsonl", 1)])
def test_results_of_earlier_versions_are_read(name: str, line: int) -> None:
    found, _ = read(FOLDER / name)
    row = found[line]
    assert [m.role for m in row.messages] == ["system", "user", "assistant", "tool", "tool", "assistant"]
    assert [m.weight for m in row.messages if m.role == "assistant"] == [1, 1]
    assert [call.name for call in row.messages[2].tool_calls] == ["weather", "rooms"]
    assert [tool.name for tool in row.tools] == ["weather", "rooms"]


def test_a_step_of_version_4_without_messages_is_read_and_its_unused_results_are_counted() -> None:
    found, faults = read(FOLDER / "version_4.jsonl")
    assert (3, "log-unused-result") in faults
    assert found[3].messages[-1].content == "Both."
    assert [call.id for call in found[3].messages[-1].tool_calls] == ["call-41", "call-42"]


# Messages


def test_a_ui_message_becomes_a_turn_for_each_step() -> None:
    ui, _, converted, *_ = rows("ui_messages.jsonl")
    assert shape(messages(ui)) == [
        ("user", "Lund and Ystad?", []),
        ("assistant", "One moment.", ["call-1", "call-2"]),
        ("tool", "rain", "call-1"),
        ("tool", "no station", "call-2"),
        ("assistant", None, ["call-3"]),
        ("tool", '["hall"]', "call-3"),
        ("assistant", "Rain in Lund.", []),
    ]
    assert messages(ui) == messages(converted)  # as the SDK converts it


def test_a_call_that_waits_for_its_result_ends_the_conversation() -> None:
    assert shape(messages(rows("ui_messages.jsonl")[1]))[-2:] == [
        ("user", "Attic?", []),
        ("assistant", None, ["call-4"]),
    ]


def test_a_denied_call_has_the_reason_as_its_result() -> None:
    ui, converted = rows("ui_messages.jsonl")[3:5]
    assert shape(messages(ui)) == shape(messages(converted))
    assert shape(messages(ui))[2] == ("tool", "Not allowed", "call-9")


def test_a_call_that_was_still_being_written_and_a_file_are_left_out() -> None:
    _, faults = read(FOLDER / "ui_messages.jsonl")
    assert faults[-2:] == [(6, "log-truncated"), (7, "content-not-text")]


@pytest.mark.parametrize("line", [3, 5])
def test_ui_messages_of_version_4_are_read_as_that_version_converts_them(line: int) -> None:
    ui, converted = rows("version_4.jsonl")[line : line + 2]
    assert messages(ui) == messages(converted)
    assert any(m.get("tool_calls") for m in messages(ui))


@pytest.mark.parametrize(
    ("output", "text"),
    [
        ({"type": "text", "value": "a"}, "a"),
        ({"type": "json", "value": {"a": None}}, '{"a": null}'),
        ({"type": "error-text", "value": "no"}, "no"),
        ({"type": "error-json", "value": [1]}, "[1]"),
        ({"type": "content", "value": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, "ab"),
        ({"type": "execution-denied", "reason": "busy"}, "busy"),
        ({"type": "text"}, '{"type": "text"}'),
        ({"sky": "sun"}, '{"sky": "sun"}'),
        ("rain", "rain"),
        (None, ""),
    ],
)
def test_outputs_of_every_type_become_text(output: Any, text: str) -> None:
    part = {"type": "tool-result", "toolCallId": "c", "toolName": "f", "output": output}
    assert messages({"messages": [{"role": "tool", "content": [part]}]})[0]["content"] == text


def test_an_image_in_a_result_or_an_attachment_is_not_flattened() -> None:
    image = {"type": "media", "mediaType": "image/png", "data": ""}
    part = {"type": "tool-result", "toolCallId": "c", "toolName": "f", "output": {"type": "content", "value": [image]}}
    assert rule({"messages": [{"role": "tool", "content": [part]}]}) == "content-not-text"
    attached = {"role": "user", "content": "What?", "experimental_attachments": [{"url": "data:image/png;base64,"}]}
    assert rule({"messages": [attached]}) == "content-not-text"


# Tools


def test_tools_are_read_as_a_list_and_as_an_object_of_names() -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    wanted = [{"name": "f", "description": "F", "inputSchema": schema}]
    listed = [{"type": "function", "name": "f", "description": "F", "inputSchema": schema}]
    assert ai_sdk.openai_tools(listed, "w") == (wanted, [])
    assert ai_sdk.openai_tools({"f": {"description": "F", "inputSchema": schema}}, "w") == (wanted, [])
    assert ai_sdk.openai_tools(json.dumps(listed), "w") == (wanted, [])
    hosted = {"type": "provider-defined", "id": "openai.web_search", "name": "web_search", "args": {}}
    assert ai_sdk.openai_tools([hosted, *listed], "w") == (wanted, ["web_search"])


@pytest.mark.parametrize("name", ["logs/chat.jsonl", "logs/responses.jsonl", "contracts/conversation.jsonl"])
def test_rows_of_openai_are_not_taken_for_the_sdks(name: str) -> None:
    lines = (FIXTURES / name).read_text(encoding="utf-8").splitlines()
    assert not any(ai_sdk.looks_like(json.loads(text)) for text in lines)
