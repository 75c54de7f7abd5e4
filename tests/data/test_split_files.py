"""Splits keep groups whole, sides stable when rows are added, shares within a bound, and kept tools unseen."""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolhone.data import split_files as split_files_module
from toolhone.data.groups import NO_CALL, KeyTable
from toolhone.data.read import read_conversations, read_tools
from toolhone.data.split import SIDES, Shares, Sides, assign_sides, kept_tools, rows_by_tool, share_bound
from toolhone.data.split_files import show, split_files
from toolhone.errors import UserError
from toolhone.records import Conversation, Gold, GoldCall, Message, Tool, ToolCall

SHIPPED = Path(__file__).parents[2] / "data" / "customer_service"
HALVES = Shares(0.2, 0.1, 0.3)


def tool(name: str) -> Tool:
    return Tool(name, f"Does {name}.", {"type": "object", "properties": {"id": {"type": "string"}}})


def words(number: int) -> str:
    """Return a text that is near to no other."""
    return " ".join(random.Random(number).choices("abcdefghijklmnopqrstuvwxyz", k=30))


def row(number: int, *called: str, text: str | None = None, offers: tuple[str, ...] = (), **more: Any) -> Conversation:
    turn = Message("assistant", "" if called else "Hello.", tuple(ToolCall(name, {"id": "1"}) for name in called))
    tools = tuple(map(tool, dict.fromkeys((*called, *offers))))
    messages = (Message("user", words(number) if text is None else text), turn)
    return replace(Conversation(f"r{number}", messages, tools, f"x:{number}"), **more)


def key_table(rows: list[Conversation], **more: Any) -> KeyTable:
    found = KeyTable(**more)
    for one in rows:
        found.add(one)
    return found


def groups(rows: list[Conversation], **more: Any) -> list[int]:
    found: list[int] = key_table(rows, **more).groups().tolist()
    return found


def sides(rows: list[Conversation], shares: Shares = HALVES, **more: Any) -> dict[str, str]:
    """Return the side of each row by its id."""
    table = key_table(rows)
    split = assign_sides(table, shares, **more)
    return {one.id: SIDES[side] for one, side in zip(rows, split.sides.tolist(), strict=True)}


def some_rows(count: int, *names: str) -> list[Conversation]:
    return [row(n, names[n % len(names)] if names else "track") for n in range(count)]


# Groups


def test_each_different_row_is_its_own_group() -> None:
    assert groups([row(n) for n in range(50)]) == list(range(50))


@pytest.mark.parametrize("case", ["copy", "same words", "near words", "template", "id", "growing", "through a third"])
def test_related_rows_are_one_group(case: str) -> None:
    one = row(1, "track", meta={"template": "t1"}, id="chat-1/0")
    longer = (*one.messages, Message("tool", "{}"), Message("assistant", "ok"), Message("user", words(9) * 3))
    near = one.messages[0].content.upper() + " ?"
    others = {
        "copy": [replace(one, id="other", meta={})],
        "same words": [row(2, text=one.messages[0].content)],
        "near words": [row(2, text=near)],
        "template": [row(2, meta={"template": "t1"})],
        "id": [row(2, id="chat-1/1")],
        "growing": [replace(one, id="other", meta={}, messages=(*longer, Message("assistant", "ok")))],
        "through a third": [row(2, meta={"template": "t2"}), row(3, text=near, meta={"template": "t2"})],
    }[case]
    rows = [row(100), one, *others, row(101)]
    assert groups(rows) == [0, *[1] * (1 + len(others)), 2 + len(others)]


def test_rows_without_user_words_are_not_grouped_by_that() -> None:
    rows = [Conversation(f"r{n}", (Message("assistant", f"turn {n}"),), (), f"x:{n}") for n in range(3)]
    assert groups(rows) == [0, 1, 2]


def test_without_near_duplicates_only_equal_words_group_rows() -> None:
    rows = [row(1), row(2, text=words(1) + " ?"), row(3, text=words(1))]
    assert groups(rows) == [0, 0, 0]
    assert groups(rows, near_rows=2) == [0, 1, 0]
    assert groups(rows, near_rows=0) == [0, 1, 0]


def test_another_meta_key_or_none_can_group() -> None:
    rows = [row(n, meta={"template": "t", "source": "abc"[n]}) for n in range(3)]
    assert groups(rows) == [0, 0, 0]
    assert groups(rows, group_by="source") == groups(rows, group_by=None) == [0, 1, 2]


