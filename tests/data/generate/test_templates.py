"""Templates: the rows that they make, and the errors for faulty ones."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from random import Random

import pytest

from toolhone.data.generate.rows import spread
from toolhone.data.generate.spec import Filler
from toolhone.data.generate.templates import MASK, Template, expand, load_templates
from toolhone.data.read import read_tools
from toolhone.errors import UserError
from toolhone.records import Conversation

TOOLS = read_tools(Path(__file__).parents[3] / "data" / "customer_service" / "tools.json")

FILLERS: dict[str, Filler] = {
    "order_id": lambda rng, language, typed: f"{'ord' if typed else 'ORD'}-{rng.randint(100, 999)}",
    "sku": lambda rng, language, typed: f"SKU{rng.randint(100, 999)}",
    "quantity": lambda rng, language, typed: rng.randint(2, 20),
    "address": lambda rng, language, typed: {"zh": "公司", "en": "my office"}[language],
}

SPEC = """
templates:
  - id: order
    language: zh
    user: 查 {order_id}
    calls:
      - query_order: {order_id: "{order_id}"}
  - id: stock
    language: en
    user: "{sku}, {quantity} of them, or {quantity_2}? Ship to {address}"
    calls:
      - query_stock: {sku: "{sku}", quantity: "{quantity}"}
      - query_stock: {sku: "{sku}", quantity: "{quantity_2}"}
  - id: hours
    language: en
    user: no
    answer: 9:00
  - id: human
    language: zh
    user: 转人工
    calls:
      - transfer_to_human: {}
  - id: late
    language: en
    turns:
      - user: "Is {sku} there?"
      - calls: [{query_stock: {sku: "{sku}"}}]
      - tool: {stock: 0, since: 2026-01-31, order: "{order_id}", "on": yes}
      - answer: "No, but {order_id} has it."
      - user: Cancel {order_id_2} then
      - calls: [{cancel_order: {order_id: "{order_id_2}"}}]
