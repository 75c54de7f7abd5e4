"""The rules of thumb, the verdict, and which inputs would change it: cases by hand, and properties of all cases."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from economics.conftest import cases, course, inputs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from toolhone.economics.advice import Flip, Side, criteria, decide, error_share_of_saving, flips
from toolhone.economics.inputs import Inputs, Task
from toolhone.economics.options import break_even_calls, costs, escalation_limit, options


def side_of(name: str, case: Inputs) -> Side:
    return next(rule.side for rule in criteria(case) if rule.name == name)


@pytest.mark.parametrize(
    ("calls", "side"), [(999, "against"), (1_000, "between"), (10_000, "between"), (10_001, "for")]
)
def test_calls_a_day_speak_for_tuning_above_10_000_and_against_it_below_1_000(calls: float, side: Side) -> None:
    assert side_of("calls a day", inputs(calls_per_day=float(calls))) == side


@pytest.mark.parametrize(("count", "side"), [(49, "against"), (50, "between"), (499, "between"), (500, "for")])
def test_examples_speak_for_tuning_from_500_and_against_it_below_50(count: int, side: Side) -> None:
    assert side_of("good examples", inputs(examples=count)) == side


@pytest.mark.parametrize(("task", "side"), [("patterned", "for"), ("mixed", "between"), ("reasoning", "against")])
def test_each_task_has_its_side(task: Task, side: Side) -> None:
    assert side_of("task", inputs(task=task)) == side


def test_the_examples_rule_says_how_many_are_missing_or_how_precise_a_test_is() -> None:
    says = {count: {entry.name: entry.says for entry in criteria(inputs(examples=count))} for count in (20, 100)}
    assert says[20]["good examples"].endswith("label 30 more first")
    # 20 held out of 100: 1.96 * sqrt(0.09 / 20) is 13 points.
    assert "20 held out measure it to within 13 points" in says[100]["good examples"]


def test_the_cost_of_errors_as_a_share_of_the_saving_by_hand() -> None:
    # $0.003 beside $48 a day for 100,000 calls and $500 a month; 5 points more wrong at 1 cent.
    case = inputs(upkeep_usd_per_month=0.0)
    assert error_share_of_saving(case) == pytest.approx(0.05 * 0.01 / (0.003 - 0.00048))


@pytest.mark.parametrize(
    ("error_usd", "side"), [(0.0, "for"), (0.0199, "for"), (0.0201, "between"), (0.0399, "between"), (0.041, "against")]
)
def test_errors_are_tolerable_up_to_half_of_the_saving(error_usd: float, side: Side) -> None:
    # A saving of $0.002 a call and 5 points more wrong answers: half of it is lost at 2 cents, all at 4.
    case = inputs(small_call_usd=0.001, upkeep_usd_per_month=0.0, error_usd=error_usd)
    found = {entry.name: entry for entry in criteria(case)}["cost of errors"]
    assert (found.side, found.veto) == (side, False)


def test_without_a_saving_the_cost_of_errors_speaks_against_tuning_without_a_veto() -> None:
    case = inputs(small_call_usd=0.004)
    found = {entry.name: entry for entry in criteria(case)}["cost of errors"]
    assert (found.value, found.side) == ("no saving", "against")
    assert decide(case).vetoed_by == ()


def test_the_option_with_the_lowest_total_wins(plain: Inputs) -> None:
    totals = {option: costs(plain, option).total_usd for option in options(plain)}
    assert decide(plain).option == min(totals, key=lambda option: totals[option])


@given(cases)
def test_no_option_within_the_limits_is_cheaper_than_the_chosen_one(case: Inputs) -> None:
    decision = decide(case)
    fit = [option for option in options(case) if not costs(case, option).short_of]
    if decision.vetoed_by:
        assert decision.answer == "stay"
        fit = [option for option in fit if option in ("api", "cheap")]
    for option in fit:
        assert costs(case, decision.option).total_usd <= costs(case, option).total_usd


@pytest.mark.parametrize(
    ("change", "name"),
    [({"calls_per_day": 999.0}, "calls a day"), ({"task": "reasoning"}, "task"), ({"examples": 49}, "good examples")],
)
def test_each_veto_decides_alone_even_if_tuning_is_cheaper(change: dict[str, Any], name: str) -> None:
    tempting = {"api_call_usd": 1.0, "cheap_call_usd": 1.0}
    assert decide(inputs(**tempting)).answer != "stay"
    decision = decide(inputs(**tempting, **change))
    assert (decision.answer, decision.vetoed_by) == ("stay", (name,))
    assert decision.cheapest in ("tuned", "route")


def test_without_an_option_within_the_limits_the_verdict_is_to_stay() -> None:
    decision = decide(inputs(least_accuracy=0.999))
    assert (decision.answer, decision.cheapest) == ("stay", None)


@settings(deadline=None, max_examples=6, suppress_health_check=[HealthCheck.too_slow])
@given(cases, st.sampled_from(["patterned", "reasoning"]))
def test_a_flip_changes_the_verdict_and_one_example_less_does_not(drawn: Inputs, task: Task) -> None:
    case = dataclasses.replace(drawn, task=task)
    now = decide(case).answer
    for flip in flips(case):
        assert flip.answer != now
        assert decide(with_value(case, flip.name, flip.at)).answer == flip.answer
        if flip.name == "examples":
            assert not isinstance(flip.at, str)
            assert not isinstance(flip.now, str)
            before = flip.at - (1 if flip.at > flip.now else -1)
            assert decide(with_value(case, flip.name, before)).answer == now


def with_value(case: Inputs, name: str, value: Any) -> Inputs:
    return dataclasses.replace(case, **{name: value})


def named(found: tuple[Flip, ...], name: str) -> list[tuple[float | str, str]]:
    return [(flip.at, flip.answer) for flip in found if flip.name == name]


def test_the_courses_budget_changes_at_an_escalation_of_nine_point_one_percent() -> None:
    found = flips(course())
    limit = escalation_limit(course())
    assert limit is not None
    assert decide(course()).answer == "fine-tune"
    [(at, answer)] = named(found, "escalation")
    assert answer == "route"
    assert isinstance(at, float)
    assert 0.09 < at <= limit["free_small"]
    # A budget of a tenth of $1.095 million allows the default escalation of 10%.
    [(budget, into)] = named(found, "yearly_budget")
    assert (into, budget) == ("route", pytest.approx(110_000))


def test_the_verdict_flips_at_49_examples_and_at_the_break_even_volume() -> None:
    two_ways = inputs(
        cheap_model="none", cheap_call_usd=None, escalation=0.0, least_accuracy=0.9, small_call_usd=0.001,
        training_usd=3_650.0, labelling_usd=0.0, engineering_usd=0.0, upkeep_usd_per_month=0.0, error_usd=0.0,
    )  # fmt: skip
    assert decide(two_ways).answer == "fine-tune"
    found = flips(two_ways)
    assert named(found, "examples") == [(49, "stay")]
    assert named(found, "task") == [("reasoning", "stay")]
    even = break_even_calls(two_ways, "tuned", "api")
    assert even == pytest.approx(5_000)
    [(volume, into)] = named(found, "calls_per_day")
    assert into == "stay"
    assert 4_900 <= float(volume) <= 5_000
    # $3,650 over 36.5 million calls and $0.001 a call make $0.0011: at that price of the API or below, stay.
    [(price, into)] = named(found, "api_call_usd")
    assert (price, into) == (pytest.approx(0.0011, rel=0.02), "stay")
    assert named(found, "least_accuracy") == [(pytest.approx(0.91, abs=0.011), "stay")]


def test_flips_are_sorted_by_distance_with_words_last(plain: Inputs) -> None:
    found = list(flips(plain))
    assert found
    numbers = [flip for flip in found if not isinstance(flip.at, str)]
    assert found[: len(numbers)] == numbers
    off = [abs(math.log(float(flip.at) / float(flip.now))) for flip in numbers if flip.at and flip.now]
    assert off == sorted(off)


def test_an_input_that_is_not_set_has_no_flip(plain: Inputs) -> None:
    assert not {"yearly_budget", "least_accuracy"} & {flip.name for flip in flips(plain)}


def test_a_cost_close_to_zero_flips_like_zero() -> None:
    changes = {"cheap_model": "none", "cheap_call_usd": None, "small_accuracy": 0.5, "auroc": 0.5}
    from_nothing, from_little = (named(flips(inputs(error_usd=usd, **changes)), "error_usd") for usd in (0.0, 2e-313))
    assert from_nothing == from_little != []


def test_a_change_is_a_share_of_the_present_value() -> None:
    assert Flip("error_usd", 0.02, 0.03, "stay").change == pytest.approx(0.5)
    assert Flip("error_usd", 0.0, 0.03, "stay").change is None
    assert Flip("error_usd", 2e-313, 0.03, "stay").change is None
    assert Flip("task", "mixed", "reasoning", "stay").change is None
