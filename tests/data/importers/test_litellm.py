"""LiteLLM: standard logging payloads, spend logs and a custom logger's arguments, as LiteLLM wrote them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from toolhone.data.importers import litellm
from toolhone.data.importers.importer import RowFault
from toolhone.data.read import detected_formats, read_source
from toolhone.errors import RowError
from toolhone.records import Conversation, ToolCall

FIXTURES = Path(__file__).parents[2] / "fixtures" / "importers" / "litellm"
Row = dict[str, Any]
BOTH = [
    ToolCall("get_weather", {"city": "Lund", "days": 2}, "call_w1"),
    ToolCall("get_weather", {"city": "Umeå", "days": 2}, "call_w2"),
]


def rows(name: str) -> list[Row]:
    text = (FIXTURES / name).read_text(encoding="utf-8")
    return [json.loads(text)] if name.endswith(".json") else [json.loads(line) for line in text.splitlines()]


def read(path: Path) -> tuple[list[Conversation], list[tuple[int, str]]]:
    found = list(read_source(path))
    faults = [(int(row.where.rpartition(":")[2]), row.rule) for row in found if isinstance(row, RowFault)]
    return [row for row in found if isinstance(row, Conversation)], faults


def write(path: Path, *found: Row) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    return path


def called(row: Conversation) -> list[ToolCall]:
    return [call for message in row.messages for call in message.tool_calls]


def rule(row: Row) -> str:
    with pytest.raises(RowError, match=r"^a\.jsonl:3: ") as caught:
        list(litellm.rewrite(row, "a.jsonl:3"))
    return caught.value.rule


@pytest.mark.parametrize("file", sorted(FIXTURES.glob("*.json*")), ids=lambda file: file.name)
def test_the_format_is_detected(file: Path) -> None:
    if file.name != "source.json":
        assert list(detected_formats(file).values()) == ["litellm"]


@pytest.mark.parametrize("name", ["standard_logging.jsonl", "spend_logs.jsonl", "custom_logger.jsonl"])
def test_steps_are_folded_and_every_answer_is_learned(name: str) -> None:
    found, _ = read(FIXTURES / name)
    assert [(m.role, m.weight) for m in found[0].messages if m.role in ("system", "assistant")] == [
        ("system", 1.0),
        ("assistant", 1.0),
        ("assistant", 1.0),
    ]
    assert found[0].messages[2].content == "Let me look at both."
    assert called(found[0]) == BOTH
    assert [tool.name for tool in found[0].tools] == ["get_weather", "book_table"]
    assert found[0].gold_source == "my-model-2026-08"


@pytest.mark.parametrize(
    ("name", "faults"),
    [
        ("standard_logging.jsonl", [(4, "log-error")]),
        (
            "standard_logging_left_out.jsonl",
            [
                (1, "log-truncated"),
                (2, "log-filtered"),
                (3, "log-choices"),
                (4, "content-not-text"),
                (5, "log-other"),
                (6, "log-not-stored"),
            ],
        ),
        (
            "spend_logs.jsonl",
            [(4, "log-not-stored"), (5, "log-choices"), (8, "log-other"), (9, "log-not-stored")],
        ),
        ("spend_logs_not_stored.jsonl", [(1, "log-not-stored"), (2, "log-not-stored")]),
        ("custom_logger.jsonl", [(3, "log-error")]),
        ("s3_object.json", []),
    ],
)
def test_what_is_left_out_is_counted_under_a_rule(name: str, faults: list[tuple[int, str]]) -> None:
    assert read(FIXTURES / name)[1] == faults


@pytest.mark.parametrize("name", ["standard_logging.jsonl", "spend_logs.jsonl"])
def test_requests_of_the_messages_and_the_responses_api_keep_their_system_message(name: str) -> None:
    found = {row.id[:5]: row for row in read(FIXTURES / name)[0]}
    for id in ("msg_0", "resp_"):
        assert found[id].messages[0].content == "You are a concierge."
        assert [call.arguments for call in called(found[id])] == [call.arguments for call in BOTH]
        assert len(found[id].tools) == 2


def test_the_null_argument_of_a_stream_is_kept() -> None:
    (row,), _ = read(FIXTURES / "s3_object.json")
    assert called(row) == [ToolCall("book_table", {"restaurant": "Blue Lantern", "guests": 4, "note": None}, "call_b1")]


def test_bodies_may_be_objects_or_json_strings_at_every_place(tmp_path: Path) -> None:
    payload = rows("standard_logging.jsonl")[0]
    texts = {key: json.dumps(payload[key]) for key in ("messages", "response", "model_parameters")}
    (plain,), _ = read(write(tmp_path / "a.jsonl", payload))
    (as_text,), _ = read(write(tmp_path / "b.jsonl", {**payload, **texts}))
    assert as_text.messages == plain.messages
    assert as_text.tools == plain.tools
    spend = rows("spend_logs.jsonl")[0]
    objects = {key: json.loads(spend[key]) for key in ("response", "proxy_server_request")}
    (as_object,), _ = read(write(tmp_path / "c.jsonl", {**spend, **objects}))
    (wrapped,), _ = read(
        write(tmp_path / "d.jsonl", {**spend, "proxy_server_request": {"body": objects["proxy_server_request"]}})
    )
    assert as_object.messages == wrapped.messages == plain.messages
    assert as_object.tools == wrapped.tools == plain.tools


def test_a_payload_inside_other_keys_is_read(tmp_path: Path) -> None:
    payload = rows("standard_logging.jsonl")[0]
    wanted = read(write(tmp_path / "a.jsonl", payload))[0][0].messages
    old = {key: payload[key] for key in ("id", "call_type", "model", "messages", "response", "startTime")}
    for row in (
        {"standard_logging_object": payload, "model": "x"},
        {"kwargs": {"standard_logging_object": payload}, "response_obj": payload["response"]},
        {**old, "modelParameters": payload["model_parameters"], "cache_hit": None},
        {key: payload[key] for key in ("messages", "response", "model_parameters")},
    ):
        assert read(write(tmp_path / "b.jsonl", row))[0][0].messages == wanted


def test_a_request_that_the_proxy_passed_through_is_read(tmp_path: Path) -> None:
    body = {"model": "c", "system": "Be brief.", "max_tokens": 9, "messages": [{"role": "user", "content": "Lund?"}]}
    call = {"type": "tool_use", "id": "toolu_1", "name": "find", "input": {"city": "Lund"}}
    answer = {"id": "msg_1", "type": "message", "role": "assistant", "content": [call], "stop_reason": "tool_use"}
    body["tools"] = [{"name": "find", "input_schema": {"type": "object", "properties": {}}}]
    row = {
        "id": "1",
        "litellm_call_id": "1",
        "call_type": "pass_through_endpoint",
        "messages": [{"role": "user", "content": json.dumps(body)}],
        "response": {"response": json.dumps(answer)},
        "model_parameters": {},
    }
    (found,), faults = read(write(tmp_path / "a.jsonl", row))
    assert faults == []
    assert [message.role for message in found.messages] == ["system", "user", "assistant"]
    assert called(found) == [ToolCall("find", {"city": "Lund"}, "toolu_1")]


def test_failures_are_found_wherever_litellm_writes_them() -> None:
    payload = rows("standard_logging.jsonl")[0]
    error = {"error_class": "RateLimitError", "error_message": "slow down"}
    assert rule({**payload, "status": "failure"}) == "log-error"
    assert rule({**payload, "error_str": "slow down"}) == "log-error"
    assert rule({**payload, "error_information": error}) == "log-error"
    spend = rows("spend_logs.jsonl")[0]
    assert rule({**spend, "metadata": json.dumps({"status": "failure", "error_information": error})}) == "log-error"


def test_a_shortened_text_is_left_out_and_one_that_only_mentions_it_is_read() -> None:
    payload = rows("standard_logging.jsonl")[0]
    said = payload["messages"][:1]
    cut = {"role": "user", "content": "Tell me about... (litellm_truncated skipped 90 chars. See) ... it"}
    assert rule({**payload, "messages": [*said, cut]}) == "log-not-stored"
    harmless = {"role": "user", "content": "What does redacted-by-litellm or litellm_truncated mean?"}
    (line,) = litellm.rewrite({**payload, "messages": [*said, harmless]}, "a.jsonl:3")
    assert isinstance(line, dict)


def test_broken_json_in_a_string_is_an_error_that_names_the_key() -> None:
    spend = rows("spend_logs.jsonl")[0]
    with pytest.raises(RowError, match=r"proxy_server_request: broken JSON"):
        list(litellm.rewrite({**spend, "proxy_server_request": '{"messages": ['}, "a.jsonl:3"))
