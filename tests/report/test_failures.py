"""Failed rows: their kinds of error, and the marks on both sides."""

from __future__ import annotations

from typing import Any

import pytest
from scored_run import made_score

from toolhone.records import ArgumentError, CallMatch, Gold, GoldCall, Score, ToolCall
from toolhone.report.failures import Argument, Call, Piece, count_kinds, failures, kinds_of_error

ORDER = GoldCall("query_order", {"order_id": ["ORD-001", "ord-001"], "detail": [True]}, frozenset({"detail"}))
STOCK = GoldCall("query_stock", {"sku": ["SKU4471"]})


def _score(**fields: Any) -> Score:
    row: dict[str, Any] = {"status": "calls", "gold": Gold("calls", (ORDER,)), "question": "帮我查订单 ORD-001"}
    return made_score(**{**row, **fields})


def _fault(fault: Any, argument: str = "order_id", found: Any = None) -> CallMatch:
    return CallMatch(0, 0, 1, (ArgumentError("query_order", argument, fault, ["ORD-001"], found),))


WRONG_TOOL = {"calls": (ToolCall("query_stock", {"sku": "1"}),), "missing_calls": (0,), "extra_calls": (0,)}


@pytest.mark.parametrize(
    ("fields", "kinds"),
    [
        ({"status": "malformed", "failure": "cut", "missing_calls": (0,)}, ("malformed",)),
        ({"status": "truncated", "missing_calls": (0,)}, ("truncated",)),
        ({"status": "malformed", "gold": Gold("none")}, ("malformed",)),
        (
            {"status": "malformed", "failure": "a call in another format (LFM2 <|tool_call_start|>)"},
            ("malformed", "call in another format"),
        ),
        ({"status": "none", "missing_calls": (0,)}, ("under-call",)),
        ({"status": "none", "gold": Gold("any")}, ("under-call",)),
        ({"calls": (ToolCall("query_stock", {}),), "gold": Gold("none"), "extra_calls": (0,)}, ("over-call",)),
        ({"calls": (ToolCall("query_stock", {}),), "gold": Gold("any")}, ("invalid arguments",)),
        ({"calls": (ToolCall("get_order", {}),), "gold": Gold("any")}, ("invented tool",)),
        (WRONG_TOOL, ("wrong tool",)),
        ({**WRONG_TOOL, "calls": (ToolCall("get_order", {}),)}, ("wrong tool", "invented tool")),
        (
            {**WRONG_TOOL, "gold": Gold("calls", (ORDER, STOCK)), "missing_calls": (0, 1)},
            ("wrong tool", "missing call"),
        ),
        (
            {"gold": Gold("calls", (ORDER, STOCK)), "matches": (CallMatch(0, 0, 1, ()),), "missing_calls": (1,)},
            ("missing call",),
        ),
        ({"matches": (CallMatch(0, 0, 1, ()),), "extra_calls": (1,)}, ("extra call",)),
        ({"status": "partial", "matches": (CallMatch(0, 0, 1, ()),)}, ("partial",)),
        ({"matches": (_fault("missing"),)}, ("missing argument",)),
        ({"matches": (_fault("invented", "x", 1),)}, ("invented argument",)),
        ({"matches": (_fault("wrong", found="ORD-002"),)}, ("wrong value",)),
    ],
)
def test_kinds_of_error_name_every_error_of_a_row(fields: dict[str, Any], kinds: tuple[str, ...]) -> None:
    assert kinds_of_error(_score(**fields)) == kinds


def test_a_wrong_argument_is_marked_on_both_sides_and_a_right_one_on_neither() -> None:
    call = ToolCall("query_order", {"order_id": "ORD-002", "detail": True})
    [row] = failures([_score(calls=(call,), matches=(_fault("wrong", found="ORD-002"),))], {})
    [gold], [prediction] = row.gold, row.prediction
    nearest = (Piece('"ORD-00', False), Piece("1", True), Piece('"', False))
    assert gold.arguments == (
        Argument("order_id", (nearest, (Piece('"ord-001"', False),)), False, "expected"),
        Argument("detail", ((Piece("true", False),),), True, ""),
    )
    assert prediction.arguments == (
        Argument("order_id", ((Piece('"ORD-00', False), Piece("2", True), Piece('"', False)),), False, "wrong"),
        Argument("detail", ((Piece("true", False),),), False, ""),
    )


