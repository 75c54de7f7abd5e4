"""Bedrock's Converse: logs, streams and rows for tuning, as boto3 validated and parsed them."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import imported
import pytest
from imported import FIXTURES, Row, read, rows_of

from toolhone.data.importers import anthropic, bedrock
from toolhone.data.read import detected_formats
from toolhone.errors import RowError
from toolhone.records import ToolCall

FOLDER = FIXTURES / "importers" / "bedrock"
rewritten = partial(imported.rewritten, "bedrock")
rule = partial(imported.rule_of, "bedrock")
USER = {"role": "user", "content": [{"text": "Go"}]}


def rows(name: str) -> list[Row]:
    return rows_of(FOLDER / name)


def answer(*parts: Row, stop: str = "end_turn") -> Row:
    return {"output": {"message": {"role": "assistant", "content": list(parts)}}, "stopReason": stop}


@pytest.mark.parametrize("name", [path.name for path in FOLDER.glob("*.jsonl")])
def test_the_format_of_each_file_is_detected(name: str) -> None:
    assert detected_formats(FOLDER / name) == {str(FOLDER / name): "bedrock"}


def test_requests_of_one_conversation_are_folded_with_parallel_calls_and_results() -> None:
    found, faults = read(FOLDER / "log.jsonl")
    assert faults == [(4, "log-forced"), (5, "log-forced")]
    books = found[3]
    assert [m.role for m in books.messages] == [
        *("system", "user", "assistant", "tool", "tool", "user", "assistant", "tool", "assistant")
    ]
    assert [m.weight for m in books.messages if m.role == "assistant"] == [1, 1, 1]
    assert books.messages[0].content == "You run a library. Be brief."
    assert books.messages[2].tool_calls == (
        ToolCall("find_book", {"title": "Emma"}, "tooluse_1"),
        ToolCall("find_book", {"title": "Dune", "year": 1965}, "tooluse_2"),
    )
    assert [(m.tool_call_id, m.content) for m in books.messages if m.role == "tool"] == [
        ("tooluse_1", '{"shelf": 1}'),
        ("tooluse_2", "shelf 4, row 2"),
        ("tooluse_3", "closed"),
    ]
    assert [tool.name for tool in books.tools] == ["find_book", "list_shelves"]
    assert books.tools[0].parameters["required"] == ["title"]
    assert (books.gold_source, books.meta) == ("amazon.nova-pro-v1:0", {"date": "2026-03-02"})


def test_a_log_of_model_invocations_is_read() -> None:
    found, _ = read(FOLDER / "log.jsonl")
    assert found[4].id == "req-log-1"
    assert found[4].messages[-1].tool_calls == (ToolCall("find_book", {"title": "Ulysses"}, "tooluse_4"),)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_log_of_model_invocations_with_anthropic_bodies_is_read_by_its_importer(
    streamed: bool, tmp_path: Path
) -> None:
    lines = (FIXTURES / "importers" / "anthropic" / ("streams.jsonl" if streamed else "log.jsonl")).read_text()
    row = json.loads(lines.splitlines()[0])
    inner = {"inputBodyJson": {"anthropic_version": "bedrock-2023-05-31", **row["request"]}}
    output = {"outputBodyJson": row["chunks"] if streamed else row["response"]}
    log = {"schemaType": "ModelInvocationLog", "modelId": "m", "input": inner, "output": output}
    assert anthropic.looks_like(log)
    assert not bedrock.looks_like(log)
    (tmp_path / "a.jsonl").write_text(json.dumps(log))
    found, faults = read(tmp_path / "a.jsonl")
    assert faults == []
    assert {call.name for call in found[1].messages[-1].tool_calls} >= {"find_flights"}


def test_reasoning_stays_in_the_turn() -> None:
    first, second = (rewritten(row) for row in rows("log.jsonl")[:2])
    assert first["response"]["choices"][0]["message"]["reasoning_content"] == "Two books."
    assert second["request"]["messages"][2]["reasoning_content"] == "Two books."
    hidden = {"reasoningContent": {"redactedContent": "abc"}}
    made = rewritten({"messages": [USER], "response": answer(hidden, {"text": "Yes."})})
    assert made["response"]["choices"][0]["message"] == {"role": "assistant", "content": "Yes."}


def test_what_cannot_be_learned_is_left_out_under_a_rule() -> None:
    found, faults = read(FOLDER / "left_out.jsonl")
    assert found == {}
    assert faults == [
        (1, "log-truncated"),
        (2, "log-filtered"),
        (3, "log-filtered"),
        (4, "log-empty"),
        (5, "log-broken-call"),
        (6, "content-not-text"),
        (7, "content-not-text"),
        (8, "log-error"),
    ]


def test_the_response_of_an_exception_is_a_failed_request() -> None:
    failed = {"Error": {"Message": "Too many requests", "Code": "ThrottlingException"}}
    request = {"messages": [USER], "inferenceConfig": {}}
    with pytest.raises(RowError, match="the request failed: Too many requests"):
        list(bedrock.rewrite({"request": request, "response": failed}, "a.jsonl:1"))


def test_a_tool_of_the_service_leaves_the_line_out() -> None:
    use = {"toolUse": {"toolUseId": "t", "name": "nova_grounding", "input": {}, "type": "server_tool_use"}}
    assert rule({"messages": [USER], "response": answer(use)}) == "log-hosted-tool"
    tools = {"tools": [{"systemTool": {"name": "nova_grounding"}}]}
    made = rewritten({"messages": [USER], "toolConfig": tools, "response": answer({"text": "Yes."})})
    assert made["request"]["tools"] == [{"type": "nova_grounding"}]


def test_guarded_and_cited_text_is_read() -> None:
    guarded = {"guardContent": {"text": {"text": "Emma?", "qualifiers": ["query"]}}}
    cited = {"citationsContent": {"content": [{"text": "Shelf 1."}], "citations": []}}
    row = {"messages": [{"role": "user", "content": [guarded]}], "response": answer(cited)}
    made = rewritten(row)
    assert made["request"]["messages"] == [{"role": "user", "content": "Emma?"}]
    assert made["response"]["choices"][0]["message"]["content"] == "Shelf 1."


def test_the_events_of_a_stream_are_joined() -> None:
    found, faults = read(FOLDER / "streams.jsonl")
    assert faults == [(3, "log-truncated")]
    assert found[1].messages[-1].content == "Looking."
    assert found[1].messages[-1].tool_calls == (
        ToolCall("find_book", {"title": "Emma"}, "tooluse_7"),
        ToolCall("list_shelves", {}, "tooluse_8"),
    )
    assert found[2].messages[-1].content == "Closed now."
    first = rewritten(rows("streams.jsonl")[0])["response"]["choices"][0]["message"]
    assert first["reasoning_content"] == "Look."


def test_every_assistant_turn_of_a_row_for_tuning_is_learned() -> None:
    found, faults = read(FOLDER / "tuning.jsonl")
    assert faults == []
    assert [m.role for m in found[1].messages] == ["system", "user", "assistant", "tool", "tool", "assistant"]
    assert all(m.weight == 1 for m in found[1].messages)
    assert [m.tool_call_id for m in found[1].messages if m.role == "tool"] == ["tooluse_9", "tooluse_10"]
    assert found[2].messages[-1].content == "Hello!"


@pytest.mark.parametrize(
    "name",
    [
        "logs/chat.jsonl",
        "contracts/conversation.jsonl",
        "importers/anthropic/log.jsonl",
        "importers/ai_sdk/results.jsonl",
    ],
)
def test_rows_of_other_formats_are_not_taken_for_bedrocks(name: str) -> None:
    lines = (FIXTURES / name).read_text(encoding="utf-8").splitlines()
    assert not any(bedrock.looks_like(json.loads(text)) for text in lines)