# Which rows move


ROWS = st.builds(
    lambda number, template, stem, near: row(
        number % 40,
        text=words(number % 40) + "!" * near,
        meta={} if template is None else {"template": template},
        id=f"chat-{stem}/{number}" if stem else f"r{number}",
    ),
    st.integers(0, 90),
    st.sampled_from([None, None, "a", "b", "c"]),
    st.integers(0, 12),
    st.integers(0, 2),
)


def sides_of(rows: list[Conversation]) -> Sides:
    table = key_table(rows)
    try:
        return assign_sides(table, Shares(0.2, 0.2, 0.3))
    except UserError:  # a side has no row, which does not matter here; add rows
        return assign_sides(key_table([*rows, *(row(n) for n in range(1000, 1100))]), Shares(0.2, 0.2, 0.3))


@settings(deadline=None, max_examples=30)
@given(st.lists(ROWS, min_size=1, max_size=25), st.lists(ROWS, max_size=15))
def test_rows_added_at_the_end_move_no_group_unless_they_link_two(
    old: list[Conversation], new: list[Conversation]
) -> None:
    before, after = sides_of(old), sides_of([*old, *new])
    for n in range(len(old)):
        group = {before.groups[m] for m in range(len(old)) if after.groups[m] == after.groups[n]}
        if len(group) == 1:
            assert before.sides[n] == after.sides[n]
        else:  # a new row links two groups: they are on the side of the earlier one
            assert after.sides[n] == before.sides[min(group)]


@settings(deadline=None, max_examples=40)
@given(st.lists(ROWS, min_size=1, max_size=30))
def test_a_group_is_on_one_side(rows: list[Conversation]) -> None:
    split = sides_of(rows)
    by_group: dict[int, set[int]] = {}
    for root, side in zip(split.groups.tolist(), split.sides.tolist(), strict=True):
        by_group.setdefault(root, set()).add(side)
    assert all(len(found) == 1 for found in by_group.values())
    template: dict[str, set[int]] = {}
    for n, one in enumerate(rows):
        if "template" in one.meta:
            template.setdefault(one.meta["template"], set()).add(int(split.sides[n]))
    assert all(len(found) == 1 for found in template.values())


def test_the_order_of_single_rows_and_of_a_templates_rows_does_not_matter() -> None:
    rows = [row(n, meta={"template": f"t{n % 20}"} if n % 2 else {}) for n in range(200)]
    assert sides(rows) == sides(rows[::-1])


def test_another_salt_moves_rows_and_a_larger_test_share_keeps_the_rows_of_a_smaller_one() -> None:
    rows = some_rows(300)
    assert sides(rows) != sides(rows, salt="x")
    small, large = sides(rows, Shares(0.1, 0.1, 0.1)), sides(rows, Shares(0.2, 0.1, 0.4))
    assert {id for id, side in small.items() if side == "test"} < {id for id, side in large.items() if side == "test"}


# Shares


def test_shares_are_close_to_the_requested_ones() -> None:
    found = list(sides(some_rows(4000), Shares()).values())
    for side in SIDES:
        assert abs(found.count(side) / 4000 - getattr(Shares(), side)) < share_bound([1] * 4000)


@pytest.mark.parametrize("sizes", [[1] * 60, [5] * 12, [20, 8, 8, 4, 4, 4, 2, 2, 2, 2, 1, 1, 1, 1]])
def test_a_tools_share_exceeds_its_bound_in_fewer_than_one_case_of_a_thousand(sizes: list[int]) -> None:
    rows = [row(n, "track", meta={"template": f"t{n}"}) for n in range(len(sizes))]
    rows = [replace(one, id=f"{one.id}-{m}") for one, size in zip(rows, sizes, strict=True) for m in range(size)]
    table = key_table(rows, near_rows=0)
    bound, worst, misses = share_bound(sizes), 0.0, 0
    for salt in range(800):
        try:
            counts, reported = rows_by_tool(table, assign_sides(table, Shares(0, 0, 0.3), salt=str(salt)))["track"]
        except UserError:
            continue
        assert reported == pytest.approx(bound)
        off = abs(counts[SIDES.index("test")] / sum(sizes) - 0.3)
        worst, misses = max(worst, off), misses + (off > bound)
    assert misses <= 1
    assert worst > bound / 2.5, "the bound is too loose to say anything"


