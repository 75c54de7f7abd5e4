"""The measurement of `data doubt`: each corrupted row is valid and wrong in one place, and the figures are right."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import load_script

from toolhone.data.check import check
from toolhone.data.read import examples, read_conversations, read_tools, turns
from toolhone.evaluate.doubts import Doubt
from toolhone.records import Conversation, Example

ROOT = Path(__file__).parent.parent
SHIPPED = ROOT / "data" / "customer_service"
script = load_script("measure_doubt")


@pytest.fixture(scope="module")
def made(rows: list[Conversation]) -> Any:
    return script.corrupt(rows, 0.05, 7)


@pytest.fixture(scope="module")
def rows() -> list[Conversation]:
    return list(read_conversations(SHIPPED / "train.jsonl", read_tools(SHIPPED / "tools.json")))


def by_id(rows: list[Conversation]) -> dict[str, Example]:
    return {example.id: example for example in turns(rows)}


def test_a_twentieth_of_the_gold_is_corrupted_in_equal_shares(rows: list[Conversation], made: Any) -> None:
    corrupted, truth = made
    assert Counter(truth.values()) == {"wrong tool": 32, "wrong value": 31, "call dropped": 31, "call added": 31}
    assert list(check(corrupted)) == []
    assert script.corrupt(rows, 0.05, 7)[1] == truth


def test_only_the_turns_that_the_truth_names_differ_from_the_shipped_gold(rows: list[Conversation], made: Any) -> None:
    corrupted, truth = made
    before, after = by_id(rows), by_id(corrupted)
    touched = {id_.rpartition("/")[0] for id_ in truth}
    assert len(touched) == len(truth)
    assert all(one is other for one, other in zip(rows, corrupted, strict=True) if one.id not in touched)
    for id_, way in truth.items():
        old, new = before[id_].turn.tool_calls, after[id_].turn.tool_calls
        names = [call.name for call in old], [call.name for call in new]
        assert before[id_].prompt == after[id_].prompt
        if way == "wrong tool":
            assert len(old) == len(new)
            assert names[0] != names[1]
        elif way == "wrong value":
            assert names[0] == names[1]
            assert sum(one.arguments != other.arguments for one, other in zip(old, new, strict=True)) == 1
        else:
            assert len(new) == len(old) + (1 if way == "call added" else -1)


def test_too_few_rows_for_a_way_are_refused(rows: list[Conversation]) -> None:
    plain = [row for row in rows if not any(example.turn.tool_calls for example in examples(row))]
    with pytest.raises(ValueError, match=r"^wrong tool: 1 of 1 turns are missing; give more rows"):
        script.corrupt([replace(row) for row in plain[:8]] or rows[:0], 0.5, 7)


def test_precision_and_recall_are_of_the_first_ranks() -> None:
    def doubt(n: int) -> Doubt:
        return Doubt(f"r{n}/1", "a:1", 1, 9.0, "nats", "tool", "`a`", "`b`", 0.9)

    ranked = [doubt(n) for n in range(60)]
    truth = {"r0/1": "wrong tool", "r2/1": "wrong value", "r19/1": "call added", "r50/1": "call dropped"}
    found = script.figures(ranked, truth, 200)
    assert (found["top"], found["wide"]) == (5, 20)
    assert (found["precision"]["numerator"], found["precision"]["denominator"]) == (2, 5)
    assert (found["recall"]["numerator"], found["recall"]["denominator"]) == (3, 4)
    assert found["ways"]["call added"]["recall"]["value"] == 1
    assert found["ways"]["call dropped"]["recall"]["value"] == 0


@pytest.mark.slow
def test_the_measurement_runs_end_to_end_on_a_tiny_model(
    tiny_llama: Path, in_workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (in_workspace / "data").symlink_to(ROOT / "data")
    arguments = ["measure_doubt.py", "--quick", "--config", str(ROOT / "configs" / "cpu.yaml")]
    monkeypatch.setattr(sys, "argv", [*arguments, "--model", str(tiny_llama)])
    assert script.main() == 0
    said = capsys.readouterr().out
    assert "2 trainings of 1 steps;" in said
    assert "| call dropped |" in said
    written = {path.name for path in Path("runs/quick-doubt").iterdir()}
    assert {"corrupted.jsonl", "truth.json", "doubts.jsonl", "figures.json"} <= written
