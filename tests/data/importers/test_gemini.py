"""Gemini's generateContent: logs, streams and rows for tuning, as the SDK wrote them."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import imported
import pytest
from imported import FIXTURES, Row, read, rows_of

from toolhone.data.importers import gemini
from toolhone.data.importers.schemas import gemini_schema
from toolhone.data.read import detected_formats
from toolhone.records import ToolCall

FOLDER = FIXTURES / "importers" / "gemini"
rewritten = partial(imported.rewritten, "gemini")
rule = partial(imported.rule_of, "gemini")


def rows(name: str) -> list[Row]:
    return rows_of(FOLDER / name)


def call(name: str, id: str | None = None, **args: Any) -> Row:
    return {"functionCall": {"name": name, "args": args, **({"id": id} if id else {})}}


def result(name: str, value: Any, **more: Any) -> Row:
    return {"functionResponse": {"name": name, "response": {"result": value}, **more}}


def user(*parts: Row) -> Row:
    return {"role": "user", "parts": list(parts)}


def model(*parts: Row) -> Row:
    return {"role": "model", "parts": list(parts)}


def answer(*parts: Row, reason: str | int = "STOP") -> Row:
    return {"candidates": [{"content": model(*parts), "finishReason": reason}]}


HI = user({"text": "Hi"})


@pytest.mark.parametrize("name", [path.name for path in FOLDER.glob("*.jsonl")])
def test_the_format_of_each_file_is_detected(name: str) -> None:
    assert detected_formats(FOLDER / name) == {str(FOLDER / name): "gemini"}


# Logs


def test_calls_without_ids_are_folded_and_paired_with_their_results() -> None:
    found, faults = read(FOLDER / "log.jsonl")
    assert faults == [(4, "log-forced"), (6, "log-forced")]
    weather = found[3]
    assert [m.role for m in weather.messages] == [
        *("system", "user", "assistant", "tool", "tool", "assistant", "tool", "user", "assistant")
    ]
    assert [m.weight for m in weather.messages if m.role == "assistant"] == [1, 1, 1]
    assert weather.messages[2].content == "One moment."
    assert weather.messages[2].tool_calls == (
        ToolCall("get_weather", {"city": "Lund", "unit": "C"}, "call_0"),
        ToolCall("get_weather", {"city": "Malmo", "days": [1, 2]}, "call_1"),
    )
    assert [(m.tool_call_id, m.content) for m in weather.messages if m.role == "tool"] == [
        ("call_0", '{"result": "rain"}'),
        ("call_1", '{"result": "sun"}'),
        ("call_2", '{"ok": true}'),
    ]
    assert weather.messages[-1].content == "Lund has rain, Malmo has sun."
    assert (weather.gold_source, weather.meta) == ("gemini-2.5-flash", {"date": "2026-03-02"})


def test_every_way_to_log_a_request_gives_the_same_tools_and_system_message() -> None:
    found, _ = read(FOLDER / "log.jsonl")
    assert sorted(found) == [3, 4, 6, 7, 8, 9, 10]
    tools = found[3].tools
    assert [tool.name for tool in tools] == ["get_weather", "set_alarm", "list_rooms"]
    for number, row in found.items():
        assert row.messages[0].content == "You run a house."
        assert row.tools == (() if number == 7 else tools)  # line 7 forbids calls
    assert found[9].meta == {"hosted_tools": ["googleSearch"]}
    assert [(m.role, m.content) for m in found[10].messages[2:3]] == [("assistant", "One moment.")]


def test_results_with_ids_are_sorted_into_the_order_of_their_calls() -> None:
    found, _ = read(FOLDER / "log.jsonl")
    assert [m.tool_call_id for m in found[6].messages if m.role == "tool"] == ["fc_1", "fc_2"]
    assert [m.weight for m in found[6].messages if m.role == "assistant"] == [1, 1]


def test_results_without_ids_go_to_the_first_unanswered_call_of_their_name() -> None:
    calls = [call("a", x=1), call("b"), call("a", x=2)]
    contents = [HI, model(*calls), user(result("b", 1), result("a", 2), result("a", 3), result("c", 4))]
    made = rewritten({"contents": [*contents, model({"text": "Done."})]})
    found = [(m["tool_call_id"], m["content"]) for m in made["messages"] if m["role"] == "tool"]
    assert found == [
        ("call_1", '{"result": 1}'),
        ("call_0", '{"result": 2}'),
        ("call_2", '{"result": 3}'),
        (None, '{"result": 4}'),
    ]


def test_ids_continue_over_the_turns_of_a_request_and_its_response() -> None:
    request = {"contents": [HI, model(call("a")), user(result("a", 1))]}
    made = rewritten({"request": request, "response": answer(call("a"), call("b"))})
    calls = made["response"]["choices"][0]["message"]["tool_calls"]
    assert [each["id"] for each in calls] == ["call_1", "call_2"]


def test_thoughts_become_reasoning_and_signatures_are_left_out() -> None:
    first, second = (rewritten(row) for row in rows("log.jsonl")[:2])
    assert first["response"]["choices"][0]["message"]["reasoning_content"] == "Two cities, two calls."
    assert second["request"]["messages"][2]["reasoning_content"] == "Two cities, two calls."
    assert "Q2FsbA" not in json.dumps([first, second])


def test_what_cannot_be_learned_is_left_out_under_a_rule() -> None:
    found, faults = read(FOLDER / "left_out.jsonl")
    assert found == {}
    assert faults == [
        (1, "log-truncated"),
        (2, "log-filtered"),
        (3, "log-broken-call"),
        (4, "log-filtered"),
        (5, "log-error"),
        (6, "log-filtered"),
        (7, "log-hosted-tool"),
        (8, "content-not-text"),
        (9, "content-not-text"),
        (10, "log-no-history"),
        (11, "log-error"),
    ]


@pytest.mark.parametrize(
    ("reason", "wanted"),
    [
        ("STOP", "stop"),
        ("FinishReason.STOP", "stop"),
        (1, "stop"),
        (2, "length"),
        (3, "content_filter"),
        ("FINISH_REASON_UNSPECIFIED", None),
        ("MODEL_ARMOR", "content_filter"),
        ("SOMETHING_NEW", "error"),
    ],
)
def test_finish_reasons_are_read_as_names_and_numbers(reason: str | int, wanted: str | None) -> None:
    made = rewritten({"contents": [HI], "response": answer({"text": "Hi"}, reason=reason)})
    assert made["response"]["choices"][0]["finish_reason"] == wanted


@pytest.mark.parametrize("part", ["executableCode", "codeExecutionResult", "toolCall", "toolResponse"])
def test_what_the_provider_ran_leaves_the_line_out(part: str) -> None:
    assert rule({"contents": [HI], "response": answer({part: {"x": 1}})}) == "log-hosted-tool"


def test_a_result_with_media_is_not_flattened() -> None:
    media = result("a", 1, parts=[{"inlineData": {"mimeType": "image/png", "data": ""}}])
    assert rule({"contents": [HI, model(call("a")), user(media)]}) == "content-not-text"


def test_several_candidates_are_said(tmp_path: Path) -> None:
    row = {"contents": [HI], "response": answer({"text": "Hi"})}
    row["response"]["candidates"] *= 2
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    found, faults = read(tmp_path / "a.jsonl")
    assert (len(found), faults) == (1, [(1, "log-choices")])


def test_calls_that_the_sdk_answered_itself_are_learned() -> None:
    found, faults = read(FOLDER / "automatic_calls.jsonl")
    assert faults == []
    assert [(m.role, m.weight) for m in found[1].messages] == [
        ("user", 1),
        ("assistant", 1),
        ("tool", 1),
        ("assistant", 1),
    ]
    assert found[1].messages[1].tool_calls == (ToolCall("get_time", {"city": "Lund"}, "call_0"),)


def test_lines_of_batches_are_read_and_their_failures_are_counted() -> None:
    found, faults = read(FOLDER / "batch.jsonl")
    assert faults == [(2, "log-error")]
    assert sorted(found) == [1, 4]  # line 3 is the request of line 4
    assert [each.name for each in found[4].messages[-1].tool_calls] == ["set_alarm", "list_rooms"]


def test_a_stream_that_fails_at_once_is_a_failed_request() -> None:
    failed = [{"error": {"code": 429, "message": "Slow down", "status": "RESOURCE_EXHAUSTED"}}]
    assert rule({"request": {"contents": [HI]}, "response": failed}) == "log-error"


# Streams


def test_the_chunks_of_a_stream_are_joined() -> None:
    found, faults = read(FOLDER / "streams.jsonl")
    assert faults == [(4, "log-truncated"), (5, "log-truncated")]
    assert found[1].messages[-1].content == "Looking."
    assert [each.name for each in found[1].messages[-1].tool_calls] == ["get_weather", "list_rooms"]
    assert found[2].messages[-1].content == "Hej då."
    assert found[3].messages[-1].tool_calls == (ToolCall("set_alarm", {"at": "09:30"}, "call_0"),)
    first = rewritten(rows("streams.jsonl")[0])["response"]["choices"][0]["message"]
    assert first["reasoning_content"] == "Thinking."


# Rows for tuning


def test_rows_for_tuning_are_read_in_camel_case_and_snake_case() -> None:
    found, faults = read(FOLDER / "tuning.jsonl")
    assert faults == []
    assert [m.role for m in found[1].messages] == [
        *("system", "user", "assistant", "tool", "tool", "tool", "assistant")
    ]
    assert [m.tool_call_id for m in found[1].messages if m.role == "tool"] == ["call_0", "call_1", "call_2"]
    assert found[2].meta == {"generationConfig": {"temperature": 0}}
    assert found[4].messages[1:3] == found[1].messages[1:3]
    assert found[4].tools == found[1].tools


def test_contents_may_be_a_text_or_loose_parts() -> None:
    for contents in ("Hi there", ["Hi", " there"], [{"text": "Hi"}, {"text": " there"}], user({"text": "Hi there"})):
        made = rewritten({"contents": contents, "response": answer({"text": "Yes?"})})
        assert made["request"]["messages"] == [{"role": "user", "content": "Hi there"}]


# Tools


def test_gemini_schemas_become_json_schema() -> None:
    found, _ = read(FOLDER / "tuning.jsonl")
    assert found[1].tools[0].parameters == {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "unit": {"type": ["string", "null"], "enum": ["C", "F", None]},
            "days": {"type": "array", "items": {"type": "integer"}, "maxItems": 7},
        },
        "required": ["city"],
    }
    assert found[1].tools[1].parameters == {
        "type": "object",
        "properties": {"at": {"type": "string"}},
        "required": ["at"],
    }


@pytest.mark.parametrize(
    ("schema", "wanted"),
    [
        ({"type": "Type.STRING", "enum": None}, {"type": "string"}),
        ({"type_": 6, "properties": {"a": {"type_": 1}}}, {"type": "object", "properties": {"a": {"type": "string"}}}),
        ({"any_of": [{"type": "STRING"}], "nullable": True}, {"anyOf": [{"type": "string"}, {"type": "null"}]}),
        ({"type": "ARRAY", "minItems": "1", "items": {"type": "NUMBER"}}, None),
        ({"type": "TYPE_UNSPECIFIED", "ref": "#/$defs/a", "defs": {"a": {"type": "NULL"}}}, None),
    ],
)
def test_keywords_and_types_are_mapped_at_every_depth(schema: Row, wanted: Row | None) -> None:
    wanted = wanted or (
        {"type": "array", "minItems": 1, "items": {"type": "number"}}
        if "items" in schema
        else {"$ref": "#/$defs/a", "$defs": {"a": {"type": "null"}}}
    )
    assert gemini_schema(schema) == wanted


def test_json_schema_is_unchanged() -> None:
    schema = {"type": "object", "properties": {"type": {"type": ["string", "null"], "const": "x"}}, "oneOf": [{}]}
    assert gemini_schema(schema) == schema


@pytest.mark.parametrize("name", ["logs/chat.jsonl", "logs/responses.jsonl", "contracts/conversation.jsonl"])
def test_rows_of_openai_are_not_taken_for_geminis(name: str) -> None:
    lines = (FIXTURES / name).read_text(encoding="utf-8").splitlines()
    assert not any(gemini.looks_like(json.loads(text)) for text in lines)
