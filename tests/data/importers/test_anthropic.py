"""Anthropic's Messages format: logs, streams, message batches and rows, as the SDK wrote them."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import imported
import pytest
from imported import FIXTURES, Row, read, rows_of, write

from toolhone.data.importers import anthropic
from toolhone.data.importers.importer import RowFault
from toolhone.data.read import detected_formats, read_source
from toolhone.errors import RowError
from toolhone.records import Conversation, Tool, ToolCall

FOLDER = FIXTURES / "importers" / "anthropic"
rewritten = partial(imported.rewritten, "anthropic")
rule = partial(imported.rule_of, "anthropic")
USER = {"role": "user", "content": "To Oslo?"}
TOOL = {"name": "find", "input_schema": {"type": "object", "properties": {"to": {"type": "string"}}}}
USE = {"type": "tool_use", "id": "toolu_1", "name": "find", "input": {"to": "OSL"}}


def rows(name: str) -> list[Row]:
    return rows_of(FOLDER / name)


def message(*content: Row, stop_reason: str = "end_turn", **more: Any) -> Row:
    return {"type": "message", "role": "assistant", "content": list(content), "stop_reason": stop_reason, **more}


def line(*messages: Row, response: Any, **request: Any) -> Row:
    return {"request": {"model": "m", "messages": list(messages), "tools": [TOOL], **request}, "response": response}


@pytest.mark.parametrize("name", [path.name for path in FOLDER.glob("*.jsonl")])
def test_the_format_of_each_file_is_detected(name: str) -> None:
    wanted = "batch" if name in ("batch_requests.jsonl", "batch_results.jsonl") else "anthropic"
    assert detected_formats(FOLDER / name) == {str(FOLDER / name): wanted}


# Logs


def test_requests_of_one_conversation_are_folded_with_parallel_calls_and_results() -> None:
    found, faults = read(FOLDER / "log.jsonl")
    assert faults == [(4, "log-forced"), (5, "log-forced"), (8, "log-prefill")]
    flight = found[3]
    assert [(m.role, m.weight) for m in flight.messages if m.role == "assistant"] == [("assistant", 1.0)] * 3
    assert [m.role for m in flight.messages] == [
        *("system", "user", "assistant", "tool", "tool", "user", "assistant", "tool", "assistant")
    ]
    assert flight.messages[0].content == "You book flights. Be brief."
    assert flight.messages[2].content == "I will look at both airports."
    assert flight.messages[2].tool_calls == (
        ToolCall("find_flights", {"origin": "LUZ", "destination": "BRE", "date": "2026-03-06"}, "toolu_01A"),
        ToolCall("find_flights", {"origin": "ZRH", "destination": "BRE", "date": "2026-03-06"}, "toolu_01B"),
    )
    assert [(m.tool_call_id, m.content) for m in flight.messages[3:6]] == [
        ("toolu_01A", "timeout after 10 s"),
        ("toolu_01B", "LX1190 at 07:40; LX1194 at 13:05"),
        (None, "Take the earliest one."),
    ]
    assert flight.gold_source == "claude-sonnet-4-5-20250929"
    assert flight.meta == {"date": "2026-03-02"}
    assert [tool.name for tool in flight.tools] == ["find_flights", "book_flight", "list_airports"]
    assert flight.tools[0].parameters["required"] == ["origin", "destination"]


def test_bodies_are_found_under_every_name_that_applications_log_them() -> None:
    found, _ = read(FOLDER / "log.jsonl")
    assert sorted(found) == [3, 4, 5, 6, 7, 8, 9]  # lines 1 and 2 are steps of the conversation of line 3
    assert found[4].messages[-1].tool_calls == (ToolCall("list_airports", {}, "toolu_02A"),)
    assert not found[4].parallel_tool_calls
    assert found[5].messages[-1].tool_calls[0].arguments == {"origin": "BRE", "destination": "OSL"}
    assert found[6].tools == ()  # tool_choice none
    assert found[7].messages[-1].content == "Hello! Where do you want to fly?"
    assert [(m.role, m.weight) for m in found[9].messages][-3:] == [("assistant", 0), ("tool", 1), ("assistant", 1)]


def test_what_cannot_be_learned_is_left_out_under_a_rule() -> None:
    found, faults = read(FOLDER / "left_out.jsonl")
    assert found == {}
    assert faults == [
        (1, "log-truncated"),
        (2, "log-filtered"),
        (3, "log-truncated"),
        (4, "log-empty"),
        (5, "log-hosted-tool"),
        (6, "log-hosted-tool"),
        (7, "log-hosted-tool"),
        (8, "content-not-text"),
        (9, "content-not-text"),
        (10, "content-not-text"),
        (11, "log-error"),
        (12, "log-error"),
    ]


def test_a_tool_of_the_provider_that_is_not_used_is_named_in_meta() -> None:
    found, faults = read(FOLDER / "hosted_unused.jsonl")
    assert faults == []
    assert found[1].meta == {"hosted_tools": ["web_search"]}
    assert "web_search" not in [tool.name for tool in found[1].tools]


def test_thinking_becomes_reasoning_in_requests_and_responses() -> None:
    first, second = (rewritten(row) for row in rows("log.jsonl")[:2])
    assert first["response"]["choices"][0]["message"]["reasoning_content"] == "Two origins, so two searches."
    assert second["request"]["messages"][2]["reasoning_content"] == "Two origins, so two searches."
    hidden = {"type": "redacted_thinking", "data": "abc"}
    made = rewritten(line(USER, response=message(hidden, {"type": "text", "text": "Yes."})))
    assert made["response"]["choices"][0]["message"] == {"role": "assistant", "content": "Yes."}


def test_the_start_of_an_answer_in_the_request_is_joined_to_the_response() -> None:
    found, _ = read(FOLDER / "log.jsonl")
    assert [m.content for m in found[8].messages] == ["You answer in JSON.", "Swiss airports as JSON", '["LUZ", "ZRH"']


@pytest.mark.parametrize(
    ("choice", "wanted"),
    [
        ({"type": "auto"}, "auto"),
        ({"type": "any"}, "required"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "find"}, {"type": "function", "function": {"name": "find"}}),
    ],
)
def test_the_tool_choice_is_written_as_openai_writes_it(choice: Row, wanted: Any) -> None:
    answer = message(USE, stop_reason="tool_use")
    assert rewritten(line(USER, response=answer, tool_choice=choice))["request"]["tool_choice"] == wanted
    choice = {**choice, "disable_parallel_tool_use": True}
    assert rewritten(line(USER, response=answer, tool_choice=choice))["request"]["parallel_tool_calls"] is False


@pytest.mark.parametrize("content", [[USE], [{"type": "text", "text": "Hi"}, USE]])
def test_a_response_may_be_the_parts_alone(content: list[Row], tmp_path: Path) -> None:
    found, faults = read(write(tmp_path / "a.jsonl", line(USER, response=content, system="s")))
    assert faults == []
    assert found[1].messages[-1].tool_calls == (ToolCall("find", {"to": "OSL"}, "toolu_1"),)


def test_messages_alone_and_a_message_inside_the_response_are_found(tmp_path: Path) -> None:
    answer = message({"type": "text", "text": "Yes."}, id="msg_1", model="m")
    alone = {"input": [USER], "system": "s", "tools": [TOOL], "output": answer}
    inside = {"inputs": {"messages": [USER], "system": "s", "tools": [TOOL]}, "outputs": {"message": answer}}
    for row in (alone, inside):
        found, faults = read(write(tmp_path / "a.jsonl", row))
        assert faults == []
        assert [m.content for m in found[1].messages] == ["s", "To Oslo?", "Yes."]
        assert [tool.name for tool in found[1].tools] == ["find"]
        assert found[1].gold_source == "m"


def test_rows_and_lines_without_tools_take_the_tools_of_the_config(tmp_path: Path) -> None:
    default = (Tool("other", "", {"type": "object", "properties": {}}),)
    answer = message({"type": "text", "text": "Yes."})
    line = {"request": {"system": "s", "messages": [USER]}, "response": answer}
    path = write(tmp_path / "a.jsonl", line, {"system": "s", "messages": [USER, answer]})
    assert [row.tools for row in read_source(path, default) if isinstance(row, Conversation)] == [default, default]


def test_a_response_in_openai_format_to_an_anthropic_request_is_read(tmp_path: Path) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "find", "arguments": '{"to": "OSL"}'}}
    choice = {"message": {"role": "assistant", "tool_calls": [call]}, "finish_reason": "tool_calls"}
    found, faults = read(write(tmp_path / "a.jsonl", line(USER, response={"choices": [choice]}, system="s")))
    assert faults == []
    assert found[1].messages[0].content == "s"
    assert found[1].messages[-1].tool_calls == (ToolCall("find", {"to": "OSL"}, "c"),)


@pytest.mark.parametrize(
    "part",
    [
        {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
        {"type": "mcp_tool_use", "id": "s", "name": "search", "server_name": "x", "input": {}},
        {"type": "web_fetch_tool_result", "tool_use_id": "s", "content": {}},
        {"type": "compaction", "content": "x"},
        {**USE, "caller": {"type": "code_execution_20250825", "tool_id": "s"}},
        {**USE, "toolset_name": "browser"},
    ],
)
def test_what_the_provider_ran_leaves_the_line_out(part: Row) -> None:
    assert rule(line(USER, response=message(part))) == "log-hosted-tool"


def test_a_call_that_the_model_made_directly_is_read() -> None:
    made = rewritten(line(USER, response=message({**USE, "caller": {"type": "direct"}})))
    assert made["response"]["choices"][0]["message"]["tool_calls"][0]["id"] == "toolu_1"


def test_faults_name_the_message_and_the_part() -> None:
    bad = {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image", "source": {}}]}
    with pytest.raises(
        RowError, match=r"^a\.jsonl:1: message 1: part 1: a part of type \"image\"; only text and calls"
    ):
        list(anthropic.rewrite(line(USER, bad, response=message(USE)), "a.jsonl:1"))
    with pytest.raises(RowError, match=r"^a\.jsonl:1: response: part 0: expected a call with the name of a tool"):
        list(anthropic.rewrite(line(USER, response=message({**USE, "name": None})), "a.jsonl:1"))


# Streams


def test_streams_give_what_the_whole_responses_would_give() -> None:
    found, faults = read(FOLDER / "streams.jsonl")
    assert faults == [(4, "log-truncated")]
    assert found[1].id == "msg_01Flight0021"
    assert found[1].messages[-1].content == "Looking it up."
    assert found[1].messages[-1].tool_calls == (
        ToolCall("find_flights", {"origin": "OSL", "destination": "BRE"}, "toolu_08A"),
        ToolCall("find_flights", {"origin": "BRE", "destination": "OSL"}, "toolu_08B"),
        ToolCall("list_airports", {}, "toolu_08C"),
    )
    assert found[2].messages[-1].tool_calls == (ToolCall("book_flight", {"flight": "LX1194", "seats": 1}, "toolu_09A"),)
    assert found[3].messages[-1].content == "Anything else?"
    thought = rewritten(rows("streams.jsonl")[0])["response"]["choices"][0]["message"]["reasoning_content"]
    assert thought == "Search both ways."


def test_a_streamed_call_with_broken_json_is_counted_as_a_broken_call(tmp_path: Path) -> None:
    row = rows("streams.jsonl")[0]
    pieces = [event["delta"] for event in row["chunks"] if event.get("delta", {}).get("type") == "input_json_delta"]
    pieces[2]["partial_json"] += "}"
    _, faults = read(write(tmp_path / "a.jsonl", row))
    assert faults == [(1, "log-broken-call")]


def test_an_error_in_a_stream_is_a_failed_request() -> None:
    events = [*rows("streams.jsonl")[0]["chunks"][:3], {"type": "error", "error": {"type": "overloaded_error"}}]
    assert rule(line(USER, response=events)) == "log-error"


# Message batches


def test_a_batch_in_one_row_is_read_and_its_failures_are_counted() -> None:
    found, faults = read(FOLDER / "batch_joined.jsonl")
    assert faults == [(3, "log-error"), (4, "log-error")]
    assert found[1].messages[-1].content == "From where?"
    assert [call.name for call in found[2].messages[-1].tool_calls] == ["find_flights", "list_airports"]


@pytest.mark.parametrize("order", [("batch_requests", "batch_results"), ("batch_results", "batch_requests")])
def test_requests_and_results_in_two_files_are_paired_by_their_ids(order: tuple[str, str], tmp_path: Path) -> None:
    for number, name in enumerate(order):
        (tmp_path / f"{number}.jsonl").write_bytes((FOLDER / f"{name}.jsonl").read_bytes())
    found = list(read_source(tmp_path))
    wanted = read(FOLDER / "batch_joined.jsonl")[0].values()
    read_rows = {row.id: row.messages for row in found if isinstance(row, Conversation)}
    assert read_rows == {row.id: row.messages for row in wanted}
    assert [row.rule for row in found if isinstance(row, RowFault)] == ["log-error", "log-error"]


def test_requests_and_results_without_their_other_half_are_counted() -> None:
    assert read(FOLDER / "batch_requests.jsonl") == ({}, [(n, "log-no-response") for n in (1, 2, 3, 4)])
    failed, unpaired = [(3, "log-error"), (4, "log-error")], [(1, "log-no-request"), (2, "log-no-request")]
    assert read(FOLDER / "batch_results.jsonl") == ({}, failed + unpaired)


# Rows of a data set


def test_every_assistant_turn_of_a_row_without_a_response_is_learned() -> None:
    found, faults = read(FOLDER / "rows.jsonl")
    assert faults == []
    assert [m.role for m in found[1].messages] == [
        *("system", "user", "assistant", "tool", "tool", "assistant", "tool", "assistant")
    ]
    assert all(m.weight == 1 for m in found[1].messages)
    assert [m.content for m in found[1].messages if m.role == "tool"] == ["LX1190", "LUZ, ZRH", ""]
    assert found[2].id == "conv-2"
    assert found[2].meta == {"model": "claude-sonnet-4-5-20250929"}
    assert [call.id for m in found[4].messages for call in m.tool_calls] == ["toolu_20A", "toolu_20B", "toolu_20C"]


def test_consecutive_messages_of_the_assistant_are_one_turn_as_the_api_joins_them() -> None:
    said = [{"role": "assistant", "content": "One moment."}, {"role": "assistant", "content": [USE]}]
    made = rewritten({"system": "s", "messages": [USER, *said], "tools": [TOOL]})
    assert [m["role"] for m in made["messages"]] == ["system", "user", "assistant"]
    assert made["messages"][2]["content"] == "One moment."
    assert made["messages"][2]["tool_calls"][0]["function"] == {"name": "find", "arguments": {"to": "OSL"}}


def test_results_come_before_the_text_of_their_message() -> None:
    content = [{"type": "text", "text": "And now?"}, {"type": "tool_result", "tool_use_id": "toolu_1", "content": "ok"}]
    made = rewritten({"system": "s", "messages": [USER, message(USE), {"role": "user", "content": content}]})
    assert [(m["role"], m.get("content")) for m in made["messages"][3:]] == [("tool", "ok"), ("user", "And now?")]


# Other formats


@pytest.mark.parametrize("name", ["logs/chat.jsonl", "logs/streamed.jsonl", "contracts/conversation.jsonl"])
def test_rows_of_openai_are_not_taken_for_anthropics(name: str) -> None:
    lines = (FIXTURES / name).read_text(encoding="utf-8").splitlines()
    assert not any(anthropic.looks_like(json.loads(text)) for text in lines)


def test_a_line_of_anthropic_among_lines_of_openai_keeps_its_system_message(tmp_path: Path) -> None:
    other = {"request": {"messages": [USER]}, "response": {"choices": [{"message": {"content": "Yes."}}]}}
    text = {"type": "text", "text": "Yes."}
    path = write(tmp_path / "a.jsonl", other, other, line(USER, response=message(text, id="m"), system="Be brief."))
    found, _ = read(path)
    assert [m.role for m in found[3].messages] == ["system", "user", "assistant"]
    _, faults = read(path, format="logs")
    assert (3, "other-format") in faults


def test_a_truncated_answer_to_a_plain_request_is_not_learned_by_the_log_reader(tmp_path: Path) -> None:
    cut = message({"type": "text", "text": "Yes, but"}, stop_reason="max_tokens")
    path = write(tmp_path / "a.jsonl", {"request": {"messages": [USER]}, "response": cut})
    assert read(path) == ({}, [(1, "log-truncated")])
    assert read(path, format="logs") == ({}, [(1, "other-format")])
