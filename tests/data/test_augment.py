"""Augmentation: rows stay valid, gold stays right, renaming can be undone, and test rows are refused."""

from __future__ import annotations

import io
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from toolhone.data.augment import Augmentation, augment, augment_files, rename_tools, with_names
from toolhone.data.check import check
from toolhone.data.escalation import ESCALATE, escalate_tool
from toolhone.data.importers.openai import conversation
from toolhone.data.read import read_conversations, read_sources, read_tools
from toolhone.data.split import Shares
from toolhone.data.split_files import split_files
from toolhone.errors import UserError
from toolhone.records import Conversation, Gold, GoldCall, Message, Tool, ToolCall

SHIPPED = Path(__file__).parents[2] / "data" / "customer_service"
ALL = Augmentation(shuffle_tools=True, distractors=2, mask_names=0.5, irrelevance=0.5)

BOOK = Tool(
    "book_table",
    "Books a table.",
    {
        "type": "object",
        "properties": {
            "place": {"type": "string", "enum": ["place", "garden"], "description": "Where: the place."},
            "guests": {
                "type": "array",
                "items": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
            },
            "host": {
                "type": "object",
                "properties": {"name": {"type": "string"}, "place": {"type": "string"}},
                "required": ["name"],
                "additionalProperties": False,
                "default": {"name": "nobody"},
            },
        },
        "required": ["place", "guests"],
        "additionalProperties": False,
    },
)
WEATHER = Tool("get_weather", "Tells the weather.", {"type": "object", "properties": {"city": {"type": "string"}}})
CLOCK = Tool("clock", "Tells the time.", {"type": "object", "properties": {}})
POOL = {
    name: Tool(name, f"Does {name}.", {"type": "object", "properties": {"x": {"type": "integer"}}})
    for name in ("alpha", "beta", "gamma", "clock")
}
ARGUMENTS = {"place": "garden", "guests": [{"name": "Ann"}, {"name": "Bo"}], "host": {"name": "Cy", "place": "up"}}


def row(*, number: int = 1, **more: Any) -> Conversation:
    messages = (
        Message("system", "You help."),
        Message("user", f"a table for two, number {number}"),
        Message("assistant", "", (ToolCall("book_table", ARGUMENTS, "call_1"),)),
        Message("tool", '{"place": 3}', tool_call_id="call_1"),
        Message("assistant", "Booked. Anything else?"),
    )
    return replace(Conversation(f"r{number}", messages, (BOOK, WEATHER, CLOCK), f"x:{number}"), **more)


def run(rows: list[Conversation], augmentation: Augmentation = ALL) -> tuple[list[Conversation], Counter[str]]:
    done: Counter[str] = Counter()
    return list(augment(rows, augmentation, POOL, done)), done


def calls(one: Conversation) -> list[ToolCall]:
    return [call for message in one.messages for call in message.tool_calls]


# Rows that hypothesis generates: tools with nested parameters, and calls that fit them.

NAMES = st.sampled_from(["id", "name", "city", "when", "func", "arg"])
SCHEMAS: st.SearchStrategy[dict[str, Any]] = st.recursive(
    st.sampled_from([{"type": "string"}, {"type": "integer"}, {"type": "string", "enum": ["id", "name"]}]),
    lambda inner: st.one_of(
        st.dictionaries(NAMES, inner, max_size=3).map(
            lambda properties: {"type": "object", "properties": properties, "required": sorted(properties)}
        ),
        inner.map(lambda items: {"type": "array", "items": items}),
        inner.map(lambda one: {"anyOf": [one, {"type": "null"}]}),
    ),
    max_leaves=6,
)


def fitting(schema: dict[str, Any]) -> Any:
    """Return a value that is valid under the schema."""
    if "anyOf" in schema:
        return fitting(schema["anyOf"][0])
    if schema["type"] == "object":
        return {name: fitting(inner) for name, inner in schema["properties"].items()}
    if schema["type"] == "array":
        return [fitting(schema["items"]), fitting(schema["items"])]
    return 3 if schema["type"] == "integer" else "name"


