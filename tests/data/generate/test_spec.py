"""A spec of templates, slots and a mix makes the rows that it describes, and its faults are reported."""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from toolhone.data.generate.rows import (
    choose,
    generate,
    make,
    refuse_invented_text,
    refuse_slot_in_other_argument,
    share,
)
from toolhone.data.generate.spec import Shapes, SlotSpec, code_filler, divide, fillers, load_spec
from toolhone.data.generate.templates import Template
from toolhone.data.groups import jaccard, shingles
from toolhone.data.read import read_conversations
from toolhone.errors import UserError
from toolhone.records import Conversation, Message, Tool, ToolCall

TOOLS = [
    {"name": "find", "parameters": {"type": "object", "properties": {"code": {"type": "string"}}}},
    {
        "name": "order",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "count": {"type": "integer"}, "size": {"enum": ["s", "l"]}},
        },
    },
]

SPEC = """\
tools: tools.json
system_prompt: You sell things.
seed: 3
slots:
  code: {codes: [{of: [AB-###, "@^##"], weight: 2}, {of: [X####]}], lower_case: 0.5}
  city: {lists: {en: [Leeds, York, Hull, Bath, Ely, Ripon], zh: [北京, 上海, 广州, 深圳]}}
  count: {integers: [1, 40]}
mix:
  no call: 1/4
outputs:
  train:
    rows: 40
    templates:
      - {id: find-en, language: en, user: "where is {code}?", calls: [{find: {code: "{code}"}}]}
      - {id: find-zh, language: zh, user: "{code} 在哪", calls: [{find: {code: "{code}"}}]}
      - id: order-en
        language: en
        user: "{count} large ones to {city}"
        calls: [{order: {city: "{city}", count: "{count}", size: l}}]
      - {id: order-zh, language: zh, user: "发到{city}, 小的", calls: [{order: {city: "{city}", size: s}}]}
      - {id: lost, language: en, user: "I lost {code}, help", answer: ["Which shop?", "Where was it?"]}
  test:
    rows: 8
    templates:
      - {id: t-find, language: en, user: "tell me about {code} please", calls: [{find: {code: "{code}"}}]}
      - id: t-order
        language: zh
        user: "我要{count}个送{city}去"
        calls: [{order: {city: "{city}", count: "{count}"}}]
      - {id: t-hello, language: zh, user: "{code}!", answer: 您好}
max_similarity: 0.5
checks: [own_argument, said_before]
"""


def write(folder: Path, text: str = SPEC) -> Path:
    (folder / "tools.json").write_text(json.dumps(TOOLS), encoding="utf-8")
    path = folder / "spec.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def rows_of(folder: Path, text: str = SPEC) -> dict[str, list[Conversation]]:
    return {name: made.rows for name, made in make(*load_spec(write(folder, text))).items()}


def changed(old: str, new: str) -> str:
    assert old in SPEC
    return SPEC.replace(old, new, 1)


def quiet() -> Console:
    return Console(file=io.StringIO(), soft_wrap=True)


def arguments(rows: list[Conversation], name: str) -> list[Any]:
    calls = [call for row in rows for message in row.messages for call in message.tool_calls]
    return [call.arguments[name] for call in calls if name in call.arguments]


def test_a_spec_makes_the_rows_of_each_kind_with_prompt_and_tools(tmp_path: Path) -> None:
    rows = rows_of(tmp_path)
    kinds = Counter(row.messages[-1].tool_calls[0].name if row.messages[-1].tool_calls else "" for row in rows["train"])
    assert kinds == {"": 10, "find": 15, "order": 15}
    assert [row.id for row in rows["test"]] == [f"test-{n:04}" for n in range(1, 9)]
    for row in [*rows["train"], *rows["test"]]:
        assert row.messages[0] == Message("system", "You sell things.")
        assert [tool.name for tool in row.tools] == ["find", "order"]
    answers = {row.messages[-1].content for row in rows["train"] if row.meta["template"] == "lost"}
    assert answers == {"Which shop?", "Where was it?"}


def test_the_same_spec_makes_the_same_rows_and_another_seed_makes_others(tmp_path: Path) -> None:
    assert rows_of(tmp_path) == rows_of(tmp_path)
    other = rows_of(tmp_path, changed("seed: 3", "seed: 4"))
    assert other["train"] != rows_of(tmp_path)["train"]
    assert Counter(row.meta["language"] for row in other["test"]).total() == 8


