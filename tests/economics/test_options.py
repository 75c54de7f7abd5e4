"""What each option costs and gets right, and when one is cheaper than another."""

from __future__ import annotations

import dataclasses
from statistics import NormalDist
from typing import Any

import pytest
from economics.conftest import cases, course, inputs
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from toolhone.economics.inputs import Inputs
from toolhone.economics.options import (
    Option,
    accuracy_of,
    api_call_usd,
    break_even_calls,
    costs,
    errors_caught,
    escalation_limit,
    options,
    payback_months,
    route_accuracy,
    running_usd_per_day,
    saving,
)

shares = st.floats(0.0, 1.0)


def test_an_api_costs_tokens_times_prices_with_the_cached_share() -> None:
    priced = Inputs(api_price_in=2.5, api_price_cached=1.25, api_price_out=10.0, cached_share=0.5)
    # 450 * 2.5 + 450 * 1.25 + 50 * 10 = 2,187.5 dollars for a million calls.
    assert api_call_usd(priced, "api") == pytest.approx(0.0021875)
    with pytest.raises(ValueError, match="prices of cheap are not filled in"):
        api_call_usd(priced, "cheap")


@pytest.mark.parametrize(
    ("option", "usd"),
    [("api", 300.0), ("cheap", 100.0), ("tuned", 48.0), ("route", 48.0 + 0.1 * 300)],
)
def test_running_costs_of_a_day_by_hand(plain: Inputs, option: Option, usd: float) -> None:
    assert running_usd_per_day(plain, option) == pytest.approx(usd)


def test_routing_pays_for_the_small_model_on_every_call() -> None:
    hosted = inputs(calls_per_day=1000.0, small_call_usd=0.0002, escalation=0.1, api_call_usd=0.01)
    # The course's table: 0.0002 + 0.1 * 0.01 = $0.0012 a call.
    assert running_usd_per_day(hosted, "route") / 1000 == pytest.approx(0.0012)


def test_without_a_cheap_api_there_are_three_options() -> None:
    assert options(Inputs(cheap_model="none")) == ("api", "tuned", "route")


def test_costs_of_a_year_and_of_two_by_hand(plain: Inputs) -> None:
    year, two_years = costs(plain, "tuned"), costs(inputs(horizon_months=24), "tuned")
    assert year.once_usd == two_years.once_usd == 8_550
    assert year.running_usd == pytest.approx(48 * 365 + 12 * 500)
    assert two_years.running_usd == pytest.approx(2 * (48 * 365 + 12 * 500))
    assert year.errors_usd == pytest.approx(100_000 * 365 * 0.1 * 0.01)
    assert year.total_usd == pytest.approx(8_550 + 48 * 365 + 6_000 + 36_500)
    assert year.call_usd * 100_000 * 365 == pytest.approx(year.total_usd)
    assert year.first_year_usd == two_years.first_year_usd == pytest.approx(8_550 + 48 * 365 + 12 * 500)


def test_the_courses_table_needs_an_auroc_near_84_percent() -> None:
    # 90% small, 95% large, 10% escalated: 94% takes an AUROC near 0.84.
    assert route_accuracy(0.9, 0.95, 0.1, 0.84, 0.0) == pytest.approx(0.94, abs=0.001)
    assert route_accuracy(0.9, 0.95, 0.1, 0.5, 0.0) == pytest.approx(0.905)
    # If the errors overlap fully, half of the caught ones stay wrong.
    caught = errors_caught(0.1, 0.1, 0.84)
    assert route_accuracy(0.9, 0.95, 0.1, 0.84, 1.0) == pytest.approx(0.9 + 0.05 * caught)


def test_caught_errors_agree_with_the_binormal_curve() -> None:
    caught = errors_caught(0.1, 0.1, 0.85)
    false_positives = (0.1 - 0.1 * caught) / 0.9
    normal = NormalDist()
    assert caught == pytest.approx(normal.cdf(2**0.5 * normal.inv_cdf(0.85) + normal.inv_cdf(false_positives)))