@st.composite
def rows(draw: st.DrawFn) -> Conversation:
    parameters = st.dictionaries(NAMES, SCHEMAS, max_size=3)
    tools = [
        Tool(name, f"Does {name}.", {"type": "object", "properties": draw(parameters), "required": []})
        for name in draw(st.lists(st.sampled_from(["a", "b_c", "get.d", "clock"]), min_size=1, unique=True))
    ]
    called = draw(st.lists(st.sampled_from(tools), max_size=3))
    turn = Message("assistant", "" if called else "No.", tuple(ToolCall(t.name, fitting(t.parameters)) for t in called))
    gold = Gold(
        "calls",
        tuple(
            GoldCall(t.name, {k: [v, None] for k, v in fitting(t.parameters).items()}, frozenset(fitting(t.parameters)))
            for t in called
        ),
    )
    user = Message("user", draw(st.text("xyz 订单", min_size=1, max_size=8)).strip() or "x")
    return Conversation(
        "r", (user, turn), tuple(tools), "x:1", expected=gold if called and draw(st.booleans()) else None
    )


@settings(deadline=None)
@given(rows(), st.randoms(use_true_random=False))
def test_renaming_changes_every_tool_keeps_the_row_valid_and_can_be_undone(one: Conversation, rng: Any) -> None:
    renamed, names = rename_tools(one, rng)
    assert {tool.name for tool in renamed.tools}.isdisjoint({tool.name for tool in one.tools})
    assert [tool.description for tool in renamed.tools] == [tool.description for tool in one.tools]
    assert list(check([renamed])) == list(check([one])) == []
    assert with_names(renamed, json.loads(json.dumps(names))) == one


@settings(deadline=None)
@given(rows(), st.integers(0, 50))
def test_rows_stay_valid_and_their_gold_calls_tools_that_are_listed(one: Conversation, seed: int) -> None:
    made, _ = run([one], replace(ALL, seed=seed, mask_names=0.5, irrelevance=0.7))
    assert list(check(made)) == []
    for found in made:
        assert conversation(found.to_json(), found.where) == found, "a written row is read back unchanged"
        offered = {tool.name for tool in found.tools}
        assert {call.name for call in calls(found)} <= offered
        if found.expected is not None:
            assert {call.name for call in found.expected.calls} <= offered
            for gold, call in zip(found.expected.calls, calls(found), strict=True):
                assert gold.name == call.name
                assert set(gold.arguments) == set(call.arguments) == gold.optional
    assert run([one], replace(ALL, seed=seed, irrelevance=0.7))[0] == made


# Masking


def test_renaming_changes_calls_gold_and_nested_parameters_but_no_values_or_texts() -> None:
    gold = Gold("calls", (GoldCall("book_table", {"place": ["garden", "place"], "guests": [ARGUMENTS["guests"]]}),))
    one = row(expected=gold)
    made, done = run([one], Augmentation(mask_names=1.0))
    renamed = made[0]
    text = json.dumps(renamed.to_json()["tools"]) + json.dumps([call.to_json() for call in calls(renamed)])
    assert "book_table" not in text
    for name in ("guests", "host", "city"):
        assert f'"{name}"' not in text.replace("\\", "")
    book = renamed.tools[0]
    place = next(iter(book.parameters["properties"].values()))
    assert place == {"type": "string", "enum": ["place", "garden"], "description": "Where: the place."}
    assert book.parameters["required"] == list(book.parameters["properties"])[:2]
    place, guests, host = calls(renamed)[0].arguments.values()
    assert place == "garden"
    assert [list(guest.values()) for guest in guests] == [["Ann"], ["Bo"]]
    assert list(host.values()) == ["Cy", "up"]
    assert {"name", "place"}.isdisjoint({*guests[0], *host})
    assert renamed.messages[3] == one.messages[3]
    assert renamed.expected is not None
    assert renamed.expected.calls[0].name == book.name == calls(renamed)[0].name
    assert list(renamed.expected.calls[0].arguments) == book.parameters["required"]
    record = renamed.meta["augment"]
    assert record["of"] == one.content_hash()
    assert with_names(replace(renamed, meta={}), record["masked"]) == one
    assert done["rows renamed"] == 1


