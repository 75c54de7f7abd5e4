"""Langfuse's observations, traces and posted batches: generations are read, and all else is counted.

The files in `tests/fixtures/importers/langfuse` and `langfuse_otlp` were written or validated by the SDK.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from imported import read_counted as read
from imported import read_rows

from toolhone.data.importers import IMPORTERS

FIXTURES = Path(__file__).parents[2] / "fixtures" / "importers"
Row = dict[str, Any]
TOOL = {"type": "function", "function": {"name": "find", "parameters": {"type": "object", "properties": {}}}}
ASK = {"role": "user", "content": "Lund?"}
CALL = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"city": "Lund"}'}}
ANSWER = {"role": "assistant", "content": None, "tool_calls": [CALL]}


def generation(**fields: Any) -> Row:
    made = {"id": "o1", "type": "GENERATION", "traceId": "t1", "startTime": "2026-11-30T08:00:00Z", "model": "gpt-4o"}
    return {**made, "input": {"messages": [ASK], "tools": [TOOL]}, "output": ANSWER, **fields}


@pytest.mark.parametrize(
    ("name", "count", "rules"),
    [
        (
            "langfuse/observations.jsonl",
            7,
            {"log-other": 2, "log-truncated": 2, "log-error": 2, "log-empty": 1, "log-choices": 1}
            | {"content-not-text": 1},
        ),
        ("langfuse/traces.jsonl", 4, {"log-other": 2, "log-truncated": 1}),
        ("langfuse/posted_langchain.jsonl", 3, {"log-other": 8, "log-truncated": 1, "log-error": 1}),
        (
            "langfuse/posted_openai.jsonl",
            4,
            {"log-other": 9, "log-truncated": 1, "log-error": 1, "log-empty": 1, "log-choices": 1}
            | {"content-not-text": 1},
        ),
        (
            "langfuse_otlp/openai.jsonl",
            5,
            {"log-other": 2, "log-truncated": 1, "log-error": 1, "log-empty": 1, "log-choices": 1}
            | {"content-not-text": 1},
        ),
        ("langfuse_otlp/langchain.jsonl", 3, {"log-other": 2, "log-truncated": 1, "log-error": 1}),
    ],
)
def test_generations_are_read_and_all_other_observations_are_counted(
    name: str, count: int, rules: dict[str, int]
) -> None:
    found, counted = read(FIXTURES / name)
    assert len(found) == count
    assert counted == rules
    first = found[0]
    calls = [[call.name for call in message.tool_calls] for message in first.messages if message.role == "assistant"]
    assert calls == [["book_table", "get_weather"], []]
    assert [tool.name for tool in first.tools] == ["book_table", "get_weather"]
    assert first.gold_source == "gpt-4o-2024-08-06"
    assert first.meta == {"date": "2026-11-30"}


@pytest.mark.parametrize("name", ["list.json", "list.jsonl"])
@pytest.mark.parametrize("key", ["data", "observations"])
def test_a_page_of_the_api_and_a_trace_give_their_observations(name: str, key: str, tmp_path: Path) -> None:
    page = {key: [generation(), {"id": "s", "type": "SPAN", "input": None}], "meta": {"page": 1}}
    found, rules = read_rows(tmp_path, page, name=name)
    assert (len(found), rules) == (1, {"log-other": 1})


def test_the_events_of_a_generation_are_joined_across_lines(tmp_path: Path) -> None:
    whole = generation()
    create = {"type": "generation-create", "body": {**whole, "output": None}}
    update = {"type": "generation-update", "body": {"id": "o1", "output": ANSWER, "model": "gpt-4o-2024"}}
    score = {"type": "score-create", "body": {"id": "x", "value": 1}}
    found, rules = read_rows(tmp_path, {"batch": [create, score], "metadata": {}}, {"batch": [update]})
    assert [row.gold_source for row in found] == ["gpt-4o-2024"]
    assert rules == {"log-other": 1}
    assert read_rows(tmp_path, create, update)[0][0].messages == found[0].messages
    assert read_rows(tmp_path, {"batch": [create]})[1] == {"log-no-response": 1}
    assert read_rows(tmp_path, {"batch": [update]})[1] == {"log-no-request": 1}


@pytest.mark.parametrize(
    "fields",
    [
        {"input": [ASK, {"role": "tool", "content": TOOL}]},
        {"input": {"messages": [ASK, {"role": "tool", "content": TOOL}]}},
        {"input": json.dumps({"messages": [ASK], "tools": [TOOL]}), "output": json.dumps(ANSWER)},
        {"input": [ASK], "modelParameters": {"tools": [TOOL]}},
        {"input": [ASK], "modelParameters": json.dumps({"tools": json.dumps([TOOL])})},
        {"input": [ASK], "metadata": {"tools": [TOOL]}},
        {"input": [ASK], "metadata": {"invocation_params": {"tools": [TOOL]}}},
        {"input": [ASK], "toolDefinitions": {"find": json.dumps(TOOL["function"])}},
        {"output": {"choices": [{"message": ANSWER, "finish_reason": "tool_calls"}]}},
        {"output": [{"name": "find", "args": {"city": "Lund"}, "id": "c1"}]},
        {"output": {"content": None, "tool_calls": [CALL]}},
        {"output": [ANSWER]},
        {"output": {"role": "assistant", "content": "", "additional_kwargs": {"tool_calls": [CALL]}}},
        {"type": "generation"},
        {"type": None, "providedModelName": "gpt-4o"},
    ],
)
def test_a_generation_is_read_in_every_shape(fields: Row, tmp_path: Path) -> None:
    (found,), rules = read_rows(tmp_path, generation(**fields))
    assert not rules
    assert [message.role for message in found.messages] == ["user", "assistant"]
    (call,) = found.messages[1].tool_calls
    assert (call.name, call.arguments, call.id) == ("find", {"city": "Lund"}, "c1")
    assert [tool.name for tool in found.tools] == ["find"]


def test_the_columns_of_a_blob_storage_export_are_read(tmp_path: Path) -> None:
    row = {"id": "o1", "trace_id": "t1", "type": "GENERATION", "start_time": "2026-11-30 08:00:00.000000"}
    row |= {"provided_model_name": "gpt-4o", "model_parameters": '{"max_tokens": 8}', "input": json.dumps([ASK])}
    row |= {"output": json.dumps(ANSWER), "usage_details": {"input": 9, "output": 7}, "level": "DEFAULT"}
    (found,), rules = read_rows(tmp_path, row)
    assert (found.gold_source, found.meta, rules) == ("gpt-4o", {"date": "2026-11-30"}, {})
    assert read_rows(tmp_path, {**row, "usage_details": {"output": 8}})[1] == {"log-truncated": 1}
    assert read_rows(tmp_path, {**row, "level": "ERROR", "status_message": "x"})[1] == {"log-error": 1}


def test_a_result_whose_content_looks_like_a_tool_stays_a_result(tmp_path: Path) -> None:
    asked = [ASK, ANSWER, {"role": "tool", "tool_call_id": "c1", "content": json.dumps(TOOL)}]
    (found,), rules = read_rows(tmp_path, generation(input={"messages": asked, "tools": [TOOL]}, output="done"))
    assert [message.role for message in found.messages] == ["user", "assistant", "tool", "assistant"]
    assert not rules


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"type": "SPAN"}, "log-other"),
        ({"type": "EMBEDDING"}, "log-other"),
        ({"level": "ERROR", "statusMessage": "Timeout", "output": None}, "log-error"),
        ({"output": None}, "log-no-response"),
        ({"input": None}, "log-no-request"),
        ({"output": {"role": "assistant", "content": ""}}, "log-empty"),
        ({"output": {"strange": 1}}, "log-unknown"),
        ({"output": '{"role": "assistant", "tool_calls": [{"id": '}, "log-broken-json"),
        ({"output": {**ANSWER, "tool_calls": [{"name": "find", "args": '{"city"'}]}}, "log-broken-call"),
        ({"usageDetails": {"output": 5}, "modelParameters": {"max_tokens": "5"}}, "log-truncated"),
        ({"input": [{"role": "user", "content": [{"type": "image_url"}]}]}, "content-not-text"),
    ],
)
def test_an_observation_without_an_answer_to_learn_is_counted_under_its_rule(
    fields: Row, rule: str, tmp_path: Path
) -> None:
    assert read_rows(tmp_path, generation(**fields)) == ([], {rule: 1})


@pytest.mark.parametrize(
    "row",
    [
        {"type": "message", "role": "assistant", "content": "hi"},
        {"type": "function", "function": {"name": "f", "parameters": {}}},
        {"data": [{"messages": []}]},
        {"request": {"messages": [ASK]}, "response": ANSWER},
        {"batch": "x", "observations": []},
    ],
)
def test_rows_of_other_formats_are_not_claimed(row: Row) -> None:
    assert not IMPORTERS["langfuse"].looks_like(row)
