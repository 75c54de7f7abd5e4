"""OpenTelemetry spans in the conventions of several tracers: requests are read, and all other spans are counted.

The files in the folders of `tests/fixtures/importers` that are named here were written by the SDKs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from imported import read_counted as read
from imported import read_rows

from toolhone.data.importers import IMPORTERS

FIXTURES = Path(__file__).parents[2] / "fixtures"
Row = dict[str, Any]
LEFT_OUT = {"log-truncated": 1, "log-error": 1, "log-other": 1}
FILTERED = {"log-filtered": 1}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOL = {"name": "find", "description": "Find it", "parameters": SCHEMA}
ARGUMENTS = {"city": "Lund"}
TEXT = json.dumps(ARGUMENTS)
USER = {"role": "user", "parts": [{"type": "text", "content": "Lund?"}]}
CALLED = {"role": "assistant", "parts": [{"type": "tool_call", "id": "c1", "name": "find", "arguments": ARGUMENTS}]}
SEMANTIC = {
    "gen_ai.operation.name": "chat",
    "gen_ai.request.model": "gpt-4o",
    "gen_ai.input.messages": [USER],
    "gen_ai.output.messages": [CALLED],
    "gen_ai.tool.definitions": [{"type": "function", **TOOL}],
}
FLAT = {
    "llm.request.type": "chat",
    "llm.request.functions.0.name": "find",
    "llm.request.functions.0.description": "Find it",
    "llm.request.functions.0.parameters": json.dumps(SCHEMA),
    "gen_ai.prompt.0.role": "user",
    "gen_ai.prompt.0.content": "Lund?",
    "gen_ai.completion.0.role": "assistant",
    "gen_ai.completion.0.tool_calls.0.id": "c1",
    "gen_ai.completion.0.tool_calls.0.name": "find",
    "gen_ai.completion.0.tool_calls.0.arguments": TEXT,
}
OPENINFERENCE = {
    "openinference.span.kind": "LLM",
    "llm.tools.0.tool.json_schema": json.dumps({"type": "function", "function": TOOL}),
    "llm.input_messages.0.message.role": "user",
    "llm.input_messages.0.message.content": "Lund?",
    "llm.output_messages.0.message.role": "assistant",
    "llm.output_messages.0.message.tool_calls.0.tool_call.id": "c1",
    "llm.output_messages.0.message.tool_calls.0.tool_call.function.name": "find",
    "llm.output_messages.0.message.tool_calls.0.tool_call.function.arguments": TEXT,
}
AI_SDK = {
    "ai.operationId": "ai.streamText.doStream",
    "ai.prompt.messages": json.dumps([{"role": "user", "content": [{"type": "text", "text": "Lund?"}]}]),
    "ai.prompt.tools": [json.dumps({"type": "function", "name": "find", "inputSchema": SCHEMA})],
    "ai.response.text": "",
    "ai.response.toolCalls": json.dumps(
        [{"toolCallType": "function", "toolCallId": "c1", "toolName": "find", "args": TEXT}]
    ),
}
FUNCTION = {"name": "find", "arguments": TEXT}
OPENAI_CALL = {"id": "c1", "type": "function", "function": FUNCTION}
BODY = {"messages": [{"role": "user", "content": "Lund?"}], "tools": [{"type": "function", "function": TOOL}]}
OPENAI = {"choices": [{"message": {"role": "assistant", "content": None, "tool_calls": [OPENAI_CALL]}}]}
EVENTS = [
    {"name": "gen_ai.user.message", "attributes": {"content": "Lund?"}},
    {"name": "gen_ai.choice", "attributes": {"index": 0, "message": json.dumps({"tool_calls": [OPENAI_CALL]})}},
]
LOGFIRE = [
    {"event.name": "gen_ai.user.message", "role": "user", "content": "Lund?"},
    {"event.name": "gen_ai.choice", "index": 0, "message": {"role": "assistant", "tool_calls": [OPENAI_CALL]}},
]
FUNCTION_TOOLS = {"function_tools": [{"name": "find", "parameters_json_schema": SCHEMA, "strict": None, "kind": "x"}]}
CONVENTIONS: dict[str, Row] = {
    "semantic": {"attributes": SEMANTIC},
    "semantic as json": {"attributes": {k: json.dumps(v) if isinstance(v, list) else v for k, v in SEMANTIC.items()}},
    "semantic event": {
        "attributes": {"gen_ai.operation.name": "chat", "gen_ai.tool.definitions": [TOOL]},
        "events": [{"name": "gen_ai.client.inference.operation.details", "attributes": SEMANTIC}],
    },
    "openllmetry": {"attributes": FLAT},
    "openinference": {"attributes": OPENINFERENCE},
    "openinference bodies": {
        "attributes": {
            "openinference.span.kind": "LLM",
            "input.value": json.dumps(BODY),
            "output.value": json.dumps(OPENAI),
        }
    },
    "phoenix data frame": {
        "context.span_id": "s",
        "attributes.openinference.span.kind": "LLM",
        "attributes.llm.input_messages": [{"message.role": "user", "message.content": "Lund?"}],
        "attributes.llm.output_messages": [
            {
                "message.role": "assistant",
                "message.tool_calls": [
                    {
                        "tool_call.id": "c1",
                        "tool_call.function.name": "find",
                        "tool_call.function.arguments": TEXT,
                    }
                ],
            }
        ],
        "attributes.llm.tools": [{"tool.json_schema": json.dumps(TOOL)}],
    },
    "ai sdk": {"attributes": AI_SDK},
    "events": {
        "attributes": {"gen_ai.operation.name": "chat", "gen_ai.tool.definitions": json.dumps([TOOL])},
        "events": EVENTS,
    },
    "logfire": {
        "attributes": {
            "gen_ai.operation.name": "chat",
            "events": json.dumps(LOGFIRE),
            "model_request_parameters": json.dumps(FUNCTION_TOOLS),
        }
    },
    "strands agents": {
        "attributes": {"gen_ai.operation.name": "chat", "gen_ai.tool.definitions": json.dumps([TOOL])},
        "events": [
            {"name": "gen_ai.user.message", "attributes": {"content": '[{"text": "Lund?"}]'}},
            {
                "name": "gen_ai.choice",
                "attributes": {
                    "finish_reason": "tool_use",
                    "message": json.dumps([{"toolUse": {"toolUseId": "c1", "name": "find", "input": ARGUMENTS}}]),
                },
            },
        ],
    },
    "langsmith": {
        "attributes": {
            "langsmith.span.kind": "llm",
            "gen_ai.prompt": json.dumps(BODY),
            "gen_ai.completion": json.dumps(OPENAI),
        }
    },
}


def span(**fields: Any) -> Row:
    return {"name": "chat", "span_id": "s", "start_time": "2026-11-30T08:00:00Z", **fields}


def any_value(value: Any) -> Row:
    if isinstance(value, list):
        return {"arrayValue": {"values": [any_value(each) for each in value]}}
    if isinstance(value, dict):
        return {"kvlistValue": {"values": [{"key": key, "value": any_value(each)} for key, each in value.items()]}}
    return {"stringValue": value} if isinstance(value, str) else {"intValue": str(value)}


def as_otlp(found: Row) -> Row:
    """The span as an exporter of OTLP/JSON writes it."""
    made = {**found, "attributes": any_value(found["attributes"])["kvlistValue"]["values"]}
    if "events" in found:
        made["events"] = [
            {**each, "attributes": any_value(each["attributes"])["kvlistValue"]["values"]} for each in found["events"]
        ]
    return {"resourceSpans": [{"resource": {}, "scopeSpans": [{"scope": {"name": "x"}, "spans": [made]}]}]}


@pytest.mark.parametrize(
    ("name", "count", "rules"),
    [
        ("otel/spans.jsonl", 3, {**LEFT_OUT, **FILTERED, "log-choices": 1, "log-no-request": 2}),
        ("otel/otlp.jsonl", 2, {**LEFT_OUT, **FILTERED, "log-no-request": 1}),
        ("openinference/spans_1.jsonl", 3, {"log-truncated": 1}),
        (
            "openinference/spans_2.jsonl",
            2,
            {**FILTERED, "log-error": 1, "log-other": 1, "log-choices": 1, "content-not-text": 1},
        ),
        ("openinference/otlp.jsonl", 4, {**LEFT_OUT, **FILTERED}),
        ("traceloop/spans.jsonl", 6, {**LEFT_OUT, **FILTERED, "log-choices": 1, "log-no-request": 1}),
        ("traceloop/otlp.jsonl", 5, {**LEFT_OUT, **FILTERED}),
        ("traceloop/spans_without_content.jsonl", 2, {"log-no-request": 8, "log-error": 1, "log-other": 1}),
        ("traceloop/log_records.jsonl", 0, {"log-no-request": 29}),
        ("traceloop_flat/spans.jsonl", 6, {**LEFT_OUT, **FILTERED, "log-choices": 1, "log-no-request": 1}),
        ("ai_sdk_telemetry/otlp.jsonl", 3, {**LEFT_OUT, "log-other": 9, "content-not-text": 1}),
        ("pydantic_ai/spans.jsonl", 1, {"log-other": 3, "log-error": 1}),
        ("pydantic_ai/spans_with_events.jsonl", 1, {"log-other": 5, "log-error": 1}),
    ],
)
def test_requests_are_read_and_all_other_spans_are_counted(name: str, count: int, rules: dict[str, int]) -> None:
    found, counted = read(FIXTURES / "importers" / name)
    assert len(found) == count
    assert counted == rules
    if count > 2:
        first = found[0]
        called = [len(message.tool_calls) for message in first.messages if message.role == "assistant"]
        assert called == [2, 0]
        assert [message.tool_call_id for message in first.messages if message.role == "tool"] == ["call_a1", "call_a2"]
        assert [message.weight for message in first.messages if message.role == "assistant"] == [1, 1]
        assert first.gold_source == "gpt-4o-2024-08-06"
        assert len(first.tools) == (0 if name.startswith("otel/") else 2)


def test_the_spans_of_the_cases_are_read() -> None:
    found, rules = read(FIXTURES / "cases" / "otel_spans.jsonl")
    assert (len(found), rules) == (6, {})
    assert found[0].messages[0].content == "You book tables."
    assert found[0].messages[2].tool_calls[0].arguments == {"restaurant": "Golden Fork", "guests": 4}


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_every_convention_gives_the_same_conversation(convention: str, tmp_path: Path) -> None:
    row = span(**CONVENTIONS[convention])
    exports = [row, as_otlp(row)] if "attributes" in row else [row]
    for export in exports:
        for name in ("rows.jsonl", "rows.json"):
            (found,), rules = read_rows(tmp_path, export, name=name)
            assert not rules
            assert [(message.role, message.content) for message in found.messages] == [
                ("user", "Lund?"),
                ("assistant", ""),
            ]
            (call,) = found.messages[1].tool_calls
            assert (call.name, call.arguments, call.id) == ("find", ARGUMENTS, "c1")
            assert [(tool.name, tool.parameters) for tool in found.tools] == [("find", SCHEMA)]
            assert found.meta == {"date": "2026-11-30"}


def test_a_trace_of_jaeger_is_read(tmp_path: Path) -> None:
    tags = [
        {"key": key, "type": "string", "value": value}
        for key, value in CONVENTIONS["semantic as json"]["attributes"].items()
    ]
    ok = {"spanID": "1", "operationName": "chat", "startTime": 1796040000000000, "tags": tags, "logs": []}
    failed = {**ok, "spanID": "2", "tags": [*tags, {"key": "otel.status_code", "type": "string", "value": "ERROR"}]}
    (found,), rules = read_rows(tmp_path, {"data": [{"traceID": "t", "spans": [ok, failed]}]}, name="trace.json")
    assert (found.meta, rules) == ({"date": "2026-11-30"}, {"log-error": 1})


def test_results_of_parallel_calls_become_messages(tmp_path: Path) -> None:
    call = {"type": "tool_call", "name": "find", "arguments": {}}
    results = [{"type": "tool_call_response", "id": id, "response": {"n": id}} for id in ("c1", "c2")]
    asked = [
        USER,
        {"role": "assistant", "parts": [{**call, "id": "c1"}, {**call, "id": "c2"}]},
        {"role": "tool", "parts": results},
    ]
    answer = {"role": "assistant", "parts": [{"type": "text", "content": "done"}], "finish_reason": "stop"}
    attributes = {**SEMANTIC, "gen_ai.input.messages": asked, "gen_ai.output.messages": [answer]}
    (found,), _ = read_rows(tmp_path, span(attributes=attributes))
    results_read = [(message.tool_call_id, message.content) for message in found.messages if message.role == "tool"]
    assert results_read == [("c1", '{"n": "c1"}'), ("c2", '{"n": "c2"}')]


def test_the_ai_sdks_results_become_texts(tmp_path: Path) -> None:
    said = [
        {"role": "user", "content": "Lund?"},
        {
            "role": "assistant",
            "content": [{"type": "tool-call", "toolCallId": "c1", "toolName": "find", "input": ARGUMENTS}],
        },
        {
            "role": "tool",
            "content": [
                {"type": "tool-result", "toolCallId": "c1", "output": {"type": "json", "value": {"n": 1}}},
            ],
        },
    ]
    attributes = {**AI_SDK, "ai.prompt.messages": json.dumps(said), "ai.response.text": "done"}
    del attributes["ai.response.toolCalls"]
    (found,), rules = read_rows(tmp_path, span(attributes=attributes))
    assert [(m.role, m.content) for m in found.messages[2:]] == [("tool", '{"n": 1}'), ("assistant", "done")]
    assert not rules


def test_reasoning_is_kept_for_the_log_reader() -> None:
    thought = {"type": "reasoning", "content": "hm"}
    answer = {"role": "assistant", "parts": [thought, {"type": "text", "content": "yes"}]}
    row = span(attributes={**SEMANTIC, "gen_ai.output.messages": [answer]})
    rewrite = IMPORTERS["otel"].rewrite
    assert rewrite is not None
    (line,) = rewrite(row, "w")
    assert isinstance(line, dict)
    assert line["response"]["choices"][0]["message"]["reasoning_content"] == "hm"


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"attributes": {"http.method": "GET"}}, "log-other"),
        ({"attributes": {**SEMANTIC, "gen_ai.operation.name": "execute_tool"}}, "log-other"),
        ({"attributes": {**SEMANTIC, "gen_ai.operation.name": "invoke_agent"}}, "log-other"),
        ({"attributes": {**SEMANTIC, "gen_ai.operation.name": "embeddings"}}, "log-other"),
        ({"attributes": {**OPENINFERENCE, "openinference.span.kind": "CHAIN"}}, "log-other"),
        ({"attributes": {**AI_SDK, "ai.operationId": "ai.generateText"}}, "log-other"),
        ({"attributes": SEMANTIC, "status": {"status_code": "ERROR", "description": "x"}}, "log-error"),
        ({"attributes": SEMANTIC, "status": {"code": 2}}, "log-error"),
        ({"attributes": SEMANTIC, "status": {"code": "STATUS_CODE_ERROR"}}, "log-error"),
        ({"attributes": SEMANTIC, "status_code": "ERROR"}, "log-error"),
        ({"attributes": {**SEMANTIC, "error.type": "Timeout"}}, "log-error"),
        ({"attributes": {**SEMANTIC, "gen_ai.response.finish_reasons": ["length"]}}, "log-truncated"),
        ({"attributes": {**SEMANTIC, "gen_ai.response.finish_reasons": '["max_tokens"]'}}, "log-truncated"),
        ({"attributes": {**FLAT, "gen_ai.completion.0.finish_reason": "length"}}, "log-truncated"),
        ({"attributes": {**AI_SDK, "ai.response.finishReason": "length"}}, "log-truncated"),
        ({"attributes": {**OPENINFERENCE, "llm.finish_reason": "length"}}, "log-truncated"),
        ({"attributes": {**SEMANTIC, "gen_ai.output.messages": [{**CALLED, "finish_reason": "error"}]}}, "log-error"),
        ({"attributes": {**SEMANTIC, "gen_ai.output.messages": None}}, "log-no-response"),
        ({"attributes": {**SEMANTIC, "gen_ai.output.messages": [{"role": "assistant", "parts": []}]}}, "log-empty"),
        ({"attributes": {"gen_ai.operation.name": "chat"}}, "log-no-request"),
        ({"attributes": {**SEMANTIC, "gen_ai.input.messages": [{"role": "user", "parts": []}]}}, "log-no-request"),
        ({"attributes": {**SEMANTIC, "gen_ai.input.messages": '[{"role": "user", "par'}}, "log-broken-json"),
        ({"attributes": {**FLAT, "gen_ai.completion.0.tool_calls.0.arguments": '{"a"'}}, "log-broken-call"),
        (
            {"attributes": {**SEMANTIC, "gen_ai.input.messages": [{"role": "user", "parts": [{"type": "blob"}]}]}},
            "content-not-text",
        ),
    ],
)
def test_a_span_without_an_answer_to_learn_is_counted_under_its_rule(fields: Row, rule: str, tmp_path: Path) -> None:
    assert read_rows(tmp_path, span(**fields)) == ([], {rule: 1})


def test_a_request_that_two_instrumentations_recorded_is_read_once(tmp_path: Path) -> None:
    one = span(attributes={**SEMANTIC, "gen_ai.response.id": "chatcmpl-1"})
    other = span(attributes={**FLAT, "gen_ai.response.id": "chatcmpl-1"})
    found, rules = read_rows(tmp_path, {"scopeSpans": [{"spans": [one, other]}]})
    assert (len(found), rules) == (1, {"log-repeated": 1})


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [], "tools": []},
        {"name": "find", "attributes": {}},
        {"request": {"messages": []}, "response": {"choices": []}},
        {"spans": "text"},
        {"trace_id": "t", "input": "hi", "output": "hello"},
    ],
)
def test_rows_of_other_formats_are_not_claimed(row: Row) -> None:
    assert not IMPORTERS["otel"].looks_like(row)
