"""The verdict and its figures: hand-worked, and what holds for all cases."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from economics.conftest import course, inputs
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from toolhone.economics.inputs import Inputs
from toolhone.economics.options import Option, ledger, options
from toolhone.economics.verdict import (
    break_even_calls,
    decide,
    escalation_limit,
    payback_months,
    saving,
    shortfalls,
)

cases = st.builds(
    lambda **changes: inputs(**changes),
    calls_per_day=st.floats(1_000, 1e7),
    growth_per_year=st.sampled_from([0.0, 0.5]),
    api_call_usd=st.floats(1e-4, 0.02),
    cheap_call_usd=st.floats(1e-5, 0.002),
    api_accuracy=st.floats(0.9, 0.99),
    cheap_accuracy=st.floats(0.7, 0.97),
    small_accuracy=st.floats(0.7, 0.97),
    gpu_usd_per_hour=st.floats(0.2, 5),
    error_usd=st.sampled_from([0.0, 0.002, 0.01]),
    engineering_usd=st.floats(0, 50_000),
    yearly_budget=st.one_of(st.none(), st.floats(5_000, 1e6)),
    examples=st.integers(20, 2_000),
)


def test_the_least_total_that_keeps_to_the_limits_wins(plain: Inputs) -> None:
    totals = {option: ledger(plain, option).total(12) for option in options(plain)}
    assert decide(plain).option == min(totals, key=lambda option: totals[option])


@given(cases)
def test_no_way_that_fits_is_cheaper_than_the_one_chosen(case: Inputs) -> None:
    decision = decide(case)
    fit = [option for option in options(case) if not shortfalls(case, option)]
    if decision.vetoed_by:
        assert decision.answer == "stay"
        fit = [option for option in fit if option in ("api", "cheap")]
    for option in fit:
        assert ledger(case, decision.option).total(12) <= ledger(case, option).total(12)


@pytest.mark.parametrize(
    ("change", "name"),
    [({"calls_per_day": 999.0}, "calls a day"), ({"task": "reasoning"}, "task"), ({"examples": 49}, "good examples")],
)
def test_each_veto_decides_alone_whatever_the_money_says(change: dict[str, Any], name: str) -> None:
    tempting = {"api_call_usd": 1.0, "cheap_call_usd": 1.0}
    assert decide(inputs(**tempting)).answer != "stay"
    decision = decide(inputs(**tempting, **change))
    assert (decision.answer, decision.vetoed_by) == ("stay", (name,))
    assert decision.cheapest in ("tuned", "route")


def test_where_nothing_fits_it_stays_and_says_that_nothing_does() -> None:
    decision = decide(inputs(least_accuracy=0.999))
    assert (decision.answer, decision.cheapest) == ("stay", None)


def test_a_budget_counts_every_year_the_horizon_touches() -> None:
    # $300 a day is $109,500 in the first year and, half as much again, more in the second.
    assert shortfalls(inputs(yearly_budget=110_000.0), "api") == []
    growing = {"growth_per_year": 0.5, "yearly_budget": 150_000.0}
    assert shortfalls(inputs(**growing), "api") == []
    assert shortfalls(inputs(**growing, horizon_months=13), "api") == ["yearly budget"]


def test_break_even_by_hand() -> None:
    # Hosted at $0.001 a call beside $0.003; $3,650 once over 365 days is earned at 3,650 / 365 / 0.002 calls a day.
    simple = inputs(
        small_call_usd=0.001, training_usd=3_650.0, labelling_usd=0.0, engineering_usd=0.0, error_usd=0.0,
        upkeep_usd_per_month=0.0,
    )  # fmt: skip
    assert break_even_calls(simple, "tuned", "api") == pytest.approx(5_000)
    assert payback_months(simple, "tuned", "api") == pytest.approx(3_650 / 200 / (365 / 12))


def test_no_volume_breaks_even_where_a_call_saves_nothing() -> None:
    dear = inputs(small_call_usd=0.004, error_usd=0.0)
    assert break_even_calls(dear, "tuned", "api") is None
    assert payback_months(dear, "tuned", "api") is None


def test_what_costs_nothing_pays_at_any_volume_at_once() -> None:
    free = course()
    assert break_even_calls(free, "tuned", "api") == 0
    free_of_errors = course(error_usd=0.0)
    assert payback_months(free_of_errors, "tuned", "api") == 0


@settings(deadline=None, max_examples=30)
@given(cases, st.sampled_from(["tuned", "route"]), st.sampled_from(["api", "cheap"]))
def test_break_even_is_where_the_two_totals_meet(case: Inputs, option: Option, rival: Option) -> None:
    calls = break_even_calls(case, option, rival)
    assume(calls)
    assert calls is not None
    there = dataclasses.replace(case, calls_per_day=calls)
    assert ledger(there, option).total(12) == pytest.approx(ledger(there, rival).total(12), rel=1e-6)
    assert saving(there, option, rival) >= 0
    assert saving(dataclasses.replace(case, calls_per_day=calls * (1 - 1e-6)), option, rival) < 0


@settings(deadline=None)
@given(cases, st.sampled_from(["tuned", "route"]), st.sampled_from(["api", "cheap"]))
def test_payback_is_where_the_sums_so_far_meet(case: Inputs, option: Option, rival: Option) -> None:
    months = payback_months(case, option, rival)
    assume(months)
    assert months is not None
    whole = int(months)
    part = months - whole

    def so_far(which: Option) -> float:
        costs = ledger(case, which, 4)
        of_month = costs.total(whole + 1) - costs.total(whole) if part else 0.0
        return costs.total(whole) + part * of_month

    assert so_far(option) == pytest.approx(so_far(rival), rel=1e-9)


@given(cases)
def test_a_longer_horizon_never_lowers_what_is_paid(case: Inputs) -> None:
    for option in options(case):
        assert ledger(case, option, 2).total(24) >= ledger(case, option).total(12)


def test_the_courses_example_by_hand() -> None:
    """A million calls a day at $0.003: $3,000 a day, $1.095 million in 365 days; 300 days make the text's 900,000."""
    case = course()
    api = ledger(case, "api")
    assert api.paid[0] * 12 / 365 == pytest.approx(3_000)
    assert api.paid_in_year(0) == pytest.approx(1_095_000)
    assert 300 * 3_000 == 900_000
    limit = escalation_limit(case)
    assert limit is not None
    assert limit.free_small == pytest.approx(100_000 / 1_095_000)
    assert limit.with_small == pytest.approx(limit.free_small)
    assert shortfalls(course(escalation=0.0913), "route") == []
    assert shortfalls(course(escalation=0.0914), "route") == ["yearly budget"]


@settings(deadline=None, max_examples=40)
@given(st.floats(1_000, 1e7), st.floats(1e-4, 0.02), st.floats(1e4, 1e6), st.sampled_from([0.0, 0.3]))
def test_the_limit_of_escalation_is_where_the_budget_ends(
    calls: float, usd: float, budget: float, growth: float
) -> None:
    case = inputs(calls_per_day=calls, api_call_usd=usd, yearly_budget=budget, growth_per_year=growth)
    limit = escalation_limit(case)
    assert limit is not None
    assert limit.with_small <= limit.free_small
    assume(0.001 < limit.with_small < 0.99)
    assert shortfalls(dataclasses.replace(case, escalation=limit.with_small * 0.9999), "route") == []
    assert shortfalls(dataclasses.replace(case, escalation=limit.with_small * 1.0001), "route") == ["yearly budget"]


def test_without_a_budget_there_is_no_limit(plain: Inputs) -> None:
    assert escalation_limit(plain) is None
