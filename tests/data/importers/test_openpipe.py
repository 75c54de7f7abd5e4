"""OpenPipe: the logs that its package reports, and rows of its data sets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from toolhone.data.importers import openpipe
from toolhone.data.importers.importer import RowFault
from toolhone.data.read import detected_formats, read_source
from toolhone.errors import RowError
from toolhone.records import Conversation, ToolCall

REPORTS = Path(__file__).parents[2] / "fixtures" / "importers" / "openpipe" / "reports.jsonl"
ROWS = [json.loads(line) for line in REPORTS.read_text(encoding="utf-8").splitlines()]


def test_reports_are_read_and_failures_counted() -> None:
    assert list(detected_formats(REPORTS).values()) == ["openpipe"]
    found = list(read_source(REPORTS))
    faults = [(row.where[-1], row.rule) for row in found if isinstance(row, RowFault)]
    shop, table = (row for row in found if isinstance(row, Conversation))
    assert faults == [("4", "log-truncated"), ("5", "log-error")]
    assert [m.weight for m in shop.messages if m.role == "assistant"] == [1.0, 1.0]
    assert [call.id for call in shop.messages[2].tool_calls] == ["call_w1", "call_w2"]
    assert table.messages[-1].tool_calls == (
        ToolCall("book_table", {"restaurant": "Blue Lantern", "guests": 4, "note": None}, "call_b1"),
    )


def test_bodies_may_be_json_strings_under_keys_in_snake_case() -> None:
    row = ROWS[0]
    (line,) = openpipe.rewrite(row, "a:1")
    text = {"req_payload": json.dumps(row["reqPayload"]), "resp_payload": json.dumps(row["respPayload"])}
    assert list(openpipe.rewrite({**text, "requested_at": row["requestedAt"]}, "a:1")) == [line]
    assert isinstance(line, dict)
    assert line["created_at"] == row["requestedAt"] / 1000


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"statusCode": 500}, "log-error"),
        ({"errorMessage": "slow down"}, "log-error"),
        ({"reqPayload": None}, "log-no-request"),
        ({"respPayload": None}, "log-no-response"),
    ],
)
def test_an_incomplete_log_is_left_out_under_a_rule(change: dict[str, object], rule: str) -> None:
    with pytest.raises(RowError) as caught:
        list(openpipe.rewrite({**ROWS[0], **change}, "a:1"))
    assert caught.value.rule == rule
