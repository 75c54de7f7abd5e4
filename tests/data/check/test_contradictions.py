"""Contradictions between prompts that differ only in their values."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Row = dict[str, Any]
Check = Callable[..., dict[str, Any]]

SHIPPED = Path(__file__).parents[3] / "data" / "customer_service"
ARGUMENT = {"query_order": "order_id", "query_logistics": "tracking_no", "transfer_to_human": None}


def turn(name: str | None, value: Any = None) -> Row:
    if name is None:
        return {"role": "assistant", "content": "Which one?"}
    arguments = {} if ARGUMENT[name] is None else {ARGUMENT[name]: value}
    return {
        "role": "assistant",
        "tool_calls": [{"id": "c", "function": {"name": name, "arguments": json.dumps(arguments)}}],
    }


def row(said: str, name: str | None, value: Any = None, before: tuple[Row, ...] = (), **more: Any) -> Row:
    return {"messages": [*before, {"role": "user", "content": said}, turn(name, value)], **more}


def contradictions(report: dict[str, Any]) -> list[tuple[str, str]]:
    found = [each for each in report["findings"] if each["rule"] == "contradiction"]
    assert {each["severity"] for each in found} <= {"warning"}
    return [(each["where"].rpartition(":")[2], each["message"]) for each in found]


def test_the_same_words_with_another_code_and_another_tool_contradict(run_check: Check, tmp_path: Path) -> None:
    rows = [row("track ORD-1", "query_order", "ORD-1"), row("Track  ORD-22", "query_logistics", "ORD-22")]
    (found,) = contradictions(run_check(rows, near=True))
    assert found == (
        "2",
        "message 1: query_logistics(tracking_no), but after the same words with other values the turn at "
        f"{tmp_path / 'rows.jsonl'}:1 has query_order(order_id)",
    )
    assert contradictions(run_check(rows)) == []


def test_the_majority_is_right_wherever_its_rows_are(run_check: Check) -> None:
    rows = [row(f"track ORD-{n}", "query_order", f"ORD-{n}") for n in range(4)]
    rows.insert(0, row("track ORD-9", None))
    ((line, text),) = contradictions(run_check(rows, near=True))
    assert line == "1"
    assert text.startswith("message 1: no call, but after the same words with other values 4 turns such as at ")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("is 3 Elm Street right for ORD-1", "3 Elm Street"), ("is 9 Oak Road right for ORD-1", "9 Oak Road")),
        (("帮我查一下订单张三丰", "张三丰"), ("帮我查一下订单李四", "李四")),
        (("what about 2026-01-31?", "x"), ("what about 2027-12-01?", "y")),
        (("id 3f2ac1 please", "3f2ac1"), ("id 77ad0b please", "77ad0b")),
    ],
)
def test_copied_texts_dates_and_codes_are_masked(
    one: tuple[str, str], other: tuple[str, str], run_check: Check
) -> None:
    rows = [row(one[0], "query_order", one[1]), row(other[0], "query_logistics", other[1])]
    assert len(contradictions(run_check(rows, near=True))) == 1


@pytest.mark.parametrize(
    "other",
    [
        row("track SF-2", "query_logistics", "SF-2"),  # another kind of code
        row("please track ORD-2", "query_logistics", "ORD-2"),  # other words
        row("track ORD-2", "query_order", "ORD-2"),  # the same decision
        row("track ORD-2", "query_logistics", "ORD-2", tools=[{"name": "query_logistics"}]),  # other tools
        row("track ORD-2", None, before=({"role": "system", "content": "Never call."},)),
        {"messages": [{"role": "user", "content": "track ORD-2"}, {**turn(None), "weight": 0}]},
        row("track ORD-1", None),  # the same prompt: a conflict
    ],
)
def test_prompts_that_differ_in_more_than_values_do_not_contradict(other: Row, run_check: Check) -> None:
    assert contradictions(run_check([row("track ORD-1", "query_order", "ORD-1"), other], near=True)) == []


def test_the_order_of_the_tools_does_not_matter(run_check: Check) -> None:
    tools = [{"name": "query_order"}, {"name": "query_logistics"}]
    rows = [
        row("track ORD-1", "query_order", "ORD-1", tools=tools),
        row("track ORD-2", "query_logistics", "ORD-2", tools=tools[::-1]),
    ]
    assert len(contradictions(run_check(rows, near=True))) == 1


def asked(question: str) -> tuple[Row, ...]:
    return ({"role": "user", "content": question}, {"role": "assistant", "content": "Which number?", "weight": 0})


def test_a_bare_value_is_compared_with_all_that_precedes_it(run_check: Check) -> None:
    rows = [
        row("ORD-1", "query_order", "ORD-1", before=asked("how far is my order")),
        row("ORD-2", "query_logistics", "ORD-2", before=asked("how far is my parcel")),
        row("invoice-1", "query_order", "invoice-1", before=asked("my order")),
        row("invoice-2", "query_logistics", "invoice-2", before=asked("my parcel")),
        row("it is ORD-3 then", "query_order", "ORD-3", before=asked("hello")),
        row("it is ORD-4 then", "query_logistics", "ORD-4", before=asked("good morning")),
    ]
    assert [line for line, _ in contradictions(run_check(rows, near=True))] == ["6"]


def test_numbers_in_a_result_may_decide(run_check: Check) -> None:
    def after(result: str, name: str | None) -> Row:
        before = ({"role": "user", "content": "send ORD-1"}, turn("query_order", "ORD-1"))
        result_message = {"role": "tool", "tool_call_id": "c", "content": result}
        return {"messages": [*before, result_message, turn(name, "ORD-1")]}

    rows = [after('{"stock": 5}', "query_logistics"), after('{"stock": 0}', None)]
    assert contradictions(run_check(rows, near=True)) == []


def shipped_rows() -> list[Row]:
    return [json.loads(line) for line in (SHIPPED / "train.jsonl").read_text(encoding="utf-8").splitlines()]


def with_other_numbers(original: Row, chance: random.Random, id: str) -> Row:
    """The row with other digits in each number of three and more digits."""
    made: dict[str, str] = {}

    def other(found: re.Match[str]) -> str:
        number = found.group()
        return made.setdefault(number, str(chance.randrange(10 ** (len(number) - 1), 10 ** len(number))))

    copy: Row = json.loads(json.dumps(original))
    for message in copy["messages"]:
        message["content"] = message.get("content") and re.sub(r"\d{3,}", other, message["content"])
        for call in message.get("tool_calls", ()):
            call["function"]["arguments"] = re.sub(r"\d{3,}", other, call["function"]["arguments"])
    return {**copy, "id": id}


def test_the_shipped_rows_have_no_contradiction(run_check: Check) -> None:
    assert contradictions(run_check(shipped_rows(), near=True)) == []


def test_rows_of_repeated_wordings_that_call_another_tool_are_found(run_check: Check) -> None:
    chance, rows = random.Random(1), shipped_rows()[:150]
    rows = [
        with_other_numbers(one, chance, f"{one['id']}-{copy}") if copy else one for one in rows for copy in range(5)
    ]
    planted: set[str] = set()
    for line in chance.sample(range(len(rows)), len(rows) // 20):
        calls = [call["function"] for message in rows[line]["messages"] for call in message.get("tool_calls", ())]
        if calls:
            call = chance.choice(calls)
            call["name"] = "query_stock" if call["name"] == "query_order" else "query_order"
            planted.add(str(line + 1))
    found = {line for line, _ in contradictions(run_check(rows, near=True))}
    assert len(found & planted) >= 0.8 * len(planted)
    assert len(found & planted) >= 0.9 * len(found)
