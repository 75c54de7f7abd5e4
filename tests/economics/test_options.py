"""What each way of answering costs and gets right, by hand-worked figures."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import pytest
from economics.conftest import inputs
from hypothesis import given
from hypothesis import strategies as st

from toolhone.economics.inputs import Inputs
from toolhone.economics.options import (
    Option,
    accuracy_of,
    api_call_usd,
    calls_by_month,
    errors_caught,
    ledger,
    options,
    route_accuracy,
    running_usd_per_day,
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
def test_running_costs_of_a_day(plain: Inputs, option: Option, usd: float) -> None:
    assert running_usd_per_day(plain, option, 100_000) == pytest.approx(usd)


def test_routing_asks_the_small_model_every_time() -> None:
    hosted = inputs(small_call_usd=0.0002, escalation=0.1, api_call_usd=0.01)
    # The course's table: 0.0002 + 0.1 * 0.01 = $0.0012 a call.
    assert running_usd_per_day(hosted, "route", 1000) / 1000 == pytest.approx(0.0012)


def test_without_a_cheap_api_there_are_three_ways() -> None:
    assert options(Inputs(cheap_model="none")) == ("api", "tuned", "route")


def test_a_year_has_365_days_and_upkeep_and_errors_come_each_month(plain: Inputs) -> None:
    costs = ledger(plain, "tuned", 2)
    assert costs.once == 8_550
    assert costs.paid_in_year(0) == pytest.approx(8_550 + 48 * 365 + 12 * 500)
    assert costs.paid_in_year(1) == pytest.approx(48 * 365 + 12 * 500)
    assert sum(costs.errors[:12]) == pytest.approx(100_000 * 365 * 0.1 * 0.01)
    assert costs.total(12) == pytest.approx(8_550 + 48 * 365 + 6_000 + 36_500)


def test_calls_grow_by_the_stated_share_in_a_year() -> None:
    by_month = calls_by_month(inputs(growth_per_year=0.5), 3)
    assert by_month[0] == 100_000
    assert by_month[12] == pytest.approx(150_000)
    assert by_month[24] == pytest.approx(225_000)


def test_a_horizon_past_three_years_is_reckoned_in_whole_years() -> None:
    assert len(calls_by_month(inputs(horizon_months=49))) == 60


def test_the_courses_table_needs_confidence_that_tells_right_from_wrong() -> None:
    # 90% small, 95% large, 10% handed over: 94% takes an AUROC near 0.84.
    assert route_accuracy(0.9, 0.95, 0.1, 0.84, 0.0) == pytest.approx(0.94, abs=0.001)
    assert route_accuracy(0.9, 0.95, 0.1, 0.5, 0.0) == pytest.approx(0.905)
    # Where the errors overlap fully, half of those caught stay wrong.
    caught = errors_caught(0.1, 0.1, 0.84)
    assert route_accuracy(0.9, 0.95, 0.1, 0.84, 1.0) == pytest.approx(0.9 + 0.05 * caught)


def test_caught_errors_agree_with_the_binormal_curve() -> None:
    caught = errors_caught(0.1, 0.1, 0.85)
    false_positives = (0.1 - 0.1 * caught) / 0.9
    normal = NormalDist()
    assert caught == pytest.approx(normal.cdf(2**0.5 * normal.inv_cdf(0.85) + normal.inv_cdf(false_positives)))


@given(st.floats(0.01, 0.99), st.floats(0.01, 0.99), st.floats(0.5, 0.99))
def test_caught_errors_lie_between_chance_and_all_that_fit(wrong: float, escalation: float, auroc: float) -> None:
    caught = errors_caught(wrong, escalation, auroc)
    assert escalation - 1e-9 <= caught <= min(1.0, escalation / wrong) + 1e-9


@given(shares, shares, shares, st.floats(0.5, 0.99), shares)
def test_routings_accuracy_is_a_share(small: float, large: float, escalation: float, auroc: float, over: float) -> None:
    assert -1e-9 <= route_accuracy(small, large, escalation, auroc, over) <= 1 + 1e-9


@given(shares, shares, st.floats(0.5, 0.99), shares)
def test_routing_none_or_all_is_one_of_the_models(small: float, large: float, auroc: float, over: float) -> None:
    assert route_accuracy(small, large, 0.0, auroc, over) == pytest.approx(small)
    assert route_accuracy(small, large, 1.0, auroc, over) == pytest.approx(large)


@given(st.floats(0.5, 0.99), st.floats(0.5, 0.99), shares, st.floats(0.5, 0.9))
def test_better_confidence_never_makes_routing_worse(small: float, large: float, share: float, auroc: float) -> None:
    assert route_accuracy(small, large, share, auroc + 0.05, 0.0) >= (
        route_accuracy(small, large, share, auroc, 0.0) - 1e-9
    )


@given(
    st.sampled_from(["api", "cheap", "tuned", "route"]),
    st.floats(1, 1e7),
    st.floats(1, 5),
    st.floats(-0.5, 2),
)
def test_more_calls_never_lower_a_total(option: Option, calls: float, factor: float, growth: float) -> None:
    few, many = (inputs(calls_per_day=count, growth_per_year=growth) for count in (calls, calls * factor))
    assert ledger(many, option).total(12) >= ledger(few, option).total(12) * (1 - 1e-12)


@given(st.sampled_from(["api", "cheap", "tuned", "route"]), st.floats(1, 1e6), st.integers(1, 20))
def test_whole_times_the_calls_never_raise_the_cost_of_a_call(option: Option, calls: float, factor: int) -> None:
    few, many = (inputs(calls_per_day=count) for count in (calls, calls * factor))
    assert ledger(many, option).total(12) / factor <= ledger(few, option).total(12) * (1 + 1e-9)


@pytest.mark.parametrize(
    ("change", "option"),
    [
        ({"small_accuracy": 0.95}, "tuned"),
        ({"api_accuracy": 0.99}, "api"),
        ({"cheap_accuracy": 0.99}, "cheap"),
    ],
)
def test_a_better_model_costs_fewer_errors(plain: Inputs, change: dict[str, Any], option: Option) -> None:
    better = inputs(**change)
    assert accuracy_of(better, option) > accuracy_of(plain, option)
    assert sum(ledger(better, option).errors) < sum(ledger(plain, option).errors)