@given(st.floats(0.01, 0.99), st.floats(0.01, 0.99), st.floats(0.5, 0.99))
def test_caught_errors_lie_between_chance_and_the_maximum(wrong: float, escalation: float, auroc: float) -> None:
    caught = errors_caught(wrong, escalation, auroc)
    assert escalation - 1e-9 <= caught <= min(1.0, escalation / wrong) + 1e-9


@given(shares, shares, shares, st.floats(0.5, 0.99), shares)
def test_the_accuracy_of_routing_is_between_0_and_1(
    small: float, large: float, escalation: float, auroc: float, over: float
) -> None:
    assert -1e-9 <= route_accuracy(small, large, escalation, auroc, over) <= 1 + 1e-9


@given(shares, shares, st.floats(0.5, 0.99), shares)
def test_escalating_none_or_all_has_the_accuracy_of_one_model(
    small: float, large: float, auroc: float, over: float
) -> None:
    assert route_accuracy(small, large, 0.0, auroc, over) == pytest.approx(small)
    assert route_accuracy(small, large, 1.0, auroc, over) == pytest.approx(large)


@given(st.floats(0.5, 0.99), st.floats(0.5, 0.99), shares, st.floats(0.5, 0.9))
def test_a_higher_auroc_never_lowers_the_accuracy_of_routing(
    small: float, large: float, share: float, auroc: float
) -> None:
    assert route_accuracy(small, large, share, auroc + 0.05, 0.0) >= (
        route_accuracy(small, large, share, auroc, 0.0) - 1e-9
    )


@given(
    st.sampled_from(["api", "cheap", "tuned", "route"]),
    st.floats(1, 1e7),
    st.floats(1, 5),
)
def test_more_calls_never_lower_a_total(option: Option, calls: float, factor: float) -> None:
    few, many = (costs(inputs(calls_per_day=count), option).total_usd for count in (calls, calls * factor))
    assert many >= few * (1 - 1e-12)


@given(st.sampled_from(["api", "cheap", "tuned", "route"]), st.floats(1, 1e6), st.integers(1, 20))
def test_a_whole_multiple_of_the_calls_never_costs_more_per_call(option: Option, calls: float, factor: int) -> None:
    few, many = (costs(inputs(calls_per_day=count), option).total_usd for count in (calls, calls * factor))
    assert many / factor <= few * (1 + 1e-9)


@pytest.mark.parametrize(
    ("change", "option"),
    [
        ({"small_accuracy": 0.95}, "tuned"),
        ({"api_accuracy": 0.99}, "api"),
        ({"cheap_accuracy": 0.99}, "cheap"),
    ],
)
def test_a_more_accurate_model_has_a_lower_cost_of_errors(
    plain: Inputs, change: dict[str, Any], option: Option
) -> None:
    better = inputs(**change)
    assert accuracy_of(better, option) > accuracy_of(plain, option)
    assert costs(better, option).errors_usd < costs(plain, option).errors_usd


def test_the_budget_counts_the_first_year_for_every_horizon() -> None:
    # $300 a day is $109,500 a year.
    assert costs(inputs(yearly_budget=110_000.0), "api").short_of == ()
    assert costs(inputs(yearly_budget=109_000.0), "api").short_of == ("yearly budget",)
    assert costs(inputs(yearly_budget=110_000.0, horizon_months=24), "api").short_of == ()
    # $8,550 once and 12 months of $1,960.
    assert costs(inputs(yearly_budget=32_100.0, horizon_months=1), "tuned").short_of == ()
    assert costs(inputs(yearly_budget=32_000.0, horizon_months=1), "tuned").short_of == ("yearly budget",)


def test_break_even_by_hand() -> None:
    # Hosted at $0.001 a call instead of $0.003; $3,650 is paid back in 365 days at 3,650 / 365 / 0.002 calls a day.
    simple = inputs(
        small_call_usd=0.001, training_usd=3_650.0, labelling_usd=0.0, engineering_usd=0.0, error_usd=0.0,
        upkeep_usd_per_month=0.0,
    )  # fmt: skip
    assert break_even_calls(simple, "tuned", "api") == pytest.approx(5_000)
    assert payback_months(simple, "tuned", "api") == pytest.approx(3_650 / 200 / (365 / 12))