def test_the_bound_also_holds_with_kept_tools_and_is_1_for_a_kept_tool() -> None:
    names = [f"tool_{n}" for n in range(10)]
    rows = [
        row(n, names[n % 10], *([names[0]] if n % 7 == 0 else []), meta={"template": f"t{n // 3}"}) for n in range(240)
    ]
    table = key_table(rows, near_rows=0)
    plain = {name: bound for name, (_, bound) in rows_by_tool(table, assign_sides(table, Shares(0, 0, 0.3))).items()}
    cases = misses = 0
    for salt in range(150):
        split = assign_sides(table, Shares(0, 0, 0.3), unseen_tools=0.2, salt=str(salt))
        for name, (counts, bound) in rows_by_tool(table, split).items():
            off = abs(counts[SIDES.index("test")] / sum(counts) - 0.3)
            cases, misses = cases + 1, misses + (off > bound + 1e-9)
            assert bound >= plain[name] or bound == pytest.approx(plain[name])
            if name in split.kept_tools:
                assert (bound, counts[SIDES.index("test")]) == (1.0, sum(counts))
    assert cases == 1500
    assert misses <= 3


def test_the_bound_falls_with_the_number_of_groups_and_is_at_most_1() -> None:
    assert share_bound([1]) == 1.0
    assert share_bound([3] * 100) == share_bound([1] * 100)
    assert share_bound([1] * 400) == pytest.approx(share_bound([1] * 100) / 2)


def test_the_salt_auto_balances_the_tools_better_and_is_reported() -> None:
    rows = some_rows(240, *(f"tool_{n}" for n in range(12)))
    table = key_table(rows)

    def off(salt: str) -> float:
        split = assign_sides(table, Shares(), salt=salt)
        found = rows_by_tool(table, split).values()
        return sum(abs(counts[3] / sum(counts) - 0.2) for counts, _ in found)

    chosen = assign_sides(table, Shares(), salt="auto").salt
    assert chosen.startswith("auto-")
    assert off(chosen) < off("")
    assert (
        assign_sides(table, Shares(), salt=chosen).sides.tolist()
        == assign_sides(table, Shares(), salt="auto").sides.tolist()
    )


@pytest.mark.parametrize("shares", [{"test": 1.0}, {"test": -0.1}, {"validation": 0.5, "test": 0.5}])
def test_shares_that_leave_nothing_to_train_on_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(UserError, match=r"^--(test|validation)"):
        Shares(**shares)


def test_a_side_without_rows_is_refused_unless_its_share_is_0() -> None:
    rows = [row(n, meta={"template": "one"}) for n in range(30)]
    with pytest.raises(UserError, match=r"gets no row of 30 in 1 groups; add rows"):
        sides(rows)
    assert set(sides(rows, Shares(0, 0, 0)).values()) == {"train"}


# Kept tools


def test_the_share_of_kept_tools_is_rounded_to_at_least_one_and_never_all() -> None:
    names = [f"tool_{n}" for n in range(20)]
    assert len(kept_tools(names, 0.2)) == 4
    assert len(kept_tools(names[:3], 0.05)) == 1
    assert kept_tools(names, 0.0) == ()
    assert kept_tools(names, 0.2) == kept_tools(names[::-1], 0.2) != kept_tools(names, 0.2, "x")
    for found, share in ((names[:1], 0.2), (names, 0.99), (names, 1.0)):
        with pytest.raises(UserError, match=r"^--unseen-tools"):
            kept_tools(found, share)


def test_groups_that_call_a_kept_tool_go_to_the_test_and_all_others_stay() -> None:
    names = [f"tool_{n}" for n in range(10)]
    rows = some_rows(300, *names)
    kept = set(kept_tools(names, 0.2))
    expecting = replace(
        row(900, offers=tuple(names)), expected=Gold("calls", tuple(GoldCall(name, {}) for name in sorted(kept)))
    )
    mates = [row(901, min(kept), meta={"template": "t"}), row(902, "tool_0", meta={"template": "t"})]
    rows += [expecting, *mates]
    plain, found = sides(rows), sides(rows, unseen_tools=0.2)
    moved = {one.id for one in rows if kept & {c.name for m in one.messages for c in m.tool_calls}} | {"r900", "r902"}
    assert {found[id] for id in moved} == {"test"}
    assert {id: side for id, side in found.items() if id not in moved} == {
        id: side for id, side in plain.items() if id not in moved
    }


# Files