def test_codes_have_their_shapes_and_each_occurs_in_only_one_row(tmp_path: Path) -> None:
    rows = rows_of(tmp_path)
    every = [*rows["train"], *rows["test"]]
    found = [re.findall(r"[A-Za-z]+-?\d{3,4}", row.messages[1].content) for row in every]
    typed = [code for codes in found for code in codes]
    assert len(typed) > 25
    assert all(re.fullmatch(r"AB-\d{3}|[A-HJ-NP-Z][1-9]\d\d|X\d{4}", code.upper()) for code in typed)
    assert len({code.lower() for code in typed}) == len(typed)
    assert any(code.islower() for code in typed)
    assert any(code.isupper() for code in typed)


def test_no_value_of_a_slot_occurs_in_two_outputs(tmp_path: Path) -> None:
    rows = rows_of(tmp_path)
    for name in ("code", "city", "count"):
        train, test = (set(arguments(rows[split], name)) for split in ("train", "test"))
        assert train
        assert test
        assert train & test == set()


def test_a_shared_slot_has_all_its_values_in_every_output() -> None:
    slot = SlotSpec(integers=(1, 2), shared=True)
    for output in ("a", "b"):
        fill = fillers({"n": slot}, output, {"a": 5, "b": 5}, 0, set(), "spec.yaml")["n"]
        assert {fill(Random(seed), "en", True) for seed in range(20)} == {1, 2}


def test_lists_by_output_are_used_unchanged_and_must_not_overlap(tmp_path: Path) -> None:
    (tmp_path / "cities.yaml").write_text("train: {en: [Leeds], zh: [北京]}\ntest: {zh: [上海], en: [York]}\n")
    lists = "city: {lists: {en: [Leeds, York, Hull, Bath, Ely, Ripon], zh: [北京, 上海, 广州, 深圳]}}"
    text = changed(lists, "city: {lists: cities.yaml}")
    rows = rows_of(tmp_path, text)
    assert set(arguments(rows["train"], "city")) == {"Leeds", "北京"}
    assert set(arguments(rows["test"], "city")) == {"上海"}
    (tmp_path / "cities.yaml").write_text("train: {en: [Leeds], zh: [北京]}\ntest: {zh: [北京], en: [York]}\n")
    with pytest.raises(UserError, match=r'slots\.city: "北京" is listed for train and test'):
        rows_of(tmp_path, text)
    assert rows_of(tmp_path, text.replace("lists: cities.yaml", "lists: cities.yaml, shared: true"))


@given(
    values=st.lists(st.integers(), unique=True, min_size=4, max_size=60),
    rows=st.lists(st.integers(1, 500), min_size=1, max_size=4),
)
def test_divide_gives_every_value_to_one_output_and_each_output_some(values: list[int], rows: list[int]) -> None:
    counts = {str(n): count for n, count in enumerate(rows)}
    divided = divide(values, counts, "seed", "here")
    assert sorted(value for part in divided.values() for value in part) == sorted(values)
    assert min(len(part) for part in divided.values()) >= 1
    spare = len(values) - len(rows)
    for name, count in counts.items():
        assert abs(len(divided[name]) - 1 - spare * count / sum(rows)) <= 1


def test_shapes_are_drawn_by_weight_and_few_codes_are_in_lower_case() -> None:
    slot = SlotSpec(codes=(Shapes(of=("U#####",), weight=3), Shapes(of=("R#####",))), lower_case=0.1)
    fill = code_filler(slot, set(), "spec.yaml")
    rng = Random(1)
    codes = [str(fill(rng, "en", True)) for _ in range(2000)]
    assert 0.7 < sum(code.upper().startswith("U") for code in codes) / 2000 < 0.8
    assert 0.07 < sum(code.islower() for code in codes) / 2000 < 0.13
    assert not any(str(fill(rng, "en", False)).islower() for _ in range(200))


def test_running_out_of_codes_is_an_error() -> None:
    fill = code_filler(SlotSpec(codes=(Shapes(of=("A#",)),)), set(), "spec.yaml: slots.code")
    assert {fill(Random(seed), "en", False) for seed in range(10)} == {f"A{n}" for n in range(10)}
    with pytest.raises(UserError, match=r"spec.yaml: slots.code: .* no new code"):
        fill(Random(0), "en", False)


def template(id: str, *turns: tuple[str, Any], language: str = "en") -> Template:
    return Template(id, language, turns, "spec.yaml:1")


