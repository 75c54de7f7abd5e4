"""What would turn the verdict: every value told really turns it."""

from __future__ import annotations

import math
from typing import Any

import pytest
from economics.conftest import course, inputs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from toolhone.economics.flips import Flip, flips, value_of, with_value
from toolhone.economics.inputs import Inputs
from toolhone.economics.verdict import break_even_calls, decide, escalation_limit

cases = st.builds(
    lambda **changes: inputs(**changes),
    calls_per_day=st.floats(500, 3e6),
    growth_per_year=st.sampled_from([0.0, 0.5]),
    api_call_usd=st.floats(1e-4, 0.02),
    cheap_call_usd=st.floats(1e-5, 0.002),
    small_accuracy=st.floats(0.7, 0.97),
    error_usd=st.sampled_from([0.0, 0.01]),
    yearly_budget=st.one_of(st.none(), st.floats(5_000, 1e6)),
    examples=st.integers(20, 1_000),
    task=st.sampled_from(["patterned", "reasoning"]),
)


@settings(deadline=None, max_examples=6, suppress_health_check=[HealthCheck.too_slow])
@given(cases)
def test_a_flip_really_turns_the_verdict_and_a_whole_one_is_the_first_that_does(case: Inputs) -> None:
    now = decide(case).answer
    for flip in flips(case):
        assert flip.answer != now
        assert decide(with_value(case, flip.name, flip.at)).answer == flip.answer
        if isinstance(flip.at, str) or isinstance(flip.now, str):
            continue
        if flip.name in ("machines", "examples", "horizon_months"):
            before = flip.at - (1 if flip.at > flip.now else -1)
            assert decide(with_value(case, flip.name, before)).answer == now


def named(found: list[Flip], name: str) -> list[tuple[float | str, str]]:
    return [(flip.at, flip.answer) for flip in found if flip.name == name]


def test_the_courses_budget_turns_on_escalation_at_nine_point_one_percent() -> None:
    found = flips(course())
    limit = escalation_limit(course())
    assert limit is not None
    assert decide(course()).answer == "fine-tune"
    [(at, answer)] = named(found, "escalation")
    assert answer == "route"
    assert isinstance(at, float)
    assert 0.09 < at <= limit.free_small
    # A tenth of $1.095 million is just over what would let the default of 10% in.
    [(budget, into)] = named(found, "yearly_budget")
    assert (into, budget) == ("route", pytest.approx(110_000))


def test_examples_turn_it_at_49_and_volume_at_the_break_even() -> None:
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
    assert 4_900 <= float(volume) < 5_000
    # $3,650 over 36.5 million calls leaves $0.0011 a call to beat: at that price of the API or below, it stays.
    [(price, into)] = named(found, "api_call_usd")
    assert (price, into) == (pytest.approx(0.0011, rel=0.02), "stay")
    assert named(found, "least_accuracy") == [(pytest.approx(0.91, abs=0.011), "stay")]


def test_the_nearest_turn_comes_first_and_words_last(plain: Inputs) -> None:
    found = flips(plain)
    assert found
    numbers = [flip for flip in found if not isinstance(flip.at, str)]
    assert found[: len(numbers)] == numbers
    off = [abs(math.log(float(flip.at) / float(flip.now))) for flip in numbers if flip.at and flip.now]
    assert off == sorted(off)


@pytest.mark.parametrize(
    ("changes", "absent"),
    [
        ({"small_call_usd": 0.0002}, {"gpu_usd_per_hour", "calls_per_second", "utilisation", "peak", "machines"}),
        ({"cheap_model": "none", "cheap_call_usd": None}, {"cheap_call_usd", "cheap_accuracy"}),
        ({}, {"small_call_usd", "yearly_budget", "least_accuracy"}),
    ],
)
def test_what_nothing_rests_on_is_not_solved_for(changes: dict[str, Any], absent: set[str]) -> None:
    case = inputs(**changes)
    assert all(value_of(case, name) is None for name in absent)
    assert not absent & {flip.name for flip in flips(case)}


def test_a_cost_next_to_nothing_is_solved_for_as_nothing_is() -> None:
    from_nothing, from_little = (
        named(flips(inputs(small_call_usd=usd, cheap_model="none", cheap_call_usd=None)), "small_call_usd")
        for usd in (0.0, 2e-313)
    )
    assert from_nothing == from_little != []


def test_a_change_is_a_share_of_what_is() -> None:
    assert Flip("error_usd", 0.02, 0.03, "stay").change == pytest.approx(0.5)
    assert Flip("growth_per_year", -0.2, -0.1, "stay").change == pytest.approx(0.5)
    assert Flip("error_usd", 0.0, 0.03, "stay").change is None
    assert Flip("error_usd", 2e-313, 0.03, "stay").change is None
    assert Flip("task", "mixed", "reasoning", "stay").change is None