def write(path: Path, rows: list[Conversation]) -> str:
    path.write_text("".join(json.dumps(one.to_json(), ensure_ascii=False) + "\n" for one in rows), encoding="utf-8")
    return str(path)


def read(folder: Path) -> dict[str, list[Conversation]]:
    return {side: list(read_conversations(folder / f"{side}.jsonl")) for side in SIDES}


def test_files_have_every_row_once_in_order_and_split_json_describes_them(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", some_rows(300, "track", "cancel"))
    result = split_files([source], tmp_path / "out" / "deep", Shares())
    found = read(tmp_path / "out" / "deep")
    assert sorted((one.to_json() for rows in found.values() for one in rows), key=lambda one: int(one["id"][1:])) == [
        one.to_json() for one in read_conversations(Path(source))
    ]
    for side, rows in found.items():
        assert [int(one.id[1:]) for one in rows] == sorted(int(one.id[1:]) for one in rows)
        content = (tmp_path / "out" / "deep" / f"{side}.jsonl").read_bytes()
        assert result.summary["files"][f"{side}.jsonl"]["sha256"] == hashlib.sha256(content).hexdigest()
        assert result.summary["sides"][side]["rows"] == len(rows)
    assert json.loads((tmp_path / "out" / "deep" / "split.json").read_text()) == result.summary
    assert {path.name for path in (tmp_path / "out" / "deep").iterdir()} == {f"{s}.jsonl" for s in SIDES} | {
        "split.json"
    }
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["deep"]
    assert set(result.summary["tools"]) == {"track", "cancel"}


def test_no_row_outside_the_test_calls_or_lists_a_kept_tool(tmp_path: Path) -> None:
    names = tuple(f"tool_{n}" for n in range(10))
    rows = [row(n, names[n % 10], offers=names) for n in range(200)]
    rows += [row(500 + n, offers=kept_tools(names, 0.2)) for n in range(20)]
    result = split_files([write(tmp_path / "in.jsonl", rows)], tmp_path / "out", Shares(), unseen_tools=0.2)
    kept = set(result.summary["unseen_tools"])
    assert kept == set(kept_tools(names, 0.2))
    found = read(tmp_path / "out")
    assert any(kept & {c.name for m in one.messages for c in m.tool_calls} for one in found["test"])
    for side in SIDES[:3]:
        for one in found[side]:
            assert kept.isdisjoint(
                {tool.name for tool in one.tools} | {c.name for m in one.messages for c in m.tool_calls}
            )
    others = sum(len(found[side]) for side in SIDES[:3])
    assert set(result.summary["unseen_tools_taken_from_rows"].values()) == {others}
    emptied = [one for side in SIDES[:3] for one in found[side] if not one.tools]
    assert emptied
    lines = (tmp_path / "out" / "train.jsonl").read_text().splitlines()
    assert all("tools" in json.loads(line) for line in lines), (
        "an empty list stays, so that the row does not get the default tools"
    )


def test_kept_tools_need_rows_that_list_their_tools(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", [replace(one, tools=()) for one in some_rows(50, "track", "cancel")])
    with pytest.raises(UserError, match=r"in\.jsonl:1: calls a tool but lists none; --unseen-tools needs --tools"):
        split_files([source], tmp_path / "out", Shares(), unseen_tools=0.5)
    given = (tool("track"), tool("cancel"))
    split_files([source], tmp_path / "out", Shares(), unseen_tools=0.5, default_tools=given)
    assert {len(one.tools) for one in read(tmp_path / "out")["train"]} == {1}


def test_a_bad_row_is_named_and_nothing_written(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    write(source, some_rows(3))
    source.write_text(source.read_text() + '{"messages": [}\n' + '{"messages": []}\n')
    with pytest.raises(UserError, match=r"in\.jsonl:4: [\s\S]*in\.jsonl:5: [\s\S]*toolhone data check"):
        split_files([str(source)], tmp_path / "out", Shares())
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_an_interrupted_split_leaves_the_earlier_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "in.jsonl", some_rows(100))
    split_files([source], tmp_path / "out", Shares())
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(split_files_module, "write_json", stop)
    with pytest.raises(KeyboardInterrupt):
        split_files([source], tmp_path / "out", Shares(), salt="other")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert len(list(tmp_path.iterdir())) == 2


def test_a_split_is_replaced_but_other_files_are_not(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", some_rows(100))
    split_files([source], tmp_path / "out", Shares())
    assert split_files([source], tmp_path / "out", Shares(), salt="x").summary["salt"] == "x"
    with pytest.raises(UserError, match=r"test\.jsonl is a source and would be replaced"):
        split_files([str(tmp_path / "out" / "test.jsonl")], tmp_path / "out", Shares())
    (tmp_path / "out" / "split.json").unlink()
    with pytest.raises(UserError, match=r"has a train\.jsonl that is not part of a split"):
        split_files([source], tmp_path / "out", Shares())


def test_leakage_against_another_file_is_refused_or_reported(tmp_path: Path) -> None:
    rows = some_rows(100)
    source, other = write(tmp_path / "in.jsonl", rows), write(tmp_path / "other.jsonl", rows[:60])
    with pytest.raises(UserError, match=r"other\.jsonl:\d+: leakage: \d+ of 60 rows"):
        split_files([source], tmp_path / "out", Shares(), against=[other])
    assert not (tmp_path / "out").exists()
    result = split_files([source], tmp_path / "out", Shares(), against=[other], allow_leakage=True)
    trained = {one.id for one in read(tmp_path / "out")["train"]}
    assert result.summary["leakage"]["known"] == len(trained & {one.id for one in rows[:60]})
    assert any("leakage allowed" in warning for warning in result.warnings)


def test_an_unreadable_row_of_the_other_file_is_an_error(tmp_path: Path) -> None:
    source, other = write(tmp_path / "in.jsonl", some_rows(100)), tmp_path / "other.jsonl"
    other.write_text("{\n")
    with pytest.raises(UserError, match=r"other\.jsonl:1: "):
        split_files([source], tmp_path / "out", Shares(), against=[str(other)], allow_leakage=True)
    assert not (tmp_path / "out").exists()


def test_unbalanced_splits_give_warnings(tmp_path: Path) -> None:
    rows = [row(n, "track", meta={"template": "t"}) for n in range(60)] + [row(100 + n, "rare") for n in range(14)]
    rows += [row(200 + n) for n in range(80)]
    source = write(tmp_path / "in.jsonl", rows)
    result = split_files([source], tmp_path / "out", Shares(), near_rows=50)
    shown = "\n".join(result.warnings)
    assert "near duplicates were not searched (over 50 rows)" in shown
    assert "one group has 60 of 154 rows" in shown
    assert "tools without a row on a side: track (" in shown
    assert split_files([source], tmp_path / "out", Shares(), near=False).summary["near_duplicates"] == "off (--no-near)"
    assert NO_CALL in result.summary["tools"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["6fd8899a57eb6d40", "4b5afbfc351c8d37", "9fed5a2e7a6aab3c", "52717a30bca60b22"]),
        ({"salt": "x"}, ["1da145b287adbc3c", "bd39177be6a13a1e", "8bfda4fb2077c34c", "9364fd31ff687415"]),
        ({"salt": "auto"}, ["ce0833060501c973", "87d8aa647c636f5e", "fc533ecd41336f1f", "eca7aa1e31bc5c3f"]),
        ({"unseen_tools": 0.2}, ["07a10bbbf53decf3", "ba1a684a28f099f5", "09781f50dd6a7ec7", "d996ef7a0b36ac3a"]),
        (
            {"near": False, "group_by": None},
            ["7d2ca74dfe14f768", "eac538590716aa3c", "a25ac0f8b7862b92", "27bd0f2ecf53eece"],
        ),
    ],
)
def test_the_same_salt_gives_the_same_sides_in_every_version(
    tmp_path: Path, options: dict[str, Any], expected: list[str]
) -> None:
    tools = read_tools(SHIPPED / "tools.json")
    split_files([str(SHIPPED / "train.jsonl")], tmp_path / "out", Shares(), default_tools=tools, **options)
    found = [hashlib.sha256("\n".join(one.id for one in rows).encode()) for rows in read(tmp_path / "out").values()]
    assert [digest.hexdigest()[:16] for digest in found] == expected


def test_the_shipped_rows_split_with_every_template_on_one_side(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from rich.console import Console

    result = split_files([str(SHIPPED / "train.jsonl")], tmp_path / "out", Shares())
    show(result, Console(soft_wrap=True))
    assert "600 rows in" in capsys.readouterr().out
    found = {side: {one.meta["template"] for one in rows} for side, rows in read(tmp_path / "out").items()}
    assert sum(map(len, found.values())) == len(set[str]().union(*found.values()))