def test_a_schema_with_references_keeps_the_names_of_its_parameters() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}, "b": {"$ref": "#/properties/a"}}}
    dependent = {"type": "object", "properties": {"a": {}, "b": {}}, "dependentRequired": {"a": ["b"]}}
    turn = Message("assistant", "", (ToolCall("one_x", {"a": "1", "b": "2"}), ToolCall("two_x", {"a": "1", "b": "2"})))
    tools = (Tool("one_x", "", schema), Tool("two_x", "", dependent))
    one = Conversation("r", (Message("user", "do both"), turn), tools, "x:1")
    made, _ = run([one], Augmentation(mask_names=1.0))
    assert [tool.parameters for tool in made[0].tools] == [schema, dependent]
    assert [set(call.arguments) for call in calls(made[0])] == [{"a", "b"}] * 2
    assert list(check(made)) == []


def test_a_row_whose_message_contains_a_tools_name_is_counted_and_not_renamed() -> None:
    one = row()
    naming = replace(one, messages=(Message("system", "Use book_table for tables."), *one.messages[1:]))
    made, done = run([naming], Augmentation(mask_names=1.0))
    assert made == [naming]
    assert done["rows not renamed, since a message names a tool"] == 1


def test_thinking_stays_and_a_row_whose_thinking_names_a_tool_is_not_renamed() -> None:
    one = row()
    turn = next(n for n, message in enumerate(one.messages) if message.role == "assistant")
    for thinking, renamed in (("A tool can do it.", True), ("I need book_table.", False)):
        messages = [replace(m, thinking=thinking) if n == turn else m for n, m in enumerate(one.messages)]
        (made, *_), _ = run([replace(one, messages=tuple(messages))], Augmentation(mask_names=1.0))
        assert made.messages[turn].thinking == thinking
        assert ("masked" in made.meta.get("augment", {})) == renamed


# Tools added, shuffled, dropped


def test_distractors_are_other_tools_and_the_changes_are_recorded() -> None:
    made, done = run([row()], Augmentation(shuffle_tools=True, distractors=3))
    names = [tool.name for tool in made[0].tools]
    assert sorted(names) == ["alpha", "beta", "book_table", "clock", "gamma", "get_weather"]
    assert made[0].tools[names.index("clock")] == CLOCK
    assert made[0].messages == row().messages
    assert made[0].meta["augment"] == {
        "seed": 7,
        "of": row().content_hash(),
        "distractors": made[0].meta["augment"]["distractors"],
        "shuffled": True,
    }
    assert sorted(made[0].meta["augment"]["distractors"]) == ["alpha", "beta", "gamma"]
    assert done["distractors"] == 3
    assert run([row()], Augmentation(distractors=9))[1]["rows short of distractors"] == 1


def test_each_row_has_its_own_order_of_tools_whatever_the_other_rows() -> None:
    some = [row(number=n) for n in range(40)]
    made = run(some, Augmentation(shuffle_tools=True))[0]
    assert len({tuple(tool.name for tool in one.tools) for one in made}) == 6
    assert run(some[::-1], Augmentation(shuffle_tools=True))[0][::-1] == made
    assert run(some, Augmentation(shuffle_tools=True, seed=8))[0] != made


def test_an_irrelevance_row_ends_before_the_call_and_never_lists_the_tool() -> None:
    made, done = run([row(meta={"template": "t"})], Augmentation(irrelevance=1.0, distractors=9))
    plain, irrelevant = made
    assert plain.messages == row().messages
    assert irrelevant.id == "r1-irrelevant"
    assert irrelevant.messages[:2] == row().messages[:2]
    assert [message.role for message in irrelevant.messages] == ["system", "user", "assistant"]
    assert "tool" in irrelevant.messages[-1].content
    assert not calls(irrelevant)
    assert "book_table" not in {tool.name for tool in irrelevant.tools}
    assert {"get_weather", "clock"} < {tool.name for tool in irrelevant.tools}
    assert irrelevant.meta["augment"]["dropped"] == ["book_table"]
    assert irrelevant.meta["template"] == "t"
    assert done["irrelevance rows"] == 1


def test_the_dropped_tool_is_never_a_distractor() -> None:
    done: Counter[str] = Counter()
    pool = {**POOL, "book_table": BOOK}
    _, irrelevant = augment([row()], Augmentation(irrelevance=1.0, distractors=9), pool, done)
    assert "book_table" not in {tool.name for tool in irrelevant.tools}