"""


def load(tmp_path: Path, text: str = SPEC) -> tuple[Template, ...]:
    path = tmp_path / "spec.yaml"
    path.write_text(text, encoding="utf-8")
    return load_templates(path, TOOLS, FILLERS)


def make(chosen: list[Template] | tuple[Template, ...], seed: int = 1) -> list[Conversation]:
    return expand(chosen, seed=seed, fillers=FILLERS, system_prompt="你是客服", tools=TOOLS, prefix="row")


def test_a_slot_has_the_same_value_everywhere_in_a_row(tmp_path: Path) -> None:
    row = make(load(tmp_path))[0]
    code = row.messages[1].content.removeprefix("查 ")
    assert row.messages[2].tool_calls[0].arguments == {"order_id": code}
    assert [message.role for message in row.messages] == ["system", "user", "assistant"]
    assert (row.id, row.meta) == ("row-0001", {"language": "zh", "template": "order"})


def test_a_value_that_is_one_slot_keeps_its_type_and_a_second_slot_has_another_value(tmp_path: Path) -> None:
    row = make(load(tmp_path))[1]
    first, second = (call.arguments["quantity"] for call in row.messages[2].tool_calls)
    assert isinstance(first, int)
    assert isinstance(second, int)
    assert first != second
    assert f"{first} of them, or {second}? Ship to my office" in row.messages[1].content


def test_a_filler_knows_whether_the_user_types_the_value(tmp_path: Path) -> None:
    row = make(load(tmp_path))[4]
    assert row.messages[4].content.startswith("No, but ORD-")
    assert row.messages[5].content.startswith("Cancel ord-")


def test_unquoted_values_have_the_types_of_json(tmp_path: Path) -> None:
    rows = make(load(tmp_path))
    assert [message.content for message in rows[2].messages[1:]] == ["no", "9:00"]
    assert rows[4].messages[3].content.startswith('{"stock": 0, "since": "2026-01-31", "order": "ORD-')
    assert rows[4].messages[3].content.endswith('"on": "yes"}')


def test_results_answer_the_calls_before_them_in_order(tmp_path: Path) -> None:
    row = make(load(tmp_path))[4]
    assert row.messages[3].tool_call_id == row.messages[2].tool_calls[0].id == "call_1"
    assert row.messages[6].tool_calls[0].id == "call_2"


def test_the_kind_of_a_template_follows_from_its_calls_and_turns(tmp_path: Path) -> None:
    kinds = [template.kind for template in load(tmp_path)]
    assert kinds == ["query_order", "several calls", "no call", "transfer_to_human", "several turns"]


def test_the_masked_question_has_every_user_turn_in_lower_case_without_values(tmp_path: Path) -> None:
    questions = [template.masked_question for template in load(tmp_path)]
    assert questions[1] == f"{MASK}, {MASK} of them, or {MASK}? ship to {MASK}"
    assert questions[4] == f"is {MASK} there?\ncancel {MASK} then"


def test_the_same_seed_makes_the_same_rows_and_another_seed_makes_others(tmp_path: Path) -> None:
    templates = load(tmp_path)
    assert make(templates) == make(templates)
    assert make(templates) != make(templates, seed=2)


def test_a_reworded_template_changes_only_its_own_rows(tmp_path: Path) -> None:
    before = make(load(tmp_path))
    after = make(load(tmp_path, SPEC.replace("查 {order_id}", "查 {order_id} 的 {sku}")))
    assert [a.messages == b.messages for a, b in zip(before, after, strict=True)] == [False, True, True, True, True]


def test_a_template_that_is_used_again_gets_other_values(tmp_path: Path) -> None:
    order = load(tmp_path)[0]
    first, second = make([order, order])
    assert first.messages[1] != second.messages[1]


def test_rows_are_spread_evenly_and_templates_without_slots_make_one_each(tmp_path: Path) -> None:
    chosen = spread(load(tmp_path), 10, Random(3))
    counts = Counter(template.id for template in chosen)
    assert counts["hours"] == counts["human"] == 1
    assert sorted(counts[name] for name in ("order", "stock", "late")) == [2, 3, 3]


def test_more_rows_than_the_templates_can_make_are_refused(tmp_path: Path) -> None:
    without_slots = [template for template in load(tmp_path) if not template.slots]
    with pytest.raises(UserError, match="the 2 templates make 2 rows, expected 3"):
        spread(without_slots, 3, Random(3))


def test_a_filler_without_a_second_value_is_an_error(tmp_path: Path) -> None:
    spec = SPEC.replace("Ship to {address}", "Ship to {address} or {address_2}")
    with pytest.raises(UserError, match=r"spec.yaml:8: .*\{address_2\} gave no new value"):
        load(tmp_path, spec)


FAULTS = {
    "not YAML": ("id: order\n", "id: [order\n", r"spec.yaml:\d+: not YAML"),
    "a key twice": ("language: zh\n", "language: zh\n    language: en\n", 'spec.yaml:5: not YAML: the key "language"'),
    "no templates": ("templates:", "rows:", 'spec.yaml: expected the one key "templates"'),
    "no id": ("id: order", "name: order", "spec.yaml:3: expected a template with an id"),
    "id twice": ("id: stock", "id: order", r'spec.yaml:8: .*the id "order" is already used at .*spec.yaml:3'),
    "unknown key": ("    user: 查", "    usr: 查", r'spec.yaml:3: template "order": unknown key "usr" \(did you mean'),
    "no language": (
        "    language: zh\n    user: 查",
        "    language: 7\n    user: 查",
        "spec.yaml:3: .*expected a language",
    ),
    "call and answer": (
        "    user: 查",
        "    answer: 好\n    user: 查",
        "spec.yaml:3: .*user and calls, user and answer",
    ),
    "number as text": ("user: 查 {order_id}", "user: 88213", "spec.yaml:3: .*user: expected a text, found 88213"),
    "unknown slot": ("查 {order_id}", "查 {ordr_id}", r"unknown slot \{ordr_id\} \(did you mean \"order_id\""),
    "open brace": ("查 {order_id}", "查 {order_id} {", "a brace outside a slot"),
    "slot from nowhere": ("查 {order_id}", "查订单", r"calls uses \{order_id\}, which is in no message before it"),
    "unknown tool": ("- query_order:", "- query_ordr:", r'spec.yaml:3: .*"query_ordr" is not in tools \(did you mean'),
    "unknown argument": ("query_order: {order_id:", "query_order: {id:", "spec.yaml:3: .*'order_id' is a required"),
    "wrong type": (
        'quantity: "{quantity}"',
        'quantity: "{sku}"',
        "spec.yaml:8: .*quantity: 'SKU.*not of type",
    ),
    "arguments missing": ("- transfer_to_human: {}", "- transfer_to_human", "expected a list of tool: {arguments}"),
    "unknown turn": ("- tool: {stock", "- result: {stock", "expected a turn with one key of user, calls, tool, answer"),
    "turns without result": (
        SPEC[SPEC.index("      - calls: [{query_stock") :],
        "",
        "none is a tool result",
    ),
    "result too many": (
        "      - answer: ",
        "      - tool: {}\n      - answer: ",
        "a tool result without an unanswered",
    ),
}


@pytest.mark.parametrize(("old", "new", "message"), FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_is_reported_with_its_place(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in SPEC
    with pytest.raises(UserError, match=message):
        load(tmp_path, SPEC.replace(old, new, 1))


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"spec\.yaml: no such template file"):
        load_templates(tmp_path / "spec.yaml", TOOLS, FILLERS)