def test_a_missing_argument_is_marked_in_the_gold_and_an_invented_one_in_the_prediction() -> None:
    missing = ArgumentError("query_order", "order_id", "missing", ["ORD-001"], None)
    invented = ArgumentError("query_order", "lang", "invented", [], "zh")
    match = CallMatch(0, 0, 1, (missing, invented))
    [row] = failures([_score(calls=(ToolCall("query_order", {"lang": "zh"}),), matches=(match,))], {})
    assert [a.mark for a in row.gold[0].arguments] == ["missing", ""]
    assert [a.mark for a in row.prediction[0].arguments] == ["invented"]


def test_marks_follow_the_match_and_not_the_order_of_the_calls() -> None:
    gold = Gold("calls", (ORDER, GoldCall("query_order", {"order_id": ["ORD-009"]})))
    calls = (ToolCall("query_order", {"order_id": "ORD-009"}), ToolCall("query_order", {"order_id": "x"}))
    error = ArgumentError("query_order", "order_id", "wrong", ["ORD-001"], "x")
    [row] = failures(
        [_score(gold=gold, calls=calls, matches=(CallMatch(0, 1, 0, (error,)), CallMatch(1, 0, 1, ())))], {}
    )
    assert [call.arguments[0].mark for call in row.gold] == ["expected", ""]
    assert [call.arguments[0].mark for call in row.prediction] == ["", "wrong"]


def test_unmatched_calls_and_calls_to_unknown_tools_are_marked() -> None:
    [row] = failures(
        [_score(**{**WRONG_TOOL, "calls": (*WRONG_TOOL["calls"], ToolCall("hack", {})), "extra_calls": (0, 1)})], {}
    )
    assert row.gold[0].mark == "not called"
    assert [(call.name, call.mark) for call in row.prediction] == [
        ("query_stock", "not expected"),
        ("hack", "no such tool"),
    ]
    assert row.tools == ("query_order", "query_stock", "hack")


def test_exact_rows_are_left_out_and_the_others_keep_their_order() -> None:
    rows = failures([_score(id="a"), _score(id="b", exact=True), _score(id="c")], {})
    assert [(row.number, row.id) for row in rows] == [(1, "a"), (2, "c")]


def test_a_row_that_the_first_model_got_right_is_a_regression() -> None:
    base = {"a": _score(id="a", exact=True, text="A"), "b": _score(id="b", text="B")}
    other = {"a": _score(id="a"), "b": _score(id="b", exact=True), "c": _score(id="c", exact=True)}
    rows = failures([_score(id="a"), _score(id="b"), _score(id="c")], {"base": base, "other": other})
    assert [row.regression for row in rows] == [True, False, False]
    assert rows[0].others == (("base", True, "A"), ("other", False, ""))
    assert rows[2].others == (("other", True, ""),)


def test_a_row_with_two_kinds_of_error_counts_in_both() -> None:
    rows = failures([_score(**{**WRONG_TOOL, "calls": (ToolCall("hack", {}),)}), _score(**WRONG_TOOL)], {})
    assert count_kinds(rows) == {"wrong tool": 2, "invented tool": 1}


def test_the_gold_text_names_accepted_alternatives_and_optional_arguments() -> None:
    [row] = failures([_score(gold=Gold("calls", (ORDER, STOCK)))], {})
    assert row.gold_text == (
        'query_order(order_id="ORD-001" or "ord-001", detail=true or left out)\nquery_stock(sku="SKU4471")'
    )
    [none] = failures([_score(gold=Gold("none"))], {})
    assert none.gold_text == "no call"


def test_an_invisible_difference_in_a_value_is_shown_as_an_escape() -> None:
    call = ToolCall("query_order", {"order_id": "ORD-001\u200b"})
    [row] = failures([_score(calls=(call,), matches=(_fault("wrong"),))], {})
    value = (Piece('"ORD-001', False), Piece("\\u200b", True), Piece('"', False))
    assert row.prediction == (Call("query_order", (Argument("order_id", (value,), False, "wrong"),), ""),)
