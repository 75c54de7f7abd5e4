"""Scoring predictions case by case, and the matching compared with every possible matching."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolhone.data.read import examples, read_conversations
from toolhone.errors import UserError
from toolhone.evaluate.match import gold_faults, match_turn, score
from toolhone.evaluate.values import BFCL
from toolhone.jsonl import read_jsonl
from toolhone.records import (
    ArgumentError,
    CallMatch,
    Example,
    Gold,
    GoldCall,
    Message,
    Prediction,
    Repaired,
    Score,
    Tool,
    ToolCall,
)

CONTRACTS = Path(__file__).parent.parent / "fixtures" / "contracts"


def tool(name: str, **properties: dict[str, Any]) -> Tool:
    return Tool(name, "", {"type": "object", "properties": properties})


TOOLS = (
    tool("move", x={"type": "number"}, y={"type": "integer"}, fast={"type": ["boolean", "null"]}),
    tool("say", text={"type": "string"}, tone={"enum": ["warm", "cold"]}),
    tool("stop"),
    tool("geo.find", where={"anyOf": [{"type": "string"}, {"type": "object", "properties": {"lat": {}}}]}),
)


def gold(*calls: GoldCall) -> Gold:
    return Gold("calls", calls) if calls else Gold("none")


def expect(name: str, *, optional: tuple[str, ...] = (), **arguments: list[Any]) -> GoldCall:
    return GoldCall(name, arguments, frozenset(optional))


def example(expected: Gold, tools: tuple[Tool, ...] = TOOLS, **fields: Any) -> Example:
    given = {
        "id": "c/1",
        "conversation_id": "c",
        "prompt": (Message("user", "Do it"),),
        "turn": Message("assistant", ""),
        "where": "test.jsonl:1",
        "gold_source": None,
        "meta": {},
    }
    return Example(**{**given, "gold": expected, "tools": tools, **fields})


def said(text: str, finish_reason: Any = "stop") -> Prediction:
    return Prediction("c/1", "tuned", text, finish_reason, 10, 5, 1.5)


def call(name: str, **arguments: Any) -> ToolCall:
    return ToolCall(name, arguments)


def written(*calls: ToolCall) -> str:
    rows = (json.dumps({"name": c.name, "arguments": c.arguments}, ensure_ascii=False) for c in calls)
    return "\n".join(f"<tool_call>\n{row}\n</tool_call>" for row in rows)


def scored(expected: Gold, *calls: ToolCall) -> Score:
    return score(example(expected), said(written(*calls)), "hermes")


def exact(expected: Gold, *calls: ToolCall) -> bool:
    return scored(expected, *calls).exact


# Which call is which


def test_the_order_of_arguments_does_not_matter() -> None:
    assert exact(gold(expect("move", x=[1], y=[2])), call("move", y=2, x=1))


def test_parallel_calls_match_in_any_order() -> None:
    expected = gold(expect("move", y=[1]), expect("say", text=["a"]), expect("move", y=[2]))
    for calls in itertools.permutations([call("move", y=1), call("say", text="a"), call("move", y=2)]):
        assert exact(expected, *calls)


def test_a_gold_call_is_paired_with_the_only_call_that_fits_it() -> None:
    either, one = expect("move", y=[1, 2]), expect("move", y=[1])
    for expected in (gold(either, one), gold(one, either)):
        assert exact(expected, call("move", y=1), call("move", y=2))
        assert exact(expected, call("move", y=2), call("move", y=1))
        assert not exact(expected, call("move", y=2), call("move", y=2))


def test_two_identical_calls_need_two_identical_calls() -> None:
    expected = gold(expect("say", text=["a"]), expect("say", text=["a"]))
    assert exact(expected, call("say", text="a"), call("say", text="a"))
    assert scored(expected, call("say", text="a")).missing_calls == (1,)
    assert scored(expected, *[call("say", text="a")] * 3).extra_calls == (2,)


def test_an_extra_or_missing_call_makes_the_names_wrong_too() -> None:
    expected = gold(expect("stop"), expect("say", text=["a"]))
    missing = scored(expected, call("say", text="a"))
    assert (missing.missing_calls, missing.extra_calls, missing.names_right, missing.exact) == ((0,), (), False, False)
    extra = scored(gold(expect("stop")), call("say", text="a"), call("stop"))
    assert (extra.missing_calls, extra.extra_calls, extra.names_right, extra.exact) == ((), (0,), False, False)


def test_right_arguments_under_a_wrong_name_do_not_match() -> None:
    found = scored(gold(expect("move", y=[1])), call("Move", y=1))
    assert (found.matches, found.missing_calls, found.extra_calls, found.names_right) == ((), (0,), (0,), False)


def test_one_fully_right_call_counts_more_than_many_right_arguments() -> None:
    rich = expect("move", x=[1], y=[2], fast=[True])
    poor = expect("move", y=[2])
    # Paired crosswise, two arguments are right but no call. Paired in order, the gold with one argument is right.
    found = scored(gold(rich, poor), call("move", y=2), call("move", x=1, y=2))
    assert [(m.gold, m.predicted, m.right) for m in found.matches] == [(0, 1, False), (1, 0, True)]


def test_ties_pair_calls_in_order() -> None:
    same = [expect("say", text=["a"])] * 3
    assert [m.predicted for m in scored(gold(*same), *[call("say", text="a")] * 3).matches] == [0, 1, 2]
    assert [m.predicted for m in scored(gold(*same[:2]), *[call("say", text="b")] * 3).matches] == [0, 1]


# Which arguments are right


@pytest.mark.parametrize(
    ("accepted", "found", "right"),
    [
        ({"x": [5]}, {"x": 5.0}, True),
        ({"y": [5]}, {"y": 5.0}, True),
        ({"y": [5]}, {"y": 5.5}, False),
        ({"y": [5]}, {"y": "5"}, False),
        ({"y": [-5]}, {"y": 5}, False),
        ({"x": [1.5]}, {"x": 15}, False),
        ({"x": [1]}, {"x": True}, False),
        ({"fast": [None]}, {"fast": None}, True),
        ({"fast": [True]}, {"fast": None}, False),
        ({"fast": [True, None]}, {"fast": None}, True),
    ],
)
def test_values_are_compared_by_their_type(accepted: dict[str, Any], found: dict[str, Any], right: bool) -> None:
    assert exact(gold(expect("move", **accepted)), call("move", **found)) is right


def test_a_text_is_right_in_nfc_or_nfd_and_escaped_or_not() -> None:
    expected = gold(expect("say", text=["café"]))
    assert exact(expected, call("say", text="cafe\u0301"))
    escaped = r'<tool_call>{"name": "say", "arguments": {"text": "caf\u00e9"}}</tool_call>'
    assert score(example(expected), said(escaped), "hermes").exact


def test_any_accepted_value_is_right_and_an_enum_value_must_match_exactly() -> None:
    expected = gold(expect("say", text=["hi", "hello"], tone=["warm"]))
    assert exact(expected, call("say", text="hello", tone="warm"))
    assert not exact(expected, call("say", text="hello", tone="Warm"))


def test_dotted_names_and_nested_any_of_are_compared_like_others() -> None:
    expected = gold(expect("geo.find", where=[{"lat": [1, 2.5]}, "here"]))
    assert exact(expected, call("geo.find", where={"lat": [1.0, 2.5]}))
    assert exact(expected, call("geo.find", where="here"))
    assert not exact(expected, call("geo.find", where={"lat": [2.5, 1]}))


def test_missing_invented_and_wrong_arguments_are_distinguished() -> None:
    (match,) = scored(gold(expect("move", x=[1], y=[2, 3])), call("move", y=4, z=None)).matches
    assert match == CallMatch(
        0,
        0,
        0,
        (
            ArgumentError("move", "x", "missing", [1], None),
            ArgumentError("move", "y", "wrong", [2, 3], 4),
            ArgumentError("move", "z", "invented", [], None),
        ),
    )


def test_only_an_optional_argument_may_be_left_out() -> None:
    expected = gold(expect("move", optional=("fast",), x=[1], fast=[True]))
    assert exact(expected, call("move", x=1))
    assert exact(expected, call("move", x=1, fast=True))
    assert not exact(expected, call("move", x=1, fast=False))
    assert not exact(expected, call("move", fast=True))


def test_an_explicit_null_differs_from_an_omitted_argument() -> None:
    assert not exact(gold(expect("move", optional=("fast",), x=[1], fast=[True])), call("move", x=1, fast=None))
    assert not exact(gold(expect("move", x=[1])), call("move", x=1, fast=None))
    assert not exact(gold(expect("move", x=[1], fast=[None])), call("move", x=1))


def test_a_schema_default_excuses_neither_an_omitted_nor_an_added_argument() -> None:
    with_default = (tool("stock", sku={"type": "string"}, quantity={"type": "integer", "default": 1}),)
    one = example(gold(expect("stock", sku=["a"])), with_default)
    assert not score(one, said(written(call("stock", sku="a", quantity=1))), "hermes").exact
    two = example(gold(expect("stock", sku=["a"], quantity=[1])), with_default)
    assert not score(two, said(written(call("stock", sku="a"))), "hermes").exact


def test_a_call_without_arguments_is_right_with_an_empty_object_or_no_key() -> None:
    for text in ('{"name": "stop", "arguments": {}}', '{"name": "stop"}'):
        assert score(example(gold(expect("stop"))), said(f"<tool_call>{text}</tool_call>"), "hermes").exact


# Which status is right


@pytest.mark.parametrize("text", ["您好", "", "[]"])
def test_prose_is_right_if_no_call_is_expected(text: str) -> None:
    found = score(example(gold()), said(text), "hermes")
    assert (found.status, found.names_right, found.exact, found.schema_valid) == ("none", True, True, None)


@pytest.mark.parametrize(
    "text", ["<tool_call>{x}</tool_call>", '{"name": "stop", "arguments": {}}', written(call("stop"))]
)
def test_any_call_even_a_malformed_one_is_wrong_if_none_is_expected(text: str) -> None:
    found = score(example(gold()), said(text), "hermes")
    assert (found.names_right, found.exact) == (False, False)


def test_a_truncated_call_is_wrong_if_none_is_expected() -> None:
    found = score(example(gold()), said('<tool_call>{"name": "st', "length"), "hermes")
    assert (found.status, found.names_right, found.exact) == ("truncated", False, False)


def test_a_good_call_followed_by_a_broken_one_is_wrong_even_if_it_matches() -> None:
    found = score(example(gold(expect("stop"))), said(written(call("stop")) + "<tool_call>{</tool_call>"), "hermes")
    assert (found.status, found.names_right, found.exact) == ("partial", False, False)
    assert found.matches[0].right


def test_prose_beside_the_right_call_does_not_matter() -> None:
    text = f"<think>stop?</think>\nOne moment.\n{written(call('stop'))}\nDone."
    assert score(example(gold(expect("stop"))), said(text), "hermes").exact


def test_an_offered_call_is_right_if_any_call_is_expected_and_exact_if_it_is_valid() -> None:
    expected = Gold("any")
    good, invalid, invented = call("say", text="a"), call("say", text=5), call("shout")
    assert scored(expected, good, good).exact
    assert (scored(expected, invalid).names_right, scored(expected, invalid).exact) == (True, False)
    assert (scored(expected, invented).names_right, scored(expected, invented).exact) == (False, False)
    assert not scored(expected).names_right
    assert (scored(expected, good).missing_calls, scored(expected, good).extra_calls) == ((), ())


def test_schema_valid_requires_every_call_to_be_offered_and_valid() -> None:
    expected = gold(expect("say", text=["a"]))
    assert scored(expected, call("say", text="b")).schema_valid is True
    assert scored(expected, call("say", text="a"), call("say", text=1)).schema_valid is False
    assert scored(expected, call("say", text="a"), call("shout")).schema_valid is False
    assert scored(expected).schema_valid is None


def test_llama3_text_is_scored_like_hermes_text() -> None:
    text = '{"name": "say", "parameters": {"text": "a;b}"}}; {"name": "stop", "arguments": {}}<|eom_id|>'
    assert score(example(gold(expect("stop"), expect("say", text=["a;b}"]))), said(text), "llama3").exact


def test_a_broken_tool_schema_is_an_error_that_names_the_row() -> None:
    broken = (Tool("f", "", {"type": "object", "properties": {"a": {"type": "float"}}}),)
    with pytest.raises(UserError, match=r'^test.jsonl:1: tool "f"'):
        score(example(gold(expect("f")), broken), said(written(call("f"))), "hermes")


def test_a_prediction_of_another_example_is_refused() -> None:
    with pytest.raises(UserError, match=r"^test.jsonl:1: the prediction of c/1 was compared with c/3"):
        score(example(gold(), id="c/3"), said(""), "hermes")


def test_a_score_records_whether_its_turn_is_the_first_of_the_conversation() -> None:
    before = (Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    assert score(example(gold(), meta={"language": "en"}), said(""), "hermes").meta == {
        "language": "en",
        "turn": "first",
    }
    later = score(example(gold(), prompt=before), said(""), "hermes")
    assert (later.meta["turn"], later.question) == ("later", "c")


# The matching itself

ACCEPTED = st.lists(st.integers(0, 2), min_size=1, max_size=2, unique=True)
GOLD_CALLS = st.lists(
    st.builds(
        GoldCall,
        st.sampled_from(["f", "g"]),
        st.dictionaries(st.sampled_from("ab"), ACCEPTED, max_size=2),
        st.frozensets(st.sampled_from("ab")),
    ),
    max_size=4,
)
CALLS = st.lists(
    st.builds(
        ToolCall, st.sampled_from(["f", "g"]), st.dictionaries(st.sampled_from("abc"), st.integers(0, 2), max_size=3)
    ),
    max_size=4,
)


def worth(matches: tuple[CallMatch, ...]) -> tuple[int, int, int, int]:
    """Counts pairs, fully right pairs, right arguments and (negative) wrong arguments; higher is better."""
    errors = sum(len(match.errors) for match in matches)
    return len(matches), sum(m.right for m in matches), sum(m.arguments_right for m in matches), -errors


def matches(expected: list[GoldCall], calls: list[ToolCall]) -> tuple[CallMatch, ...]:
    return match_turn(gold(*expected), "calls", calls, (), "").matches


@given(GOLD_CALLS, CALLS)
def test_no_other_matching_scores_better(expected: list[GoldCall], calls: list[ToolCall]) -> None:
    def all_matchings(rows: list[int], free: frozenset[int]) -> Any:
        if not rows:
            yield ()
            return
        yield from all_matchings(rows[1:], free)
        for j in free:
            if calls[j].name == expected[rows[0]].name:
                (pair,) = matches([expected[rows[0]]], [calls[j]])
                for rest in all_matchings(rows[1:], free - {j}):
                    yield (pair, *rest)

    best = max(map(worth, all_matchings(list(range(len(expected))), frozenset(range(len(calls))))))
    assert worth(matches(expected, calls)) == best


@given(GOLD_CALLS, CALLS, st.randoms())
def test_the_order_of_gold_and_calls_does_not_change_the_score(
    expected: list[GoldCall], calls: list[ToolCall], random: Any
) -> None:
    tools = (tool("f"), tool("g"))
    before = match_turn(gold(*expected), "calls", calls, tools, "")
    shuffled_gold, shuffled_calls = random.sample(expected, len(expected)), random.sample(calls, len(calls))
    after = match_turn(gold(*shuffled_gold), "calls", shuffled_calls, tools, "")
    assert worth(before.matches) == worth(after.matches)
    assert (before.names_right, before.exact, before.schema_valid) == (
        after.names_right,
        after.exact,
        after.schema_valid,
    )


@given(GOLD_CALLS)
def test_gold_is_exact_if_it_is_the_answer(expected: list[GoldCall]) -> None:
    row = example(gold(*expected), (tool("f"), tool("g")))
    assert gold_faults([row]) == {}


# Gold that no call satisfies


@pytest.mark.parametrize(
    ("expected", "reason"),
    [
        (gold(expect("shout")), 'tool "shout" is expected, but not offered'),
        (gold(expect("say", text=[])), '"say": no value of "text" is accepted'),
        (gold(expect("move", y=[5.5])), '"move": the accepted value of "y" is not equal to itself under the schema'),
        (gold(expect("say", text=[5])), '"say": the expected arguments do not satisfy the tool\'s schema'),
        (Gold("calls"), "calls are expected, but none is listed"),
    ],
)
def test_gold_that_no_call_satisfies_is_reported_with_the_reason(expected: Gold, reason: str) -> None:
    rows = [example(gold(), id="a/1"), example(expected, id="b/1"), example(gold(expect("stop")), id="c/1")]
    assert gold_faults(rows) == {"b/1": reason}


def test_gold_that_expects_any_call_needs_tools() -> None:
    faults = gold_faults([example(Gold("any"), ()), example(Gold("any"))])
    assert faults == {"c/1": "some call is expected, but no tool is offered"}


# Repairs


REPAIRABLE = """<tool_call>{'name': 'move', 'arguments': {'x': 2, 'fast': True}}</tool_call>"""


def test_a_text_that_strict_parsing_rejects_is_also_scored_with_repairs() -> None:
    asked = example(gold(expect("move", x=[2], fast=[True])))
    found = score(asked, said(REPAIRABLE), "hermes")
    assert (found.status, found.calls, found.names_right, found.exact) == ("malformed", (), False, False)
    assert found.repaired == Repaired({"python_literals": 1}, "calls", True, True)
    other = score(example(gold(expect("move", x=[3], fast=[True]))), said(REPAIRABLE), "hermes")
    assert other.repaired == Repaired({"python_literals": 1}, "calls", True, False)


def test_a_call_that_only_repairs_can_read_is_wrong_if_none_is_expected() -> None:
    found = score(example(Gold("none")), said(REPAIRABLE), "hermes", BFCL)
    assert (found.exact, found.rules) == (True, ("unreadable-as-none",))
    assert found.repaired == Repaired({"python_literals": 1}, "calls", False, False)


def test_repairs_are_recorded_only_for_texts_that_strict_parsing_rejects() -> None:
    asked = example(gold(expect("stop")))
    assert score(asked, said("<tool_call>{"), "hermes").repaired == Repaired({}, "malformed", False, False)
    assert score(asked, said(written(call("stop"))), "hermes").repaired is None
    assert score(asked, said("No."), "hermes").repaired is None


# The file


def contract_score() -> Score:
    """The contracts' prediction, which makes one of the two calls, scored against the contracts' conversation."""
    (conversation,) = read_conversations(CONTRACTS / "conversation.jsonl")
    ((_, row),) = read_jsonl(CONTRACTS / "prediction.jsonl")
    prediction = Prediction.from_json(row)
    (asked,) = [turn for turn in examples(conversation) if turn.id == prediction.id]
    return score(asked, prediction, "hermes")


def test_scoring_the_contracts_prediction_gives_the_contracts_score() -> None:
    made = contract_score()
    line = json.dumps(made.to_json(), ensure_ascii=False) + "\n"
    assert line == (CONTRACTS / "score.jsonl").read_text(encoding="utf-8")
    assert (made.missing_calls, made.names_right, made.exact) == ((1,), False, False)


def test_a_score_reads_back_as_it_was_written() -> None:
    ((_, row),) = read_jsonl(CONTRACTS / "score.jsonl")
    assert Score.from_json(row) == contract_score()
    found = scored(gold(expect("move", optional=("y", "fast"), x=[1], y=[2], fast=[True])), call("move", x=2, z=[None]))
    assert Score.from_json(json.loads(json.dumps(found.to_json()))) == found
    assert Score.from_json(found.to_json()) == found
    repairable = score(example(gold(expect("move", x=[2]))), said(REPAIRABLE), "hermes")
    assert repairable.repaired is not None
    assert Score.from_json(json.loads(json.dumps(repairable.to_json()))) == repairable


def test_a_score_written_before_repairs_were_recorded_can_be_read() -> None:
    ((_, row),) = read_jsonl(CONTRACTS / "score.jsonl")
    del row["repaired"]
    assert Score.from_json(row) == contract_score()
