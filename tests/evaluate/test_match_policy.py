"""Scoring policies: what each rule excuses, and that the score names it."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from toolhone.evaluate.match import TurnMatch, match_turn, score
from toolhone.evaluate.values import BFCL, RULES, STRICT, Rule, respelt
from toolhone.records import (
    POLICIES,
    Example,
    Gold,
    GoldCall,
    Message,
    Prediction,
    Score,
    ScoringPolicy,
    Tool,
    ToolCall,
)


def score_of(
    value: Any, accepted: list[Any], schema: dict[str, Any], policy: ScoringPolicy, *, optional: bool = False
) -> TurnMatch:
    """The score of a call f(x=value) if these values of x are accepted."""
    tool = Tool("f", "", {"type": "object", "properties": {"x": schema}, "required": []})
    gold = Gold("calls", (GoldCall("f", {"x": accepted}, frozenset({"x"} if optional else ())),))
    return match_turn(gold, "calls", [ToolCall("f", {"x": value})], [tool], "", policy)


TEXT, WHOLE, NUMBER, FLAG = ({"type": name} for name in ("string", "integer", "number", "boolean"))
TEXTS, NUMBERS = ({"type": "array", "items": items} for items in (TEXT, NUMBER))
OBJECT, OBJECTS = {"type": "object"}, {"type": "array", "items": {"type": "object"}}


@pytest.mark.parametrize(
    ("value", "accepted", "schema", "rules"),
    [
        ("new york", ["New York"], TEXT, ("spelling",)),
        ("April 1,2024", ["April 1, 2024"], TEXT, ("spelling",)),
        ("it's", ['it"s'], TEXT, ("spelling",)),
        ("2023/06/30", ["2023-06-30"], TEXT, ("spelling",)),
        (5, [5.0], NUMBER, ()),
        (["new york"], [["New York"]], TEXTS, ("spelling",)),
        ({"a": "X y", "b": True}, [{"a": "xy", "b": 1}], OBJECT, ("python-equality", "spelling")),
        ([{"a": "B"}], [[{"a": "b"}]], OBJECTS, ("spelling",)),
        (True, [True], TEXT, ()),
        ("my_data", ["my_data"], NUMBERS, ()),
        ([1], [[1, 2], [1]], NUMBERS, ()),
    ],
)
def test_bfcl_accepts(value: Any, accepted: list[Any], schema: dict[str, Any], rules: tuple[str, ...]) -> None:
    found = score_of(value, accepted, schema, BFCL)
    assert (found.exact, found.rules) == (True, rules)
    strict = score_of(value, accepted, schema, STRICT)
    assert (strict.exact, strict.rules) == (not rules, ())


@pytest.mark.parametrize(
    ("value", "accepted", "schema"),
    [
        (5.0, [5], WHOLE),
        (1.0000001, [1.0], NUMBER),
        ([1], [[1.0]], NUMBERS),
        (" x\n", ["x"], TEXT),
        ("e\u0301", ["é"], TEXT),
    ],
)
def test_bfcl_rejects_values_that_strict_accepts(value: Any, accepted: list[Any], schema: dict[str, Any]) -> None:
    assert not score_of(value, accepted, schema, BFCL).exact
    if value != 1.0000001:
        assert score_of(value, accepted, schema, STRICT).exact


@pytest.mark.parametrize(
    ("value", "accepted", "schema"),
    [
        (True, [1], WHOLE),
        (1, [True], FLAG),
        ("5", [5], WHOLE),
        ("My_Data", ["my_data"], NUMBERS),
        ({"a": {"b": "X"}}, [{"a": {"b": "x"}}], OBJECT),
        ({"a": 1, "c": 1}, [{"a": 1}], OBJECT),
        ({}, [{"a": 1}], OBJECT),
        (["a", "b"], [["b", "a"]], TEXTS),
        (["a"], [["a", "a"]], TEXTS),
        ("", ["x"], TEXT),
        (10**400, [1.0], NUMBER),
        (None, ["x"], TEXT),
    ],
)
def test_both_policies_reject(value: Any, accepted: list[Any], schema: dict[str, Any]) -> None:
    assert not score_of(value, accepted, schema, BFCL).exact
    assert not score_of(value, accepted, schema, STRICT).exact


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("-5", "5", False),
        ("1.5", "15", False),
        ("at -5 degrees", "at 5 degrees", False),
        (".5", "5", False),
        ("$1,000.50", "$1000.50", True),
        ("3-5", "35", True),
        ("2023-01-05", "20230105", True),
        ("192.168.1.1", "19216811", True),
        ("No.5", "No 5", True),
        ("St. Louis", "st louis", True),
        ("a_b*c^d/e", "ABCDE", True),
    ],
)
def test_spelling_ignores_all_punctuation_except_a_numbers_sign_and_point(one: str, other: str, same: bool) -> None:
    assert (respelt(one) == respelt(other)) is same


@pytest.mark.parametrize(("value", "schema"), [("", TEXT), (" . ", TEXT), ([], TEXTS), ([], OBJECTS)])
def test_bfcl_accepts_an_empty_value_for_an_optional_argument(value: Any, schema: dict[str, Any]) -> None:
    accepted = {"string": ["x"], "array": [["x"]] if schema is TEXTS else [[{"a": 1}]]}[schema["type"]]
    found = score_of(value, accepted, schema, BFCL, optional=True)
    assert (found.exact, found.rules) == (True, ("empty-as-left-out",))
    assert not score_of(value, accepted, schema, BFCL).exact
    assert not score_of(value, accepted, schema, STRICT, optional=True).exact


def test_a_blank_argument_or_key_may_only_be_an_empty_text() -> None:
    tool = Tool("f", "", {"type": "object", "properties": {"x": TEXT, "y": OBJECT}, "required": []})
    gold = Gold("calls", (GoldCall("f", {"y": [{"a": 1}]}, frozenset(), frozenset({"x", "y/b"})),))

    def exact(policy: ScoringPolicy, **arguments: Any) -> bool:
        return match_turn(gold, "calls", [ToolCall("f", arguments)], [tool], "", policy).exact

    assert exact(BFCL, y={"a": 1})
    assert exact(STRICT, y={"a": 1})
    assert exact(BFCL, y={"a": 1, "b": ""}, x="")
    assert not exact(BFCL, y={"a": 1, "b": "z"})
    assert not exact(BFCL, y={"a": 1, "c": ""})
    assert not exact(BFCL, y={"a": 1}, x="z")
    assert not exact(STRICT, y={"a": 1}, x="")


def test_bfcl_requires_the_schemas_required_arguments_even_if_optional_in_gold() -> None:
    tool = Tool("f", "", {"type": "object", "properties": {"x": TEXT}, "required": ["x"]})
    gold = Gold("calls", (GoldCall("f", {"x": ["a"]}, frozenset({"x"})),))
    found = match_turn(gold, "calls", [ToolCall("f", {})], [tool], "", BFCL)
    assert not found.exact
    assert [error.fault for error in found.matches[0].errors] == ["missing"]
    assert match_turn(gold, "calls", [ToolCall("f", {})], [tool], "", STRICT).exact


def test_bfcl_requires_a_blank_argument_that_the_schema_requires() -> None:
    """As in live_multiple_507-149-4, whose gold for a required argument is only an empty text."""
    tool = Tool("f", "", {"type": "object", "properties": {"x": TEXT}, "required": ["x"]})
    gold = Gold("calls", (GoldCall("f", {}, frozenset(), frozenset({"x"})),))
    assert not match_turn(gold, "calls", [ToolCall("f", {})], [tool], "", BFCL).exact
    assert match_turn(gold, "calls", [ToolCall("f", {"x": ""})], [tool], "", BFCL).exact


def test_only_bfcl_counts_an_unreadable_answer_as_no_call() -> None:
    for status in ("malformed", "truncated", "partial"):
        assert match_turn(Gold("none"), status, [], [], "", BFCL).rules == ("unreadable-as-none",)
        assert match_turn(Gold("none"), status, [], [], "", BFCL).exact
        assert not match_turn(Gold("none"), status, [], [], "").exact
    assert match_turn(Gold("none"), "none", [], [], "", BFCL).rules == ()
    assert not match_turn(Gold("none"), "calls", [ToolCall("f", {})], [Tool("f", "", OBJECT)], "", BFCL).exact


def test_any_call_is_right_under_bfcl_if_some_call_is_expected() -> None:
    calls, tools = [ToolCall("g", {})], [Tool("f", "", OBJECT)]
    assert match_turn(Gold("any"), "calls", calls, tools, "", BFCL).rules == ("any-call",)
    assert match_turn(Gold("any"), "calls", calls, tools, "", BFCL).exact
    assert not match_turn(Gold("any"), "calls", calls, tools, "").exact
    assert not match_turn(Gold("any"), "malformed", [], tools, "", BFCL).exact


def test_a_score_names_the_rules_that_applied_and_saves_them() -> None:
    tool = Tool("f", "", {"type": "object", "properties": {"x": TEXT}})
    gold = Gold("calls", (GoldCall("f", {"x": ["New York"]}),))
    example = Example(
        id="c/1",
        conversation_id="c",
        prompt=(Message("user", "?"),),
        turn=Message("assistant", ""),
        tools=(tool,),
        gold=gold,
        where="a:1",
        gold_source=None,
        meta={},
    )
    text = '<tool_call>\n{"name": "f", "arguments": {"x": "new york"}}\n</tool_call>'
    prediction = Prediction("c/1", "m", text, "stop", 1, 1, 1.0)
    lax = score(example, prediction, "hermes", BFCL)
    assert lax.exact
    assert lax.rules == ("spelling",)
    assert Score.from_json(lax.to_json()) == lax
    assert not score(example, prediction, "hermes").exact


def test_bfcl_too_pairs_all_calls_of_one_tool_at_once() -> None:
    tool = Tool("f", "", {"type": "object", "properties": {"x": WHOLE}})
    gold = Gold("calls", (GoldCall("f", {"x": [1, 2]}), GoldCall("f", {"x": [1]})))
    calls = [ToolCall("f", {"x": 1}), ToolCall("f", {"x": 2})]
    assert match_turn(gold, "calls", calls, [tool], "", BFCL).exact
    assert match_turn(gold, "calls", calls[::-1], [tool], "", BFCL).exact


def test_policies_have_names_and_every_rule_is_explained() -> None:
    assert POLICIES == (STRICT, BFCL) == ("strict", "bfcl")
    assert set(RULES) == set(get_args(Rule))
    assert all(RULES.values())
