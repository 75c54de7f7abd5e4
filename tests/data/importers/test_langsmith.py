"""LangSmith's runs, batches and examples, and LangChain's messages: requests are read, and all else is counted.

The files in `tests/fixtures/importers/langsmith` and `langchain` were written by the SDKs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from imported import read_counted as read
from imported import read_rows

from toolhone.data.importers import IMPORTERS, langchain
from toolhone.errors import RowError

FIXTURES = Path(__file__).parents[2] / "fixtures"
RUNS = FIXTURES / "importers" / "langsmith"
Row = dict[str, Any]
TOOLS = [{"type": "function", "function": {"name": "find", "parameters": {"type": "object", "properties": {}}}}]
CALL = {"name": "find", "args": {"city": "Lund"}, "id": "c1", "type": "tool_call"}


def serialised(kind: str, **fields: Any) -> Row:
    return {"lc": 1, "type": "constructor", "id": ["langchain", "schema", "messages", kind], "kwargs": fields}


def run(**fields: Any) -> Row:
    answer = serialised("AIMessage", content="", tool_calls=[CALL], response_metadata={"finish_reason": "tool_calls"})
    return {
        "id": "11111111-1111-1111-1111-111111111111",
        "run_type": "llm",
        "start_time": "2026-11-30T08:00:00",
        "inputs": {"messages": [[serialised("HumanMessage", content="Lund?")]]},
        "outputs": {"generations": [[{"text": "", "message": answer}]]},
        "extra": {"invocation_params": {"model": "gpt-4o", "tools": TOOLS}},
        **fields,
    }


@pytest.mark.parametrize(
    ("name", "count", "rules"),
    [
        (
            "runs_wrap_openai.jsonl",
            5,
            {"log-other": 2, "log-truncated": 1, "log-filtered": 1, "log-error": 1, "log-choices": 1}
            | {"content-not-text": 1},
        ),
        ("runs_langchain_1.jsonl", 3, {}),
        (
            "runs_langchain_2.jsonl",
            2,
            {"log-other": 4, "log-truncated": 1, "log-filtered": 1, "log-error": 1, "content-not-text": 1},
        ),
        ("examples.jsonl", 4, {}),
        ("bulk_export.parquet", 2, {"log-other": 2, "log-repeated": 2, "log-error": 1}),
    ],
)
def test_requests_are_read_and_all_other_runs_are_counted(name: str, count: int, rules: dict[str, int]) -> None:
    found, counted = read(RUNS / name)
    assert len(found) == count
    assert counted == rules


@pytest.mark.parametrize("name", ["runs_wrap_openai.jsonl", "runs_langchain_1.jsonl"])
def test_the_steps_of_a_conversation_become_one_with_its_tools_and_model(name: str) -> None:
    found = read(RUNS / name)[0][0]
    calls = [[call.name for call in message.tool_calls] for message in found.messages if message.role == "assistant"]
    assert calls == [["book_table", "get_weather"], []]
    assert [message.tool_call_id for message in found.messages if message.role == "tool"] == ["call_a1", "call_a2"]
    assert [message.weight for message in found.messages if message.role == "assistant"] == [1, 1]
    assert [tool.name for tool in found.tools] == ["book_table", "get_weather"]
    assert found.gold_source == "gpt-4o-2024-08-06"
    assert found.meta["date"]


def test_a_run_is_joined_with_its_patch_on_another_line(tmp_path: Path) -> None:
    whole = run()
    post = {key: value for key, value in whole.items() if key != "outputs"}
    patch = {"id": whole["id"], "run_type": "llm", "outputs": whole["outputs"]}
    found, rules = read_rows(tmp_path, {"post": [post]}, {"patch": [patch]})
    assert ([len(row.messages) for row in found], rules) == ([2], {})
    assert found[0].id == whole["id"]
    assert read_rows(tmp_path, {"post": [post]})[1] == {"log-no-response": 1}
    assert read_rows(tmp_path, {"patch": [patch]})[1] == {"log-no-request": 1}


def test_inputs_outputs_and_extra_may_be_json_strings(tmp_path: Path) -> None:
    texts = {key: json.dumps(value) if key in ("inputs", "outputs", "extra") else value for key, value in run().items()}
    assert read_rows(tmp_path, texts)[0][0].messages == read_rows(tmp_path, run())[0][0].messages


def test_a_json_file_of_one_run_is_one_row(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps(run(events=[{"name": "start"}, {"name": "end"}]), indent=1), encoding="utf-8")
    assert (len(read(path)[0]), read(path)[1]) == (1, {})


def test_a_batch_of_prompts_gives_a_row_for_each(tmp_path: Path) -> None:
    prompts = [[serialised("HumanMessage", content=text)] for text in ("Lund?", "Ystad?")]
    answers = [[{"message": serialised("AIMessage", content=text)}] for text in ("yes", "no")]
    found, rules = read_rows(tmp_path, run(inputs={"messages": prompts}, outputs={"generations": answers}))
    assert [[message.content for message in row.messages] for row in found] == [["Lund?", "yes"], ["Ystad?", "no"]]
    assert not rules


def test_an_example_of_a_chat_data_set_is_read(tmp_path: Path) -> None:
    asked = {"input": [{"type": "human", "data": {"content": "Lund?"}}], "tools": TOOLS}
    (found,), rules = read_rows(
        tmp_path, {"inputs": asked, "outputs": {"output": {"type": "ai", "data": {"content": "yes"}}}}
    )
    assert [message.content for message in found.messages] == ["Lund?", "yes"]
    assert ([tool.name for tool in found.tools], rules) == (["find"], {})


def test_a_request_to_another_provider_is_read_by_its_importer(tmp_path: Path) -> None:
    asked = {"system": "Be short.", "max_tokens": 9, "messages": [{"role": "user", "content": "Lund?"}]}
    said = [{"type": "text", "text": "I look."}, {"type": "tool_use", "id": "c1", "name": "find", "input": {"n": 1}}]
    answer = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "content": said}
    row = run(inputs=asked, outputs={**answer, "stop_reason": "tool_use"})
    (found,), rules = read_rows(tmp_path, row)
    assert [message.role for message in found.messages] == ["system", "user", "assistant"]
    assert (found.messages[2].content, found.messages[2].tool_calls[0].arguments) == ("I look.", {"n": 1})
    assert (found.gold_source, rules) == ("claude", {})
    assert read_rows(tmp_path, {**row, "outputs": {**answer, "stop_reason": "max_tokens"}})[1] == {"log-truncated": 1}


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"error": "Timeout"}, "log-error"),
        ({"status": "error"}, "log-error"),
        ({"outputs": None}, "log-no-response"),
        ({"inputs": {}}, "log-no-request"),
        ({"run_type": "retriever"}, "log-other"),
        ({"inputs": {"prompts": ["Once upon"]}}, "log-other"),
        ({"outputs": {"generations": [[{"message": serialised("AIMessage", content="")}]]}}, "log-empty"),
        ({"outputs": {"strange": 1}}, "log-unknown"),
        ({"outputs": '{"generations": [[{"message": {"lc": 1'}, "log-broken-json"),
    ],
)
def test_a_run_without_an_answer_to_learn_is_counted_under_its_rule(fields: Row, rule: str, tmp_path: Path) -> None:
    assert read_rows(tmp_path, run(**fields)) == ([], {rule: 1})


@pytest.mark.parametrize(
    ("metadata", "rule"),
    [
        ({"finish_reason": "length"}, "log-truncated"),
        ({"stop_reason": "max_tokens"}, "log-truncated"),
        ({"finish_reason": "MAX_TOKENS"}, "log-truncated"),
        ({"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}, "log-truncated"),
        ({"finish_reason": "SAFETY"}, "log-filtered"),
        ({"stop_reason": "refusal"}, "log-filtered"),
        ({"finish_reason": "MALFORMED_FUNCTION_CALL"}, "log-error"),
    ],
)
def test_the_stop_reasons_of_all_providers_are_known(metadata: Row, rule: str, tmp_path: Path) -> None:
    answer = serialised("AIMessage", content="Once", response_metadata=metadata)
    outputs = {"generations": [[{"text": "Once", "message": answer}]]}
    assert read_rows(tmp_path, run(outputs=outputs)) == ([], {rule: 1})


def test_a_call_whose_arguments_langchain_could_not_parse_is_left_out_and_counted(tmp_path: Path) -> None:
    invalid = {"name": "find", "args": '{"city": ', "id": "c1", "error": None, "type": "invalid_tool_call"}
    answer = serialised("AIMessage", content="", tool_calls=[], invalid_tool_calls=[invalid])
    outputs = {"generations": [[{"message": answer}]]}
    assert read_rows(tmp_path, run(outputs=outputs)) == ([], {"log-broken-call": 1})


def test_runs_without_tools_are_read() -> None:
    found, rules = read(FIXTURES / "cases" / "langchain_langsmith_lc_serialised.jsonl")
    assert (len(found), rules) == (6, {})
    assert all(row.messages[1].tool_calls[0].name == "book_table" for row in found)


# LangChain's messages


def test_every_form_of_langchains_messages_gives_the_same_conversation() -> None:
    found, rules = read(FIXTURES / "importers" / "langchain" / "messages.jsonl")
    assert not rules
    assert len(found) == 11
    assert [len({row.id for row in found[start : start + 4]}) for start in (0, 4, 8)] == [1, 1, 1]


@pytest.mark.parametrize(
    ("found", "made"),
    [
        (["human", "hi"], {"role": "user", "content": "hi"}),
        ({"type": "human", "data": {"content": "hi"}}, {"role": "user", "content": "hi"}),
        (serialised("ChatMessage", content="hi", role="developer"), {"role": "system", "content": "hi"}),
        (
            {"type": "tool", "content": [{"type": "text", "text": "a"}, "b"], "tool_call_id": "c1"},
            {"role": "tool", "content": "ab", "tool_call_id": "c1"},
        ),
        (
            {"type": "ai", "content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "yes"}]},
            {"role": "assistant", "content": "yes", "reasoning_content": "hm"},
        ),
        (
            {"type": "AIMessageChunk", "content": "yes", "additional_kwargs": {"reasoning_content": "hm"}},
            {"role": "assistant", "content": "yes", "reasoning_content": "hm"},
        ),
        (
            {"type": "ai", "content": [{"type": "tool_use", "id": "c1", "name": "find", "input": {"n": 1}}]},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "find", "arguments": {"n": 1}}}],
            },
        ),
    ],
)
def test_a_message_becomes_openais(found: Any, made: Row) -> None:
    assert langchain.message(found, "w") == made


@pytest.mark.parametrize(
    ("part", "rule"),
    [
        ({"type": "image_url", "image_url": {"url": "data:"}}, "content-not-text"),
        ({"type": "audio", "base64": "x"}, "content-not-text"),
        ({"type": "server_tool_use", "name": "web_search"}, "log-hosted-tool"),
        ({"type": "web_search_call", "id": "x"}, "log-hosted-tool"),
    ],
)
def test_content_that_is_not_text_is_refused_under_its_rule(part: Row, rule: str) -> None:
    with pytest.raises(RowError) as error:
        langchain.message({"type": "ai", "content": [part]}, "w")
    assert error.value.rule == rule


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]},
        {"inputs": {"messages": [{"role": "user", "content": "hi"}]}, "outputs": {"choices": []}},
        {"instruction": "a", "output": "b"},
        {"run_type": "x"},
        {"post": "text"},
    ],
)
def test_rows_of_other_formats_are_not_claimed(row: Row) -> None:
    assert not any(IMPORTERS[name].looks_like(row) for name in ("langsmith", "langchain"))
