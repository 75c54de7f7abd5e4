"""BFCL's non-live entries split by tool: verbatim entries, in a copy of the layout that fetch_bfcl.py makes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import load_script
from hypothesis import given
from hypothesis import strategies as st

from toolhone.config import DataConfig
from toolhone.data.identity import called_tools
from toolhone.data.split import make_splits
from toolhone.records import Conversation, Message, ToolCall

BFCL = Path(__file__).parent / "fixtures" / "formats" / "bfcl"
split_bfcl = load_script("split_bfcl")


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def called(row: dict[str, Any]) -> set[str]:
    calls = [call for message in row["messages"] for call in message.get("tool_calls") or []]
    return {call["function"]["name"] for call in calls} | {call["name"] for call in row["expected"].get("calls", [])}


def listed(row: dict[str, Any]) -> set[str]:
    return {tool["function"]["name"] for tool in row["tools"]}


@pytest.mark.parametrize("share", ["0.15", "0.3", "0.6"])
def test_a_kept_tool_is_called_by_test_rows_alone_and_listed_by_no_training_row(tmp_path: Path, share: str) -> None:
    assert split_bfcl.main(["--folder", str(BFCL), "--out", str(tmp_path), "--unseen-tools", share]) == 0
    train, test = rows_of(tmp_path / "split" / "train.jsonl"), rows_of(tmp_path / "split" / "test.jsonl")
    kept = set(json.loads((tmp_path / "split" / "split.json").read_text(encoding="utf-8"))["unseen_tools"])
    assert kept
    assert any(called(row) & kept for row in test)
    assert not any((called(row) | listed(row)) & kept for row in train)
    assert sorted(row["id"] for row in train + test) == sorted(row["id"] for row in rows_of(tmp_path / "rows.jsonl"))


def test_an_entry_at_odds_with_its_own_schema_is_left_out_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert split_bfcl.main(["--folder", str(BFCL), "--out", str(tmp_path), "--unseen-tools", "0.3"]) == 0
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("left out: ")]
    assert "BFCL_v4_parallel_multiple.json:1: " in line
    assert "linear_regression_fit" in line
    assert "parallel_multiple_21" not in {row["id"] for row in rows_of(tmp_path / "rows.jsonl")}


def test_training_takes_what_was_split(tmp_path: Path) -> None:
    split_bfcl.main(["--folder", str(BFCL), "--out", str(tmp_path), "--unseen-tools", "0.3"])
    split = tmp_path / "split"
    config = DataConfig(train=(str(split / "train.jsonl"),), test=(str(split / "test.jsonl"),), validation=0.0)
    assert [len(rows) for _, rows in make_splits(config).items()] == [4, 0, 3]


def test_a_missing_folder_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert split_bfcl.main(["--folder", str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 2
    assert "scripts/fetch_bfcl.py" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def calling(tools: frozenset[str], number: int) -> Conversation:
    turn = Message("assistant", "", tuple(ToolCall(name, {}, f"call_{n}") for n, name in enumerate(sorted(tools))))
    return Conversation(f"row-{number}", (Message("user", "Go."), turn), (), f"rows.jsonl:{number}")


@given(st.lists(st.frozensets(st.sampled_from("abcdefgh"), max_size=3), max_size=12))
def test_rows_are_in_one_tool_group_exactly_where_shared_tools_link_them(found: list[frozenset[str]]) -> None:
    rows = split_bfcl.with_tool_groups([calling(tools, number) for number, tools in enumerate(found)])
    linked = [set(tools) for tools in found]
    for tools in found:  # merge until each set is a whole component
        touching = [one for one in linked if one & tools]
        whole = set[str]().union(*touching)
        linked = [whole if one & tools else one for one in linked]
    for row, tools in zip(rows, linked, strict=True):
        assert ("tool_group" in row.meta) == bool(called_tools(row))
        for other, others in zip(rows, linked, strict=True):
            if tools and others:
                assert (row.meta["tool_group"] == other.meta["tool_group"]) == (tools == others)
