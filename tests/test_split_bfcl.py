"""BFCL's non-live entries split by tool. The fixtures are verbatim entries in the layout of fetch_bfcl.py."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import load_script
from hypothesis import given
from hypothesis import strategies as st

from toolhone.config import DataConfig
from toolhone.data.groups import called_tools
from toolhone.data.importers.bfcl import read_bfcl_folder
from toolhone.data.read import examples
from toolhone.data.split import make_splits
from toolhone.evaluate.match import match_turn
from toolhone.records import POLICIES, Conversation, Message, ToolCall

BFCL = Path(__file__).parent / "fixtures" / "formats" / "bfcl"
split_bfcl = load_script("split_bfcl")


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def called(row: dict[str, Any]) -> set[str]:
    calls = [call for message in row["messages"] for call in message.get("tool_calls") or []]
    return {call["function"]["name"] for call in calls} | {call["name"] for call in row["expected"].get("calls", [])}


def listed(row: dict[str, Any]) -> set[str]:
    return {tool["function"]["name"] for tool in row.get("tools", [])}


@pytest.mark.parametrize("share", ["0.15", "0.3", "0.6"])
def test_unseen_tools_are_called_only_by_test_rows_and_listed_by_no_training_row(tmp_path: Path, share: str) -> None:
    assert split_bfcl.main(["--folder", str(BFCL), "--out", str(tmp_path), "--unseen-tools", share]) == 0
    train, test = rows_of(tmp_path / "split" / "train.jsonl"), rows_of(tmp_path / "split" / "test.jsonl")
    unseen = set(json.loads((tmp_path / "split" / "split.json").read_text(encoding="utf-8"))["unseen_tools"])
    by_calls = [rows_of(tmp_path / f"{name}.jsonl") for name in ("one-call", "more-calls", "no-call")]
    learned = [row for rows in by_calls for row in rows]
    assert unseen
    assert any(called(row) & unseen for row in test)
    assert not any((called(row) | listed(row)) & unseen for row in train + learned)
    assert {row["id"] for row in learned} == {row["id"] for row in train if listed(row)}
    for rows, counts in zip(by_calls, ({1}, {2, 3, 4}, {0}), strict=True):
        assert {len(row["messages"][-1].get("tool_calls") or []) for row in rows} <= counts
    assert sorted(row["id"] for row in train + test) == sorted(row["id"] for row in rows_of(tmp_path / "rows.jsonl"))


def test_an_entry_that_breaks_its_own_schema_is_left_out_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert split_bfcl.main(["--folder", str(BFCL), "--out", str(tmp_path), "--unseen-tools", "0.3"]) == 0
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("left out: ")]
    assert "BFCL_v4_parallel_multiple.json:1: " in line
    assert "linear_regression_fit" in line
    assert "parallel_multiple_21" not in {row["id"] for row in rows_of(tmp_path / "rows.jsonl")}


def entries(*categories: str) -> dict[str, Conversation]:
    rows, _ = split_bfcl.sound_entries(read_bfcl_folder(BFCL, categories or split_bfcl.CATEGORIES))
    return {row.id: row for row in rows}


def test_a_turn_gets_only_the_optional_arguments_that_the_user_states() -> None:
    row = entries("simple_python")["simple_python_0"]  # "... a base of 10 units ..."; the unit may be left out
    assert row.messages[-1].tool_calls[0].arguments == {"base": 10, "height": 5}
    stated = split_bfcl.with_stated_options(row)
    assert stated.messages[-1].tool_calls[0].arguments == {"base": 10, "height": 5, "unit": "units"}
    silent = replace(row, messages=(Message("user", "Base 10, height 5, in subunits."), row.messages[-1]))
    assert split_bfcl.with_stated_options(silent) == silent


@pytest.mark.parametrize(
    ("words", "value", "found"),
    [
        ("at 5.", "5", True),
        ("at 1.5", "5", False),
        ("at 5.5", "5", False),
        ("in N.Y.", "NY", False),
        ("-5", "-5", True),
    ],
)
def test_a_value_is_found_only_as_a_whole_word(words: str, value: str, found: bool) -> None:
    assert split_bfcl._holds(words, value) == found


def test_training_turns_are_right_by_their_own_gold() -> None:
    for row in map(split_bfcl.with_stated_options, entries().values()):
        for example in examples(row):
            for policy in POLICIES:
                match = match_turn(
                    example.gold, example.gold.status, example.turn.tool_calls, example.tools, row.where, policy
                )
                assert match.exact


def test_every_other_simple_row_lists_a_second_tool_of_another_row() -> None:
    before = list(entries().values())
    after = split_bfcl.with_second_tools(before)
    assert [row.id for row in after] == [row.id for row in before]
    pool = [tool for row in before for tool in row.tools]
    grown = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert len(grown) == 2  # of four in simple_python
    for old, new in grown:
        assert old.meta["category"] == "simple_python"
        [added] = [tool for tool in new.tools if tool not in old.tools]
        assert added in pool
        assert len(new.tools) == 2
        assert new.messages == old.messages


def test_the_split_can_be_used_for_training(tmp_path: Path) -> None:
    split_bfcl.main(["--folder", str(BFCL), "--out", str(tmp_path), "--unseen-tools", "0.3"])
    split = tmp_path / "split"
    config = DataConfig(train=(str(split / "train.jsonl"),), test=(str(split / "test.jsonl"),), validation=0.0)
    assert [len(rows) for _, rows in make_splits(config).items()] == [4, 0, 3]


def test_a_missing_folder_is_reported_with_the_script_to_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert split_bfcl.main(["--folder", str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 2
    assert "scripts/fetch_bfcl.py" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def calling(tools: frozenset[str], number: int) -> Conversation:
    turn = Message("assistant", "", tuple(ToolCall(name, {}, f"call_{n}") for n, name in enumerate(sorted(tools))))
    return Conversation(f"row-{number}", (Message("user", "Go."), turn), (), f"rows.jsonl:{number}")


@given(st.lists(st.frozensets(st.sampled_from("abcdefgh"), max_size=3), max_size=12))
def test_rows_share_a_tool_group_exactly_if_shared_tools_link_them(found: list[frozenset[str]]) -> None:
    rows = split_bfcl.with_tool_groups([calling(tools, number) for number, tools in enumerate(found)])
    linked = [set(tools) for tools in found]
    for tools in found:  # merge the sets until each is a connected component
        touching = [one for one in linked if one & tools]
        whole = set[str]().union(*touching)
        linked = [whole if one & tools else one for one in linked]
    for row, tools in zip(rows, linked, strict=True):
        assert ("tool_group" in row.meta) == bool(called_tools(row))
        for other, others in zip(rows, linked, strict=True):
            if tools and others:
                assert (row.meta["tool_group"] == other.meta["tool_group"]) == (tools == others)