def test_without_a_saving_per_call_no_volume_breaks_even() -> None:
    expensive = inputs(small_call_usd=0.004, error_usd=0.0)
    assert break_even_calls(expensive, "tuned", "api") is None
    assert payback_months(expensive, "tuned", "api") is None


def test_a_free_option_breaks_even_at_any_volume_and_pays_back_at_once() -> None:
    free = course()
    assert break_even_calls(free, "tuned", "api") == 0
    free_of_errors = course(error_usd=0.0)
    assert payback_months(free_of_errors, "tuned", "api") == 0


@settings(deadline=None, max_examples=30)
@given(cases, st.sampled_from(["tuned", "route"]), st.sampled_from(["api", "cheap"]))
def test_at_the_break_even_volume_the_two_totals_are_equal(case: Inputs, option: Option, rival: Option) -> None:
    calls = break_even_calls(case, option, rival)
    assume(calls)
    assert calls is not None
    there = dataclasses.replace(case, calls_per_day=calls)
    assert costs(there, option).total_usd == pytest.approx(costs(there, rival).total_usd, rel=1e-6)
    assert saving(there, option, rival) >= 0
    assert saving(dataclasses.replace(case, calls_per_day=calls * (1 - 1e-6)), option, rival) < 0


@settings(deadline=None)
@given(cases, st.sampled_from(["tuned", "route"]), st.sampled_from(["api", "cheap"]))
def test_after_the_payback_months_both_have_cost_the_same(case: Inputs, option: Option, rival: Option) -> None:
    months = payback_months(case, option, rival)
    assume(months)
    assert months is not None

    def cost_by_then(which: Option) -> float:
        year = costs(case, which)
        return year.once_usd + months / 12 * (year.running_usd + year.errors_usd)

    assert cost_by_then(option) == pytest.approx(cost_by_then(rival), rel=1e-9)


@given(cases)
def test_a_longer_horizon_never_lowers_the_total(case: Inputs) -> None:
    longer = dataclasses.replace(case, horizon_months=24)
    for option in options(case):
        assert costs(longer, option).total_usd >= costs(case, option).total_usd


def test_the_courses_example_by_hand() -> None:
    """A million calls a day at $0.003 are $1.095 million in 365 days; the course's 900,000 are 300 days."""
    case = course()
    assert running_usd_per_day(case, "api") == pytest.approx(3_000)
    assert costs(case, "api").first_year_usd == pytest.approx(1_095_000)
    assert 300 * 3_000 == 900_000
    limit = escalation_limit(case)
    assert limit is not None
    assert limit["free_small"] == pytest.approx(100_000 / 1_095_000)
    assert limit["with_small"] == pytest.approx(limit["free_small"])
    assert costs(course(escalation=0.0913), "route").short_of == ()
    assert costs(course(escalation=0.0914), "route").short_of == ("yearly budget",)


@settings(deadline=None, max_examples=40)
@given(st.floats(1_000, 1e7), st.floats(1e-4, 0.02), st.floats(1e4, 1e6))
def test_at_the_escalation_limit_the_budget_is_used_up(calls: float, usd: float, budget: float) -> None:
    case = inputs(calls_per_day=calls, api_call_usd=usd, yearly_budget=budget)
    limit = escalation_limit(case)
    assert limit is not None
    assert limit["with_small"] <= limit["free_small"]
    assume(0.001 < limit["with_small"] < 0.99)
    assert costs(dataclasses.replace(case, escalation=limit["with_small"] * 0.9999), "route").short_of == ()
    assert costs(dataclasses.replace(case, escalation=limit["with_small"] * 1.0001), "route").short_of == (
        "yearly budget",
    )


def test_without_a_budget_there_is_no_escalation_limit(plain: Inputs) -> None:
    assert escalation_limit(plain) is None
