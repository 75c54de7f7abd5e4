"""Splits and subsets are stable by content, keep groups whole, keep proportions and share no row."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolhone.config import DataConfig
from toolhone.config_file import load_config
from toolhone.data.read import read_conversations, turns
from toolhone.data.split import balanced_subset, make_splits, read_files, split_validation
from toolhone.errors import UserError
from toolhone.records import Conversation, Message, ToolCall

SHIPPED = Path(__file__).parents[2] / "data" / "customer_service"
TRAIN, TEST, TOOLS = (str(SHIPPED / name) for name in ("train.jsonl", "test.jsonl", "tools.json"))


def row(number: int, *called: str, template: str | None = None) -> Conversation:
    turn = Message("assistant", "", tuple(ToolCall(name, {}) for name in called))
    meta = {} if template is None else {"template": template}
    return Conversation(f"r{number}", (Message("user", f"question {number}"), turn), (), f"x:{number}", meta=meta)


def ids(rows: list[Conversation]) -> list[str]:
    return [row.id for row in rows]


def ids_hash(rows: list[Conversation]) -> str:
    return hashlib.sha256("\n".join(ids(rows)).encode()).hexdigest()[:16]


def kinds(rows: list[Conversation]) -> Counter[str]:
    return Counter(",".join(sorted(c.name for m in row.messages for c in m.tool_calls)) for row in rows)


@pytest.fixture(scope="module")
def shipped() -> list[Conversation]:
    return list(read_conversations(Path(TRAIN)))


# Validation rows


def test_the_number_of_validation_rows_is_close_to_the_requested_share() -> None:
    rows = [row(n) for n in range(2000)]
    train, validation = split_validation(rows, 0.1, None)
    assert 150 <= len(validation) <= 250
    assert sorted(ids(train) + ids(validation)) == sorted(ids(rows))
    assert ids(train) == [id for id in ids(rows) if id in set(ids(train))], "the rows stay in the order of the file"


def test_a_row_keeps_its_side_when_rows_are_added_moved_or_renamed() -> None:
    rows = [row(n) for n in range(200)]
    _, before = split_validation(rows, 0.2, None)
    _, after = split_validation([*(row(n) for n in range(500, 700)), *reversed(rows)], 0.2, None)
    assert set(ids(before)) == {id for id in ids(after) if int(id[1:]) < 200}


def test_a_larger_share_keeps_the_rows_of_a_smaller_one() -> None:
    rows = [row(n) for n in range(300)]
    small, large = (set(ids(split_validation(rows, share, None)[1])) for share in (0.1, 0.3))
    assert small < large


@given(st.lists(st.sampled_from("abcdefghij"), max_size=40))
def test_no_group_is_on_both_sides(templates: list[str]) -> None:
    # Each of the ten groups occurs at least once, so that neither side is empty.
    rows = [row(n, template=template) for n, template in enumerate([*templates, *"abcdefghij"])]
    train, validation = split_validation(rows, 0.5, "template")
    assert {r.meta["template"] for r in train} & {r.meta["template"] for r in validation} == set()
    assert len(train) + len(validation) == len(rows)


def test_each_row_without_the_groups_key_is_its_own_group() -> None:
    train, validation = split_validation([row(n) for n in range(100)], 0.5, "template")
    assert len(train) > 20
    assert len(validation) > 20


def test_no_template_of_the_shipped_data_is_on_both_sides(shipped: list[Conversation]) -> None:
    train, validation = split_validation(shipped, 0.1, "template")
    assert 30 <= len(validation) <= 90
    assert {r.meta["template"] for r in train} & {r.meta["template"] for r in validation} == set()


def test_a_share_of_0_leaves_all_rows_for_training() -> None:
    rows = [row(n) for n in range(3)]
    assert split_validation(rows, 0.0, None) == (rows, [])


def test_a_split_that_leaves_a_side_empty_is_refused() -> None:
    rows = [row(n, template="one") for n in range(50)]
    with pytest.raises(UserError, match=r"^data\.validation: a share of 0\.1 by data\.group_by 'template' leaves no "):
        split_validation(rows, 0.1, "template")


# Subsets


@given(
    st.lists(st.sampled_from(["", "a", "b", "a,b"]), min_size=1, max_size=80).flatmap(
        lambda found: st.tuples(st.just(found), st.integers(1, len(found) + 5))
    )
)
def test_a_subset_has_the_requested_size_and_keeps_order_and_proportions(drawn: tuple[list[str], int]) -> None:
    called, limit = drawn
    rows = [row(n, *filter(None, names.split(","))) for n, names in enumerate(called)]
    chosen = balanced_subset(rows, limit)
    assert len(chosen) == min(limit, len(rows))
    assert ids(chosen) == [id for id in ids(rows) if id in set(ids(chosen))]
    wanted, found = kinds(rows), kinds(chosen)
    for kind, count in wanted.items():
        # The chosen rows are evenly spaced among the sorted ones, so a kind gets its share, rounded up or down.
        assert abs(found[kind] - count * len(chosen) / len(rows)) < 1


def test_no_limit_takes_all_rows() -> None:
    rows = [row(n) for n in range(3)]
    assert balanced_subset(rows, None) == rows
    assert balanced_subset([], 5) == []


def test_a_subset_does_not_depend_on_the_order_of_the_file(shipped: list[Conversation]) -> None:
    assert set(ids(balanced_subset(shipped, 50))) == set(ids(balanced_subset(shipped[::-1], 50)))


def test_identical_questions_with_different_ids_do_not_change_the_size_of_a_subset() -> None:
    twins = [Conversation(f"t{n}", row(0).messages, (), f"x:{n}") for n in range(10)]
    assert len(balanced_subset(twins, 4)) == 4


# Files


def config(**values: Any) -> DataConfig:
    return DataConfig(**{"train": (TRAIN,), "test": (TEST,), "tools": TOOLS, **values})


def test_splits_of_the_shipped_data_follow_the_config() -> None:
    splits = make_splits(config(train_rows=40, validation_rows=5, test_rows=20))
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (40, 5, 20)
    assert splits.available["train"] + splits.available["validation"] == 600
    assert splits.available["test"] == 200
    assert [name for name, _ in splits.items()] == ["train", "validation", "test"]
    assert all(row.tools for _, rows in splits.items() for row in rows)
    assert splits.formats == ("openai",)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"train": "0e63f313273c9e7c", "validation": "f0c483eee844edf7", "test": "23b54a26000b3486"}),
        (
            {"train_rows": 100, "validation_rows": 10, "test_rows": 50},
            {"train": "5fa81a83a28145bf", "validation": "73ef11d035f0a331", "test": "272071f7edce9080"},
        ),
        (
            {"group_by": None, "validation": 0.2},
            {"train": "3a5d0daecd507825", "validation": "373f73347b56c6f4", "test": "23b54a26000b3486"},
        ),
    ],
)
def test_the_rows_behind_published_figures_and_their_order_never_change(
    changes: dict[str, Any], expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(SHIPPED.parents[1])
    data = load_config(Path("configs/cpu.yaml"), []).data.model_copy(update=changes)
    found = {side: ids_hash(rows) for side, rows in make_splits(data).items()}
    assert found == expected


def test_turns_are_the_examples_of_all_rows_in_order() -> None:
    splits = make_splits(config())
    found = turns(splits.test)
    assert len(found) > len(splits.test)
    places = {row.id: n for n, row in enumerate(splits.test)}
    order = [places[example.conversation_id] for example in found]
    assert order == sorted(order)


def test_a_test_row_that_is_also_a_training_row_is_refused_with_both_places(tmp_path: Path) -> None:
    lines = [
        {"id": "a", "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]},
        {"id": "b", "messages": [{"role": "user", "content": "bye"}, {"role": "assistant", "content": "see you"}]},
    ]
    train, test = tmp_path / "train.jsonl", tmp_path / "test.jsonl"
    train.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    test.write_text("\n" + json.dumps({**lines[1], "id": "c", "meta": {"language": "en"}}), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        make_splits(config(train=(str(train),), test=(str(test),), validation=0.0))
    assert str(caught.value) == (
        f"{test}:2: the test row is also a training row at {train}:2 (1 such rows); remove it from one of the files"
    )


def test_ids_must_differ_across_the_files_of_one_side(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.jsonl", "b.jsonl")]
    for number, path in enumerate(paths):
        messages = [{"role": "user", "content": str(number)}, {"role": "assistant", "content": "yes"}]
        path.write_text(json.dumps({"id": "same", "messages": messages}), encoding="utf-8")
    with pytest.raises(UserError, match=f'^{paths[1]}:1: the id "same" is already at {paths[0]}:1;'):
        read_files([str(path) for path in paths], {})


def test_files_without_rows_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text("\n\n", encoding="utf-8")
    with pytest.raises(UserError, match=f"^{path}: no rows$"):
        read_files([str(path)], {})