def test_rows_are_shared_as_evenly_as_the_templates_allow() -> None:
    slotted = [template(str(n), ("user", "{sku}")) for n in range(4)]
    plain = [template(str(n), ("user", "hello")) for n in range(2)]
    groups = {"slotted": slotted, "plain": plain}
    assert share(5, groups, repeat=False) == {"slotted": 3, "plain": 2}
    assert share(20, groups, repeat=True) == {"slotted": 18, "plain": 2}
    with pytest.raises(UserError, match="the templates of slotted, plain make 6 rows, expected 7"):
        share(7, groups, repeat=False)


def pool() -> list[Template]:
    made = [
        template(
            f"{name}-{size}-{language}-{n}", ("user", "{code}"), ("calls", [{name: {"size": size}}]), language=language
        )
        for name, size, language, n in (
            (name, size, language, n)
            for name in ("find", "order")
            for size in ("s", "l")
            for language in ("en", "zh")
            for n in range(4)
        )
    ]
    return [*made, *(template(f"no-{n}", ("user", "{code}"), ("answer", "no")) for n in range(3))]


def picked(rows: int, **given: Any) -> list[Template]:
    options: dict[str, Any] = {"mix": {}, "evenly_by": {}, "languages": {}, "repeat": True, "rng": Random(1)}
    return choose(pool(), rows, **{**options, **given})


def test_a_mix_has_counts_or_shares_that_are_rounded_down() -> None:
    kinds = Counter(t.kind for t in picked(100, mix={"find": 7, "no call": Fraction(1, 6)}))
    assert kinds == {"find": 7, "no call": 16, "order": 77}


def test_rows_are_shared_evenly_over_an_arguments_values() -> None:
    chosen = picked(60, mix={"order": 30}, evenly_by={"order": "size"})
    assert Counter(t.calls[0][1]["size"] for t in chosen if t.kind == "order") == {"s": 15, "l": 15}


def test_languages_have_their_shares_overall_and_in_each_kind() -> None:
    chosen = picked(100, mix={"no call": 0}, languages={"en": 0.3, "zh": 0.7})
    assert Counter(t.language for t in chosen) == {"en": 30, "zh": 70}
    for kind in ("find", "order"):
        assert abs(sum(t.language == "en" for t in chosen if t.kind == kind) - 15) <= 1


def test_too_few_templates_of_a_language_are_an_error() -> None:
    with pytest.raises(UserError, match="languages: zh: the templates make 50 of 100 rows, expected 70%"):
        picked(100, mix={"no call": 50}, languages={"en": 0.3, "zh": 0.7})


def test_every_template_makes_a_row_before_any_makes_two() -> None:
    assert len({t.id for t in picked(40)}) == 35
    assert len({t.id for t in picked(20, repeat=False)}) == 20