def test_a_chinese_question_is_declined_in_chinese() -> None:
    one = row()
    asked = replace(one, messages=(Message("user", "订两个人的桌子"), *one.messages[2:]))
    _, irrelevant = run([asked], Augmentation(irrelevance=1.0))[0]
    assert "工具" in irrelevant.messages[-1].content


def test_a_row_without_calls_or_with_only_the_right_tool_gives_no_irrelevance_row() -> None:
    silent = replace(row(), messages=(Message("user", "hi"), Message("assistant", "hello")))
    assert run([silent, row(tools=(BOOK,))], Augmentation(irrelevance=1.0))[1]["irrelevance rows"] == 0


def test_shares_are_close_to_the_requested_ones() -> None:
    _, done = run([row(number=n) for n in range(1000)], Augmentation(mask_names=0.3, irrelevance=0.1))
    assert done["rows"] == 1000
    assert 60 < done["irrelevance rows"] < 140
    assert 0.25 < done["rows renamed"] / (1000 + done["irrelevance rows"]) < 0.35


# Refusals and files


def to_file(sources: list[str], out: Path, augmentation: Augmentation, **more: Any) -> Counter[str]:
    return augment_files(sources, out, augmentation, console=Console(file=io.StringIO()), **more)


def test_rows_and_files_for_testing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^x:1: is marked as a test row"):
        run([row(meta={"split": "test"})])
    split_files([str(SHIPPED / "train.jsonl")], tmp_path / "split", Shares())
    with pytest.raises(UserError, match=r"test\.jsonl: .*split\.json lists it as the test rows"):
        to_file([str(tmp_path / "split" / "test.jsonl")], tmp_path / "out.jsonl", ALL)
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("values", [{}, {"mask_names": 1.1}, {"irrelevance": -0.1}, {"distractors": -1}])
def test_an_augmentation_without_changes_or_with_invalid_values_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        Augmentation(**values)


