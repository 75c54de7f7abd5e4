"""Requests and responses in separate files: batches and stored completions, paired across the files of a source."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from toolhone.data.check.survey import check_files
from toolhone.data.importers.batch import Pairs, looks_like
from toolhone.data.importers.importer import RowFault
from toolhone.data.read import detected_formats, read_source, read_sources
from toolhone.errors import RowError
from toolhone.records import Conversation, ToolCall

FIXTURES = Path(__file__).parents[2] / "fixtures" / "importers"
BATCH = FIXTURES / "openai_batch"
FILES = ["input.jsonl", "output.jsonl", "errors.jsonl"]
Row = dict[str, Any]
BOTH = (
    ToolCall("get_weather", {"city": "Lund", "days": 2}, "call_w1"),
    ToolCall("get_weather", {"city": "Umeå", "days": 2}, "call_w2"),
)
ASKED = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
ANSWER = {"id": "c1", "model": "m", "choices": [{"message": {"role": "assistant", "content": "Hello."}}]}
REQUEST = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": ASKED}
RESPONSE = {"id": "b1", "custom_id": "1", "response": {"status_code": 200, "body": ANSWER}, "error": None}


def read(found: Iterable[Conversation | RowFault]) -> tuple[list[Conversation], Counter[str]]:
    rows = list(found)
    faults = Counter(row.rule for row in rows if isinstance(row, RowFault))
    return [row for row in rows if isinstance(row, Conversation)], faults


def rewritten(*rows: Row) -> tuple[list[Row | RowFault], list[str]]:
    """What the rows become, and the rules of the faults."""
    pairs, made, rules = Pairs(), [], []
    for number, row in enumerate(rows, 1):
        assert looks_like(row)
        try:
            made += list(pairs.rewrite(row, f"a.jsonl:{number}"))
        except RowError as error:
            rules.append(error.rule)
    return made, rules + [fault.rule for fault in pairs.unpaired()]


@pytest.mark.parametrize("as_folder", [True, False])
def test_input_and_output_are_paired_in_a_folder_and_across_the_sources_of_a_command(
    as_folder: bool, tmp_path: Path
) -> None:
    for name in FILES:
        shutil.copy(BATCH / name, tmp_path / name)
    sources = [str(tmp_path)] if as_folder else [str(tmp_path / name) for name in FILES]
    found, faults = read(read_sources(sources))
    assert [row.messages[2].tool_calls for row in found if len(row.messages[2].tool_calls) == 2] == [BOTH, BOTH]
    assert len(found) == 3
    assert {call.id for row in found for m in row.messages for call in m.tool_calls} == {
        "call_w1",
        "call_w2",
        "call_b1",
    }
    assert faults == {
        "log-error": 2,
        "log-other": 2,
        "log-truncated": 1,
        "log-no-request": 1,
        "log-no-response": 1,
    }
    assert sum(finding.rule == "log-no-response" for finding in check_files(sources).found) == 1


@pytest.mark.parametrize(
    ("name", "rule", "other"),
    [("input.jsonl", "log-no-response", "output"), ("output.jsonl", "log-no-request", "input")],
)
def test_one_file_alone_says_which_other_file_to_give(name: str, rule: str, other: str) -> None:
    assert list(detected_formats(BATCH / name).values()) == ["batch"]
    found = list(read_source(BATCH / name))
    faults = [row for row in found if isinstance(row, RowFault) and row.rule == rule]
    assert len(faults) >= len(found) - 1
    assert all(f"give the batch's {other} file too" in fault.message for fault in faults)


def test_halves_are_paired_in_either_order_and_only_once() -> None:
    line = {"request": ASKED, "response": ANSWER}
    assert rewritten(REQUEST, RESPONSE) == ([line], [])
    assert rewritten(RESPONSE, REQUEST) == ([line], [])
    assert rewritten(REQUEST, RESPONSE, REQUEST, RESPONSE) == ([line], ["log-repeated", "log-repeated"])


def test_an_id_with_two_different_requests_is_an_error_and_pairs_nothing_twice() -> None:
    other = {**REQUEST, "body": {**ASKED, "messages": [{"role": "user", "content": "bye"}]}}
    assert rewritten(REQUEST, other, RESPONSE) == ([{"request": ASKED, "response": ANSWER}], ["batch-id-reused"])


def test_a_failed_request_is_counted_once_and_may_succeed_in_a_later_batch() -> None:
    failed = {"custom_id": "1", "response": {"status_code": 429, "body": {"error": {"message": "slow"}}}}
    assert rewritten(REQUEST, failed) == ([], ["log-error"])
    assert rewritten(REQUEST, failed, RESPONSE) == ([{"request": ASKED, "response": ANSWER}], ["log-error"])
    assert rewritten(REQUEST, {"custom_id": "1", "response": None, "error": {"code": "batch_expired"}})[1] == [
        "log-error"
    ]


def test_embeddings_are_counted_once_for_each_row() -> None:
    vector = {**REQUEST, "url": "/v1/embeddings", "body": {"input": "Lund"}}
    assert rewritten(vector, RESPONSE) == ([], ["log-other", "log-other"])


def test_message_batches_of_anthropic_are_paired(tmp_path: Path) -> None:
    for name in ("batch_requests.jsonl", "batch_results.jsonl"):
        shutil.copy(FIXTURES / "anthropic" / name, tmp_path / name)
    found, faults = read(read_source(tmp_path))
    joined, _ = read(read_source(FIXTURES / "anthropic" / "batch_joined.jsonl"))
    assert faults == {"log-error": 2}
    assert sorted(str(row.messages) for row in found) == sorted(str(row.messages) for row in joined)


def test_batches_of_gemini_are_paired_by_key() -> None:
    asked = {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}
    answer = {"candidates": [{"content": {"parts": [{"text": "Hello."}]}, "finishReason": "STOP"}]}
    line = {"request": asked, "response": answer}
    assert rewritten({"key": "r1", "request": asked}, {"key": "r1", "response": answer}) == ([line], [])
    assert not looks_like({"key": "r1", "request": asked, "response": answer})
    assert not looks_like({"key": "r1", "request": ASKED})


def test_stored_completions_are_paired_with_their_messages(tmp_path: Path) -> None:
    for name in ("completions.json", "messages.jsonl"):
        shutil.copy(FIXTURES / "openai_stored" / name, tmp_path / name)
    found, faults = read(read_source(tmp_path))
    assert not faults
    assert [len(row.messages) for row in found] == [6, 3]  # the second continues the first
    assert found[0].messages[2].tool_calls == BOTH
    assert [tool.name for tool in found[1].tools] == ["get_weather", "book_table"]
    for name, rule in (("completions.json", "log-no-request"), ("messages.jsonl", "log-no-response")):
        assert read(read_source(FIXTURES / "openai_stored" / name)) == ([], {rule: 3})


def test_bodies_may_be_json_strings() -> None:
    as_text = {"custom_id": "1", "response": json.dumps({"status_code": 200, "body": ANSWER})}
    made, rules = rewritten({**REQUEST, "body": json.dumps(ASKED)}, as_text)
    assert (made, rules) == ([{"request": ASKED, "response": ANSWER}], [])


# Azure


def test_azure_deployments_are_read_without_a_model_in_the_request() -> None:
    found, faults = read(read_source(FIXTURES / "azure" / "log.jsonl"))
    assert faults == {"log-filtered": 1, "log-error": 1}
    assert [row.messages[2].tool_calls for row in (found[0], found[2])] == [BOTH, BOTH]
    assert {row.gold_source for row in found} == {"my-model-2026-08"}