@pytest.mark.parametrize(
    ("mix", "message"),
    [
        ({"fnd": 3}, 'mix or evenly_by has "fnd"; expected kinds of templates: '),
        ({"find": 60}, "mix asks for 60 rows, more than the 40 rows"),
        ({"find": 10, "order": 10, "no call": 10}, "and no other kind is left"),
    ],
)
def test_a_mix_that_does_not_add_up_is_refused(mix: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        picked(40, mix=mix)


FAULTS = {
    "unknown key": ("seed: 3", "sed: 3", r'spec.yaml:3: sed: unknown key \(did you mean "seed"\?\)'),
    "missing key": ("tools: tools.json\n", "", r"spec.yaml: tools: is required"),
    "wrong type": ("rows: 40", "rows: many", r"spec.yaml:12: outputs.train.rows: .*found 'many'"),
    "two kinds of slot": (
        "count: {integers: [1, 40]}",
        "count: {integers: [1, 40], codes: [{of: [A]}]}",
        r"spec.yaml:7: slots.count: expected one of codes, integers and lists, found codes and integers",
    ),
    "empty range": ("[1, 40]", "[40, 1]", "the smallest, 40, is above the largest, 1"),
    "bad share": ("no call: 1/4", "no call: 5/4", "mix: no call: expected a count, or a share of 0 to 1"),
    "no share": ("no call: 1/4", "no call: a lot", "expected a count or a share such as 0.1 or 1/6"),
    "unknown kind": ("no call: 1/4", "nocall: 1/4", r'spec.yaml:11: outputs.train: mix or evenly_by has "nocall"'),
    "unknown slot": ("where is {code}?", "where is {cod}?", r"spec.yaml:14: .*unknown slot \{cod\}"),
    "breaks the tools": ("size: l", "size: xl", "order-en"),
    "invented": ('city: "{city}", size: s', "city: Rome, size: s", 'city "Rome" is in no message'),
    "another argument": ('find: {code: "{code}"}', 'order: {city: "{code}"}', "expected the slot {city}, found {code}"),
    "no language": ("zh: [北京, 上海, 广州, 深圳]", "fr: [Lyon, Metz]", 'no values for the language "zh"'),
    "too few values": ("[北京, 上海, 广州, 深圳]", "[北京]", "1 values for 2 outputs"),
    "too similar": ("tell me about {code} please", "where is {code}", r"max_similarity: 1 pairs are over 0.5"),
    "broken YAML": ("mix:", "mix: [", "not YAML"),
}


@pytest.mark.parametrize(("old", "new", "message"), FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_is_reported_and_nothing_is_written(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = write(tmp_path, changed(old, new))
    with pytest.raises(UserError, match=message):
        generate(path, quiet())
    assert sorted(file.name for file in tmp_path.iterdir()) == ["spec.yaml", "tools.json"]


def test_generate_writes_a_file_for_each_output_and_compare_reports_differences(tmp_path: Path) -> None:
    path = write(tmp_path)
    assert generate(path, quiet(), out=tmp_path / "made")
    written = {name: list(read_conversations(tmp_path / "made" / f"{name}.jsonl")) for name in ("train", "test")}
    assert {name: len(rows) for name, rows in written.items()} == {"train": 40, "test": 8}
    assert generate(path, quiet(), out=tmp_path / "made", compare=True)
    with (tmp_path / "made" / "test.jsonl").open("a") as file:
        file.write("\n")
    assert not generate(path, quiet(), out=tmp_path / "made", compare=True)
    assert not generate(path, quiet(), compare=True)


def test_one_output_is_written_to_the_file_that_out_names(tmp_path: Path) -> None:
    alone = SPEC[: SPEC.index("  test:\n")]
    path = write(tmp_path, alone)
    assert generate(path, quiet(), out=tmp_path / "rows.jsonl")
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 40
    with pytest.raises(UserError, match="expected a folder for the outputs train, test of "):
        generate(write(tmp_path), quiet(), out=tmp_path / "rows.jsonl")


def test_rows_have_no_tools_if_the_spec_says_so(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, changed("seed: 3", "seed: 3\ntools_in_rows: false"))
    assert all(row.tools == () for row in rows["train"])


def test_a_tracking_number_as_an_order_id_is_refused() -> None:
    wrong = template("a", ("user", "{tracking_no}"), ("calls", [{"query_order": {"order_id": "{tracking_no}"}}]))
    with pytest.raises(UserError, match=r"order_id: expected the slot \{order_id\}, found \{tracking_no\}"):
        refuse_slot_in_other_argument(wrong)


def test_a_text_argument_that_is_in_no_earlier_message_is_refused() -> None:
    tools = tuple(Tool(row["name"], "", row["parameters"]) for row in TOOLS)  # type: ignore[arg-type]
    call = Message("assistant", "", (ToolCall("order", {"city": "Leeds", "size": "l"}),))
    refuse_invented_text(Conversation("1", (Message("user", "to Leeds"), call), tools, "here"))
    with pytest.raises(UserError, match='city "Leeds" is in no message before the call'):
        refuse_invented_text(Conversation("1", (Message("user", "to York"), call, Message("user", "Leeds")), tools, ""))


def test_a_text_shorter_than_five_characters_is_one_gram() -> None:
    assert shingles("□ 取消") == frozenset({"□ 取消"})
    assert shingles("abcdef") == frozenset({"abcde", "bcdef"})
    assert jaccard(shingles("abcdef"), shingles("abcde")) == 0.5


def test_several_requests_per_row_take_as_many_templates_and_need_results(tmp_path: Path) -> None:
    text = changed("    rows: 40\n", "    rows: 20\n    requests: 2\n")
    with pytest.raises(UserError, match=r"spec.yaml:\d+: outputs.train: requests needs the spec's `results`"):
        rows_of(tmp_path, text)
    (tmp_path / "results.yaml").write_text(
        "results:\n  find: [{tool: 1, answer: {en: a, zh: b}}]\n  order: [{tool: 1, answer: {en: a, zh: b}}]\n"
    )
    rows = rows_of(tmp_path, "results: results.yaml\n" + text)
    assert len(rows["train"]) == 20
    assert all(sum(message.role == "user" for message in row.messages) == 2 for row in rows["train"])
    assert all(row.meta["template"].count("+") == 1 for row in rows["train"])
    assert len(rows["test"]) == 8