def test_a_source_is_not_overwritten_and_bad_rows_are_named(tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text(json.dumps(row().to_json()) + "\n{\n")
    with pytest.raises(UserError, match=r"name another"):
        to_file([str(bad)], bad, ALL)
    with pytest.raises(UserError, match=r"bad\.jsonl:2: "):
        to_file([str(bad)], tmp_path / "out.jsonl", ALL)
    assert not (tmp_path / "out.jsonl").exists()


def test_the_shipped_rows_are_augmented_validly(tmp_path: Path) -> None:
    tools = read_tools(SHIPPED / "tools.json")
    out = tmp_path / "out.jsonl"
    done = to_file(
        [str(SHIPPED / "train.jsonl")], out, replace(ALL, mask_names=0.3, irrelevance=0.1), default_tools=tools
    )
    made = list(read_conversations(out))
    assert done["rows"] == 600
    assert len(made) == 600 + done["irrelevance rows"] > 620
    assert done["rows renamed"] > 100
    assert list(check(made)) == []
    before = {one.id: one for one in read_conversations(SHIPPED / "train.jsonl", tools)}
    for one in made:
        if "masked" in one.meta["augment"] and "dropped" not in one.meta["augment"]:
            plain = with_names(one, one.meta["augment"]["masked"])
            assert plain.messages == before[one.id].messages
            assert {t.name: t for t in plain.tools} == {t.name: t for t in before[one.id].tools}


def test_rows_of_any_format_are_augmented_and_written_in_toolhones_own_format(tmp_path: Path) -> None:
    formats = Path(__file__).parents[1] / "fixtures" / "formats"
    sources = [str(formats / "glaive.jsonl"), str(formats / "xlam.jsonl")]
    done = to_file(sources, tmp_path / "out.jsonl", Augmentation(distractors=1))
    before = [one for one in read_sources(sources) if isinstance(one, Conversation)]
    made = list(read_conversations(tmp_path / "out.jsonl"))
    assert [one.messages for one in made] == [one.messages for one in before]
    assert done["rows"] == len(before)
    assert done["distractors"] > 0
    pool = {tool.name for one in before for tool in one.tools}
    assert all({tool.name for tool in one.tools} <= pool for one in made)


def test_a_named_format_is_not_detected(tmp_path: Path) -> None:
    xlam = Path(__file__).parents[1] / "fixtures" / "formats" / "xlam.jsonl"
    with pytest.raises(UserError, match=r"xlam\.jsonl:1: "):
        to_file([str(xlam)], tmp_path / "out.jsonl", ALL, format="hermes")


def test_a_folder_with_the_test_rows_of_a_split_is_refused(tmp_path: Path) -> None:
    split_files([str(SHIPPED / "train.jsonl")], tmp_path / "split", Shares())
    with pytest.raises(UserError, match=r"test\.jsonl: .*split\.json lists it as the test rows"):
        to_file([str(tmp_path / "split")], tmp_path / "out.jsonl", ALL)


TO_ESCALATE = Augmentation(escalate="complex")
CALL = ToolCall(ESCALATE, {})


def test_marked_rows_escalate_at_their_first_answer_and_every_row_lists_the_tool() -> None:
    marked = row(meta={"complex": True}, expected=Gold("calls", (GoldCall("clock", {}),)), gold_source="gpt")
    plain, unmarked = row(number=2), row(number=3, meta={"complex": False})
    (first, second, third), done = run([marked, plain, unmarked], TO_ESCALATE)
    assert first.messages == (*marked.messages[:2], Message("assistant", "", (CALL,)))
    assert (first.expected, first.gold_source, first.id) == (None, None, marked.id)
    assert (second.messages, third.messages) == (plain.messages, unmarked.messages)
    for changed in (first, second, third):
        assert changed.tools == (BOOK, WEATHER, CLOCK, escalate_tool())
    assert first.meta["augment"] == {"seed": 7, "of": marked.content_hash(), "handed_over": True, "offers": ESCALATE}
    assert second.meta["augment"] == {"seed": 7, "of": plain.content_hash(), "offers": ESCALATE}
    assert +done == Counter({"rows": 3, "rows escalated": 1})
    assert list(check([first, second, third])) == []  # the rows are valid, and the gold of the first is the call


def test_rows_that_already_escalate_stay_as_they_are_and_count() -> None:
    own = row(
        messages=(Message("user", "hard"), Message("assistant", "", (CALL,))), tools=(BOOK, Tool(ESCALATE, "Ours.", {}))
    )
    bare = row(number=2, tools=())
    (first, second), done = run([own, bare], TO_ESCALATE)
    assert (first, second) == (own, bare)
    assert done["rows escalated"] == 1


def test_an_escalation_keeps_its_tool_and_name_under_all_other_changes() -> None:
    everything = replace(ALL, escalate="complex", mask_names=1.0, irrelevance=1.0)
    pool = POOL | {ESCALATE: Tool(ESCALATE, "Another.", {"type": "object", "properties": {}})}
    done: Counter[str] = Counter()
    marked, plain = row(meta={"complex": True}), row(number=2)
    changed = list(augment([marked, plain], everything, pool, done))
    assert [one.id for one in changed] == ["r1", "r2", "r2-irrelevant"]  # no copy without the reserved tool
    assert calls(changed[0]) == [CALL]
    for one in changed:
        assert [tool for tool in one.tools if tool.name == ESCALATE] == [escalate_tool()]
        assert all(tool.name.startswith("func_") for tool in one.tools if tool.name != ESCALATE)
    assert with_names(changed[1], changed[1].meta["augment"]["masked"]).messages == plain.messages


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row(meta={"complex": "yes"})], r"x:1: meta \"complex\": expected true .* found 'yes'"),
        ([row()], r'no row escalates: expected some with true as meta "complex"'),
        ([row(meta={"complex": True}, tools=())], r"x:1: is marked to escalate, but lists no tools"),
        (
            [row(meta={"complex": True}, messages=(Message("assistant", "Hi"), Message("user", "hard")))],
            r"x:1: .*no assistant turn follows",
        ),
        ([row(meta={"complex": True, "split": "test"})], r"x:1: is marked as a test row"),
    ],
)
def test_the_error_names_the_row_that_cannot_escalate(rows: list[Conversation], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(rows, TO_ESCALATE)


def test_an_empty_key_is_refused() -> None:
    with pytest.raises(UserError, match="--escalate: expected a key of meta"):
        Augmentation(escalate="")
