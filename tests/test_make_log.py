"""The generated log has the features of a real one, and reading it gives the conversations it was made from."""

from __future__ import annotations

import json
import re
import runpy
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from toolhone.data.check import check
from toolhone.data.importers.importer import RowFault
from toolhone.data.read import detected_formats, read_conversations, read_source, read_tools
from toolhone.jsonl import write_jsonl
from toolhone.records import Conversation

ROOT = Path(__file__).parent.parent
SHIPPED = ROOT / "data" / "customer_service"
make_log = SimpleNamespace(**runpy.run_path(str(ROOT / "scripts" / "make_log.py")))


@pytest.fixture(scope="module")
def pairs() -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = make_log.make_log(400)
    return made


@pytest.fixture(scope="module")
def read_back(pairs: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> list[Conversation | RowFault]:
    path = tmp_path_factory.mktemp("log") / "agent.jsonl"
    write_jsonl(path, pairs)
    assert detected_formats(path) == {str(path): "logs"}
    return list(read_source(path))


def test_a_log_is_reproducible_from_its_seed(pairs: list[dict[str, Any]]) -> None:
    assert json.dumps(make_log.make_log(400)) == json.dumps(pairs)
    assert json.dumps(make_log.make_log(400, seed=1)) != json.dumps(pairs)


def test_every_request_offers_the_tools_and_names_the_model(pairs: list[dict[str, Any]]) -> None:
    tools = [tool.to_json() for tool in read_tools(SHIPPED / "tools.json")]
    assert len(pairs) == 400
    for pair in pairs:
        assert pair["request"]["tools"] == tools
        assert pair["request"]["model"] == "gpt-4o-2024-08-06"
    assert [pair["time"] for pair in pairs] == sorted(pair["time"] for pair in pairs)


def test_a_failed_request_is_sent_again(pairs: list[dict[str, Any]]) -> None:
    failed = [n for n, pair in enumerate(pairs) if pair["status"] != 200]
    assert failed
    for number in failed:
        assert "error" in pairs[number]["response"]
        later = [pair["request"]["messages"] for pair in pairs[number + 1 :]]
        assert pairs[number]["request"]["messages"] in later


def test_the_log_has_streamed_responses_and_growing_conversations(pairs: list[dict[str, Any]]) -> None:
    streamed = [pair for pair in pairs if "chunks" in pair["response"]]
    assert streamed
    assert all(pair["request"]["stream"] for pair in streamed)
    grown = [pair for pair in pairs if any(m["role"] == "assistant" for m in pair["request"]["messages"])]
    assert len(grown) > 20


def test_reading_the_log_gives_one_learned_turn_per_answered_pair(
    pairs: list[dict[str, Any]], read_back: list[Conversation | RowFault]
) -> None:
    rows = [row for row in read_back if isinstance(row, Conversation)]
    faults = Counter(row.rule for row in read_back if isinstance(row, RowFault))
    failed = sum(pair["status"] != 200 for pair in pairs)
    assert faults == {"log-error": failed}
    learned = [m for row in rows for m in row.messages if m.role == "assistant" and m.weight > 0]
    assert len(learned) == len(pairs) - failed
    assert {row.gold_source for row in rows} == {"gpt-4o-2024-08-06"}
    assert list(check(rows)) == []


def test_conversations_read_from_the_log_are_the_shipped_ones(read_back: list[Conversation | RowFault]) -> None:
    """With this few pairs, no row is repeated with other numbers."""
    shipped = {
        tuple(
            (
                message.role,
                message.content,
                tuple((call.name, json.dumps(call.arguments)) for call in message.tool_calls),
            )
            for message in row.messages
        )
        for whole in read_conversations(SHIPPED / "train.jsonl")
        for row in make_log.requests_of(whole)
    }
    rows = [row for row in read_back if isinstance(row, Conversation)]
    assert len(rows) > 200
    for row in rows:
        said = tuple(
            (
                message.role,
                message.content,
                tuple((call.name, json.dumps(call.arguments)) for call in message.tool_calls),
            )
            for message in row.messages
        )
        # The log ends in the middle of some conversations, and no request follows a last result.
        assert any(whole[: len(said)] == said for whole in shipped)


def test_pairs_beyond_the_shipped_turns_get_new_numbers_in_messages_and_calls() -> None:
    """The shipped rows have about 2,500 turns. Further pairs repeat them with other numbers."""
    whole = read_conversations(SHIPPED / "train.jsonl")
    shipped = {row.messages[1].content for one in whole for row in make_log.requests_of(one)}
    pairs = make_log.make_log(3400)
    renumbered = [pair for pair in pairs if pair["request"]["messages"][1]["content"] not in shipped]
    assert len(renumbered) > 500
    for pair in renumbered:
        asked = json.dumps(pair["request"]["messages"], ensure_ascii=False)
        for choice in pair["response"].get("choices", ()):
            for call in choice["message"].get("tool_calls", ()):
                for number in re.findall(r"\d{3,}", call["function"]["arguments"]):
                    assert number in asked


def test_the_script_writes_the_file_and_prints_a_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "agent.jsonl"
    monkeypatch.setattr("sys.argv", ["make_log.py", "--out", str(out), "--pairs", "40"])
    assert make_log.main() == 0
    assert len(out.read_text(encoding="utf-8").splitlines()) == 40
    assert capsys.readouterr().out.startswith(f"{out}: 40 pairs, ")
