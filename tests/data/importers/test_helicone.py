"""Helicone: what its manual logger sends, and exports of its API and dashboard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from toolhone.data.importers import helicone
from toolhone.data.importers.importer import RowFault
from toolhone.data.read import detected_formats, read_source
from toolhone.errors import RowError
from toolhone.records import Conversation, ToolCall

FIXTURES = Path(__file__).parents[2] / "fixtures" / "importers"
EXPORT = FIXTURES / "helicone_export" / "export.jsonl"
LOGGER = FIXTURES / "helicone" / "manual_logger.jsonl"
Row = dict[str, Any]
BOTH = (
    ToolCall("get_weather", {"city": "Lund", "days": 2}, "call_w1"),
    ToolCall("get_weather", {"city": "Umeå", "days": 2}, "call_w2"),
)


def exported() -> list[Row]:
    return [json.loads(line) for line in EXPORT.read_text(encoding="utf-8").splitlines()]


def read(path: Path) -> tuple[list[Conversation], list[tuple[int, str]]]:
    found = list(read_source(path))
    faults = [(int(row.where.rpartition(":")[2]), row.rule) for row in found if isinstance(row, RowFault)]
    return [row for row in found if isinstance(row, Conversation)], faults


def rule(row: Row) -> str:
    with pytest.raises(RowError, match=r"^a\.jsonl:3: ") as caught:
        list(helicone.rewrite(row, "a.jsonl:3"))
    return caught.value.rule


@pytest.mark.parametrize("name", ["helicone/manual_logger.jsonl", "helicone_export/export.jsonl"])
@pytest.mark.parametrize("number", [0, 2, 3])
def test_calls_and_answers_are_read_whole_streamed_and_as_text(name: str, number: int) -> None:
    found, _ = read(FIXTURES / name)
    row = found[{0: 0, 2: 1, 3: 2}[number]]
    calls = [message.tool_calls for message in row.messages if message.tool_calls]
    booked = ToolCall("book_table", {"restaurant": "Blue Lantern", "guests": 4, "note": None}, "call_b1")
    assert calls == [(booked,)] if number == 2 else [BOTH]
    assert row.gold_source == "my-model-2026-08"
    assert len(row.tools) == 2


def test_what_is_left_out_is_counted_under_a_rule() -> None:
    assert read(LOGGER)[1] == [(7, "log-truncated"), (8, "log-other"), (9, "log-other"), (10, "log-other")]
    assert read(EXPORT)[1] == [
        (7, "log-truncated"),
        (8, "log-error"),
        (9, "log-error"),
        (10, "log-not-stored"),
        (11, "log-other"),
    ]


def test_other_providers_bodies_are_read() -> None:
    for path in (LOGGER, EXPORT):
        claude, responses = read(path)[0][3:]
        for row in (claude, responses):
            assert [message.role for message in row.messages] == ["system", "user", "assistant"]
            assert [call.name for call in row.messages[2].tool_calls] == ["get_weather", "get_weather"]


def test_an_answer_of_the_api_and_a_dashboard_row_are_read() -> None:
    for name in ("api.json", "dashboard.jsonl"):
        assert set(detected_formats(EXPORT.parent / name).values()) == {"helicone"}
        found, faults = read(EXPORT.parent / name)
        assert faults == []
        assert all(row.messages[-1].tool_calls == BOTH for row in found)


def test_the_day_of_a_row_is_that_of_its_request(tmp_path: Path) -> None:
    row = exported()[0]
    del row["response_body"]["created"]
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    assert read(tmp_path / "a.jsonl")[0][0].meta["date"] == "2026-10-01"


def test_a_failed_request_is_left_out_whatever_its_code() -> None:
    row = exported()[0]
    for status in (429, 500, -1, -3):
        assert rule({**row, "response_status": status}) == "log-error"
    assert rule({**row, "response_body": {"error": "slow down"}}) == "log-error"
    assert rule({"raw": {}, "heliconeMetadata": {"status": {"code": 500}}}) == "log-error"


@pytest.mark.parametrize("body", [None, {}, ""])
@pytest.mark.parametrize("key", ["request_body", "response_body"])
def test_a_row_without_a_body_says_how_to_export_it(key: str, body: Any) -> None:
    with pytest.raises(RowError, match="--include-body") as caught:
        list(helicone.rewrite({**exported()[0], key: body}, "a.jsonl:3"))
    assert caught.value.rule == "log-not-stored"


def test_a_plain_log_with_bodies_under_the_same_keys_is_read_as_a_log(tmp_path: Path) -> None:
    row = {key: value for key, value in exported()[0].items() if key in ("request_body", "response_body")}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    assert list(detected_formats(tmp_path / "a.jsonl").values()) == ["logs"]
